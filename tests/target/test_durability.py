"""Faults below the target, and what GOOD promises: on stable storage, before the answer."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence

import attrs
import pytest

from tests.support import sbc_cdbs as sbc
from tests.support.hammers import Hammer, area, difference, ended, stamp
from tests.support.iscsi_client import ConnectionLost
from tests.support.peers import require
from tests.support.scsi import EA, KEY_A, REGISTER, RESERVE, RESERVE_6
from tests.support.strace import Call, Strace
from tests.support.target_rig import (
    BLOCK,
    CHECK_CONDITION,
    CONFLICT,
    GOOD,
    SIZE,
    Session,
    Target,
    eventually,
    image_of,
    make_root,
)

READ_ERROR, WRITE_ERROR = (3, 0x11, 0), (3, 0x0C, 0)
OUT_OF_RANGE, NO_SPACE = (5, 0x21, 0), (7, 0x27, 7)
STATE_LOST = (7, 0x44, 1)
ONES, TWOS = b"\x11" * BLOCK, b"\x22" * BLOCK
IMAGE_CALLS = ("pwrite64", "pwritev", "pwritev2", "fdatasync", "fsync", "fallocate")
READ_CALLS = ("pread64", "preadv", "preadv2")


@pytest.fixture
def target(tmp_path: pathlib.Path) -> Iterator[Target]:
    """A target with two logical units."""
    root = make_root(tmp_path, "disk", "quiet")
    with Target(root, tmp_path / "log") as process:
        yield process
        assert process.running
        assert "Traceback" not in process.log.read_text()


# The image.


def test_image_shrunk_under_the_target_is_an_error_and_no_crash(target: Target) -> None:
    """What is behind the new end is lost and said to be; the rest is served [SBC-3; 03/11/00]"""
    image = image_of(target.root)
    with target.log_in("a") as a, target.log_in("b", "quiet") as b:
        assert a.command(sbc.write(SIZE // BLOCK - 8, 8), ONES * 8).good
        os.truncate(image, SIZE // 2)
        far = SIZE // BLOCK - 8
        for _ in range(2):
            reply = a.command(sbc.read(far, 8), read=8 * BLOCK)
            assert (reply.status, reply.code) == (CHECK_CONDITION, READ_ERROR)
            reply = a.command(sbc.read(SIZE // 2 // BLOCK - 4, 8), read=8 * BLOCK)
            assert reply.code == READ_ERROR
        reply = a.command(sbc.write(far, 8), TWOS * 8)
        assert (reply.status, (reply.code or (0,))[0]) == (CHECK_CONDITION, 3)
        assert image.stat().st_size == SIZE // 2
        assert a.command(sbc.write(0, 8), TWOS * 8).good
        assert a.command(sbc.read(0, 8), read=8 * BLOCK).data == TWOS * 8
        assert b.command(sbc.read(far, 8), read=8 * BLOCK).good
        os.truncate(image, SIZE)
        eventually(lambda: a.command(sbc.read(far, 8), read=8 * BLOCK).good, "the blocks again")


def test_image_emptied_under_the_target_is_an_error_and_no_crash(target: Target) -> None:
    """Even nothing at all left of it [SBC-3; 03/11/00]"""
    image = image_of(target.root)
    with target.log_in("a") as a:
        os.truncate(image, 0)
        for cdb in (sbc.read(0, 1), sbc.read(100, 8)):
            assert a.command(cdb, read=cdb[8] * BLOCK).code == READ_ERROR
        assert a.command(sbc.write(0, 1), ONES).status == CHECK_CONDITION
        assert a.command(sbc.verify(0, 8)).status == CHECK_CONDITION
        a.must(REGISTER, 0, KEY_A)
        assert a.keys() == [KEY_A]


def test_image_grown_is_told_and_served(target: Target) -> None:
    """A larger image: 2A/09, and the new blocks [SBC-3 4.7.3.3; CAPACITY DATA HAS CHANGED]"""
    image = image_of(target.root)
    with target.log_in("a") as a:
        behind = sbc.read(SIZE // BLOCK, 1)
        assert a.command(behind, read=BLOCK).code == OUT_OF_RANGE
        os.truncate(image, 2 * SIZE)
        assert eventually(a.settle, "2A/09") == [(6, 0x2A, 9)]
        assert a.command(behind, read=BLOCK).data == bytes(BLOCK)
        last = a.command(sbc.READ_CAPACITY_10, read=8).data[:4]
        assert int.from_bytes(last) == 2 * SIZE // BLOCK - 1


# Errors of the file system.


@pytest.fixture
def small(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A root whose images lie on a file system of 4 MB."""
    images = tmp_path / "root" / "images"
    images.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(images)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no mounts here: {mounted.stderr.decode().strip()}")
    try:
        yield _root_with_images(tmp_path)
    finally:
        subprocess.run(["umount", "-l", str(images)], check=True)


