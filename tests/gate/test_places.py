"""Which byte means what: the arithmetic, at the ends and between neighbours."""

from __future__ import annotations

import pytest

from flockpr.gate import places
from flockpr.gate.places import ALL_PERMITS, Range
from flockpr.store.claims import MAX_LUNS
from flockpr.store.layout import HOSTS, KNOCK_GROUPS, PERMIT_INSTANCES

LAST = HOSTS - 1
END = ALL_PERMITS.start + ALL_PERMITS.length


@pytest.mark.parametrize("host", [0, 1, 12345, LAST])
def test_permit_says_whose_it_is(host: int) -> None:
    """One byte among those of its host."""
    mine = places.permits_of(host)
    for _ in range(20):
        start, length = places.any_permit(host)
        assert length == 1
        assert mine.start <= start < mine.start + mine.length
        assert places.host_at(start) == host
    assert ALL_PERMITS.start <= mine.start < mine.start + mine.length <= END


@pytest.mark.parametrize(
    "hosts", [(), (0,), (LAST,), (0, LAST), (7, 8), (8, 7, 8, 500), (1,), range(40)]
)
def test_permits_of_all_but_some_hosts_are_those_of_all_others(hosts: tuple[int, ...]) -> None:
    """Ascending, without a gap but the ones that are asked for, and never of a single byte."""
    ranges = places.all_permits_but(hosts)

    assert list(ranges) == sorted(ranges)
    assert all(one.length > 1 for one in ranges)
    left_out = sum(places.permits_of(host).length for host in set(hosts))
    assert sum(one.length for one in ranges) == ALL_PERMITS.length - left_out
    for host in {0, 1, 6, 7, 8, 9, 499, 500, 501, LAST - 1, LAST, *hosts}:
        start, length = places.permits_of(host)
        inside = [one for one in ranges if one.start < start + length and start < sum(one)]
        assert bool(inside) is (host not in set(hosts))


def test_permits_of_all_are_one_range() -> None:
    """One system call."""
    assert places.all_permits_but(()) == (ALL_PERMITS,)


@pytest.mark.parametrize("number", [0, 1, MAX_LUNS - 1])
@pytest.mark.parametrize("host", [0, 1, 126, 127, LAST])
def test_ring_says_who_rings_and_for_whom(number: int, host: int) -> None:
    """A byte of the LUN's range; of one host all groups lie together."""
    everybody, alone = places.ring(number, host), places.ring(number, host, places.group_of(host))
    whole = places.rings(number)
    for place in (everybody, alone):
        assert whole.start <= place.start < sum(whole) < 1 << 63
        assert places.ringing(place.start) == (number, host)
    assert list(places.groups_at(*everybody)) == [places.EVERYBODY]
    assert list(places.groups_at(*alone)) == [places.group_of(host)]
    merged = Range(everybody.start, 3)
    assert list(places.groups_at(*merged)) == [0, 1, 2]
    assert 1 <= places.group_of(host) < KNOCK_GROUPS


def test_rings_of_several_luns_are_one_range() -> None:
    """One question for all of them."""
    assert places.rings(3, 5).start == places.rings(3).start
    assert sum(places.rings(3, 5)) == sum(places.rings(5))
    assert PERMIT_INSTANCES > 1
