"""Memory for Data-Out: bounds, and who is told when some is free."""

from __future__ import annotations

from collections.abc import Callable

from flockpr.iscsi.memory import Memory

MIB = 1 << 20


class Laters:
    """Notes what is to be called later, and calls it."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def __call__(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def run(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


def test_take_beyond_the_share_of_a_connection_waits_and_is_told() -> None:
    """One connection does not take more than its share of a LUN, and hears of free memory."""
    later = Laters()
    memory = Memory(16 * MIB, 2 * MIB, later)
    share = memory.share(memory.lun())
    told: list[str] = []
    first = memory.take(share, 2 * MIB, lambda: told.append("x"))
    assert first is not None
    assert len(first.view) == 2 * MIB
    assert memory.take(share, 1, lambda: told.append("told")) is None
    first.release()
    first.release()
    later.run()
    assert told == ["told"]
    assert memory.take(share, 2 * MIB, lambda: None) is not None


def test_take_for_one_lun_leaves_memory_for_the_others() -> None:
    """Whoever writes to a LUN that hangs cannot use up what the other LUNs need."""
    memory = Memory(16 * MIB, 2 * MIB, Laters())
    hanging, other = memory.lun(), memory.lun()
    grants = []
    while (grant := memory.take(memory.share(hanging), 1 * MIB, lambda: None)) is not None:
        grants.append(grant)
    assert len(grants) == 4, "a quarter of all of it"
    assert memory.take(memory.share(other), 1 * MIB, lambda: None) is not None


def test_take_larger_than_a_share_is_granted_to_who_has_nothing() -> None:
    """A command is never refused for its size alone: it could never go on."""
    memory = Memory(16 * MIB, MIB, Laters())
    assert memory.take(memory.share(memory.lun()), 4 * MIB, lambda: None) is not None


def test_take_of_greedy_connections_leaves_something_for_those_that_have_nothing() -> None:
    """Half of a LUN's memory is for connections that have none of it."""
    memory = Memory(64 * MIB, 16 * MIB, Laters())
    lun = memory.lun()
    greedy = memory.share(lun)
    grants = []
    while (grant := memory.take(greedy, 1 * MIB, lambda: None)) is not None:
        grants.append(grant)
    assert len(grants) == 8
    assert memory.take(memory.share(lun), 4 * MIB, lambda: None) is not None
