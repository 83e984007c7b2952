"""Reads and writes that are launched: admitted as `execute` admits, answered as it answers."""

from __future__ import annotations

import errno
import os
import pathlib
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flockpr.block import MAX_BUFFER, Disk, DiskNexus, Pool
from flockpr.block.launches import MOST, Launch
from flockpr.block.senses import CAPACITY_CHANGED
from flockpr.errors import StoreUnavailable
from flockpr.gate import Permit
from flockpr.spc.codes import Status
from flockpr.store.listing import read_identity
from flockpr.store.provision import create_lun
from flockpr.units import Units
from tests.support import sbc_cdbs as cdbs
from tests.support.disks import BLOCK, Answer, Rig, aligned, rigs
from tests.support.scsi import REGISTER_IGNORE, RESERVE, WE, A, B, basic_list, out_cdb

DATA = b"d" * BLOCK
LAST = 2048


def launch(
    rig: Rig, cdb: bytes, data: bytes = b"", *, of: DiskNexus | None = None, **more: Any
) -> Launch | None:
    """Begin."""
    return rig.disk.launch(of or rig.session, cdb, aligned(data), **more)


def must(rig: Rig, cdb: bytes, data: bytes = b"") -> Launch:
    """Begin what can begin."""
    found = launch(rig, cdb, data)
    assert found is not None
    return found


def carried_out(begun: Launch) -> int:
    """What the kernel would say."""
    call = os.pwritev if begun.writes else os.preadv
    return call(begun.fd, (begun.view,), begun.offset)


def landed(rig: Rig, begun: Launch, result: int) -> Answer:
    """Its answer, with its data copied and its buffer given back."""
    reply = rig.disk.land(begun, result)
    answer = Answer(reply.status, reply.sense, b"".join(bytes(part) for part in reply.data))
    reply.release()
    return answer


@pytest.fixture(autouse=True)
def opened(request: pytest.FixtureRequest) -> None:
    """The permit is there: it is taken by who may wait."""
    if "rig" in request.fixturenames:
        rig = request.getfixturevalue("rig")
        assert isinstance(rig, Rig)
        rig.good(cdbs.read(0, 1))


@pytest.mark.parametrize("width", [6, 10, 12, 16])
def test_write_and_read_of_every_width(rig: Rig, width: int) -> None:
    """SBC-3 5.10, 5.35: at their place, and GOOD."""
    write = must(rig, cdbs.write(7, 1, width), DATA)
    assert rig.permit.inside == 1
    assert landed(rig, write, carried_out(write)).status is Status.GOOD
    assert rig.content(7, 1) == DATA
    read = must(rig, cdbs.read(6, 3, width))
    assert landed(rig, read, carried_out(read)).data == bytes(BLOCK) + DATA + bytes(BLOCK)
    assert rig.permit.inside == rig.disk._pool.lent == 0


REFUSED = [
    cdbs.read(LAST, 1),
    cdbs.read(LAST - 1, 2),
    cdbs.read(0, 0),
    cdbs.write(LAST, 1),
    cdbs.write(0, 1, fua=True),
    cdbs.write_and_verify(0, 1),
    cdbs.verify(0, 1),
    cdbs.compare_and_write(0, 1),
    cdbs.synchronize_cache(),
    cdbs.TEST_UNIT_READY,
    cdbs.read(0, 1)[:5],
    bytes((*cdbs.read(0, 1)[:9], 0x04)),  # NACA
    bytes((0x28, 0x20, *cdbs.read(0, 1)[2:])),  # RDPROTECT
    b"",
    b"\xff" * 16,
]


@pytest.mark.parametrize("cdb", REFUSED, ids=lambda cdb: cdb.hex() or "nothing")
def test_what_is_refused_or_more_than_one_call_is_not_launched(rig: Rig, cdb: bytes) -> None:
    """`execute` says why; here nothing is held."""
    assert launch(rig, cdb, DATA) is None
    assert rig.permit.inside == rig.disk._pool.lent == 0
    assert rig.disk._medium.claim(0, LAST * BLOCK) is not None  # no range is, either


