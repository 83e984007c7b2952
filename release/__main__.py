"""`python -m release`: man pages, the one-file program, the Debian package, the site."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one thing and say where it is.

    Args:
        arguments: Without the program's name; those of the process when None.
    """
    parser = argparse.ArgumentParser(prog="python -m release", description=__doc__)
    things = parser.add_subparsers(dest="thing", metavar="THING", required=True)
    man = things.add_parser("man", help="man pages of all verbs and programs")
    man.add_argument("directory", metavar="DIR", type=pathlib.Path)
    chosen = parser.parse_args(arguments)
    if chosen.thing == "man":
        from release.man import write

        made = write(chosen.directory)
        print(f"{len(made)} pages in {chosen.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
