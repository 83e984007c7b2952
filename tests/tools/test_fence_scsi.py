"""Debian's fence_scsi, unmodified, fences the nodes of a cluster: no device, no root.

Two nodes on one machine share a logical unit that a target serves. Whoever was fenced finds that
the target refuses its writes.
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Iterator

import attrs
import pytest

from flockpr import create_lun
from release import bundle
from tests.support.daemon_process import REPOSITORY, short_directory
from tests.support.sbc_cdbs import write
from tests.support.sg_tools import Done, initiator, ours, run
from tests.support.target_rig import CONFLICT, GOOD, Target, make_root

pytestmark = [pytest.mark.peer("fence_scsi"), pytest.mark.timeout(1800)]

ON, OFF = 0, 2
"""Exit codes of the agent's action `status`."""
AGENT_SECONDS = 600.0
"""For a run of the agent, which is a dozen processes for each disk."""
_TRIAL = "-c 'import flockpr, attrs, crc32c, portalocker'"
_COROSYNC = """#!/bin/sh
case "$*" in
*cluster_name*) echo "totem.cluster_name (str) = test" ;;
*) printf 'nodelist.node.%s (str) = %s\\n' 1.name node1 2.name node2 ;;
esac
"""


@attrs.frozen
class Node:
    """One node of the cluster.

    Attributes:
        root: The root, which all share.
        state: Its own directory.
        name: Of the node, and of its initiator.
        key: Reservation key, hex.
    """

    root: pathlib.Path
    state: pathlib.Path
    name: str
    key: str

    def agent(self, action: str, *options: str, device: str = "disk", **more: str) -> Done:
        """Run the agent on this node.

        Args:
            action: Its action.
            options: More of its options.
            device: What to fence with.
            more: More of the environment.
        """
        command = [sys.executable, "-m", "flockpr.tools.fence_scsi", f"--action={action}"]
        command += [f"--devices={device}", "--power-timeout=100", *options]
        settings = {
            "FLOCKPR_ROOT": str(self.root),
            "FLOCKPR_INITIATOR": initiator(self.name),
            "FLOCKPR_FENCE_STATE": str(self.state),
            **more,
        }
        return run(command, self.root, seconds=AGENT_SECONDS, **settings)

    def must(self, action: str, of: Node, device: str = "disk") -> None:
        """Run the agent for a node; it succeeds."""
        done = self.agent(action, f"--plug={of.name}", f"--key={of.key}", device=device)
        assert done.code == 0, done

    def status(self, of: Node) -> int:
        """What the agent says of a node."""
        return self.agent("status", f"--plug={of.name}", f"--key={of.key}").code


@pytest.fixture
def cluster() -> Iterator[tuple[Node, Node]]:
    """Two nodes, and a disk for both."""
    with short_directory() as folder:
        root = make_root(folder, ports=(2,))
        yield (
            Node(root, folder / "state1", "node1", "a1"),
            Node(root, folder / "state2", "node2", "b2"),
        )


def _writes(target: Target, cluster: tuple[Node, Node]) -> list[int]:
    """Status of a write of each node, in a session of its own: the agent may take longer than
    the target waits for an initiator that says nothing.
    """
    found = []
    for node in cluster:
        with target.log_in(node.name) as session:
            found.append(session.command(write(0, 1), bytes(512)).status)
            session.logout()
    return found


def test_fence_scsi_two_nodes_fence_and_unfence(cluster: tuple[Node, Node]) -> None:
    """on, status, off, monitor; and the target lets through and refuses accordingly."""
    one, two = cluster
    with Target(one.root, one.root / "log") as target:
        one.must("on", one)
        two.must("on", two)
        assert [one.status(node) for node in cluster] == [ON, ON]
        assert _writes(target, cluster) == [GOOD, GOOD]
        one.must("monitor", one)

        one.must("off", two)
        assert [one.status(node) for node in cluster] == [ON, OFF]
        assert _writes(target, cluster) == [GOOD, CONFLICT]

        two.must("on", two)
        assert _writes(target, cluster) == [GOOD, GOOD]


def test_fence_scsi_fenced_node_cannot_fence_back_and_nobody_himself(
    cluster: tuple[Node, Node],
) -> None:
    """It lost the race, and its key is no longer good for anything."""
    one, two = cluster
    one.must("on", one)
    two.must("on", two)
    one.must("off", two)

    assert two.agent("off", f"--key={one.key}").code != 0
    done = one.agent("off", f"--key={one.key}")
    assert done.code != 0
    assert "You can not fence yourself" in done.err
    assert one.status(one) == ON


