"""The contract of a store, and the values that cross it.

A store keeps the state of one logical unit as a sequence of numbered transactions. It
promises three things and nothing else:

1. `head` answers with the newest transaction: one that had no successor at some moment
   between the call and the return.
2. `commit` is a compare-and-swap: it appends exactly one successor to the snapshot that it
   is given, or nothing.
3. What `ensure_durable` or `commit` returned for survives kill -9 and power loss.

What it does not promise: that a lock is held, that a view is fresh, that anybody is alive.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from flockpr.core.model import LogicalUnitState, Nexus
from flockpr.errors import StoreError
from flockpr.store.identity import LunIdentity


@attrs.frozen
class Applied:
    """One command that a transaction applied; a line of the audit trail.

    Attributes:
        nexus: Initiator port as text, or "" for an administrative event.
        target_port: Relative target port identifier; 0 for an administrative event.
        action: Name of the service action or event, such as "REGISTER" or "POWER CYCLE".
        opcode: Operation code; None for an event.
        key: RESERVATION KEY of the command, None where there is none.
        service_action_key: SERVICE ACTION RESERVATION KEY, None where there is none.
        type: TYPE field of the command, None where it has none.
        status: SCSI status byte of the reply.
        generation_before: PRGENERATION before the command.
        generation_after: PRGENERATION after it.
        door: Which door it came through: "helper", "api", "cli", "target".
        time: When it was decided, UTC, ISO 8601.
        raised: Unit attentions that it raised, as "initiator@port 2a/05" texts.
    """

    nexus: str
    target_port: int
    action: str
    opcode: int | None
    key: int | None
    service_action_key: int | None
    type: int | None
    status: int
    generation_before: int
    generation_after: int
    door: str
    time: str
    raised: tuple[str, ...] = ()


@attrs.frozen
class AuditRecord:
    """An `Applied` with the transaction that carried it.

    Attributes:
        number: Transaction number.
        txid: Transaction id.
        host: Host name of the daemon that committed it.
        daemon: Id of that daemon.
        applied: The command.
    """

    number: int
    txid: str
    host: str
    daemon: str
    applied: Applied

    def to_json(self) -> dict[str, Any]:
        """One flat JSON object; keys are hexadecimal text, because 64 bits do not survive
        every JSON reader.
        """
        record = applied_to_json(self.applied)
        return {
            "number": self.number,
            "txid": self.txid,
            "host": self.host,
            "daemon": self.daemon,
            **record,
        }


def key_text(key: int | None) -> str | None:
    """A reservation key as text, "0x" and 16 digits."""
    return None if key is None else f"0x{key:016x}"


def applied_to_json(applied: Applied) -> dict[str, Any]:
    """`Applied` as a JSON object."""
    return {
        "time": applied.time,
        "initiator": applied.nexus,
        "target_port": applied.target_port,
        "action": applied.action,
        "opcode": applied.opcode,
        "key": key_text(applied.key),
        "service_action_key": key_text(applied.service_action_key),
        "type": applied.type,
        "status": applied.status,
        "generation_before": applied.generation_before,
        "generation_after": applied.generation_after,
        "door": applied.door,
        "raised": list(applied.raised),
    }


@attrs.frozen
class Served:
    """Who served a registrant last: for people, never for decisions."""

    host: str
    daemon: str
    door: str


@attrs.frozen
class Snapshot:
    """One transaction: its place in the chain and the state after it.

    Attributes:
        number: 1 for the creation of the logical unit, then one more each.
        txid: 128 random bits in hexadecimal; what makes two documents of one number differ.
        state: The state after the transaction.
        served: By slot number, who served that registrant last.
        time: When it was written, by the writer's clock, UTC, ISO 8601.
        host: Host name of the writer.
        daemon: Id of the writer.
        deleted: The logical unit was deleted by this transaction.
    """

    number: int
    txid: str
    state: LogicalUnitState
    served: Mapping[int, Served]
    time: str
    host: str
    daemon: str
    deleted: bool = False


class Store(abc.ABC):
    """See the module's docstring. Not thread-safe: its user serialises the calls.

    Attributes:
        path: ROOT/<lun>.
        host: Name of this host, for the record.
        daemon: Id of this opening: 32 hexadecimal digits.
        identity: What `lun.json` says.
    """

    path: str
    host: str
    daemon: str
    identity: LunIdentity

    @abc.abstractmethod
    def head(self) -> Snapshot:
        """The newest transaction, proven to be so.

        Raises:
            StateUnreadable: Something is there that cannot be read as ours.
            StateLost: The head is older than one seen before, or of another incarnation.
            StoreUnavailable: Input or output failed.
            Busy: It cannot be told for the moment: a commit of this store is still unsettled, or
                another process keeps what it is in locked.
        """

    def head_at_once(self, *, looks: bool = True) -> Snapshot | None:
        """The newest transaction, durable, if that can be told with a look; None says nothing.

        Never waits, not for a file server either, and raises nothing.

        Args:
            looks: Whether the file system may be asked at all. Without, it does not wait for a disk
                that dies either.
        """
        del looks
        return None

    @abc.abstractmethod
    def ensure_durable(self, snapshot: Snapshot) -> None:
        """Return once `snapshot` survives a power loss, whoever wrote it.

        Raises:
            StoreUnavailable: That could not be achieved.
        """

    @abc.abstractmethod
    def commit(
        self,
        base: Snapshot,
        state: LogicalUnitState,
        applied: Sequence[Applied],
        *,
        served: Mapping[int, Served],
        may_issue: Callable[[], bool] = lambda: True,
        deleted: bool = False,
    ) -> Snapshot | None:
        """Append one transaction to `base`, durably.

        Args:
            base: What the new state was decided from.
            state: The new state.
            applied: The commands that lead from the one to the other.
            served: Who served each registrant last, by slot.
            may_issue: Asked once, immediately before the commit becomes irrevocable; False
                withdraws it.
            deleted: Whether this transaction deletes the logical unit.

        Returns:
            The new head, or None when `base` has another successor and nothing was done.

        Raises:
            Busy: `may_issue` said no; nothing was done.
            StoreUnavailable: Input or output failed before the commit was issued; nothing
                was done.
            OutcomeUnknown: It was issued, and whether it took effect, durably, is not known.
        """

    @abc.abstractmethod
    def likely_head(self) -> Snapshot | None:
        """What may well be the newest transaction still, without a look; None where `head` costs
        little, or where it is not likely.

        To be committed to, and for nothing else: the compare-and-swap is the look then.
        """

    @abc.abstractmethod
    def order(self) -> bool:
        """Wait a moment for the right to commit next; never fails, because the right is a
        courtesy between daemons and the compare-and-swap is the law.

        Returns:
            Whether there was a wait, so that the head has probably moved.
        """

    @abc.abstractmethod
    def order_at_once(self) -> bool:
        """As `order`, without a wait: whether it was to be had."""

    @abc.abstractmethod
    def disorder(self) -> None:
        """Give the right to commit next away."""

    @abc.abstractmethod
    def tidy(self) -> None:
        """Publish, archive, prune: everything that may lag. Never raises."""

    @abc.abstractmethod
    def hold(self, slot: int) -> bool:
        """Hold the byte range of a registrant; False where another daemon has it."""

    @abc.abstractmethod
    def holds(self, slot: int) -> bool:
        """Whether `hold` has got that byte range."""

    @abc.abstractmethod
    def drop(self, slot: int) -> None:
        """Let go of a byte range taken by `hold`."""

    @abc.abstractmethod
    def alive(self, slot: int) -> bool | None:
        """Whether somebody holds the byte range; None where that cannot be told."""

    @abc.abstractmethod
    def lock_fault(self) -> StoreError | None:
        """Why nobody's liveness can be told, if the lock file cannot be opened."""

    @abc.abstractmethod
    def format(self) -> int:
        """The format that transactions are written in at present.

        Raises:
            StoreError: The state cannot be read.
        """

    @abc.abstractmethod
    def upgrade(self, applied: Applied) -> int:
        """Write the newest format from the next transaction on, which is this one.

        Args:
            applied: The line of the audit trail that says so.

        Returns:
            The format that is written now.

        Raises:
            Busy: A live daemon does not read the newest format yet; nothing was done.
            StoreError: See `commit`.
        """

    @abc.abstractmethod
    def retained(self) -> list[int]:
        """Numbers of the transactions whose whole state is still here, ascending.

        Raises:
            StoreError: They cannot be read.
        """

    @abc.abstractmethod
    def snapshot_at(self, number: int) -> Snapshot | None:
        """A transaction with its state, for people; None when it is not here any more.

        Raises:
            StateUnreadable: It cannot be read as ours.
            StoreUnavailable: Input or output failed.
        """

    @abc.abstractmethod
    def history(self, since: int = 1) -> Iterator[AuditRecord]:
        """The audit trail in order, from transaction `since` on or where history begins."""

    @abc.abstractmethod
    def history_begins(self) -> int:
        """Number of the oldest transaction that the audit trail still has."""

    @abc.abstractmethod
    def published(self) -> int | None:
        """Number of the transaction that `registry.json` shows; None if it is unreadable."""

    @abc.abstractmethod
    def refusals(self) -> Iterator[dict[str, Any]]:
        """The refused commands in all daemons' journals, as JSON objects."""

    @abc.abstractmethod
    def noted_events(self) -> Iterator[dict[str, Any]]:
        """The events in all processes' journals, as JSON objects."""

    @abc.abstractmethod
    def note_refusal(self, applied: Applied) -> None:
        """Write one refused command to this daemon's journal. Never raises."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of everything. State is not touched."""


def nexus_text(nexus: Nexus) -> str:
    """A nexus for people: "initiator@target port"."""
    return f"{nexus.initiator_port.text}@{nexus.target_port}"
