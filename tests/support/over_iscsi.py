"""A pytest plugin that runs the conformance tests through the target door.

``pytest -p tests.support.over_iscsi tests/conformance/test_preempt.py`` gives every test a
`WireUnit` for the `Unit` that it asks for: a new root, a target with a portal per target port,
and a session per nexus. What the tests look at beside the answers, the state, is read from the
lock directory. Tests of what no initiator can bring about (limits, ISIDs without a mode that
knows them, a state made up) are skipped and say so.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from flockpr import LogicalUnit, create_lun
from flockpr.core.events import Event, LogicalUnitReset, NexusLoss, PowerCycle
from flockpr.core.model import LogicalUnitState, Nexus
from flockpr.core.outcome import Outcome, Reply
from flockpr.iscsi.server import TargetServer
from flockpr.iscsi.settings import Portal
from flockpr.spc.codes import Status
from flockpr.spc.sense import parse_sense
from flockpr.units import Units
from tests.support import scsi
from tests.support.iscsi_client import LUN_RESET, Initiator

LUN = "disk"
_READS = {0x5E: 8192, 0x03: 252, 0x12: 255, 0xA0: 4096, 0x28: 512, 0x08: 512, 0x25: 8, 0x1A: 255}
_WRITES = {0x2A: bytes(512)}
_open: list[WireUnit] = []
NOT_OURS = frozenset(
    {
        # The target door reports unit attentions always.
        "test_attention_not_reported_is_neither_told_nor_cleared",
        "test_attention_different_codes_come_in_order",
        "test_conflict_of_another_type_before_other_attentions",
        "test_other_attention_before_faults",
        "test_other_attention_before_list_faults",
        # Of commands that the disk does not have; tests/target/test_access.py has the others.
        "test_spc2_held_others_are_stopped",
        "test_spc2_held_holder_may_do_all",
        # Nobody counts that far.
        "test_generation_wraps_to_zero",
        # CDBs travel in sixteen bytes at least.
        "test_cdb_short_refused",
        "test_cdb_empty_refused",
        # A thousand sessions take too long.
        "test_register_1024_nexuses_have_room",
        # Whose commands PREEMPT AND ABORT ends is seen by commands in flight, not here.
        "test_abort_every_nexus_with_the_key",
        "test_abort_other_key_leaves_holder_alone",
        "test_abort_own_key_includes_sender",
        "test_abort_zero_all_registrants_is_every_registrant",
        "test_abort_key_all_registrants_is_that_key",
    }
)
"""Tests of what a session at this door cannot show."""


class WireUnit(scsi.Unit):
    """A logical unit that is driven over iSCSI."""

    def __init__(
        self,
        *,
        target_ports: tuple[int, ...] = (1,),
        limit: int = 1024,
        pending: int = 1024,
        report: bool = False,
    ) -> None:
        if limit != 1024 or pending != 1024:
            pytest.skip("limits are not an initiator's to set")
        super().__init__(target_ports=target_ports, report=report)
        self._sessions: dict[Nexus, Initiator] = {}
        self._directory = tempfile.mkdtemp(prefix="fpr-")
        root = pathlib.Path(self._directory) / "root"
        create_lun(str(root), LUN, size=1 << 20, target_ports=target_ports)
        _only_ports(root / LUN / "lun.json", target_ports)
        self._path = str(root / LUN)
        self._units = Units(str(root))
        portals = [Portal(port=0, tag=tag) for tag in target_ports]
        self._server = TargetServer(str(root), portals=portals, luns=[LUN], units=self._units)
        self._addresses = {one.tag: (one.host, one.port) for one in self._server.start()}
        self._url = self._server.url(LUN)
        _open.append(self)
        self.state = self._read()

    def close(self) -> None:
        """End all."""
        for session in self._sessions.values():
            session.close()
        self._server.stop()
        self._units.close(10.0)
        # The process's watch of the root may write its record of this host meanwhile.
        shutil.rmtree(self._directory, ignore_errors=True)

    def _read(self) -> LogicalUnitState:
        return self._units.state(LUN).result(60.0).state

    def _session(self, of: Nexus) -> Initiator:
        if of.initiator_port.isid is not None:
            pytest.skip("nexuses with and without ISID do not mix behind one door")
        found = self._sessions.get(of)
        if found is None:
            _, _, host_port, target, _ = self._url.split("/")
            found = Initiator(
                self._addresses[of.target_port], target=target, name=of.initiator_port.name
            )
            assert host_port
            self._sessions[of] = found
        return found

    @property
    def _number(self) -> int:
        return int(self._url.rpartition("/")[2])

    def send(
        self, of: Nexus, cdb: bytes, data: bytes = b"", *, report: bool | None = None
    ) -> Reply:
        """Run one command through the nexus's session."""
        if cdb[:1] == b"\x4d":
            pytest.skip("the disk has no LOG SENSE")
        session = self._session(of)
        reports = self.report if report is None else report
        if not reports and of in self._read().pending:
            # The door reports always; these tests are not about that: take them beforehand.
            while of in self._read().pending:
                session.command(self._number, scsi.TEST_UNIT_READY)
        self.before = self._read()
        read = _READS.get(cdb[0], 0) if not data else 0
        answer = session.command(self._number, cdb, data or _WRITES.get(cdb[0], b""), read)
        sense = parse_sense(answer.sense) if answer.sense else None
        told = answer.data if cdb[0] in (0x5E, 0x03) else b""
        if cdb[0] == 0x03 and told[:3] == b"\x70\0\0":
            told = b""  # REQUEST SENSE that has nothing to tell
        self._took_place(Reply(Status(answer.status), sense, told))
        return self.outcome.reply

    def _took_place(self, reply: Reply) -> None:
        after = self._read()
        self.state = self.before if after == self.before else after
        raised = tuple(
            (of, code)
            for of, codes in after.pending.items()
            for code in codes
            if code not in self.before.pending.get(of, ())
        )
        self.outcome = Outcome(self.state, reply, raised)

    def _await_loss(self, of: Nexus) -> None:
        """What ends with a session ends soon after it, not before the answer to the logout."""
        deadline = time.monotonic() + 60.0
        while _holds(self._read(), of) and time.monotonic() < deadline:
            time.sleep(0.01)

    def happen(self, event: Event) -> Outcome:
        """Let an event happen to the real thing."""
        self.before = self._read()
        if isinstance(event, PowerCycle):
            with LogicalUnit.open(self._path) as unit:
                unit.power_cycle()
            time.sleep(1.1)  # the door's copy of the state may be a second old
        elif isinstance(event, LogicalUnitReset):
            session = self._session(scsi.nexus("reset"))
            assert session.task_management(LUN_RESET, lun=self._number) == 0
        elif isinstance(event, NexusLoss):
            session = self._session(event.nexus)
            session.logout()
            session.close()
            del self._sessions[event.nexus]
            self._await_loss(event.nexus)
        self._took_place(Reply())
        return self.outcome


def _holds(state: LogicalUnitState, of: Nexus) -> bool:
    return state.spc2 is not None and state.spc2.holder == of


def _only_ports(path: pathlib.Path, ports: tuple[int, ...]) -> None:
    """Let the LUN have exactly these target ports."""
    text = json.loads(path.read_text())
    text["target_ports"] = list(ports)
    path.write_text(json.dumps(text))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep every so manieth test, as FLOCKPR_TEST_EVERY says, and what the door can do."""
    every = int(os.environ.get("FLOCKPR_TEST_EVERY", "1"))
    possible = [item for item in items if item.name.partition("[")[0] not in NOT_OURS]
    items[:] = possible[::every]


@pytest.fixture(autouse=True)
def over_iscsi(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put `WireUnit` in the place of `Unit`."""
    module: Any = request.module
    if hasattr(module, "Unit"):
        monkeypatch.setattr(module, "Unit", WireUnit)
    yield
    while _open:
        _open.pop().close()
