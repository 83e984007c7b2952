"""Machines whose disk is a logical unit of an iSCSI target, through the initiator of Linux."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import frozen

from tests.support.peers import require
from tests.support.targets import Url
from tests.vm.contest import Contender
from tests.vm.guests import WRITE_EXCLUSIVE
from tests.vm.initramfs import initramfs
from tests.vm.iscsi import WAIT_FOR_DISK
from tests.vm.kernel import kernel, package_tree
from tests.vm.machine import Completed, Machine
from tests.vm.share import TREE_MODULES, tree_arguments

PORTAL = "10.0.2.100:3260"
"""Where a machine finds its target, whatever its port on the host is."""

_ADDRESS = "10.0.2.15"
_PACKAGES = ("open-iscsi", "python3-pexpect", "python3-pycurl")
_FENCE_AGENTS = "fence-agents"  # one of its hundred agents is wanted, and little of what all need
_MODULES = (
    *("virtio_pci", "virtio_console", "virtio_net", *TREE_MODULES),
    *("sd_mod", "sg", "crc32c_generic", "ext4", "iscsi_tcp"),
)
_MEMORY = 384

_ACCOUNT = ("node", "correct-horse")
_TARGET_ACCOUNT = ("disks", "battery-staple")
SECRETS = f"""
[[chap]]
user = "{_ACCOUNT[0]}"
secret = "{_ACCOUNT[1]}"
[mutual]
user = "{_TARGET_ACCOUNT[0]}"
secret = "{_TARGET_ACCOUNT[1]}"
"""
"""What the targets must ask for and prove, in the form of their file of secrets."""

_LOG_IN = f"""
set -e
ip link set lo up
ip link set eth0 up
ip addr add {_ADDRESS}/24 dev eth0
mkdir -p /run/lock/iscsi /etc/iscsi
echo "InitiatorName=$NAME" > /etc/iscsi/initiatorname.iscsi
iscsid
node="iscsiadm -m node -T $TARGET -p {PORTAL}"
$node -o new
set_to() {{ $node -o update -n "$1" -v "$2"; }}
set_to "node.conn[0].iscsi.HeaderDigest" $DIGEST
set_to "node.conn[0].iscsi.DataDigest" $DIGEST
set_to node.session.auth.authmethod CHAP
set_to node.session.auth.username {_ACCOUNT[0]}
set_to node.session.auth.password {_ACCOUNT[1]}
set_to node.session.auth.username_in {_TARGET_ACCOUNT[0]}
set_to node.session.auth.password_in {_TARGET_ACCOUNT[1]}
$node --login
test "$(cat /sys/class/iscsi_connection/*/header_digest)" = $DIGESTS
test "$(cat /sys/class/iscsi_connection/*/data_digest)" = $DIGESTS
"""
_DIGESTS = ("None", "CRC32C")
"""What the first and the second machine have their PDUs protected by."""


@frozen
class Node(Contender):
    """A node of a cluster that fences with ``fence_scsi``."""

    def fence_scsi(self, action: str, node: Contender) -> Completed:
        """Run the agent.

        Args:
            action: ``on``, ``off`` or ``status``.
            node: The node that it is to be done to.
        """
        return self.machine.run(
            f"fence_scsi -o {action} -d /dev/sda -n {node.machine.name} -k {node.key:x}"
        )


def _card(url: Url) -> list[str]:
    """A network in which there is nothing but the target.

    A process of its own carries each connection that the machine makes to `PORTAL`. What it
    sends anywhere else is dropped.
    """
    relay = shlex.join([require("busybox")["busybox"], "nc", url.host, str(url.port)])
    forward = f"guestfwd=tcp:{PORTAL}-cmd:{relay}"
    card = "virtio-net-pci,netdev=net,romfile="
    return ["-netdev", f"user,id=net,restrict=on,{forward}", "-device", card]


@contextmanager
def boot_nodes(folder: Path, disks: Sequence[tuple[str, Url]]) -> Iterator[list[Node]]:
    """Machines with open-iscsi, logged in; killed at the end.

    Args:
        folder: Where everything goes; short.
        disks: For each machine, the name of its initiator and what to log in to.
    """
    chosen = kernel()
    packages = package_tree("initiator", _PACKAGES, alone=[_FENCE_AGENTS])
    initrd = folder / "node.initrd"
    initrd.write_bytes(initramfs(chosen, _MODULES, environment={"ROOT": "host"}))
    with ExitStack() as stack:
        machines = []
        for number, (_, url) in enumerate(disks, start=1):
            arguments = [*tree_arguments(packages), *_card(url)]
            machine = Machine(
                f"node{number}", folder, chosen, initrd, memory=_MEMORY, arguments=arguments
            )
            machines.append(stack.enter_context(machine))
        nodes = []
        for number, (machine, (name, url)) in enumerate(zip(machines, disks, strict=True), start=1):
            machine.wait_booted()
            digests = (number - 1) % len(_DIGESTS)
            settings = f"NAME={name} TARGET={url.target} DIGEST={_DIGESTS[digests]}"
            machine.check(f"{settings} DIGESTS={digests}\n{_LOG_IN}")
            machine.check(WAIT_FOR_DISK)
            nodes.append(Node(machine, number << 8 | 0xA0 | number, WRITE_EXCLUSIVE))
        yield nodes
