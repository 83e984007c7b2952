"""Which LUNs of the root are served: found at the start, and looked for again from then on.

A look costs one reading of the root's directory, whatever is in it: it tells by the inode numbers
that come along whether a LUN that is served is still the same. Only what is not served is opened.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from flockpr.errors import ConfigError, FlockprError, LunNotFound, ServedElsewhere, StoreError
from flockpr.iscsi.sessions import SessionRegistry
from flockpr.iscsi.settings import LunSettings
from flockpr.iscsi.targets import Lun, TargetMap
from flockpr.iscsi.tasks import Drain, Ending
from flockpr.store import files
from flockpr.store.identity import LunIdentity
from flockpr.store.layout import DELETED_PREFIX, LUN_NAME
from flockpr.store.listing import list_luns, read_identity
from flockpr.units import Units

log = logging.getLogger(__name__)

DOOR = "iscsi"


class Inventory:
    """The LUNs of a server, which come and go. Thread-safe.

    Args:
        root: The root directory.
        names: Those to serve; None: every one that has an image.
        tags: Of the portals.
        settings: What differs per LUN, by name.
        targets: Where they are served.
        registry: The sessions that are told.
        make: Opens the disk of a LUN; raises `FlockprError` and `OSError`.
        patience: Seconds that commands for a LUN that was deleted get to end.
    """

    def __init__(
        self,
        root: str,
        *,
        names: Sequence[str] | None,
        tags: Collection[int],
        settings: Mapping[str, LunSettings],
        targets: TargetMap,
        registry: SessionRegistry,
        make: Callable[[LunIdentity, LunSettings], Lun],
        patience: float,
    ) -> None:
        self.root = root
        self._names = names
        self._tags = frozenset(tags)
        self._settings = settings
        self._targets = targets
        self._registry = registry
        self._make = make
        self._patience = patience
        self._scanning = threading.Lock()
        self._lock = threading.Lock()
        self._closed = False
        self._inodes: dict[str, int] = {}
        self._complaints: dict[str, str] = {}
        self._elsewhere: dict[str, str] = {}

    def close(self) -> None:
        """Serve nothing more; never waits for a look that hangs."""
        with self._lock:
            self._closed = True

    # ------------------------------------------------------------------ the start

    def load(self) -> None:
        """Serve what there is.

        Raises:
            StoreError: The root, or a LUN that was named, cannot be served.
            ConfigError: A LUN that was named has no image, or no portal offers it.
            OSError: The system refused.
        """
        if self._names is not None:
            named = [read_identity(self.root, name) for name in self._names]
            for identity in named:
                self._add(_with_image(identity))
            return
        for listing in list_luns(self.root):
            if listing.identity is None:
                self._complain(listing.name, listing.error)
            elif listing.identity.image is not None:
                self._try_to_add(listing.identity)

    # ------------------------------------------------------------------ later

    def rescan(self, units: Units) -> None:
        """Serve what was added to the root, or could not be served before; let go of what was
        deleted. What cannot be served is logged, once.

        Args:
            units: The root's logical units.

        Raises:
            StoreError: The root cannot be read; all stays as it is.
        """
        with self._scanning:
            if self._closed:
                return
            found = self._look()
            for lun in self._targets.luns:
                if self._is_gone(lun, found):
                    self._let_go(lun, units)
            served = {lun.identity.name for lun in self._targets.luns}
            for name in found.keys() - served:
                if self._names is None or name in self._names:
                    self._pick_up(name)
            self._complaints = {n: why for n, why in self._complaints.items() if n in found}
            self._elsewhere = {n: which for n, which in self._elsewhere.items() if n in found}

    def _look(self) -> dict[str, int]:
        """What may be LUNs, with the inode numbers that the directory itself tells."""
        try:
            with os.scandir(self.root) as entries:
                return {
                    entry.name: entry.inode() for entry in entries if LUN_NAME.fullmatch(entry.name)
                }
        except OSError as error:
            raise files.unavailable(error, "cannot be listed", self.root) from error

    def _is_gone(self, lun: Lun, found: Mapping[str, int]) -> bool:
        """Whether a LUN that is served was deleted. A name that is missing does not say so: the
        share may be unmounted for a moment.
        """
        name = lun.identity.name
        inode = found.get(name)
        if inode is not None and self._inodes.get(name) == inode:
            return False
        try:
            identity = read_identity(self.root, name)
        except LunNotFound:
            return lun.disk.deleted() or self._is_trash(lun.identity)
        except StoreError:
            return False
        if identity.incarnation != lun.identity.incarnation:
            return True  # and made anew
        if inode is not None:
            self._inodes[name] = inode
        return False

    def _is_trash(self, identity: LunIdentity) -> bool:
        """Whether a LUN lies where deleted ones do: an NFS client that has files of it open
        cannot remove its directory.
        """
        trash = f"{DELETED_PREFIX}{identity.name}-{identity.incarnation}"
        return os.path.lexists(os.path.join(self.root, trash))

    def _pick_up(self, name: str) -> None:
        try:
            identity = read_identity(self.root, name)
        except LunNotFound:
            return  # the folder of the images, say
        except StoreError as error:
            self._complain(name, error)
            return
        if identity.image is None or self._elsewhere.get(name) == identity.incarnation:
            return
        self._try_to_add(identity)

    def _let_go(self, lun: Lun, units: Units) -> None:
        """Serve a LUN no more: its sessions stay, and do not find it (05/25/00)."""
        name = lun.identity.name
        log.info("%s was deleted: it is not served any more", name)
        self._targets.remove(lun)
        self._registry.refresh()
        lun.tasks.close()
        ended = threading.Event()
        drain = Drain(lambda _all: ended.set())
        lun.tasks.abort(lambda _task: Ending.TASK_ABORTED, drain)
        drain.one_ended()
        # What is being written must not land in the next LUN that has this image.
        if not ended.wait(self._patience):
            log.warning("%s: commands are still in execution", name)
        lun.disk.close()
        # Its sessions have left it by now, so that nobody asks for it by this name.
        units.forget(name, DOOR)
        self._inodes.pop(name, None)

    # ------------------------------------------------------------------ one LUN

    def _try_to_add(self, identity: LunIdentity) -> None:
        try:
            self._add(identity)
        except ServedElsewhere as error:
            # That its claim ends some day says nothing about that host's last writes: where
            # nothing fences them, a person has to say that it is this host's turn.
            self._elsewhere[identity.name] = identity.incarnation
            self._complain(identity.name, error)
            log.error("%s is not served until this target is started again", identity.name)
        except (FlockprError, OSError) as error:
            self._complain(identity.name, error)

    def _add(self, identity: LunIdentity) -> None:
        missing = self._tags - set(identity.target_ports)
        if missing == self._tags:
            raise ConfigError(
                f"{identity.name} is offered by none of these portals: its target ports are "
                f"{list(identity.target_ports)}, not {sorted(self._tags)}"
            )
        lun = self._make(identity, self._settings.get(identity.name, LunSettings()))
        with contextlib.ExitStack() as undo:
            undo.callback(lun.disk.close)
            with self._lock:
                if self._closed:
                    return  # nobody would close its disk later
                target = self._targets.add(lun)
            undo.pop_all()
        self._complaints.pop(identity.name, None)
        for tag in sorted(missing):
            log.warning("%s has no target port %d: not offered there", identity.name, tag)
        log.info("serving %s as LUN %d of %s", identity.name, identity.lun, target.name)
        self._registry.refresh()

    def _complain(self, name: str, error: Exception | None) -> None:
        """Log why a LUN is not served, once for as long as it stays so."""
        why = str(error)
        if self._complaints.get(name) != why:
            log.error("%s is not served: %s", name, why)
        self._complaints[name] = why


class Watch:
    """A thread of its own that looks again and again: a root that hangs holds up nobody else.

    Args:
        interval: Seconds between two looks, more or less: the targets of two hosts that look at
            the same moment keep each other out.
        look: Looks; what it raises is logged, once for as long as it stays so.
        name: Of the thread.
    """

    def __init__(
        self, interval: float, look: Callable[[], None], name: str = "iscsi-inventory"
    ) -> None:
        self._interval = interval
        self._look = look
        self._over = threading.Event()
        self._told = ""
        # A daemon thread: one that hangs in the kernel must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start to look."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Look no more. Idempotent.

        Args:
            timeout: Seconds to wait for a look that is under way.

        Returns:
            Whether the thread has ended.
        """
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._over.wait(self._interval * random.uniform(0.75, 1.25)):  # noqa: S311 - jitter
            try:
                self._look()
                self._told = ""
            except StoreError as error:
                if str(error) != self._told:
                    log.warning("no new logical units are found: %s", error)
                self._told = str(error)
            except Exception:
                log.exception("internal error")


def _with_image(identity: LunIdentity) -> LunIdentity:
    if identity.image is None:
        raise ConfigError(f"{identity.name} has no image: there is nothing to serve")
    return identity
