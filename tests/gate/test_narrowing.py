"""A command that takes access away has the permit alone, proves it, or does nothing."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from functools import partial

import pytest

from flockpr.errors import Busy, StoreUnavailable
from flockpr.gate import Doorbell, Held, Permit, local, places
from flockpr.store.layout import DOORBELL
from flockpr.store.syscalls import Syscalls
from tests.support.gates import LONG, NUMBER, Aside, Failing, Rig, eventually, soon, usable


def test_held_permit_is_exclusive_and_given_back(rig: Rig) -> None:
    """Nobody reads or writes meanwhile; afterwards the state is read again."""
    permit = rig.permit()
    assert permit.enter(soon())
    permit.leave()

    with rig.gate().narrow(soon()) as held:
        assert not permit.held
        assert not rig.free()
        assert not permit.enter(time.monotonic() + 0.02)
        assert held.prove()

    assert rig.free()
    assert not rig.rung()
    assert permit.enter(soon())
    permit.leave()
    assert rig.read["one"] == 2


def test_permits_of_the_same_process_need_no_knock(rig: Rig) -> None:
    """They are told directly, which is quicker than any question."""
    permits = [rig.permit(str(n)) for n in range(3)]
    for permit in permits:
        assert permit.enter(soon())
    waiting = Aside(lambda: _narrow(rig))
    eventually(lambda: not any(map(usable, permits)), "they are not barred")
    for permit in permits:
        assert not waiting.done
        permit.leave()

    assert waiting.result() is True


def _narrow(rig: Rig, deadline: float | None = None, server: Syscalls | None = None) -> bool:
    with rig.gate(server).narrow(deadline or soon()) as held:
        return held.prove()


def test_read_or_write_that_does_not_end_makes_it_busy(rig: Rig) -> None:
    """And afterwards all is as before, without anything read again."""
    permit = rig.permit()
    assert permit.enter(soon())

    with pytest.raises(Busy, match="a target of this host did not give"):
        _narrow(rig, time.monotonic() + 0.05)

    assert permit.enter(soon())
    assert rig.read["one"] == 1
    assert not rig.rung()
    permit.leave()
    permit.leave()


@pytest.mark.usefixtures("strangers")
def test_target_that_does_not_give_its_permit_back_makes_it_busy(rig: Rig) -> None:
    """Of another process: alive and hung, say."""
    permit = rig.permit()
    assert permit.enter(soon())

    with pytest.raises(Busy, match="did not give the permit back"):
        _narrow(rig, time.monotonic() + 0.1)

    assert not rig.rung()
    eventually(lambda: usable(permit), "it stays closed")
    assert rig.read["one"] == 1
    permit.leave()


def test_second_command_waits_for_the_first(rig: Rig) -> None:
    """One at a time; and at its deadline it is BUSY."""
    with rig.gate().narrow(soon()):
        with pytest.raises(Busy, match="another command"):
            _narrow(rig, time.monotonic() + 0.02)
        server = Failing()
        waiting = Aside(lambda: _narrow(rig, server=server))
        waiting.waits(server)

    assert waiting.result() is True


def test_withdrawn_command_stops_waiting(rig: Rig) -> None:
    """Its nexus is gone."""
    gone, server = threading.Event(), Failing()

    def wait() -> None:
        with rig.gate(server).narrow(soon(), gone.is_set):
            raise AssertionError

    with rig.gate().narrow(soon()):
        waiting = Aside(wait)
        waiting.waits(server)
        gone.set()
        with pytest.raises(Busy):
            waiting.result()


def test_missing_image_refuses_and_is_named(rig: Rig) -> None:
    """Fail closed: whoever serves it cannot be waited for."""
    os.unlink(rig.image)
    with pytest.raises(StoreUnavailable, match=r"disk\.img") as caught:
        _narrow(rig)
    assert caught.value.for_a_person


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_image_that_cannot_be_opened_refuses(rig: Rig, number: int) -> None:
    """Some of it passes by waiting, and some is for a person."""
    server = Failing()
    server.errors["direct"] = number
    with pytest.raises(StoreUnavailable) as caught:
        _narrow(rig, server=server)
    assert caught.value.for_a_person is (number == errno.EACCES)


def test_locks_that_fail_refuse(rig: Rig) -> None:
    """A mount without a lock service proves nothing."""
    server = Failing()
    server.errors["set_lock"] = errno.ENOLCK
    with pytest.raises(StoreUnavailable, match="cannot lock"):
        _narrow(rig, server=server)
    assert _narrow(rig)


def test_failure_of_the_command_lets_the_others_go_on(rig: Rig) -> None:
    """Whatever it raises."""
    permit = rig.permit()
    assert permit.enter(soon())
    permit.leave()
    with pytest.raises(ZeroDivisionError), rig.gate().narrow(soon()):
        raise ZeroDivisionError
    assert permit.enter(soon())
    permit.leave()


def silence(held: Held) -> None:
    """Its ring is heard no more."""
    assert held._way is not None
    held._way._bell.close()


class Poisoning(Failing):
    """A server that takes a command's permit away when told to; `between` is what others do
    before it is noticed.
    """

    def take_away(self, held: Held) -> None:
        """The lease ended while the host was cut off."""
        super().set_lock(held.image.fd, 2, 0, 0)
        self.poisoned.add(held.image.fd)


def test_lost_permit_is_had_again_before_it_counts_as_proven(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """Another target has gone on by the old state meanwhile; it has stopped when prove returns."""
    server = Poisoning()
    permit = rig.permit()
    with caplog.at_level(logging.CRITICAL), rig.gate(server).narrow(soon()) as held:
        server.take_away(held)
        local.withdraw(held.image.key, permit)
        with Doorbell(rig.root, Syscalls()) as bell:
            assert not bell.ring(NUMBER)
        silence(held)  # as losing the lease does
        assert permit.enter(soon())
        proving = Aside(held.prove)
        eventually(rig.rung, "nobody rings")
        proving.waits(server)
        permit.leave()

        assert proving.result() is True
        assert not permit.held
    assert permit.enter(soon())
    permit.leave()
    assert rig.read["one"] == 2


def test_permit_without_direct_input_and_output_is_proven_by_asking_for_it_again(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """A read out of the page cache would succeed, whoever has the permit by now."""
    server = Failing()
    server.errors["direct"] = errno.EINVAL
    permit = rig.permit()
    with caplog.at_level(logging.CRITICAL), rig.gate(server).narrow(soon()) as held:
        assert not held.image.direct
        held.image.unlock(places.ALL_PERMITS)  # as losing the lease does, and the reads go on
        local.withdraw(held.image.key, permit)
        silence(held)
        assert permit.enter(soon())
        proving = Aside(held.prove)
        eventually(rig.rung, "nobody rings")
        proving.waits(server)
        permit.leave()

        assert proving.result() is True
        assert not permit.held
        assert not rig.free()
    assert "pread_into" not in server.calls


def test_lost_permit_that_cannot_be_had_again_is_not_proven(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """The command is then not answered GOOD."""
    server = Poisoning()
    with caplog.at_level(logging.CRITICAL), rig.gate(server).narrow(soon()) as held:
        server.take_away(held)
        os.rename(rig.image, rig.image + "~")
        assert not held.prove()
        os.rename(rig.image + "~", rig.image)
        assert held.prove()
    assert rig.free()


def test_permit_that_is_lost_again_and_again_is_not_proven(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried until the deadline, and not for ever."""
    server = Failing()
    server.errors["pread_into"] = errno.EIO
    with caplog.at_level(logging.CRITICAL):
        assert not _narrow(rig, time.monotonic() + 0.3, server)
    assert server.calls.count("pread_into") > 1
    assert rig.free()