def test_write_whose_data_came_in_part_is_not_launched(rig: Rig) -> None:
    """Of a block that came in part nothing is written; `execute` sees to the whole ones."""
    assert launch(rig, cdbs.write(0, 2), DATA) is None
    assert launch(rig, cdbs.write(0, 1), DATA[:-1]) is None


def test_nothing_is_launched_where_execute_would_wait_or_refuse(rig: Rig) -> None:
    """A barred permit, a fault, no memory, a session that left, a command that was cancelled."""
    read, write = cdbs.read(0, 1), cdbs.write(0, 1)
    assert launch(rig, read, cancelled=lambda: True) is None
    rig.permit.closed = True
    assert launch(rig, read) is None
    rig.permit.closed = False
    rig.permit.fault = StoreUnavailable("lost", "there")
    assert launch(rig, read) is None
    rig.permit.fault = None
    rig.disk._footing.withheld = StoreUnavailable("another mount", "there")
    assert launch(rig, read) is None
    rig.disk._footing.withheld = None
    rig.disk._served.drop()
    assert launch(rig, read) is None  # the state is not known
    rig.good(read)
    rig.disk._device.loaded = False
    assert launch(rig, read) is None
    rig.disk._device.loaded = True
    rig.disk._device.read_only = True
    assert launch(rig, write, DATA) is None
    assert landed(rig, must(rig, read), BLOCK).status is Status.GOOD
    rig.disk._device.read_only = False
    other = rig.disk.attach(B)
    rig.run(cdbs.TEST_UNIT_READY, of=other)
    rig.good(read, of=other)
    rig.disk.detach(other)
    assert launch(rig, read, of=other) is None
    assert rig.permit.inside == rig.disk._pool.lent == 0


def test_memory_that_others_have_is_not_waited_for(tmp_path: pathlib.Path) -> None:
    """`execute` waits for it."""
    pool = Pool(MAX_BUFFER)
    for rig in rigs(tmp_path, pool=pool):
        rig.good(cdbs.read(0, 1))
        taken = pool.acquire(MAX_BUFFER)
        assert taken is not None
        assert launch(rig, cdbs.read(0, 1)) is None
        assert rig.permit.inside == 0
        taken.release()
        assert landed(rig, must(rig, cdbs.read(0, 1)), BLOCK).status is Status.GOOD


def test_reservations_and_attentions_decide_as_ever(rig: Rig) -> None:
    """SPC-4 table 65, SAM-5 5.14: what conflicts or has something to hear is for `execute`."""
    stranger = rig.disk.attach(B)
    rig.run(cdbs.TEST_UNIT_READY, of=stranger)
    rig.good(cdbs.read(0, 1), of=stranger)
    rig.good(out_cdb(REGISTER_IGNORE), basic_list(0, 1))
    rig.good(out_cdb(RESERVE, type_=WE), basic_list(1, 0))
    rig.permit.retake()
    rig.good(cdbs.read(0, 1))
    assert launch(rig, cdbs.write(0, 1), DATA, of=stranger) is None
    assert rig.run(cdbs.write(0, 1), DATA, of=stranger).status is Status.RESERVATION_CONFLICT
    read = launch(rig, cdbs.read(0, 1), of=stranger)
    assert read is not None
    landed(rig, read, BLOCK)
    landed(rig, must(rig, cdbs.write(0, 1), DATA), BLOCK)
    stranger.tell(CAPACITY_CHANGED)
    assert launch(rig, cdbs.read(0, 1), of=stranger) is None
    assert rig.permit.inside == 0


@pytest.mark.parametrize(
    "number",
    [
        *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENOSPC, errno.EDQUOT),
        *(errno.EROFS, errno.EPERM, errno.EFBIG, errno.ENOMEM, errno.EAGAIN, errno.EINTR),
    ],
)
@pytest.mark.parametrize("gone", [False, True])
def test_failure_says_what_it_says_of_a_command_that_is_waited_for(
    rig: Rig, number: int, gone: bool
) -> None:
    """The same sense or BUSY, and the same doubt about the permit."""
    rig.permit.gone = gone
    for name, cdb, data in (
        ("preadv", cdbs.read(3, 1), b""),
        ("pwritev", cdbs.write(3, 1), DATA),
    ):
        rig.calls.errors[name] = OSError(number, "no")
        expected = rig.run(cdb, data)
        del rig.calls.errors[name]
        assert landed(rig, must(rig, cdb, data), -number) == expected
        assert expected.status is not Status.GOOD
    assert rig.permit.inside == rig.disk._pool.lent == 0


