"""Makes the document of a transaction, for whichever store commits it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import attrs

from flockpr.core.model import LogicalUnitState
from flockpr.store.base import Applied, Served, Snapshot
from flockpr.store.clock import utc_now
from flockpr.store.document import Document, remember


@attrs.frozen
class Author:
    """Who commits.

    Attributes:
        incarnation: Of the logical unit.
        daemon: Id of this daemon: 32 hexadecimal digits.
        host: Name of this host, for the record.
    """

    incarnation: str
    daemon: str
    host: str

    def successor(
        self,
        base: Document,
        state: LogicalUnitState,
        applied: Sequence[Applied],
        *,
        served: Mapping[int, Served],
        deleted: bool = False,
        format_number: int | None = None,
    ) -> Document:
        """The transaction after `base`, with an id of its own, in the format of `base` unless
        `format_number` says another.
        """
        txid = secrets.token_hex(16)
        number = base.number + 1
        daemons, forgotten = remember(base.daemons, base.forgotten, self.daemon, number, txid)
        snapshot = Snapshot(
            number=number,
            txid=txid,
            state=state,
            served=served,
            time=utc_now(),
            host=self.host,
            daemon=self.daemon,
            deleted=deleted,
        )
        return Document(
            self.incarnation,
            base.txid,
            snapshot,
            tuple(applied),
            daemons,
            forgotten,
            base.format if format_number is None else format_number,
        )
