"""flockpr-pr-helper beside the real qemu-pr-helper: same invocations, same outcome.

What is compared is what a manager of machines can see: exit codes, whether there is output,
names left behind, modes, the pidfile's content and lock, what a signal does. Where the two
differ on purpose there is a test of its own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import shlex
import signal
import socket
import stat
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.daemon_process import (
    PATIENCE,
    PR_HELPER,
    accepts,
    environment,
    eventually,
    greets,
    run,
    short_directory,
    start,
)
from tests.support.peers import find

pytestmark = pytest.mark.peer("qemu-pr-helper")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="the real helper wants to drop privileges")


def both() -> list[tuple[str, list[str]]]:
    """The commands of the two helpers."""
    return [("real", [find("qemu-pr-helper") or ""]), ("ours", list(PR_HELPER))]


def prepared(directory: pathlib.Path) -> dict[str, str]:
    """An environment for either; ours gets an empty root."""
    root = directory.with_name(f"{directory.name}-root")
    root.mkdir(mode=0o700)
    return environment(FLOCKPR_ROOT=str(root))


def left(directory: pathlib.Path) -> list[tuple[str, str, str]]:
    """Names in a directory, with kind and mode."""
    found = []
    for path in sorted(directory.iterdir()):
        mode = path.lstat().st_mode
        found.append((path.name, stat.filemode(mode), oct(stat.S_IMODE(mode))))
    return found


def serving(command: Sequence[str], line: str, number: int) -> dict[str, Any]:
    """What is seen of a helper that serves {d}/s, and after that signal."""
    with short_directory() as directory:
        place = directory / "d"
        place.mkdir()
        environ = prepared(place)
        arguments = shlex.split(line.format(d=place))
        seen: dict[str, Any] = {}
        with start(
            [*command, *arguments], directory / "log", environ=environ, umask=0o022
        ) as helper:
            helper.ready(place / "s")
            seen["running"] = left(place)
            if (place / "p").exists():
                seen["pid"] = (place / "p").read_text() == f"{helper.process.pid}\n"
                other = [*command, "-k", str(place / "s2"), "-f", str(place / "p")]
                second = run(other, environ=environ)
                seen["second"] = (second.returncode, "Cannot lock pid file" in second.stderr)
                (place / "s2").unlink(missing_ok=True)  # the real one leaves it
            seen["exit"] = helper.end(number, insist=command[0] not in PR_HELPER)
        seen["left"] = left(place)
        return seen


@as_root
@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("-k {d}/s", signal.SIGTERM),
        ("-k {d}/s", signal.SIGINT),
        ("-k {d}/s", signal.SIGHUP),
        ("-k {d}/s", signal.SIGKILL),
        ("-k {d}/s -f {d}/p", signal.SIGTERM),
        ("-k {d}/s -f {d}/p", signal.SIGKILL),
        ("-k{d}/s", signal.SIGTERM),
        ("-qk {d}/s", signal.SIGTERM),
        ("-v -v -k {d}/s", signal.SIGTERM),
        ("--socket={d}/s --verbose --quiet", signal.SIGTERM),
        ("--socket {d}/s --pidfile={d}/p", signal.SIGTERM),
        ("--sock {d}/s", signal.SIGTERM),
        ("some -k {d}/s words", signal.SIGTERM),
        ("-k {d}/other -k {d}/s", signal.SIGTERM),
        ("-k {d}/s -- -k relative", signal.SIGTERM),
        ("-T no_such_event -k {d}/s", signal.SIGTERM),
        ("-u root -g root -k {d}/s", signal.SIGTERM),
        ("-u 0 -k {d}/s", signal.SIGTERM),
    ],
)
def test_helper_that_serves_is_seen_as_the_real_one(line: str, number: int) -> None:
    """Names and modes while it serves, the pidfile and its lock, exit code, names left."""
    (_, real), (_, ours) = both()
    assert serving(ours, line, number) == serving(real, line, number)


@as_root
@pytest.mark.parametrize(
    "line",
    [
        "-h",
        "--help",
        "-V",
        "--version",
        "-T help",
        "-T no_such_event -V",
        "-u 999999 -V",
        "--sock=/x -V",
        "-k relative",
        "-k ''",
        "-k /" + "x" * 108,  # 108 bytes, without room for a NUL, the real one takes
        "-u no-such-user",
        "-g no-such-group",
        "-u no-such-user -V",
        "-u root -g no-such-group -k {d}/s",
        "--bogus",
        "-z",
        "-k",
        "--socket",
        "-k {d}",
        "-k {d}/no/s",
        "-k {d}/s -f {d}/no/p",
        "-k {d}/s -f {d}",
    ],
)
def test_helper_that_ends_at_once_ends_as_the_real_one(line: str) -> None:
    """Exit code, and on which of the two outputs something is said."""
    outcomes = []
    for name, command in both():
        with short_directory() as directory:
            place = directory / "d"
            place.mkdir()
            done = run([*command, *shlex.split(line.format(d=place))], environ=prepared(place))
            # -T help lists QEMU's own trace events; ours has none to list.
            said = bool(done.stdout) or (name == "ours" and line == "-T help")
            outcomes.append((done.returncode, said, bool(done.stderr)))
    assert outcomes[1] == outcomes[0]


@as_root
def test_helper_version_line_reads_as_the_real_one() -> None:
    """The name without a directory, then a number."""
    words = []
    for _, command in both():
        first = run([*command, "-V"]).stdout.splitlines()[0].split()
        number = first[1].split(".")
        words.append((os.path.basename(first[0]), all(part.isdigit() for part in number)))
    assert words[1] == words[0] == ("qemu-pr-helper", True)


@as_root
def test_helper_in_background_is_seen_as_the_real_one() -> None:
    """-d: exit 0, pidfile of the child, its directory and its standard descriptors."""
    outcomes = []
    for _, command in both():
        with short_directory() as directory:
            place = directory / "d"
            place.mkdir()
            pidfile = place / "p"
            arguments = ["-d", "-k", str(place / "s"), "-f", str(pidfile)]
            done = run([*command, *arguments], environ=prepared(place))
            eventually(functools.partial(written, pidfile), "the pidfile")
            number = int(pidfile.read_text())
            try:
                proc = pathlib.Path(f"/proc/{number}")
                seen = {
                    "exit": done.returncode,
                    "serves": greets(place / "s"),
                    "cwd": os.readlink(proc / "cwd"),
                    "standard": [os.readlink(proc / "fd" / str(fd)) for fd in range(3)],
                    "leader": os.getsid(number) == number,
                    "names": left(place),
                }
            finally:
                eventually(functools.partial(ended, number, place / "s"), "the end")
            outcomes.append(seen | {"left": left(place)})
    assert outcomes[1] == outcomes[0]


ACTIVATE = """
    import os, sys
    count, listen_fds, listen_pid = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    for number in range(count):
        os.dup2(int(sys.argv[4 + number]), 100 + number)
    for number in range(count):
        os.dup2(100 + number, 3 + number)
        os.close(100 + number)
    pid = str(os.getpid()) if listen_pid == "own" else listen_pid
    os.environ.update(LISTEN_FDS=listen_fds, LISTEN_PID=pid)
    command = sys.argv[4 + count:]
    os.execv(command[0], command)
