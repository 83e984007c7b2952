"""The daemons on file systems on which nothing, or less, can be promised: from the command line.

Each is a process of its own whose mount table is a file of the test.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence

import attrs
import pytest

from flockpr.cli import main
from flockpr.filesystems.facts import facts_of
from flockpr.prhelper.client import HelperClient
from flockpr.probe import kept
from flockpr.probe.findings import Finding, Outcome
from flockpr.probe.mounts import Host as ProbedHost
from flockpr.probe.report import Report
from flockpr.store.provision import create_lun
from tests.support.daemon_process import (
    PATIENCE,
    Running,
    environment,
    eventually,
    register,
    run,
    short_directory,
    start,
)
from tests.support.mount_tables import Tables
from tests.support.scsi import basic_list, out_cdb

SIZE = 8 << 20
NFS42 = "rw,vers=4.2,hard,local_lock=none"
ON_THIS_HOST = """
    import pathlib, sys
    from flockpr.filesystems import facts
    place = pathlib.Path(sys.argv[1])
    facts.SYSTEM = facts.Sources(
        table=lambda: (place / "mountinfo").read_text(),
        sysfs=str(place / "sys"),
        procfs=str(place / "proc"),
        dlm_conf=str(place / "dlm.conf"),
    )
    from flockpr.cli import main
    sys.exit(main(sys.argv[2:]))
"""


@attrs.frozen
class Host:
    """A host with a root, whose tables are a test's."""

    directory: pathlib.Path
    tables: Tables

    @property
    def root(self) -> pathlib.Path:
        """With the logical unit `disk`."""
        return self.directory / "root"

    @property
    def socket(self) -> pathlib.Path:
        """Of the helper door."""
        return self.directory / "s"

    def command(self, verb: str, *options: str) -> list[str]:
        """A verb on that host."""
        code = textwrap.dedent(ON_THIS_HOST)
        place = [str(self.tables.place), verb, "--root", str(self.root)]
        if verb == "target":
            place += ["--portal", "127.0.0.1:0"]
        return [sys.executable, "-c", code, *place, *options]

    def refused(self, verb: str, *options: str) -> str:
        """Standard error of a verb that must fail with 1, serve nothing and say it in words."""
        done = run(self.command(verb, *options))
        assert done.returncode == 1, done
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr

    def started(self, verb: str, *options: str) -> Running:
        """A daemon that prints to a pipe."""
        command = self.command(verb, *options)
        return start(command, self.directory / "log", environ=environment(), stdout=subprocess.PIPE)


@pytest.fixture
def host() -> Iterator[Host]:
    """One with a share of NFS 4.2 and everything else as it should be."""
    with short_directory() as directory:
        (directory / "root").mkdir(mode=0o700)
        create_lun(str(directory / "root"), "disk", size=SIZE)
        tables = Tables(directory / "host")
        tables.mount(directory, "ext4", "rw")
        tables.mount(directory / "root", "nfs4", NFS42)
        tables.recover("N")
        tables.lockd()
        yield Host(directory, tables)


def until_ready(daemon: Running) -> list[str]:
    """What a target prints until it is ready."""
    assert daemon.process.stdout is not None
    lines = []
    for line in daemon.process.stdout:
        lines.append(line.strip())
        if lines[-1] == "ready":
            return lines
    raise AssertionError(f"it ended: {daemon.text}")


REFUSED = [
    (("hard", "soft"), "soft", "mount hard"),
    (("local_lock=none", "local_lock=all"), "locks stay on this host", "without nolock"),
    (("vers=4.2", "vers=3"), "NFS 3 has no leases", "--fencing external"),
    (("nfs4", "9p"), "9p often stop", "NFS 4.2 or GFS2"),
    (("nfs4", "fuse.any"), "fuse.any often stop", "NFS 4.2 or GFS2"),
    (("nfs4", "cifs"), "cifs often stop", "NFS 4.2 or GFS2"),
    (("nfs4", "ocfs2"), "nothing has been proven on ocfs2", "NFS 4.2 or GFS2"),
]


@pytest.mark.parametrize(("change", "why", "remedy"), REFUSED, ids=lambda value: str(value)[:20])
def test_target_where_nothing_is_promised_does_not_start(
    host: Host, change: tuple[str, str], why: str, remedy: str
) -> None:
    """It says why, what to do, and how to have it all the same."""
    host.tables.remount(*change)

    text = host.refused("target")

    assert str(host.root) in text
    assert why in text
    assert remedy in text
    assert "--allow-unproven" in text


def test_target_where_lost_locks_are_taken_again_does_not_start(host: Host) -> None:
    """The parameter of the NFS client, and not the mount table, says so."""
    host.tables.recover("Y")

    assert "lost locks are taken again without a word" in host.refused("target")


def test_target_on_nfs3_without_a_lock_manager_does_not_start(host: Host) -> None:
    """Whatever is declared: there are no locks at all."""
    host.tables.remount("vers=4.2", "vers=3")
    (host.tables.place / "sys/module/lockd").rmdir()

    assert "runs no lockd" in host.refused("target", "--fencing", "external")


