"""Which initiator port a connection is."""

from __future__ import annotations

import errno
import os
import pathlib
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.errors import ConfigError
from flockpr.prhelper import peer as peer_module
from flockpr.prhelper.connection import Limits
from flockpr.prhelper.identity import (
    Identifier,
    Identity,
    derived_port,
    host_port,
    port_from,
    rules_from,
)
from flockpr.prhelper.peer import read_peer
from flockpr.prhelper.qemu_arguments import machine_labels
from flockpr.spc.codes import Status
from flockpr.spc.transport_id import InitiatorPort
from tests.support.helper import DEADLINE, RawClient, eventually, serving, short_directory
from tests.support.scsi import in_cdb

UUID = "6a7f4e0c-1111-4222-8333-944445555666"
QEMU = ["qemu-system-x86_64", "-name", "guest=db,debug-threads=on", "-S", "-uuid", UUID]
ISCSI_NAME = re.compile(r"iqn\.\d{4}-\d{2}\.org\.flockpr:[a-z0-9.-]+")


@pytest.fixture
def pair() -> Iterator[socket.socket]:
    """One end of a connection whose other end is this process."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


def fake_proc(tmp_path: pathlib.Path, arguments: list[str], cgroup: str = "0::/a.scope\n") -> str:
    """A procfs in which this process has those arguments."""
    directory = tmp_path / str(os.getpid())
    directory.mkdir()
    (directory / "cmdline").write_bytes(b"\0".join(map(os.fsencode, arguments)) + b"\0")
    (directory / "cgroup").write_text(cgroup)
    return str(tmp_path)


def found(
    sock: socket.socket, proc: str, table: dict[str, str] | None = None, path: str = "/run/pr.sock"
) -> str:
    """Name of the port that an identifier with this map finds."""
    identifier = Identifier(rules=rules_from(table or {}), host="host-a", proc=proc)
    return identifier.identify(sock, path).port.text


def test_explicit_name_wins_without_looking_at_the_peer(pair: socket.socket) -> None:
    """--initiator, or that of the socket's table."""
    port = InitiatorPort("iqn.2020-01.com.example:x", 0x123456789ABC)
    identity = Identifier(explicit=port, proc="/nonexistent").identify(pair, "/s")
    assert identity.port is port


def test_uuid_of_the_machine_wins_over_its_name(
    pair: socket.socket, tmp_path: pathlib.Path
) -> None:
    """The same on every host, so registrations follow a live migration."""
    proc = fake_proc(tmp_path, QEMU)
    assert found(pair, proc) == f"iqn.2026-11.org.flockpr:vm-{UUID}"


def test_name_of_the_machine_stands_in_for_a_uuid(
    pair: socket.socket, tmp_path: pathlib.Path
) -> None:
    """Hand-started machines often have no UUID."""
    proc = fake_proc(tmp_path, QEMU[:4])
    assert found(pair, proc) == "iqn.2026-11.org.flockpr:name-db"


def test_host_stands_in_for_what_is_no_machine(pair: socket.socket, tmp_path: pathlib.Path) -> None:
    """The semantics of the real helper: one nexus for the host."""
    proc = fake_proc(tmp_path, ["python3", "script.py"])
    assert found(pair, proc) == "iqn.2026-11.org.flockpr:host-host-a"


