"""The real helper and ours make the same of what the kernel says of a command.

Errors of adapters and drivers cannot be provoked without such hardware, so SG_IO is answered by
a library that is preloaded into both; everything else is real. What a device answers is compared
in tests/vm/test_passing.py, over a device.
"""

from __future__ import annotations

import errno
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest

from flockpr import create_lun
from flockpr.errors import ProtocolViolation
from flockpr.prhelper.client import HelperClient, HelperReply
from tests.support.daemon_process import (
    PATIENCE,
    SERVE,
    environment,
    eventually,
    short_directory,
    start,
)
from tests.support.peers import require

pytestmark = pytest.mark.peer("qemu-pr-helper", "cc")

SOURCE = pathlib.Path(__file__).parents[1] / "support" / "sg_answers.c"
IN = bytes((0x5E, 0xE1, 7, 0, 0, 0, 0, 0, 24, 0))
OUT = bytes((0x5F, 6, 5, 0, 0, 0, 0, 0, 24, 0))
LIST = bytes(range(24))
IO_ERROR = (0x0B, 0x00, 0x06)

UNKNOWN_HOST = (0x06, 0x07, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x0F, 0x14, 0x15, 0xFF)
"""Host statuses that the real helper takes for success; 07h is DID_ERROR, "internal error"."""
KNOWN_HOST = (1, 2, 3, 4, 5, 8, 0x0E, 0x10, 0x11, 0x12, 0x13)
KNOWN_STATUS = (0x02, 0x08, 0x18, 0x28, 0x30, 0x40)
ERRORS = (
    *("EINVAL", "EBADE", "EDOM", "ENOMEM", "EREMOTEIO", "ENOSPC", "ENOMEDIUM", "ENODATA", "EIO"),
    *("ENOTTY", "EBADF", "ENODEV", "ENXIO", "EPERM", "EACCES", "EROFS", "ETIMEDOUT", "ENOTCONN"),
    *("EBUSY", "EINTR", "EAGAIN", "EOPNOTSUPP", "ENOLINK", "EILSEQ", "ECANCELED", "EFAULT"),
)


@attrs.frozen
class Said:
    """What the kernel says: a line of the library's file."""

    error: int = 0
    host: int = 0
    driver: int = 0
    status: int = 0
    residual: int = 0
    sense: int = 0

    def line(self) -> str:
        """The line."""
        return " ".join(str(value) for value in attrs.astuple(self))


ALIKE = {
    "good": Said(),
    "short": Said(residual=8180),
    "nothing came": Said(residual=8192),
    **{name: Said(error=getattr(errno, name)) for name in ERRORS},
    "error beside statuses": Said(error=errno.EIO, host=3, driver=6, status=2, sense=18),
    **{f"host {host:#04x}": Said(host=host) for host in KNOWN_HOST},
    **{f"driver {driver:#04x}": Said(driver=driver) for driver in (1, 2, 4, 6, 8, 0x28)},
    "timeout of both": Said(host=3, driver=6),
    **{f"status {status:#04x}": Said(status=status) for status in KNOWN_STATUS},
    "sense": Said(driver=8, status=2, sense=18),
    "longest sense": Said(driver=8, status=2, sense=96),
    "sense that nobody announced": Said(status=2, sense=8),
    "sense and nothing came": Said(driver=8, status=2, residual=8192, sense=18),
}
BETTER = {f"host {host:#04x}": Said(host=host) for host in UNKNOWN_HOST} | {
    "host error beside a check condition": Said(host=7, driver=8, status=2, sense=18),
}
"""The real helper says GOOD."""


