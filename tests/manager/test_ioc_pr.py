"""The kernel's own calls for reservations, against a kernel of our own: what its structures are,
and what is made of its answers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterator

import attrs
import pytest

from flockpr.logical_unit import Result
from flockpr.manager import create_manager, pr_ioctls, remove_manager
from flockpr.manager.base import PRManager
from flockpr.spc.pr_in import parse_capabilities, parse_keys, parse_reservation
from tests.support.helper import sense_code
from tests.support.scsi import (
    CLEAR,
    PREEMPT,
    PREEMPT_ABORT,
    REGISTER,
    REGISTER_IGNORE,
    RELEASE,
    RESERVE,
    basic_list,
    in_cdb,
    out_cdb,
)

INVALID_CDB, INVALID_LIST, LIST_LENGTH = (5, 0x24, 0), (5, 0x26, 0), (5, 0x1A, 0)
IO_ERROR, NO_PATH, NO_OPCODE = (0x0B, 0, 6), (0x0B, 8, 0), (5, 0x20, 0)


@attrs.define
class Kernel:
    """Says what a test wants, and keeps what it was asked.

    Attributes:
        asked: Number and bytes of each call.
        answer: What a driver says; an exception is raised.
        keys: For READ_KEYS.
        held: For READ_RESERVATION: key and the kernel's type.
    """

    asked: list[tuple[int, bytes]] = attrs.field(factory=list)
    answer: int | OSError = 0
    keys: list[int] = attrs.field(factory=list)
    held: tuple[int, int] = (0, 0)

    def ioctl(self, descriptor: int, number: int, data: bytearray | int = 0, *_: object) -> int:
        """In place of the real one."""
        self.asked.append((number & 0xFF, bytes(data) if isinstance(data, bytearray) else b""))
        if isinstance(self.answer, OSError):
            raise self.answer
        if isinstance(data, bytearray) and number == pr_ioctls.READ_KEYS:
            _, room, place = struct.unpack("=IIQ", data)
            for index, key in enumerate(self.keys[:room]):
                ctypes.c_uint64.from_address(place + 8 * index).value = key
            data[:] = struct.pack("=IIQ", 7, len(self.keys), place)
        if isinstance(data, bytearray) and number == pr_ioctls.READ_RESERVATION:
            data[:] = struct.pack("=QII", self.held[0], 7, self.held[1])
        return self.answer


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """The kernel; whatever is asked about is a block device."""
    fake = Kernel()
    monkeypatch.setattr("flockpr.manager.pr_ioctls.fcntl.ioctl", fake.ioctl)
    monkeypatch.setattr("flockpr.manager.ioc_pr.stat.S_ISBLK", stat.S_ISCHR)
    return fake


@pytest.fixture
def manager() -> Iterator[PRManager]:
    """The manager."""
    yield create_manager("ioc-pr", "calls")
    remove_manager("calls")


def run(manager: PRManager, cdb: bytes, data_out: bytes = b"") -> Result:
    """Send a command."""
    descriptor = os.open("/dev/null", os.O_RDWR)
    try:
        return manager.run(descriptor, cdb, data_out)
    finally:
        os.close(descriptor)


def code(result: Result) -> tuple[int, int, int]:
    """The sense of a refusal."""
    assert result.status == 2
    return sense_code(result.sense)


def test_numbers_of_the_calls_are_those_of_linux_pr_h() -> None:
    """As the macros of the header make them on x86 and ARM."""
    assert [f"{pr_ioctls.REGISTER:08x}", f"{pr_ioctls.RESERVE:08x}"] == ["401870c8", "401070c9"]
    assert [f"{pr_ioctls.RELEASE:08x}", f"{pr_ioctls.PREEMPT:08x}"] == ["401070ca", "401870cb"]
    assert [f"{pr_ioctls.PREEMPT_ABORT:08x}", f"{pr_ioctls.CLEAR:08x}"] == ["401870cc", "401070cd"]
    assert f"{pr_ioctls.READ_KEYS:08x}" == "c01070ce"
    assert f"{pr_ioctls.READ_RESERVATION:08x}" == "801070cf"


@pytest.mark.parametrize(
    ("action", "type_", "number", "asked"),
    [
        (REGISTER, 0, 200, struct.pack("=QQII", 0xA, 0xB, 0, 0)),
        (REGISTER_IGNORE, 9, 200, struct.pack("=QQII", 0, 0xB, 1, 0)),
        (RESERVE, 5, 201, struct.pack("=QII", 0xA, 3, 0)),
        (RESERVE, 8, 201, struct.pack("=QII", 0xA, 6, 0)),
        (RELEASE, 3, 202, struct.pack("=QII", 0xA, 2, 0)),
        (PREEMPT, 1, 203, struct.pack("=QQII", 0xA, 0xB, 1, 0)),
        (PREEMPT_ABORT, 7, 204, struct.pack("=QQII", 0xA, 0xB, 5, 0)),
        (CLEAR, 0, 205, struct.pack("=QII", 0xA, 0, 0)),
    ],
)
def test_change_is_one_call(  # noqa: PLR0917
    manager: PRManager, kernel: Kernel, action: int, type_: int, number: int, asked: bytes
) -> None:
    """With the fields where the kernel has them; APTPL is its own matter."""
    for aptpl in (False, True):
        data = basic_list(0xA, 0xB, aptpl=aptpl)
        result = run(manager, out_cdb(action, type_=type_), data)
        assert (result.status, result.data_in) == (0, b"")
    assert kernel.asked == [(number, asked)] * 2


@pytest.mark.parametrize(
    ("cdb", "data_out", "sense"),
    [
        (out_cdb(7), basic_list(1, 2), INVALID_CDB),
        (out_cdb(8), basic_list(1, 2), INVALID_CDB),
        (out_cdb(0x1F), basic_list(1, 2), INVALID_CDB),
        (out_cdb(RESERVE, type_=2), basic_list(1, 2), INVALID_CDB),
        (out_cdb(RESERVE, type_=5, scope=1), basic_list(1, 2), INVALID_CDB),
        (out_cdb(PREEMPT), basic_list(1, 2), INVALID_CDB),
        (out_cdb(REGISTER, length=23), bytes(23), LIST_LENGTH),
        (out_cdb(CLEAR, length=0), b"", LIST_LENGTH),
        (out_cdb(REGISTER), basic_list(1, 2, all_ports=True), INVALID_LIST),
        (in_cdb(3), b"", INVALID_CDB),
        (in_cdb(4), b"", INVALID_CDB),
    ],
)
def test_what_the_calls_cannot_say_is_refused_without_one(
    manager: PRManager, kernel: Kernel, cdb: bytes, data_out: bytes, sense: tuple[int, int, int]
) -> None:
    """As qemu-pr-helper refuses what libmpathpersist cannot say."""
    assert code(run(manager, cdb, data_out)) == sense
    assert kernel.asked == []


def test_keys_and_reservation_are_read_where_the_kernel_has_that(
    manager: PRManager, kernel: Kernel
) -> None:
    """More keys than have room are counted; a short allocation cuts."""
    kernel.keys = [0xA, 0xB]
    keys = parse_keys(run(manager, in_cdb(0)).data_in)
    assert keys is not None
    assert (keys.generation, list(keys.keys)) == (7, [0xA, 0xB])
    assert run(manager, in_cdb(0, 12)).data_in == bytes((0, 0, 0, 7, 0, 0, 0, 16, 0, 0, 0, 0))
    kernel.keys = [1] * 2000
    data = run(manager, in_cdb(0)).data_in
    assert (len(data), data[4:8]) == (8192, (16000).to_bytes(4))

    free = parse_reservation(run(manager, in_cdb(1)).data_in)
    assert free is not None
    assert (free.generation, free.held) == (7, None)
    kernel.held = 0xA, 4
    held = parse_reservation(run(manager, in_cdb(1)).data_in)
    assert held is not None
    assert held.held is not None
    assert (held.generation, held.held.key, held.held.type) == (7, 0xA, 6)


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP])
def test_kernel_that_cannot_read_has_the_service_action_refused(
    manager: PRManager, kernel: Kernel, number: int
) -> None:
    """05/24/00, and not "no such command": the changes work."""
    kernel.answer = OSError(number, "")
    for action in (0, 1):
        assert code(run(manager, in_cdb(action))) == INVALID_CDB


def test_capabilities_are_told_of_a_device_that_has_the_calls(
    manager: PRManager, kernel: Kernel
) -> None:
    """Asked by a call that goes nowhere; they promise nothing that the calls cannot say."""
    kernel.answer = OSError(errno.EFAULT, "")
    told = parse_capabilities(run(manager, in_cdb(2)).data_in)
    assert told is not None
    assert (told.specify_initiator_ports, told.all_target_ports) == (False, False)
    assert (told.replace_lost, told.compatible_handling) == (False, False)
    assert told.persist_capable
    assert told.persist_active
    assert told.types == frozenset((1, 3, 5, 6, 7, 8))
    for number in (errno.EOPNOTSUPP, errno.ENOTTY):
        kernel.answer = OSError(number, "")
        assert code(run(manager, in_cdb(2))) == NO_OPCODE


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (0x18, 0x18),
        (0x118, 0x18),
        (0x110018, 0x18),
        (0x83, 0x18),
        (0x4083, 0x18),
        (OSError(errno.EBADE, ""), 0x18),
        (0x02, IO_ERROR),
        (0x08000002, IO_ERROR),
        (0x4001, IO_ERROR),
        (0x10000, NO_PATH),
        (0xE0000, NO_PATH),
        (0xF0000, NO_PATH),
        (OSError(errno.EIO, ""), IO_ERROR),
        (OSError(errno.EPERM, ""), IO_ERROR),
        (OSError(errno.EINVAL, ""), INVALID_CDB),
        (OSError(errno.EOPNOTSUPP, ""), NO_OPCODE),
        (OSError(errno.ENOTTY, ""), NO_OPCODE),
    ],
)
def test_refusal_of_the_device_is_no_success(
    manager: PRManager, kernel: Kernel, answer: int | OSError, expected: int | tuple[int, int, int]
) -> None:
    """Of SCSI (18h), NVMe (083h, with and without "do not retry"), the kernel's own for paths."""
    kernel.answer = answer
    result = run(manager, out_cdb(RESERVE, type_=1), basic_list(0xA, 0))
    if isinstance(expected, int):
        assert result.status == expected
    else:
        assert code(result) == expected


def test_what_is_no_block_device_is_not_asked(manager: PRManager) -> None:
    """/dev/null, and the real kernel."""
    assert code(run(manager, in_cdb(2))) == IO_ERROR
