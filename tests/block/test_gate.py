"""Disks with the real gate and the real logical units, several of them in one process."""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Iterator

import pytest

from flockpr import create_lun
from flockpr.block import Disk, DiskNexus
from flockpr.spc.codes import Status
from flockpr.store.listing import read_identity
from flockpr.units import Units
from tests.support import sbc_cdbs as cdbs
from tests.support.disks import BLOCK, Answer, aligned
from tests.support.scsi import (
    PREEMPT,
    REGISTER_IGNORE,
    RESERVE,
    WE,
    A,
    B,
    basic_list,
    in_cdb,
    out_cdb,
)

SIZE = 1 << 20
KEY_A, KEY_B = 0xA, 0xB


class Target:
    """One target process's worth of objects for the LUN `disk`, with one session."""

    def __init__(self, root: pathlib.Path, nexus: object) -> None:
        self.units = Units(str(root), timeout=30.0)
        identity = read_identity(str(root), "disk")
        self.disk = Disk(str(root), identity, self.units, timeout=30.0)
        assert nexus in (A, B)
        self.session: DiskNexus = self.disk.attach(A if nexus is A else B)

    def run(self, cdb: bytes, data: bytes = b"") -> Answer:
        """One command."""
        reply = self.disk.execute(self.session, cdb, aligned(data))
        answer = Answer(reply.status, reply.sense, b"".join(bytes(part) for part in reply.data))
        reply.release()
        return answer

    def good(self, cdb: bytes, data: bytes = b"") -> bytes:
        """One command that has to be GOOD; BUSY is tried again."""
        answer = self.run(cdb, data)
        while answer.status is Status.BUSY:
            answer = self.run(cdb, data)
        assert answer.status is Status.GOOD, answer
        return answer.data

    def close(self) -> None:
        """End it."""
        self.disk.close()
        assert self.units.close(30.0)


@pytest.fixture
def targets(tmp_path: pathlib.Path) -> Iterator[tuple[Target, Target]]:
    """Two targets of one LUN, with a session of nexus A and one of nexus B."""
    create_lun(str(tmp_path), "disk", size=SIZE)
    pair = Target(tmp_path, A), Target(tmp_path, B)
    yield pair
    for target in pair:
        target.close()


def test_reservation_at_one_target_stops_writes_at_the_other(
    targets: tuple[Target, Target],
) -> None:
    """SPC-4 table 65 between two targets: no write is let in after GOOD to RESERVE."""
    one, other = targets
    one.good(cdbs.write(0, 1), b"a" * BLOCK)
    other.good(cdbs.write(0, 1), b"b" * BLOCK)
    one.good(out_cdb(REGISTER_IGNORE), basic_list(0, KEY_A))
    one.good(out_cdb(RESERVE, type_=WE), basic_list(KEY_A, 0))
    assert other.run(cdbs.write(0, 1), b"c" * BLOCK).status is Status.RESERVATION_CONFLICT
    assert other.good(cdbs.read(0, 1)) == b"b" * BLOCK
    one.good(cdbs.write(0, 1), b"d" * BLOCK)


def test_preempted_target_learns_of_it_and_its_writes_fail(
    targets: tuple[Target, Target],
) -> None:
    """SPC-4 5.13.11: the victim's write conflicts; it finds 2A/05 with what does not."""
    one, other = targets
    for target, key in ((one, KEY_A), (other, KEY_B)):
        target.good(out_cdb(REGISTER_IGNORE), basic_list(0, key))
    one.good(out_cdb(RESERVE, type_=WE), basic_list(KEY_A, 0))
    one.good(cdbs.write(0, 1), b"a" * BLOCK)
    other.good(out_cdb(PREEMPT, type_=WE), basic_list(KEY_B, KEY_A))
    assert one.run(cdbs.write(0, 1), b"x" * BLOCK).status is Status.RESERVATION_CONFLICT
    assert one.run(cdbs.TEST_UNIT_READY).code == (6, 0x2A, 5)
    one.good(cdbs.TEST_UNIT_READY)
    assert other.good(cdbs.read(0, 1)) == b"a" * BLOCK


def test_writes_in_flight_never_outlive_the_good_of_a_reservation(
    targets: tuple[Target, Target],
) -> None:
    """The promise of the gate, with real threads: after GOOD nothing of a stranger is written."""
    one, other = targets
    one.good(out_cdb(REGISTER_IGNORE), basic_list(0, KEY_A))
    other.good(cdbs.TEST_UNIT_READY)
    stop = threading.Event()
    late: list[int] = []
    phase = [0]  # odd while the reservation is there

    def hammer(lba: int) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            before = phase[0]
            status = other.run(cdbs.write(lba, 1), count.to_bytes(8, "big") * 64).status
            if before % 2 and status is Status.GOOD and phase[0] == before:
                late.append(count)

    threads = [threading.Thread(target=hammer, args=(lba,)) for lba in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        one.good(out_cdb(RESERVE, type_=WE), basic_list(KEY_A, 0))
        phase[0] += 1
        first = one.good(cdbs.read(0, 4))
        assert one.good(cdbs.read(0, 4)) == first
        phase[0] += 1
        one.good(out_cdb(2, type_=WE), basic_list(KEY_A, 0))
    stop.set()
    for thread in threads:
        thread.join(60)
    assert late == []


def test_reset_at_one_target_frees_and_tells_the_other(targets: tuple[Target, Target]) -> None:
    """SAM-5 6.3.3: RESERVE(6) ends, and a registered nexus of the other target finds 29/03."""
    one, other = targets
    one.good(bytes((0x16, *bytes(5))))
    assert other.run(cdbs.read(0, 1)).status is Status.RESERVATION_CONFLICT
    assert one.disk.reset("lun")
    assert one.run(cdbs.read(0, 1)).code == (6, 0x29, 3)
    other.good(cdbs.read(0, 1))


def test_keys_are_those_of_all_targets(targets: tuple[Target, Target]) -> None:
    """PERSISTENT RESERVE IN sees the one state."""
    one, other = targets
    one.good(out_cdb(REGISTER_IGNORE), basic_list(0, KEY_A))
    other.good(out_cdb(REGISTER_IGNORE), basic_list(0, KEY_B))
    for target in targets:
        assert len(target.good(in_cdb(0))) == 24
