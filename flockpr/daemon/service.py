"""The running daemon: its logical units, a server for each socket, its end.

Imported once the sockets listen, because this is where everything else gets loaded, and before
privileges are given up.
"""

from __future__ import annotations

import codecs
import contextlib
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from flockpr import _collector
from flockpr._version import __version__
from flockpr.daemon.activation import Notifier
from flockpr.daemon.managers import GRACE, manager_of
from flockpr.daemon.qemu_options import announcement
from flockpr.daemon.settings import FILE_LOCK, Settings
from flockpr.daemon.sockets import Door
from flockpr.daemon.survey import start_survey
from flockpr.filesystems import declare
from flockpr.prhelper.connection import Limits
from flockpr.prhelper.identity import Identifier, port_from, rules_from
from flockpr.prhelper.server import HelperServer, affordable_connections, shared_desk
from flockpr.units import Units

if TYPE_CHECKING:
    from flockpr.daemon.metrics import MetricsServer
    from flockpr.daemon.target_door import PreparedTarget, TargetDoor

_log = logging.getLogger("flockpr.daemon")

ENDING = frozenset({signal.SIGTERM, signal.SIGINT})
CHECK_INTERVAL = 5.0
"""Seconds between two looks at the accepting threads, if no watchdog wants more."""
DESCRIPTORS = 1 << 20
"""As many open files as one daemon could ever use."""
LOAD_AFTER = 0.25
"""Seconds after which the rest is loaded: who started the daemon has had his first answer."""
START_INTERVAL = 0.05
"""Seconds between two looks whether the target door is ready."""


def preload(*, with_target: bool = False, managers: Collection[str] = ()) -> None:
    """Load what the first commands may take, and the doors that are asked for."""
    import traceback  # noqa: F401

    if set(managers) - {FILE_LOCK}:
        import flockpr.manager.ioc_pr
        import flockpr.manager.mpath
        import flockpr.manager.sgio

    if with_target:
        import hashlib

        import flockpr.iscsi.server  # noqa: F401

        hashlib.md5(b"", usedforsecurity=False)  # OpenSSL's modules, for CHAP
    for name in ("ascii", "latin-1", "utf-8"):
        codecs.lookup(name)


def preload_rest() -> None:
    """Load what is otherwise loaded by the first command that locks something, takes access
    away, or names a port of another protocol.

    Where privileges are given up, it must be before that: a service user may not be allowed to
    where Python is installed. Elsewhere it is soon after the start: the first command is answered
    sooner without, and later another version may be installed.
    """
    import flockpr.gate.clustered
    import flockpr.gate.narrowing
    import flockpr.spc.fixed_ids  # noqa: F401
    from flockpr.store.presence import load_locks

    load_locks()


