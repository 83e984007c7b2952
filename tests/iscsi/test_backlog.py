"""What clients leave lying is bounded for all of them together, and who goes to make room."""

from __future__ import annotations

from flockpr.iscsi.backlog import Backlog


class Client:
    def __init__(self, since: float) -> None:
        self.since = since
        self.going = False

    def give_way(self) -> None:
        self.going = True


def test_keep_within_the_bound_is_counted_and_forgotten() -> None:
    """What is counted for a client is what it was counted with last."""
    backlog = Backlog(100)
    first, second = Client(1.0), Client(2.0)
    assert backlog.keep(first, 60)
    assert backlog.keep(second, 40)
    assert backlog.keep(first, 10)
    assert backlog.total == 50
    assert backlog.keep(first, 0)
    assert backlog.keep(second, 0)
    assert backlog.total == 0
    assert [first.going, second.going] == [False, False]


def test_keep_beyond_the_bound_lets_the_one_go_that_took_nothing_for_longest() -> None:
    """There is no room, until the client has gone that took nothing for longest, and it alone."""
    backlog = Backlog(100)
    clients = [Client(5.0), Client(1.0), Client(3.0)]
    for client in clients[:2]:
        assert backlog.keep(client, 45)
    assert not backlog.keep(clients[2], 45)
    assert not backlog.keep(clients[2], 45)  # it has not gone yet: nobody else has to
    assert backlog.total == 90
    assert [client.going for client in clients] == [False, True, False]
    assert backlog.keep(clients[1], 0)
    assert backlog.keep(clients[2], 45)
    assert [client.going for client in clients] == [False, True, False]


def test_keep_beyond_the_bound_spares_a_client_that_keeps_little() -> None:
    """A guest that paused for long with one answer left does not pay for those that fill all."""
    backlog = Backlog(100)
    paused, greedy, other = Client(1.0), Client(5.0), Client(6.0)
    backlog.keep(paused, 4)
    backlog.keep(greedy, 90)
    assert not backlog.keep(other, 40)
    assert [paused.going, greedy.going, other.going] == [False, True, False]


def test_keep_of_what_is_there_is_counted_beyond_the_bound_and_makes_room() -> None:
    """Bytes that exist are counted in any case, and as many clients go as it takes."""
    backlog = Backlog(100)
    clients = [Client(float(number)) for number in range(4)]
    for client in clients:
        backlog.keep(client, 50, there=True)
    assert backlog.total == 200
    assert [client.going for client in clients] == [True, True, False, False]
    for client in clients[:2]:
        backlog.keep(client, 0)
    assert backlog.total == 100


def test_keep_of_more_than_the_bound_by_one_lets_it_go() -> None:
    """Whoever asks may be the one that goes: there is always somebody."""
    backlog = Backlog(100)
    client = Client(1.0)
    assert not backlog.keep(client, 101)
    assert client.going
    assert backlog.total == 0