def test_doorbell_that_was_removed_is_made_anew_and_heard(rig: Rig) -> None:
    """By a person who tidies up."""
    permit = rig.permit()
    assert permit.enter(soon())
    permit.leave()
    local.withdraw((os.stat(rig.image).st_dev, os.stat(rig.image).st_ino), permit)
    os.unlink(os.path.join(rig.root, DOORBELL))

    assert Aside(lambda: _narrow(rig)).result() is True


@pytest.mark.parametrize(("mode", "expected"), [(0o700, 0o600), (0o770, 0o660)])
def test_doorbell_is_shared_with_those_who_share_the_root(
    rig: Rig, mode: int, expected: int
) -> None:
    """By its group, whatever the umask."""
    os.chmod(rig.root, mode)
    before = os.umask(0o077)
    try:
        assert _narrow(rig)
    finally:
        os.umask(before)
    assert os.stat(os.path.join(rig.root, DOORBELL)).st_mode & 0o777 == expected


def test_stream_of_targets_does_not_starve_a_command(rig: Rig) -> None:
    """Eight permits that are taken, used and given back all the time; nobody stops for good."""
    over = threading.Event()
    permits = [rig.permit(str(n)) for n in range(8)]
    for permit in permits:
        permit.attend()
    key = (os.stat(rig.image).st_dev, os.stat(rig.image).st_ino)

    def use(permit: Permit) -> int:
        done = 0
        while not over.is_set():
            if permit.enter(soon()):
                time.sleep(0.001)
                permit.leave()
                done += 1
                local.withdraw(key, permit)  # as in another process
        return done

    users = [Aside(partial(use, permit)) for permit in permits]
    try:
        eventually(lambda: all(rig.read.values()), "not all have begun")
        for _ in range(5):
            assert _narrow(rig, time.monotonic() + LONG)
    finally:
        over.set()
    assert all(isinstance(n := user.result(), int) and n > 0 for user in users)
