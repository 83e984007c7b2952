"""Lines for the two outputs of a tool."""

from __future__ import annotations

import sys
from collections.abc import Iterable


def say(*lines: str) -> None:
    """Write lines to standard error."""
    sys.stderr.write("".join(f"{line}\n" for line in lines))


def tell(lines: Iterable[str]) -> None:
    """Write lines to standard output."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
