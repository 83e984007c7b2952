"""`flockpr target` as a process: portals, CHAP, systemd, users, and both doors in one daemon."""

from __future__ import annotations

import contextlib
import os
import pathlib
import pwd
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import attrs
import pytest

from flockpr.spc.codes import OutAction, ReservationType
from flockpr.store.identity import target_name
from flockpr.store.listing import read_identity
from flockpr.store.provision import create_lun
from tests.support.daemon_process import (
    PATIENCE,
    SERVE,
    Running,
    environment,
    eventually,
    keys,
    register,
    run,
    short_directory,
    start,
)
from tests.support.iscsi_client import Initiator, LoginRefused
from tests.support.peers import find
from tests.support.target_rig import CONFLICT, GOOD, Target, Url, initiator_name

TARGET = (sys.executable, "-m", "flockpr", "target")
SIZE = 8 << 20
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
tools = pytest.mark.peer("iscsi-ls", "iscsi-inq")

CHAP = """
[[chap]]
user = "alice"
secret = "alice has a secret"
initiator = "iqn.2026-01.org.example:alice"

[[chap]]
user = "shared"
secret = "everybody knows it"

[mutual]
user = "target"
secret = "the target has one"
"""


@attrs.frozen
class Place:
    """A root with one logical unit that has an image, and room for files beside it."""

    directory: pathlib.Path

    @property
    def root(self) -> pathlib.Path:
        """The root; its logical unit is called disk."""
        return self.directory / "root"

    @property
    def socket(self) -> pathlib.Path:
        """A socket for the helper door."""
        return self.directory / "s"

    def target(self, *options: str, portals: tuple[str, ...] = ("127.0.0.1:0",)) -> Target:
        """A target over the root."""
        return Target(self.root, self.directory / "log", *options, portals=portals)

    def write(self, name: str, text: str, mode: int = 0o644) -> pathlib.Path:
        """A file."""
        path = self.directory / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def start(self, *command: str, **environ: str) -> Running:
        """A daemon whose standard output is a pipe."""
        return start(
            command, self.directory / "log", environ=environment(**environ), stdout=subprocess.PIPE
        )


@pytest.fixture
def place() -> Iterator[Place]:
    """A new place, gone after the test."""
    with short_directory() as directory:
        (directory / "root").mkdir(mode=0o700)
        create_lun(str(directory / "root"), "disk", size=SIZE)
        yield Place(directory)


def announced(daemon: Running) -> list[str]:
    """What a daemon prints until it is ready."""
    assert daemon.process.stdout is not None
    lines = []
    for line in daemon.process.stdout:
        lines.append(line.rstrip("\n"))
        if lines[-1] == "ready":
            return lines
    raise AssertionError(f"it ended: {daemon.text}")


def url_of(lines: list[str]) -> Url:
    """The first URL among them."""
    return next(Url.parse(line) for line in lines if line.startswith("iscsi://"))


def log_in(url: Url, short: str = "alice", **options: object) -> Initiator:
    """A session."""
    return Initiator(
        (url.host, url.port),
        target=url.target,
        name=initiator_name(short),
        **options,  # type: ignore[arg-type]
    )