def test_target_on_gfs2_without_fencing_does_not_start(host: Host) -> None:
    """dlm_controld was started so."""
    host.tables.remount("nfs4", "gfs2")
    host.tables.dlm(["--enable_fencing", "0"], None)

    assert "enable_fencing=0" in host.refused("target")


def probed(host: Host, finding: Finding) -> None:
    """A probe on this host, with a second one, found that."""
    facts = facts_of(str(host.root), sources=host.tables.sources)
    hosts = (ProbedHost(os.uname().nodename, "b", facts), ProbedHost("h2", "c", facts))
    other = Finding("peer", Outcome.GOOD, "with h2")
    assert kept.keep(Report(str(host.root), hosts, (finding, other)))


def test_target_where_a_probe_saw_a_failure_does_not_start_until_another_one_passes(
    host: Host,
) -> None:
    """What two hosts have seen is not told by any mount table, and nobody can allow it."""
    probed(host, Finding("lock-hosts", Outcome.BAD, "both have it"))

    for text in (host.refused("target"), host.refused("target", "--allow-unproven")):
        assert "locks of two hosts: both have it (" in text
        assert "flockpr probe DIR --forget" in text

    probed(host, Finding("lock-hosts", Outcome.GOOD, "as it should be"))
    with host.started("target") as daemon:
        until_ready(daemon)
        assert daemon.end() == 0


def test_helper_door_goes_by_what_a_probe_saw_of_it(host: Host) -> None:
    """Locks that stop at the host are the other door's; a link that two win is not."""
    probed(host, Finding("lock-hosts", Outcome.BAD, "both have it"))
    with host.started("serve", "--socket", str(host.socket), "--lun", "disk") as daemon:
        daemon.ready(host.socket)
        assert daemon.end() == 0

    probed(host, Finding("link", Outcome.BAD, "both have won"))
    assert "both have won" in host.refused("serve", "--socket", str(host.socket))


def test_probe_of_another_mount_is_no_reason_to_refuse_and_is_said(host: Host) -> None:
    """It was mended by mounting it otherwise, perhaps."""
    probed(host, Finding("lock-hosts", Outcome.BAD, "both have it"))
    host.tables.remount("vers=4.2", "vers=4.1")

    with host.started("target") as daemon:
        until_ready(daemon)
        assert "was probed with another mount or other options" in daemon.text
        assert daemon.end() == 0


def test_target_that_is_allowed_serves_without_a_promise_and_loudly(host: Host) -> None:
    """By option, by variable or in the file."""
    host.tables.remount("hard", "soft")

    with host.started("target", "--allow-unproven") as daemon:
        assert any(line.startswith("iscsi://") for line in until_ready(daemon))
        assert "WITHOUT A PROMISE" in daemon.text
        assert "SERVED ALL THE SAME" in daemon.text
        assert daemon.end() == 0


@pytest.mark.parametrize("how", ["option", "file"])
def test_target_on_nfs3_serves_where_fencing_is_declared(host: Host, how: str) -> None:
    """By option or in the file; it says by what it is so."""
    host.tables.remount("vers=4.2", "vers=3")
    config = host.directory / "c.toml"
    config.write_text('[target]\nfencing = "external"\n')
    options = ["--fencing", "external"] if how == "option" else ["--config", str(config)]

    with host.started("target", *options) as daemon:
        assert any(line.startswith("iscsi://") for line in until_ready(daemon))
        assert "by the fencing that was declared (nfs 3)" in daemon.text
        assert daemon.end() == 0


def test_target_with_a_fencing_that_is_none_is_an_error_of_usage(host: Host) -> None:
    """Only what is known can be declared."""
    done = run(host.command("target", "--fencing", "hope"))

    assert done.returncode == 2
    assert "must be one of none, external, not 'hope'" in done.stderr


def test_serve_with_both_doors_is_refused_as_a_whole(host: Host) -> None:
    """Whoever configured a target door does not want to find out later that there is none."""
    host.tables.remount("vers=4.2", "vers=3")
    config = host.directory / "c.toml"
    config.write_text('[[portal]]\nportal = "127.0.0.1:0"\n')
    options = ["--socket", str(host.socket), "--config", str(config)]

    assert "NFS 3" in host.refused("serve", *options)
    assert not host.socket.exists()
    with host.started("serve", *options, "--fencing", "external") as daemon:
        until_ready(daemon)
        register(host.socket, 0xA)
        assert daemon.end() == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("nfs4", "9p"), "other hosts may not see them"),
        (("local_lock=none", "local_lock=all"), "other hosts may not see them"),
        (("hard", "soft"), ""),
        (("vers=4.2", "vers=3"), ""),
    ],
)
def test_helper_door_serves_more_and_says_so(
    host: Host, change: tuple[str, str], words: str
) -> None:
    """It records reservations, and no read or write depends on it."""
    host.tables.remount(*change)

    with host.started("serve", "--socket", str(host.socket), "--lun", "disk") as daemon:
        daemon.ready(host.socket)
        register(host.socket, 0xA)
        assert words in daemon.text
        gated = "is not known to stop the reads and writes of targets"
        eventually(lambda: gated in daemon.text, "the survey")
        assert daemon.end() == 0


