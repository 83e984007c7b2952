"""What is written into a node of the cluster, and started there, before it can mount."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from tests.vm.network import Station

TOKENS = 30
"""So many of corosync's tokens go round, even if nobody has news, in the time of silence after
which a node is taken for dead.
"""


class Fencing(enum.Enum):
    """What happens to a node that the other one has lost."""

    DEVICE = "it is powered off, when the device is in order: `Cluster.device_works`"
    NO_DEVICE = "it should be fenced, and there is no device"
    OFF = "the lock manager does not ask for fencing"


_AGENT_CONF = "fence_all /run/fence_agent"
_DLM_CONF = {
    Fencing.DEVICE: _AGENT_CONF,
    Fencing.NO_DEVICE: "",
    Fencing.OFF: "enable_fencing=0",
}

_AGENT = """#!/bin/sh
# It is told what to do as NAME=VALUE lines; `off` of a node is all that it is asked for.
sed -n 's/^node=//p' > /run/fence.asked
until test -e /run/fence.yes; do sleep 0.2; done
rm -f /run/fence.asked /run/fence.yes
"""

_JOIN = """
set -e
mkdir -p /etc/corosync /etc/dlm /dev/misc /var/lib/corosync /var/log/corosync
mkdir -p /var/log/dlm_controld /run/dlm_controld
cat > /etc/corosync/corosync.conf << 'END'
{corosync}
END
cat > /etc/dlm/dlm.conf << 'END'
enable_startup_fencing=0
{dlm}
END
cat > /run/fence_agent << 'END'
{agent}
END
chmod 755 /run/fence_agent
mount -t configfs configfs /sys/kernel/config
# What udev would name them.
for device in dlm-control dlm-monitor dlm_plock; do ln -sf ../$device /dev/misc/$device; done
corosync
"""


def _corosync_conf(stations: Sequence[Station], token: int) -> str:
    """Two nodes that are quorate alone, once they have seen each other; no encryption.

    Args:
        stations: Of the nodes.
        token: Seconds of silence after which a node is taken for dead.
    """
    lines = [
        "totem {",
        "version: 2",
        "cluster_name: flockpr",
        "transport: udpu",
        f"token: {token * 1000}",
        f"token_retransmits_before_loss_const: {TOKENS}",
        "}",
        "nodelist {",
    ]
    for station in stations:
        lines += [
            "node {",
            f"ring0_addr: {station.address}",
            f"name: node{station.number}",
            f"nodeid: {station.number}",
            "}",
        ]
    lines += ["}", "quorum {", "provider: corosync_votequorum", "two_node: 1", "}"]
    lines += ["logging {", "to_logfile: yes", "logfile: /var/log/corosync.log", "}"]
    return "\n".join(lines)


def join_command(stations: Sequence[Station], token: int, fencing: Fencing) -> str:
    """The shell command by which a node joins.

    Args:
        stations: Of all nodes.
        token: Seconds of silence after which a node is taken for dead.
        fencing: What happens to one.
    """
    corosync = _corosync_conf(stations, token)
    return _JOIN.format(corosync=corosync, dlm=_DLM_CONF[fencing], agent=_AGENT)
