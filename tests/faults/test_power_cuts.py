"""The power fails after every system call: nothing that was acknowledged is lost.

Of what was not synced any part may survive: each name, each file's contents, for itself.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flockpr.errors import LunNotFound
from flockpr.store.listing import list_luns
from flockpr.store.provision import create_lun
from flockpr.store.removal import delete_lun
from tests.support.scenes import EVERYTHING, power_cuts, random_script, reply_before_durability
from tests.support.simfs import Call, Client, Disk
from tests.support.simworld import LUN, ROOT, Play, World

_names = st.sampled_from("abc")
_keys = st.integers(1, 3)
_plays: st.SearchStrategy[Play] = st.one_of(
    st.tuples(st.just(6), _names, st.just(0), _keys),
    st.tuples(st.just(6), _names, st.just(0), _keys),
    st.tuples(st.just(1), _names, _keys, st.just(0)),
    st.tuples(st.sampled_from((2, 3)), _names, _keys, st.just(0)),
    st.tuples(st.just(4), _names, _keys, _keys),
    st.tuples(st.sampled_from(("keys", "spc2", "spc2 release")), _names),
    st.tuples(st.sampled_from(("tidy", "power cycle"))),
)
_scripts = st.lists(st.tuples(st.integers(0, 1), _plays), min_size=2, max_size=10)
_seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("forgetful", [False, True], ids=["coherent", "name caches"])
@pytest.mark.parametrize("stalls", [0.0, 0.02, 0.1])
def test_power_cut_after_each_call_of_each_kind_of_command_loses_nothing(
    stalls: float, forgetful: bool
) -> None:
    """Each kind of command, archiving and pruning, by two daemons that alternate."""
    world = power_cuts(EVERYTHING, random.Random(1), stalls=stalls, forgetful=forgetful)
    assert world.newest >= 6


@settings(max_examples=25)
@given(
    script=_scripts, seed=_seeds, stalls=st.sampled_from((0.0, 0.03, 0.1)), forgetful=st.booleans()
)
def test_power_cut_during_random_commands_loses_nothing(
    script: list[tuple[int, Play]], seed: int, stalls: float, forgetful: bool
) -> None:
    """Any commands; the one daemon may be stopped in a call while the other goes on."""
    power_cuts(script, random.Random(seed), stalls=stalls, forgetful=forgetful)


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100))
def test_power_cut_during_many_random_commands_loses_nothing(seed: int) -> None:
    """The same, many times, with longer scripts."""
    rng = random.Random(seed)
    for _ in range(30):
        script = random_script(rng, rng.randrange(3, 25))
        power_cuts(script, rng, stalls=rng.choice((0.0, 0.01, 0.05, 0.2)))


@pytest.mark.parametrize(
    "play",
    [("keys", "b"), (1, "b", 7, 0), (2, "b", 2, 0), (6, "b", 0, 2)],
    ids=["read keys", "conflict", "release of nothing", "register"],
)
def test_reply_that_depends_on_anothers_commit_waits_for_its_durability(play: Play) -> None:
    """PR IN, a refusal and a command that changes nothing, on a commit not synced yet."""
    reply_before_durability(play)


# --------------------------------------------------------------------------- provisioning


def usable(disk: Disk) -> None:
    """The one LUN of a root works."""
    world = World(disk=disk)
    with world.clock.installed():
        daemon = world.daemon()
        daemon.register("a", 1)
        assert daemon.keys().data_in[-8:] == (1).to_bytes(8, "big")


@pytest.mark.parametrize("seed", range(5))
def test_power_cut_while_a_lun_is_created_leaves_all_of_it_or_none(seed: int) -> None:
    """A LUN whose creation was acknowledged is there, with its root; half a LUN never is."""
    rng = random.Random(seed)
    disk = Disk()
    disk.sync_all()

    def probe(_: Client, __: Call) -> None:
        after = disk.cut(rng.randrange)
        try:
            listings = list_luns(ROOT, syscalls=Client(after))
        except LunNotFound:
            return
        for listing in listings:
            assert listing.error is None
            usable(after)

    client = Client(disk, before=probe)
    create_lun(ROOT, "disk", syscalls=client)
    after = disk.cut(lambda _: 0)
    assert [listing.name for listing in list_luns(ROOT, syscalls=Client(after))] == ["disk"]
    usable(after)
    again = Client(after)
    assert create_lun(ROOT, "other", syscalls=again).lun == 1


@pytest.mark.parametrize("seed", range(5))
def test_power_cut_while_a_lun_is_deleted_leaves_it_deleted_or_whole(seed: int) -> None:
    """Once its deletion was acknowledged it is gone for good, and its number is free."""
    rng = random.Random(seed)
    disk = World().disk
    disk.linked = None

    def probe(_: Client, __: Call) -> None:
        after = disk.cut(rng.randrange)
        client = Client(after)
        for listing in list_luns(ROOT, syscalls=client):
            assert listing.error is None
            delete_lun(ROOT, listing.name, syscalls=client)
        assert create_lun(ROOT, "disk", syscalls=client).name == "disk"

    delete_lun(ROOT, "disk", syscalls=Client(disk, before=probe))
    after = disk.cut(lambda _: 0)
    assert list_luns(ROOT, syscalls=Client(after)) == []
    assert LUN.rpartition("/")[2] not in after.directory(ROOT).names
