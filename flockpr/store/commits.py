"""The chain of numbered commits: finding its head, and appending to it.

Theory of operation. `commits/` holds documents named by transaction number. Document N+1
names the transaction id of document N as its predecessor. A number is taken by `link(2)`,
which creates a name or fails, on every file system, whatever locks were lost meanwhile: that
is the compare-and-swap, and the only thing that safety rests on.

Two troubles remain, and each rule below exists for one of them:

*Phantoms.* Old numbers are pruned, lowest first. A host that was cut off between deciding
and linking can come back, and its `link` to a pruned number succeeds. Such a phantom is not
part of the chain. Hence: who links N+1 proves afterwards that N still stands with the same
id (pruning is ascending, so N+1 cannot have been pruned before); who steps from N to N+1
proves the same; and a listing takes the highest number, which no phantom can be, because
the head is never pruned.

*Caches.* An NFS client may believe for a minute that a name is absent, or present, although
the server knows better. Hence absence and presence count only after the directory was opened
anew, which makes the client ask. `stat` times and inode numbers are believed only on file
systems of one host, where they are always current.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence

import attrs

from flockpr.core.model import LogicalUnitState
from flockpr.errors import (
    Busy,
    NewerFormat,
    OutcomeUnknown,
    StateLost,
    StateUnreadable,
    StoreError,
    StoreUnavailable,
)
from flockpr.store import files
from flockpr.store.base import Applied, Served, Snapshot
from flockpr.store.clock import utc_now
from flockpr.store.document import Document, Newer, decode, encode, remember
from flockpr.store.layout import ASIDE_PREFIX, COMMIT_NAME, COMMITS, commit_name
from flockpr.store.strict import Malformed
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)

_STEPS = 8
"""How far to follow single successors before a listing is cheaper."""
_ROUNDS = 100
"""How often the head may move away under a search before that counts as a failure."""
_FILE_GONE = frozenset({errno.ENOENT, errno.ESTALE})
_REFUSED = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMLINK}
)
"""Answers to a first LINK that say it was not done."""

Identity = tuple[int, int, int, int]


@attrs.frozen
class _Issued:
    """A commit that was issued, and the name that it was written under."""

    document: Document
    aside: str


class CommitLog:
    """One `commits/` directory.

    Args:
        syscalls: Where the calls go.
        lun_fd: Descriptor of the logical unit's directory; stays the caller's.
        path: Its path, for messages.
        incarnation: Documents of another incarnation are foreign.
        daemon: Id of this daemon: 32 hexadecimal digits.
        host: Name of this host, for the record.
        mode: Permission bits of new files.
        patience: Seconds for which an issued commit of unknown outcome is followed up
            before the caller is told so.
    """

    def __init__(
        self,
        syscalls: Syscalls,
        lun_fd: int,
        path: str,
        *,
        incarnation: str,
        daemon: str,
        host: str = "",
        mode: int = 0o600,
        patience: float = 5.0,
    ) -> None:
        self._sys = syscalls
        self._lun_fd = lun_fd
        self._path = f"{path}/{COMMITS}"
        self._incarnation = incarnation
        self._daemon = daemon
        self._host = host
        self._mode = mode
        self._patience = patience
        self._fd = -1
        self._coherent = False
        self._head: Document | None = None
        self._head_identity: Identity | None = None
        self._durable = 0
        self._unsettled: _Issued | None = None
        self._counter = 0
        self._reopen()
        try:
            self._coherent = syscalls.coherent(self._fd)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the directory."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            files.close_quietly(self._sys, fd)

    # ------------------------------------------------------------------ reading

    def head(self) -> Document:
        """The newest document of the chain. See `Store.head` for what it raises."""
        self._settle_old()
        try:
            self._revalidate()
            if self._head is not None and self._is_head(self._head):
                return self._head
            return self._adopt(self._search())
        except OSError as error:
            raise files.unavailable(error, "cannot read the commits", self._path) from error

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
                return _identity(self._sys.stat(name, dir_fd=self._fd)) == self._head_identity
            except FileNotFoundError:
                return False
        found = self._read(document.number)
        return found is not None and found.txid == document.txid

    def _search(self) -> Document:
        """The head, by single steps from the last one known, else by listing."""
        document = self._head
        if document is not None:
            for _ in range(_STEPS):
                self._revalidate()
                successor = self._read(document.number + 1)
                if not self._stands(document):
                    break  # pruned: what we read may be a phantom
                if successor is None:
                    return document
                self._check_predecessor(successor, document)
                document = successor
        return self._search_by_listing()

    def _check_predecessor(self, document: Document, before: Document) -> None:
        """Two neighbours that both stand are links of one chain, or somebody mixed two."""
        if not successor_of(document, before):
            raise StateUnreadable(
                f"its predecessor is not transaction {before.number} ({before.txid}) "
                "that stands before it",
                f"{self._path}/{commit_name(document.number)}",
                "files of two histories were mixed: restore the lock directory from a backup",
            )

    def _search_by_listing(self) -> Document:
        for _ in range(_ROUNDS):
            numbers = self.numbers()
            if not numbers:
                raise StateUnreadable(
                    "has no commits at all, which is not the same as an empty state",
                    self._path,
                    "restore the lock directory from a backup, or delete and create the LUN anew",
                )
            document = self._read(numbers[-1])
            if document is None:
                continue
            before = self._read_before(document.number)
            self._revalidate()
            if self._is_head(document):
                if before is not None:
                    self._check_predecessor(document, before)
                return document
        raise StoreUnavailable(
            "the newest commit is listed and cannot be read", self._path, "check the file server"
        )

    def _read_before(self, number: int) -> Document | None:
        """The predecessor, to compare with; one that is damaged says nothing of the head."""
        try:
            return self._read(number - 1) if number > 1 else None
        except StateUnreadable as error:
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
        name = commit_name(number)
        path = f"{self._path}/{name}"
        try:
            data = files.read_whole(self._sys, name, dir_fd=self._fd)
        except StateUnreadable as error:
            raise StateUnreadable(error.what, path, error.remedy) from None
        except OSError as error:
            if error.errno in _FILE_GONE:
                return None
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise files.unavailable(error, "cannot be read", path) from error
            raise
        return self._decoded(data, number, path)

    def _decoded(self, data: bytes, number: int, path: str) -> Document:
        try:
            document = decode(data)
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
        self._remember(document)
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

    def _remember(self, document: Document) -> None:
        self._head = document
        self._head_identity = None
        if self._coherent:
            # Not raced: names are never rewritten, and a pruned one is found gone later.
            # Without an answer the document is read again where its identity would do.
            with contextlib.suppress(OSError):
                status = self._sys.stat(commit_name(document.number), dir_fd=self._fd)
                self._head_identity = _identity(status)

    def _revalidate(self) -> None:
        """Make what is asked about names from here on current."""
        if not self._coherent:
            self._reopen()

    def _reopen(self) -> None:
        fd = files.open_directory(self._sys, COMMITS, dir_fd=self._lun_fd)
        self.close()
        self._fd = fd

    # ------------------------------------------------------------------ appending

    def append(
        self,
        base: Document,
        state: LogicalUnitState,
        applied: Sequence[Applied],
        *,
        served: Mapping[int, Served],
        may_issue: Callable[[], bool],
        deleted: bool = False,
        format_number: int | None = None,
    ) -> Document | None:
        """Link a successor of `base`, durably. See `Store.commit`.

        `format_number` is the format to write from here on; the default keeps that of
        `base`, which every live daemon reads.
        """
        self._settle_old()
        document = self._successor(base, state, applied, served=served, deleted=deleted)
        if format_number is not None:
            document = attrs.evolve(document, format=format_number)
        aside = self._write_aside(document)
        if not may_issue():
            files.discard(self._sys, aside, dir_fd=self._fd)
            raise Busy("the time for this command is over; nothing was done", self._path)
        if not self._settle(document, aside, base):
            return None
        self._make_durable(document)
        return document

    def _successor(
        self,
        base: Document,
        state: LogicalUnitState,
        applied: Sequence[Applied],
        *,
        served: Mapping[int, Served],
        deleted: bool = False,
    ) -> Document:
        txid = secrets.token_hex(16)
        number = base.number + 1
        daemons, forgotten = remember(base.daemons, base.forgotten, self._daemon, number, txid)
        snapshot = Snapshot(
            number=number,
            txid=txid,
            state=state,
            served=served,
            time=utc_now(),
            host=self._host,
            daemon=self._daemon,
            deleted=deleted,
        )
        return Document(
            self._incarnation,
            base.txid,
            snapshot,
            tuple(applied),
            daemons,
            forgotten,
            base.format,
        )

    def _write_aside(self, document: Document) -> str:
        self._counter += 1
        aside = f"{ASIDE_PREFIX}{self._daemon}-{self._counter}"
        try:
            files.write_new(self._sys, aside, encode(document), dir_fd=self._fd, mode=self._mode)
        except OSError as error:
            path = f"{self._path}/{aside}"
            raise files.unavailable(error, "cannot write a commit", path) from error
        return aside

    def _settle(self, document: Document, aside: str, base: Document) -> bool:
        """Link until the outcome is known. Repeating is safe: the same document cannot take
        its number twice. What remains unknown is left to `_settle_old`.
        """
        self._unsettled = _Issued(document, aside)
        deadline = time.monotonic() + self._patience
        refusals = _REFUSED
        while True:
            try:
                taken = self._link(document, aside, base)
                break
            except OSError as error:
                log.warning("%s: linking %d: %s", self._path, document.number, error)
                if error.errno in refusals:
                    self._forget()
                    raise files.unavailable(error, "cannot link a commit", self._path) from error
                if time.monotonic() >= deadline:
                    raise self._not_known(document, error.strerror or "") from error
                refusals = frozenset()  # from now on an earlier try may have worked
            except (OutcomeUnknown, StateLost):  # as well known as they will ever be
                self._forget()
                raise
            except StoreError as error:
                raise self._not_known(document, error.what) from error
            time.sleep(0.05)
        self._forget()
        return taken

    def _not_known(self, document: Document, why: str) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"transaction {document.number} was issued, and its outcome is not known ({why})",
            self._path,
            "check the file system; the next command finds out",
        )

    def _forget(self) -> None:
        issued, self._unsettled = self._unsettled, None
        if issued is not None:
            files.discard(self._sys, issued.aside, dir_fd=self._fd)

    def _link(self, document: Document, aside: str, base: Document) -> bool:
        """One try. OSError: outcome unknown, but for the refusals of the first try."""
        taken = True
        try:
            self._sys.link(aside, commit_name(document.number), dir_fd=self._fd)
        except FileExistsError:
            taken = False  # somebody else, or ours: NFS repeats a LINK whose answer was lost
        try:
            self._revalidate()
            found = document if taken else self._read(document.number)
            # In this order: while the base stands, what was read after it is no phantom,
            # neither ours nor that of another stalled host.
            if found is not None and self._stands(base):
                return found.txid == document.txid
            return self._prove(document)
        except OSError as error:
            # The link is done or in doubt: this errno must not read as its refusal.
            raise OSError(errno.EIO, f"cannot prove its base: {error}") from error

    def _prove(self, document: Document) -> bool:
        """Whether a document whose base is gone, or not asked about, belongs to the chain.

        Its base can have been pruned because others committed quickly after the link, or
        long before it, which then made a phantom. The head tells: it names our last
        transaction.
        """
        head = self._search_by_listing()
        if head.txid == document.txid:
            return self._prove_base(document)
        included = head.includes(self._daemon, document.number, document.txid)
        if included is None:
            raise OutcomeUnknown(
                f"transaction {document.number} is too old to tell whether it took effect",
                self._path,
                "compare `flockpr log` with what was sent",
            )
        if not included:
            with contextlib.suppress(OSError):  # litter among pruned numbers, where it stays
                self._remove_phantom(document)
        return included

    def _prove_base(self, head: Document) -> bool:
        """Our document is the head: it belongs to the chain if its base is below it."""
        before = self._read(head.number - 1)
        if before is None and head.number - 1 in self.numbers():
            raise OSError(errno.ESTALE, "a commit is listed, and found absent")
        if before is not None and successor_of(head, before):
            return True
        # The head's base is never pruned. Left where it is, our document would undo the
        # rollback for all who come later, unseen.
        self._remove_phantom(head)
        raise StateLost(
            f"transaction {head.number - 1} vanished under its successor",
            self._path,
            "the directory was rolled back or emptied: restore it from a backup",
        )

    def _remove_phantom(self, document: Document) -> None:
        found = self._read(document.number)
        if found is not None and found.txid == document.txid:
            log.warning("%s: removing %d, linked without its base", self._path, document.number)
            self.remove(document.number)

    def _settle_old(self) -> None:
        """Find out about a commit that was issued and given up on, before anything else.

        Where its number is still free it may yet land, so the number is taken by a
        transaction that changes nothing: from then on it cannot.
        """
        issued = self._unsettled
        if issued is None:
            return
        document = issued.document
        try:
            taken = self._outcome(document)
        except OSError as error:
            raise Busy(
                f"the outcome of transaction {document.number} is not known yet ({error.strerror})",
                self._path,
                "check the file system; the next command looks again",
            ) from error
        except OutcomeUnknown as error:  # told to its initiator; nobody will ever know more
            log.warning("%s", error)
        else:
            effect = "did take effect" if taken else "had no effect"
            log.warning("%s: the unknown transaction %d %s", self._path, document.number, effect)
        self._forget()

    def _outcome(self, document: Document) -> bool:
        while True:
            head = self._search_by_listing()
            if self._head is not None:
                self._check_progress(self._head, head)
            if head.number >= document.number:
                return self._prove(document)
            seal = self._successor(head, head.snapshot.state, (), served=head.snapshot.served)
            aside = self._write_aside(seal)
            try:
                self._sys.link(aside, commit_name(seal.number), dir_fd=self._fd)
            except FileExistsError:
                continue
            finally:
                files.discard(self._sys, aside, dir_fd=self._fd)

    def _make_durable(self, document: Document) -> None:
        self._remember(document)
        try:
            self.ensure_durable(document.number)
        except StoreError as error:
            raise OutcomeUnknown(
                f"transaction {document.number} took effect, but whether it is on stable "
                f"storage is not known ({error.what})",
                self._path,
                "check the storage; nothing is answered until a sync succeeds",
            ) from error

    # ------------------------------------------------------------------ pruning

    def remove(self, number: int) -> None:
        """Unlink one old commit. The caller keeps the order and the head.

        Raises:
            OSError: As unlink, FileNotFoundError excepted.
        """
        with contextlib.suppress(FileNotFoundError):
            self._sys.unlink(commit_name(number), dir_fd=self._fd)

    @property
    def known(self) -> Document | None:
        """The newest document that this object has read or written, without looking."""
        return self._head


def successor_of(document: Document, base: Document) -> bool:
    """Whether `document` names `base` as its predecessor."""
    return document.number == base.number + 1 and document.previous == base.txid


def _identity(status: os.stat_result) -> Identity:
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