def tool(*command: str) -> str:
    """Output of one of libiscsi's tools, which must end well."""
    path = find(command[0])
    assert path is not None
    done = subprocess.run([path, *command[1:]], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --------------------------------------------------------------------------- what it prints


def test_target_prints_portals_urls_and_ready(place: Place) -> None:
    """In this order, with the ports that were found; the log has the portals as well."""
    create_lun(str(place.root), "two", size=SIZE, target_ports=[7])
    create_lun(str(place.root), "records-only")
    with place.start(
        *TARGET, "--root", str(place.root), "--portal", "127.0.0.1:0", "--portal", "127.0.0.1:0,7"
    ) as daemon:
        lines = announced(daemon)
        first, second = (
            re.fullmatch(r"portal (127\.0\.0\.1:(\d+)),\d+", line) for line in lines[:2]
        )
        assert first is not None
        assert second is not None
        assert "0" not in (first[2], second[2])
        one, two = (
            f"{target_name(identity)}/{identity.lun}"
            for identity in (read_identity(str(place.root), name) for name in ("disk", "two"))
        )
        assert set(lines[2:-1]) == {
            f"iscsi://{first[1]}/{one}",  # its target ports are 1 and 2 only
            f"iscsi://{first[1]}/{two}",
            f"iscsi://{second[1]}/{two}",
        }
        assert f'portals="{first[1]},2 {second[1]},7"' in daemon.text
        assert daemon.end() == 0


@tools
def test_target_is_found_and_asked_by_libiscsis_tools(place: Place) -> None:
    """Discovery, INQUIRY and capacity, by a client that is not ours."""
    identity = read_identity(str(place.root), "disk")
    with place.target() as target:
        portal = f"iscsi://127.0.0.1:{target.url().port}"
        listed = tool("iscsi-ls", "-s", portal)
        asked = tool("iscsi-inq", f"{portal}/{target.url().target}/{target.url().lun}")
        serial = tool("iscsi-inq", "-e", "1", "-c", "128", f"{portal}/{target.url().target}/0")
        assert target.stop() == 0
    assert f"Target:{target_name(identity)} Portal:127.0.0.1:" in listed
    assert "Lun:0" in listed
    assert "Vendor:FLOCKPR" in asked
    assert identity.serial in serial


def test_target_of_one_name_carries_every_logical_unit(place: Place) -> None:
    """By their numbers in lun.json; --lun limits which."""
    for name in ("two", "three"):
        create_lun(str(place.root), name, size=SIZE)
    name = "iqn.2026-11.org.example:all"
    with place.target("--name", name, "--lun", "disk", "--lun", "three") as target:
        assert [(url.target, url.lun) for url in target.urls] == [(name, 0), (name, 2)]
        url = target.urls[0]
        with Initiator((url.host, url.port), target=None, name=initiator_name("a")) as discovery:
            assert discovery.targets() == {name: [f"{url.host}:{url.port},2"]}
        assert target.stop() == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--lun", "none"), "there is no LUN none"),
        (("--lun", "bare"), "bare has no image"),
        (("--portal", "127.0.0.1:0,9"), ""),
        (("--lun", "disk", "--portal", "127.0.0.1:0,9"), "is offered by none of these portals"),
        (("--portal", "0.0.0.0:0"), "other hosts can connect"),
        (("--portal", "nonsense"), "must be ADDRESS:PORT"),
        (("--chap", "/nonexistent"), "/nonexistent: cannot read the secrets"),
    ],
)
def test_target_that_cannot_be_as_it_was_meant_does_not_start(
    place: Place, options: tuple[str, ...], complaint: str
) -> None:
    """A line that says why, no traceback; what was not named by hand may be missing."""
    create_lun(str(place.root), "bare")
    command = [*TARGET, "--root", str(place.root), *options]
    if not complaint:
        with place.start(*command) as daemon:
            assert [line.split()[0] for line in announced(daemon)] == ["portal", "ready"]
            assert "disk is not served" in daemon.text
            assert daemon.end() == 0
        return
    if "--portal" not in options:
        command += ["--portal", "127.0.0.1:0"]
    done = run(command)
    assert done.returncode not in (0, -signal.SIGTERM)
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_target_of_an_empty_root_serves_nothing_and_says_so(place: Place) -> None:
    """A logical unit may be made later; a missing root is refused, never made."""
    (place.directory / "empty").mkdir(mode=0o700)
    with place.start(
        *TARGET, "--root", str(place.directory / "empty"), "--portal", "127.0.0.1:0"
    ) as daemon:
        assert [line.split()[0] for line in announced(daemon)] == ["portal", "ready"]
        assert "there is no LUN with an image to serve" in daemon.text
        assert daemon.end() == 0
    missing = place.directory / "missing"
    done = run([*TARGET, "--root", str(missing), "--portal", "127.0.0.1:0"])
    assert done.returncode != 0
    assert "no such root" in done.stderr
    assert not missing.exists()


