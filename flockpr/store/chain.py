"""The chain of numbered commits, and finding its head.

Theory of operation. `commits/` holds documents named by transaction number. Document N+1
names the transaction id of document N as its predecessor. A number is taken by `link(2)`,
which creates a name or fails, on every file system, whatever locks were lost meanwhile: that
is the compare-and-swap, and the only thing that safety rests on (see `commits`).

Two troubles remain, and each rule below exists for one of them:

*Phantoms.* Old numbers are pruned, lowest first. A host that was cut off between deciding
and linking can come back, and its `link` to a pruned number succeeds. Such a phantom is not
part of the chain. Hence: who steps from N to N+1 proves afterwards that N still stands with
the same id (pruning is ascending, so N+1 cannot have been pruned before); and a listing
takes the highest number, which no phantom can be, because the head is never pruned.

*Caches.* An NFS client may believe for a minute that a name is absent, or present, although
the server knows better. Hence absence and presence count only after the directory was opened
anew, which makes the client ask. `stat` times and inode numbers are believed only on file
systems of one host, where they are always current, and where the server was asked for them
just now (see `commits`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from flockpr.errors import NewerFormat, StateLost, StateUnreadable, StoreUnavailable
from flockpr.store import files
from flockpr.store.document import Document, Newer, Place, decode, decode_place
from flockpr.store.layout import COMMIT_NAME, COMMITS, commit_name
from flockpr.store.strict import Malformed
from flockpr.store.syscalls import Syscalls

if TYPE_CHECKING:
    from flockpr.store.statx import Attributes
    from flockpr.store.vigil import Vigil

log = logging.getLogger(__name__)

_STEPS = 2
"""How far to follow single successors before a listing is cheaper."""
_LEAP = 64
"""Likewise where a step is a look at a name."""
_ROUNDS = 100
"""How often the head may move away under a search before that counts as a failure."""

Identity = tuple[int, int, int, int]
_Decoded = TypeVar("_Decoded", Document, Place)


class Chain:
    """One `commits/` directory, for reading.

    Args:
        syscalls: Where the calls go.
        lun_fd: Descriptor of the logical unit's directory; stays the caller's.
        path: Its path, for messages.
        incarnation: Documents of another incarnation are foreign.
    """

    def __init__(self, syscalls: Syscalls, lun_fd: int, path: str, *, incarnation: str) -> None:
        self._sys = syscalls
        self._lun_fd = lun_fd
        self._path = f"{path}/{COMMITS}"
        self._incarnation = incarnation
        self._fd = -1
        self._head: Document | None = None
        self._head_identity: Identity | None = None
        self._last_read: tuple[str, Identity] | None = None
        self._durable = 0
        self._vigil: Vigil | None = None
        self._looked: Document | None = None
        self._asked = False
        self._reopen()
        try:
            self._coherent = syscalls.coherent(self._fd)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the directory."""
        vigil, self._vigil, self._looked = self._vigil, None, None
        if vigil is not None:
            vigil.end()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            files.close_quietly(self._sys, fd)

    @property
    def coherent(self) -> bool:
        """Whether names and attributes are always current: a file system of one host."""
        return self._coherent

    @property
    def known(self) -> Document | None:
        """The newest document that this object has read or written, without looking."""
        return self._head

    # ------------------------------------------------------------------ the head

    def head(self) -> Document:
        """The newest document of the chain. See `Store.head` for what it raises."""
        try:
            self._revalidate()
            if self._head is not None and self._is_head(self._head):
                return self._head
            return self._adopt(self._search())
        except OSError as error:
            raise files.unavailable(error, "cannot read the commits", self._path) from error

    def head_at_once(self, *, looks: bool = True) -> Document | None:
        """The head, if it is the one known, durable, and proven so by looking at two names, or by
        nothing having changed since they were looked at.

        None says nothing: ask `head`. Only where names are always current, on a file system of
        one host, is that proof; there it does not wait for anybody either.

        Args:
            looks: Whether names may be looked at, which waits for a disk that dies.
        """
        document = self._head
        if document is None:
            return None
        if not looks:
            return document if document is self._looked and self._quiet() else None
        if document is self._looked and self._undisturbed():
            return document  # and it was durable when it was looked at
        self._looked = None
        if not self._coherent or document.number > self._durable or self._head_identity is None:
            return None
        try:
            if not self._is_head(document):
                return None
        except OSError:
            return None
        self._looked = document
        return document

    def _undisturbed(self) -> bool:
        """Whether nothing has changed since the last look; if not, another one is to come. Who
        looks for the second time has the kernel keep vigil from then on.
        """
        if self._vigil is None:
            try:
                self._vigil = self._sys.keep_vigil(self._fd)
            except OSError:
                return False
        self._asked = True
        if self._vigil.undisturbed():
            return True
        self._vigil.begin()
        return False

    def _quiet(self) -> bool:
        vigil = self._vigil
        self._asked = True
        return vigil is not None and vigil.quiet()

    def rest(self) -> None:
        """To be called now and then: what nobody asks for any more is not watched any more,
        because the kernel keeps what it has to tell.
        """
        vigil = self._vigil
        if vigil is not None and not self._asked:
            self._vigil = None
            vigil.end()
        self._asked = False

    def ensure_durable(self, number: int) -> None:
        """Make the name of that commit durable: its file was synced before it was linked."""
        if number <= self._durable:
            return
        try:
            self._sys.fsync(self._fd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system without directory sync
                raise files.unavailable(error, "cannot sync the directory", self._path) from error
        self._durable = max(self._durable, number)

    def _is_head(self, document: Document) -> bool:
        """No successor, and, looked at afterwards, still standing: in this order, because a
        pruned N would otherwise hide that N+1 was there and is gone as well.
        """
        if files.exists(self._sys, commit_name(document.number + 1), dir_fd=self._fd):
            return False
        return self._stands(document)

    def _stands(self, document: Document) -> bool:
        """Whether the chain still has this very document under its number."""
        name = commit_name(document.number)
        if self._coherent and document is self._head and self._head_identity is not None:
            try:
                return identity_of(self._sys.stat(name, dir_fd=self._fd)) == self._head_identity
            except FileNotFoundError:
                return False
        found = self._glance(document.number)
        return found is not None and found.txid == document.txid

    def _search(self) -> Document:
        """The head, by single steps from the last one known, else by listing."""
        document = self._head
        if document is None:
            return self._search_by_listing()
        if self._coherent:
            return self._leap(document) or self._search_by_listing()
        for _ in range(_STEPS):
            self._revalidate()
            try:
                successor = self._read(document.number + 1)
            except OSError as error:
                if error.errno != errno.ESTALE:  # which is not the same as absent
                    raise
                break
            if not self._stands(document):
                break  # pruned: what we read may be a phantom
            if successor is None:
                return document
            self._check_predecessor(successor, document)
            document = successor
        return self._search_by_listing(document.number)

    def _leap(self, known: Document) -> Document | None:
        """The head, from the last one known, where names are always current; None where a
        listing has to tell.

        Successors are counted, and only the last is read, with the one before it. `known` is
        looked at afterwards: while it stands nothing above it was pruned, so that one is no
        phantom, and the next number, which is absent, was never taken.
        """
        number = known.number
        while files.exists(self._sys, commit_name(number + 1), dir_fd=self._fd):
            number += 1
            if number - known.number > _LEAP:
                return None
        document: Document = known
        before: Document | Place | None = None
        if number > known.number:
            before = known if number == known.number + 1 else self._glance_at_place(number - 1)
            found = self._glance(number)
            if found is None or before is None:
                return None
            document = found
        if not self._stands(known):
            return None
        if before is not None:
            self._check_predecessor(document, before)
        return document

    def _check_predecessor(self, document: Document, before: Document | Place) -> None:
        """Two neighbours that both stand are links of one chain, or somebody mixed two."""
        if not successor_of(document, before):
            raise StateUnreadable(
                f"its predecessor is not transaction {before.number} ({before.txid}) "
                "that stands before it",
                f"{self._path}/{commit_name(document.number)}",
                "files of two histories were mixed: restore the lock directory from a backup",
            )

    def _search_by_listing(self, seen: int = 0) -> Document:
        """The head, from all numbers that there are.

        Args:
            seen: One that was there a moment ago.
        """
        for _ in range(_ROUNDS):
            numbers = self.numbers()
            if not numbers:
                raise StateUnreadable(
                    "has no commits at all, which is not the same as an empty state",
                    self._path,
                    "restore the lock directory from a backup, or remove it while nobody serves it",
                )
            document = self._glance(numbers[-1])
            if document is None:
                continue
            before = self._before(document)
            if self._was_head(document, before, seen) or self._is_head_now(document):
                if before is not None:
                    self._check_predecessor(document, before)
                return document
            seen = max(seen, document.number)
        raise StoreUnavailable(
            "the newest commit is listed and cannot be read", self._path, "check the file server"
        )

    def _was_head(self, highest: Document, before: Document | None, seen: int) -> bool:
        """Whether the highest number of a listing was the head while the listing was made, whatever
        has come since: who commits without a pause may be faster than it can be told that nothing
        follows, and would be waited for.

        What was there when the listing began is in it, so either it is the highest or that came
        while the listing was made. That it shows more than was seen before says that it is a new
        one; that its base stands, looked at afterwards, that it is no phantom.
        """
        return 0 < seen < highest.number and before is not None

    def _is_head_now(self, document: Document) -> bool:
        self._revalidate()
        return self._is_head(document)

    def _before(self, document: Document) -> Document | None:
        try:
            return self._glance(document.number - 1) if document.number > 1 else None
        except StateUnreadable as error:  # which says nothing of the head
            log.warning("%s", error)
            return None

    def numbers(self) -> list[int]:
        """All commit numbers, ascending, by a listing that asks the server."""
        self._reopen()
        names = self._sys.listdir(self._fd)
        matches = (COMMIT_NAME.fullmatch(name) for name in names)
        return sorted(int(match[1]) for match in matches if match)

    def read(self, number: int) -> Document | None:
        """A commit by number, None where there is none (any more)."""
        try:
            return self._read(number)
        except OSError as error:
            path = f"{self._path}/{commit_name(number)}"
            raise files.unavailable(error, "cannot be read", path) from error

    def _read(self, number: int) -> Document | None:
        found = self._read_bytes(number)
        if found is None:
            return None
        data, identity = found
        document = self._decoded(data, number, decode)
        self._last_read = (document.txid, identity)
        return document

    def _read_bytes(self, number: int) -> tuple[bytes, Identity] | None:
        name = commit_name(number)
        try:
            data, status = files.read_with_status(self._sys, name, dir_fd=self._fd)
        except StateUnreadable as error:
            raise StateUnreadable(error.what, f"{self._path}/{name}", error.remedy) from None
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            if error.errno in (errno.ELOOP, errno.ENXIO):
                path = f"{self._path}/{name}"
                raise files.unavailable(error, "cannot be read", path) from error
            raise
        return data, identity_of(status)

    def _glance(self, number: int) -> Document | None:
        """A commit; None where it is absent, or was removed while it was looked at."""
        try:
            return self._read(number)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            return None

    def _glance_at_place(self, number: int) -> Place | None:
        """As `_glance`, for whoever does not need its state, which takes most of the time."""
        try:
            found = self._read_bytes(number)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            return None
        return None if found is None else self._decoded(found[0], number, decode_place)

    def _decoded(self, data: bytes, number: int, decoder: Callable[[bytes], _Decoded]) -> _Decoded:
        path = f"{self._path}/{commit_name(number)}"
        try:
            document = decoder(data)
        except Newer as error:
            raise NewerFormat(str(error), path, "run a newer flockpr on this host") from None
        except Malformed as error:
            raise StateUnreadable(
                str(error), path, "restore the lock directory from a backup"
            ) from None
        if document.number != number or document.incarnation != self._incarnation:
            raise StateUnreadable(
                f"is transaction {document.number} of incarnation {document.incarnation}, "
                f"not {number} of {self._incarnation}",
                path,
                "files of two logical units were mixed: restore from a backup",
            )
        return document

    def _adopt(self, document: Document) -> Document:
        """Take a proven head as ours, unless it contradicts one seen before."""
        known = self._head
        if known is not None:
            self._check_progress(known, document)
        if self._coherent and known is not None and document is not known:
            # Its name is there a moment before those who keep vigil are told, and who reads after
            # us must not read less. What a listing showed, which is how the first is found, was
            # told of.
            self._sys.await_changes(self._fd)
        last = self._last_read
        self._remember(document, last[1] if last and last[0] == document.txid else None)
        return document

    def _check_progress(self, known: Document, document: Document) -> None:
        if document.number < known.number:
            raise self._lost(known, f"the newest commit is now {document.number}")
        descends = document.descends_from(known)
        if descends is None:
            descends = not self._replaced(known, document)
        if not descends:
            raise self._lost(known, f"commit {document.number} does not descend from it")

    def _replaced(self, known: Document, head: Document) -> bool:
        """Whether another commit stands in the chain under the number of `known`."""
        found = head if head.number == known.number else self._read(known.number)
        if found is None or found.txid == known.txid:
            return False
        if found is head:
            return True
        # A phantom may stand under a pruned number; what the chain goes on from may not.
        after = self._read(known.number + 1)
        return after is not None and successor_of(after, found)

    def _lost(self, known: Document, what: str) -> StateLost:
        return StateLost(
            f"transaction {known.number} ({known.txid}) was seen here before, but {what}",
            self._path,
            "the directory was rolled back or replaced: stop all daemons of this LUN, find out "
            "why, power-cycle it, then start them again",
        )

    def _remember(self, document: Document, identity: Identity | None) -> None:
        """Take a document as the newest known. `identity` is that of the file itself, never
        of whatever its name leads to by now, which may be a phantom; without one the
        document is read again where its identity would do.
        """
        self._head = document
        self._head_identity = identity

    def _revalidate(self) -> None:
        """Make what is asked about names from here on current."""
        if not self._coherent:
            self._reopen()

    def _reopen(self) -> None:
        fd = files.open_directory(self._sys, COMMITS, dir_fd=self._lun_fd)
        self.close()
        self._fd = fd

    def remove(self, number: int) -> None:
        """Unlink one old commit. The caller keeps the order and the head.

        Raises:
            OSError: As unlink, FileNotFoundError excepted.
        """
        with contextlib.suppress(FileNotFoundError):
            self._sys.unlink(commit_name(number), dir_fd=self._fd)


def successor_of(document: Document, base: Document | Place) -> bool:
    """Whether `document` names `base` as its predecessor."""
    return document.number == base.number + 1 and document.previous == base.txid


def identity_of(status: os.stat_result | Attributes) -> Identity:
    """What tells a file from another one that took its name."""
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
