"""A command and hosts that do not answer: who is waited for, who may go on, what it is told."""

from __future__ import annotations

import contextlib
import threading
import time
import types
from collections.abc import Iterator

import pytest

from flockpr import events
from flockpr.errors import Busy, HostFenced
from flockpr.events import Kind
from flockpr.gate import (
    Doorbell,
    Gate,
    ImageFile,
    fenced,
    open_image,
    places,
    rounds,
    silence,
    take_unused,
)
from flockpr.gate.hosts import host_number
from flockpr.gate.silence import silence_of
from flockpr.store.syscalls import Syscalls
from tests.support.gates import IMAGE, LONG, NUMBER, Aside, Failing, Rig, eventually, soon, usable
from tests.support.starved import starve

HOST = host_number("elsewhere")
SYSCALLS = Syscalls()

pytestmark = pytest.mark.usefixtures("strangers", "short_graces")


@pytest.fixture
def short_graces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is to be waited for long."""
    monkeypatch.setattr(rounds, "GRACE", 0.2)
    monkeypatch.setattr(rounds, "PATIENCE", 0.05)
    monkeypatch.setattr(silence, "EVERY", 0.02)


@pytest.fixture
def stuck(rig: Rig) -> Iterator[ImageFile]:
    """A permit of another host's target, which does not listen."""
    image = open_image(rig.image, SYSCALLS)
    assert image.lock(places.any_permit(HOST))
    yield image
    image.close()


def known(image: ImageFile) -> frozenset[int]:
    """The hosts that this process knows to be silent."""
    return silence_of(image.key).known()


def narrow(
    rig: Rig, deadline: float | None = None, server: Syscalls | None = None
) -> frozenset[int]:
    """Have the gate once; who was left out."""
    with rig.gate(server).narrow(deadline or soon()) as held:
        assert held.prove()
        return held.left_out


def test_host_that_does_not_answer_is_named_and_nothing_is_held_afterwards(
    rig: Rig, stuck: ImageFile
) -> None:
    """BUSY says who is in the way, the event too, and the bell is silent again."""
    before = events.counts().get((Kind.SILENT_HOST, rig.image), 0)
    with pytest.raises(Busy, match=rf"host {HOST:010x} did not give the permit back") as caught:
        narrow(rig, time.monotonic() + 0.5)
    assert "flockpr gate show" in str(caught.value)
    assert not rig.rung()
    assert events.counts()[Kind.SILENT_HOST, rig.image] == before + 1
    assert known(stuck) == {HOST}


def test_others_go_on_while_a_command_waits_for_one_host(rig: Rig, stuck: ImageFile) -> None:
    """They stand still for a grace. Once that host has given way they do so again, and GOOD."""
    permit = rig.permit()
    assert permit.enter(soon())
    permit.leave()
    waiting = Aside(lambda: narrow(rig))
    eventually(lambda: known(stuck) == {HOST}, "nobody is found to be in the way")
    for _ in range(3):
        eventually(lambda: usable(permit), "others stand still")
    assert not waiting.done

    stuck.close()

    assert waiting.result() == frozenset()
    assert known(stuck) == frozenset()
    eventually(lambda: usable(permit), "it stays closed")


def test_command_waits_for_hosts_that_are_known_to_be_silent_before_it_rings(
    rig: Rig, stuck: ImageFile
) -> None:
    """Nobody else stands still for it a second time."""
    silence_of(stuck.key).note([HOST])
    waiting = Aside(lambda: narrow(rig))
    with Doorbell(rig.root, SYSCALLS, HOST) as bell:
        eventually(lambda: bool(bell.rings(NUMBER)), "the silent host is not called")
        for _ in range(20):
            assert not any(ring.everybody for ring in bell.rings(NUMBER))
            time.sleep(0.01)
        assert bell.wanted(NUMBER, HOST, lambda *_: frozenset())
    assert not waiting.done
    stuck.close()
    assert waiting.result() == frozenset()


def test_host_that_gave_way_meanwhile_is_not_waited_for(rig: Rig, stuck: ImageFile) -> None:
    """What a process remembers is looked at first."""
    silence_of(stuck.key).note([HOST, HOST + 1])
    stuck.close()
    assert narrow(rig) == frozenset()
    assert known(stuck) == frozenset()


def test_host_that_is_declared_fenced_is_left_out(rig: Rig, stuck: ImageFile) -> None:
    """Also in the middle of the wait; and the command knows that it went past somebody."""
    waiting = Aside(lambda: narrow(rig))
    eventually(lambda: known(stuck) == {HOST}, "nobody is found to be in the way")
    fenced.declare(rig.root, HOST, proof="its power is off")

    assert waiting.result() == {HOST}
    assert known(stuck) == frozenset()
    assert narrow(rig) == {HOST}
    stuck.close()
    assert narrow(rig) == frozenset()