def test_host_stands_in_when_procfs_is_closed(
    pair: socket.socket, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With hidepid the directory of another user's process is not there; that is logged."""
    assert found(pair, str(tmp_path)) == "iqn.2026-11.org.flockpr:host-host-a"
    assert "cannot look at client process" in caplog.text


@pytest.mark.parametrize(
    ("key", "matches"),
    [
        (UUID, True),
        (UUID.upper(), True),
        (f"uuid:{UUID.replace('-', '')}", True),
        ("uuid:00000000-0000-0000-0000-000000000001", False),
        ("db", True),
        ("name:db", True),
        ("name:DB", False),
        (f"uid:{os.getuid()}", True),
        ("uid:4242424", False),
        ("uid:root", os.getuid() == 0),
        ("cgroup:/machine.slice/*", True),
        ("cgroup:/other/*", False),
        ("socket:/run/pr.sock", True),
        ("socket:/run/*.sock", True),
        ("socket:/run/other.sock", False),
    ],
)
def test_map_matches_by_each_criterion(
    pair: socket.socket, tmp_path: pathlib.Path, key: str, matches: bool
) -> None:
    """UUID, name, user, cgroup and socket path; a bare key is a UUID or a name."""
    proc = fake_proc(tmp_path, QEMU, "0::/machine.slice/machine-qemu-1-db.scope\n1:name=x:/y\n")
    mapped = "iqn.2020-01.com.example:mapped"
    assert (found(pair, proc, {key: mapped}) == mapped) is matches


def test_map_is_searched_from_the_most_specific_criterion(
    pair: socket.socket, tmp_path: pathlib.Path
) -> None:
    """A rule for all machines of a user must not hide the one for a machine."""
    proc = fake_proc(tmp_path, QEMU, "0::/a.scope\n")
    table = {
        f"uid:{os.getuid()}": "iqn.2020-01.com.example:uid",
        "cgroup:/a.scope": "iqn.2020-01.com.example:cgroup",
        "socket:/run/pr.sock": "iqn.2020-01.com.example:socket",
        "db": "iqn.2020-01.com.example:name",
        UUID: "iqn.2020-01.com.example:uuid",
    }
    for expected in ("uuid", "name", "socket", "cgroup", "uid"):
        assert found(pair, proc, table) == f"iqn.2020-01.com.example:{expected}"
        table = {key: name for key, name in table.items() if not name.endswith(expected)}


def test_map_by_socket_needs_no_procfs(pair: socket.socket, tmp_path: pathlib.Path) -> None:
    """The strongest map of all: one socket per machine, nothing that a guest can forge."""
    mapped = "iqn.2020-01.com.example:mapped"
    assert found(pair, str(tmp_path), {"socket:/run/pr.sock": mapped}) == mapped


@pytest.mark.parametrize(
    "table",
    [
        {"uuid:nonsense": "iqn.2020-01.com.example:x"},
        {"uuid:00000000-0000-0000-0000-000000000000": "iqn.2020-01.com.example:x"},
        {"uid:no-such-user-here": "iqn.2020-01.com.example:x"},
        {"name:": "iqn.2020-01.com.example:x"},
        {"db": "a name with spaces"},
        {"db": ""},
        {"db": "x" * 224},
    ],
)
def test_map_that_is_wrong_is_refused(table: dict[str, str]) -> None:
    """At start, not when the machine connects."""
    with pytest.raises(ConfigError):
        rules_from(table)


def test_port_from_text_with_isid_is_a_port_with_isid() -> None:
    """Names may carry an ISID."""
    assert port_from("iqn.2020-01.com.example:x,i,0x000000000001").isid == 1
    with pytest.raises(ConfigError, match="initiator"):
        port_from("a b")


# What QEMU's arguments say.


@pytest.mark.parametrize(
    ("arguments", "uuid", "name"),
    [
        (["q", "-uuid", UUID], UUID, None),
        (["q", "--uuid", UUID.upper()], UUID, None),
        (["q", "-uuid", "nonsense", "-name", "x"], None, "x"),
        (["q", "-uuid", "00000000-0000-0000-0000-000000000000"], None, None),
        (["q", "-uuid"], None, None),
        (["-uuid", UUID], None, None),
        (["q", "-uuid", UUID, "-uuid", UUID.replace("6a", "7b")], UUID.replace("6a", "7b"), None),
        (["q", "-smbios", f"type=1,uuid={UUID}", "-name", "vm,debug-threads=on"], UUID, "vm"),
        (["q", "-smbios", f"type=2,uuid={UUID}"], None, None),
        (["q", "-smbios", f"type=1,uuid={UUID.replace('6a', '7b')}", "-uuid", UUID], UUID, None),
        (["q", "-name", "guest=a,,b,debug-threads=on"], None, "a,b"),
        (["q", "-name", "debug-threads=on,guest=late"], None, "late"),
        (["q", "-name", "debug-threads=on"], None, None),
        (["q", "-name", "guest="], None, None),
        (["q", "-name", "x=y,z"], None, None),
        (["q", "-name", ""], None, None),
        (["q"], None, None),
        ([], None, None),
    ],
)
def test_arguments_tell_uuid_and_name(
    arguments: list[str], uuid: str | None, name: str | None
) -> None:
    """As libvirt, Proxmox and hands write them; the last of an option counts."""
    labels = machine_labels([os.fsencode(word) for word in arguments])
    assert (labels.uuid, labels.name) == (uuid, name)


@given(st.lists(st.sampled_from([b"-uuid", b"-name", b"-smbios"]) | st.binary(), max_size=8))
def test_arguments_of_any_bytes_give_labels(arguments: list[bytes]) -> None:
    """Another process's arguments are input like any other."""
    labels = machine_labels(arguments)
    assert labels.name != ""
    if labels.name is not None:
        assert ISCSI_NAME.fullmatch(derived_port("name", labels.name).name)


# Names.


@given(st.text(), st.text())
def test_derived_names_are_iscsi_names_and_keep_labels_apart(one: str, other: str) -> None:
    """Two labels that differ never become one nexus."""
    first, second = derived_port("name", one), derived_port("name", other)
    assert ISCSI_NAME.fullmatch(first.name)
    assert (first == second) == (one == other)


def test_derived_names_differ_by_kind_and_by_what_is_replaced() -> None:
    """A machine named like another's UUID, or with other letters, is not that one."""
    labels = ["db-1", "db 1", "DB-1", "db_1", "db-1" + "x" * 300, "db-1" + "x" * 301, ""]
    ports = {derived_port(kind, label) for kind in ("vm", "name", "host") for label in labels}
    assert len(ports) == 3 * len(labels)


def test_host_port_is_from_the_machine_id_and_hides_it(tmp_path: pathlib.Path) -> None:
    """Stable over boots and names; machine-id(5) asks not to show it to others."""
    machine_id = "0123456789abcdef0123456789abcdef"
    (tmp_path / "id").write_text(machine_id + "\n")
    port = host_port(machine_id_files=[str(tmp_path / "none"), str(tmp_path / "id")])
    assert port == host_port(machine_id_files=[str(tmp_path / "id")])
    assert machine_id not in port.name
    assert re.fullmatch(r"iqn\.2026-11\.org\.flockpr:host-[0-9a-f]{32}", port.name)


@pytest.mark.parametrize("content", ["", "uninitialized\n", "0" * 32, "\xff" * 32])
def test_host_port_without_a_machine_id_is_the_hostname(
    tmp_path: pathlib.Path, content: str
) -> None:
    """Images carry empty, unset or zero ids, which are the same on every host."""
    (tmp_path / "id").write_bytes(content.encode("latin-1"))
    port = host_port(machine_id_files=[str(tmp_path / "id")])
    assert port == derived_port("host", os.uname().nodename)


# The process at the other end.

CONNECT = """
import socket, subprocess, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
sock.connect(sys.argv[1])
print("connected", flush=True)
if sys.argv[2] == "leave it to a child":
    sock.set_inheritable(True)
    subprocess.Popen(["cat"], pass_fds=[sock.fileno()])
elif sys.argv[2] == "stay":
    sys.stdin.read()
"""


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A listening socket."""
    with short_directory() as directory, socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.path.join(directory, "s"))
        sock.listen()
        sock.settimeout(DEADLINE)
        yield sock


def connect(listening: socket.socket, then: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a process that connects."""
    command = [sys.executable, "-c", CONNECT, listening.getsockname(), then, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"connected\n"
    return process


def finish(process: subprocess.Popen[bytes]) -> None:
    """Let it end."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    process.wait(DEADLINE)


@pytest.mark.parametrize("option", [77, 9999])
def test_peer_of_a_real_process_is_read(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch, option: int
) -> None:
    """With SO_PEERPIDFD, and on kernels without it."""
    monkeypatch.setattr(peer_module, "_SO_PEERPIDFD", option)
    process = connect(listening, "stay", *QEMU[1:])
    sock, _ = listening.accept()
    with sock:
        peer = read_peer(sock)
        assert peer is not None
        assert (peer.pid, peer.uid, peer.gid) == (process.pid, os.getuid(), os.getgid())
        assert (peer.uuid, peer.name) == (UUID, "db")
        assert peer.cgroups
        finish(process)


@pytest.mark.parametrize("option", [77, 9999])
def test_peer_that_is_gone_is_nobody(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch, option: int
) -> None:
    """What it sent must not be executed in the name of the host, or of its pid's next owner."""
    monkeypatch.setattr(peer_module, "_SO_PEERPIDFD", option)
    process = connect(listening, "leave")
    finish(process)
    sock, _ = listening.accept()
    with sock, pytest.raises(ConnectionResetError):
        read_peer(sock)


@pytest.mark.parametrize("option", [77, 9999])
def test_peer_that_is_dead_but_not_buried_is_nobody(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch, option: int
) -> None:
    """A zombie's directory can still be opened, and its arguments are empty."""
    monkeypatch.setattr(peer_module, "_SO_PEERPIDFD", option)
    process = connect(listening, "leave", *QEMU[1:])
    status = pathlib.Path(f"/proc/{process.pid}/stat")
    eventually(lambda: ") Z " in status.read_text(), "the process did not end")
    sock, _ = listening.accept()
    with sock, pytest.raises(ConnectionResetError):
        read_peer(sock)
    finish(process)


def test_peer_whose_pid_has_another_owner_has_no_labels(
    pair: socket.socket, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor of the process says that it has exited: the directory is another's."""
    with subprocess.Popen(["true"]) as process:
        exited = os.pidfd_open(process.pid)
    monkeypatch.setattr(peer_module, "_peer_process", lambda _: exited)
    peer = read_peer(pair, fake_proc(tmp_path, QEMU))
    assert peer is not None
    assert (peer.uuid, peer.name, peer.cgroups) == (None, None, ())


def test_peer_that_left_its_connection_to_another_has_no_labels(listening: socket.socket) -> None:
    """The credentials are those of the process that connected, which is not there any more."""
    process = connect(listening, "leave it to a child", *QEMU[1:])
    process.wait(DEADLINE)
    sock, _ = listening.accept()
    with sock:
        peer = read_peer(sock)
        assert peer is not None
        assert (peer.uuid, peer.name) == (None, None)
        finish(process)


def test_peer_that_cannot_be_looked_at_for_want_of_descriptors_is_an_error(
    pair: socket.socket, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EMFILE: it would pass for the host, which is another nexus."""
    proc = fake_proc(tmp_path, QEMU)
    really = os.open

    failing = ""

    def fail(path: str, flags: int, *, dir_fd: int | None = None) -> int:
        if path == failing:
            raise OSError(errno.EMFILE, "Too many open files")
        return really(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", fail)
    for name in (f"{proc}/{os.getpid()}", "cmdline", "cgroup"):
        failing = name
        with pytest.raises(OSError, match="Too many"):
            read_peer(pair, proc)


def test_peer_in_another_pid_namespace_is_unknown() -> None:
    """The kernel says 0 then; pid 0 must not be looked up."""

    class Foreign:
        def getsockopt(self, *_: int) -> bytes:
            return struct.pack("iII", 0, 65534, 65534)

    assert read_peer(cast("socket.socket", Foreign())) is None


def test_peer_reads_leave_nothing_open(pair: socket.socket, tmp_path: pathlib.Path) -> None:
    """Neither the process's descriptor nor its directory."""
    proc = fake_proc(tmp_path, QEMU)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        read_peer(pair, proc)
    assert len(os.listdir("/proc/self/fd")) <= before  # fewer: what earlier tests left open


# Through the server.


def test_machines_on_one_socket_are_different_nexuses(tmp_path: pathlib.Path) -> None:
    """The server asks once per connection, and acts for what was found."""
    device = os.open(tmp_path / "device", os.O_RDWR | os.O_CREAT)
    identifier = Identifier(proc=fake_proc(tmp_path, QEMU))
    with serving(identifier=identifier) as served, RawClient(served.path) as client:
        client.run(device, in_cdb(0))
        (tmp_path / str(os.getpid()) / "cmdline").write_bytes(b"q\0-name\0other\0")
        client.run(device, in_cdb(0))
        with RawClient(served.path) as another:
            another.run(device, in_cdb(0))
    names = [call.nexus.initiator_port.name for call in served.units.calls]
    vm, other = f"iqn.2026-11.org.flockpr:vm-{UUID}", "iqn.2026-11.org.flockpr:name-other"
    assert names == [vm, vm, other]
    assert {call.nexus.target_port for call in served.units.calls} == {1}
    os.close(device)


def test_identity_that_hangs_is_busy_and_delays_nobody(tmp_path: pathlib.Path) -> None:
    """Nothing is executed for a nexus that is a guess."""
    release = threading.Event()

    class Hanging(Identifier):
        def identify(self, sock: socket.socket, socket_path: str) -> Identity:
            release.wait(DEADLINE)
            return super().identify(sock, socket_path)

    device = os.open(tmp_path / "device", os.O_RDWR | os.O_CREAT)
    with (
        serving(identifier=Hanging(host="x"), limits=Limits(command=0.2)) as served,
        RawClient(served.path) as client,
    ):
        assert client.run(device, in_cdb(0))[0] == Status.BUSY
        assert served.units.calls == []
        release.set()
        status = int(Status.BUSY)
        while status == Status.BUSY:
            status = client.run(device, in_cdb(0))[0]
        assert status == Status.GOOD
    os.close(device)


def test_identity_that_fails_for_now_is_busy_and_tried_again(tmp_path: pathlib.Path) -> None:
    """Neither the host's port nor an error that lasts as long as the connection."""
    failures = [OSError(errno.EMFILE, "Too many open files"), RuntimeError("no new thread")]

    class Failing(Identifier):
        def identify(self, sock: socket.socket, socket_path: str) -> Identity:
            if failures:
                raise failures.pop()
            return super().identify(sock, socket_path)

    device = os.open(tmp_path / "device", os.O_RDWR | os.O_CREAT)
    with serving(identifier=Failing(host="x")) as served, RawClient(served.path) as client:
        answers = [client.run(device, in_cdb(0))[0] for _ in range(3)]
        assert answers == [Status.BUSY, Status.BUSY, Status.GOOD]
    assert len(served.units.calls) == 1
    os.close(device)
