"""System calls of a running daemon fail, one at a time and for a while.

Whatever fails, the client gets an answer that docs/decisions/0006 knows, GOOD is never lost,
what was refused never happens, and when nothing fails any more everything works again.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence

import pytest

from flockpr.spc.codes import Status
from tests.support.daemons import LUN, Answer, Daemon, Door, audit_trail, chain, decide, read
from tests.support.daemons import committed as state_of
from tests.support.fault_rig import (
    BECOMING,
    ERRORS,
    INTERVENTION,
    LOST,
    UNKNOWN,
    Point,
    Rig,
    Trial,
    not_ready,
)
from tests.support.strace import traced

pytestmark = pytest.mark.peer("strace")

SCENARIOS = {
    "local": (False, False),
    "local-behind": (False, True),
    "network": (True, False),
    "network-behind": (True, True),
}
COMMITTING = ("openat", "write", "fsync", "linkat", "unlinkat", "renameat", "fcntl", "newfstatat")
"""What every commit is made of, at the least."""


def _sweep(directory: str, scenario: str, errors: int) -> None:
    """Make each call of a commit fail, with `errors` of the errors each."""
    network, behind = SCENARIOS[scenario]
    answers: set[object] = set()
    with Rig(directory, network=network, behind=behind) as rig:
        rig.attempt()  # the first command makes more calls than those that follow
        points = rig.baseline()
        assert {point.name for point in points} >= set(COMMITTING)
        before = rig.open_files() - rig.unclosed
        for number, point in enumerate(points):
            for step in range(errors):
                error = ERRORS[(number + step) % len(ERRORS)]
                trial = rig.aim(point, f"error={error}")
                if trial.answer.status == Status.CHECK_CONDITION:
                    assert trial.answer.code in (UNKNOWN, not_ready(error)), f"{point} {error}"
                answers.add(trial.answer.code)
                rig.recover()
        rig.daemon.settle(rig.worker)
        assert rig.open_files() == before + rig.unclosed, rig.daemon.descriptors()
    chain(directory)
    _trail_matches(directory)
    assert answers >= {(0, 0, 0), BECOMING, INTERVENTION, UNKNOWN}


def _sweep_database(directory: str, names: Sequence[str], errors: int, *, behind: bool) -> None:
    """Make each call that SQLite makes for a commit fail, with `errors` of the errors each."""
    answers: set[object] = set()
    with Rig(directory, behind=behind) as rig:
        rig.attempt()
        # Not every commit changes as many pages.
        several = [rig.baseline() for _ in range(4)]
        points = [
            point
            for point in several[0]
            if point.name in names
            and "F_UNLCK" not in point.shape  # which cannot fail
            and all(any(point.like(other) for other in one) for one in several)
        ]
        assert {point.name for point in points} == set(names)
        tries = hits = 0
        before = rig.open_files() - rig.unclosed
        for number, point in enumerate(points):
            for step in range(errors):
                error = ERRORS[(number + step) % len(ERRORS)]
                trial = _aim_if_it_is_made(rig, point, f"error={error}")
                tries += 1
                hits += trial is not None
                if trial is not None:
                    answers.add(_short(trial.answer))
                rig.recover()
        rig.daemon.settle(rig.worker)
        assert hits >= 0.8 * tries
        assert rig.open_files() <= before + rig.unclosed, rig.daemon.descriptors()
    chain(directory)
    _trail_matches(directory)
    assert BECOMING in answers


def _aim_if_it_is_made(rig: Rig, point: Point, effect: str) -> Trial | None:
    """None: commits do not make that call any more; as rows come, they change other pages."""
    try:
        return rig.aim(point, effect)
    except AssertionError as error:
        if "was never hit" not in str(error):
            raise
        return None


def _trail_matches(directory: str) -> None:
    """The audit trail leads from nothing to the state: nothing in it twice, nothing missing."""
    trail = audit_trail(directory)
    numbers = [int(str(record["number"])) for record in trail]
    assert all(before < after for before, after in itertools.pairwise(numbers))
    generations = [(record["generation_before"], record["generation_after"]) for record in trail]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(generations))
    assert generations[-1][1] == state_of(directory).generation


@pytest.mark.parametrize("scenario", ["local", "network-behind"])
def test_commit_whose_system_call_fails_keeps_its_promise(directory: str, scenario: str) -> None:
    """Each call fails once, with one error or another."""
    _sweep(directory, scenario, 1)


@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_commit_whose_system_call_fails_in_every_way_keeps_its_promise(
    directory: str, scenario: str
) -> None:
    """Each call fails with each error."""
    _sweep(directory, scenario, len(ERRORS))


SQLITE_CALLS = ("pwrite64", "fdatasync", "pread64", "openat", "newfstatat", "fcntl")


def test_commit_to_a_database_whose_system_call_fails_keeps_its_promise(database: str) -> None:
    """Each sync fails once, with one error or another."""
    _sweep_database(database, ("fdatasync",), 1, behind=False)


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("behind", [False, True], ids=["fresh", "behind"])
def test_commit_to_a_database_whose_system_call_fails_in_every_way_keeps_its_promise(
    database: str, behind: bool
) -> None:
    """Each call fails with each of some errors."""
    _sweep_database(database, SQLITE_CALLS, 3, behind=behind)


@pytest.mark.parametrize("scenario", ["local", "network"])
def test_name_that_is_missing_for_a_moment_gives_nothing_up(directory: str, scenario: str) -> None:
    """ENOENT for a file or directory that is there, the lock directory's own path included:
    that command is refused, and the next ones work. Numbered commits are left out, because a
    file system that denies those denies somebody's acknowledged commit.
    """
    network, behind = SCENARIOS[scenario]
    with Rig(directory, network=network, behind=behind) as rig:
        rig.attempt()
        names = [point for point in rig.baseline() if point.name in ("openat", "newfstatat")]
        points = [point for point in names if "COMMIT" not in point.shape]
        path = os.path.join(directory, "root", LUN)
        assert [point for point in points if f'"{path}"' in point.shape], names
        answers = set()
        for point in points:
            answers.add(_short(rig.aim(point, "error=ENOENT").answer))
            rig.recover()
    assert BECOMING in answers
    assert answers <= {Status.GOOD, Status.BUSY, BECOMING, UNKNOWN}
    chain(directory)


PASSING: dict[str, tuple[str, tuple[object, ...], object]] = {
    # inject=, what a command that changes something may be answered, what a READ KEYS may be.
    "no descriptors": ("openat:error=EMFILE", (BECOMING,), Status.GOOD),
    "full": ("write:error=ENOSPC", (INTERVENTION,), Status.GOOD),
    "over quota": ("fsync:error=EDQUOT:when=1", (INTERVENTION,), Status.GOOD),
    "read-only": ("linkat:error=EROFS", (INTERVENTION,), Status.GOOD),
    "no locks": ("fcntl:error=ENOLCK", (Status.GOOD,), Status.GOOD),
    "no publishing": ("renameat:error=EIO", (Status.GOOD,), Status.GOOD),
    "no unlinking": ("unlinkat:error=EACCES", (Status.GOOD,), Status.GOOD),
    "stale": ("newfstatat:error=ESTALE", (BECOMING,), BECOMING),
    "unknown link": ("linkat:error=EIO", (UNKNOWN,), Status.BUSY),
    "no directory sync": ("fsync:error=EIO:when=2+", (UNKNOWN,), BECOMING),
}


@pytest.mark.parametrize("what", PASSING)
def test_commands_while_a_system_call_keeps_failing_keep_their_promise(
    directory: str, what: str
) -> None:
    """A failure that stays is answered the same way until it passes; then all works again."""
    inject, changing, reading = PASSING[what]
    with Rig(directory) as rig:
        rig.attempt()
        with rig.failing(inject):
            before, sent = rig.state(), rig.fresh()
            expected, good = decide(before, rig.guest.who, sent)
            answer = rig.guest.send(sent)
            assert _short(answer) in changing, str(answer)
            after = rig.state()
            assert after in ((expected,) if answer == good else (before, expected))
            known = decide(after, rig.guest.who, read())[1]
            found = rig.guest.send(read())
            assert _short(found) == reading, str(found)
            assert found in (known, Answer(found.status, found.sense))
            if reading == Status.GOOD:
                assert found == known
        if _short(answer) not in (Status.GOOD, UNKNOWN):
            assert rig.state() == before
        rig.recover()
    chain(directory)


def _short(answer: Answer) -> object:
    return answer.code if answer.status == Status.CHECK_CONDITION else Status(answer.status)


def test_directory_that_cannot_be_synced_lets_nothing_be_told(directory: str) -> None:
    """What took effect, maybe not durably, is not shown to anybody until a sync succeeds."""
    with Rig(directory) as rig:
        rig.attempt()
        with rig.failing("fsync:error=EIO:when=2+"):
            sent = rig.fresh()
            expected, _ = decide(rig.state(), rig.guest.who, sent)
            assert rig.guest.send(sent).code == UNKNOWN
            assert rig.state() == expected
            for _ in range(3):
                assert rig.guest.send(read()).code == BECOMING
        told = rig.guest.send(read())
        assert told == decide(expected, rig.guest.who, read())[1]
        rig.recover()


def test_view_that_could_not_be_published_is_published_later(directory: str) -> None:
    """registry.json may lag while publishing fails, and is right again after the next command."""
    with Rig(directory) as rig:
        rig.attempt()
        with rig.failing("renameat:error=EIO"):
            assert rig.guest.send(rig.fresh()).status == Status.GOOD
            rig.daemon.settle(rig.worker)
        head = chain(directory)[-1].number
        assert _published(directory) < head
        assert rig.guest.send(rig.fresh()).status == Status.GOOD
        rig.daemon.settle(rig.worker)
        assert _published(directory) == head + 1


def _published(directory: str) -> int:
    with open(os.path.join(directory, "root", LUN, "registry.json"), encoding="utf-8") as file:
        return int(json.load(file)["number"])


STARTING = ("openat", "newfstatat", "read", "fcntl", "getdents64", "fsync")


def _start_with(directory: str, name: str, inject: str) -> bool:
    """Have a new daemon's first command fail; whether anything was hit.

    Counts are per thread, so that the calls of the thread that opens the logical unit are
    counted from its start on.
    """
    before = state_of(directory)
    with Daemon(directory, name, [Door("a")]) as daemon, daemon.guest() as guest:
        with traced(daemon.pid, directory, follow=True, inject=[inject]) as calls:
            answer = guest.send(read())
        expected = decide(before, guest.who, read())[1]
        if answer != expected:
            assert answer.status in (Status.CHECK_CONDITION, Status.BUSY)
            if answer.status == Status.CHECK_CONDITION:
                assert answer.code in (BECOMING, INTERVENTION, LOST)
        while guest.send(read()) != expected:  # until it is opened anew
            pass
    return any(call.injected for call in calls)


@pytest.mark.parametrize("call", STARTING)
def test_first_command_whose_system_call_fails_is_answered(directory: str, call: str) -> None:
    """A logical unit that cannot be opened now is opened by a later command."""
    error = ERRORS[STARTING.index(call)]
    assert _start_with(directory, "one", f"{call}:error={error}:when=1")


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("call", STARTING)
@pytest.mark.parametrize("error", ERRORS)
def test_first_command_whose_nth_system_call_fails_is_answered(
    directory: str, call: str, error: str
) -> None:
    """Every call of the opening fails in turn, with every error."""
    count = 1
    while _start_with(directory, f"d{count}", f"{call}:error={error}:when={count}"):
        count += 1
    assert count > 1
