"""flockpr-sg-persist and flockpr-sg-turs say what the real tools say of a target, to the byte.

Two logical units go through the same commands: one is served by `flockpr target` and spoken to by
sg3_utils' own programs, the other is spoken to by flockpr's. Whatever differs is shown.
"""

from __future__ import annotations

import pathlib
import re
import shlex
from collections.abc import Iterator

import pytest

from tests.support.daemon_process import short_directory
from tests.support.sg_tools import Done, Real, compile_shim, ours
from tests.support.targets import FlockprTarget, create_lun

pytestmark = [
    pytest.mark.peer("sg_persist", "sg_turs", "cc", "iscsi-ls"),
    pytest.mark.timeout(900),
]

DEVICE = "disk"
"""What the disk is called in both worlds; of ours it is the logical unit's name."""

STORY = """
a sg_persist -k
a sg_persist
a sg_persist --in --read-full-status -v
a sg_persist --out --register --param-sark=a1
a sg_persist -n -o -R -K a1 -T 5
b sg_persist -n -o -R -K b1 -T 5
b sg_persist -n -o -R -K b1
b sg_persist -n -o -I -S 0xb2 -Z -Y
b sg_persist -n -i -s
b sg_persist -n -i -r
b sg_persist -n -i -c
b sg_persist -n -i -c -H
b sg_persist -n -i -k -H
b sg_persist -n -i -k -HH
b sg_persist -n -i -s -HHH
b sg_persist -n -i -s -H -l 20
b sg_persist -i -k -v
b sg_persist -i -k -vv
b sg_persist -n -o -P -K b2 -S a1 -T 5
a sg_turs
a sg_turs
a sg_turs -v
a sg_turs -n 3
a sg_persist -n -o -I -S a1
a sg_persist -n -o -A -K a1 -S b2 -T 5
b sg_persist -n -i -k -vv
b sg_persist -n -i -k
b sg_persist -n -o -R -T 9 -K 1
a sg_persist -n -o -R -T 9 -K a1 -v
a sg_persist -n -o -L -T 5 -K a1 -vv
a sg_persist -n -o -M -X iqn.2026-01.org.example:c -S c1 -K a1 -Q 2 -v
a sg_persist -n -o -G -X iqn.2026-01.org.example:d -S a2 -K a1 -vv
a sg_persist -n -o -G -X sas,5000c50005b32001 -S a2 -K a1 -v
a sg_persist -n -o -G -X fcp,0123456789abcdef -S a2 -K a1
a sg_persist -n -o -G -X spi,1,2 -S a2 -K a1
a sg_persist -n -o -G -X 5,0,0,14,69,71,6e,2e,32,30,0,0,0,0,0,0,0,0,0,0,0,0,0,0 -S a2 -K a1
a sg_persist -n -o -G -X file=ids -S a2 -K a1 -vv
a sg_persist -n -i -s
b sg_persist -n -i -k -l 4
b sg_persist -n -i -k -m 9
b sg_persist -n -i -k -l 0
b sg_persist -n -o -z -K 1
b sg_persist -n -o -C -K a1
a sg_persist -n -o -C -K a1
a sg_persist -n -o -C -K a1 -v
a sg_persist --alloc=8
a sg_persist -n -i -r
a sg_persist -n -i -s
"""
"""Every command that both must answer alike, in the order in which they build on each other."""

MISTAKES = """
sg_persist -n -o
sg_persist -n -o -G -R
sg_persist -n -R
sg_persist -K z
sg_persist -T x
sg_persist -m 9000
sg_persist -l 9000
sg_persist -Q 10000
sg_persist -X foo
sg_persist -X 5,0,0,zz
sg_persist -X 1,2,333
sg_persist -X sas,12
sg_persist -X spi,1
sg_persist -X file=nope
"""
"""What is refused before anything is sent."""

IDS = """# two of them
iqn.2026-01.org.example:e
  5,0,0,14,69,71,6e,2e,32,30,0,0,0,0,0,0,0,0,0,0,0,0,0,0 # and in hex
"""


@pytest.fixture(scope="module")
def worlds() -> Iterator[tuple[Real, pathlib.Path]]:
    """The real tools with a target's disk, and the root of flockpr's tools."""
    with short_directory() as folder:
        shim = compile_shim(folder)
        for side in ("real", "ours"):
            create_lun(folder / side, DEVICE, 1 << 20)
            (folder / side / "ids").write_text(IDS)
        with FlockprTarget(folder / "real", folder / "target") as target:
            yield Real(shim, target.url(), folder / "real", DEVICE), folder / "ours"


def _told(line: str, done: Done) -> str:
    return f"$ {line}\n{done.out}--\n{done.err}-> {done.code}"


def test_sg_tools_story_is_told_in_the_same_words(worlds: tuple[Real, pathlib.Path]) -> None:
    """Same standard output, same standard error, same exit code, command by command."""
    real, root = worlds
    theirs, own = [], []
    for line in STORY.strip().splitlines():
        who, tool, *words = shlex.split(line)
        theirs.append(_told(line, real.run(tool, who, *words, DEVICE)))
        own.append(_told(line, ours(tool, root, who, *words, DEVICE)))
    assert own == theirs


@pytest.mark.parametrize("line", MISTAKES.strip().splitlines())
def test_sg_tools_mistake_is_refused_in_the_same_words(
    line: str, worlds: tuple[Real, pathlib.Path]
) -> None:
    """Nothing is sent, and the exit code is the same."""
    real, root = worlds
    tool, *words = shlex.split(line)
    assert ours(tool, root, "a", *words, DEVICE) == real.run(tool, "a", *words, DEVICE)


@pytest.mark.parametrize(
    "line",
    [
        "sg_persist -i -o",
        "sg_persist -r -k",
        "sg_persist extra",
        "sg_persist -o -M",
        "sg_persist -n -U -k",
        "sg_persist --help",
        "sg_persist --foo",
        "sg_persist --re",
        "sg_persist --read-k=3",
        "sg_persist -T",
        "sg_persist -w",
        "sg_turs -n x",
        "sg_turs --help",
    ],
)
def test_sg_tools_with_usage_text_begin_alike(line: str, worlds: tuple[Real, pathlib.Path]) -> None:
    """What is wrong is said in the same words, before each tool's own usage text.

    Only the program's own name in front of it differs.
    """
    real, root = worlds
    tool, *words = shlex.split(line)
    last = [] if line.endswith("-T") else [DEVICE]
    theirs = real.run(tool, "a", *words, *last)
    own = ours(tool, root, "a", *words, *last)

    def before_usage(done: Done) -> str:
        return re.sub(r"^\S*sg[_-]persist: ", "", done.err.split("Usage:")[0])

    assert own.code == theirs.code
    assert before_usage(own) == before_usage(theirs)
    assert "Usage: " in own.out + own.err