# --------------------------------------------------------------------------- who may connect


def test_target_with_chap_lets_in_who_proves_it(place: Place) -> None:
    """One way and mutual; a wrong secret, another's account, and no proof at all are refused."""
    chap = place.write("chap.toml", CHAP, 0o600)
    with place.target("--chap", str(chap)) as target:
        url = target.url()
        alice = ("alice", "alice has a secret")
        shared = ("shared", "everybody knows it")
        with log_in(url, "alice", chap=alice):
            pass
        with log_in(url, "alice", chap=alice, mutual=("target", "the target has one")):
            pass
        with log_in(url, "bob", chap=shared):
            pass
        for short, account in (
            ("alice", ("alice", "alice has no secret")),
            ("bob", alice),
            ("bob", None),
        ):
            with pytest.raises(LoginRefused):
                log_in(url, short, chap=account)
        assert "alice has a secret" not in target.log.read_text()
        assert target.stop() == 0


@tools
def test_target_with_chap_is_used_by_libiscsi(place: Place) -> None:
    """As its URL has it: USER%SECRET@ADDRESS."""
    chap = place.write("chap.toml", CHAP.replace("everybody knows it", "everybody-knows-it"), 0o600)
    with place.target("--chap", str(chap)) as target:
        where = f"127.0.0.1:{target.url().port}/{target.url().target}/0"
        assert "FLOCKPR" in tool("iscsi-inq", f"iscsi://shared%everybody-knows-it@{where}")
        path = find("iscsi-inq")
        assert path is not None
        refused = subprocess.run([path, f"iscsi://{where}"], capture_output=True, timeout=PATIENCE)
        assert refused.returncode != 0
        assert target.stop() == 0


def test_target_that_is_open_to_others_is_refused_until_it_is_asked_for(place: Place) -> None:
    """CHAP, or a word; on the command line and in the file."""
    chap = place.write("chap.toml", CHAP, 0o600)
    everywhere = ("0.0.0.0:0",)
    done = run([*TARGET, "--root", str(place.root), "--portal", everywhere[0]])
    assert done.returncode == 2
    assert "--allow-unauthenticated" in done.stderr
    for options in (("--allow-unauthenticated",), ("--chap", str(chap))):
        with place.target(*options, portals=everywhere) as target:
            assert target.stop() == 0
    config = place.write("c.toml", "[target]\nallow_unauthenticated = true\n")
    with place.target("--config", str(config), portals=everywhere) as target:
        assert target.stop() == 0
    done = run(
        [
            *(*TARGET, "--root", str(place.root), "--config", str(config)),
            *("--portal", everywhere[0], "--no-allow-unauthenticated"),
        ]
    )
    assert done.returncode == 2


def test_target_shows_a_logical_unit_to_listed_initiators_only(place: Place) -> None:
    """[lun.NAME] initiators: the others neither find it nor get in."""
    config = place.write("c.toml", f'[lun.disk]\ninitiators = ["{initiator_name("alice")}"]\n')
    with place.target("--config", str(config)) as target:
        url = target.url()
        with log_in(url, "alice") as session:
            session.command(url.lun, bytes(6))
        for short, expected in (("alice", {url.target}), ("bob", set())):
            name = initiator_name(short)
            with Initiator((url.host, url.port), target=None, name=name) as discovery:
                assert set(discovery.targets()) == expected
        with pytest.raises(LoginRefused):
            log_in(url, "bob")
        assert target.stop() == 0


