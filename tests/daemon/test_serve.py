"""`flockpr serve` as a process: sockets, signals, systemd, users."""

from __future__ import annotations

import json
import os
import pathlib
import pwd
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import attrs
import pytest

from flockpr.store.provision import create_lun
from tests.support.daemon_process import (
    PATIENCE,
    REPOSITORY,
    SERVE,
    Running,
    accepts,
    environment,
    eventually,
    greets,
    keys,
    register,
    run,
    short_directory,
    start,
)
from tests.support.peers import find

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@attrs.frozen
class Place:
    """A root with one logical unit, and room for sockets and logs beside it."""

    directory: pathlib.Path

    @property
    def root(self) -> pathlib.Path:
        """The root; its logical unit is called disk."""
        return self.directory / "root"

    @property
    def socket(self) -> pathlib.Path:
        """The socket that `serve` makes."""
        return self.directory / "s"

    def command(self, *arguments: str) -> list[str]:
        """The command of a daemon that serves the disk to one initiator."""
        # fmt: off
        return [
            *SERVE, "--root", str(self.root), "--socket", str(self.socket), "--lun", "disk",
            "--initiator", "iqn.2026-11.test:a", *arguments,
        ]
        # fmt: on

    def start(self, *arguments: str, **environ: str) -> Running:
        """Start that daemon."""
        log = self.directory / "log"
        return start(self.command(*arguments), log, environ=environment(**environ))


@pytest.fixture
def place() -> Iterator[Place]:
    """A new place, gone after the test."""
    with short_directory() as directory:
        (directory / "root").mkdir(mode=0o700)
        create_lun(str(directory / "root"), "disk")
        yield Place(directory)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_on_an_ending_signal_drains_and_exits_0(place: Place, number: int) -> None:
    """Ready when the socket accepts; afterwards only the state is left."""
    with place.start() as daemon:
        daemon.ready(place.socket)
        assert register(place.socket, 7).status == 0
        assert keys(place.socket) == [7]
        with socket.socket(socket.AF_UNIX) as silent:  # an idle client delays nothing
            silent.connect(str(place.socket))
            assert daemon.end(number) == 0
    assert not place.socket.exists()
    with place.start() as daemon:
        daemon.ready(place.socket)
        assert keys(place.socket) == [7]


def test_serve_on_hangup_goes_on(place: Place) -> None:
    """SIGHUP reloads nothing; it must not end a daemon that guests depend on either."""
    with place.start() as daemon:
        daemon.ready(place.socket)
        daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: "SIGHUP: there is nothing to reload" in daemon.text, "the log line")
        assert greets(place.socket)
        assert daemon.end() == 0


def test_serve_over_a_live_socket_is_refused_and_a_dead_one_replaced(place: Place) -> None:
    """A second daemon does not steal; after kill -9 the name is free for the next."""
    with place.start() as first:
        first.ready(place.socket)
        second = run(place.command())
        assert second.returncode != 0
        assert "in use" in second.stderr
        assert greets(place.socket)
        first.end(signal.SIGKILL)
    assert place.socket.is_socket()
    assert not accepts(place.socket)
    with place.start() as third:
        third.ready(place.socket)
        assert third.end() == 0


def test_serve_leaves_a_socket_that_is_anothers_by_now(place: Place) -> None:
    """Only its own socket is unlinked."""
    with place.start() as daemon:
        daemon.ready(place.socket)
        place.socket.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(place.socket))
            assert daemon.end() == 0
    assert place.socket.exists()


def test_serve_without_its_root_does_not_start_nor_make_it(place: Place) -> None:
    """A share that is not mounted must not become an empty root."""
    missing = place.directory / "elsewhere"
    done = run([*SERVE, "--root", str(missing), "--socket", str(place.socket)])
    assert done.returncode != 0
    assert f"{missing}: no such root" in done.stderr
    assert "Traceback" not in done.stderr
    assert not missing.exists()
    assert not place.socket.exists()


ORDINARY = """
    import sys
    from flockpr.daemon import config

    root, socket = config.default_root, config.default_socket
    config.default_root = lambda environ, uid: root(environ, 1000)
    config.default_socket = lambda environ, uid: socket(environ, 1000)
    from flockpr.cli import main
    sys.exit(main(sys.argv[1:]))
"""


