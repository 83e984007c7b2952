"""Random sequences of commands against a model of a few lines; power cuts in between."""

from __future__ import annotations

import errno
import pathlib
import random
import tempfile
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flockpr.block import transfer_of
from flockpr.spc.codes import Status
from tests.support import sbc_cdbs as cdbs
from tests.support.disks import BLOCK, Rig
from tests.support.power import PowerCalls

BLOCKS = 96
MISCOMPARE = (0xE, 0x1D, 0)
OUT_OF_RANGE = (5, 0x21, 0)

_range = st.tuples(st.integers(0, BLOCKS + 1), st.integers(0, 24))
_fill = st.integers(0, 3)
_step = st.one_of(
    st.tuples(st.just("read"), _range, st.sampled_from([10, 12, 16])),
    st.tuples(st.just("write"), _range, _fill, st.sampled_from([10, 12, 16]), st.booleans()),
    st.tuples(st.just("write_and_verify"), _range, _fill, st.sampled_from([10, 12, 16])),
    st.tuples(st.just("same"), _range, _fill, st.sampled_from([10, 16]), st.sampled_from([0, 8])),
    st.tuples(st.just("unmap"), st.lists(_range, max_size=4)),
    st.tuples(st.just("compare"), _range, _fill, _fill),
    st.tuples(st.just("or"), _range, _fill),
    st.tuples(st.just("verify"), _range, _fill),
    st.tuples(st.just("sync")),
)


class Model:
    """What the disk has to hold, and what each command has to come to."""

    def __init__(self) -> None:
        self.data = bytearray(BLOCKS * BLOCK)

    def inside(self, extent: tuple[int, int]) -> bool:
        """Whether it lies on the medium."""
        return extent[0] + extent[1] <= BLOCKS

    def get(self, extent: tuple[int, int]) -> bytes:
        """Its blocks."""
        return bytes(self.data[extent[0] * BLOCK : sum(extent) * BLOCK])

    def put(self, extent: tuple[int, int], data: bytes) -> None:
        """Write them."""
        self.data[extent[0] * BLOCK : sum(extent) * BLOCK] = data[: extent[1] * BLOCK]


def _blocks(fill: int, count: int) -> bytes:
    """Few different contents, so that comparisons succeed now and then."""
    return bytes((fill * 0x55,)) * (count * BLOCK)


def run(rig: Rig, model: Model, step: tuple[Any, ...]) -> None:
    """One command, on the disk and on the model."""
    name, *rest = step
    if name == "sync":
        rig.good(cdbs.synchronize_cache())
        return
    if name == "unmap":
        cdb, data = cdbs.unmap(*rest[0])
        if all(model.inside(extent) for extent in rest[0]):
            rig.good(cdb, data)
            for extent in rest[0]:
                model.put(extent, bytes(extent[1] * BLOCK))
        else:
            assert rig.code(cdb, data) == OUT_OF_RANGE
        return
    extent, count = rest[0], rest[0][1]
    cdb, data = _command(step)
    if not model.inside(extent):
        assert rig.code(cdb, data) == OUT_OF_RANGE
        return
    match name:
        case "read":
            assert rig.good(cdb) == model.get(extent)
        case "write" | "write_and_verify":
            rig.good(cdb, data)
            model.put(extent, data)
        case "same":
            rig.good(cdb, data)
            whole = (extent[0], count or BLOCKS - extent[0])
            blank = rest[3] == 8 and not count
            model.put(whole, bytes(whole[1] * BLOCK) if blank else data * whole[1])
        case "compare" if model.get(extent) == data[: count * BLOCK]:
            rig.good(cdb, data)
            model.put(extent, data[count * BLOCK :])
        case "or":
            rig.good(cdb, data)
            pairs = zip(model.get(extent), data, strict=True)
            model.put(extent, bytes(one | other for one, other in pairs))
        case "verify" if model.get(extent) == data:
            rig.good(cdb, data)
        case _:
            assert rig.code(cdb, data) == MISCOMPARE


