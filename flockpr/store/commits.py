"""Appending to the chain: a compare-and-swap by `link(2)`, and what is known of its outcome.

The successor of N is written aside, synced, and linked to the name of N+1. Who linked it
proves afterwards that N still stands with the same id: only then is it part of the chain,
and no phantom (see `chain`). Then the directory is synced.

A link that fails may have been done, or be done later: a lost reply, a repeated request, a
client that was cut off. So from the first try on nothing is reported as "not done" that is
not proven so. What stays unknown is settled before the next command, by taking the number.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from flockpr.core.model import LogicalUnitState
from flockpr.errors import Busy, OutcomeUnknown, StateLost, StateUnreadable, StoreError
from flockpr.store import files
from flockpr.store.author import Author
from flockpr.store.base import Applied, Served
from flockpr.store.chain import Chain, Identity, identity_of, successor_of
from flockpr.store.document import Document, decode
from flockpr.store.encoding import Parts, encode
from flockpr.store.errands import Errands
from flockpr.store.layout import ASIDE_PREFIX, commit_name
from flockpr.store.strict import Malformed
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)

_REFUSED = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMLINK}
)
"""Answers to a first LINK that say it was not done, nor will be."""
_NONE: Final[Identity] = (-1, -1, -1, -1)
"""That of no file."""


@attrs.define
class _Issued:
    """A commit that was issued, the name that it was written under, and what it is known by; its
    descriptor, or -1.
    """

    document: Document
    aside: str
    identity: Identity
    fd: int = -1


class CommitLog(Chain):
    """One `commits/` directory, for reading and appending.

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
        errands: Where what no answer depends on is done on a share; None: at once.
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
        errands: Errands | None = None,
    ) -> None:
        super().__init__(syscalls, lun_fd, path, incarnation=incarnation)
        self._daemon = daemon
        self._author = Author(incarnation, daemon, host)
        self._mode = mode
        self._patience = patience
        self._unsettled: _Issued | None = None
        self._counter = 0
        self._parts = Parts()
        self._errands = errands
        self._answers_now: bool | None = None

    def head(self) -> Document:
        """The newest document of the chain. See `Store.head` for what it raises."""
        self._settle_old()
        return super().head()

    def head_at_once(self, *, looks: bool = True) -> Document | None:
        """See `Chain.head_at_once`."""
        return None if self._unsettled is not None else super().head_at_once(looks=looks)

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
        settled: Callable[[], None] = lambda: None,
        alone: bool = False,
    ) -> Document | None:
        """Link a successor of `base`, durably. See `Transactions.append`."""
        self._settle_old()
        document = self._author.successor(
            base, state, applied, served=served, deleted=deleted, format_number=format_number
        )
        issued = self._write_aside(document)
        try:
            if not may_issue():
                raise Busy("the time for this command is over; nothing was done", self._path)
        except BaseException:
            self._put_away(issued)
            raise
        try:
            identity = self._settle(issued, base)
        except BaseException:
            self._close_file(issued)  # what is to be settled yet is known by its name
            raise
        try:
            if identity is not None:
                # Whoever builds on it makes both names durable before answering anybody.
                settled()
        finally:
            self._unsettled = None
            # Not before: on a share others would wait for one change more.
            self._clear_away(issued, alone=alone)
        if identity is None:
            return None
        self._make_durable(document, identity)
        return document

    def _write_aside(self, document: Document) -> _Issued:
        self._counter += 1
        aside = f"{ASIDE_PREFIX}{self._daemon}-{self._counter}"
        try:
            data = encode(document, self._parts)
            return self._written(document, aside, data)
        except OSError as error:
            path = f"{self._path}/{aside}"
            raise files.unavailable(error, "cannot write a commit", path) from error

    def _written(self, document: Document, aside: str, data: bytes) -> _Issued:
        if self.coherent:
            files.write_new(self._sys, aside, data, dir_fd=self._fd, mode=self._mode)
            return _Issued(document, aside, _NONE)
        fd, status = files.write_ours(
            *(self._sys, aside, data),
            dir_fd=self._fd,
            mode=self._mode,
            keep=self._asks_its_server(),
        )
        return _Issued(document, aside, identity_of(status), fd)

    def _settle(self, issued: _Issued, base: Document) -> Identity | None:
        """Link until the outcome is known. Repeating is safe: the same document cannot take
        its number twice. What remains unknown is left to `_settle_old`.

        Returns:
            What the committed file is known by; None if nothing was committed.
        """
        self._unsettled = issued
        document = issued.document
        deadline = time.monotonic() + self._patience
        refusals = _REFUSED
        while True:
            try:
                taken = self._link(document, issued.aside, base)
                break
            except OSError as error:
                if refusals:
                    log.warning("%s: linking %d: %s", self._path, document.number, error)
                if error.errno in refusals and self._was_not_done(base):
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
        return self._identity_of(issued) if taken else None

    def _identity_of(self, issued: _Issued) -> Identity:
        """Of our document, by the name that only we use; one that fits nothing if it is gone. On a
        share, where the name would have to be asked for, that of what was written.
        """
        if not self.coherent:
            return issued.identity
        try:
            return identity_of(self._sys.stat(issued.aside, dir_fd=self._fd))
        except OSError:
            return _NONE

    def _was_not_done(self, base: Document) -> bool:
        """Whether a LINK that was refused had no effect: a file server may link, and then
        fail to make that durable, which is an answer of ENOSPC or EROFS as well.
        """
        try:
            self._revalidate()
            return self._is_head(base)
        except OSError:
            return False

    def _not_known(self, document: Document, why: str) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"transaction {document.number} was issued, and its outcome is not known ({why})",
            self._path,
            "check the file system; the next command finds out",
        )

    def _forget(self) -> None:
        issued, self._unsettled = self._unsettled, None
        if issued is not None:
            self._put_away(issued)

    def _put_away(self, issued: _Issued) -> None:
        self._close_file(issued)  # first: NFS keeps what is open, under another name
        files.discard(self._sys, issued.aside, dir_fd=self._fd)

    def _close_file(self, issued: _Issued) -> None:
        fd, issued.fd = issued.fd, -1
        if fd >= 0:
            files.close_quietly(self._sys, fd)

    def _clear_away(self, issued: _Issued, *, alone: bool) -> None:
        """As `_put_away`, of a commit whose outcome is known, which needs nobody's attention.

        Who is not alone does it itself: it has given away the right to commit next, and would ask
        for it again before somebody who tries now and then has noticed.
        """
        if self._errands is None or self.coherent or not alone:
            self._put_away(issued)
            return
        try:
            place = self._sys.duplicate(self._fd)  # ours is closed when it is opened anew
        except OSError:
            self._put_away(issued)
            return

        def work() -> None:
            self._close_file(issued)
            files.discard(self._sys, issued.aside, dir_fd=place)
            files.close_quietly(self._sys, place)

        self._errands.run(work)

    def _link(self, document: Document, aside: str, base: Document) -> bool:
        """One try. OSError: outcome unknown, but for the refusals of the first try."""
        taken = True
        try:
            self._sys.link(aside, commit_name(document.number), dir_fd=self._fd)
        except FileExistsError:
            taken = False  # somebody else, or ours: NFS repeats a LINK whose answer was lost
        except FileNotFoundError:
            if self._search_by_listing().number < document.number:
                raise
            taken = False  # taken away by `remove_late`: the chain went on
        try:
            self._revalidate()
            found = document if taken else self._read(document.number)
            # In this order: while the base stands, what was read after it is no phantom,
            # neither ours nor that of another stalled host.
            if found is not None and self._still_stands(base):
                return found.txid == document.txid
            return self._prove(document)
        except OSError as error:
            # The link is done or in doubt: this errno must not read as its refusal.
            raise OSError(errno.EIO, f"cannot prove its base: {error}") from error

    def _still_stands(self, base: Document) -> bool:
        """As `_stands`, after the link. Where the server is asked for attributes, it is enough that
        the name, current since the directory was opened anew, leads to the file that we wrote
        ourselves: nobody writes to a file that has been linked, and what takes the place of one
        that was pruned was made later.
        """
        ours = not self.coherent and base is self._head and base.snapshot.daemon == self._daemon
        if ours and self._asks_its_server() and self._is_ours(commit_name(base.number)):
            return True
        return self._stands(base)

    def _asks_its_server(self) -> bool:
        """See `Syscalls.answers_now`; asked for once, since it stays on one file system."""
        if self._answers_now is None:
            self._answers_now = self._sys.answers_now(self._fd)
        return self._answers_now

    def _is_ours(self, name: str) -> bool:
        """Whether that is certain; else the document itself has to be read."""
        try:
            now = self._sys.stat_now(name, dir_fd=self._fd)
        except OSError:
            return False
        return now.st_nlink > 0 and identity_of(now) == self._head_identity

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
            seal = self._author.successor(
                head, head.snapshot.state, (), served=head.snapshot.served
            )
            issued = self._write_aside(seal)
            try:
                self._sys.link(issued.aside, commit_name(seal.number), dir_fd=self._fd)
            except FileExistsError:
                continue
            finally:
                self._put_away(issued)

    def _make_durable(self, document: Document, identity: Identity) -> None:
        self._remember(document, identity)
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

    def remove_late(self, last: int) -> None:
        """Take away what was written aside for numbers that are about to be pruned.

        Linked later it would be a phantom at best. At worst it is a commit whose link
        landed and whose reply was lost: its repeated link would bring a pruned number back
        under the very id that a sleeping reader takes for the head.

        Raises:
            OSError: As the system call; then do not prune.
        """
        for name in self._sys.listdir(self._fd):
            if not name.startswith(ASIDE_PREFIX):
                continue
            try:
                document = decode(files.read_whole(self._sys, name, dir_fd=self._fd))
            except (FileNotFoundError, StateUnreadable, Malformed):
                continue  # gone, or just being written
            if document.number <= last:
                with contextlib.suppress(FileNotFoundError):
                    self._sys.unlink(name, dir_fd=self._fd)
