"""The kernel's asynchronous reads and writes, on a real file."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import pathlib
import platform
import select
import struct
from collections.abc import Iterator

import pytest

from flockpr.block import Ring, ring
from flockpr.block.calls import ImageCalls
from tests.support.open_files import open_descriptors

SIZE = 4096
ROOM = 8


def memory(fill: bytes = b"") -> memoryview:
    """A page."""
    view = memoryview(mmap.mmap(-1, SIZE))
    view[: len(fill)] = fill
    return view


@pytest.fixture
def image(tmp_path: pathlib.Path) -> Iterator[int]:
    """A file of 16 pages, each full of its number."""
    path = tmp_path / "image"
    path.write_bytes(b"".join(bytes((number,)) * SIZE for number in range(16)))
    try:
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    except OSError:
        fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture
def made() -> Iterator[Ring[int]]:
    """A ring; nothing may be left in it."""
    one: Ring[int] = Ring(ROOM)
    yield one
    assert not one.held
    one.close()


def over(one: Ring[int]) -> dict[int, int]:
    """Everything that is under way, with its result."""
    found: dict[int, int] = {}
    while one.held:
        found.update(one.reap(wait=True))
    return found


def test_reads_and_writes_are_done_and_say_how_much(made: Ring[int], image: int) -> None:
    """Each is known by what it was given, in whatever order they end."""
    views = [memory() for _ in range(4)]
    for number, view in enumerate(views):
        made.read(number, image, view, number * SIZE)
    made.write(9, image, memory(b"w" * SIZE), 9 * SIZE)
    assert made.queued == 5
    assert made.submit() == []
    assert made.queued == 0
    assert over(made) == {0: SIZE, 1: SIZE, 2: SIZE, 3: SIZE, 9: SIZE}
    assert [view[0] for view in views] == [0, 1, 2, 3]
    made.read(1, image, views[0], 9 * SIZE)
    made.submit()
    assert over(made) == {1: SIZE}
    assert bytes(views[0]) == b"w" * SIZE


def test_descriptor_tells_of_the_end(made: Ring[int], image: int) -> None:
    """What waits for it may sleep with poll, and nothing is overlooked or told twice."""
    poll = select.poll()
    poll.register(made.fd, select.POLLIN)
    assert poll.poll(0) == []
    for _ in range(3):
        made.read(1, image, memory(), 0)
        made.submit()
        assert poll.poll(60_000)
        assert made.reap() == [(1, SIZE)]
        assert poll.poll(0) == []
        assert made.reap() == []


def test_room_is_bounded_and_comes_back(made: Ring[int], image: int) -> None:
    """As many as were asked for, again and again."""
    view = memory()
    for _ in range(3):
        for number in range(ROOM):
            assert not made.full
            made.read(number, image, view, 0)
        assert made.full
        assert sorted(made.commands()) == list(range(ROOM))
        made.submit()
        assert sorted(over(made)) == list(range(ROOM))
        assert made.commands() == []


def test_failures_and_ends_of_files_are_results(made: Ring[int], image: int) -> None:
    """Short at the end, nothing behind it."""
    made.read(1, image, memory(), 15 * SIZE)
    made.read(2, image, memory(), 16 * SIZE)
    made.submit()
    assert over(made) == {1: SIZE, 2: 0}


def test_what_the_kernel_does_not_take_comes_back(made: Ring[int], image: int) -> None:
    """From the first bad one on; those before it are done."""
    closed = os.dup(image)
    os.close(closed)
    made.read(1, image, memory(), 0)
    made.read(2, closed, memory(), 0)
    made.read(3, image, memory(), 0)
    assert made.submit() == [2, 3]
    assert over(made) == {1: SIZE}


def test_commands_outlive_the_descriptor(made: Ring[int], image: int) -> None:
    """The kernel keeps the file of what it was told of."""
    other = os.dup(image)
    view = memory()
    made.read(1, other, view, 7 * SIZE)
    made.submit()
    os.close(other)
    assert over(made) == {1: SIZE}
    assert view[0] == 7


def test_memory_is_kept_until_the_end(made: Ring[int], image: int) -> None:
    """A mapping whose address the kernel has cannot be unmapped."""
    mapping = mmap.mmap(-1, SIZE)
    made.read(1, image, memoryview(mapping), 0)
    made.submit()
    with pytest.raises(BufferError):
        mapping.close()
    over(made)
    mapping.close()


def test_unknown_machine_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of system calls are those of some machines; elsewhere each read is waited for."""
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    with pytest.raises(OSError) as refused:
        Ring[int](ROOM)
    assert refused.value.errno == errno.ENOSYS
    assert ImageCalls().ring(ROOM) is None


def event_files() -> set[tuple[str, str]]:
    """What a ring tells its ends by, of all rings of this process."""
    return {found for found in open_descriptors() if found[1] == "anon_inode:[eventfd]"}


def test_ring_that_cannot_be_had_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """fs.aio-max-nr bounds them all."""
    before = event_files()
    with pytest.raises(OSError) as refused:
        Ring[int](1 << 30)
    assert refused.value.errno in (errno.EAGAIN, errno.EINVAL, errno.ENOMEM)
    monkeypatch.setattr(ring, "_setup", lambda *_: -1)
    assert ImageCalls().ring(ROOM) is None
    assert event_files() <= before


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_ring_whose_commands_could_not_be_reaped_is_none(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A container may forbid one call of the three."""

    def forbidden(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    before = event_files()
    monkeypatch.setattr(ring, "_getevents", forbidden)
    with pytest.raises(OSError) as refused:
        Ring[int](ROOM)
    assert refused.value.errno == number
    assert event_files() <= before


def test_program_of_32_bits_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its system calls have other numbers, whatever the kernel calls the machine."""
    monkeypatch.setattr(struct, "calcsize", lambda _: 4)
    assert ImageCalls().ring(ROOM) is None


def test_closing_twice_is_no_error() -> None:
    """And the second time closes nobody else's descriptor."""
    one: Ring[int] = Ring(ROOM)
    number = one.fd
    one.close()
    other = os.open("/", os.O_RDONLY)
    assert other == number
    one.close()
    os.close(other)
