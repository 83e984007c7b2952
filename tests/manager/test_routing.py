"""One disk is emulated or passed on, and never both: whoever cannot tell passes nothing on."""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future

import attrs
import pytest

from flockpr.errors import Emulated, StateUnreadable, StoreUnavailable
from flockpr.logical_unit import Result
from flockpr.manager.base import PRManager
from flockpr.manager.device import Device as Identified
from flockpr.manager.passing import PassingManager
from flockpr.manager.routing import AutoManager, Claims, kind_of
from flockpr.spc.codes import Status
from flockpr.store.listing import read_identity
from flockpr.store.provision import create_lun
from flockpr.units import Units
from tests.support.helper import DEADLINE, PORT, eventually, sense_code
from tests.support.scsi import REGISTER, basic_list, in_cdb, out_cdb

WWID, OTHER = "naa.6001405aaaaaaaaaaaaaaaaaaaaaaaaa", "naa.6001405bbbbbbbbbbbbbbbbbbbbbbbbb"
PASSED = Result(Status.GOOD, data_in=b"passed on")
NOT_SUPPORTED = (0x05, 0x25, 0x00)
READ, WRITE = (in_cdb(0), b""), (out_cdb(REGISTER), basic_list(0, 0xABC))


class Passed(PassingManager):
    """Stands for the device."""

    kind = "sgio"

    def perform(self, fd: int, cdb: bytes, data_out: bytes) -> Result:
        """The device has it."""
        return PASSED


@attrs.define
class Host:
    """One host: its logical units, and the names of the disk whose descriptor is passed.

    Attributes:
        root: The root.
        units: The logical units of it.
        names: What sysfs would say of the disk.
    """

    root: str
    units: Units
    names: tuple[str, ...] = (WWID,)

    def identify(self, descriptor: int) -> Identified:
        """The disk."""
        return Identified("block", self.names)

    def auto(self, chosen: Mapping[str, str] | None = None) -> AutoManager:
        """A manager that chooses."""
        return AutoManager(
            "auto",
            units=self.units,
            passing={"sgio": Passed("device")},
            chosen=chosen,
            initiator=PORT,
            identify=self.identify,
            timeout=DEADLINE,
        )

    def check(self, *, named: bool = True) -> None:
        """What a manager that only passes on asks."""
        with open("/dev/null", "rb") as device:
            Claims(self.units, named=named, identify=self.identify).check(device.fileno())


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Iterator[Host]:
    """A host with a root in which another disk is emulated."""
    root = str(tmp_path / "root")
    create_lun(root, "other", wwids=[OTHER])
    units = Units(root, timeout=DEADLINE)
    yield Host(root, units)
    units.close()


def run(manager: PRManager, command: tuple[bytes, bytes] = WRITE) -> Result:
    """Send a command for a character device that is none of SCSI, but `chosen`."""
    descriptor = os.open("/dev/null", os.O_RDWR)
    try:
        return manager.execute(descriptor, *command).result(DEADLINE)
    finally:
        os.close(descriptor)


def fresh(host: Host) -> Host:
    """The same root as another host sees it, that has nothing of it in memory."""
    return attrs.evolve(host, units=Units(host.root, timeout=DEADLINE))


@contextlib.contextmanager
def seat(manager: AutoManager) -> Iterator[PRManager]:
    """A connection's place."""
    with manager.acting_for(PORT) as acting:
        yield acting
    manager.close()


def test_disk_of_a_logical_unit_is_emulated_and_another_one_is_passed_on(host: Host) -> None:
    """By the connection of one guest, which has both."""
    create_lun(host.root, "disk", wwids=[WWID])
    with seat(host.auto({"naa.6cc": "sgio"})) as guest:
        assert run(guest) == Result(Status.GOOD)
        assert guest.where == "disk"
        assert run(guest, READ).data_in.endswith((0xABC).to_bytes(8))
        host.names = ("naa.6cc",)
        assert run(guest) == PASSED
        assert guest.where == "null"
        host.names = (WWID.upper(),)
        assert run(guest, READ).data_in.endswith((0xABC).to_bytes(8))


def test_disk_that_is_marked_is_passed_on_by_every_host(host: Host) -> None:
    """And emulated by none, whatever its configuration says."""
    create_lun(host.root, "disk", wwids=[WWID], passed=True)
    host.check()
    with seat(host.auto({WWID: "sgio"})) as guest:
        assert run(guest) == PASSED
    manager = host.auto()  # nothing passes on to a device like this one
    with seat(manager) as guest:
        result = run(guest)
    assert (result.status, sense_code(result.sense)) == (2, NOT_SUPPORTED)


