"""`python -m flockpr` is `flockpr`."""

from __future__ import annotations

import sys

from flockpr.cli import program

if __name__ == "__main__":
    sys.exit(program())
