"""Is the root there? Asked once at the start, and in bounded time."""

from __future__ import annotations

import logging
import os
import threading

from flockpr.daemon.settings import Settings
from flockpr.errors import ConfigError, FlockprError, StoreError, Unproven
from flockpr.filesystems import Gated
from flockpr.filesystems.rules import Answer
from flockpr.filesystems.terms import ALLOW, refusal
from flockpr.probe import kept  # now: the user that is served as may not read it later

_log = logging.getLogger("flockpr.daemon")

PATIENCE = 2.0
"""Seconds for a root to answer; a command may still wait for it longer than that."""


def check_root(settings: Settings, patience: float = PATIENCE, *, gated: bool = False) -> None:
    """Make the default root, or look whether the given one can be used.

    A root that somebody named is never made: where it is missing, the share is not mounted,
    and a directory under its mount point would be an empty root on this host alone, in which
    every reservation of the other hosts seems to be gone.

    A root that does not answer is no reason to end: commands to it are answered in bounded
    time, and its server may come back.

    Args:
        settings: The root, and what the operator declared.
        patience: Seconds for it to answer.
        gated: There is a target door.

    Raises:
        ConfigError: It is not there, is no directory, or not for this user.
        Unproven: Nothing can be promised on its file system.
    """
    outcome: list[FlockprError] = []

    def look() -> None:
        try:
            _look(settings.root, make=settings.root_is_default)
            _judge(settings, gated=gated)
            _ask_probes(settings, gated=gated)
            _check_devices(settings)
        except FlockprError as error:
            outcome.append(error)

    # A daemon thread: one that hangs in the kernel must not keep the process from ending.
    thread = threading.Thread(target=look, name="check-root", daemon=True)
    thread.start()
    thread.join(patience)
    if outcome:
        raise outcome[0]
    if thread.is_alive():
        _log.warning("%s does not answer; serving all the same", settings.root)


def _judge(settings: Settings, *, gated: bool) -> None:
    """Say what can be promised on the file system of the root, and refuse where that is nothing."""
    root, terms = settings.root, settings.terms
    try:
        promise = terms.promise(root)
    except OSError as error:
        _log.warning("%s: %s; its file system is not known", root, error.strerror)
        return
    if gated and promise.gated is Gated.NO:
        if not terms.allow_unproven:
            raise refusal(root, promise)
        _log.error("%s: %s; SERVED ALL THE SAME, as was allowed", root, promise.line())
    if promise.advisory is Answer.NO and not terms.allow_unproven:
        raise Unproven(
            f"{root}: reservations cannot be kept on {promise.filesystem}: "
            + "; ".join(promise.advisory_reasons),
            "; ".join((*promise.remedies, ALLOW)),
        )
    if promise.advisory is not Answer.YES and not promise.one_host:
        _log.warning(
            "%s: reservations are recorded on %s; other hosts may not see them: %s",
            root,
            promise.filesystem,
            "; ".join(promise.advisory_reasons),
        )


def _ask_probes(settings: Settings, *, gated: bool) -> None:
    """Refuse where a probe on this host has seen that what is promised does not hold."""
    found = kept.find(settings.root, settings.terms.sources)
    if found is None:
        return
    if not any(map(found.current, found.results)):
        _log.warning(
            "%s: was probed with another mount or other options, last at %s: probe it again",
            settings.root,
            found.results[0].time,
        )
    failed = found.failed("advisory") or (found.failed("gated") if gated else ())
    if failed:
        raise Unproven(
            f"{settings.root}: `flockpr probe` has seen that it will not do: {'; '.join(failed)}",
            "mend it and run `flockpr probe` there again; `flockpr probe DIR --forget` removes "
            f"what it found ({found.path})",
        )


def _check_devices(settings: Settings) -> None:
    """Refuse to pass on what a logical unit of the root says is emulated.

    Each command is checked as well: a logical unit can be created later.
    """
    if not settings.devices:
        return
    # Only now: the socket must listen soon. And `preload` has it for another user.
    from flockpr.device_index import claims_of
    from flockpr.store.listing import list_luns

    passed = {name.lower(): name for name in settings.devices}
    try:
        emulated = [listing.identity for listing in list_luns(settings.root)]
    except StoreError as error:
        _log.warning("%s; it is not known whether a device of [devices] is emulated", error)
        return
    for identity in emulated:
        both = passed.keys() & claims_of(settings.root, identity) if identity is not None else ()
        if identity is not None and both:
            raise ConfigError(
                f"devices.{passed[min(both)]}: is the logical unit {identity.name} of"
                f" {settings.root}, which is emulated",
                "a disk is emulated or passed on, and never both: take the line away, or delete"
                " the logical unit on a host where no guest has the disk",
            )


def _look(root: str, *, make: bool) -> None:
    try:
        if make:
            os.makedirs(root, 0o700, exist_ok=True)
        if not os.path.isdir(root):
            os.stat(root)  # for the errno
            raise ConfigError(f"{root}: the root is not a directory")
        if not os.access(root, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            os.listdir(root)  # for the errno
            _log.warning("%s: not writable; what would change reservations will fail", root)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{root}: no such root (mount the share, or make the directory with mode 0700)"
        ) from error
    except PermissionError as error:
        raise ConfigError(
            f"{root}: the root is not accessible to user {os.geteuid()} group {os.getegid()}"
            " (on an export that squashes root, set user and group in [serve])"
        ) from error
    except OSError as error:
        _log.warning("%s: %s; serving all the same", root, error.strerror)