def _command(step: tuple[Any, ...]) -> tuple[bytes, bytes]:
    name, (lba, count), *rest = step
    match name:
        case "read":
            return cdbs.read(lba, count, rest[0]), b""
        case "write":
            return cdbs.write(lba, count, rest[1], fua=rest[2]), _blocks(rest[0], count)
        case "write_and_verify":
            return cdbs.write_and_verify(lba, count, rest[1], flags=2), _blocks(rest[0], count)
        case "same":
            return cdbs.write_same(lba, count, rest[1], flags=rest[2]), _blocks(rest[0], 1)
        case "compare":
            data = _blocks(rest[0], count) + _blocks(rest[1], count)
            return cdbs.compare_and_write(lba, count), data
        case "or":
            return b"\x8b" + cdbs.write(lba, count, 16)[1:], _blocks(rest[0], count)
    return cdbs.verify(lba, count, flags=2), _blocks(rest[0], count)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(_step, max_size=30),
    holes=st.booleans(),
    most=st.sampled_from([None, BLOCK, 3 * BLOCK]),
)
def test_any_sequence_of_commands_leaves_what_the_model_holds(
    steps: list[tuple[Any, ...]], holes: bool, most: int | None
) -> None:
    """Every command reads what those before it wrote, and refused ones change nothing."""
    with tempfile.TemporaryDirectory() as directory:
        rig = Rig(pathlib.Path(directory), BLOCKS)
        rig.calls.most = most
        if not holes:
            rig.calls.errors["punch"] = OSError(errno.EOPNOTSUPP, "no")
        model = Model()
        try:
            for step in steps:
                run(rig, model, step)
            assert rig.content(0, BLOCKS) == bytes(model.data)
            assert rig.disk._pool.lent == rig.permit.inside == 0
        finally:
            rig.close()


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(_step, max_size=25), seed=st.integers(0, 1 << 32))
def test_power_cut_loses_nothing_that_was_promised(steps: list[tuple[Any, ...]], seed: int) -> None:
    """SBC-3 4.14: GOOD to FUA or SYNCHRONIZE CACHE means stable; later writes may be lost,
    each block for itself, but none comes back to before the promise.
    """
    with tempfile.TemporaryDirectory() as directory:
        calls = PowerCalls(BLOCKS)
        rig = Rig(pathlib.Path(directory), BLOCKS, calls=calls)
        model = Model()
        # By block: what it may hold after a cut: the promised content, or a later one.
        possible = [{bytes(BLOCK)} for _ in range(BLOCKS)]
        try:
            for step in steps:
                before = bytes(model.data)
                run(rig, model, step)
                promised = step[0] == "sync"
                fua = step[0] == "write_and_verify" or (step[0] == "write" and step[4])
                touched = _touched(step)
                for number in range(BLOCKS):
                    now = model.get((number, 1))
                    changed = now != before[number * BLOCK : (number + 1) * BLOCK]
                    if promised or (fua and number in touched):
                        possible[number] = {now}
                    elif changed or number in touched:
                        possible[number].add(now)
            calls.cut(random.Random(seed))
            for number in range(BLOCKS):
                left = bytes(calls.stable[number * BLOCK : (number + 1) * BLOCK])
                assert left in possible[number], number
        finally:
            rig.close()


def _touched(step: tuple[Any, ...]) -> range:
    if step[0] in ("write", "write_and_verify", "same", "compare", "or"):
        lba, count = step[1]
        if lba + count <= BLOCKS:
            return range(lba, lba + count if count or step[0] != "same" else BLOCKS)
    return range(0)


@settings(max_examples=300, deadline=None)
@given(cdb=st.binary(max_size=20), data=st.binary(max_size=64))
def test_any_bytes_are_answered(cdb: bytes, data: bytes) -> None:
    """Parsers are total: every CDB is answered, its transfer is known, nothing is held."""
    rig = _shared()
    transfer = transfer_of(cdb)
    assert transfer.length >= 0
    reply = rig.disk.execute(rig.session, cdb, data, expected_out=len(data))
    reply.release()
    assert reply.status in Status
    assert (reply.status is Status.CHECK_CONDITION) == bool(reply.sense)
    assert sum(len(part) for part in reply.data) <= max(transfer.length, 0)
    assert rig.disk._pool.lent == rig.permit.inside == 0


_rigs: list[tuple[tempfile.TemporaryDirectory[str], Rig]] = []


def _shared() -> Rig:
    if not _rigs:
        directory = tempfile.TemporaryDirectory()
        _rigs.append((directory, Rig(pathlib.Path(directory.name), BLOCKS)))
    return _rigs[0][1]


@pytest.fixture(autouse=True, scope="module")
def _closed() -> Any:
    yield
    for directory, rig in _rigs:
        rig.close()
        directory.cleanup()
    _rigs.clear()


def test_many_threads_on_ranges_of_their_own_do_not_disturb_each_other(rig: Rig) -> None:
    """Any number of commands at once: each thread finds in its blocks what it wrote."""
    failures: list[str] = []

    def work(number: int) -> None:
        chance = random.Random(number)
        model = Model()
        base = number * 256
        for _ in range(60):
            lba, count = chance.randrange(40), chance.randrange(1, 40)
            data = bytes((chance.randrange(256),)) * (count * BLOCK)
            kind = chance.randrange(4)
            if kind == 0:
                answer = rig.run(cdbs.write(base + lba, count), data)
                model.put((lba, count), data)
            elif kind == 1:
                answer = rig.run(*cdbs.unmap((base + lba, count)))
                model.put((lba, count), bytes(count * BLOCK))
            elif kind == 2:
                old = model.get((lba, count))
                answer = rig.run(cdbs.compare_and_write(base + lba, count), old + data)
                model.put((lba, count), data)
            else:
                answer = rig.run(cdbs.read(base + lba, count))
                if answer.data != model.get((lba, count)):
                    failures.append(f"{number}: other data at {lba}+{count}")
            if answer.status is not Status.GOOD:
                failures.append(f"{number}: {answer}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert failures == []
