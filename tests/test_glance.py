"""Commands that only read are answered at once where nobody has to be waited for."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flockpr import delete_lun
from flockpr.logical_unit import LogicalUnit, Result
from flockpr.logical_unit import glance as module
from flockpr.spc.codes import Status
from flockpr.store.chain import Chain
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from flockpr.units import Units
from flockpr.units import worker as workers
from tests.support.hanging import LONG, Hanging
from tests.support.lun_tools import register
from tests.support.scsi import (
    RESERVE_6,
    TEST_UNIT_READY,
    A,
    B,
    basic_list,
    in_cdb,
    keys_in,
    nexus,
    out_cdb,
)

READ_KEYS = in_cdb(0)
READ_RESERVATION = in_cdb(1)


@pytest.fixture
def lun(tmp_path: Path) -> str:
    """The directory of a logical unit."""
    create_lun(str(tmp_path), "disk")
    return str(tmp_path / "disk")


@pytest.fixture
def one(lun: str) -> Iterator[LogicalUnit]:
    """A daemon, of which A has sent a command."""
    with LogicalUnit(LockDirectory(lun), keep_tidy=False) as unit:
        assert register(unit, A, 1) == Result(Status.GOOD)
        yield unit


@pytest.fixture
def two(lun: str) -> Iterator[LogicalUnit]:
    """Another daemon."""
    with LogicalUnit.open(lun) as unit:
        yield unit


def known(unit: LogicalUnit) -> list[int] | None:
    """What A reads without a look."""
    result = unit.read_at_once(A, READ_KEYS, looks=False)
    return None if result is None else keys_in(result.data_in)


def keys(unit: LogicalUnit) -> list[int] | None:
    """What A reads at once."""
    result = unit.read_at_once(A, READ_KEYS)
    return None if result is None else keys_in(result.data_in)


def asked(unit: LogicalUnit) -> list[int]:
    """What A reads when it waits."""
    return keys_in(unit.execute(A, READ_KEYS, report_attentions=False).data_in)


def known_of(unit: LogicalUnit) -> list[int]:
    """What it knows, once it has been asked often enough."""
    for _ in range(3):
        assert keys(unit) is not None
    found = known(unit)
    assert found is not None
    return found


def test_what_is_known_is_answered_without_a_look(one: LogicalUnit) -> None:
    """Of what a glance has answered before, and of nothing else."""
    assert known(one) is None
    assert known_of(one) == [1]
    assert one.read_at_once(A, READ_RESERVATION, looks=False) is None
    found = one.read_at_once(A, READ_RESERVATION)
    assert one.read_at_once(A, READ_RESERVATION, looks=False) is found
    assert one.read_at_once(B, READ_KEYS, looks=False) is None


def test_what_has_changed_is_not_known_before_it_was_looked_at(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """Also where a look has been taken that found a successor: the vigil begins before it."""
    assert known_of(one) == [1]
    register(two, B, 2)
    assert known(one) is None
    assert keys(one) is None
    assert known(one) is None
    assert asked(one) == [1, 2]
    assert known_of(one) == [1, 2]


def test_read_is_answered_as_if_it_had_been_executed(one: LogicalUnit) -> None:
    """Every service action and allocation length; equal answers are one object."""
    for cdb in (in_cdb(action, length) for action in range(4) for length in (0, 8, 20, 8192)):
        found = one.read_at_once(A, cdb)
        assert found == one.execute(A, cdb, report_attentions=False)
        assert one.read_at_once(A, cdb) is found


def test_read_of_a_nexus_that_is_owed_an_attention_has_to_be_asked_for(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """SAM-5 5.14: at a door that reports them, the attention comes first, once."""
    assert register(two, B, 2) == Result(Status.GOOD)
    assert two.execute(B, out_cdb(3), basic_list(2)) == Result(Status.GOOD)  # CLEAR
    asked(one)
    assert one.read_at_once(A, READ_KEYS) is not None
    assert one.read_at_once(A, READ_KEYS, report_attentions=True) is None
    assert one.execute(A, READ_KEYS).status is Status.CHECK_CONDITION
    assert one.execute(A, READ_KEYS).status is Status.GOOD
    assert one.read_at_once(A, READ_KEYS, report_attentions=True) is not None


def test_read_after_the_commit_of_another_daemon_has_to_be_asked_for(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """And shows that commit then; until it is durable nothing is answered at once."""
    assert keys(one) == [1]
    assert register(two, B, 2) == Result(Status.GOOD)
    assert keys(one) is None
    assert asked(one) == [1, 2]
    assert keys(one) == [1, 2]


def test_read_that_depends_on_what_is_not_durable_has_to_be_asked_for(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """The first who asks makes it so."""
    assert register(two, B, 2) == Result(Status.GOOD)
    assert one.snapshot().number == 3  # seen, and not synced
    assert keys(one) is None
    assert asked(one) == [1, 2]
    assert keys(one) == [1, 2]


def test_read_of_a_nexus_that_was_not_heard_of_has_to_be_asked_for(one: LogicalUnit) -> None:
    """Its byte range is seen to first."""
    assert one.read_at_once(B, READ_KEYS) is None
    assert one.execute(B, READ_KEYS, report_attentions=False).status == Status.GOOD
    found = one.read_at_once(B, READ_KEYS)
    assert found is not None
    one.leave(B)
    assert one.read_at_once(B, READ_KEYS) is None


def test_read_of_a_nexus_whose_range_another_daemon_has_is_asked_for_each_time(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """A guest that migrates: its destination stands for it as soon as its source lets go."""
    assert two.execute(A, READ_KEYS, report_attentions=False).status == Status.GOOD
    assert two.read_at_once(A, READ_KEYS) is None
    one.leave(A)
    assert two.execute(A, READ_KEYS, report_attentions=False).status == Status.GOOD
    assert two.read_at_once(A, READ_KEYS) is not None
    (entry,) = one.status().to_json()["registrations"]
    assert entry["liveness"] == "alive"


@pytest.mark.parametrize(
    "cdb",
    [in_cdb(9), out_cdb(0), TEST_UNIT_READY, RESERVE_6, b"", bytes(16)],
    ids=["no such action", "out", "test unit ready", "reserve", "nothing", "zeros"],
)
def test_other_commands_have_to_be_asked_for(one: LogicalUnit, cdb: bytes) -> None:
    """What is refused goes to the journal, what changes something to the disk."""
    assert one.read_at_once(A, cdb) is None


def test_read_beside_a_spc2_reservation_has_to_be_asked_for(
    one: LogicalUnit, two: LogicalUnit
) -> None:
    """Its holder may be lost, which frees it."""
    assert register(one, A, 0, 1) == Result(Status.GOOD)
    assert two.execute(B, RESERVE_6, report_attentions=False).status == Status.GOOD
    one.execute(A, READ_KEYS, report_attentions=False)
    assert keys(one) is None


def test_read_during_another_command_has_to_be_asked_for(one: LogicalUnit) -> None:
    """It does not wait for it."""
    with one._lock:
        assert keys(one) is None
    assert keys(one) == [1]


def test_read_of_a_closed_unit_has_to_be_asked_for(one: LogicalUnit) -> None:
    """Its files are closed."""
    one.close()
    assert keys(one) is None


@pytest.mark.parametrize("what", ["deleted", "moved", "replaced"])
def test_read_of_a_unit_that_is_not_there_ends_soon(one: LogicalUnit, lun: str, what: str) -> None:
    """The path is looked at once a second, by a command that is executed."""
    if what == "deleted":
        delete_lun(os.path.dirname(lun), "disk", force=True)
        assert keys(one) is None
        return
    os.rename(lun, f"{lun}.away")
    if what == "replaced":
        create_lun(os.path.dirname(lun), "disk")
    deadline = time.monotonic() + LONG
    while keys(one) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert one.execute(A, READ_KEYS, report_attentions=False).status == Status.CHECK_CONDITION
    assert keys(one) is None


def test_read_on_a_network_file_system_has_to_be_asked_for(
    lun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its client believes of a name proves nothing there, and asking may wait."""
    hanging = Hanging()
    monkeypatch.setattr(hanging, "coherent", lambda _: False)
    with LogicalUnit(LockDirectory(lun, syscalls=hanging), keep_tidy=False) as unit:
        assert asked(unit) == []
        assert keys(unit) is None


