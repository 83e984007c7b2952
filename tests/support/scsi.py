"""Raw SCSI for tests: builders of CDBs and lists, and a unit that is driven with bytes.

The builders are the tests' own, so that a mistake in the package's encoders cannot cancel
out one in its parsers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flockpr.core.events import Event, occur
from flockpr.core.machine import step
from flockpr.core.model import LogicalUnitState, Nexus, UnitConfig
from flockpr.core.outcome import Outcome, Reply
from flockpr.spc.cdb import parse_command
from flockpr.spc.codes import Attention, Status
from flockpr.spc.transport_id import InitiatorPort

REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_ABORT, REGISTER_IGNORE, MOVE = range(8)
WE, EA, WERO, EARO, WEAR, EAAR = 1, 3, 5, 6, 7, 8
TYPES = (WE, EA, WERO, EARO, WEAR, EAAR)
REGISTRANTS_ONLY = (WERO, EARO)
ALL_REGISTRANTS = (WEAR, EAAR)
ONE_HOLDER = (WE, EA, WERO, EARO)
TEST_UNIT_READY = bytes(6)
REQUEST_SENSE = bytes((0x03, 0, 0, 0, 252, 0))
INQUIRY = bytes((0x12, 0, 0, 0, 96, 0))
REPORT_LUNS = bytes((0xA0, *bytes(8), 16, 0, 0))
READ_10 = bytes((0x28, *bytes(7), 1, 0))
WRITE_10 = bytes((0x2A, *bytes(7), 1, 0))
RESERVE_6, RELEASE_6 = bytes((0x16, *bytes(5))), bytes((0x17, *bytes(5)))
RESERVE_10, RELEASE_10 = bytes((0x56, *bytes(9))), bytes((0x57, *bytes(9)))


def nexus(name: str, port: int = 1, *, isid: int | None = None) -> Nexus:
    """An I_T nexus of the initiator with this (short) name."""
    return Nexus(InitiatorPort(f"iqn.2026-01.org.example:{name}", isid), port)


A, B, C, D = (nexus(name) for name in "abcd")
KEY_A, KEY_B, KEY_C, KEY_D = 0xA1, 0xB2, 0xC3, 0xD4


def in_cdb(action: int, length: int = 8192) -> bytes:
    """PERSISTENT RESERVE IN."""
    return bytes((0x5E, action, *bytes(5), *length.to_bytes(2, "big"), 0))


def out_cdb(action: int, length: int = 24, *, type_: int = 0, scope: int = 0) -> bytes:
    """PERSISTENT RESERVE OUT."""
    return bytes((0x5F, action, scope << 4 | type_, 0, 0, *length.to_bytes(4, "big"), 0))


def transport_id(of: Nexus) -> bytes:
    """The iSCSI TransportID of a nexus's initiator port."""
    port = of.initiator_port
    return iscsi_id(port.name if port.isid is None else f"{port.name},i,0x{port.isid:012x}")


