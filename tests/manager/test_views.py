"""What procfs tells of open files: through what is kept open it is what it would tell anew."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flockpr.manager import views as module
from flockpr.manager.views import MAX_KEPT, Views, name_of, told_of
from tests.support.helper import DEADLINE
from tests.support.open_files import open_descriptors


@pytest.fixture
def views() -> Iterator[Views]:
    """Nothing is kept yet."""
    views = Views()
    yield views
    views.forget()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str], int]]:
    """Opens files of that name."""
    descriptors = []

    def open_one(name: str) -> int:
        descriptors.append(os.open(tmp_path / name, os.O_RDWR | os.O_CREAT, 0o600))
        return descriptors[-1]

    yield open_one
    for descriptor in descriptors:
        os.close(descriptor)


def count() -> int:
    """How many files of procfs are open."""
    return sum(1 for _, found in open_descriptors() if found.startswith("/proc/"))


def same(views: Views, descriptor: int) -> tuple[bytes, str]:
    """What is told, which is what would be told anew."""
    told = views.told_of(descriptor), views.name_of(descriptor)
    assert told == (told_of(descriptor), name_of(descriptor))
    return told


def test_file_that_gets_the_number_of_another_one_is_told(
    views: Views, opened: Callable[[str], int]
) -> None:
    """As it is with each command: the number is the same, the file is not."""
    first, second = opened("first"), opened("second")
    before = same(views, first)
    assert before[1].endswith("/first")
    kept = count()
    os.dup2(second, first)
    after = same(views, first)
    assert after[1].endswith("/second")
    assert before[0] != after[0]
    assert count() == kept  # nothing was opened anew


def test_renamed_file_has_another_name_at_once(
    views: Views, opened: Callable[[str], int], tmp_path: Path
) -> None:
    """Also where a directory above it was renamed, and where it was deleted."""
    (tmp_path / "folder").mkdir()
    descriptor = opened("folder/disk")
    assert same(views, descriptor)[1] == str(tmp_path / "folder" / "disk")
    os.rename(tmp_path / "folder" / "disk", tmp_path / "folder" / "other")
    assert same(views, descriptor)[1] == str(tmp_path / "folder" / "other")
    os.rename(tmp_path / "folder", tmp_path / "moved")
    assert same(views, descriptor)[1] == str(tmp_path / "moved" / "other")
    os.unlink(tmp_path / "moved" / "other")
    assert same(views, descriptor)[1].endswith("/other (deleted)")


@pytest.mark.parametrize("known", [False, True])
def test_number_that_is_not_open_is_an_error(views: Views, known: bool) -> None:
    """Whether or not there was a file before."""
    number = os.open("/", os.O_PATH)
    if known:
        same(views, number)
    os.close(number)
    for told in (views.told_of, views.name_of):
        with pytest.raises(OSError, match="No such file"):
            told(number)


def test_few_numbers_are_kept(views: Views, opened: Callable[[str], int]) -> None:
    """Whatever comes; and none of them twice."""
    descriptors = [opened(str(number)) for number in range(3 * MAX_KEPT)]
    bare = count()
    for expected, descriptor in enumerate(descriptors, 1):
        for _ in range(2):
            same(views, descriptor)
            assert count() - bare == 2 * min(expected, MAX_KEPT)
    for descriptor in descriptors:
        same(views, descriptor)
    assert count() - bare == 2 * MAX_KEPT
    views.forget()
    assert count() == bare


def test_nobody_waits_for_somebody_who_looks(views: Views, opened: Callable[[str], int]) -> None:
    """Who finds it in use opens anew."""
    descriptor = opened("disk")
    with views._lock:
        bare = count()
        assert same(views, descriptor)[1].endswith("/disk")
        assert count() == bare


def test_without_a_descriptor_to_spare_nothing_is_kept(
    views: Views, opened: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is no reason to tell nothing."""

    def full(_: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "Too many open files")

    descriptor = opened("disk")
    monkeypatch.setattr(module, "_opened", full)
    bare = count()
    assert same(views, descriptor)[1].endswith("/disk")
    assert count() == bare


@pytest.mark.parametrize("call", ["pread", "readlink"])
def test_where_the_first_file_is_told_for_ever_nothing_is_kept(
    views: Views, opened: Callable[[str], int], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Another kernel may have it so: then the wrong file would be told."""
    real = getattr(os, call)
    first: dict[object, object] = {}

    def stubborn(*given: object, **named: object) -> object:
        if call == "readlink" and not named:
            return real(*given)
        return first.setdefault((*given, *named.values()), real(*given, **named))

    monkeypatch.setattr(os, call, stubborn)
    one, other = opened("one"), opened("other")
    bare = count()
    assert same(views, one)[1].endswith("/one")
    os.dup2(other, one)
    assert same(views, one)[1].endswith("/other")
    assert count() == bare


@pytest.mark.parametrize(("error", "tries"), [(errno.ENOENT, 1), (errno.EMFILE, 3)])
def test_what_cannot_be_tried_is_tried_again_only_where_that_may_help(
    views: Views,
    opened: Callable[[str], int],
    monkeypatch: pytest.MonkeyPatch,
    error: int,
    tries: int,
) -> None:
    """The next descriptor may be had in a moment; another kernel is another one for ever."""
    tried = []

    def broken() -> bool:
        tried.append(error)
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(module, "_follow", broken)
    descriptor = opened("disk")
    for _ in range(3):
        assert views.told_of(descriptor) == told_of(descriptor)
    assert len(tried) == tries


def test_child_process_is_told_of_its_own_files() -> None:
    """What its parent keeps shows the files of its parent."""
    script = """
import os
from flockpr.manager.views import VIEWS
number = os.open("/", os.O_PATH)
assert VIEWS.name_of(number) == "/"
kept = set(os.listdir("/proc/self/fd"))
child = os.fork()
if child == 0:
    os.dup2(os.open("/proc", os.O_PATH), number)
    os._exit(0 if VIEWS.name_of(number) == "/proc" else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert VIEWS.name_of(number) == "/"
assert set(os.listdir("/proc/self/fd")) == kept
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    subprocess.run(command, check=True, timeout=DEADLINE)