def test_other_targets_are_waited_for_beside_a_host_that_is_declared_fenced(
    rig: Rig, stuck: ImageFile
) -> None:
    """On both sides of its bytes."""
    fenced.declare(rig.root, HOST, proof="its power is off")
    for host in (0, HOST - 1, HOST + 1, (1 << 40) - 1):
        with permit_of(rig, host), pytest.raises(Busy):
            narrow(rig, time.monotonic() + 0.5)
    assert narrow(rig) == {HOST}
    assert stuck.fd >= 0


@contextlib.contextmanager
def permit_of(rig: Rig, host: int) -> Iterator[None]:
    """Another host's permit."""
    with contextlib.closing(open_image(rig.image, SYSCALLS)) as image:
        assert image.lock(places.any_permit(host))
        yield


def test_target_of_a_host_that_is_declared_fenced_gets_no_permit(rig: Rig) -> None:
    """And says why, for a person; another host's does."""
    permit, other = rig.permit("fenced", host="a"), rig.permit("other", host="b")
    fenced.declare(rig.root, permit.host, proof="its power is off")
    assert not permit.enter(soon())
    assert isinstance(permit.fault, HostFenced)
    assert permit.fault.for_a_person
    assert not permit.held
    assert other.enter(soon())
    other.leave()


def test_command_on_a_host_that_is_declared_fenced_does_nothing(rig: Rig) -> None:
    """It lives, whatever was declared, and a write of it is under way: that is waited for. But
    commands of others are not, so nothing may be committed here, and that is for a person.
    """
    permit = rig.permit()
    assert permit.enter(soon())
    fenced.declare(rig.root, permit.host, proof="said on another host")
    with pytest.raises(Busy, match="a target of this host did not give"):
        narrow(rig, time.monotonic() + 0.5)
    before = events.counts().get((Kind.FENCED_HOST, rig.image), 0)
    waiting = Aside(lambda: narrow(rig))
    permit.leave()
    with pytest.raises(HostFenced, match="said on another host") as caught:
        waiting.result()
    assert caught.value.for_a_person
    assert "reboot this host" in caught.value.remedy
    assert events.counts()[Kind.FENCED_HOST, rig.image] > before  # the watch may say so, too
    assert rig.free()
    assert not rig.rung()


def test_image_is_not_unused_while_a_host_that_is_declared_fenced_uses_it_itself(rig: Rig) -> None:
    """Its own permits are in its way, whatever was declared; another host's are not."""
    permit = rig.permit()
    assert permit.enter(soon())
    fenced.declare(rig.root, permit.host, proof="said on another host")
    fenced.declare(rig.root, HOST, proof="its power is off")
    with contextlib.closing(open_image(rig.image, SYSCALLS)) as image, permit_of(rig, HOST):
        assert not take_unused(rig.root, image)
        permit.leave()
        permit.rest()
        eventually(lambda: not permit.held, "it is not given back")
        assert take_unused(rig.root, image)


