"""A command of a connection that has no thread, while it is carried out."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

import attrs

from flockpr.logical_unit import Result
from flockpr.prhelper.protocol import Request
from flockpr.units import Hush


class Owner(Protocol):
    """Whose command it is. None of the calls waits, or raises."""

    def begins(self, pending: Pending) -> None:
        """It is about to be handed over."""

    def conclude(self, pending: Pending, result: Result | None = None) -> None:
        """It has ended, with this result or that of its future."""


@attrs.define(eq=False)
class Pending:
    """A command that the units carry out. Where they call, there is no future.

    Attributes:
        owner: The connection.
        request: The command.
        started: When it was handed over, by `time.monotonic`.
        hush: See `Asker`.
        future: What comes of it.
    """

    owner: Owner
    request: Request
    started: float
    hush: Hush
    future: Future[Result] | None = None

    def begins(self) -> None:
        """See `Asker.begins`."""
        self.owner.begins(self)

    def answered(self, result: Result) -> None:
        """See `Asker.answered`."""
        self.owner.conclude(self, result)

    def ended(self, future: Future[Result]) -> None:
        """The future is done."""
        del future
        self.owner.conclude(self)
