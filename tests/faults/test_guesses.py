"""Committing without a look, on a share: the compare-and-swap tells whether it was the newest."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flockpr import events
from flockpr.errors import LunNotFound, StateLost
from flockpr.logical_unit import LogicalUnit
from flockpr.spc.codes import Status
from flockpr.store.courtesy import COMPANY, ORDER_PATIENCE, SPARED, SPARED_AT_MOST, SPARED_SECONDS
from flockpr.store.directory import LIKELY, SETTLE_SECONDS
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from flockpr.store.removal import delete_lun
from flockpr.store.syscalls import Syscalls
from tests.support import stalls
from tests.support.lun_tools import directory_of, register
from tests.support.scsi import A
from tests.support.simfs import Call, Client
from tests.support.simworld import Daemon, Play, World

_PLAYS: list[Play] = [
    ("keys", "A"),
    ("keys", "B"),
    (6, "A", 0, 1),
    (6, "A", 0, 2),
    (6, "B", 0, 3),
    (0, "B", 3, 0),
    (1, "A", 1, 0),
    (1, "A", 2, 0),
    (1, "B", 3, 0),
    (4, "B", 3, 1),
    (3, "A", 1, 0),
    ("spc2", "B"),
    ("spc2 release", "B"),
    ("together", (6, "A", 0, 2), ("keys", "A"), (1, "A", 2, 0)),
    ("tidy",),
]


def _calls_of_a_registration(daemon: Daemon, key: int) -> list[str]:
    before = len(daemon.client.calls)
    assert daemon.register("A", key).status is Status.GOOD
    return [call.name for call in daemon.client.calls[before:]]


def _refuse(name: str, *, dir_fd: int) -> NoReturn:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), f"{dir_fd}/{name}")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(_PLAYS)), max_size=14))
def test_several_hosts_never_answer_by_a_guess(script: list[tuple[int, Play]]) -> None:
    """Every reply fits the chain, whoever committed in between."""
    world = World(forgetful=True)
    daemons = [world.daemon() for _ in range(3)]
    for number, play in script:
        daemons[number].play(play)
    world.judge()


def test_who_committed_last_writes_at_once() -> None:
    """Between its own commits nothing is looked at but the path; the proof comes after the link."""
    world = World(forgetful=True)
    with world.clock.installed():
        daemon = world.daemon()
        daemon.register("A", 1)
        quick = _calls_of_a_registration(daemon, 2)
        world.clock.now += LIKELY
        slow = _calls_of_a_registration(daemon, 3)

    write, link = quick.index("write"), quick.index("link")
    path, new = ["open", "fstat", "which", "close"], ["open", "fstat"]
    assert quick[:write] == [*path, *new]
    assert quick[link:] == ["link", "open", "close", "stat now", "close", "unlink", "fsync"]
    assert slow.index("write") > write
    assert "lock" in slow[: slow.index("write")]
    # Who waits for the right to commit next does not wait for what is only cleared away.
    link = slow.index("link")
    assert slow[link:] == ["link", "open", "close", "stat now", "lock", "close", "unlink", "fsync"]
    world.judge()


def test_who_has_the_right_to_commit_next_is_not_overtaken_by_a_guess() -> None:
    """Who looks first needs longer than who does not, and would never get on."""
    world = World(forgetful=True)
    with world.clock.installed():
        one, two = world.daemon(), world.daemon()
        one.register("A", 1)
        waiting = directory_of(two.unit)
        assert waiting.order_at_once()
        world.clock.now += SPARED_AT_MOST
        assert not directory_of(one.unit).order_at_once()
        begun = world.clock.now
        calls = _calls_of_a_registration(one, 2)
        assert calls.index("read") < calls.index("write")  # it looks, and waits for its turn
        assert world.clock.now - begun >= ORDER_PATIENCE
        waiting.disorder()
        assert _calls_of_a_registration(one, 2)[0] == "lock"  # as long as there may be others
        assert "read" not in (again := _calls_of_a_registration(one, 3))[: again.index("write")]
    world.judge()


def test_where_attributes_cannot_be_had_the_base_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel, or a filter of system calls, without statx."""
    world = World(forgetful=True)
    with world.clock.installed():
        daemon = world.daemon()
        daemon.register("A", 1)
        monkeypatch.setattr(daemon.client, "stat_now", _refuse)
        monkeypatch.setattr(daemon.client, "which", _refuse)
        calls = _calls_of_a_registration(daemon, 2)
        assert "stat" in calls[: calls.index("write")]
        assert "read" in calls[calls.index("link") :]
    world.judge()


