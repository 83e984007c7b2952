"""Hosts that are cut off in the middle of a system call, and come back too late.

The commit is a compare-and-swap by link, and who comes late must find out: pruned numbers,
replies that were lost, requests that land when nobody waits for them any more.
"""

from __future__ import annotations

import pytest

from tests.support import stalls, sweeps

forgetful = pytest.mark.parametrize("forgetful", [False, True], ids=["coherent", "name caches"])


@forgetful
@pytest.mark.parametrize("stop", ["open", "link"])
def test_late_link_into_a_pruned_number_is_not_believed(stop: str, forgetful: bool) -> None:
    """The phantom is removed and the command decided again, on what is true by now."""
    stalls.late_link(stop=stop, forgetful=forgetful)


@pytest.mark.parametrize("phantom", [False, True], ids=["", "phantom"])
def test_late_link_on_a_pruned_commit_of_ones_own_is_not_believed(phantom: bool) -> None:
    """Its file is asked for, and neither gone nor made anew is it the one that was written."""
    stalls.late_link_on_own(phantom=phantom)


def test_late_link_on_a_pruned_commit_that_is_open_at_the_server_is_not_believed() -> None:
    """It is the very file, and it has no name any more."""
    stalls.late_link_on_own(phantom=False, kept=True)


@forgetful
def test_reader_never_steps_to_a_phantom_successor(forgetful: bool) -> None:
    """A phantom N+1 that names N as its predecessor, for a reader that slept on N."""
    stalls.phantom_read(forgetful=forgetful)


@forgetful
def test_commit_is_recognised_when_its_base_was_pruned_before_it_looked(forgetful: bool) -> None:
    """Others committed on top and pruned: the head's `daemons` has the transaction."""
    stalls.stalled_after_link(forgetful=forgetful)


@forgetful
@pytest.mark.parametrize("foreign", [False, True], ids=["", "foreign phantom"])
@pytest.mark.parametrize("retransmit", [False, True], ids=["error", "retransmitted"])
def test_own_link_is_recognised_after_its_reply_was_lost_and_it_was_pruned(
    retransmit: bool, foreign: bool, forgetful: bool
) -> None:
    """Applied once, answered GOOD, and no pruned number comes back for a sleeping reader."""
    stalls.lost_reply(retransmit=retransmit, foreign=foreign, forgetful=forgetful)


@pytest.mark.parametrize("landed", [False, True])
def test_outcome_that_nobody_remembers_is_unknown_and_applied_at_most_once(landed: bool) -> None:
    """Evicted from `daemons`: ABORTED COMMAND, never a second application; then it goes on."""
    stalls.forgotten(landed=landed)


@forgetful
@pytest.mark.parametrize("lands", ["never", "before", "during", "after"])
def test_unsettled_link_is_settled_before_the_next_command(lands: str, forgetful: bool) -> None:
    """Its number is taken, by itself or by a transaction that changes nothing."""
    stalls.unsettled(lands=lands, forgetful=forgetful)


def test_settling_that_fails_is_busy_and_tried_again() -> None:
    """The link of the sealing transaction loses its reply as well."""
    stalls.seal_unknown()


def test_late_link_finds_no_gap_where_a_pruner_died() -> None:
    """Pruning is ascending, so what remains of a broken off pruning is a tail."""
    stalls.pruner_dies()


def test_late_rename_of_registry_json_decides_nothing_and_is_repaired() -> None:
    """The view goes back for a moment; every command is decided on the chain."""
    stalls.late_rename()


def test_name_that_a_cache_denies_is_found() -> None:
    """Absence counts only after the directory was opened anew."""
    stalls.stale_names()


def test_successor_with_a_foreign_predecessor_fails_closed() -> None:
    """Two histories in one directory: 07/44/01, nothing followed, nothing overwritten."""
    stalls.foreign_successor()


@pytest.mark.parametrize("name", list(sweeps.OPERATIONS))
def test_operation_stalled_at_any_call_is_still_right(name: str) -> None:
    """Meanwhile another daemon commits a great deal, archives it and prunes it."""
    for index in range(len(sweeps.calls_of(name))):
        sweeps.stalled(name, index)


@pytest.mark.parametrize("name", list(sweeps.OPERATIONS))
def test_operation_stalled_at_some_call_with_name_caches_is_still_right(name: str) -> None:
    """The same on NFS, at every fourth call; the sweep takes all."""
    for index in range(0, len(sweeps.calls_of(name, forgetful=True)), 4):
        sweeps.stalled(name, index, forgetful=True)


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", list(sweeps.OPERATIONS))
def test_operation_stalled_at_any_call_with_name_caches_is_still_right(name: str) -> None:
    """The same on NFS, at every call."""
    for index in range(len(sweeps.calls_of(name, forgetful=True))):
        sweeps.stalled(name, index, forgetful=True)