def test_disk_that_is_emulated_is_not_passed_on_to(host: Host) -> None:
    """By a manager that does nothing else, neither."""
    create_lun(host.root, "disk", wwids=[WWID])
    with pytest.raises(Emulated, match="is the logical unit disk"):
        host.check()
    host.names = ("naa.6cc",)
    host.check()
    host.names = (host.names[0], OTHER)
    with pytest.raises(Emulated):
        host.check()


def test_map_over_an_emulated_disk_is_not_passed_on_to(host: Host) -> None:
    """A volume has a name of its own, and its commands would reach the disk below."""
    create_lun(host.root, "disk", wwids=[WWID])
    create_lun(host.root, "real", wwids=["naa.6dd"], passed=True)
    host.names = ("LVM-volume",)
    for below, free in (
        ((WWID,), False),
        (("naa.6cc", "naa.6dd"), True),
        (("naa.6cc", OTHER), False),
    ):
        claims = Claims(host.units, identify=host.identify, below=lambda _, names=below: names)  # type: ignore[misc]
        manager = host.auto({"LVM-volume": "sgio"})
        manager.claims = claims
        with seat(manager) as guest, open("/dev/null", "rb") as device:
            if free:
                claims.check(device.fileno())
                assert run(guest) == PASSED
            else:
                with pytest.raises(Emulated):
                    claims.check(device.fileno())
                assert sense_code(run(guest).sense) == NOT_SUPPORTED
    named = Claims(
        host.units, {"other": ["naa.6EE"]}, identify=host.identify, below=lambda _: ("naa.6ee",)
    )
    with open("/dev/null", "rb") as device, pytest.raises(Emulated):
        named.check(device.fileno())


