"""What the directory of a logical unit needs of whatever keeps its transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from flockpr.core.model import LogicalUnitState
from flockpr.store.base import Applied, AuditRecord, Served
from flockpr.store.document import Document


class Transactions(Protocol):
    """The numbered transactions of one logical unit. Not thread-safe."""

    @property
    def coherent(self) -> bool:
        """Whether names and attributes are always current: a file system of one host."""

    @property
    def known(self) -> Document | None:
        """The newest one that this object has read or written, without looking."""

    def head(self) -> Document:
        """The newest one, proven to be so. See `Store.head`."""

    def head_at_once(self, *, looks: bool = True) -> Document | None:
        """See `Store.head_at_once`."""

    def ensure_durable(self, number: int) -> None:
        """See `Store.ensure_durable`."""

    def append(
        self,
        base: Document,
        state: LogicalUnitState,
        applied: Sequence[Applied],
        *,
        served: Mapping[int, Served],
        may_issue: Callable[[], bool],
        deleted: bool = False,
        format_number: int | None = None,
        settled: Callable[[], None] = lambda: None,
        alone: bool = False,
    ) -> Document | None:
        """Add a successor of `base`, durably. See `Store.commit`.

        `format_number` is the format to write from here on; the default keeps that of
        `base`, which every live daemon reads. `settled` is called as soon as it is certain
        that it is the successor, which others may build on while it is made durable.
        `alone`: nobody else is known to commit; else what is left to clear away is done before
        the return, and gives others the time to take their turn.
        """

    def numbers(self) -> list[int]:
        """Numbers of all that are kept whole, ascending.

        Raises:
            OSError: As the system call.
            StoreError: They cannot be read.
        """

    def read(self, number: int) -> Document | None:
        """One by its number, None where there is none (any more)."""

    def rest(self) -> None:
        """To be called now and then: what nobody asks for any more is let go of."""

    def close(self) -> None:
        """Let go of everything."""


class Trail(Protocol):
    """The audit trail of one logical unit."""

    def tidy(self, head: int, *, settled: int) -> None:
        """Archive and prune what is old enough.

        Args:
            head: Number of the newest transaction.
            settled: Only transactions up to this number are old enough to go.

        Raises:
            OSError: As the system call; to be tried again later.
            StoreError: The same, or a transaction in the way cannot be read.
        """

    def history(self, since: int) -> Iterator[AuditRecord]:
        """See `Store.history`."""

    def begins(self) -> int:
        """See `Store.history_begins`."""
