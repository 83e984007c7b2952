"""Colours, for terminals only."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final, NamedTuple, TextIO


class Style(NamedTuple):  # no attrs here: the command line starts without it
    """Marks text by what it means. `PLAIN` marks nothing.

    Attributes:
        colours: Whether there are any.
    """

    colours: bool = True

    def _mark(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colours and text else text

    def strong(self, text: str) -> str:
        """What matters most."""
        return self._mark("1", text)

    def good(self, text: str) -> str:
        """As it should be."""
        return self._mark("32", text)

    def bad(self, text: str) -> str:
        """Gone, or lost."""
        return self._mark("31", text)

    def warning(self, text: str) -> str:
        """Worth a look."""
        return self._mark("33", text)


PLAIN: Final = Style(colours=False)


def style_for(stream: TextIO | None = None, environ: Mapping[str, str] | None = None) -> Style:
    """Colours if the stream is a terminal that can show them and nobody asked for none.

    Args:
        stream: Where the text goes; standard output by default.
        environ: The environment: NO_COLOR set to anything, or TERM=dumb, mean none.
    """
    stream = sys.stdout if stream is None else stream
    environ = os.environ if environ is None else environ
    if environ.get("NO_COLOR") or environ.get("TERM") == "dumb" or not stream.isatty():
        return PLAIN
    return Style()