def test_part_of_a_read_or_write_is_made_whole(rig: Rig) -> None:
    """The kernel may move less than it was asked for."""
    data = bytes(range(256)) * 4
    write = must(rig, cdbs.write(0, 2), data)
    os.pwritev(write.fd, (write.view[:BLOCK],), write.offset)
    assert landed(rig, write, BLOCK).status is Status.GOOD
    assert rig.content(0, 2) == data
    read = must(rig, cdbs.read(0, 2))
    os.preadv(read.fd, (read.view[:BLOCK],), read.offset)
    assert landed(rig, read, BLOCK).data == data
    assert rig.permit.inside == 0


def test_write_from_memory_that_is_not_aligned_is_written_all_the_same(rig: Rig) -> None:
    """EINVAL: nothing was done of it yet."""
    write = must(rig, cdbs.write(5, 1), DATA)
    assert landed(rig, write, -errno.EINVAL).status is Status.GOOD
    assert rig.content(5, 1) == DATA


def test_write_of_nothing_and_read_behind_the_end_are_errors(rig: Rig) -> None:
    """Neither is GOOD, and nobody turns in circles."""
    write = must(rig, cdbs.write(0, 1), DATA)
    rig.calls.errors["pwritev"] = OSError(errno.EIO, "no")
    assert landed(rig, write, 0).code == (3, 0x0C, 0)
    del rig.calls.errors["pwritev"]
    read = must(rig, cdbs.read(LAST - 2, 2))
    os.truncate(rig.path, (LAST - 1) * BLOCK)
    os.preadv(read.fd, (read.view,), read.offset)
    assert landed(rig, read, BLOCK).code == (3, 0x11, 0)
    rig.disk._medium.look_again()
    assert launch(rig, cdbs.write(LAST - 1, 1), DATA) is None
    assert rig.run(cdbs.write(LAST - 1, 1), DATA).code == (3, 0x0C, 0)


def test_compare_and_write_waits_for_a_launched_write_and_the_other_way_round(rig: Rig) -> None:
    """SBC-3 5.2: one act against every write of this process."""
    write = must(rig, cdbs.write(4, 1), DATA)
    answers: list[Answer] = []
    cdb = cdbs.compare_and_write(4, 1)
    thread = threading.Thread(target=lambda: answers.append(rig.run(cdb, DATA + bytes(BLOCK))))
    thread.start()
    while not rig.disk._medium.ranges._exclusive:
        assert thread.is_alive()
    # The one in hand must not wait for the other, which waits for the first.
    assert launch(rig, cdbs.write(4, 1), DATA) is None
    landed(rig, must(rig, cdbs.write(5, 1), DATA), BLOCK)
    assert landed(rig, write, carried_out(write)).status is Status.GOOD
    thread.join(60.0)
    assert [answer.status for answer in answers] == [Status.GOOD]
    assert rig.content(4, 1) == bytes(BLOCK)