def test_serve_without_any_option_makes_defaults_and_prints_qemus_options(place: Place) -> None:
    """Root and socket of the user, and what to paste."""
    home, runtime = place.directory / "home", place.directory / "run"
    home.mkdir()
    runtime.mkdir()
    environ = environment(HOME=str(home), XDG_RUNTIME_DIR=str(runtime))
    path = runtime / "flockpr" / "pr.sock"
    # As an ordinary user also where the tests run as root, whose defaults are real places.
    command = [sys.executable, "-c", textwrap.dedent(ORDINARY), "serve"]
    with start(command, place.directory / "log", environ=environ) as daemon:
        daemon.ready(path)
        eventually(lambda: f"path={path}" in daemon.text, "the announcement")
        assert daemon.end() == 0
    assert stat.S_IMODE((home / ".local/share/flockpr").stat().st_mode) == 0o700
    assert path.parent.stat().st_mode & 0o022 == 0


def test_serve_of_several_sockets_gives_each_its_identity(place: Place) -> None:
    """[[socket]] tables: two initiators on one logical unit, modes of their own."""
    config = place.directory / "c.toml"
    first, second = place.directory / "1", place.directory / "2"
    config.write_text(
        f'[serve]\nroot = "{place.root}"\nlun = "disk"\nlog_format = "json"\n'
        f'[[socket]]\npath = "{first}"\ninitiator = "iqn.2026-11.test:1"\nmode = "0600"\n'
        f'[[socket]]\npath = "{second}"\ninitiator = "iqn.2026-11.test:2"\nmode = "0666"\n'
    )
    log = place.directory / "log"
    with start([*SERVE, "--config", str(config)], log) as daemon:
        daemon.ready(first).ready(second)
        assert stat.S_IMODE(first.stat().st_mode) == 0o600
        assert stat.S_IMODE(second.stat().st_mode) == 0o666
        assert register(first, 1).status == 0
        assert register(second, 2).status == 0
        assert keys(first) == [1, 2]
        assert daemon.end() == 0
        lines = [json.loads(line) for line in daemon.text.splitlines()]
    assert {line["level"] for line in lines} == {"info"}
    assert not first.exists()
    assert not second.exists()


def test_serve_with_one_socket_refused_leaves_none(place: Place) -> None:
    """A start that fails half way takes back what it made."""
    config = place.directory / "c.toml"
    first, second = place.directory / "1", place.directory / "no" / "2"
    config.write_text(f'[[socket]]\npath = "{first}"\n[[socket]]\npath = "{second}"\n')
    done = run([*SERVE, "--config", str(config), "--root", str(place.root)])
    assert done.returncode != 0
    assert f"cannot listen on {second}" in done.stderr
    assert not first.exists()


HANGING = """
    import sys, threading
    from flockpr.logical_unit import LogicalUnit

    def hang(*_args, **_options):
        print("hanging", file=sys.stderr, flush=True)
        threading.Event().wait()

    LogicalUnit.attempt_all = hang
    from flockpr.cli import main
    sys.exit(main(sys.argv[1:]))
"""


def test_serve_with_a_hung_logical_unit_ends_in_bounded_time(place: Place) -> None:
    """A thread that never comes back from a dead file server must not keep the process."""
    arguments = place.command("--drain", "0.5", "--timeout", "100")[3:]
    command = [sys.executable, "-c", textwrap.dedent(HANGING), *arguments]
    with start(command, place.directory / "log") as daemon:
        daemon.ready(place.socket)
        client = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from tests.support.daemon_process import *; register(sys.argv[1], 1)",
                str(place.socket),
            ],
            env=environment(),
            stderr=subprocess.DEVNULL,
        )
        try:
            eventually(lambda: "hanging" in daemon.text, "the hang")
            daemon.process.send_signal(signal.SIGTERM)  # and again: that changes nothing
            assert daemon.end() == 0
        finally:
            client.kill()
            client.wait()
    assert not place.socket.exists()


# systemd.


