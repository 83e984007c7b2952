"""The two doors in the test's own process."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Self

from flockpr.iscsi.server import TargetServer
from flockpr.iscsi.settings import Portal
from flockpr.manager.file_lock import FileLockManager
from flockpr.prhelper.client import HelperClient
from flockpr.prhelper.identity import Identifier
from flockpr.prhelper.listener import Listener
from flockpr.prhelper.server import HelperServer
from flockpr.pytest_plugin.lun import Lun
from flockpr.pytest_plugin.nexus import Nexus, full_name
from flockpr.spc.transport_id import InitiatorPort
from flockpr.store.identity import TARGET_PORT
from flockpr.units import Units

STOP_SECONDS = 8.0
"""For commands in execution, when a door is stopped."""


class TargetDoor:
    """An iSCSI target on a free port of the loopback; a context manager.

    Args:
        lun: The logical unit that it serves; has an image.
    """

    def __init__(self, lun: Lun) -> None:
        self._lun = lun
        self._server: TargetServer | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """``iscsi://127.0.0.1:PORT/NAME/LUN``."""
        assert self._server is not None, "the target is stopped"
        return self._server.url(self._lun.name)

    def start(self) -> None:
        """Start it, on the port that it had."""
        portal = Portal(host="127.0.0.1", port=self._port, tag=TARGET_PORT)
        self._server = TargetServer(self._lun.root, portals=[portal])
        self._port = self._server.start()[0].port
        self._lun.note("target", f"* serves at port {self._port}")

    def stop(self) -> None:
        """Stop it; initiators are logged out."""
        if self._server is not None:
            self._server.stop(STOP_SECONDS)
            self._server = None
            self._lun.note("target", "* stopped")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class HelperDoor:
    """A pr-manager-helper on a Unix socket; a context manager.

    Args:
        lun: The logical unit of every descriptor.
        initiator: Whose every command is; `act_as` changes it for later connections.
    """

    def __init__(self, lun: Lun, initiator: str = "guest") -> None:
        self._lun = lun
        self._initiator = full_name(initiator)
        self._directory = tempfile.mkdtemp(prefix="flockpr-")
        self._units: Units | None = None
        self._server: HelperServer | None = None

    @property
    def socket(self) -> str:
        """Path of its socket."""
        return os.path.join(self._directory, "pr.sock")

    def client(self) -> HelperClient:
        """A connection to it, as QEMU makes one."""
        return HelperClient(self.socket)

    def act_as(self, nexus: Nexus | str) -> None:
        """Start anew, with another initiator."""
        self.stop()
        self._initiator = nexus.initiator if isinstance(nexus, Nexus) else full_name(nexus)
        self.start()

    def start(self) -> None:
        """Start it."""
        self._units = Units(self._lun.root)
        manager = FileLockManager(
            "flockpr-test",
            units=self._units,
            lun=self._lun.name,
            target_port=self._lun.target_port,
            door="helper",
            report_attentions=True,
            long_parameter_length=False,
        )
        identifier = Identifier(explicit=InitiatorPort(self._initiator))
        self._server = HelperServer(Listener.bind(self.socket), manager, identifier)
        self._server.start()
        self._lun.note("helper", f"* answers for {self._initiator}")

    def stop(self) -> None:
        """Stop it; its socket is gone."""
        if self._server is not None and self._units is not None:
            self._server.stop(STOP_SECONDS)
            self._units.close(STOP_SECONDS)
            self._server = self._units = None
            self._lun.note("helper", "* stopped")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)
