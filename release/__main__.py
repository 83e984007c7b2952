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
    pages = things.add_parser("man", help="man pages of all verbs and programs")
    pages.add_argument("directory", metavar="DIR", type=pathlib.Path)
    onefile = things.add_parser("zipapp", help="the program as one file, for this Python")
    onefile.add_argument("file", metavar="FILE", type=pathlib.Path)
    package = things.add_parser("deb", help="a Debian package, for this Python")
    package.add_argument("directory", metavar="DIR", type=pathlib.Path)
    site = things.add_parser("docs", help="the site; needs `pip install -e '.[docs]'`")
    site.add_argument("directory", metavar="DIR", type=pathlib.Path)
    chosen = parser.parse_args(arguments)
    # Each imports what it works with: only one of them needs dpkg, and so on.
    if chosen.thing == "man":
        from release import man

        print(f"{len(man.write(chosen.directory))} pages in {chosen.directory}")
    elif chosen.thing == "zipapp":
        from release import onefile as one

        one.write(chosen.file)
        print(chosen.file)
    elif chosen.thing == "docs":
        from release import site as pages_

        pages_.write(chosen.directory)
        print(chosen.directory / "index.html")
    else:
        from release import debian

        print(debian.write(chosen.directory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
