"""What can be done with a permit at the moment.

::

    IDLE --enter--> TAKING --locked--> READING --state re-read--> OPEN <--> reads and writes
     ^                                    |                        |
     |                                    | somebody narrows       | somebody narrows, or lost
     +------------- RELEASING <-----------+------ all have left ---+-- DRAINING
"""

from __future__ import annotations

import enum


class Phase(enum.Enum):
    """Where a permit is; only its own lock changes it."""

    IDLE = "not held; whoever enters takes it"
    TAKING = "somebody is taking it"
    READING = "held, and the state is being read again"
    OPEN = "held, and whoever enters may"
    DRAINING = "held until all have left, and nobody enters"
    RELEASING = "being given back"
    CLOSED = "over"