def test_read_whose_look_fails_has_to_be_asked_for(
    one: LogicalUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error is not the absence of a successor."""

    def fails(*_: object, **__: object) -> Any:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(Chain, "_is_head", fails)
        assert keys(one) is None
    assert keys(one) == [1]


def test_answers_that_are_kept_are_bounded(
    one: LogicalUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest may ask with every allocation length that there is."""
    monkeypatch.setattr(module, "MAX_ANSWERS", 3)
    for length in range(8, 20):
        assert one.read_at_once(A, in_cdb(0, length)) is not None
    assert len(one._decisions.glance._answers) == 3


# --------------------------------------------------------------------------- through the units


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """The file server of all LUNs that units open."""
    hanging = Hanging()

    def opened(path: str, **options: Any) -> LockDirectory:
        return LockDirectory(path, syscalls=hanging, **options)

    monkeypatch.setattr(workers, "open_store", opened)
    yield hanging
    hanging.release()


@pytest.fixture
def units(lun: str, server: Hanging) -> Iterator[Units]:
    """A daemon that serves it."""
    units = Units(os.path.dirname(lun), timeout=LONG)
    yield units
    server.release()
    units.close()


def eventually(found: Callable[[], bool], what: str) -> None:
    """Wait for it."""
    deadline = time.monotonic() + LONG
    while not found():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def execute(units: Units, of: Any, cdb: bytes, data: bytes = b"") -> Result:
    """A command that is waited for."""
    return units.submit("disk", of, cdb, data, report_attentions=False).result(LONG)


def test_units_answer_at_once_what_was_asked_before(units: Units) -> None:
    """From the first command of a nexus on; a LUN that nobody has opened yet is asked."""
    assert units.read_at_once("disk", A, READ_KEYS) is None
    executed = execute(units, A, READ_KEYS)
    eventually(
        lambda: units.read_at_once("disk", A, READ_KEYS) == executed, "it is not answered at once"
    )
    assert units.read_at_once("other", A, READ_KEYS) is None
    assert units.read_at_once("disk", A, READ_KEYS, "another door") is None


def test_units_do_not_answer_at_once_what_comes_after_a_leave(
    units: Units, server: Hanging
) -> None:
    """It would be taken for a command of the nexus that is gone."""
    execute(units, A, READ_KEYS)
    eventually(lambda: units.read_at_once("disk", A, READ_RESERVATION) is not None, "not at once")
    server.hang_in("stat")
    hung = units.submit("disk", B, READ_KEYS, report_attentions=False)
    assert server.stuck.wait(LONG)
    units.leave("disk", A)
    assert units.read_at_once("disk", A, READ_RESERVATION) is None
    server.release()
    assert hung.result(LONG).status == Status.GOOD


def test_look_that_hangs_has_all_units_asked_for_a_while(
    units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another LUN of that file system would hang the caller as well."""
    create_lun(units.root, "other")
    for lun in ("disk", "other"):
        units.submit(lun, A, READ_KEYS, report_attentions=False).result(LONG)
        eventually(lambda: units.read_at_once(lun, A, READ_KEYS) is not None, "not at once")  # noqa: B023
    monkeypatch.setattr("flockpr.units.respite.SHORTEST", 3600.0)
    units.looks_hang()
    assert units.read_at_once("disk", A, READ_KEYS) is None
    assert units.read_at_once("other", A, READ_KEYS) is None
    assert execute(units, A, READ_KEYS).status == Status.GOOD
    units._no_looks._until = time.monotonic()
    assert units.read_at_once("other", A, READ_KEYS) is not None


def test_reads_of_many_threads_and_commits_agree(units: Units) -> None:
    """No read goes back behind one that was answered before it (linearizability)."""
    execute(units, A, READ_KEYS)
    over = threading.Event()
    failures: list[str] = []

    def read() -> None:
        latest = 0
        of = nexus(threading.current_thread().name)
        while not over.is_set():
            known = committed[0]
            result = units.read_at_once("disk", of, READ_KEYS) or execute(units, of, READ_KEYS)
            generation = int.from_bytes(result.data_in[:4], "big")
            if generation < max(latest, known):
                failures.append(f"{generation} after {latest}, {known}")
            latest = generation

    committed = [0]
    threads = [threading.Thread(target=read, name=f"reader{n}") for n in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(60):
            data = bytes(8) + (number + 1).to_bytes(8, "big") + bytes(8)
            assert execute(units, B, out_cdb(6), data) == Result(Status.GOOD)
            committed[0] = number + 1
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failures