def _root_with_images(directory: pathlib.Path) -> pathlib.Path:
    from flockpr import create_lun

    root = directory / "root"
    create_lun(str(root), "disk", size=SIZE, target_ports=(2,))
    return root


def test_enospc_is_told_as_such_and_passes(small: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A full file system: 07/27/07, reads go on, UNMAP makes room [SBC-3 4.7.3.6; 07/27/07]"""
    piece = 256
    with Target(small, tmp_path / "log") as target, target.log_in("a") as a:
        written: list[int] = []
        failed: list[int] = []
        for lba in range(0, SIZE // BLOCK, piece):
            reply = a.command(sbc.write(lba, piece), ONES * piece)
            (written if reply.good else failed).append(lba)
            if not reply.good:
                assert (reply.status, reply.code) == (CHECK_CONDITION, NO_SPACE)
        assert len(written) >= 20
        assert len(failed) >= 20
        for lba in written:
            assert a.command(sbc.read(lba, piece), read=piece * BLOCK).data == ONES * piece
        assert a.command(sbc.SYNCHRONIZE_CACHE).good
        a.must(REGISTER, 0, KEY_A)
        assert a.command(*sbc.unmap((written[0], piece))).good
        assert a.command(sbc.write(failed[-1], piece), ONES * piece).good
        assert target.running


@pytest.fixture
def tracing() -> None:
    """strace, which lets system calls fail."""
    require("strace")


def failing(target: Target, directory: pathlib.Path, names: Sequence[str], what: str) -> Strace:
    """Let these system calls on the image fail, until detached."""
    output = str(directory / f"fault-{what}")
    image = str(image_of(target.root))
    inject = [f"{','.join(names)}:{what}"]
    return Strace(target.pid, output, follow=True, trace=names, inject=inject, path=image)


@pytest.mark.usefixtures("tracing")
@pytest.mark.parametrize(
    ("errors", "codes"),
    [
        ("error=EIO", {WRITE_ERROR, (0x0B, 8, 1)}),
        ("error=ENOSPC", {NO_SPACE}),
        ("error=EDQUOT", {NO_SPACE}),
        ("error=EROFS", {(7, 0x27, 0)}),
    ],
)
def test_write_error_is_told_and_passes(
    target: Target, tmp_path: pathlib.Path, errors: str, codes: set[tuple[int, int, int]]
) -> None:
    """A write that fails: never GOOD, the right sense, and the end of it [SBC-3; 03/0C/00]"""
    with target.log_in("a") as a, target.log_in("b", "quiet") as b:
        with failing(target, tmp_path, ("pwrite64", "pwritev", "pwritev2"), errors):
            for cdb in (sbc.write(0, 1), sbc.write(0, 1, 16, fua=True)):
                reply = a.command(cdb, TWOS)
                assert (reply.status, reply.code in codes) == (CHECK_CONDITION, True), reply
            assert b.command(sbc.write(0, 1), TWOS).good
            assert a.ready().good
        assert eventually(lambda: a.command(sbc.write(0, 1), ONES).good, "a write that succeeds")
        assert a.command(sbc.read(0, 1), read=BLOCK).data == ONES


@pytest.mark.usefixtures("tracing")
def test_read_error_is_told_and_passes(target: Target, tmp_path: pathlib.Path) -> None:
    """EIO on reads: 03/11/00 or BUSY, never data [SBC-3; 03/11/00]"""
    with target.log_in("a") as a, target.log_in("b", "quiet") as b:
        with failing(target, tmp_path, READ_CALLS, "error=EIO"):
            for _ in range(3):
                reply = a.command(sbc.read(0, 1), read=BLOCK)
                assert not reply.good
                assert reply.data == b""
            assert b.command(sbc.read(0, 1), read=BLOCK).good
        assert eventually(
            lambda: a.command(sbc.read(0, 1), read=BLOCK).good, "a read that succeeds"
        )


@pytest.mark.usefixtures("tracing")
@pytest.mark.parametrize("errors", ["error=EIO", "error=ENOSPC"])
def test_sync_error_is_told(target: Target, tmp_path: pathlib.Path, errors: str) -> None:
    """A SYNCHRONIZE CACHE that failed is not GOOD [SBC-3 5.25; 03/0C/00]"""
    with target.log_in("a") as a:
        assert a.command(sbc.write(0, 1), ONES).good
        with failing(target, tmp_path, ("fdatasync", "fsync"), errors):
            assert a.command(sbc.SYNCHRONIZE_CACHE).status == CHECK_CONDITION
        assert eventually(lambda: a.command(sbc.SYNCHRONIZE_CACHE).good, "a sync that succeeds")


def test_state_that_cannot_be_read_stops_everybody(target: Target) -> None:
    """Nobody reads or writes by guess, and all goes on when it is mended [SPC-4 07/44/01]"""
    commits = target.root / "disk" / "commits"
    with target.log_in("a") as a, target.log_in("c") as c, target.log_in("b", "quiet") as b:
        a.must(REGISTER, 0, KEY_A)
        a.must(RESERVE, KEY_A, type_=EA)
        assert a.command(sbc.write(0, 1), ONES).good
        newest = max(int(one.stem) for one in commits.iterdir())
        broken = commits / f"{newest + 1:016}.json"
        broken.write_bytes(b"no document")
        time.sleep(1.1)
        for session in (a, c):
            for cdb, data in ((sbc.write(0, 1), TWOS), (sbc.SYNCHRONIZE_CACHE, b"")):
                reply = session.command(cdb, data)
                assert (reply.status, reply.code) == (CHECK_CONDITION, STATE_LOST)
            assert session.command(sbc.read(0, 1), read=BLOCK).code == STATE_LOST
            assert session.command(sbc.inquiry(), read=255).good
        assert b.command(sbc.write(0, 1), TWOS).good
        broken.unlink()
        assert eventually(lambda: a.command(sbc.write(0, 1), ONES).good, "a write")
        assert c.command(sbc.read(0, 1), read=BLOCK).status == CONFLICT


# Stable storage before the answer.


@attrs.frozen
class Answer:
    """What had happened on the image when an answer left.

    Attributes:
        durable: Bytes of the image that were on stable storage by then.
    """

    durable: frozenset[tuple[int, int]]


def answers(calls: Sequence[Call], image: str) -> list[Answer]:
    """Each SCSI response in a trace, with the writes that no power cut could take any more.

    A write counts once a sync of the image began after its end and ended, or once it ended
    itself where it was made with RWF_DSYNC or on a descriptor with O_DSYNC.
    """
    written: dict[tuple[int, int], int] = {}
    durable: set[tuple[int, int]] = set()
    found = []
    events = sorted(
        [(call.left, "end", call) for call in calls if call.left is not None]
        + [(call.entered, "begin", call) for call in calls],
        key=lambda event: event[0],
    )
    for line, kind, call in events:
        on_image = call.on(image)
        if on_image and kind == "end" and call.done:
            if call.name.startswith("pwrite"):
                place = _place(call)
                written[place] = line
                if "RWF_DSYNC" in call.arguments:
                    durable.add(place)
                else:
                    durable.discard(place)
            elif call.name in ("fdatasync", "fsync"):
                durable |= {place for place, end in written.items() if end <= call.entered}
        elif kind == "begin" and call.name in ("sendmsg", "sendto") and _responds(call):
            found.append(Answer(frozenset(durable)))
    return found


def _place(call: Call) -> tuple[int, int]:
    """Offset and length of a write."""
    rest = re.sub(r'"[^"]*"(\.\.\.)?', "", call.arguments)
    if call.name == "pwrite64":
        match = re.search(r", (\d+), (\d+)$", rest)
        assert match is not None, call
        return int(match[2]), int(match[1])
    match = re.search(r"\], \d+, (\d+)", rest)
    assert match is not None, call
    return int(match[1]), int(call.result)


def _responds(call: Call) -> bool:
    """Whether the first thing sent is a SCSI Response, opcode 21h, an exclamation mark."""
    return bool(call.names) and call.names[0].startswith("!")


@pytest.mark.usefixtures("tracing")
@pytest.mark.parametrize("width", [10, 12, 16])
def test_durable_fua_write_is_on_stable_storage_before_good(
    target: Target, tmp_path: pathlib.Path, width: int
) -> None:
    """FUA: a power cut after GOOD takes nothing [SBC-3 4.15.3; FUA]"""
    cdbs = [
        (sbc.write(8 * number, 8, width, fua=True), ONES * 8, (8 * BLOCK * number, 8 * BLOCK))
        for number in range(8)
    ]
    for answer, (_, _, place) in zip(traced(target, tmp_path, cdbs), cdbs, strict=True):
        assert place in answer.durable


@pytest.mark.usefixtures("tracing")
@pytest.mark.parametrize("width", [10, 16])
def test_durable_synchronize_cache_covers_all_that_was_answered(
    target: Target, tmp_path: pathlib.Path, width: int
) -> None:
    """SYNCHRONIZE CACHE: every write answered before it is on stable storage [SBC-3 5.25, 5.26]"""
    writes = [
        (sbc.write(8 * number, 8), ONES * 8, (8 * BLOCK * number, 8 * BLOCK)) for number in range(6)
    ]
    sync = (sbc.synchronize_cache(width=width), b"", (0, 0))
    found = traced(target, tmp_path, [*writes, sync])
    assert found[-1].durable >= {place for _, _, place in writes}


def test_durable_write_cache_stays_on_for_everybody(tmp_path: pathlib.Path) -> None:
    """WCE=0 is refused: who stopped flushing for it would lose writes elsewhere [SBC-3 6.5.5]"""
    root = make_root(tmp_path)
    with Target(root, tmp_path / "log") as target, target.log_in("a") as a:
        page = a.command(sbc.mode_sense(8), read=255).data[-20:]
        assert page[:3] == bytes((8, 18, 4))
        data = bytes(4) + page[:2] + bytes((page[2] & ~4,)) + page[3:]
        reply = a.command(bytes((0x15, 0x10, 0, 0, len(data), 0)), data)
        assert reply.code == (5, 0x26, 0)
        assert a.command(sbc.mode_sense(0x48), read=255).data[-18:] == bytes(18)


@pytest.mark.usefixtures("tracing")
def test_durable_write_and_verify_is_read_back(target: Target, tmp_path: pathlib.Path) -> None:
    """WRITE AND VERIFY: written, and what is on the medium was looked at [SBC-3 5.44]"""
    with target.log_in("a") as a:
        reply = a.command(sbc.write_and_verify(0, 8, 10, flags=2), TWOS * 8)
        assert reply.good
        assert a.command(sbc.read(0, 8), read=8 * BLOCK).data == TWOS * 8


def traced(
    target: Target, directory: pathlib.Path, commands: Sequence[tuple[bytes, bytes, object]]
) -> list[Answer]:
    """Carry out commands one after the other; what was durable at each answer."""
    image = str(image_of(target.root))
    trace = str(directory / "trace")
    calls = (*IMAGE_CALLS, "sendmsg", "sendto")
    with target.log_in("a") as a, Strace(target.pid, trace, follow=True, trace=calls) as tracer:
        for cdb, data, _ in commands:
            assert a.command(cdb, data).good
        tracer.detach()
        seen = tracer.so_far()
    found = answers(seen, image)
    assert len(found) == len(commands)
    return found


# Killed, and started again.


class Diligent(threading.Thread):
    """Writes with FUA, or with SYNCHRONIZE CACHE after, until the connection breaks.

    Attributes:
        kept: Per slot, the last number whose safety was promised.
        sent: Per slot, the last number that was sent.
    """

    def __init__(self, session: Session, author: int, first: int, fua: bool) -> None:
        super().__init__(daemon=True)
        self.session = session
        self.author = author
        self.first = first
        self.fua = fua
        self.kept: dict[int, int] = {}
        self.sent: dict[int, int] = {}

    def busy(self) -> bool:
        """Whether it has got anywhere."""
        return len(self.kept) > 10

    def run(self) -> None:
        """Write on and on."""
        number = 0
        try:
            while True:
                number += 1
                slot = number % 32
                self.sent[slot] = number
                cdb = sbc.write(self.first + 8 * slot, 8, fua=self.fua)
                assert self.session.command(cdb, stamp(self.author, number) * 8).good
                if not self.fua:
                    assert self.session.command(sbc.SYNCHRONIZE_CACHE).good
                self.kept[slot] = number
        except ConnectionLost:
            pass
        finally:
            self.session.close()


def test_killed_target_loses_nothing_that_was_promised(tmp_path: pathlib.Path) -> None:
    """SIGKILL in full flight, a new start: every promise holds [SBC-3 4.15.3; kill]"""
    root = make_root(tmp_path)
    target = Target(root, tmp_path / "log")
    writers: list[Diligent] = []
    for life in range(4):
        with target:
            for writer in writers:
                _judge(target, writer)
            writers = [
                Diligent(target.log_in(f"w{n}"), 16 * life + n, 1000 * n, fua=bool(n % 2))
                for n in range(1, 5)
            ]
            for writer in writers:
                writer.start()
            for writer in writers:
                eventually(writer.busy, "some writes")
            target.kill()
            for writer in writers:
                writer.join(60)
                assert not writer.is_alive()


def _judge(target: Target, writer: Diligent) -> None:
    """Each slot holds the last promised write or the one that was on its way."""
    with target.log_in("judge") as judge:
        for slot, kept in writer.kept.items():
            data = judge.command(sbc.read(writer.first + 8 * slot, 8), read=8 * BLOCK).data
            allowed = {stamp(writer.author, kept), stamp(writer.author, writer.sent[slot])}
            for at in range(0, len(data), BLOCK):
                assert data[at : at + BLOCK] in allowed


def test_killed_target_keeps_reservations(tmp_path: pathlib.Path) -> None:
    """Registrations and reservation outlive the process, RESERVE(6) does not [SPC-4 5.13.5]"""
    root = make_root(tmp_path, "disk", "old")
    target = Target(root, tmp_path / "log")
    with target:
        a = target.log_in("a")
        a.must(REGISTER, 0, KEY_A)
        a.must(RESERVE, KEY_A, type_=EA)
        assert target.log_in("a", "old").command(RESERVE_6).good
        target.kill()
    with target, target.log_in("a") as again, target.log_in("b") as b:
        assert again.reservation() == (EA, KEY_A)
        assert again.command(sbc.write(0, 1), ONES).good
        assert b.command(sbc.read(0, 1), read=BLOCK).status == CONFLICT
        with target.log_in("b", "old") as old:
            eventually(lambda: old.command(RESERVE_6).status == GOOD, "RESERVE(6)")


def test_stopped_target_answers_what_it_has_begun(tmp_path: pathlib.Path) -> None:
    """SIGTERM in full flight: exit code 0, what was answered GOOD is there [service]"""
    root = make_root(tmp_path)
    target = Target(root, tmp_path / "log")
    with target:
        hammer = Hammer(target.log_in("a"), 1, 0, 8, None)
        with ended(hammer):
            hammer.begin()
            assert target.stop() == 0
            hammer.join(60)
    with target, target.log_in("judge") as judge:
        found = area(judge, hammer)
        slots = [found[n * 8 * BLOCK : (n + 1) * 8 * BLOCK] for n in range(len(hammer.good))]
        for place, (slot, number) in enumerate(zip(slots, hammer.good, strict=True)):
            # What was on its way may have been written without an answer.
            later = [write.number for write in hammer.flying if write.slot == place]
            candidates = [stamp(1, one) * 8 for one in (number, *later)]
            assert not all(difference(slot, one) for one in candidates)


# QEMU beside.


@pytest.mark.peer("qemu-img", "qemu-io")
def test_qemu_does_not_open_the_image_beside_a_target(tmp_path: pathlib.Path) -> None:
    """The target holds QEMU's own locks: qemu-img and qemu-io refuse [image locking]"""
    root = make_root(tmp_path)
    image = str(image_of(root))
    tools = require("qemu-img", "qemu-io")
    convert = [tools["qemu-img"], "convert", "-f", "raw", "-O", "raw", image, image + ".copy"]
    others = [
        [tools["qemu-img"], "resize", "-f", "raw", image, "16M"],
        [tools["qemu-io"], "-f", "raw", "-c", "write 0 512", image],
    ]
    with Target(root, tmp_path / "log"):
        for command in (convert, *others):
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert done.returncode != 0, command
            assert "lock" in done.stderr, done.stderr
        assert pathlib.Path(image).stat().st_size == SIZE
    done = subprocess.run(convert, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.peer("qemu-io")
def test_target_does_not_serve_an_image_that_qemu_has_open(tmp_path: pathlib.Path) -> None:
    """And the other way round: a QEMU has it, the target does not start on it [image locking]"""
    root = make_root(tmp_path)
    tool = require("qemu-io")["qemu-io"]
    image = str(image_of(root))
    with subprocess.Popen(
        [tool, "-f", "raw", image], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        try:
            qemu.stdin.write("length\n")
            qemu.stdin.flush()
            while "MiB" not in qemu.stdout.readline():
                pass
            target = Target(root, tmp_path / "log", "--lun", "disk")
            with pytest.raises(AssertionError) as told, target:
                pass
            assert "disk.img" in str(told.value)
        finally:
            qemu.kill()
    with Target(root, tmp_path / "log") as target, target.log_in("a") as a:
        assert a.command(sbc.write(0, 1), ONES).good


def test_two_targets_share_the_image_of_one_host(tmp_path: pathlib.Path) -> None:
    """QEMU's bytes keep QEMU out, not a second target of this host [image locking; one host]"""
    root = make_root(tmp_path)
    with (
        Target(root, tmp_path / "1.log") as first,
        Target(root, tmp_path / "2.log") as second,
        first.log_in("a") as a,
        second.log_in("b") as b,
    ):
        assert a.command(sbc.write(0, 1), ONES).good
        assert b.command(sbc.read(0, 1), read=BLOCK).data == ONES
