"""flockpr-pr-helper: qemu-pr-helper's command line and its ways as a process."""

from __future__ import annotations

import fcntl
import os
import pathlib
import pwd
import signal
import socket
import stat
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import attrs
import pytest

from flockpr._version import __version__
from flockpr.daemon.pr_helper import Options, UsageError, main, parse
from flockpr.errors import ConfigError
from flockpr.prhelper.client import HelperClient
from flockpr.store.provision import create_lun
from tests.support.daemon_process import (
    PATIENCE,
    PR_HELPER,
    READ_KEYS,
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

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@attrs.frozen
class Place:
    """A directory with a root and with the configuration file that the helper reads."""

    directory: pathlib.Path

    @property
    def socket(self) -> pathlib.Path:
        """Where the helper is told to listen."""
        return self.directory / "s"

    @property
    def root(self) -> pathlib.Path:
        """The root; its logical unit is called disk."""
        return self.directory / "root"

    def environ(self, more: str = "", **variables: str) -> dict[str, str]:
        """An environment whose configuration serves the disk, and says `more`."""
        config = self.directory / "c.toml"
        config.write_text(f'[serve]\nroot = "{self.root}"\nlun = "disk"\n{more}\n')
        return environment(FLOCKPR_CONFIG=str(config), **variables)

    def start(self, *arguments: str, more: str = "") -> Running:
        """Start the helper with -k and these arguments."""
        command = [*PR_HELPER, "-k", str(self.socket), *arguments]
        return start(command, self.directory / "log", environ=self.environ(more))


@pytest.fixture
def place() -> Iterator[Place]:
    """A new place, gone after the test."""
    with short_directory() as directory:
        (directory / "root").mkdir(mode=0o700)
        create_lun(str(directory / "root"), "disk")
        yield Place(directory)


# The command line by itself.


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], Options()),
        (["-k", "/s"], Options(socket="/s")),
        (["-k/s"], Options(socket="/s")),
        (["--socket=/s"], Options(socket="/s")),
        (["--sock", "/s"], Options(socket="/s")),
        (["-k", "/a", "-k", "/s"], Options(socket="/s")),
        (["-dk", "/s", "-f", "/p"], Options(socket="/s", pidfile="/p", daemon=True)),
        (["word", "-k", "/s", "another"], Options(socket="/s")),
        (["--", "-k", "/s"], Options()),
        (["-u", "root", "-g", "0"], Options(user="root", group="0")),
        (["-u", "4000000000"], Options(user="4000000000")),
        (["-v", "-v"], Options(verbosity=2)),
        (["--verbose"], Options(verbosity=1)),
        (["-q"], Options(verbosity=-1)),
        (["--quiet"], Options(verbosity=-1)),
        (["-T", "help"], Options(text="")),
        (["-T", "pr_manager_*", "-k", "/s"], Options(socket="/s")),
    ],
)
def test_parse_takes_the_real_helpers_options(arguments: list[str], expected: Options) -> None:
    """Short, long, bundled, abbreviated, repeated; words are ignored."""
    assert parse(arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--bogus"], "bogus"),
        (["-z"], "-z"),
        (["-k"], "requires argument"),
        (["-k", "relative"], "must be an absolute path"),
        (["-k", ""], "must be an absolute path"),
        (["-k", "/" + "x" * 107], "too long"),
        (["-u", "no-such-user"], "no user is called 'no-such-user'"),
        (["-u", "4294967295"], "no user"),
        (["-g", "no-such-group"], "no group is called 'no-such-group'"),
        (["-u", "no-such-user", "-V"], "no user"),
    ],
)
def test_parse_of_a_mistake_says_which(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 and one line, which libvirt shows as the reason."""
    with pytest.raises((UsageError, ConfigError), match=complaint):
        parse(arguments)
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("flockpr-pr-helper: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_socket_path_of_107_bytes_is_the_longest() -> None:
    """sun_path has 108 bytes with the final NUL."""
    assert parse(["-k", "/" + "x" * 106]).socket is not None


def test_version_looks_like_qemu_pr_helpers(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs read the name and a number from the first line."""
    assert main(["-V"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"qemu-pr-helper {__version__} (flockpr)"


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    """What parses is described."""
    assert main(["-h", "--bogus"]) == 1
    assert main(["-h"]) == 0
    text = capsys.readouterr().out
    for option in ("-k", "-f", "-d", "-u", "-g", "-v", "-q", "-T", "-h", "-V"):
        assert f"  {option}, --" in text


# As a process.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_helper_serves_until_a_signal_and_exits_0(place: Place, number: int) -> None:
    """SIGHUP is an end here, as for the real helper; the socket goes, the state stays."""
    with place.start() as helper:
        helper.ready(place.socket)
        assert register(place.socket, 7).status == 0
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(place.socket))
            assert helper.end(number) == 0
    assert not place.socket.exists()
    with place.start() as helper:
        helper.ready(place.socket)
        assert keys(place.socket) == [7]


def test_helper_by_libvirt_keeps_pid_and_inherited_lock(place: Place) -> None:
    """One process, and the pidfile that libvirt locked stays open and locked."""
    pidfile = place.directory / "libvirt.pid"
    code = textwrap.dedent("""
        import fcntl, os, struct, sys
        descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
        os.set_inheritable(descriptor, True)
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 1, 0)
        fcntl.fcntl(descriptor, fcntl.F_SETLK, lock)
        os.chdir("/")
        os.execv(sys.argv[2], sys.argv[2:])
    """)
    command = [*PR_HELPER, "-k", str(place.socket)]
    reader, writer = os.pipe()  # nobody reads it: so does libvirt after the start
    environ = place.environ('log_level = "debug"')
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(pidfile), *command],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=writer,
        text=True,
    )
    os.close(writer)
    with Running(process, place.directory / "none") as helper:
        eventually(lambda: accepts(place.socket), "the start")
        with HelperClient(str(place.socket), timeout=PATIENCE) as client:
            for _ in range(2000):  # far more log lines than the pipe takes
                assert client.execute(1, READ_KEYS).status == 0
        with pidfile.open("r+") as file:
            question = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 1, 0)
            answer = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, question))
        assert answer[0] == fcntl.F_WRLCK
        assert answer[4] == process.pid
        assert helper.end() == 0
    os.close(reader)


