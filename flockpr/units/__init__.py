"""The logical units of one root, each with a thread of its own.

A file server that hangs blocks a system call for as long as it likes. So everything that
touches a lock directory happens on that LUN's own worker thread, and whoever waits for an
answer waits a bounded time: a command that has not begun to commit is then withdrawn and
answered BUSY; one that has cannot be withdrawn and is answered ABORTED COMMAND, outcome
unknown, and the commands behind it wait for that outcome.

A command that takes access away may have to wait for a target of another process, or of a
host that hangs. It does so on a second thread of the LUN, and the commands behind it go on.
"""

from __future__ import annotations

from flockpr.logical_unit import ServedState
from flockpr.units.hush import Hush
from flockpr.units.units import Units

__all__ = ["Hush", "ServedState", "Units"]
