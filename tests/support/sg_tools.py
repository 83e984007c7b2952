"""sg3_utils' real tools against a target, and flockpr's in their place, to compare the two."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import attrs

from tests.support.daemon_process import PATIENCE, environment
from tests.support.peers import require
from tests.support.targets import Url

_SOURCE = pathlib.Path(__file__).with_name("sg_over_iscsi.c")


def initiator(short: str) -> str:
    """The iSCSI name of the initiator with this short name."""
    return f"iqn.2026-01.org.example:{short}"


@attrs.frozen
class Done:
    """How a program ended."""

    code: int
    out: str
    err: str


def run(
    command: Sequence[str],
    cwd: pathlib.Path,
    *,
    stdin: str = "",
    seconds: float = PATIENCE,
    **variables: str,
) -> Done:
    """Run a program to its end, in our environment with these variables."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment(**variables),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def ours(
    tool: str, root: pathlib.Path, who: str, *words: str, stdin: str = "", **variables: str
) -> Done:
    """Run a tool of flockpr, as an initiator, in the root.

    Args:
        tool: Module in `flockpr.tools`.
        root: The root; also the working directory.
        who: Short name of the initiator.
        words: Its command line.
        stdin: What it reads.
        variables: More of the environment.
    """
    command = [sys.executable, "-m", f"flockpr.tools.{tool}", *words]
    settings = {"FLOCKPR_ROOT": str(root), "FLOCKPR_INITIATOR": initiator(who), **variables}
    return run(command, root, stdin=stdin, seconds=PATIENCE, **settings)


@attrs.frozen
class Real:
    """The real tools, with a logical unit of a target in place of a kernel's device.

    Attributes:
        library: The compiled ``sg_over_iscsi.c``.
        url: Of the logical unit.
        folder: Working directory, in which the device has its name.
        device: That name.
    """

    library: pathlib.Path
    url: Url
    folder: pathlib.Path
    device: str

    def run(self, tool: str, who: str, *words: str, stdin: str = "") -> Done:
        """Run a tool as an initiator."""
        return run(
            [require(tool)[tool], *words],
            self.folder,
            stdin=stdin,
            LD_PRELOAD=str(self.library),
            FLOCKPR_SG_DEVICE=self.device,
            FLOCKPR_SG_URL=str(self.url),
            FLOCKPR_SG_INITIATOR=initiator(who),
        )


def compile_shim(folder: pathlib.Path) -> pathlib.Path:
    """The library of ``sg_over_iscsi.c``, compiled into `folder`."""
    library = folder / "sg_over_iscsi.so"
    command = [require("cc")["cc"], "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(
        [*command, "-o", os.fspath(library), os.fspath(_SOURCE), "-liscsi"],
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    return library
