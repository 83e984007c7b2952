"""The files of other targets: examples, round trips, and what is no such file."""

from __future__ import annotations

import contextlib
import pathlib
import uuid
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flockpr.cli.exporting import FORMATS
from flockpr.cli.formats import NAMES, detect, find, spdk
from flockpr.cli.formats.registry import Registrant, Registry, Source, Wanted
from flockpr.cli.formats.resolve import resolve
from flockpr.core.events import occur
from flockpr.core.model import LogicalUnitState, UnitConfig
from flockpr.errors import ConfigError
from flockpr.spc.codes import ReservationType, Status
from flockpr.store.identity import LunIdentity
from tests.support.spc_strategies import QUIET
from tests.support.states import reachable_states, valid_states

if TYPE_CHECKING:
    from flockpr.cli.formats.registry import Written

FEWER = settings(QUIET, max_examples=40)
EXAMPLES = pathlib.Path(__file__).with_name("foreign")
NODE1 = "iqn.1991-05.com.microsoft:node1"
NODE2 = "iqn.1991-05.com.microsoft:node2"
RED1, RED3 = "iqn.1994-05.com.redhat:node1", "iqn.1994-05.com.redhat:node3"
BDEV = "5c0b7a4e-2f5f-4d0e-9f0b-3f6b1f0a7c11"
UUIDS = [f"f1c2d3e4-000{n}-4000-8000-00000000000{n}" for n in (1, 2)]
EXPECTED = {
    "lio": Registry(
        (
            Registrant(f"{NODE1},i,0x400001370000", 0x6362_75AB_74F7_0076, 1),
            Registrant(f"{NODE2},i,0x400001370001", 0x6362_75AB_74F7_0077, 1),
        ),
        ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
        0,
        None,
        aptpl=True,
    ),
    "scst": Registry(
        (
            Registrant(f"{NODE1},i,0x400001370000", 0x6362_616D_0000_0001, 1),
            Registrant(NODE2, 0x6362_616D_0000_0002, 2),
        ),
        ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
        None,
        7,
        None,
    ),
    "scst-file": Registry(
        (
            Registrant(f"{NODE1},i,0x400001370000", 0xA1, 1),
            Registrant("fcp:0x21000024ff4b5a10", 0xB2, 2, iscsi=False),
        ),
        ReservationType.EXCLUSIVE_ACCESS,
        1,
        None,
        aptpl=True,
    ),
    "spdk": Registry(
        (
            Registrant(spdk.PREFIX + UUIDS[0], 0xA1),
            Registrant(spdk.PREFIX + UUIDS[1], (1 << 64) - 1),
        ),
        ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
        0,
        None,
        aptpl=True,
    ),
    "sg_persist": Registry(
        (
            Registrant(f"{RED1},i,0x00023d000001", 0xA1, 1),
            Registrant("sas-address:-0x500605b000000002", 0xB2, 1, iscsi=False),
            Registrant(RED3, 0xC3, None, all_target_ports=True),
        ),
        ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
        0,
        16,
        None,
    ),
}


def identity(ports: tuple[int, ...]) -> LunIdentity:
    """Of a logical unit with these target ports."""
    return LunIdentity("disk", "0" * 32, "naa.3000000000000001", "s", 0, "t", target_ports=ports)


def written(name: str, state: LogicalUnitState, ports: tuple[int, ...]) -> Written:
    """The file of a state, with all that a format wants to know."""
    names = {one.nexus.initiator_port.name for one in state.registrations}
    hosts = {each: str(uuid.uuid5(uuid.NAMESPACE_URL, each)) for each in names}
    source = Source(state, UnitConfig(target_ports=ports))
    result: Written = find(name).write(source, Wanted("iqn.2026-01.x:t", uuid=BDEV, hosts=hosts))
    return result


def test_choices_are_the_formats() -> None:
    """The command line names them without loading them."""
    assert FORMATS == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_example_is_recognised_and_read(name: str) -> None:
    """Made by hand after the sources of the versions that docs/formats.md names."""
    data = (EXAMPLES / name).read_bytes()

    assert detect(data, "file") == name
    found = find(name).read(data)
    assert attrs.evolve(found, notes=()) == EXPECTED[name]
    assert found.notes


