"""The right to commit next: who asks for it, and who need not.

Without it two daemons would commit at once, and one of them decide again: it is a courtesy, and
the compare-and-swap is the law. On a share it costs two calls to the server, so who has committed
alone for a while asks only now and then, and commits in between without it. That byte is free
then, and who needs it for longer, because it looks first or is further away, has it at the first
try. The next time that is asked for it, the one in a hurry finds it taken, and from then on asks
each time, for as long as anybody else commits.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from flockpr import timings
from flockpr.errors import StoreError
from flockpr.store.presence import Presence

log = logging.getLogger(__name__)

ORDER_PATIENCE: Final = 1.0
"""Seconds to wait for the right; then commit without it: the link decides anyway."""
SPARED: Final = 4
"""How many commits in a row who is alone makes without it."""
SPARED_SECONDS: Final = 0.1
"""For so long it may be more of them: where commits take little it is seldom enough."""
SPARED_AT_MOST: Final = 0.5
"""For no longer than so many seconds: somebody who needs the right, and loses to who does not ask
for it, is not to wait longer than that. Less than `ORDER_PATIENCE`."""
COMPANY: Final = 5.0
"""Seconds for which somebody is not alone after another one has been noticed."""


class Courtesy:
    """The right to commit next on one logical unit, as one daemon asks for it. Not thread-safe.

    Args:
        presence: Has the byte.
        path: ROOT/<lun>, for the record.
        sparing: To ask for it costs round trips.
    """

    def __init__(self, presence: Presence, path: str, *, sparing: bool) -> None:
        self._presence = presence
        self._path = path
        self._sparing = sparing
        self._held = False
        self._asked: float | None = None
        self._spared = 0
        self._met: float | None = None

    def order(self) -> bool:
        """See `Store.order`."""
        if self._held:
            return False
        try:
            if self._take(0):
                return False
            begun = time.monotonic()
            self._take(ORDER_PATIENCE)
            timings.observe(timings.Kind.LOCK_WAIT, self._path, time.monotonic() - begun)
        except StoreError as error:
            log.warning("%s", error)
            return False
        return True

    def order_at_once(self) -> bool:
        """See `Store.order_at_once`."""
        if self._may_do_without():
            self._spared += 1
            return True
        try:
            self._take(0)
        except StoreError as error:
            log.warning("%s", error)
        return self._held

    def disorder(self) -> None:
        """See `Store.disorder`."""
        if self._held:
            self._held = False
            self._presence.leave_order()

    def meet(self) -> None:
        """Somebody else commits to this logical unit."""
        self._met = time.monotonic()

    @property
    def alone(self) -> bool:
        """Whether nobody else was noticed lately."""
        return self._met is None or time.monotonic() - self._met >= COMPANY

    def _take(self, patience: float) -> bool:
        now = time.monotonic()
        self._held = self._presence.take_order(patience)
        if self._held:
            self._asked, self._spared = now, 0
        else:
            self._met = now
        return self._held

    def _may_do_without(self) -> bool:
        if not self._sparing or self._asked is None or not self.alone:
            return False
        since = time.monotonic() - self._asked
        return since < (SPARED_AT_MOST if self._spared < SPARED else SPARED_SECONDS)