def test_ring_only_on_file_systems_of_one_host(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed there ends when its disk answers, and not when a server does."""

    class Guard:
        """Says what a test wants."""

        def __init__(self, one_host: bool) -> None:
            self.promise = self
            self.one_host = one_host
            self.exclusive = False

        def opened(self, fd: int, calls: object) -> None:
            """Nothing is wrong."""

        def look(self) -> None:
            """Nothing is wrong."""

    for number, one_host in enumerate((True, False)):
        directory = tmp_path / str(number)
        directory.mkdir()
        for rig in rigs(directory, guard=Guard(one_host)):
            asked: list[int] = []
            monkeypatch.setattr(rig.calls, "ring", asked.append)
            rig.permit.direct = False
            rig.disk.ring(4)
            assert asked == []
            rig.permit.direct = True
            rig.disk.ring(5)
            assert asked == [5] * one_host


_COMMANDS = st.tuples(
    st.sampled_from([cdbs.read, cdbs.write]),
    st.integers(0, 40),
    st.integers(0, 6),
    st.sampled_from([6, 10, 12, 16]),
)


@settings(max_examples=60)
@given(st.lists(_COMMANDS, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_a_disk_that_launches_answers_like_one_that_waits(
    tmp_path_factory: pytest.TempPathFactory, commands: list[Any], chance: Any
) -> None:
    """Any commands, each launched where that goes: the same answers, and the same image."""
    waits = Rig(tmp_path_factory.mktemp("waits"), 32)
    launches = Rig(tmp_path_factory.mktemp("launches"), 32)
    try:
        for rig in (waits, launches):
            rig.good(cdbs.read(0, 1))
        for make, lba, count, width in commands:
            cdb = make(lba, count, width)
            size = 256 if width == 6 and not count else count
            data = chance.randbytes(size * BLOCK) if make is cdbs.write else b""
            begun = launch(launches, cdb, data)
            if begun is None:
                answer = launches.run(cdb, data)
            else:
                answer = landed(launches, begun, carried_out(begun))
            assert answer == waits.run(cdb, data)
        assert launches.content(0, 32) == waits.content(0, 32)
        assert launches.permit.inside == launches.disk._pool.lent == 0
    finally:
        waits.close()
        launches.close()


def test_reservation_waits_for_what_flies_at_another_target(tmp_path: pathlib.Path) -> None:
    """The gate: RESERVE is GOOD when a stranger's write has landed, and none takes off after."""
    create_lun(str(tmp_path), "disk", size=1 << 20)
    identity = read_identity(str(tmp_path), "disk")
    units = [Units(str(tmp_path), timeout=60.0) for _ in range(2)]
    disks = [Disk(str(tmp_path), identity, unit, timeout=60.0) for unit in units]
    sessions = [disk.attach(nexus) for disk, nexus in zip(disks, (A, B), strict=True)]
    try:
        holder, stranger = disks
        for disk, session in zip(disks, sessions, strict=True):
            while disk.execute(session, cdbs.read(0, 1)).status is not Status.GOOD:
                pass
        holder.execute(sessions[0], out_cdb(REGISTER_IGNORE), basic_list(0, 1))
        write = stranger.launch(sessions[1], cdbs.write(0, 1), aligned(DATA))
        assert write is not None
        reserved: list[Status] = []

        def reserve() -> None:
            cdb, keys = out_cdb(RESERVE, type_=WE), basic_list(1, 0)
            reserved.append(holder.execute(sessions[0], cdb, keys).status)

        thread = threading.Thread(target=reserve)
        thread.start()
        permit = stranger._permit
        assert isinstance(permit, Permit)
        while permit.enter_at_once():  # until it has knocked
            permit.leave()
        assert stranger.launch(sessions[1], cdbs.write(1, 1), aligned(DATA)) is None
        thread.join(0.2)
        assert not reserved
        assert stranger.land(write, carried_out(write)).status is Status.GOOD
        thread.join(60.0)
        assert reserved == [Status.GOOD]
        assert stranger.launch(sessions[1], cdbs.write(1, 1), aligned(DATA)) is None
    finally:
        for disk, unit in zip(disks, units, strict=True):
            disk.close()
            assert unit.close(60.0)


def test_many_under_way_are_a_crowd_until_they_land(rig: Rig) -> None:
    """Whoever takes access away waits for all of them."""
    begun = [must(rig, cdbs.read(0, 1)) for _ in range(MOST)]
    seen = [rig.disk.crowded]
    for each in begun:
        landed(rig, each, BLOCK)
        seen.append(rig.disk.crowded)
    assert seen == [True] + [False] * MOST


def test_nothing_is_launched_through_the_page_cache(rig: Rig) -> None:
    """There a failure may be about what others wrote, who have to be told."""
    rig.permit.direct = False
    assert launch(rig, cdbs.read(0, 1)) is None
    assert rig.permit.inside == 0