"""


@as_root
@pytest.mark.parametrize(
    ("count", "listen_fds", "listen_pid", "line", "served"),
    [
        (1, "1", "own", "", "passed"),
        (1, "1", "own", "-q -v", "passed"),
        (1, "1", "own", "-k {d}/s", None),
        (2, "2", "own", "", None),
        (1, "1", "1", "-k {d}/s", "s"),
        (1, "x", "own", "-k {d}/s", "s"),
        (1, "0", "own", "-k {d}/s", "s"),
        (1, "", "own", "-k {d}/s", "s"),
    ],
)
def test_helper_with_passed_sockets_acts_as_the_real_one(
    count: int, listen_fds: str, listen_pid: str, line: str, served: str | None
) -> None:
    """LISTEN_FDS: one socket, and only if meant for this process and without -k."""
    outcomes: list[dict[str, Any]] = []
    for _, command in both():
        with short_directory() as directory:
            place = directory / "d"
            place.mkdir()
            sockets = [socket.socket(socket.AF_UNIX) for _ in range(count)]
            for index, made in enumerate(sockets):
                made.bind(str(place / ("passed" if index == 0 else "second")))
                made.listen()
            numbers = [str(made.fileno()) for made in sockets]
            launcher = [sys.executable, "-c", textwrap.dedent(ACTIVATE), str(count)]
            launcher += [listen_fds, listen_pid, *numbers]
            launcher += [*command, *shlex.split(line.format(d=place))]
            pass_fds = [made.fileno() for made in sockets]
            with start(
                launcher, directory / "log", environ=prepared(place), pass_fds=pass_fds, umask=0o022
            ) as helper:
                if served is None:
                    outcomes.append({"exit": helper.process.wait(PATIENCE), "left": left(place)})
                else:
                    helper.ready(place / served)
                    running = left(place)
                    seen = {
                        "running": running,
                        "exit": helper.end(insist=command[0] not in PR_HELPER),
                        "left": left(place),
                    }
                    outcomes.append(seen)
            for made in sockets:
                made.close()
    assert outcomes[1] == outcomes[0]


# Different on purpose.


@as_root
def test_helper_over_a_live_socket_does_not_steal_as_the_real_one_does() -> None:
    """The real one takes the name, and its predecessor removes it at its end."""
    for name, command in both():
        with short_directory() as directory:
            place = directory / "d"
            place.mkdir()
            environ = prepared(place)
            path = place / "s"
            with start([*command, "-k", str(path)], directory / "log", environ=environ) as first:
                first.ready(path)
                inode = path.stat().st_ino
                with start(
                    [*command, "-k", str(path)], directory / "log2", environ=environ
                ) as second:
                    if name == "ours":
                        assert second.process.wait(PATIENCE) == 1
                        assert path.stat().st_ino == inode
                    else:
                        eventually(functools.partial(taken, path, inode), "the theft")
                        second.end(insist=True)


def written(path: pathlib.Path) -> bool:
    """Whether there is something in a file."""
    return path.exists() and bool(path.read_text())


def ended(number: int, path: pathlib.Path) -> bool:
    """Whether a socket is gone; until then its process is told to end, see `Running.end`."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, signal.SIGTERM)
    return not path.exists()