def test_target_of_a_read_only_logical_unit_refuses_writes(place: Place) -> None:
    """DATA PROTECT 07/27/00."""
    config = place.write("c.toml", "[lun.disk]\nread_only = true\n")
    with place.target("--config", str(config)) as target, target.log_in("alice") as session:
        reply = session.command(bytes.fromhex("2a000000000000000100"), bytes(512))
        assert reply.code == (7, 0x27, 0)
        session.logout()
        assert target.stop() == 0


# --------------------------------------------------------------------------- day to day


def flockpr(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One verb of the command line."""
    return run([sys.executable, "-m", "flockpr", *arguments])


def test_grow_of_a_disk_in_use_reaches_its_initiators(place: Place) -> None:
    """CAPACITY DATA HAS CHANGED (2A/09) once, then the new size; what was there stays."""
    capacity = bytes.fromhex("25000000000000000000")
    write = bytes.fromhex("2a000000000000000100")
    with place.target() as target, target.log_in("alice") as alice:
        assert alice.command(write, b"x" * 512).status == GOOD
        assert alice.command(capacity, read=8).data == bytes.fromhex("00003fff00000200")

        done = flockpr("lun", "grow", "disk", "--size", "16M", "--root", str(place.root))

        assert done.stdout == "disk: 16 MiB, was 8 MiB\n"
        eventually(lambda: (6, 0x2A, 9) in alice.settle(), "the unit attention")
        assert alice.command(capacity, read=8).data == bytes.fromhex("00007fff00000200")
        assert (
            alice.command(bytes.fromhex("280000000000000001") + b"\0", read=512).data == b"x" * 512
        )
        beyond = bytes.fromhex("2a000000500000000100")
        assert alice.command(beyond, bytes(512)).status == GOOD
        assert target.stop() == 0


def test_clone_and_delete_of_a_disk_in_use_are_refused(place: Place) -> None:
    """Until the initiator has logged out."""
    root = ("--root", str(place.root))
    with place.target() as target:
        alice = target.log_in("alice")
        for arguments in (("clone", "disk", "copy"), ("delete", "disk", "--image")):
            done = flockpr("lun", *arguments, *root)
            assert done.returncode == 11, done.stderr
            assert "initiators are logged in" in done.stderr
        alice.logout()

        def cloned() -> bool:
            return flockpr("lun", "clone", "disk", "copy", *root).returncode == 0

        eventually(cloned, "the clone")
        assert target.stop() == 0
    assert flockpr("lun", "delete", "disk", "--image", *root).returncode == 0
    assert os.listdir(place.root / "images") == ["copy.img"]


def test_status_shows_who_came_through_the_target(place: Place) -> None:
    """Door, port and liveness; gone when the session is over."""

    def row() -> list[str]:
        lines = flockpr("status", "disk", "--root", str(place.root)).stdout.splitlines()
        return next(line.split() for line in lines if "alice" in line)

    with place.target() as target:
        alice = target.log_in("alice")
        alice.must(OutAction.REGISTER, 0, 0xA11CE)
        assert row()[:4] == [initiator_name("alice"), "2", f"0x{0xA11CE:016x}", "alive"]
        assert "iscsi" in row()
        alice.logout()
        eventually(lambda: "gone" in row(), "the end of the nexus")
        assert target.stop() == 0


# --------------------------------------------------------------------------- both doors


def test_serve_with_a_target_has_both_doors_over_one_state(place: Place) -> None:
    """What is preempted at the helper's socket cannot write through the target any more."""
    config = place.write(
        "c.toml",
        f'[serve]\nroot = "{place.root}"\nsocket = "{place.socket}"\nlun = "disk"\n'
        'initiator = "iqn.2026-11.test:helper"\n[[portal]]\nportal = "127.0.0.1:0"\n',
    )
    with place.start(*SERVE, "--config", str(config)) as daemon:
        url = url_of(announced(daemon))
        daemon.ready(place.socket)
        with place.target() as second, second.log_in("bob") as bob, log_in(url) as alice:
            write = bytes.fromhex("2a000000000000000100")
            while alice.command(url.lun, bytes(6)).status != GOOD:
                pass
            bob.must(OutAction.REGISTER, 0, 0xB0B)
            assert register(place.socket, 7).status == 0
            assert keys(place.socket) == [0xB0B, 7]
            assert alice.command(url.lun, write, bytes(512)).status == GOOD
            bob.must(
                OutAction.RESERVE, 0xB0B, type_=ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
            )
            assert alice.command(url.lun, write, bytes(512)).status == CONFLICT
            assert bob.command(write, bytes(512)).status == GOOD
        assert daemon.end() == 0
    assert not place.socket.exists()


def test_helper_for_libvirt_never_opens_the_target_door(place: Place) -> None:
    """One helper for each guest reads the same file; only one daemon can have the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = place.write(
            "c.toml",
            f'[serve]\nroot = "{place.root}"\n[target]\nchap = "/nonexistent"\n'
            f'[[portal]]\nportal = "127.0.0.1:{taken.getsockname()[1]}"\n',
        )
        command = (sys.executable, "-m", "flockpr.daemon.pr_helper", "-k", str(place.socket))
        with place.start(*command, FLOCKPR_CONFIG=str(config)) as helper:
            helper.ready(place.socket)
            assert helper.end() == 0


def test_serve_whose_target_cannot_start_leaves_no_socket(place: Place) -> None:
    """A start that fails half way takes back what it made."""
    config = place.write(
        "c.toml",
        f'[serve]\nroot = "{place.root}"\nsocket = "{place.socket}"\n'
        '[target]\nluns = ["none"]\n[[portal]]\nportal = "127.0.0.1:0"\n',
    )
    done = run([*SERVE, "--config", str(config)])
    assert done.returncode == 13
    assert "there is no LUN none" in done.stderr
    assert not place.socket.exists()


# --------------------------------------------------------------------------- its end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_target_on_an_ending_signal_exits_0_with_sessions_open(place: Place, number: int) -> None:
    """An idle initiator delays nothing; the next target serves the same state."""
    with place.target() as target:
        session = target.log_in("alice")
        session.must(OutAction.REGISTER, 0, 0xA11CE)
        target.signal(number)
        assert target.process.wait(PATIENCE) == 0
    with place.target() as target, target.log_in("alice") as session:
        session.must(OutAction.REGISTER, 0xA11CE, 0)
        assert target.stop() == 0


HANGING = """
    import sys, threading
    import flockpr.iscsi.inventory as inventory

    def hang(*_args, **_options):
        print("hanging", file=sys.stderr, flush=True)
        threading.Event().wait()

    inventory.list_luns = hang
    from flockpr.cli import main
    sys.exit(main(sys.argv[1:]))
"""


def test_target_whose_root_hangs_at_the_start_can_be_ended(place: Place) -> None:
    """The other door serves meanwhile, and a signal is heard."""
    config = place.write(
        "c.toml",
        f'[serve]\nroot = "{place.root}"\nsocket = "{place.socket}"\ndrain = 0.5\n'
        '[[portal]]\nportal = "127.0.0.1:0"\n',
    )
    command = (sys.executable, "-c", textwrap.dedent(HANGING), "serve", "--config", str(config))
    with place.start(*command) as daemon:
        eventually(lambda: "hanging" in daemon.text, "the hang")
        daemon.ready(place.socket)
        assert daemon.end() == 0
    assert not place.socket.exists()


# --------------------------------------------------------------------------- systemd and users


ACTIVATE = """
    import os, sys
    os.dup2(int(sys.argv[1]), 3)
    os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES=sys.argv[2], LISTEN_PID=str(os.getpid()))
    os.execv(sys.argv[3], sys.argv[3:])
