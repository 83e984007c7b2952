"""When the interpreter looks for cycles in a program of this package.

It does so whenever some hundred more objects have been made than given up. While modules are
loaded nearly everything that is made stays, and at the end everything is given up by the process
itself: both times it looks in vain, which a verb's start and end pay for.
"""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()
_MANY = 100_000
"""More objects than loading all modules of a verb makes; those of a long run pass it, too."""


def put_off() -> None:
    """Look less often, from the start of a program on."""
    gc.set_threshold(_MANY, *_USUAL[1:])


def as_usual() -> None:
    """Look as often as the interpreter does by itself: for what runs for long."""
    gc.set_threshold(*_USUAL)


def leave_all() -> None:
    """Do not look once more at the very end, at all there is."""
    gc.freeze()