def test_two_targets_of_a_host_never_share_a_byte(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where chance gives both the same one, the second tries another."""
    dice = iter([5, 5, 5, 6])
    fake = types.SimpleNamespace(randrange=lambda _: next(dice))
    monkeypatch.setattr(places, "random", fake)
    one, two = rig.permit("one"), rig.permit("two")
    assert one.enter(soon())
    assert two.enter(soon())
    two.leave()
    one.leave()


def test_renewed_permit_is_another_descriptor(rig: Rig) -> None:
    """Held or not, what was locked before is given back."""
    opened: list[int] = []
    permit = rig.permit(on_descriptor=opened.append)
    assert permit.enter(soon())
    permit.renew()
    assert permit.held
    permit.leave()
    eventually(lambda: not permit.held, "it is not given back")
    assert rig.free()
    assert permit.enter(soon())
    permit.leave()
    assert len(opened) == 2
    permit.bar("me")
    assert permit.yielded(soon())
    permit.renew()
    permit.admit("me")
    assert permit.enter(soon())
    permit.leave()
    assert len(opened) == 3


def test_command_that_waits_for_another_one_says_so(rig: Rig) -> None:
    """Of another host: there is nobody to be fenced, and nobody is remembered as silent."""
    with rig.gate(host="elsewhere").narrow(soon()) as held:
        with pytest.raises(
            Busy, match=r"another command that takes access away is under way \(host [0-9a-f]{10}\)"
        ):
            narrow(rig, time.monotonic() + 0.5)
        server = Failing()
        waiting = Aside(lambda: narrow(rig, server=server))
        with Doorbell(rig.root, SYSCALLS, 1) as bell:
            eventually(lambda: len(bell.rings(NUMBER)) == 2, "it does not ring")
        # After each grace it looks who is in the way.
        eventually(lambda: server.calls.count("find_lock") > 1, "it does not look")
        waiting.waits(server)
        assert known(held.image) == frozenset()
    assert waiting.result() == frozenset()


def test_knock_in_the_background_goes_on_until_the_host_gives_way(
    rig: Rig, stuck: ImageFile
) -> None:
    """One thread, however many commands give up; it ends by itself."""
    for _ in range(3):
        with pytest.raises(Busy):
            narrow(rig, time.monotonic() + 0.1)
    assert knocking() == 1
    stuck.close()
    eventually(lambda: not knocking(), "it does not end")
    assert known(stuck) == frozenset()


def knocking() -> int:
    """Threads that knock for the image of these tests."""
    return sum(thread.name == f"knock-{NUMBER}" for thread in threading.enumerate())


def test_knock_in_the_background_ends_after_a_while(
    rig: Rig, stuck: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is gone for good is not asked for ever; the next command asks again."""
    monkeypatch.setattr(silence, "LIFE", 0.2)
    with pytest.raises(Busy):
        narrow(rig, time.monotonic() + 0.1)
    eventually(lambda: not knocking(), "it does not end")
    assert known(stuck) == {HOST}
    with pytest.raises(Busy):
        narrow(rig, time.monotonic() + 0.1)
    eventually(lambda: not knocking(), "it does not end")


def test_knock_for_which_there_is_no_thread_is_no_failure(
    rig: Rig, stuck: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BUSY is the answer all the same, and the next command has one started."""
    failed = starve(monkeypatch, "knock-")
    with pytest.raises(Busy, match="did not give the permit back"):
        narrow(rig, time.monotonic() + 0.1)
    assert len(failed) == 1
    with pytest.raises(Busy):
        narrow(rig, time.monotonic() + 0.1)
    assert knocking() == 1
    stuck.close()
    eventually(lambda: not knocking(), "it does not end")


def test_images_without_silent_hosts_are_forgotten_when_they_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A daemon that serves for years; what somebody waits for is not."""
    kept: dict[tuple[int, int], silence.Silence] = {}
    monkeypatch.setattr(silence, "_silences", kept)
    silence_of((0, 0)).note([HOST])
    for number in range(3 * silence.MOST):
        assert not silence_of((1, number)).known()
        assert len(kept) <= silence.MOST
    assert silence_of((0, 0)).known() == {HOST}
    last = silence_of((1, 3 * silence.MOST - 1))
    assert silence_of((1, 3 * silence.MOST - 1)) is last


class Cluster:
    """A file system that waits for the fencing of a node, as often as told."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.free: list[bool] = []
        self.rig: Rig | None = None

    def __call__(self, _: ImageFile, deadline: float) -> bool:
        assert self.rig is not None
        self.free.append(self.rig.free())
        if not self.answers:
            time.sleep(max(0.0, min(0.05, deadline - time.monotonic())))
            return False
        return self.answers.pop(0)

    def gate(self, rig: Rig) -> Gate:
        """A command's."""
        self.rig = rig
        return Gate(rig.root, NUMBER, IMAGE, cluster_lock=self)


def test_lock_of_the_cluster_is_had_while_all_permits_are_held(rig: Rig) -> None:
    """Before that it proves nothing."""
    cluster = Cluster(True)
    with cluster.gate(rig).narrow(soon()) as held:
        assert cluster.free == [False]
        assert held.prove()
    assert cluster.free == [False]


def test_others_go_on_while_a_command_waits_for_the_cluster(rig: Rig) -> None:
    """And afterwards the lock is had once more, with all permits held again."""
    cluster = Cluster(False, True, True)
    with cluster.gate(rig).narrow(soon()):
        assert cluster.free == [False, True, False]


def test_cluster_that_does_not_fence_a_node_makes_it_busy(rig: Rig) -> None:
    """With nothing held and nobody disturbed any more."""
    cluster = Cluster()
    with (
        pytest.raises(Busy, match="was not had in time"),
        cluster.gate(rig).narrow(time.monotonic() + 0.1),
    ):
        raise AssertionError
    assert cluster.free == [False, True]
    assert rig.free()
    assert not rig.rung()


def test_command_that_is_withdrawn_in_its_grace_gives_up_at_once(
    rig: Rig, stuck: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody stands still for a nexus that is gone."""
    monkeypatch.setattr(rounds, "GRACE", LONG)
    gone = threading.Event()

    def wait() -> None:
        with rig.gate().narrow(soon(), gone.is_set):
            raise AssertionError

    waiting = Aside(wait)
    eventually(rig.rung, "nobody rings")
    gone.set()
    with pytest.raises(Busy, match="nobody wants it"):
        waiting.result()
    assert not rig.rung()
    assert stuck.fd >= 0
