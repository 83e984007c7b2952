"""An initiator in a test: commands as methods, and answers that can be asserted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import attrs

from flockpr.core.model import Nexus as NexusId
from flockpr.logical_unit import Result
from flockpr.spc.cdb import encode_persistent_reserve_in, encode_persistent_reserve_out
from flockpr.spc.codes import Attention, InAction, OutAction, ReservationType, Status
from flockpr.spc.pr_in import (
    Capabilities,
    FullStatusReport,
    Keys,
    ReservationReport,
    parse_capabilities,
    parse_full_status,
    parse_keys,
    parse_reservation,
)
from flockpr.spc.prout_list import encode_basic_list, encode_move_list
from flockpr.spc.sense import Sense, parse_sense
from flockpr.spc.transport_id import InitiatorPort

Execute: TypeAlias = Callable[["Nexus", str, bytes, bytes], Result | None]
"""Sends a command: for whom, what the timeline calls it, CDB and parameter list."""

_READ_10, _WRITE_10 = 0x28, 0x2A
DEFAULT_TYPE = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY


@attrs.frozen
class Answer:
    """What came back; None as `status` when nothing did.

    Attributes:
        to: The command, and who sent it.
        status: SCSI status.
        sense: Sense data, with CHECK CONDITION.
        data: What was read.
    """

    to: str
    status: Status | None
    sense: Sense | None = None
    data: bytes = b""

    @classmethod
    def of(cls, to: str, result: Result | None) -> Answer:
        """Of a result; None: no answer came."""
        if result is None:
            return cls(to, None)
        sense = parse_sense(result.sense) if result.status == Status.CHECK_CONDITION else None
        return cls(to, result.status, sense, result.data_in)

    @property
    def good(self) -> bool:
        """Whether it was GOOD."""
        return self.status == Status.GOOD

    @property
    def conflict(self) -> bool:
        """Whether it was RESERVATION CONFLICT."""
        return self.status == Status.RESERVATION_CONFLICT

    @property
    def lost(self) -> bool:
        """Whether no answer came: the command may have taken effect."""
        return self.status is None

    @property
    def attention(self) -> Attention | None:
        """The unit attention that was reported instead, if one was."""
        if self.sense is None or self.sense.key != 0x06:
            return None
        return Attention(self.sense.asc << 8 | self.sense.ascq)

    def ok(self) -> Answer:
        """Assert that it was GOOD."""
        assert self.good, f"{self.to}: {self}, and not GOOD"
        return self

    def conflicts(self) -> Answer:
        """Assert that it was RESERVATION CONFLICT."""
        assert self.conflict, f"{self.to}: {self}, and not RESERVATION CONFLICT"
        return self

    def attends(self, attention: Attention | None = None) -> Answer:
        """Assert that it was a unit attention: this one, if one is named."""
        found = self.attention
        right = found is not None if attention is None else found == attention
        wanted = "a unit attention" if attention is None else attention.name
        assert right, f"{self.to}: {self}, and not {wanted}"
        return self

    def __str__(self) -> str:
        if self.status is None:
            return "no answer"
        text = self.status.name.replace("_", " ")
        return text if self.sense is None else f"{text} {self.sense}"


class Nexus:
    """An I_T nexus.

    Args:
        name: What it is called; without a dot, the end of an iSCSI name.
        execute: Sends its commands.
        target_port: Relative target port.
    """

    def __init__(self, name: str, execute: Execute, target_port: int = 1) -> None:
        self.name = name
        self.port = InitiatorPort(full_name(name))
        self.id = NexusId(self.port, target_port)
        self._execute = execute

    @property
    def initiator(self) -> str:
        """Its iSCSI name, for `FLOCKPR_INITIATOR` and initiators of the target."""
        return self.port.text

    def send(self, cdb: bytes, data_out: bytes = b"", *, what: str = "") -> Answer:
        """Any command.

        Args:
            cdb: The command descriptor block.
            data_out: Its parameter list.
            what: What to call it in the timeline.
        """
        what = what or f"CDB {cdb.hex()}"
        return Answer.of(f"{what} of {self.name}", self._execute(self, what, cdb, data_out))

    # PERSISTENT RESERVE OUT (SPC-4 6.16).

    def register(
        self, key: int, *, old: int = 0, aptpl: bool = False, all_tg_pt: bool = False
    ) -> Answer:
        """REGISTER: from key `old` to `key`; 0 unregisters."""
        return self._out(OutAction.REGISTER, old, key, aptpl=aptpl, all_tg_pt=all_tg_pt)

    def register_ignore(self, key: int, *, aptpl: bool = False, all_tg_pt: bool = False) -> Answer:
        """REGISTER AND IGNORE EXISTING KEY; 0 unregisters."""
        action = OutAction.REGISTER_AND_IGNORE_EXISTING_KEY
        return self._out(action, 0, key, aptpl=aptpl, all_tg_pt=all_tg_pt)

    def unregister(self, key: int) -> Answer:
        """REGISTER with a new key of 0."""
        return self.register(0, old=key)

    def reserve(self, key: int, type_: int = DEFAULT_TYPE) -> Answer:
        """RESERVE."""
        return self._out(OutAction.RESERVE, key, type_=type_)

    def release(self, key: int, type_: int = DEFAULT_TYPE) -> Answer:
        """RELEASE."""
        return self._out(OutAction.RELEASE, key, type_=type_)

    def clear(self, key: int) -> Answer:
        """CLEAR."""
        return self._out(OutAction.CLEAR, key)

    def preempt(
        self, key: int, victim: int, type_: int = DEFAULT_TYPE, *, abort: bool = False
    ) -> Answer:
        """PREEMPT, or PREEMPT AND ABORT, of everybody with the key `victim`."""
        action = OutAction.PREEMPT_AND_ABORT if abort else OutAction.PREEMPT
        return self._out(action, key, victim, type_=type_)

    def move(self, key: int, to: Nexus, new_key: int) -> Answer:
        """REGISTER AND MOVE to another nexus."""
        data = encode_move_list(key, new_key, to.port, relative_target_port=to.id.target_port)
        cdb = encode_persistent_reserve_out(OutAction.REGISTER_AND_MOVE, len(data))
        return self.send(cdb, data, what=f"REGISTER AND MOVE key={key:#x} to {to.name}")

    def _out(
        self,
        action: OutAction,
        key: int,
        sark: int = 0,
        *,
        type_: int = 0,
        aptpl: bool = False,
        all_tg_pt: bool = False,
    ) -> Answer:
        data = encode_basic_list(key, sark, aptpl=aptpl, all_tg_pt=all_tg_pt)
        cdb = encode_persistent_reserve_out(action, len(data), type_=type_)
        parts = [action.name.replace("_", " "), f"key={key:#x}"]
        parts += [f"sark={sark:#x}"] if sark else []
        parts += [f"type={int(type_)}"] if type_ else []
        parts += ["APTPL"] if aptpl else []
        parts += ["ALL_TG_PT"] if all_tg_pt else []
        return self.send(cdb, data, what=" ".join(parts))

    # PERSISTENT RESERVE IN (SPC-4 6.15).

    def read_keys(self) -> Keys:
        """READ KEYS; must be GOOD."""
        found = parse_keys(self._in(InAction.READ_KEYS))
        assert found is not None
        return found

    def read_reservation(self) -> ReservationReport:
        """READ RESERVATION; must be GOOD."""
        found = parse_reservation(self._in(InAction.READ_RESERVATION))
        assert found is not None
        return found

    def report_capabilities(self) -> Capabilities:
        """REPORT CAPABILITIES; must be GOOD."""
        found = parse_capabilities(self._in(InAction.REPORT_CAPABILITIES))
        assert found is not None
        return found

    def read_full_status(self) -> FullStatusReport:
        """READ FULL STATUS; must be GOOD."""
        found = parse_full_status(self._in(InAction.READ_FULL_STATUS))
        assert found is not None
        return found

    def _in(self, action: InAction) -> bytes:
        cdb = encode_persistent_reserve_in(action)
        return self.send(cdb, what=action.name.replace("_", " ")).ok().data

    # Other commands: whether they would be let through; nothing is read or written.

    def ready(self) -> Answer:
        """TEST UNIT READY."""
        return self.send(bytes(6), what="TEST UNIT READY")

    def write(self) -> Answer:
        """Ask whether a write would be let through now."""
        return self.send(bytes((_WRITE_10,)).ljust(10, b"\0"), what="WRITE")

    def read(self) -> Answer:
        """Ask whether a read would be let through now."""
        return self.send(bytes((_READ_10,)).ljust(10, b"\0"), what="READ")

    def attentions(self) -> list[Attention]:
        """Take the unit attentions that wait, by TEST UNIT READY."""
        found: list[Attention] = []
        while (attention := self.ready().attention) is not None:
            found.append(attention)
        return found

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def full_name(name: str) -> str:
    """An iSCSI name."""
    return name if "." in name else f"iqn.2026-01.org.example:{name}"