"""


def activated(
    place: Place, listening: socket.socket, name: str, *command: str, **environ: str
) -> Running:
    """Start a daemon as systemd does, with one socket."""
    launcher = (sys.executable, "-c", textwrap.dedent(ACTIVATE), str(listening.fileno()), name)
    return start(
        [*launcher, *command],
        place.directory / "log",
        environ=environment(**environ),
        stdout=subprocess.PIPE,
        pass_fds=[listening.fileno()],
    )


def test_target_takes_a_passed_socket_and_tells_the_manager(place: Place) -> None:
    """The tag is that of the [[portal]] of the same name; READY=1 when it accepts."""
    config = place.write("c.toml", '[[portal]]\nname = "front"\ntag = 2\n')
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        notify = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        notify.settimeout(PATIENCE)
        notify.bind(str(place.directory / "n"))
        command = (*TARGET, "--root", str(place.root), "--config", str(config))
        environ = {"NOTIFY_SOCKET": notify.getsockname(), "WATCHDOG_USEC": "600000"}
        with activated(place, listening, "front", *command, **environ) as daemon:
            lines = announced(daemon)
            assert lines[0] == "portal {}:{},2".format(*listening.getsockname())
            said = notify.recv(4096)
            while said == b"WATCHDOG=1":  # a busy machine takes its time to be ready
                said = notify.recv(4096)
            assert said.startswith(b"READY=1\n")
            assert notify.recv(4096) == b"WATCHDOG=1"
            with log_in(url_of(lines)) as session:
                session.command(0, bytes(6))
            assert daemon.end() == 0
            rest = notify.recv(4096)
            while rest == b"WATCHDOG=1":
                rest = notify.recv(4096)
            assert rest.startswith(b"STOPPING=1")


def test_sockets_that_were_passed_to_the_wrong_door_are_refused(place: Place) -> None:
    """A TCP socket without a target, a Unix socket without a helper door."""
    with socket.create_server(("127.0.0.1", 0)) as inet, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(place.socket))
        unix.listen()
        for listening, verb, complaint in (
            (inet, SERVE, "a TCP socket was passed"),
            (unix, TARGET, "a Unix socket was passed"),
        ):
            with activated(place, listening, "x", *verb, "--root", str(place.root)) as daemon:
                assert daemon.process.wait(PATIENCE) == 2
                assert complaint in daemon.text


@as_root
def test_target_becomes_the_user_after_it_has_port_and_secrets(place: Place) -> None:
    """The file of secrets is root's; the images belong to the user."""
    user = pwd.getpwnam("nobody")
    chap = place.write("chap.toml", CHAP, 0o600)
    for where, directories, names in os.walk(place.root):
        for name in (".", *directories, *names):
            os.chown(os.path.join(where, name), user.pw_uid, user.pw_gid)
    with place.target("--user", "nobody", "--chap", str(chap)) as target:
        assert target.status("Uid") == user.pw_uid
        with log_in(target.url(), chap=("shared", "everybody knows it")) as session:
            while session.command(0, bytes(6)).status != GOOD:
                pass
            write = bytes.fromhex("2a000000000000000100")
            assert session.command(0, write, b"x" * 512).status == GOOD
        assert target.stop() == 0
    assert (place.root / "images/disk.img").read_bytes()[:512] == b"x" * 512


@as_root
def test_target_as_root_keeps_file_capabilities_only(place: Place) -> None:
    """CAP_CHOWN, CAP_DAC_OVERRIDE and CAP_FOWNER, as the helper door."""
    with place.target() as target:
        text = pathlib.Path(f"/proc/{target.pid}/status").read_text()
        found = re.search(r"^CapEff:\s+([0-9a-f]+)", text, re.MULTILINE)
        assert found is not None
        assert int(found[1], 16) & ~0b1011 == 0
        assert target.stop() == 0


def test_target_pidfile_names_the_process(place: Place) -> None:
    """As with serve."""
    pidfile = place.directory / "pid"
    with place.target("--pidfile", str(pidfile)) as target:
        assert int(pidfile.read_text()) == target.pid
        assert target.stop() == 0