@attrs.define
class Helper:
    """A helper that the library was preloaded into."""

    answer: pathlib.Path
    client: HelperClient

    def ask(self, said: Said, cdb: bytes, data_out: bytes = b"") -> HelperReply:
        """Send a command for a device, of which the kernel says this."""
        self.answer.write_text(said.line())
        with open("/dev/null", "r+b") as device:
            return self.client.execute(device.fileno(), cdb, data_out)

    def asked(self) -> list[list[str]]:
        """What the kernel was asked, each in words."""
        path = self.answer.with_name(f"{self.answer.name}.asked")
        text = path.read_text() if path.exists() else ""  # made with the first question
        return [line.split() for line in text.splitlines()]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The library, compiled."""
    path = tmp_path_factory.mktemp("library") / "sg_answers.so"
    command = [require("cc")["cc"], "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(
        [*command, "-o", str(path), str(SOURCE)], check=True, capture_output=True, timeout=PATIENCE
    )
    return path


@pytest.fixture(scope="module")
def helpers(library: pathlib.Path) -> Iterator[tuple[Helper, Helper]]:
    """The real one, and ours."""
    with short_directory() as folder:
        sockets = folder / "real", folder / "ours"
        create_lun(str(folder / "root"), "another")  # else its share may not be mounted
        real = [require("qemu-pr-helper")["qemu-pr-helper"], "-k", str(sockets[0])]
        ours = [*SERVE, "--manager", "sgio", "--root", str(folder / "root")]
        ours += ["--socket", str(sockets[1])]
        answers = folder / "real.answer", folder / "ours.answer"
        preloaded = [
            environment(LD_PRELOAD=str(library), FLOCKPR_SG_ANSWER=str(answer))
            for answer in answers
        ]
        with (
            start(real, folder / "real.log", environ=preloaded[0]) as first,
            start(ours, folder / "ours.log", environ=preloaded[1]) as second,
        ):
            first.ready(sockets[0])
            second.ready(sockets[1])
            with (
                HelperClient(str(sockets[0]), timeout=PATIENCE) as to_real,
                HelperClient(str(sockets[1]), timeout=PATIENCE) as to_ours,
            ):
                yield Helper(answers[0], to_real), Helper(answers[1], to_ours)


@pytest.mark.parametrize("name", ALIKE)
def test_both_make_the_same_of_what_the_kernel_says(
    helpers: tuple[Helper, Helper], name: str
) -> None:
    """Byte for byte, for commands of either direction."""
    real, ours = helpers
    for command in ((IN, b""), (OUT, LIST)):
        assert ours.ask(ALIKE[name], *command) == real.ask(ALIKE[name], *command)


@pytest.mark.parametrize("name", BETTER)
def test_failure_that_the_real_helper_does_not_know_is_no_success(
    helpers: tuple[Helper, Helper], name: str
) -> None:
    """A lost PERSISTENT RESERVE OUT would be acknowledged."""
    real, ours = helpers
    for command in ((IN, b""), (OUT, LIST)):
        assert real.ask(BETTER[name], *command).status == 0
        reply = ours.ask(BETTER[name], *command)
        assert (reply.status, reply.sense_code, reply.data_in) == (2, IO_ERROR, b"")


def test_status_that_nobody_knows_is_an_error(helpers: tuple[Helper, Helper]) -> None:
    """Reserved codes reach a guest as what its driver makes of them; so they do not leave."""
    real, ours = helpers
    for status in (0x3F, 0xFF):
        assert real.ask(Said(status=status), IN).status == status
        reply = ours.ask(Said(status=status), IN)
        assert (reply.status, reply.sense_code) == (2, IO_ERROR)


def test_sense_data_without_check_condition_does_not_leave(helpers: tuple[Helper, Helper]) -> None:
    """The real helper sends what was in the buffer; it means nothing to its client."""
    real, ours = helpers
    for said in (Said(driver=8, sense=18), Said(driver=8, status=0x18, sense=18)):
        one, other = real.ask(said, IN), ours.ask(said, IN)
        assert (one.status, one.data_in) == (other.status, other.data_in)
        assert not any(other.sense)


def test_kernel_is_asked_the_same(helpers: tuple[Helper, Helper]) -> None:
    """Buffers, lengths, directions and the bytes of CDB and list, as far as the client lets them
    be chosen; but for the timeout, of which an sg node takes one millisecond at its word.
    """
    real, ours = helpers
    before = len(real.asked()), len(ours.asked())
    sizes = ((0, 0), (0, 1), (32, 0))
    commands = [
        *((bytes((0x5E, action, 0, 0, 0, 0, 0, 0, 24, 0)), b"") for action in (0, 1, 3, 0x1F)),
        *((bytes((0x5E, 0, 0, 0, 0, 0, 0, high, low, 4)), b"") for high, low in ((32, 0), (0, 0))),
        *((bytes((0x5F, action, 0xF5, 9, 9, 9, 9, 0, 24, 4)), LIST) for action in (0, 7, 0x1F)),
        *(
            (bytes((0x5F, 0, 0, 0, 0, 0, 0, *size, 0)), bytes(256 * size[0] + size[1]))
            for size in sizes
        ),
        (bytes((0x5E, 0, 0, 0, 0, 0, 0, 0, 8, 0, 1, 2, 3, 4, 5, 6)), b""),
    ]
    for command in commands:
        assert ours.ask(Said(), *command) == real.ask(Said(), *command)
    asked = [helper.asked()[start:] for helper, start in zip(helpers, before, strict=True)]
    assert len(asked[0]) == len(commands)
    timeouts = [{words.pop(6) for words in each} for each in asked]
    assert asked[0] == asked[1]
    assert timeouts == [{"1"}, {"7000"}]


def test_read_only_descriptor_is_refused_before_the_kernel_is_asked(
    helpers: tuple[Helper, Helper],
) -> None:
    """Its access mode is the only proof that the guest may write."""
    asked = [len(helper.asked()) for helper in helpers]
    for helper in helpers:
        with open("/dev/null", "rb") as device:
            reply = helper.client.execute(device.fileno(), OUT, LIST)
        assert (reply.status, reply.sense_code) == (2, (5, 0x20, 0))
    assert [len(helper.asked()) for helper in helpers] == asked


def test_what_is_no_device_is_not_asked(
    helpers: tuple[Helper, Helper], tmp_path: pathlib.Path
) -> None:
    """A file system in user space would answer for its file, and could take for ever."""
    _, ours = helpers
    asked = len(ours.asked())
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        reply = ours.client.execute(file, OUT, LIST)
    finally:
        os.close(file)
    assert (reply.status, reply.sense_code) == (2, IO_ERROR)
    assert len(ours.asked()) == asked


def test_device_that_hangs_delays_nobody(library: pathlib.Path) -> None:
    """Not another guest, not another disk of the same one; the guest itself is told after a while,
    and the daemon ends when it is asked to.
    """
    with short_directory() as folder:
        create_lun(str(folder / "root"), "another")
        answer = folder / "answer"
        answer.write_text(Said().line())
        hang = folder / "answer.hang"
        hang.touch()
        command = [*SERVE, "--manager", "sgio", "--root", str(folder / "root"), "--timeout", "0.1"]
        command += ["--socket", str(folder / "s"), "--drain", "0"]
        environ = environment(LD_PRELOAD=str(library), FLOCKPR_SG_ANSWER=str(answer))
        with start(command, folder / "log", environ=environ) as daemon:
            daemon.ready(folder / "s")
            with (
                HelperClient(str(folder / "s"), timeout=PATIENCE) as guest,
                HelperClient(str(folder / "s"), timeout=PATIENCE) as other,
                open("/dev/null", "r+b") as hung,
                open("/dev/zero", "r+b") as well,
                ThreadPoolExecutor(1) as pool,
            ):
                for _ in range(8):  # where answers need no waiting, in the thread of all
                    assert other.execute(well.fileno(), IN).status == 0
                late = pool.submit(guest.execute, hung.fileno(), OUT, LIST)
                assert other.execute(well.fileno(), OUT, LIST).status == 0
                reply = late.result(PATIENCE)
                assert (reply.status, reply.sense_code) == (2, (0x0B, 0x08, 0x01))
                assert guest.execute(well.fileno(), IN).status == 0
                assert guest.execute(hung.fileno(), IN).status == 8
                hang.unlink()
                eventually(lambda: guest.execute(hung.fileno(), IN).status == 0, "the answer")
                hang.touch()
                late = pool.submit(guest.execute, hung.fileno(), OUT, LIST)
                assert daemon.end() == 0
                # Its connection broke, or on a busy machine it was told in time.
                assert isinstance(
                    late.exception(PATIENCE), (OSError, ProtocolViolation, type(None))
                )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to give up")
@pytest.mark.parametrize("user", [None, "nobody"])
def test_privileges_are_those_of_the_real_helper(user: str | None) -> None:
    """CAP_SYS_RAWIO, and nothing for programs that it would start; read from /proc."""
    with short_directory() as folder:
        os.chmod(folder, 0o777)
        (folder / "root").mkdir()
        os.chmod(folder / "root", 0o777)
        more = ["-u", user] if user else []
        real = [require("qemu-pr-helper")["qemu-pr-helper"], "-k", str(folder / "a"), *more]
        ours = [*SERVE, "--manager", "sgio", "--root", str(folder / "root")]
        ours += ["--socket", str(folder / "b"), *(["--user", user] if user else [])]
        with (
            start(real, folder / "real.log") as first,
            start(ours, folder / "ours.log") as second,
        ):
            first.ready(folder / "a")
            second.ready(folder / "b")
            for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"):
                held = int(second.status(name), 16)
                assert held & ~int(first.status(name), 16) == 0, name
                assert held == (1 << 17 if name in ("CapEff", "CapPrm") else 0), name
            assert second.status("Uid") == first.status("Uid")


def test_library_is_of_this_machine(library: pathlib.Path) -> None:
    """Preloading it into Python works: what follows would otherwise test nothing."""
    done = subprocess.run(
        [sys.executable, "-c", "print(1)"],
        env=environment(LD_PRELOAD=str(library)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.stdout, done.stderr) == ("1\n", "")