def manager(place: Place) -> socket.socket:
    """A service manager's notification socket."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.settimeout(PATIENCE)
    made.bind(str(place.directory / "n"))
    return made


def test_serve_tells_the_manager_ready_alive_and_stopping(place: Place) -> None:
    """READY=1 when the socket accepts, WATCHDOG=1 often enough, STOPPING=1 at the end."""
    with manager(place) as notify:
        environ = {"NOTIFY_SOCKET": notify.getsockname(), "WATCHDOG_USEC": "600000"}
        with place.start(**environ) as daemon:
            said = notify.recv(4096)
            while said == b"WATCHDOG=1":  # a busy machine takes its time to be ready
                said = notify.recv(4096)
            assert said.startswith(b"READY=1\n")
            assert greets(place.socket)
            for _ in range(3):
                assert notify.recv(4096) == b"WATCHDOG=1"
            assert daemon.end() == 0
            rest = notify.recv(4096)
            while rest == b"WATCHDOG=1":
                rest = notify.recv(4096)
            assert rest.startswith(b"STOPPING=1")


DEAD = """
    import sys, threading
    from flockpr.prhelper.server import HelperServer

    def die(self):
        raise SystemExit

    HelperServer._accept_all = die
    from flockpr.cli import main
    sys.exit(main(sys.argv[1:]))
"""


def test_serve_that_accepts_no_more_stops_its_watchdog_and_gives_up(place: Place) -> None:
    """Pings only while the accepting threads live; without them there is nothing to wait for."""
    command = [sys.executable, "-c", textwrap.dedent(DEAD), *place.command()[3:]]
    with manager(place) as notify:
        environ = environment(NOTIFY_SOCKET=notify.getsockname(), WATCHDOG_USEC="600000")
        with start(command, place.directory / "log", environ=environ) as daemon:
            assert daemon.process.wait(PATIENCE) == 1
            assert "does not accept any more" in daemon.text
            assert notify.recv(4096).startswith(b"READY=1")
            assert notify.recv(4096).startswith(b"STOPPING=1")


ACTIVATE = """
    import os, sys
    count = int(sys.argv[1])
    for number in range(count):
        os.dup2(int(sys.argv[2 + number]), 100 + number)
    for number in range(count):
        os.dup2(100 + number, 3 + number)
        os.close(100 + number)
    os.environ.update(LISTEN_FDS=str(count), LISTEN_PID=str(os.getpid()))
    command = sys.argv[2 + count:]
    os.execv(command[0], command)
"""


def activated(place: Place, command: list[str], *sockets: socket.socket, **environ: str) -> Running:
    """Start a daemon as systemd does: sockets from 3 upwards, told to this process number."""
    numbers = [str(entry.fileno()) for entry in sockets]
    launcher = [sys.executable, "-c", textwrap.dedent(ACTIVATE), str(len(sockets)), *numbers]
    return start(
        [*launcher, *command],
        place.directory / "log",
        environ=environment(**environ),
        pass_fds=[entry.fileno() for entry in sockets],
    )


def test_serve_of_passed_sockets_knows_them_by_name_and_path(place: Place) -> None:
    """A socket keeps its identity when systemd makes it, and its name when the daemon ends."""
    paths = [place.directory / name for name in ("1", "2", "3")]
    sockets = [socket.socket(socket.AF_UNIX) for _ in paths]
    for made, path in zip(sockets, paths, strict=True):
        made.bind(str(path))
        made.listen()
    config = place.directory / "c.toml"
    config.write_text(
        f'[serve]\nroot = "{place.root}"\nlun = "disk"\ninitiator = "iqn.2026-11.test:0"\n'
        '[[socket]]\nname = "one"\ninitiator = "iqn.2026-11.test:1"\n'
        f'[[socket]]\npath = "{paths[1]}"\ninitiator = "iqn.2026-11.test:2"\n'
    )
    command = [*SERVE, "--config", str(config)]
    names = {"LISTEN_FDNAMES": "one:two:three"}
    with activated(place, command, *sockets, **names) as daemon:
        daemon.ready(paths[0])
        for number, path in enumerate(paths, 1):
            assert register(path, number).status == 0
        assert keys(paths[0]) == [1, 2, 3]  # three initiators
        assert daemon.end() == 0
    assert all(accepts(path) for path in paths)
    for made in sockets:
        made.close()


def test_serve_of_a_passed_socket_and_another_named_is_refused(place: Place) -> None:
    """Whoever says both has made a mistake in one of the two."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(place.directory / "1"))
        made.listen()
        with activated(place, place.command(), made) as daemon:
            assert daemon.process.wait(PATIENCE) != 0
            assert "exclude each other" in daemon.text


# Users.


def give(path: pathlib.Path, uid: int, gid: int) -> None:
    """Give a directory and all that is in it away."""
    for directory, _, files in os.walk(path):
        os.chown(directory, uid, gid)
        for name in files:
            os.chown(os.path.join(directory, name), uid, gid)