@pytest.mark.parametrize("option", ["nocto", "softreval"])
def test_helper_door_where_what_is_read_may_be_old_does_not_start(host: Host, option: str) -> None:
    """A reservation that another host made may not be seen."""
    host.tables.remount("hard", f"hard,{option}")

    text = host.refused("serve", "--socket", str(host.socket))

    assert "reservations cannot be kept on nfs 4.2" in text
    assert f"without {option}" in text
    assert not host.socket.exists()


def reserve(socket: pathlib.Path) -> tuple[int, bytes]:
    """Register 0xA at a helper's socket and reserve, Write Exclusive: status and sense."""
    assert register(socket, 0xA).status == 0
    with HelperClient(str(socket), timeout=PATIENCE) as client, open("/dev/null", "r+b") as disk:
        reply = client.execute(disk.fileno(), out_cdb(1, type_=1), basic_list(0xA))
    return reply.status, reply.sense


@pytest.mark.parametrize("how", ["refused", "allowed", "declared", "without an image"])
def test_command_that_takes_access_away_through_the_helper_door_needs_a_promise(
    host: Host, how: str
) -> None:
    """To have all permits where nothing is promised says nothing about others' writes."""
    host.tables.remount("vers=4.2", "vers=3")
    create_lun(str(host.root), "bare")
    options = {"allowed": ["--allow-unproven"], "declared": ["--fencing", "external"]}
    lun = "bare" if how == "without an image" else "disk"
    command = ["--socket", str(host.socket), "--lun", lun, *options.get(how, [])]

    with host.started("serve", *command) as daemon:
        daemon.ready(host.socket)
        status, sense = reserve(host.socket)
        assert daemon.end() == 0

    if how == "refused":
        assert (status, sense[2] & 15, sense[12], sense[13]) == (2, 2, 4, 3)
        assert "reads and writes cannot be gated on nfs 3" in daemon.text
    else:
        assert status == 0


def test_running_target_whose_mount_changes_says_so(host: Host) -> None:
    """The gate closes by itself, and opens again."""
    with host.started("target") as daemon:
        until_ready(daemon)
        host.tables.recover("Y")
        eventually(lambda: "the mount was lost" in daemon.text, "the look at the tables")
        host.tables.recover("N")
        eventually(lambda: "the mount is back" in daemon.text, "the next look")
        assert daemon.end(signal.SIGTERM) == 0


# ------------------------------------------------------------------- what the verbs say


def told(host: Host, *argv: str) -> str:
    """Standard output of a verb on that host, which must be good."""
    done = run(host.command(*argv))
    assert done.returncode == 0, done
    return done.stdout


def test_status_names_what_is_promised(host: Host) -> None:
    """For people in a line, for programs in full."""
    assert "enforced for the targets of any number of hosts, on nfs 4.2" in told(host, "status")
    host.tables.recover("Y")

    (lun,) = json.loads(told(host, "status", "--json"))["luns"]

    assert lun["promise"]["gated"] == "no"
    assert lun["image"] == "images/disk.img"
    assert "NOTHING IS PROMISED on nfs 4.2" in told(host, "status")


def test_status_counts_what_the_configuration_declares(host: Host) -> None:
    """Like the target that reads the same file."""
    host.tables.remount("vers=4.2", "vers=3")
    config = host.directory / "c.toml"
    config.write_text('[target]\nfencing = "external"\n')

    text = told(host, "status", "--json", "--config", str(config))

    assert json.loads(text)["luns"][0]["promise"]["gated"] == "declared"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--size", "1M"), ["enforced for the targets of any number of hosts", "it must be sync"]),
        ((), ["recorded on nfs 4.2"]),
    ],
)
def test_lun_create_says_what_will_hold(
    host: Host, options: Sequence[str], words: list[str]
) -> None:
    """With an image by the target door, without by the other."""
    done = run(host_verb(host, "create", "new", *options))

    assert done.returncode == 0, done
    for word in words:
        assert word in done.stdout


def test_lun_create_where_nothing_will_hold_says_so(host: Host) -> None:
    """It is made all the same: it may be for the helper door."""
    host.tables.remount("nfs4", "9p")

    done = run(host_verb(host, "create", "new", "--size", "1M", "--json"))

    promise = json.loads(done.stdout)["promise"]
    assert promise["gated"] == "no"
    assert promise["remedies"]
    again = run(host_verb(host, "create", "newer", "--size", "1M")).stdout
    assert "NONE: reads and writes cannot be gated on 9p" in again


def host_verb(host: Host, *argv: str) -> list[str]:
    """A verb of `lun` on that host."""
    command = host.command("lun", *argv)
    at = command.index("--root")
    root = command[at : at + 2]
    return [*command[:at], *command[at + 2 :], *root]


def test_status_of_a_root_on_this_host_says_how_far_it_reaches(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without any table of a test."""
    create_lun(str(tmp_path), "disk", size=SIZE)

    assert main(["status", "--root", str(tmp_path)]) == 0

    assert "  enforced for the targets of " in capsys.readouterr().out