def iscsi_id(text: str) -> bytes:
    """An iSCSI TransportID with this text, format 01b if it holds an ISID separator."""
    body = text.encode() + b"\0"
    body = body.ljust(max(20, -(-len(body) // 4) * 4), b"\0")
    first = 0x45 if ",i,0x" in text else 0x05
    return bytes((first, 0, *len(body).to_bytes(2, "big"))) + body


def basic_list(
    key: int = 0,
    sark: int = 0,
    *,
    aptpl: bool = False,
    all_ports: bool = False,
    ids: Sequence[bytes] | None = None,
    spec: bool = False,
) -> bytes:
    """The 24 bytes, and the TransportIDs if `ids` is given (SPEC_I_PT=1)."""
    flags = aptpl | all_ports << 2 | (spec or ids is not None) << 3
    head = key.to_bytes(8, "big") + sark.to_bytes(8, "big") + bytes((0, 0, 0, 0, flags, 0, 0, 0))
    if ids is None:
        return head
    body = b"".join(ids)
    return head + len(body).to_bytes(4, "big") + body


def move_list(
    key: int,
    sark: int,
    identifier: bytes,
    *,
    port: int = 1,
    unreg: bool = False,
    aptpl: bool = False,
    length: int | None = None,
) -> bytes:
    """The list of REGISTER AND MOVE; `length` is a TRANSPORTID LENGTH that lies."""
    length = len(identifier) if length is None else length
    return (
        key.to_bytes(8, "big")
        + sark.to_bytes(8, "big")
        + bytes((0, unreg << 1 | aptpl))
        + port.to_bytes(2, "big")
        + length.to_bytes(4, "big")
        + identifier
    )


class Unit:
    """One logical unit that keeps what `step` returns, and every nexus's attention epoch.

    Args:
        target_ports: Relative target ports that exist.
        limit: How many registrations there may be.
        pending: How many nexuses may have attentions pending.
        report: Whether the door reports unit attentions.
    """

    def __init__(
        self,
        *,
        target_ports: tuple[int, ...] = (1,),
        limit: int = 1024,
        pending: int = 1024,
        report: bool = False,
    ) -> None:
        self.config = UnitConfig(target_ports, limit, pending)
        self.report = report
        self.state = LogicalUnitState()
        self.before = self.state
        self.outcome = Outcome(self.state)
        self.epochs: dict[Nexus, int | None] = {}

    def send(
        self, of: Nexus, cdb: bytes, data: bytes = b"", *, report: bool | None = None
    ) -> Reply:
        """Run one command."""
        self.before = self.state
        self.outcome = step(
            self.state,
            of,
            parse_command(cdb, data),
            config=self.config,
            report_attentions=self.report if report is None else report,
            seen_epoch=self.epochs.get(of),
        )
        self.state = self.outcome.state
        self.epochs[of] = self.outcome.seen_epoch
        return self.outcome.reply

    def happen(self, event: Event) -> Outcome:
        """Let an event happen."""
        self.before = self.state
        self.outcome = occur(self.state, event, config=self.config)
        self.state = self.outcome.state
        return self.outcome

    def out(
        self,
        of: Nexus,
        action: int,
        key: int = 0,
        sark: int = 0,
        *,
        type_: int = 0,
        scope: int = 0,
        aptpl: bool = False,
        all_ports: bool = False,
        ids: Sequence[bytes] | None = None,
    ) -> Reply:
        """PERSISTENT RESERVE OUT with a basic list of the right length."""
        data = basic_list(key, sark, aptpl=aptpl, all_ports=all_ports, ids=ids)
        return self.send(of, out_cdb(action, len(data), type_=type_, scope=scope), data)

    def raw_out(
        self,
        of: Nexus,
        action: int,
        data: bytes,
        *,
        type_: int = 0,
        scope: int = 0,
        length: int | None = None,
    ) -> Reply:
        """PERSISTENT RESERVE OUT with any list, and any length in the CDB."""
        length = len(data) if length is None else length
        return self.send(of, out_cdb(action, length, type_=type_, scope=scope), data)

    def enter(self, **keys: int) -> Unit:
        """Register nexuses of these (short) names at port 1; each must succeed."""
        for name, key in keys.items():
            assert self.out(nexus(name), REGISTER, 0, key).status == Status.GOOD
        return self

    def hold(self, of: Nexus, type_: int) -> Unit:
        """Reserve; must succeed."""
        reply = self.out(of, RESERVE, self.key(of), type_=type_)
        assert reply.status == Status.GOOD
        return self

    def key(self, of: Nexus) -> int:
        """The key of a registered nexus."""
        return self.state.by_nexus[of].key

    @property
    def keys(self) -> dict[Nexus, int]:
        """All registrations."""
        return {entry.nexus: entry.key for entry in self.state.registrations}

    @property
    def reservation(self) -> tuple[int, Nexus | None] | None:
        """Type and holder, or None."""
        held = self.state.reservation
        return None if held is None else (int(held.type), held.holder)

    @property
    def raised(self) -> set[tuple[Nexus, Attention]]:
        """What the last command raised."""
        return set(self.outcome.raised)

    @property
    def unchanged(self) -> bool:
        """Whether the last command changed nothing at all."""
        return self.outcome.state is self.before

    @property
    def generation(self) -> int:
        """PRGENERATION."""
        return self.state.generation


def told(code: Attention, *nexuses: Nexus) -> set[tuple[Nexus, Attention]]:
    """The same attention for several nexuses, as `Unit.raised` has it."""
    return {(of, code) for of in nexuses}


Refusal = tuple[int, int, int]
INVALID_FIELD_IN_CDB: Refusal = (5, 0x24, 0)
INVALID_FIELD_IN_LIST: Refusal = (5, 0x26, 0)
LIST_LENGTH: Refusal = (5, 0x1A, 0)
INVALID_RELEASE: Refusal = (5, 0x26, 4)
NO_RESOURCES: Refusal = (5, 0x55, 4)


def assert_good(reply: Reply) -> None:
    """GOOD, without sense data."""
    assert (reply.status, reply.sense) == (Status.GOOD, None)


def assert_conflict(reply: Reply) -> None:
    """RESERVATION CONFLICT, which carries no sense data."""
    assert (reply.status, reply.sense, reply.data) == (Status.RESERVATION_CONFLICT, None, b"")


def assert_refused(
    reply: Reply,
    sense: Refusal,
    *,
    cdb: tuple[int, int | None] | None = None,
    field: tuple[int, int | None] | None = None,
) -> None:
    """CHECK CONDITION with this sense; `cdb` and `field` (of the list) are byte and bit."""
    assert reply.status == Status.CHECK_CONDITION
    assert reply.sense is not None
    assert (reply.sense.key, reply.sense.asc, reply.sense.ascq) == sense
    pointer = reply.sense.pointer
    for expected, in_cdb_ in ((cdb, True), (field, False)):
        if expected is not None:
            assert pointer is not None
            assert (pointer.in_cdb, pointer.byte, pointer.bit) == (in_cdb_, *expected)


def assert_attention(reply: Reply, code: Attention) -> None:
    """CHECK CONDITION with a unit attention."""
    assert_refused(reply, (6, code >> 8, code & 0xFF))


def keys_in(data: bytes) -> list[int]:
    """The keys of a READ KEYS payload."""
    return [int.from_bytes(data[at : at + 8], "big") for at in range(8, len(data), 8)]


def names(nexuses: Iterable[Nexus]) -> set[str]:
    """Short names, for messages."""
    return {of.initiator_port.name.rpartition(":")[2] for of in nexuses}