@as_root
def test_serve_with_a_service_user_reaches_a_directory_that_is_only_its(place: Place) -> None:
    """The root-squash recipe: root binds the socket, the service user owns the state."""
    user = pwd.getpwnam("nobody")
    give(place.root, user.pw_uid, user.pw_gid)
    with place.start("--user", "nobody", "--socket-mode", "0600") as daemon:
        daemon.ready(place.socket)
        assert daemon.status("Uid").split() == [str(user.pw_uid)] * 4
        assert daemon.status("Gid").split() == [str(user.pw_gid)] * 4
        assert {int(daemon.status(name), 16) for name in ("CapEff", "CapPrm", "CapInh")} == {0}
        assert place.socket.stat().st_uid == 0
        assert stat.S_IMODE(place.socket.stat().st_mode) == 0o600
        assert register(place.socket, 7).status == 0, daemon.text
        assert keys(place.socket) == [7]
        assert daemon.end() == 0
    owners = {
        os.lstat(os.path.join(top, name)).st_uid
        for top, folders, files in os.walk(place.root)
        for name in [*folders, *files]
    }
    assert owners == {user.pw_uid}


WATCHED = """
    import sys
    from flockpr.daemon import main

    real, before = main.reduce_privileges, set()

    def reduce(account, **kept):
        real(account, **kept)
        before.update(sys.modules)

    def leave(code):
        print("late:", *sorted(set(sys.modules) - before), file=sys.stderr)
        return code

    main.reduce_privileges, main.leave = reduce, leave
    from flockpr.cli import main
    sys.exit(main(sys.argv[1:]))
"""


@as_root
def test_serve_imports_nothing_once_it_is_somebody_else(place: Place) -> None:
    """The service user may not be allowed to where Python is installed."""
    give(place.root, 65534, pwd.getpwnam("nobody").pw_gid)
    arguments = place.command("--user", "nobody")[3:]
    command = [sys.executable, "-c", textwrap.dedent(WATCHED), *arguments]
    command.remove("--initiator")
    command.remove("iqn.2026-11.test:a")
    with start(command, place.directory / "log") as daemon:
        daemon.ready(place.socket)
        assert register(place.socket, 7).status == 0
        daemon.process.send_signal(signal.SIGHUP)
        assert keys(place.socket) == [7]
        assert daemon.end() == 0
        assert daemon.text.splitlines()[-1] == "late:"


COUNTED = """
    import sys
    from flockpr.daemon import service

    real, heavy = service.preload_rest, ("flockpr.gate.narrowing", "portalocker")

    def rest():
        print("before:", *(name for name in heavy if name in sys.modules), file=sys.stderr)
        real()
        print("after:", *(name for name in heavy if name in sys.modules), file=sys.stderr)

    service.preload_rest, service.LOAD_AFTER = rest, 2.0
    from flockpr.cli import main
    sys.exit(main(sys.argv[1:]))
"""


def test_serve_answers_a_look_before_it_loads_locks_and_the_gate(place: Place) -> None:
    """A guest's start waits for the first answer; whatever comes next finds all of it loaded."""
    command = [sys.executable, "-c", textwrap.dedent(COUNTED), *place.command()[3:]]
    with start(command, place.directory / "log") as daemon:
        daemon.ready(place.socket)
        assert keys(place.socket) == []
        eventually(lambda: "after:" in daemon.text)
        assert register(place.socket, 7).status == 0
        assert daemon.end() == 0
        lines = daemon.text.splitlines()
    assert [line for line in lines if line.startswith(("before:", "after:"))] == [
        "before:",
        "after: flockpr.gate.narrowing portalocker",
    ]


@as_root
def test_serve_with_a_service_user_that_may_not_in_says_so(place: Place) -> None:
    """The wrong user, or root on a squashed export: an error that names the remedy."""
    done = run(place.command("--user", "nobody"))
    assert done.returncode != 0
    assert f"{place.root}: the root is not accessible to user" in done.stderr
    assert "[serve]" in done.stderr
    assert not accepts(place.socket)  # the name stays: it is in root's directory


@as_root
def test_serve_as_root_keeps_three_capabilities_about_files(place: Place) -> None:
    """State that another user's daemon wrote with 0600 can be read, a device not touched."""
    give(place.root, 65534, 65534)
    with place.start() as daemon:
        daemon.ready(place.socket)
        kept = 1 << 0 | 1 << 1 | 1 << 3
        assert int(daemon.status("CapEff"), 16) == kept
        assert int(daemon.status("CapPrm"), 16) == kept
        assert int(daemon.status("CapBnd"), 16) == 0
        assert daemon.status("Groups") == ""
        assert register(place.socket, 7).status == 0
        assert daemon.end() == 0