@pytest.mark.parametrize("name", ["lio", "spdk", "scst"])
def test_example_is_written_as_it_was_read(name: str) -> None:
    """Byte for byte, so that the other side finds what it would have written itself."""
    data = (EXAMPLES / name).read_bytes()
    registry = find(name).read(data)
    adoption, _ = resolve(registry, identity((1, 2)), 1 if name == "spdk" else None, {})
    after = occur(LogicalUnitState(), adoption, config=UnitConfig(target_ports=(1, 2))).state

    wanted = Wanted("iqn.2003-01.org.linux-iscsi.storage.x8664:sn.1c2d3e4f5a6b", uuid=BDEV)
    again: Written = find(name).write(Source(after, UnitConfig(target_ports=(1, 2))), wanted)
    assert again.data == data


states = (valid_states() | reachable_states()).filter(
    lambda state: (
        0 < len(state.registrations) <= 16
        and all("," not in one.nexus.initiator_port.name for one in state.registrations)
    )
)


@FEWER
@given(states, st.sampled_from(["lio", "scst", "scst-file", "sg_persist"]))
def test_state_that_was_exported_is_imported_again(state: LogicalUnitState, name: str) -> None:
    """All that decides who may read and write survives; what does not is in the losses."""
    ports = tuple(sorted({1, *(one.nexus.target_port for one in state.registrations)}))
    file = written(name, state, ports)
    registry = find(name).read(file.data)
    adoption, _ = resolve(registry, identity(ports), None, {})
    outcome = occur(LogicalUnitState(), adoption, config=UnitConfig(target_ports=ports))

    assert outcome.reply.status is Status.GOOD
    after = outcome.state
    assert {one.nexus: one.key for one in after.registrations} == {
        one.nexus: one.key for one in state.registrations
    }
    assert after.reservation == state.reservation
    losses = " ".join(file.losses)
    flags = {one.nexus: one.all_target_ports for one in state.registrations}
    kept = {one.nexus: one.all_target_ports for one in after.registrations}
    assert flags == kept or "ALL_TG_PT" in losses
    # A new logical unit is at 0, and an import that left it there could not be seen.
    assert after.generation == max(state.generation, 1) or "PRGENERATION" in losses
    assert after.aptpl == state.aptpl or "APTPL" in losses
    assert detect(file.data, "file") == name


@FEWER
@given(states)
def test_state_as_spdk_has_it_keeps_hosts_keys_and_type(state: LogicalUnitState) -> None:
    """NVMe has hosts instead of nexuses: one key each, or it is refused."""
    ports = tuple(sorted({1, *(one.nexus.target_port for one in state.registrations)}))
    keys: dict[str, set[int]] = {}
    for one in state.registrations:
        keys.setdefault(one.nexus.initiator_port.name, set()).add(one.key)
    if any(len(found) > 1 for found in keys.values()):
        with pytest.raises(ConfigError, match="two keys of one host"):
            written("spdk", state, ports)
        return
    registry = spdk.read(written("spdk", state, ports).data)

    assert [one.key for one in registry.registrants] == [key for (key,) in keys.values()]
    assert registry.type == (state.reservation.type if state.reservation else None)
    held = state.reservation
    holder = None if held is None or held.holder is None else held.holder.initiator_port.name
    names = list(keys)
    assert (None if registry.holder is None else names[registry.holder]) == holder


