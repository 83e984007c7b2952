"""The experiments of a probe: an honest file system passes, each lie is caught."""

from __future__ import annotations

import errno
import math
import pathlib

import attrs
import pytest

from flockpr.probe import steps
from flockpr.probe.helpers import ask
from flockpr.probe.operations import edition, edition_number
from flockpr.probe.place import myself, new_name
from flockpr.probe.steps import Scene, Step
from flockpr.store.syscalls import Syscalls
from tests.support import liars
from tests.support.liars import Inside

EVERY = [*steps.LOCAL, *steps.NOTED]


def scene(path: pathlib.Path, one: Syscalls, other: Syscalls, limit: float = 100.0) -> Scene:
    """Two actors in the directory of a probe."""
    first, second = Inside(str(path), one), Inside(str(path), other)
    name = new_name()
    ask(first, "make", name=name, owner=attrs.asdict(myself()))
    ask(second, "enter", name=name)
    return Scene(first, second, "t", limit)


@pytest.mark.parametrize(("name", "step"), EVERY, ids=[name for name, _ in EVERY])
def test_step_honest_file_system_has_no_complaint(
    name: str, step: Step, tmp_path: pathlib.Path
) -> None:
    """What CI runs on passes every step."""
    assert step(scene(tmp_path, Syscalls(), Syscalls())) == ""


@pytest.mark.parametrize(
    ("liar", "step", "complaint"),
    [
        (liars.NeverConflicts, steps.exclusion, "both have the same byte exclusively"),
        (liars.NeverConflicts, steps.kept_at_close, "a lock is lost"),
        (liars.WholeFileLocks, steps.ranges, "locks of different bytes conflict"),
        (liars.FlockOfBytes, steps.beside_flock, "flock and locks of bytes conflict"),
        (liars.DropsAtClose, steps.kept_at_close, "a lock is lost"),
        (liars.LinkOverwrites, steps.link_once, "does not fail with EEXIST"),
        (liars.LinkForgets, steps.link_once, "both succeeded"),
        (liars.RememberedAbsence, steps.seen_when_made, "a new name is not found"),
        (liars.RememberedListing, steps.seen_when_made, "a new name is not listed"),
        (liars.CopiesForRename, steps.replaced_whole, "in pieces"),
        (liars.NoDirect, steps.direct, "there is no O_DIRECT"),
        (liars.NoHoles, steps.hole, "no holes can be made"),
    ],
)
def test_step_lying_file_system_is_caught(
    liar: type[Syscalls], step: Step, complaint: str, tmp_path: pathlib.Path
) -> None:
    """Whoever trusted such a directory would lose data or be told lies."""
    assert complaint in step(scene(tmp_path, liar(), liar()))


def test_step_descriptions_of_one_process_that_do_not_conflict_are_caught(
    tmp_path: pathlib.Path,
) -> None:
    """Locks of the process instead of the description: daemons serve many in one process."""
    two = scene(tmp_path, liars.NeverConflicts(), Syscalls())

    assert steps.exclusion(attrs.evolve(two, other=two.one)) != ""


def test_step_file_that_stays_old_is_caught(tmp_path: pathlib.Path) -> None:
    """A reader that never sees the replaced file gives up and says which it saw."""
    complaint = steps.replaced_whole(scene(tmp_path, Syscalls(), liars.RememberedFile(), limit=1.0))

    assert complaint.endswith(f"of {steps.EDITIONS} is read")


def test_step_file_that_is_replaced_before_it_is_read_is_asked_for_again(
    tmp_path: pathlib.Path,
) -> None:
    """As on NFS between two hosts, and not for ever."""
    often = liars.StaleWhileReplaced(100)

    assert steps.replaced_whole(scene(tmp_path, Syscalls(), often)) == ""
    assert often.left == 0

    always = scene(tmp_path, Syscalls(), liars.StaleWhileReplaced(math.inf), limit=1.0)
    assert steps.replaced_whole(always).endswith(f"edition 0 of {steps.EDITIONS} is read")


@pytest.mark.parametrize(
    ("liar", "step", "number"),
    [
        (liars.NoLocks, steps.exclusion, errno.ENOLCK),
        (liars.NoDirectorySync, steps.synced, errno.EINVAL),
    ],
)
def test_step_call_that_fails_raises_its_error(
    liar: type[Syscalls], step: Step, number: int, tmp_path: pathlib.Path
) -> None:
    """The number of the error reaches the report."""
    with pytest.raises(OSError, match=r".") as caught:
        step(scene(tmp_path, liar(), liar()))

    assert caught.value.errno == number


@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        ("nothing", {}),
        ("read", {"name": "../secret"}),
        ("read", {"name": "a/b"}),
        ("names", {"room": "../.."}),
        ("remove", {"name": "disk"}),
        ("remove", {"name": ".flockpr-probe-0/.."}),
        ("read", {"nothing": 1}),
        ("close", {"handle": 99}),
    ],
)
def test_operation_outside_of_the_place_is_refused(
    what: str, arguments: dict[str, object], tmp_path: pathlib.Path
) -> None:
    """A letter in a shared directory makes nobody touch a logical unit."""
    (tmp_path / "disk").mkdir()

    with pytest.raises(OSError, match=r"."):
        ask(scene(tmp_path, Syscalls(), Syscalls()).one, what, **arguments)
    assert (tmp_path / "disk").is_dir()


@pytest.mark.parametrize("text", ["", "7", "7 end 7", edition(7)[:-1], "x " + edition(7)])
def test_edition_in_pieces_has_no_number(text: str) -> None:
    """A file that is cut anywhere is not taken for a whole one."""
    assert edition_number(text) is None
    assert edition_number(edition(7)) == 7
