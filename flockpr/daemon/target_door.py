"""The target door inside the daemon: its portals, its server, what it says when it is ready."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import attrs

from flockpr.daemon.activation import PassedSocket
from flockpr.daemon.chap_file import Secrets, read_secrets
from flockpr.daemon.portals import (
    BoundPortal,
    close_portals,
    open_portals,
)
from flockpr.daemon.settings import Settings
from flockpr.daemon.target_settings import Lun
from flockpr.iscsi.settings import check_open_to_others

if TYPE_CHECKING:
    from flockpr.iscsi.server import TargetServer
    from flockpr.iscsi.settings import LunSettings, NexusMode
    from flockpr.units import Units


@attrs.frozen
class PreparedTarget:
    """What the target door needs of whoever starts the daemon: ports, and secrets.

    Attributes:
        portals: The listening sockets.
        secrets: Of CHAP.
    """

    portals: tuple[BoundPortal, ...]
    secrets: Secrets

    def close(self) -> None:
        """Stop listening."""
        close_portals(self.portals)


def prepare_target(settings: Settings, passed: Sequence[PassedSocket] = ()) -> PreparedTarget:
    """Read the secrets and listen, while the process is who started it.

    Args:
        settings: With a target.
        passed: TCP sockets from the service manager.

    Raises:
        ConfigError: The secrets cannot be used, a port cannot be had, or others could connect
            and need not prove who they are.
    """
    assert settings.target is not None
    target = settings.target
    secrets = Secrets() if target.chap is None else read_secrets(target.chap)
    portals = open_portals(settings.portals, passed)
    try:
        check_open_to_others(
            [portal.address for portal in portals],
            authenticated=bool(secrets.initiators),
            allowed=target.allow_unauthenticated,
        )
    except BaseException:
        close_portals(portals)
        raise
    return PreparedTarget(portals, secrets)


class TargetDoor:
    """Serves images; starts in a thread of its own, because images may hang.

    Args:
        settings: With a target.
        prepared: Portals and secrets.
        units: The logical units, shared with the other door.
        most: Connections that the limit of open files affords; None: the server finds out.
    """

    def __init__(
        self,
        settings: Settings,
        prepared: PreparedTarget,
        units: Units,
        *,
        most: int | None = None,
    ) -> None:
        from flockpr.iscsi.server import TargetServer
        from flockpr.iscsi.settings import Limits, Portal

        assert settings.target is not None
        target = settings.target
        self._server: TargetServer = TargetServer(
            settings.root,
            portals=[
                Portal(each.address.host, each.address.port, each.address.tag, each.socket)
                for each in prepared.portals
            ],
            luns=target.luns,
            settings={name: lun_settings(lun) for name, lun in settings.luns.items()},
            target_name=target.name,
            chap=prepared.secrets.initiators,
            mutual=prepared.secrets.target,
            allow_unauthenticated=target.allow_unauthenticated,
            terms=settings.terms,
            limits=Limits(
                connections=most if target.connections is None else target.connections,
                keepalive=target.keepalive,
            ),
            units=units,
        )
        self._fault: BaseException | None = None
        self._ready = threading.Event()
        # A daemon thread: one that hangs in the kernel must not keep the process from ending.
        self._thread = threading.Thread(target=self._start, name="target-start", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether it serves.

        Raises:
            FlockprError: It could not start.
            OSError: Likewise.
        """
        if self._fault is not None:
            raise self._fault
        return self._ready.is_set()

    @property
    def alive(self) -> bool:
        """Whether initiators are being accepted, or will be."""
        return not self._ready.is_set() or self._server.alive

    @property
    def portals(self) -> str:
        """Where it listens, for the log."""
        return " ".join(f"{each.text},{each.tag}" for each in self._server.addresses)

    def start(self) -> None:
        """Start to start; see `ready`."""
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait for the start to be over; whether it serves. Raises as `ready`."""
        self._thread.join(seconds)
        return self.ready

    def announce(self) -> None:
        """Print where it listens and what it serves, for scripts and people; then "ready"."""
        lines = [f"portal {each.text},{each.tag}" for each in self._server.addresses]
        lines += [url for _, urls in self._urls() for url in urls]
        with contextlib.suppress(OSError, ValueError):  # nobody has to listen
            sys.stdout.write("".join(f"{line}\n" for line in (*lines, "ready")))
            sys.stdout.flush()

    def document(self) -> dict[str, object]:
        """The same as `portals` and `luns`."""
        addresses = self._server.addresses
        return {
            "portals": [{"address": each.text, "tag": each.tag} for each in addresses],
            "luns": [{"name": name, "urls": urls} for name, urls in self._urls()],
        }

    def _urls(self) -> Iterator[tuple[str, list[str]]]:
        """Each logical unit, and its URL at each portal that has it."""
        for target in self._server.targets:
            for lun in target.luns.values():
                name, ports = lun.identity.name, lun.identity.target_ports
                yield (
                    name,
                    [
                        self._server.url(name, portal)
                        for portal, address in enumerate(self._server.addresses)
                        if address.tag in ports
                    ],
                )

    def stop_accepting(self) -> None:
        """Let nobody in any more; sessions go on."""
        self._server.stop_accepting()

    def stop(self, timeout: float) -> bool:
        """Let commands in execution end and log everybody out; False if some did not end."""
        self._thread.join(0)
        if self._thread.is_alive():
            return False  # it hangs, and would be hung after
        return self._server.stop(timeout)

    def _start(self) -> None:
        try:
            self._server.start()
            self._ready.set()
        except BaseException as error:  # noqa: BLE001, raised again where it is waited for
            self._fault = error


def lun_settings(lun: Lun) -> LunSettings:
    """What the target door needs to know of a table [lun.NAME]."""
    from flockpr.iscsi.settings import LunSettings

    return LunSettings(
        initiators=None if lun.initiators is None else frozenset(lun.initiators),
        nexus=cast("NexusMode", lun.nexus),
        read_only=lun.read_only,
        removable=lun.removable,
        physical_block_size=lun.physical_block_size,
    )
