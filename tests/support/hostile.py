"""What tests with hostile peers need: somebody who must be served all the time, and gauges."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Self

from tests.support import iscsi_wire as wire
from tests.support import sbc_cdbs as sbc
from tests.support.iscsi_client import Initiator
from tests.support.iscsi_wire import Pdu
from tests.support.scsi import REGISTER_IGNORE
from tests.support.target_rig import BLOCK, PATIENCE, Session, Target, eventually, initiator_name

MEGABYTE = 1 << 20
GENEROUS = 20.0
"""Seconds that a command of somebody else may take on a busy machine while peers misbehave."""


class Bystander:
    """A client that reads and writes all the time, on a LUN of its own; a context manager.

    Leaving it proves that every command was served, and each within a generous time.

    Args:
        target: Where.
        lun: Its logical unit.
    """

    def __init__(self, target: Target, lun: str = "quiet") -> None:
        self.session = target.log_in("bystander", lun)
        self.longest = 0.0
        self.served = 0
        self._failure: BaseException | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bystander", daemon=True)

    def _run(self) -> None:
        try:
            number = 0
            while not self._end.is_set():
                number += 1
                began = time.monotonic()
                self._once(number)
                self.longest = max(self.longest, time.monotonic() - began)
                self.served += 1
                # Often enough to notice, rarely enough to leave the machine to the peers.
                self._end.wait(0.002)
        except BaseException as error:
            self._failure = error

    def _once(self, number: int) -> None:
        """A write of 128 KiB that needs R2Ts, and a read of it."""
        data = number.to_bytes(8, "big") * (64 * MEGABYTE // 512 // 8)
        blocks = len(data) // BLOCK
        assert self.session.command(sbc.write(0, blocks), data).good
        assert self.session.command(sbc.read(0, blocks), read=len(data)).data == data

    def goes_on(self) -> None:
        """Wait until it was served twice more."""
        before = self.served
        eventually(lambda: self._failure or self.served >= before + 2, "service for a bystander")
        assert self._failure is None, repr(self._failure)

    def __enter__(self) -> Self:
        self._thread.start()
        self.goes_on()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._end.set()
        self._thread.join(PATIENCE)
        self.session.close()
        if kind is None:
            assert self._failure is None, repr(self._failure)
            assert self.longest < GENEROUS, f"a command took {self.longest:.1f} s"


class Gauge:
    """What a target costs now, to be compared with what it costs later.

    Args:
        target: A target at rest; it serves something first, because the first command on a
            logical unit opens what stays open.
        luns: Its logical units.
    """

    def __init__(self, target: Target, luns: tuple[str, ...] = ("disk", "quiet")) -> None:
        self.target = target
        for lun in luns:
            with target.log_in("first", lun) as session:
                assert session.command(sbc.write(0, 1), bytes(BLOCK)).good
                session.must(REGISTER_IGNORE, 0, 0)
        self.memory = target.memory
        self.threads = target.threads
        self.descriptors = target.descriptors

    def bounded(self, megabytes: int) -> None:
        """It has not grown by more than this."""
        grown = (self.target.memory - self.memory) // MEGABYTE
        assert grown <= megabytes, f"{grown} MB more than before"

    def back(self, *, megabytes: int = 48, threads: int = 12) -> None:
        """Wait until descriptors are back, and threads and memory nearly: pools may stay."""

        def settled() -> bool:
            return (
                # One for the doorbell, which is open while somebody is served.
                self.target.descriptors <= self.descriptors + 1
                and self.target.threads <= self.threads + threads
            )

        try:
            eventually(settled, "the end of threads and descriptors")
        except AssertionError as error:
            raise AssertionError(
                f"{error}: {self.target.descriptors} descriptors after {self.descriptors}, "
                f"{self.target.threads} threads after {self.threads}"
            ) from error
        self.bounded(megabytes)


class Tape(Initiator):
    """An initiator that records every PDU it sends."""

    def __init__(self, *args: object, **options: object) -> None:
        self.sent: list[bytes] = []
        super().__init__(*args, **options)  # type: ignore[arg-type]

    def send_bytes(self, data: bytes | memoryview) -> None:
        """Send and record."""
        self.sent.append(bytes(data))
        super().send_bytes(data)


def recorded(target: Target, lun: str = "disk", **options: object) -> list[bytes]:
    """The PDUs of a session that does a little of everything, login to logout."""
    url = target.url(lun)
    name = initiator_name("fuzz")
    with Tape((url.host, url.port), target=url.target, name=name, **options) as tape:
        session = Session(tape, url.lun)
        session.settle()
        session.command(sbc.inquiry(), read=255)
        session.command(sbc.write(0, 8), b"\x01" * (8 * BLOCK))
        session.command(sbc.write(8, 256), b"\x02" * (256 * BLOCK))
        session.command(sbc.read(0, 256), read=256 * BLOCK)
        session.out(6, 0, 0xF0)
        session.out(6, 0, 0)
        tape.ping(b"ping" * 50)
        tape.text({"SendTargets": ""})
        tape.task_management(1, lun=url.lun, tag=0x7777)
        tape.logout()
        return tape.sent


def mutated(stream: list[bytes], rng: random.Random) -> bytes:
    """A recorded stream with one to four things wrong."""
    pdus = [bytearray(one) for one in stream]
    for _ in range(rng.randint(1, 4)):
        _spoil(pdus, rng)
    data = b"".join(bytes(one) for one in pdus)
    if rng.random() < 0.2:
        data = data[: rng.randrange(1, len(data))]
    return data


def _spoil(pdus: list[bytearray], rng: random.Random) -> None:
    """Do one thing to one PDU; its header more often than its data."""
    at = rng.randrange(len(pdus))
    one = pdus[at]
    # Of what was inserted before, which may be short, only bits and bytes are changed.
    kind = rng.randrange(9 if len(one) >= 48 else 2)
    reach = 48 if rng.random() < 0.8 or len(one) <= 48 else len(one)
    place = rng.randrange(min(reach, len(one)))
    if kind == 0:
        one[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        one[place] = rng.randrange(256)
    elif kind == 2:
        one[0] = rng.randrange(256)
    elif kind == 3:
        one[4] = rng.randrange(256)
    elif kind == 4:
        one[5:8] = rng.choice((0, 1, 3, 513, 8192, 65536, 1 << 20, (1 << 24) - 1)).to_bytes(3)
    elif kind == 5:
        word = rng.choice((16, 20, 24, 28, 32, 36, 40, 44))
        one[word : word + 4] = rng.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)).to_bytes(4)
    elif kind == 6:
        pdus.insert(at, bytearray(one))
    elif kind == 7:
        pdus.insert(at, pdus.pop(rng.randrange(len(pdus))))
    else:
        pdus.insert(at, bytearray(rng.randbytes(rng.choice((1, 47, 48, 49, 200)))))


def arbitrary_pdus(rng: random.Random, initiator: Initiator, count: int) -> Iterator[Pdu]:
    """Well framed PDUs with anything in them, near enough to the truth to get somewhere."""
    opcodes = (0, 1, 1, 1, 2, 3, 4, 5, 5, 6, 0x10, 0x1C, 0x21, 0x25, 0x31, 0x3F)
    for _ in range(count):
        size = rng.choice((0, 0, 0, 1, 48, 511, 512, 4096))
        one = Pdu(bytearray(rng.randbytes(48)), b"", rng.randbytes(size))
        one.header[0] = rng.choice(opcodes) | rng.choice((0, 0x40))
        one.header[8:16] = wire.encode_lun(rng.choice((0, 0, 0, 1, 5, 300)))
        if rng.random() < 0.8:
            one.cmd_sn = initiator.cmd_sn
            if one.opcode in (0, 1, 2, 4, 6) and not one.immediate:
                initiator.cmd_sn = (initiator.cmd_sn + 1) % (1 << 32)
        if rng.random() < 0.7:
            one.itt = rng.choice((1, 2, 3, 0xFFFFFFFF, rng.getrandbits(32)))
        if one.opcode == wire.COMMAND:
            one.header[32:48] = _some_cdb(rng)
            one.expected_length = rng.choice((0, 512, 4096, 1 << 20, 0xFFFFFFFF))
        if rng.random() < 0.1:
            one.ahs = rng.randbytes(4 * rng.randrange(1, 60))
        one.exp_stat_sn = initiator.exp_stat_sn
        yield one


def _some_cdb(rng: random.Random) -> bytes:
    opcode = rng.choice((0, 0x12, 0x28, 0x2A, 0x35, 0x42, 0x5E, 0x5F, 0x88, 0x8A, 0x89, 0x93, 0xA0))
    cdb = bytearray(rng.randbytes(16))
    cdb[0] = opcode
    if rng.random() < 0.6:
        cdb[2:6] = bytes(4)
        cdb[6:9] = bytes((0, 0, rng.randrange(16)))
    return bytes(cdb)