@pytest.mark.parametrize("name", NAMES)
@FEWER
@given(data=st.data())
def test_reader_is_total(name: str, data: st.DataObject) -> None:
    """Bytes of any kind give what they say or a refusal; a changed byte is no crash."""
    whole = bytearray((EXAMPLES / name).read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    mangled = bytes(whole) if data.draw(st.booleans()) else data.draw(st.binary(max_size=200))
    with contextlib.suppress(ConfigError):
        registry = find(name).read(mangled)
        resolve(registry, identity((1, 2)), None, {})


@pytest.mark.parametrize("name", ["lio", "scst", "scst-file", "spdk", "sg_persist"])
def test_file_that_was_cut_short_is_refused_or_has_whole_registrations(name: str) -> None:
    """Half a file never gives a holder that is not registered, nor half a registration."""
    data = (EXAMPLES / name).read_bytes()
    whole = set(find(name).read(data).registrants)
    for end in range(len(data)):
        try:
            found = find(name).read(data[:end])
        except ConfigError:
            continue
        assert set(found.registrants) <= whole


_LIO = EXAMPLES.joinpath("lio").read_bytes()
_SCST = EXAMPLES.joinpath("scst").read_bytes()
_FILE = EXAMPLES.joinpath("scst-file").read_bytes()
_SPDK = EXAMPLES.joinpath("spdk").read_bytes()
_SG = EXAMPLES.joinpath("sg_persist").read_bytes()


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("lio", _LIO.replace(b"res_holder=0", b"res_holder=1\nres_type=05"), "2 holders"),
        ("lio", _LIO.replace(b"res_type=05\n", b""), "without res_type"),
        ("lio", _LIO.replace(b"res_scope=00", b"res_scope=01"), "scope"),
        ("lio", _LIO.replace(b"res_type=05", b"res_type=02"), "no type of a reservation"),
        ("lio", _LIO.replace(b"sa_res_key=7161415736734711926", b"sa_res_key=0"), "sa_res_key"),
        ("lio", _LIO.replace(b"PR_REG_END: 0\n", b""), "has no end"),
        ("lio", _LIO.replace(b"initiator_sid=400001370000", b"initiator_sid=4"), "12 hex digits"),
        ("lio", _LIO.replace(b"tpgt=1", b"tpgt=1\ntpgt=1"), "is not expected"),
        ("lio", _LIO.replace(b"res_holder=0\n", b""), "without res_holder"),
        ("scst", _SCST.replace(b"version 1", b"version 2"), "is not 'version 1'"),
        ("scst", _SCST.replace(b"reservation 08", b"reservation 05"), "2 holders"),
        ("scst", _SCST.replace(b"generation 7", b"generations 7"), "is not expected"),
        ("scst", _SCST.replace(b" 36 ", b" 24 "), "a TransportID of 36 bytes, not 24"),
        ("scst", _SCST.replace(b"reservation 08 00", b"reservation 08 01"), "scope"),
        ("scst-file", _FILE.replace(b"\x77\xdd", b"\0\0"), "no signature"),
        ("scst-file", _FILE[:8] + b"\2" + _FILE[9:], "not version 1"),
        ("scst-file", _FILE[:-1], "cut short"),
        ("scst-file", _FILE[:20] + b"\1" + _FILE[21:], "2 holders"),
        ("spdk", _SPDK.replace(b'"rtype": 3', b'"rtype": 7'), "7 is no type"),
        ("spdk", _SPDK.replace(b'"rtype": 3', b'"rtype": true'), "rtype is no int"),
        ("spdk", _SPDK.replace(b'"crkey": 161', b'"ptpl": true'), "occurs twice"),
        ("spdk", _SPDK.replace(b'"rkey": 161', b'"rkey": 0'), "rkey"),
        ("spdk", _SPDK.replace(b'"crkey"', b'"other"'), "is not expected"),
        ("spdk", _SPDK.replace(b'holder_uuid": "f1c2', b'holder_uuid": "a1c2'), "0 holders"),
        ("sg_persist", _SG + _SG, "not once"),
        ("sg_persist", _SG.replace(b"LU_SCOPE", b"1"), "no scope and type"),
        ("sg_persist", _SG.replace(b"      not reservation holder\n", b""), "neither holder nor"),
        ("sg_persist", b"  PR generation=0x1, 1 registered reservation key follows:\n", "not once"),
    ],
)
def test_file_that_contradicts_itself_is_refused(name: str, data: bytes, told: str) -> None:
    """It says where; nothing of it is taken."""
    with pytest.raises(ConfigError, match=told):
        find(name).read(data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("lio", b"No Registrations or Reservations\n\0"),
        ("lio", b"No Registrations or Reservations\0"),
        ("scst", b"version 1\ngeneration 3\n"),
        ("spdk", b'{"ptpl": false, "bdev_uuid": "", "registrants": []}'),
        ("sg_persist", b"  PR generation=0x2\n  No full status descriptors\n"),
    ],
)
def test_file_in_which_nobody_is_registered_is_no_import(name: str, data: bytes) -> None:
    """There is nothing to take over, and that is said."""
    registry = find(name).read(data)

    assert registry.registrants == ()
    with pytest.raises(ConfigError, match="nobody is registered"):
        resolve(registry, identity((1,)), None, {})
