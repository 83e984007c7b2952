"""Commands that are passed on to devices, beside the real helper, over the kernel's own target.

By hand, some minutes::

    pytest -m sweep tests/vm/test_passing.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.differential import Recorded, differences
from tests.support.peers import require
from tests.support.pr_sequences import random_walk, scripted
from tests.vm.lio import machine, python

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(3600)]

SEED, COUNT = 7, 400


def test_helpers_answer_alike_over_the_same_device(short_path: Path) -> None:
    """Byte for byte: scripted and random sequences on two paths; the same capabilities."""
    require("qemu-system-x86_64", "qemu-pr-helper")
    with machine(short_path) as host:
        found = python(host, "passing.py", SEED, COUNT)
    sent = [*scripted(), *random_walk(SEED, COUNT)]
    real, ours = found["real"], found["ours"]
    answers = [(status, *map(bytes.fromhex, more)) for status, *more in real["answers"]]
    pairs = zip(sent, answers, strict=True)
    told, counts = differences([Recorded.of(command, *answer) for command, answer in pairs])
    assert not [one for one in told if not one.row]
    assert counts["compared"] > counts["skipped"]
    assert len(real["answers"]) == len(ours["answers"]) == len(sent)
    for command, one, other in zip(sent, real["answers"], ours["answers"], strict=True):
        assert one == other, command
    assert real["gone"] == ours["gone"]
    statuses = {answer[0] for answer in real["answers"]}
    assert {0x00, 0x02, 0x18} <= statuses  # the sequences come to something
    for name, held in ours["held"].items():
        assert held & ~real["held"][name] == 0, name
    assert (real["code"], ours["code"]) == (0, 0)
