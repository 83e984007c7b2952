"""Which logical unit a tool was pointed at, and as whom it speaks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from flockpr.core.model import Nexus
from flockpr.errors import ConfigError, LunNotFound
from flockpr.spc.transport_id import InitiatorPort
from flockpr.store.identity import HELPER_PORT, TARGET_PORT, LunIdentity
from flockpr.store.layout import IDENTITY, LUN_NAME
from flockpr.store.listing import read_identity

if TYPE_CHECKING:
    from flockpr.daemon.settings import Settings

INITIATOR, TARGET = "FLOCKPR_INITIATOR", "FLOCKPR_TARGET_PORT"
ROOT, LUN = "FLOCKPR_ROOT", "FLOCKPR_LUN"


@attrs.frozen
class Place:
    """A logical unit, and the nexus that works on it.

    Attributes:
        root: The root, absolute.
        identity: Of the logical unit.
        nexus: Initiator port and target port.
    """

    root: str
    identity: LunIdentity
    nexus: Nexus

    @property
    def directory(self) -> str:
        """The lock directory."""
        return os.path.join(self.root, self.identity.name)


class _Configuration:
    """The configuration, read when something is asked that the environment does not say."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._settings: Settings | None = None

    @property
    def settings(self) -> Settings:
        """Everything; loading it costs more than a command does."""
        if self._settings is None:
            from flockpr.daemon.config import load_settings

            self._settings = load_settings(environ=self._environ)
        return self._settings

    def root(self) -> str:
        """The root."""
        stated = self._environ.get(ROOT)
        return os.path.abspath(stated) if stated else self.settings.root

    def lun(self) -> str | None:
        """The logical unit that every device is."""
        return self._environ.get(LUN) or self.settings.serve.lun

    def initiator(self) -> str:
        """The name of the initiator port."""
        stated = self._environ.get(INITIATOR) or self.settings.serve.initiator
        if not stated:
            raise ConfigError(
                "no initiator: nothing says which node this is",
                f"set {INITIATOR}=iqn.2026-01.org.example:node1, another name for each node, or "
                "`initiator` in [serve]",
            )
        return stated


def root_of(environ: Mapping[str, str]) -> str:
    """The root, from the environment or the configuration.

    Raises:
        ConfigError: The configuration is wrong.
    """
    return _Configuration(environ).root()


def find(device: str, environ: Mapping[str, str] | None = None) -> Place:
    """Find the logical unit and the nexus.

    Args:
        device: Name of a logical unit of the root; or a path: of its lock directory, of its
            image, or of a device that carries one of its identifiers, or of any device where
            `lun` in [serve] names the logical unit of all.
        environ: The environment, by default the process's.

    Raises:
        ConfigError: The configuration is wrong, or nothing says which initiator this is.
        LunNotFound: There is no such logical unit.
        StoreError: It, or the root, cannot be read.
    """
    environ = os.environ if environ is None else environ
    configuration = _Configuration(environ)
    root, name = _lock_directory(device) or (configuration.root(), None)
    if name is None:
        name = device if LUN_NAME.fullmatch(device) else _by_path(root, device, configuration)
    identity = read_identity(root, name)
    return Place(root, identity, _nexus(configuration.initiator(), identity, environ))


def _lock_directory(device: str) -> tuple[str, str] | None:
    """Root and name, where the path is that of a lock directory."""
    path = os.path.abspath(device)
    if os.sep in device and os.path.isfile(os.path.join(path, IDENTITY)):
        return os.path.dirname(path), os.path.basename(path)
    return None


def _by_path(root: str, device: str, configuration: _Configuration) -> str:
    from flockpr.device_index import DeviceIndex
    from flockpr.manager.device import identify_device

    path = os.path.abspath(device)
    try:
        # Not opened for reading: that takes rights, and wakes up what is behind a device.
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if (name := configuration.lun()) is not None:
            return name
        what = f"is no path that is there ({error.strerror}), and no name of a logical unit"
        raise LunNotFound(what, path, _REMEDY) from None
    try:
        candidates = identify_device(descriptor).candidates
    finally:
        os.close(descriptor)
    name = DeviceIndex(root, timeout=10.0).find((*candidates, path, os.path.realpath(path)))
    name = name or configuration.lun()
    if name is None:
        names = ", ".join(candidates) or "nothing that other hosts would know it by"
        raise LunNotFound(f"no logical unit in {root} is this ({names})", path, _REMEDY)
    return name


_REMEDY = "`flockpr lun list` shows names, images and identifiers; FLOCKPR_ROOT says which root"


def _nexus(initiator: str, identity: LunIdentity, environ: Mapping[str, str]) -> Nexus:
    """A disk that a target serves is spoken to as if through the target's port."""
    stated = environ.get(TARGET)
    port = TARGET_PORT if TARGET_PORT in identity.target_ports else HELPER_PORT
    if stated:
        ports = [str(number) for number in identity.target_ports]
        if stated not in ports:
            raise ConfigError(
                f"{TARGET}={stated}: {identity.name} has no such target port",
                f"it has {', '.join(ports)}",
            )
        port = int(stated)
    try:
        return Nexus(InitiatorPort.from_text(initiator), port)
    except ValueError as error:
        raise ConfigError(f"initiator {initiator!r}: {error}") from None
