"""PERSISTENT RESERVE IN: what of the state goes into which payload (SPC-4 6.15)."""

from __future__ import annotations

import pytest

from flockpr.spc.pr_in import (
    parse_capabilities,
    parse_full_status,
    parse_keys,
    parse_reservation,
)
from tests.support.scsi import (
    ALL_REGISTRANTS,
    KEY_A,
    KEY_B,
    REGISTER,
    RELEASE,
    TYPES,
    WE,
    A,
    B,
    Unit,
    in_cdb,
    nexus,
)

PORTS = (1, 2)


def test_read_keys_lists_keys_in_order_of_registration() -> None:
    """SPC-4 6.15.2: one for each nexus, duplicates kept, a changed key in its place."""
    unit = Unit().enter(a=KEY_A, b=KEY_B, c=KEY_B)
    unit.out(A, REGISTER, KEY_A, 7)

    report = parse_keys(unit.send(nexus("z"), in_cdb(0)).data)
    assert report is not None
    assert (report.generation, report.keys) == (4, (7, KEY_B, KEY_B))


@pytest.mark.parametrize("type_", TYPES)
def test_read_reservation_shows_the_present_key_or_zero(type_: int) -> None:
    """SPC-4 6.15.3: the holder's key follows a change; All Registrants types show 0."""
    unit = Unit().enter(a=KEY_A).hold(A, type_)
    unit.out(A, REGISTER, KEY_A, KEY_B)

    report = parse_reservation(unit.send(A, in_cdb(1)).data)
    assert report is not None
    assert report.held is not None
    assert (report.held.key, report.held.type) == (0 if type_ in ALL_REGISTRANTS else KEY_B, type_)


def test_read_reservation_without_one_is_a_header_alone() -> None:
    """SPC-4 6.15.3: 8 bytes, ADDITIONAL LENGTH 0."""
    assert Unit().enter(a=KEY_A).send(A, in_cdb(1)).data == bytes((0, 0, 0, 1, 0, 0, 0, 0))


@pytest.mark.parametrize("aptpl", [True, False])
def test_report_capabilities_shows_aptpl_of_the_state(aptpl: bool) -> None:
    """SPC-4 6.15.4: all six types, every optional feature but REPLACE LOST RESERVATION."""
    unit = Unit()
    unit.out(A, REGISTER, 0, KEY_A, aptpl=aptpl)

    data = unit.send(A, in_cdb(2)).data
    assert data == bytes.fromhex("0008 1d c1 ea01 0000" if aptpl else "0008 1d c0 ea01 0000")
    report = parse_capabilities(data)
    assert report is not None
    assert report.persist_active is aptpl


@pytest.mark.parametrize("type_", TYPES)
def test_read_full_status_marks_holders(type_: int) -> None:
    """SPC-4 6.15.5: one holder, or every registrant; real keys in either case."""
    unit = Unit().enter(a=KEY_A, b=KEY_B).hold(A, type_)

    report = parse_full_status(unit.send(A, in_cdb(3)).data)
    assert report is not None
    shared = type_ in ALL_REGISTRANTS
    assert [(e.key, e.holder, e.type, e.transport_id) for e in report.registrations] == [
        (KEY_A, True, type_, A.initiator_port),
        (KEY_B, shared, type_ if shared else 0, B.initiator_port),
    ]


def test_read_full_status_with_all_ports_names_no_port() -> None:
    """SPC-4 6.15.5: one descriptor with ALL_TG_PT=1 stands for all ports and names none."""
    unit = Unit(target_ports=PORTS)
    unit.out(A, REGISTER, 0, KEY_A, all_ports=True)
    unit.out(nexus("b", 2), REGISTER, 0, KEY_B)

    report = parse_full_status(unit.send(A, in_cdb(3)).data)
    assert report is not None
    shown = [(e.all_target_ports, e.relative_target_port) for e in report.registrations]
    assert shown == [(True, 0), (False, 2)]


def test_read_full_status_with_ports_that_differ_names_each() -> None:
    """SPC-4 6.15.5: a port that left, or holds alone, leaves one descriptor per nexus."""
    unit = Unit(target_ports=PORTS)
    unit.out(A, REGISTER, 0, KEY_A, all_ports=True)

    def shown() -> list[tuple[bool, int]]:
        report = parse_full_status(unit.send(A, in_cdb(3)).data)
        assert report is not None
        return [(e.all_target_ports, e.relative_target_port) for e in report.registrations]

    unit.hold(A, WE)
    assert shown() == [(False, 1), (False, 2)]
    unit.out(A, RELEASE, KEY_A, type_=WE)
    assert shown() == [(True, 0)]
    unit.out(nexus("a", 2), REGISTER, KEY_A, KEY_B)
    assert shown() == [(False, 1), (False, 2)]
    unit.out(A, REGISTER, KEY_A, 0)
    assert shown() == [(False, 2)]


@pytest.mark.parametrize("length", [0, 4, 8, 20])
def test_read_keys_is_cut_but_says_its_whole_length(length: int) -> None:
    """SPC-4 6.15.1: ADDITIONAL LENGTH is never cut; no length is an error."""
    unit = Unit().enter(a=KEY_A, b=KEY_B)

    whole = unit.send(A, in_cdb(0)).data
    assert unit.send(A, in_cdb(0, length)).data == whole[:length]
    assert whole[7] == 16