def test_helper_in_background_is_ready_when_its_parent_ends(place: Place) -> None:
    """-d: everything in place, cwd /, no terminal, the pidfile names the child."""
    pidfile = place.directory / "pid"
    command = [*PR_HELPER, "-d", "-k", str(place.socket), "-f", str(pidfile)]
    done = run(command, environ=place.environ())
    assert done.returncode == 0, done.stderr
    number = int(pidfile.read_text())
    try:
        assert pidfile.read_text() == f"{number}\n"
        assert stat.S_IMODE(pidfile.stat().st_mode) == 0o600
        assert greets(place.socket)
        proc = pathlib.Path(f"/proc/{number}")
        assert os.readlink(proc / "cwd") == "/"
        assert {os.readlink(proc / "fd" / str(fd)) for fd in range(3)} == {"/dev/null"}
        assert os.getsid(number) == number
        assert register(place.socket, 7).status == 0
        second = run([*command[:-3], f"{place.socket}2", "-f", str(pidfile)])
        assert second.returncode == 1
        assert "Cannot lock pid file" in second.stderr
    finally:
        os.kill(number, signal.SIGTERM)
    eventually(lambda: not place.socket.exists(), "the end")
    assert pidfile.exists()


def test_helper_in_background_that_fails_says_so_and_exits_1(place: Place) -> None:
    """The parent waits for its child: a failure is still a failure of the command."""
    environ = place.environ()
    environ["FLOCKPR_ROOT"] = str(place.directory / "missing")
    pidfile = str(place.directory / "pid")
    done = run([*PR_HELPER, "-d", "-k", str(place.socket), "-f", pidfile], environ=environ)
    assert done.returncode == 1
    assert "no such root" in done.stderr
    assert not place.socket.exists()


@as_root
def test_helper_in_background_that_fails_after_the_fork_says_so(place: Place) -> None:
    """What only the service user finds out is still an error of the command."""
    command = [*PR_HELPER, "-d", "-u", "nobody", "-k", str(place.socket)]
    done = run([*command, "-f", str(place.directory / "pid")], environ=place.environ())
    assert done.returncode == 1
    assert "not accessible to user" in done.stderr
    assert not accepts(place.socket)


def test_helper_pidfile_without_d_names_itself(place: Place) -> None:
    """-f alone writes it, too."""
    pidfile = place.directory / "pid"
    with place.start("-f", str(pidfile)) as helper:
        helper.ready(place.socket)
        assert pidfile.read_text() == f"{helper.process.pid}\n"
        assert helper.end() == 0
    assert pidfile.exists()


def test_helper_reads_the_identity_of_its_socket_from_the_file(place: Place) -> None:
    """A [[socket]] of that path, and the wwids and the log of the file; not the user's file."""
    more = (
        'log_format = "json"\npidfile = "/nonexistent/pid"\n'
        f'[[socket]]\npath = "{place.socket}"\ninitiator = "iqn.2026-11.test:me"\n'
        '[[socket]]\npath = "/nonexistent/other"\n'
    )
    with place.start(more=more) as helper:
        helper.ready(place.socket)
        assert register(place.socket, 7).status == 0
        eventually(lambda: "iqn.2026-11.test:me" in helper.text, "the log line")
        assert helper.end() == 0


