"""Which LUN a device identifier or an image path belongs to, from all `lun.json` of a root.

Every `lun.json` is read on a thread of its own, all at the same time: a LUN of which the file
server hangs costs those who ask for another one a short while once, and nothing after that.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future

from flockpr.errors import (
    Busy,
    Emulated,
    LunNotFound,
    StateUnreadable,
    StoreError,
    StoreUnavailable,
)
from flockpr.store import files
from flockpr.store.identity import LunIdentity
from flockpr.store.layout import LUN_NAME, NUMBERS
from flockpr.store.listing import read_identity

log = logging.getLogger(__name__)

INDEX_FRESH = 1.0
"""Seconds for which the table is believed without a look."""
READ_BOUND = 1.0
"""Seconds that one LUN has to show its `lun.json`; after that its last known one counts."""
KNOWN_PATIENCE = 0.1
"""Seconds for which who asks for something known waits for a newer table."""


class DeviceIndex:
    """The table of one root. Thread-safe.

    Args:
        root: The root directory.
        timeout: Seconds after which listing the root is given up, by those who wait.
    """

    def __init__(self, root: str, timeout: float) -> None:
        self._root = root
        self._timeout = timeout
        self._lock = threading.Condition()
        self._table: dict[str, str] = {}
        self._read_at = -1.0
        self._refreshing: Future[None] | None = None
        self._claims: dict[str, frozenset[str]] = {}
        self._former: dict[str, frozenset[str]] = {}
        self._readers: set[str] = set()
        self._late: set[str] = set()
        self._complaints: dict[str, str] = {}
        self._doubles: set[tuple[str, str, str]] = set()
        self._passed: set[str] = set()

    def find(self, wwids: Iterable[str]) -> str | None:
        """The LUN of the first identifier that is known; reads anew when the table is old.

        Raises:
            Busy: The root, or a LUN that has never been read, does not answer in time.
            StoreError: The root cannot be listed.
        """
        wanted = [_claim(wwid) for wwid in wwids]
        if not wanted:
            return None
        known = self._look_up(wanted)
        if time.monotonic() - self._read_at > INDEX_FRESH:
            self._refresh(known=known is not None)
            known = self._look_up(wanted)
        if known is None:
            self._check_all_read()
            known = self._look_up_former(wanted)
        return known

    def passes(self, name: str) -> bool:
        """Whether a LUN that `find` has named is marked as passed through."""
        return name in self._passed

    def check_free(self, wwids: Iterable[str], *, named: bool = True) -> None:
        """See that no LUN has one of these identifiers, after `find` has found none.

        A disk that is emulated must not be passed through as well, so here it counts what is
        not known: a LUN that cannot be read may be the one, and so may all that are on a share
        that is not mounted.

        Args:
            wwids: The identifiers.
            named: Somebody named this root, so that it is one.

        Raises:
            StoreError: It may be that one has.
        """
        wanted = {_claim(wwid) for wwid in wwids}
        with self._lock:
            doubles = sorted(double for double in self._doubles if double[0] in wanted)
            unread = sorted(self._complaints.keys() - self._claims.keys())
            known = bool(self._claims)
        if doubles:
            claim, first, second = doubles[0]
            what = f"{claim} is claimed by two LUNs: {first}, {second}"
            raise Emulated(what, self._root, "delete one of the two")
        if unread:
            raise StateUnreadable(
                "lun.json cannot be read, so which disk it is is not known",
                os.path.join(self._root, unread[0]),
                "restore it from a backup, or run a newer flockpr",
            )
        if named and not known and not os.path.isdir(os.path.join(self._root, NUMBERS)):
            raise StoreUnavailable(
                "there was never a LUN in this root, so its share may not be mounted",
                self._root,
                "mount it; `flockpr lun create` makes a root known",
            )

    def table(self) -> dict[str, str]:
        """By device identifier or image path, the name of the LUN; read anew.

        An identifier that two LUNs claim belongs to neither: guessing could let two disks
        share one reservation.

        Raises:
            StoreError: The root cannot be listed, in time.
        """
        self._refresh(known=False)
        return dict(self._table)

    def _look_up(self, wanted: list[str]) -> str | None:
        table = self._table
        return next((table[claim] for claim in wanted if claim in table), None)

    def _look_up_former(self, wanted: list[str]) -> str | None:
        """Whose it was, while nobody claims it. That LUN's worker tells whether it was deleted,
        or is only missing: on a share that is not mounted, all are.
        """
        with self._lock:
            claimed = frozenset[str]().union(*self._claims.values())
            return next(
                (
                    name
                    for claim in wanted
                    for name, claims in self._former.items()
                    if claim in claims and claim not in claimed
                ),
                None,
            )

    def _check_all_read(self) -> None:
        """Saying "no such LUN" would be a lie if it may be the one that has not answered."""
        with self._lock:
            unread = sorted(self._late - self._claims.keys())
        if unread:
            path = os.path.join(self._root, unread[0])
            raise Busy("lun.json cannot be read in time", path, "check the mount")

    def _refresh(self, *, known: bool) -> None:
        """Wait for a newer table; not for long with an answer known, and not at all if
        somebody else began before: a root that hangs must not delay every command.
        """
        with self._lock:
            refreshing = self._refreshing
            if refreshing is None:
                refreshing = self._refreshing = Future()
                patience = min(KNOWN_PATIENCE, self._timeout) if known else self._timeout
                threading.Thread(
                    target=self._run, args=(refreshing,), name="device-index", daemon=True
                ).start()
            else:
                patience = 0.0 if known else self._timeout
        try:
            refreshing.result(patience)
        except TimeoutError:
            if known:
                return
            raise Busy("cannot be listed in time", self._root, "check the mount") from None

    def _run(self, future: Future[None]) -> None:
        try:
            self._read_all(list_names(self._root))
        except BaseException as error:  # noqa: BLE001 - or all who wait would wait for ever
            self._done()
            future.set_exception(error)
        else:
            self._read_at = time.monotonic()
            self._done()
            future.set_result(None)

    def _done(self) -> None:
        with self._lock:
            self._refreshing = None

    # ------------------------------------------------------------------ reading

    def _read_all(self, names: list[str]) -> None:
        """Read those that do not hang since an earlier time, all at once, within the bound."""
        with self._lock:
            self._forget_all_but(names)
            asked = {name for name in names if name not in self._readers}
            self._readers |= asked
        for name in asked:
            try:
                threading.Thread(
                    target=self._read, args=(name,), name=f"identity-{name}", daemon=True
                ).start()
            except RuntimeError:  # no more threads: as if it had not answered
                with self._lock:
                    self._readers.discard(name)
                    self._note_late(name)
        bound = min(self._timeout, READ_BOUND)
        with self._lock:
            self._lock.wait_for(lambda: not self._readers & asked, bound)
            for name in sorted(self._readers & asked):
                self._note_late(name)
            self._rebuild()

    def _read(self, name: str) -> None:
        claims: frozenset[str] | None = None
        passed, complaint = False, ""
        try:
            identity = read_identity(self._root, name)
            passed, claims = identity.passed, claims_of(self._root, identity)
        except LunNotFound:
            pass  # a directory of something else, an image's folder say; or gone
        except StoreError as error:
            complaint = str(error)
        except Exception as error:  # noqa: BLE001 - logged; the thread must sign off
            complaint = repr(error)
        with self._lock:
            self._readers.discard(name)
            self._note(name, claims, complaint)
            if claims is not None:
                (self._passed.add if passed else self._passed.discard)(name)
            if name in self._late:
                self._late.discard(name)
                log.info("%s: lun.json can be read again", name)
                self._rebuild()
            self._lock.notify_all()

    def _note(self, name: str, claims: frozenset[str] | None, complaint: str) -> None:
        """What cannot be read keeps what it claimed last: the LUN itself tells its trouble,
        and an identifier that two LUNs claim does not become one's by an error.
        """
        if complaint:
            if self._complaints.get(name) != complaint:
                log.warning("%s: %s", name, complaint)
            self._complaints[name] = complaint
            return
        self._complaints.pop(name, None)
        if claims is None:
            self._forget(name)
        else:
            self._claims[name] = claims
            self._former.pop(name, None)

    def _forget(self, name: str) -> None:
        if name in self._claims:
            self._former[name] = self._claims.pop(name)

    def _note_late(self, name: str) -> None:
        if name not in self._late:
            log.warning("%s: lun.json cannot be read in time; what it said last counts", name)
            self._late.add(name)

    def _forget_all_but(self, names: list[str]) -> None:
        for name in (self._claims.keys() | self._complaints.keys() | self._late) - set(names):
            self._forget(name)
            self._complaints.pop(name, None)
            self._late.discard(name)

    def _rebuild(self) -> None:
        """The table from all claims; called with the lock held."""
        table: dict[str, str] = {}
        doubles = set()
        for name, claims in sorted(self._claims.items()):
            for claim in claims:
                first = table.setdefault(claim, name)
                if first != name:
                    doubles.add((claim, first, name))
        for claim, first, second in sorted(doubles - self._doubles):
            log.error("%s is claimed by two LUNs: %s, %s", claim, first, second)
        self._doubles = doubles
        for claim, _, _ in doubles:
            table.pop(claim, None)
        self._table = table


def list_names(root: str) -> list[str]:
    """Names in a root that a LUN can have.

    Raises:
        StoreUnavailable: It is missing, or cannot be listed.
        StoreError: Something else stands in its place.
    """
    try:
        return sorted(name for name in os.listdir(root) if LUN_NAME.fullmatch(name))
    except FileNotFoundError:
        # Which disks are on a share that is not mounted is not known, so no disk is without
        # a LUN because of that.
        raise StoreUnavailable("this root does not exist", root, "mount the share") from None
    except OSError as error:
        raise files.unavailable(error, "cannot be listed", root) from error


def claims_of(root: str, identity: LunIdentity) -> frozenset[str]:
    """Everything by which a device of this LUN may be known."""
    claims = {_claim(wwid) for wwid in (identity.naa, *identity.wwids)}
    if identity.image is not None:
        path = os.path.join(root, identity.image)
        claims |= {os.path.abspath(path), os.path.realpath(path)}
    return frozenset(claims)


def _claim(wwid: str) -> str:
    """An identifier in the form that is compared: in lower case, unless it is a path."""
    return wwid if wwid.startswith("/") else wwid.lower()