def test_fence_scsi_several_disks_and_keys_from_names(cluster: tuple[Node, Node]) -> None:
    """By image path and by name; the key is made as the agent makes it from the node's name."""
    one, _ = cluster
    create_lun(str(one.root), "more", size=1 << 20)
    corosync = one.root / "corosync-cmapctl"
    corosync.write_text(_COROSYNC)
    corosync.chmod(0o755)
    options = ("--plug=node1", f"--corosync-cmap-path={corosync}", "--key-value=hash")
    done = one.agent("on", *options, device=f"{one.root}/images/disk.img,more")
    assert done.code == 0, done
    keys = set()
    for lun in ("disk", "more"):
        told = ours("sg_persist", one.root, "node1", "-n", "-i", "-k", lun).out
        assert "1 registered reservation key follows" in told
        keys.add(told.splitlines()[1])
    assert len(keys) == 1


def test_fence_scsi_options_from_standard_input_as_pacemaker_gives_them(
    cluster: tuple[Node, Node],
) -> None:
    """name=value, line by line, without a command line."""
    one, _ = cluster
    for action, code in (("on", 0), ("monitor", 0)):
        options = f"action={action}\ndevices=disk\nkey={one.key}\npower_timeout=100\n"
        done = run(
            [sys.executable, "-m", "flockpr.tools.fence_scsi"],
            one.root,
            stdin=options,
            seconds=AGENT_SECONDS,
            FLOCKPR_ROOT=str(one.root),
            FLOCKPR_INITIATOR=initiator("node1"),
            FLOCKPR_FENCE_STATE=str(one.state),
        )
        assert done.code == code, done


def test_fence_scsi_unknown_disk_is_refused(cluster: tuple[Node, Node]) -> None:
    """A path that is not there by the agent, one that is no disk by sg_persist."""
    one, _ = cluster
    for device in ("nope", os.devnull):
        done = one.agent("on", f"--key={one.key}", device=device)
        assert done.code != 0
        assert device in done.err


def test_fence_scsi_without_an_agent_or_a_directory_says_what_to_do(
    cluster: tuple[Node, Node],
) -> None:
    """Before anything runs."""
    one, _ = cluster
    done = one.agent("monitor", FLOCKPR_FENCE_AGENT="/nope")
    assert done.code == 1
    assert "remedy: install the package fence-agents" in done.err
    done = one.agent("monitor", FLOCKPR_FENCE_STATE="", FLOCKPR_INITIATOR="")
    assert done.code == 1
    assert "remedy: set FLOCKPR_FENCE_STATE" in done.err


def test_fence_scsi_with_our_tools_as_a_user_who_is_nobody(cluster: tuple[Node, Node]) -> None:
    """Nothing of it needs root: the same as another user, where this test may become one."""
    one, _ = cluster
    if os.geteuid() != 0:
        return  # then the other tests have shown it
    nobody = 65534
    copied = one.root.parent / "copied"
    bundle.copy(copied)
    for folder, _, files in os.walk(one.root.parent):
        for path in (folder, *(os.path.join(folder, name) for name in files)):
            os.chown(path, nobody, nobody)
    command = ["setpriv", f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups"]
    # Our interpreter may lie where only root can read, and so may the sources: then it is
    # Debian's with a copy, where that is the same Python.
    known = ((sys.executable, str(REPOSITORY)), ("/usr/bin/python3", str(copied)))
    usable = [
        (python, place)
        for python, place in known
        if run([*command, "sh", "-c", f"exec {python} {_TRIAL}"], one.root, PYTHONPATH=place).code
        == 0
    ]
    if not usable:
        pytest.skip("that user can read no interpreter that has what flockpr needs")
    python, place = usable[0]
    command += [python, "-m", "flockpr.tools.fence_scsi", "--devices=disk"]
    for action in ("on", "status"):
        done = run(
            [*command, f"--action={action}", f"--key={one.key}", "--power-timeout=100"],
            one.root,
            seconds=AGENT_SECONDS,
            PYTHONPATH=place,
            FLOCKPR_ROOT=str(one.root),
            FLOCKPR_INITIATOR=initiator("node1"),
            FLOCKPR_FENCE_STATE=str(one.state),
        )
        assert done.code == 0, done
