"""One logical unit: the store and the rules together, in the one order that is safe.

::

    base = store.head()                       # proven newest
    outcome = step(base.state, nexus, command)
    if outcome.state is not base.state:
        store.commit(base, outcome.state)     # compare-and-swap, durable; else decide again
    else:
        store.ensure_durable(base)            # a reply may not tell what a power cut undoes
    return outcome.reply

Where the logical unit has an image, and the command takes access away from somebody, all of
that happens under the exclusive permit of the image, which is proven before the reply leaves
(see `flockpr.gate`); it is waited for with nothing locked.

Every door, the command line and the library go through `LogicalUnit.execute`; nothing else
commits.
"""

from __future__ import annotations

from flockpr.logical_unit.administration import ServedState
from flockpr.logical_unit.orders import Order
from flockpr.logical_unit.results import Result, failure
from flockpr.logical_unit.unit import LogicalUnit, Narrowing

__all__ = ["LogicalUnit", "Narrowing", "Order", "Result", "ServedState", "failure"]
