"""Every system call of every store operation fails once, or is the last one before SIGKILL.

After each: the reply is one of the documented ones and true, nothing acknowledged is lost,
nothing is applied twice, no descriptor leaks, and the next command works.
"""

from __future__ import annotations

import contextlib
import errno
import os

import pytest

from flockpr.errors import LunExists, LunNotFound, StoreError
from flockpr.logical_unit import Result
from flockpr.spc import sense as senses
from flockpr.store.layout import NUMBERS
from flockpr.store.listing import list_luns
from flockpr.store.provision import create_lun
from flockpr.store.removal import delete_lun
from tests.support import sweeps
from tests.support.simfs import Call, Client, Killed
from tests.support.simworld import OUTCOME_UNKNOWN, ROOT, World

OPERATIONS = list(sweeps.OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_failing_call_is_answered_truly_and_the_next_command_works(name: str) -> None:
    """Each call fails with EIO and with one of the other errors, before and after its effect."""
    for index, number, late in sweeps.faults_of(name, every=False):
        sweeps.fault(name, index, number, late)


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("forgetful", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_failing_call_is_answered_truly(name: str, forgetful: bool) -> None:
    """Each call fails with each error."""
    for index, number, late in sweeps.faults_of(name, forgetful=forgetful):
        sweeps.fault(name, index, number, late, forgetful=forgetful)


@pytest.mark.parametrize("name", OPERATIONS)
def test_daemon_killed_at_any_call_leaves_what_another_can_go_on_with(name: str) -> None:
    """SIGKILL before each call; another daemon, and one after a power cut, go on."""
    for index in range(len(sweeps.calls_of(name))):
        sweeps.kill(name, index)


@pytest.mark.parametrize(
    ("call", "number", "result"),
    [
        ("write", errno.ENOSPC, Result.check(senses.NOT_READY_INTERVENTION)),
        ("write", errno.EDQUOT, Result.check(senses.NOT_READY_INTERVENTION)),
        ("open", errno.EROFS, Result.check(senses.NOT_READY_INTERVENTION)),
        ("open", errno.EACCES, Result.check(senses.NOT_READY_INTERVENTION)),
        ("open", errno.EMFILE, Result.check(senses.NOT_READY_BECOMING)),
        ("fsync", errno.EIO, Result.check(senses.NOT_READY_BECOMING)),
        ("close", errno.EIO, Result.check(senses.NOT_READY_BECOMING)),
        ("link", errno.ENOSPC, Result.check(senses.NOT_READY_INTERVENTION)),
        ("link", errno.EROFS, Result.check(senses.NOT_READY_INTERVENTION)),
    ],
)
def test_commit_that_fails_before_its_link_is_not_ready_with_nothing_done(
    call: str, number: int, result: Result
) -> None:
    """SPC-4 5.13: what passes by waiting is 02/04/01, what needs a person 02/04/03."""
    world = World()
    with world.clock.installed():
        daemon = world.daemon()
        daemon.keys()

        def fails(_: Client, now: Call) -> None:
            written = any(c.name == "open" and ".aside" in c.what for c in daemon.client.calls)
            if now.name == call and (written or ".aside" in now.what):
                raise OSError(number, os.strerror(number))

        daemon.client.before = fails
        assert daemon.register("a", 1) == result
        daemon.client.before = None
        assert world.newest == 1
        world.judge()


def test_directory_sync_that_fails_is_outcome_unknown_until_one_succeeds() -> None:
    """It took effect, and nobody is told what depends on it before it is durable."""
    world = World()
    with world.clock.installed():
        a, b = world.daemon(), world.daemon()

        def fails(_: Client, call: Call) -> None:
            if (call.name, call.what) == ("fsync", "directory"):
                raise OSError(errno.EIO, "no")

        a.client.before = b.client.before = fails
        assert a.register("a", 1) == OUTCOME_UNKNOWN
        assert a.keys() == Result.check(senses.NOT_READY_BECOMING)
        assert b.keys() == Result.check(senses.NOT_READY_BECOMING)
        a.client.before = b.client.before = None
        assert a.keys() == b.keys()
        assert world.newest == 2
        world.judge()
        world.judge_recovery(world.disk.cut(lambda _: 0))


# --------------------------------------------------------------------------- provisioning


def create_calls() -> int:
    """How many calls the creation of a second LUN makes."""
    client = Client(World().disk)
    client.disk.linked = None
    create_lun(ROOT, "new", syscalls=client)
    return len(client.calls)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT, errno.EEXIST])
@pytest.mark.parametrize("late", [False, True])
def test_creation_that_fails_anywhere_leaves_nothing_and_frees_its_number(
    number: int, late: bool
) -> None:
    """All of a LUN or none of it; two LUNs never have one number."""
    for index in range(create_calls()):
        disk = World().disk
        disk.linked = None
        client = Client(disk)

        def strike(_: Client, call: Call) -> None:
            if not late or call.name in sweeps.LOSABLE:
                raise OSError(number, os.strerror(number))

        sweeps.at_call(client, index, late, strike)
        try:
            create_lun(ROOT, "new", syscalls=client)
        except StoreError:
            assert [listing.name for listing in list_luns(ROOT, syscalls=Client(disk))] == ["disk"]
        client.before = client.after = None
        assert not client.fds
        with contextlib.suppress(LunExists):
            create_lun(ROOT, "new", syscalls=client)
        listings = list_luns(ROOT, syscalls=client)
        assert [listing.name for listing in listings] == ["disk", "new"]
        numbers = [listing.identity.lun for listing in listings if listing.identity is not None]
        assert len(set(numbers)) == 2
        assert {str(n) for n in numbers} <= set(disk.directory(f"{ROOT}/{NUMBERS}").names)
        assert numbers == [0, 1] or number == errno.EEXIST, f"a number was lost at call {index}"


def test_creation_killed_anywhere_can_be_done_again() -> None:
    """What a dead creator leaves is invisible, or a whole LUN."""
    for index in range(create_calls()):
        disk = World().disk
        disk.linked = None
        client = Client(disk)

        def die(client: Client, _: Call) -> None:
            client.die()
            raise Killed

        sweeps.at_call(client, index, False, die)
        with pytest.raises(Killed):
            create_lun(ROOT, "new", syscalls=client)
        after = Client(disk)
        listings = list_luns(ROOT, syscalls=after)
        assert all(listing.identity is not None for listing in listings)
        if len(listings) == 1:
            create_lun(ROOT, "new", syscalls=after)
        assert not after.fds


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_deletion_that_fails_anywhere_can_be_done_again(number: int) -> None:
    """The LUN is whole, or gone; deleting again finishes it."""
    counting = Client(World().disk)
    counting.disk.linked = None
    delete_lun(ROOT, "disk", syscalls=counting)
    for index in range(len(counting.calls)):
        disk = World().disk
        disk.linked = None
        client = Client(disk)

        def strike(_: Client, __: Call) -> None:
            raise OSError(number, os.strerror(number))

        sweeps.at_call(client, index, False, strike)
        with contextlib.suppress(StoreError):
            delete_lun(ROOT, "disk", syscalls=client)
        client.before = client.after = None
        assert not client.fds
        with contextlib.suppress(LunNotFound):
            delete_lun(ROOT, "disk", syscalls=client)
        assert list_luns(ROOT, syscalls=client) == []
        assert create_lun(ROOT, "disk", syscalls=client).name == "disk"