@as_root
@pytest.mark.parametrize("user", [(), ("--user", "nobody")])
def test_serve_with_less_privileges_still_tells_machines_apart(
    place: Place, user: tuple[str, ...]
) -> None:
    """The UUID in the arguments of another user's QEMU needs no capability to be read."""
    if user:
        give(place.root, 65534, pwd.getpwnam("nobody").pw_gid)
    command = [*SERVE, "--root", str(place.root), "--socket", str(place.socket), "--lun", "disk"]
    code = "import os, sys, socket; os.setuid(int(sys.argv[1])); s = socket.socket(socket.AF_UNIX)"
    code += "; s.connect(sys.argv[2]); s.sendall(bytes(4)); d = os.open('/dev/null', os.O_RDWR)"
    code += "; socket.send_fds(s, [bytes([0x5e] + [0] * 15)], [d]); sys.stdin.read()"
    uuid = "6fb1a9f2-3c3b-4a5e-8f0d-0123456789ab"
    log = place.directory / "log"
    with start([*command, "--socket-mode", "0666", *user], log) as daemon:
        daemon.ready(place.socket)
        client = [sys.executable, "-c", code, "12345", str(place.socket), "-uuid", uuid]
        with subprocess.Popen(client, stdin=subprocess.PIPE) as process:
            eventually(lambda: uuid in daemon.text, "the identity in the log")
            process.kill()
        assert daemon.end() == 0


@as_root
def test_serve_gives_the_socket_to_owner_and_group(place: Place) -> None:
    """A hand-made service sets who may connect."""
    with place.start("--socket-owner", "nobody", "--socket-group", "12345") as daemon:
        daemon.ready(place.socket)
        found = place.socket.stat()
        assert (found.st_uid, found.st_gid) == (pwd.getpwnam("nobody").pw_uid, 12345)
        assert daemon.end() == 0


def test_serve_as_an_unknown_user_makes_no_socket(place: Place) -> None:
    """Looked up before anything is touched."""
    done = run(place.command("--user", "no-such-user"))
    assert done.returncode != 0
    assert "no user is called 'no-such-user'" in done.stderr
    assert not place.socket.exists()


def test_serve_writes_its_pidfile_and_a_second_one_is_refused(place: Place) -> None:
    """One daemon per pidfile, whatever its socket."""
    pidfile = place.directory / "pid"
    with place.start("--pidfile", str(pidfile)) as daemon:
        daemon.ready(place.socket)
        assert pidfile.read_text() == f"{daemon.process.pid}\n"
        other = run([*place.command("--pidfile", str(pidfile)), "--socket", f"{place.socket}2"])
        assert other.returncode != 0
        assert "Cannot lock pid file" in other.stderr
        assert daemon.end() == 0


def test_serve_without_standard_descriptors_keeps_its_log_out_of_its_files(place: Place) -> None:
    """Closed 0 to 2 would be handed to the next files opened: the locks, the commits."""
    code = "import os, sys; os.closerange(0, 3); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", code, *place.command()]
    with start(command, place.directory / "log", cwd=REPOSITORY) as daemon:
        daemon.ready(place.socket)
        assert register(place.socket, 7).status == 0
        links = {os.readlink(f"/proc/{daemon.process.pid}/fd/{number}") for number in range(3)}
        assert links == {"/dev/null"}
        assert keys(place.socket) == [7]
        assert daemon.end() == 0


@pytest.mark.peer("systemd-socket-activate")
def test_serve_started_by_systemds_own_tool_serves_its_socket(place: Place) -> None:
    """The same variables and descriptors as a socket unit gives, from systemd itself."""
    path = place.directory / "a"
    activate = find("systemd-socket-activate") or ""
    command = [*SERVE, "--root", str(place.root), "--lun", "disk"]
    environ = environment()
    passed_on = [f"--setenv={name}" for name in ("HOME", "PYTHONPATH", "FLOCKPR_CONFIG")]
    launcher = [activate, f"--listen={path}", "--fdname=one", *passed_on, *command]
    with start(launcher, place.directory / "log", environ=environ) as daemon:
        daemon.ready(path)  # the first connection is what starts it
        assert register(path, 7).status == 0
        assert keys(path) == [7]
        assert daemon.end() == 0
