"""A helper socket on this host whose helper runs in an emulated machine.

QEMU passes a file descriptor with every command, and a descriptor cannot cross into a machine.
So this side drops it and sends the bytes on through TCP, to a port of 127.0.0.1 that QEMU's
user network forwards into the machine, where ``guest/bridge.py`` puts another one in its place.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

from attrs import define, field

BRIDGE_ADDRESS = "10.0.2.15"
BRIDGE_PORT = 7000
_PIECE = 65536


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def arguments(port: int) -> list[str]:
    """QEMU's arguments for a second network card: this port leads to the bridge, nothing else.

    Args:
        port: Of 127.0.0.1.
    """
    return forwarding({port: BRIDGE_PORT})


def forwarding(ports: Mapping[int, int]) -> list[str]:
    """QEMU's arguments for a second network card, over which nothing but these ports leads.

    Args:
        ports: Ports of 127.0.0.1, and to which port of the machine each leads.
    """
    forwards = "".join(
        f",hostfwd=tcp:127.0.0.1:{port}-{BRIDGE_ADDRESS}:{inside}" for port, inside in ports.items()
    )
    card = "netdev=tunnel,romfile=,mac=52:54:00:01:00:01"
    return ["-netdev", f"user,id=tunnel,restrict=on{forwards}", "-device", f"virtio-net-pci,{card}"]


@define
class Tunnel:
    """Listens for QEMU and passes its bytes on until it is closed.

    Args:
        path: Of the unix socket for QEMU's ``pr-manager-helper``; short.
        port: Of 127.0.0.1, leads into the machine.
    """

    path: Path
    port: int
    _listener: socket.socket = field(init=False)
    _thread: threading.Thread = field(init=False)
    _open: set[socket.socket] = field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(8)
        self._thread = threading.Thread(target=self._accept, name="tunnel", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the socket and every connection through it."""
        for connection in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits on it
        self._thread.join(60)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.socket(socket.AF_INET, socket.SOCK_STREAM) as far:
            pair = {near, far}
            self._open |= pair
            with contextlib.suppress(OSError):
                far.connect(("127.0.0.1", self.port))
                far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                back = threading.Thread(target=_pump, args=(far, near), daemon=True)
                back.start()
                _pump(near, far)
                back.join()
            self._open -= pair


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Copy bytes one way, dropping descriptors; at the end close both ways."""
    with contextlib.suppress(OSError):
        while True:
            data, descriptors, _, _ = socket.recv_fds(source, _PIECE, 1)
            for descriptor in descriptors:
                os.close(descriptor)
            if not data:
                break
            target.sendall(data)
    for connection in (source, target):
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
