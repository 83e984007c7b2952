"""What is tried on an image before it is served."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
from collections.abc import Iterator

import pytest

from flockpr.filesystems.trial import TRIAL, try_image
from flockpr.store.syscalls import Syscalls
from tests.support.open_files import open_below


class Lying(Syscalls):
    """Locks of a file system that has none worth the name.

    Args:
        answers: For each lock in its turn an errno, or None for success; the last one stays.
    """

    def __init__(self, *answers: int | None) -> None:
        self.answers = list(answers)
        self.starts: list[int] = []

    def set_lock(self, fd: int, kind: int, start: int, length: int = 1) -> None:
        """The next answer; to unlock is always good."""
        assert length == 1
        self.starts.append(start)
        if kind == fcntl.F_UNLCK:
            return
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is not None:
            raise OSError(answer, os.strerror(answer))


@pytest.fixture
def image(tmp_path: pathlib.Path) -> Iterator[tuple[str, int]]:
    """An image and a description of it."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(8192))
    fd = os.open(path, os.O_RDWR)
    yield str(path), fd
    os.close(fd)


def test_trial_on_a_real_file_system_finds_nothing_and_leaves_nothing(
    image: tuple[str, int],
) -> None:
    """No lock and no descriptor stays."""
    path, fd = image
    calls = Syscalls()
    directory = os.path.dirname(path)
    before = open_below(directory)

    assert try_image(path, fd, calls, one_host=True) == ()

    assert open_below(directory) == before
    other = os.open(path, os.O_RDWR)
    try:
        calls.set_lock(other, fcntl.F_WRLCK, TRIAL, 1 << 41)
    finally:
        os.close(other)


@pytest.mark.parametrize(
    ("answers", "name", "words"),
    [
        ((None, None), "lock-descriptions", "exclusively"),
        ((None, errno.EAGAIN, errno.EAGAIN), "lock-ranges", "whole files"),
        ((errno.ENOLCK,), "lock-descriptions", "refused"),
        ((errno.EOPNOTSUPP,), "lock-descriptions", "refused"),
        ((errno.EINVAL,), "lock-descriptions", "refused"),
        ((errno.EACCES,), "lock-descriptions", "refused"),
    ],
)
def test_trial_finds_locks_that_are_none(
    image: tuple[str, int], answers: tuple[int | None, ...], name: str, words: str
) -> None:
    """Locks for show, of whole files, or none: as FUSE, gateways and `flock` emulations have."""
    (found,) = try_image(*image, Lying(*answers), one_host=True)

    assert found.name == name
    assert words in found.what


def test_trial_of_a_byte_that_another_host_tries_takes_another(image: tuple[str, int]) -> None:
    """Two targets may start in the same moment."""
    calls = Lying(errno.EAGAIN, None, errno.EAGAIN, None)

    assert try_image(*image, calls, one_host=True) == ()

    assert len({start // 2 for start in calls.starts}) == 2
    assert min(calls.starts) >= TRIAL


def test_trial_that_fails_for_another_reason_says_so(image: tuple[str, int]) -> None:
    """What may pass is not held against the file system."""
    with pytest.raises(OSError, match="Input/output"):
        try_image(*image, Lying(errno.EIO), one_host=True)


def test_trial_asks_for_direct_reads_where_a_permit_can_be_lost(image: tuple[str, int]) -> None:
    """On one host nobody can take it away."""
    (found,) = try_image(*image, Syscalls(), one_host=False)

    assert found.name == "direct"
