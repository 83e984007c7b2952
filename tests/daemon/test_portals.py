"""Portals of the target door: bound or passed, and never open to everybody by accident."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence

import pytest

from flockpr.daemon.activation import PassedSocket
from flockpr.daemon.portals import (
    BoundPortal,
    close_portals,
    open_portals,
)
from flockpr.daemon.target_settings import Portal
from flockpr.errors import ConfigError
from flockpr.iscsi.settings import Address, check_open_to_others


def has_ipv6() -> bool:
    """Whether ::1 is there."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.fixture
def passed() -> Iterator[PassedSocket]:
    """A listening socket of somebody else's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield PassedSocket(listening, "front", "")


def shown(portals: Sequence[BoundPortal]) -> list[tuple[str, int, int]]:
    """Where they listen."""
    return [(each.address.host, each.address.port, each.address.tag) for each in portals]


def connects(address: Address) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex((address.host, address.port)) == 0


def test_port_0_is_any_free_one() -> None:
    """Two portals, each with a port and its tag, listening at once."""
    portals = open_portals([Portal(portal="127.0.0.1:0"), Portal(portal="localhost:0", tag=7)])
    try:
        assert [each.address.tag for each in portals] == [2, 7]
        assert portals[0].address.host == "127.0.0.1"
        assert 0 not in {each.address.port for each in portals}
        assert connects(portals[0].address)
    finally:
        close_portals(portals)
    assert not connects(portals[0].address)


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_ipv6_portal_is_bound() -> None:
    """Brackets are of the text, not of the address."""
    [portal] = open_portals([Portal(portal="[::1]:0")])
    try:
        assert portal.address.host == "::1"
        assert portal.address.text == f"[::1]:{portal.address.port}"
    finally:
        close_portals([portal])


@pytest.mark.parametrize("second", ["{taken}", "203.0.113.7:0", "no.such.host.invalid:0"])
def test_portal_that_cannot_be_had_leaves_none_open(second: str) -> None:
    """In use, another host's address, a name of nobody: told with the portal's text."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        text = second.format(taken=f"127.0.0.1:{other.getsockname()[1]}")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on {text}: "):
            open_portals([Portal(portal=f"127.0.0.1:{port}"), Portal(portal=text)])
        assert not connects(Address("127.0.0.1", port, 2))


def test_passed_socket_takes_the_place_of_the_portals(
    passed: PassedSocket, caplog: pytest.LogCaptureFixture
) -> None:
    """By name, then by address, else with the default tag; nothing else is bound."""
    address = "{}:{}".format(*passed.socket.getsockname())
    named = Portal(name="front", tag=5)
    for portals, tag in (
        ([Portal(portal="127.0.0.1:1"), named], 5),
        ([Portal(portal=address, tag=6)], 6),
        ([Portal(portal="127.0.0.1:3260", tag=9)], 2),
    ):
        [found] = open_portals(portals, [passed])
        assert (found.socket, found.address.tag) == (passed.socket, tag)
    with caplog.at_level(logging.WARNING):
        open_portals([named, Portal(portal="127.0.0.1:1")], [passed])
    assert "127.0.0.1:1 is configured but was not passed" in caplog.text


def test_named_portal_that_was_not_passed_is_an_error() -> None:
    """There is no address to bind."""
    with pytest.raises(ConfigError, match="passed no socket called 'front'"):
        open_portals([Portal(name="front")])


@pytest.mark.parametrize(
    ("host", "authenticated", "allowed", "fine"),
    [
        ("127.0.0.1", False, False, True),
        ("127.9.9.9", False, False, True),
        ("::1", False, False, True),
        ("0.0.0.0", False, False, False),
        ("::", False, False, False),
        ("192.0.2.1", False, False, False),
        ("192.0.2.1", True, False, True),
        ("192.0.2.1", False, True, True),
    ],
)
def test_portal_that_others_reach_needs_chap_or_a_word(
    host: str, authenticated: bool, allowed: bool, fine: bool
) -> None:
    """And one of several is enough to be refused; the message says what to do."""
    portals = [Address("127.0.0.1", 3260, 2), Address(host, 3260, 2)]
    if fine:
        check_open_to_others(portals, authenticated=authenticated, allowed=allowed)
        return
    with pytest.raises(ConfigError, match="other hosts can connect") as caught:
        check_open_to_others(portals, authenticated=authenticated, allowed=allowed)
    for way in ("--chap FILE", "127.0.0.1", "--allow-unauthenticated"):
        assert way in caught.value.remedy