def taken(path: pathlib.Path, inode: int) -> bool:
    """Whether the name leads elsewhere."""
    try:
        return path.stat().st_ino != inode
    except FileNotFoundError:
        return False


@as_root
def test_helper_over_a_regular_file_does_not_delete_it_as_the_real_one_does() -> None:
    """A slip of the tab key must not cost a disk image."""
    for name, command in both():
        with short_directory() as directory:
            place = directory / "d"
            place.mkdir()
            path = place / "s"
            path.write_text("precious")
            arguments = [*command, "-k", str(path)]
            with start(arguments, directory / "log", environ=prepared(place)) as helper:
                if name == "ours":
                    assert helper.process.wait(PATIENCE) == 1
                    assert path.read_text() == "precious"
                else:
                    helper.ready(path)


@as_root
def test_helper_keeps_what_passing_on_and_files_need() -> None:
    """CAP_SYS_RAWIO as the real one; ours keeps what lock directories need beside it."""
    kept = {}
    for name, command in both():
        with short_directory() as directory:
            place = directory / "d"
            place.mkdir()
            arguments = [*command, "-k", str(place / "s")]
            with start(arguments, directory / "log", environ=prepared(place)) as helper:
                helper.ready(place / "s")
                kept[name] = {
                    key: int(helper.status(key), 16) for key in ("CapEff", "CapPrm", "CapBnd")
                }
                assert helper.status("Groups") == ""
    assert kept["real"] == {"CapEff": 1 << 17, "CapPrm": 1 << 17, "CapBnd": 0}
    assert kept["ours"] == {"CapEff": 1 << 17 | 0b1011, "CapPrm": 1 << 17 | 0b1011, "CapBnd": 0}


@as_root
def test_helper_takes_a_burst_of_connections_that_the_real_one_refuses() -> None:
    """A backlog of 1 fails guests that start together."""
    for name, command in both():
        with short_directory() as directory:
            place = directory / "d"
            place.mkdir()
            arguments = [*command, "-k", str(place / "s")]
            with start(arguments, directory / "log", environ=prepared(place)) as helper:
                helper.ready(place / "s")
                os.kill(helper.process.pid, signal.SIGSTOP)
                clients = [socket.socket(socket.AF_UNIX) for _ in range(50)]
                refused = 0
                for client in clients:
                    client.setblocking(False)
                    refused += client.connect_ex(str(place / "s")) != 0
                os.kill(helper.process.pid, signal.SIGCONT)
                for client in clients:
                    client.close()
                assert (refused > 0) == (name == "real")
                assert helper.end(insist=name == "real") == 0
    assert not accepts(place / "s")