def test_helper_with_a_broken_file_names_it(place: Place) -> None:
    """Under libvirt the line becomes the error of the machine's start."""
    environ = place.environ("rot = 1")
    done = run([*PR_HELPER, "-k", str(place.socket)], environ=environ)
    assert done.returncode == 1
    assert done.stderr == (
        f"flockpr-pr-helper: {environ['FLOCKPR_CONFIG']}: serve.rot: unknown key;"
        " the nearest known one is 'root'\n"
    )


@pytest.mark.parametrize(("option", "level"), [("-q", "error"), ("-v", "debug")])
def test_helper_verbosity_beats_the_file(place: Place, option: str, level: str) -> None:
    """-v and -q set the level."""
    with place.start(option, more='log_level = "warning"') as helper:
        helper.ready(place.socket)
        keys(place.socket)
        assert helper.end() == 0
        assert (" debug " in helper.text) == (level == "debug")
        assert (helper.text == "") == (level == "error")


@as_root
def test_helper_with_u_becomes_that_user_and_its_group(place: Place) -> None:
    """-u alone also leaves root's group, which an export would squash as well."""
    user = pwd.getpwnam("nobody")
    for top, folders, files in os.walk(place.root):
        for name in [top, *(os.path.join(top, name) for name in [*folders, *files])]:
            os.chown(name, user.pw_uid, user.pw_gid)
    with place.start("-u", "nobody", more='group = "root"') as helper:
        helper.ready(place.socket)
        assert helper.status("Uid").split() == [str(user.pw_uid)] * 4
        assert helper.status("Gid").split() == [str(user.pw_gid)] * 4
        assert register(place.socket, 7).status == 0
        assert helper.end() == 0


def test_helper_without_its_socket_option_takes_the_real_default() -> None:
    """Not the environment's or the file's: those are the sockets of `flockpr serve`."""
    code = (
        "import sys, flockpr.daemon.main as m\n"
        "def run(settings, style):\n"
        "    print([entry.path for entry in settings.sockets], settings.serve.pidfile)\n"
        "    return 0\n"
        "m.run = run\n"
        "from flockpr.daemon.pr_helper import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    environ = environment(FLOCKPR_SOCKET="/elsewhere", FLOCKPR_PIDFILE="/elsewhere.pid")
    done = run([sys.executable, "-c", code], environ=environ)
    assert done.stdout == "['/var/run/qemu-pr-helper.sock'] None\n", done.stderr
    done = run([sys.executable, "-c", code, "-d"], environ=environ)
    assert done.stdout == "['/var/run/qemu-pr-helper.sock'] /var/run/qemu-pr-helper.pid\n"


HEAVY = """
    import sys
    from flockpr.prhelper.listener import Listener

    def bind(cls, path, **options):
        print(*sorted(sys.modules))
        sys.exit(0)

    Listener.bind = classmethod(bind)
    from flockpr.daemon.pr_helper import main
    main(["-k", "/nonexistent/s"])
"""


def test_helper_loads_little_before_it_listens(place: Place) -> None:
    """A guest's retries last 4 s, a restart of the machine waits for the socket."""
    done = run([sys.executable, "-c", textwrap.dedent(HEAVY)], environ=place.environ())
    loaded = set(done.stdout.split())
    assert "flockpr.prhelper.listener" in loaded, done.stderr
    heavy = {"flockpr.units", "flockpr.logical_unit", "portalocker", "argparse", "subprocess"}
    heavy |= {"concurrent.futures", "ctypes", "difflib", "json.decoder.scanner", "asyncio"}
    assert loaded & heavy == set()


def test_helper_of_a_passed_socket_with_k_is_refused(place: Place) -> None:
    """As the real helper: exit 1, and the socket of systemd is left alone."""
    path = place.directory / "a"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        made.listen()
        with passed_to(place, made, "-k", str(place.socket)) as helper:
            assert helper.process.wait(PATIENCE) == 1
            assert "exclude each other" in helper.text
        with passed_to(place, made) as helper:
            helper.ready(path)
            assert register(path, 7).status == 0
            assert helper.end() == 0
        assert accepts(path)


def passed_to(place: Place, made: socket.socket, *arguments: str) -> Running:
    """Start the helper with one socket as descriptor 3."""
    code = (
        "import os, sys\n"
        "os.dup2(int(sys.argv[1]), 3)\n"
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
        "os.execv(sys.argv[2], sys.argv[2:])\n"
    )
    return start(
        [sys.executable, "-c", code, str(made.fileno()), *PR_HELPER, *arguments],
        place.directory / "log",
        environ=place.environ(),
        pass_fds=[made.fileno()],
    )