def test_refusal_of_a_manager_that_passes_on_is_an_answer(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """05/25/00, with the reason in the log."""
    manager = Passed("device", check=Claims(host.units, identify=host.identify).check)
    assert run(manager) == PASSED
    host.names = (OTHER,)
    result = run(manager)
    assert (result.status, sense_code(result.sense)) == (2, NOT_SUPPORTED)
    assert f"null: not passed on: {OTHER} is the logical unit other" in caplog.text


def test_disk_that_two_units_claim_is_neither_emulated_nor_passed_on(host: Host) -> None:
    """Where one of them was restored from a backup, say."""
    create_lun(host.root, "disk", wwids=[WWID])
    text = pathlib.Path(host.root, "other", "lun.json").read_text()
    pathlib.Path(host.root, "other", "lun.json").write_text(text.replace(OTHER, WWID))
    again = fresh(host)
    with pytest.raises(Emulated, match="claimed by two"):
        again.check()
    with seat(again.auto({WWID: "sgio"})) as guest:
        assert sense_code(run(guest).sense) == NOT_SUPPORTED
    again.units.close()


@pytest.mark.parametrize("text", ["{", '{"format": 3}'])
def test_unit_that_cannot_be_read_may_be_any_disk(host: Host, text: str) -> None:
    """Damaged, or newer than this version: nothing is passed on meanwhile."""
    pathlib.Path(host.root, "other", "lun.json").write_text(text)
    again = fresh(host)
    with pytest.raises(StateUnreadable):
        again.check()
    with seat(again.auto({WWID: "sgio"})) as guest:
        result = run(guest)
    assert (result.status, sense_code(result.sense)) == (2, (7, 0x44, 1))
    again.units.close()


def test_root_without_its_share_passes_nothing_on(tmp_path: pathlib.Path) -> None:
    """Under the bare mount point no disk seems to be emulated."""
    (tmp_path / "root").mkdir()
    bare = Host(str(tmp_path / "root"), Units(str(tmp_path / "root"), timeout=DEADLINE))
    with pytest.raises(StoreUnavailable, match="may not be mounted"):
        bare.check()
    with seat(bare.auto({WWID: "sgio"})) as guest:
        assert sense_code(run(guest).sense)[0] == 2  # NOT READY
    bare.check(named=False)  # a root that nobody named has no share
    create_lun(bare.root, "disk", wwids=[OTHER])
    again = fresh(bare)
    again.check()
    for units in (bare.units, again.units):
        units.close()


def test_missing_root_passes_nothing_on(tmp_path: pathlib.Path) -> None:
    """Its mount point is gone as well."""
    lost = Host(str(tmp_path / "root"), Units(str(tmp_path / "root"), timeout=DEADLINE))
    with pytest.raises(StoreUnavailable):
        lost.check()
    with seat(lost.auto({WWID: "sgio"})) as guest:
        assert sense_code(run(guest).sense)[0] == 2
    lost.units.close()


def test_disk_without_an_identity_is_not_passed_on(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """With `lun` on another host it may be any logical unit."""
    host.names = ()
    with seat(host.auto()) as guest:
        assert sense_code(run(guest).sense) == NOT_SUPPORTED
    assert "it may be any LUN" in caplog.text
    host.check()  # who says that a socket passes on has said it of this disk, too


def test_what_is_no_disk_is_refused_with_the_reason(
    host: Host, caplog: pytest.LogCaptureFixture, tmp_path: pathlib.Path
) -> None:
    """In the log, once; the guest gets 05/25/00."""
    with seat(host.auto()) as guest:
        for _ in range(2):
            assert sense_code(run(guest).sense) == NOT_SUPPORTED
    assert caplog.text.count("null: no logical unit, and no SCSI device: refused") == 1
    assert kind_of(os.stat(tmp_path)) == "no device"


def test_command_that_was_given_up_is_not_passed_on(host: Host) -> None:
    """Whoever gave it up was told that nothing is done: BUSY."""
    looked_at, go_on = threading.Event(), threading.Event()
    asked: list[bytes] = []

    class Device(Passed):
        """Remembers what it is asked."""

        def perform(self, fd: int, cdb: bytes, data_out: bytes) -> Result:
            """The device has it."""
            asked.append(cdb)
            return PASSED

    device = Device("device")
    manager = host.auto({WWID: "sgio"})
    identify = manager.identify

    def slow(descriptor: int) -> Identified:
        looked_at.set()
        assert go_on.wait(DEADLINE)
        return identify(descriptor)

    manager.identify, manager.passing = slow, {"sgio": device}
    with seat(manager) as guest, open("/dev/null", "r+b", buffering=0) as file:
        given_up = guest.execute(file.fileno(), *WRITE)
        assert looked_at.wait(DEADLINE)
        assert given_up.cancel()
        go_on.set()
        eventually(lambda: manager.lookups.begin({"all": 1}), "the end of the look-up")
        manager.lookups.end({"all": 1})
        assert run(guest) == PASSED
    assert asked == [WRITE[0]]


def test_look_up_has_ended_before_the_answer(host: Host) -> None:
    """The next command may come at once, and a connection has one look-up."""

    class AtOnce(Passed):
        """Has the answer before it is asked for."""

        def execute(self, fd: int, cdb: bytes, data_out: bytes = b"") -> Future[Result]:
            """It is there."""
            answered: Future[Result] = Future()
            answered.set_result(PASSED)
            return answered

    free: list[bool] = []
    asked = threading.Event()
    manager = host.auto({WWID: "sgio"})
    manager.passing = {"sgio": AtOnce("device")}
    identify = manager.identify
    manager.identify = lambda descriptor: identify(descriptor if asked.wait(DEADLINE) else -1)
    with open("/dev/null", "r+b", buffering=0) as file:
        future = manager.execute(file.fileno(), *WRITE)
        future.add_done_callback(lambda _: free.append(manager.lookups.begin({"all": 1})))
        asked.set()
        assert future.result(DEADLINE) == PASSED
        eventually(lambda: bool(free), "the callback")
    assert free == [True]


def test_read_only_descriptor_is_refused_before_anything_is_looked_at(host: Host) -> None:
    """05/20/00, whoever would have it."""
    with seat(host.auto({WWID: "sgio"})) as guest, open("/dev/null", "rb") as device:
        result = guest.execute(device.fileno(), *WRITE).result(DEADLINE)
    assert sense_code(result.sense) == (5, 0x20, 0)


def test_deleted_mark_is_forgotten(host: Host) -> None:
    """The disk can be marked, and the mark taken away."""
    from flockpr import delete_lun

    create_lun(host.root, "disk", wwids=[WWID], passed=True)
    assert read_identity(host.root, "disk").passed
    delete_lun(host.root, "disk")
    create_lun(host.root, "disk", wwids=[WWID])
    again = fresh(host)
    with pytest.raises(Emulated):
        again.check()
    again.units.close()


@pytest.mark.parametrize(
    ("there", "kind"),
    [
        ("block/8:0/device/scsi_level", "sgio"),
        ("block/7:0/loop/backing_file", "a device that commands cannot be passed on to"),
    ],
)
def test_kind_is_told_by_sysfs(tmp_path: pathlib.Path, there: str, kind: str) -> None:
    """A SCSI disk by what only SCSI devices have."""
    file = tmp_path / "dev" / there
    file.parent.mkdir(parents=True)
    file.touch()
    major, minor = map(int, there.split("/")[1].split(":"))
    number = {"st_rdev": os.makedev(major, minor)}
    found = os.stat_result((0o060600, 0, 0, 1, 0, 0, 0, 0, 0, 0), number)
    assert kind_of(found, str(tmp_path)) == kind
