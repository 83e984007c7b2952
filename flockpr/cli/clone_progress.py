"""How far the copy of an image is, by the calls that make it."""

from __future__ import annotations

from flockpr.cli.progress import Progress
from flockpr.store.syscalls import Syscalls

_MIB = 1 << 20


def counting(progress: Progress) -> Syscalls:
    """System calls that tell how far they have come in the file that they copy."""
    return _Counting(progress)


class _Counting(Syscalls):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def copy_range(self, source: int, target: int, length: int, offset: int) -> int:
        """See `Syscalls`."""
        done = super().copy_range(source, target, length, offset)
        self._tell(source, offset + done)
        return done

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """See `Syscalls`."""
        done = super().pwrite(fd, data, offset)
        self._tell(fd, offset + done)
        return done

    def _tell(self, fd: int, place: int) -> None:
        """Both files have the size of the whole: a hole is passed over, and counts."""
        self._progress.tell(place // _MIB, self.fstat(fd).st_size // _MIB)