@pytest.mark.parametrize("known", [False, True], ids=["", "by its number"])
def test_guess_on_commits_that_were_replaced_is_not_committed(tmp_path: Path, known: bool) -> None:
    """Another directory in their place is not ours, whatever is in it."""
    create_lun(str(tmp_path), "disk")
    share = _Share()
    if not known:
        share.which = _refuse  # type: ignore[method-assign]
    with LogicalUnit(LockDirectory(str(tmp_path / "disk"), syscalls=share), door="api") as unit:
        assert register(unit, A, 1).status is Status.GOOD
        store = directory_of(unit)
        guess = store.likely_head()
        assert guess is not None
        commits = tmp_path / "disk" / "commits"
        shutil.copytree(commits, tmp_path / "copy")
        commits.rename(tmp_path / "old")
        (tmp_path / "copy").rename(commits)
        with pytest.raises(StateLost, match="another directory stands in the place"):
            store.commit(guess, guess.state, [], served={})


def test_who_is_alone_asks_for_the_right_to_commit_next_now_and_then() -> None:
    """A few commits in a row go without it where they take long, and more where they do not."""
    world = World(forgetful=True)
    with world.clock.installed():
        daemon = world.daemon()
        daemon.register("A", 1)
        asked = []
        for key in range(2, 3 * (SPARED + 1) + 2):
            world.clock.now += SPARED_SECONDS
            asked.append("lock" in _calls_of_a_registration(daemon, key))
        assert asked == [*[False] * SPARED, True] * 3
        world.clock.now += SPARED_AT_MOST
        assert "lock" in _calls_of_a_registration(daemon, 1)
        for key in range(2, SPARED + 3):
            assert "lock" not in _calls_of_a_registration(daemon, key)
    world.judge()


@pytest.mark.parametrize("seen", ["read", "lost", "taken"])
def test_who_meets_another_daemon_asks_for_the_right_to_commit_next_each_time(seen: str) -> None:
    """Whatever it notices it by: a commit that it sees, or loses to, or a byte that is taken."""
    world = World(forgetful=True)
    with world.clock.installed():
        one, two = world.daemon(), world.daemon()
        one.register("A", 1)
        if seen == "taken":
            waiting = directory_of(two.unit)
            waiting.order()
            world.clock.now += SPARED_AT_MOST
            one.register("A", 2)
            waiting.disorder()
        else:
            two.register("B", 1)
            if seen == "read":
                one.keys("A")
            else:
                one.register("A", 2)
        for key in range(3, 6):
            assert _calls_of_a_registration(one, key).count("lock") == 2
        world.clock.now += COMPANY
        one.register("A", 6)
        assert "lock" not in _calls_of_a_registration(one, 7)
    world.judge()


def test_who_needs_longer_gets_on_beside_one_that_does_not_ask() -> None:
    """It has the right to commit next at once, loses a few times, and is then waited for."""
    world = World(forgetful=True)
    with world.clock.installed():
        one, two = world.daemon(), world.daemon()
        one.register("A", 1)
        hurried = 0

        def hurry(_: Client, call: Call) -> None:
            nonlocal hurried
            store = directory_of(one.unit)
            if call.name == "link" and store.likely_head() and store.order_at_once():
                hurried += 1
                one.register("A", hurried + 1)

        two.client.before = hurry
        assert two.register("B", 9).status is Status.GOOD
        two.client.before = None
    assert 0 < hurried <= SPARED
    world.judge()