class Service:
    """Serves doors until a signal ends it.

    Args:
        settings: What was configured.
        doors: The listening sockets; the servers close them.
        notifier: Whom to tell.
        target: Portals and secrets of the target door, if there is one; the door closes them.
        hangup_ends: Whether SIGHUP is an end.
        metrics: Where its own numbers are to be had.

    Raises:
        ConfigError: They cannot be had there.
    """

    def __init__(
        self,
        settings: Settings,
        doors: Sequence[Door],
        notifier: Notifier,
        target: PreparedTarget | None = None,
        *,
        hangup_ends: bool,
        metrics: str | None = None,
    ) -> None:
        self._settings = settings
        self._notifier = notifier
        self._hangup_ends = hangup_ends
        self._metrics: MetricsServer | None = None
        if metrics is not None:
            from flockpr.daemon.metrics import MetricsServer, plain, render

            self._metrics = MetricsServer(metrics, plain(render))
        _raise_descriptor_limit()
        serve = settings.serve
        declare(settings.terms)
        self._units = Units(settings.root, timeout=serve.timeout, host=serve.host)
        # All doors draw on one limit: a crowd at one must not keep others from being accepted.
        each = affordable_connections(len(doors) + (target is not None))
        self._limits = Limits(connections=each, command=serve.timeout + GRACE)
        self._luns = [door.served.lun for door in doors if door.served.lun is not None]
        self._desk = shared_desk()
        self._servers = [self._server(door) for door in doors]
        self._target: TargetDoor | None = None
        if target is not None:
            from flockpr.daemon.target_door import TargetDoor

            most = each if doors else None  # alone it can reckon with its images
            self._target = TargetDoor(settings, target, self._units, most=most)

    def start(self) -> bool:
        """Accept on every door, and say that the daemon is ready.

        Returns:
            False if a signal ended it before the target door was ready.

        Raises:
            FlockprError: The target door cannot start.
            OSError: Likewise.
        """
        for server in self._servers:
            server.start()
        if self._metrics is not None:
            self._metrics.start()
        if self._target is not None and not self._start_target(self._target):
            return False
        _log.info(
            "ready",
            extra={
                "version": __version__,
                "root": self._settings.root,
                "pid": os.getpid(),
                "uid": os.geteuid(),
                "config": ",".join(self._settings.files) or "none",
                **({} if self._target is None else {"portals": self._target.portals}),
            },
        )
        self._notifier.ready(f"serving {self._settings.root}")
        start_survey(self._settings.root, self._luns, self._settings.terms)
        return True

    def _start_target(self, target: TargetDoor) -> bool:
        """Wait for the target door: a root or image that hangs must not keep a signal from
        ending the daemon, nor the other door from serving.
        """
        target.start()
        try:
            while not target.wait(START_INTERVAL):
                received = signal.sigtimedwait(ENDING, 0)
                if received is not None and received.si_signo in ENDING:
                    self._end(signal.Signals(received.si_signo).name, received.si_pid)
                    return False
                if self._notifier.watchdog is not None:
                    self._notifier.alive()
        except BaseException:
            self._drain(0.0)
            raise
        return True

    def _end(self, name: str, sender: int) -> None:
        """End before everything was ready."""
        _log.info("%s: ending", name, extra={"sender": sender})
        self._notifier.stopping()
        self._drain(self._settings.serve.drain)
        _log.info("ended", extra={"code": 0})

    def announce(self) -> None:
        """Print what the target serves; or what to give QEMU, if nobody gave an option at all."""
        if self._target is not None:
            self._target.announce()
        if not self._servers or not self._settings.all_defaults:
            return
        with contextlib.suppress(OSError, ValueError):  # nobody has to listen
            sys.stdout.write(announcement(self._settings))
            sys.stdout.flush()

    def document(self) -> dict[str, object]:
        """What is served: the root, the process, its sockets, portals and logical units."""
        target: dict[str, object] = {"portals": [], "luns": []}
        return {
            "root": self._settings.root,
            "pid": os.getpid(),
            "sockets": [server.path for server in self._servers],
            **(target if self._target is None else self._target.document()),
        }

    def run(self) -> int:
        """Wait for the end and carry it out; 0, or 1 if a door could not be kept open."""
        code = self._wait()
        self._notifier.stopping()
        self._drain(self._settings.serve.drain)
        _log.info("ended", extra={"code": code})
        return code

    def _server(self, door: Door) -> HelperServer:
        served, settings = door.served, self._settings
        manager = manager_of(served, settings, self._units)
        identifier = Identifier(
            explicit=None if served.initiator is None else port_from(served.initiator),
            rules=rules_from(settings.initiators),
            host=settings.serve.host,
        )
        return HelperServer(
            door.listener, manager, identifier, limits=self._limits, desk=self._desk
        )

    def _wait(self) -> int:
        """Until a signal ends it (0) or an accepting thread has died (1)."""
        watchdog = self._notifier.watchdog
        interval = min(CHECK_INTERVAL, (watchdog or CHECK_INTERVAL) / 3)
        settled = False
        while True:
            for server in self._servers:
                if not server.alive:
                    # Nobody would be served any more: end, to be started again.
                    _log.error("%s does not accept any more; giving up", server.path)
                    return 1
            if self._target is not None and not self._target.alive:
                _log.error("the target door does not accept any more; giving up")
                return 1
            if watchdog is not None:
                self._notifier.alive()
            awaited = {*ENDING, signal.SIGHUP}
            received = signal.sigtimedwait(awaited, interval if settled else LOAD_AFTER)
            if received is None and not settled:
                _settle_in()
                settled = True
            # Python gives back a siginfo that nothing was written to where the wait was
            # interrupted beyond its end: the process was stopped and went on, or was traced.
            if received is None or received.si_signo not in awaited:
                continue
            name = signal.Signals(received.si_signo).name
            if received.si_signo in ENDING or self._hangup_ends:
                _log.info("%s: ending", name, extra={"sender": received.si_pid})
                return 0
            _log.info("%s: there is nothing to reload; restart to change anything", name)

    def _drain(self, seconds: float) -> None:
        """Let commands in execution end, within `seconds` for all of them together."""
        deadline = time.monotonic() + seconds
        if self._metrics is not None:
            self._metrics.stop()
        for server in self._servers:  # all at first: no door stays open while another drains
            server.stop_accepting()
        if self._target is not None:
            self._target.stop_accepting()
        answered = [server.stop(max(0.0, deadline - time.monotonic())) for server in self._servers]
        if all(answered):
            self._desk.stop()
        if self._target is not None and not self._target.stop(
            max(0.0, deadline - time.monotonic())
        ):
            _log.warning("an image or an initiator did not let the target end; ending without it")
        if not self._units.close(max(0.0, deadline - time.monotonic())):
            _log.warning("a logical unit still waits for its storage; ending without it")


def _settle_in() -> None:
    """From here on it is as if there had been no start."""
    _collector.as_usual()
    try:
        preload_rest()
    except (ImportError, OSError) as error:  # a crowd has all descriptors, say
        _log.warning("not loaded, and tried again with the first command: %s", error)


def _raise_descriptor_limit() -> None:
    """Every connection costs descriptors, and the default limit is meant for select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