@pytest.mark.parametrize("behind", [0, 1, 5])
def test_who_looks_is_not_overtaken_for_ever(behind: int) -> None:
    """Beside one that commits again before it can be told that nothing follows its last one."""
    world = World(forgetful=True)
    with world.clock.installed():
        one, two = world.daemon(), world.daemon()
        one.register("A", 1)
        assert two.keys("B").status is Status.GOOD
        for key in range(2, 2 + behind):
            one.register("A", key)
        hurried = 0

        def hurry(_: Client, call: Call) -> None:
            nonlocal hurried
            if call.name == "open":
                hurried += 1
                one.register("A", 100 + hurried)

        two.client.before = hurry
        assert two.keys("B").status is Status.GOOD
        assert 0 < hurried < 40
        two.client.before = None
    world.judge()


def test_old_listing_is_not_believed() -> None:
    """It has to show more than was seen before it was made."""
    stalls.old_listing()


def test_who_only_reads_asks_for_nothing_but_the_head() -> None:
    """A read costs what it cost."""
    world = World(forgetful=True)
    daemon = world.daemon()
    daemon.register("A", 1)
    before = len(daemon.client.calls)
    assert daemon.keys("A").status is Status.GOOD
    assert "lock" not in [call.name for call in daemon.client.calls[before:]]


def test_guess_that_was_wrong_keeps_the_right_to_commit_next() -> None:
    """Until the command is decided again and committed."""
    world = World(forgetful=True)
    one, two = world.daemon(), world.daemon(order=False)
    one.register("A", 1)
    two.register("B", 2)  # as a daemon whose locks fail
    calls = _calls_of_a_registration(one, 3)
    assert calls.count("lock") == 2
    assert calls.count("link") == 2
    assert directory_of(two.unit).order_at_once()
    world.judge()


def test_time_of_a_guess_is_short_beside_that_of_pruning() -> None:
    """Else the number after it could be free again."""
    assert LIKELY <= SETTLE_SECONDS / 10


def test_where_names_are_current_the_head_is_looked_at() -> None:
    """It costs less there than a document written in vain."""
    world = World(forgetful=False)
    daemon = world.daemon()
    daemon.register("A", 1)
    assert directory_of(daemon.unit).likely_head() is None


def test_transaction_of_another_host_is_not_guessed_at() -> None:
    """Who commits now and then beside a busy one writes nothing in vain."""
    world = World(forgetful=True)
    one, two = world.daemon(), world.daemon()
    one.register("A", 1)
    assert directory_of(one.unit).likely_head() is not None
    two.register("B", 2)
    assert one.keys("A").status is Status.GOOD
    assert directory_of(one.unit).likely_head() is None


def test_wrong_guess_is_no_collision(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody has to look into it; two daemons that commit at the same moment do collide."""
    world = World(forgetful=True)
    one, two = world.daemon(), world.daemon()
    before = events.totals().get(events.Kind.COMMIT_CONFLICT, 0)
    one.register("A", 1)
    two.register("B", 2)
    assert one.register("A", 3).status is Status.GOOD
    assert events.totals().get(events.Kind.COMMIT_CONFLICT, 0) == before
    world.judge()


class _Share(Syscalls):
    """A file system of many hosts."""

    def coherent(self, fd: int) -> bool:
        """See `Syscalls.coherent`."""
        return os.fstat(fd).st_dev < 0


def test_logical_unit_deleted_after_the_guess_is_no_logical_unit(tmp_path: Path) -> None:
    """The deletion is a transaction, so it takes the number."""
    create_lun(str(tmp_path), "disk")
    with LogicalUnit(LockDirectory(str(tmp_path / "disk"), syscalls=_Share()), door="api") as unit:
        assert register(unit, A, 1).status is Status.GOOD
        store = directory_of(unit)
        guess = store.likely_head()
        assert guess is not None
        delete_lun(str(tmp_path), "disk", force=True)
        with pytest.raises(LunNotFound):
            store.commit(guess, guess.state, [], served={})
        assert register(unit, A, 2, 1).status is Status.CHECK_CONDITION
