"""The Ethernet segment between emulated machines: a hub over unix datagram sockets.

No frame enters the network of the host. A station can be cut off: its frames are dropped in
silence, both ways, while its network card still has a carrier, as when a switch dies.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

from attrs import define, field, frozen

_MTU = 65536
_BROADCAST_BIT = 1


@frozen
class Station:
    """One machine's place on the segment.

    Args:
        number: 1..254; makes its addresses.
        socket: Path that its QEMU binds.
    """

    number: int
    socket: Path

    @property
    def address(self) -> str:
        """IPv4 address, from the range that is reserved for documentation."""
        return f"192.0.2.{self.number}"

    def arguments(self, hub: Path) -> list[str]:
        """QEMU's arguments for a network card on the hub."""
        wire = f"local.type=unix,local.path={self.socket},remote.type=unix,remote.path={hub}"
        card = f"netdev=segment,romfile=,mac=52:54:00:00:00:{self.number:02x}"
        return ["-netdev", f"dgram,id=segment,{wire}", "-device", f"virtio-net-pci,{card}"]


@define
class Hub:
    """Forwards frames between its stations until it is closed.

    Args:
        path: Of its own socket; short.
    """

    path: Path
    _socket: socket.socket = field(init=False)
    _stations: dict[str, bool] = field(factory=dict, init=False)
    _deaf: set[str] = field(factory=set, init=False)
    _seen: dict[bytes, str] = field(factory=dict, init=False)
    _thread: threading.Thread = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._thread = threading.Thread(target=self._forward, name="hub", daemon=True)
        self._thread.start()

    def join(self, number: int) -> Station:
        """A new station."""
        station = Station(number, self.path.with_name(f"station{number}"))
        self._stations[str(station.socket)] = True
        return station

    def cut(self, station: Station) -> None:
        """Drop all frames from and to a station."""
        self._stations[str(station.socket)] = False

    def deafen(self, station: Station) -> None:
        """Drop all frames to a station: what it sends arrives."""
        self._deaf.add(str(station.socket))

    def mend(self, station: Station) -> None:
        """End a cut."""
        self._stations[str(station.socket)] = True
        self._deaf.discard(str(station.socket))

    def close(self) -> None:
        """Stop forwarding."""
        self._socket.shutdown(socket.SHUT_RDWR)  # ends the wait for a frame with nothing
        self._thread.join(60)
        self._socket.close()

    def _forward(self) -> None:
        while True:
            frame, source = self._socket.recvfrom(_MTU)
            if not frame:
                return
            if not self._stations.get(source):
                continue
            self._seen[frame[6:12]] = source
            known = None if frame[0] & _BROADCAST_BIT else self._seen.get(frame[:6])
            for target in [known] if known else list(self._stations):
                if target != source and self._stations.get(target) and target not in self._deaf:
                    self._deliver(frame, target)

    def _deliver(self, frame: bytes, target: str) -> None:
        # Its queue may be full, or it may be gone: Ethernet loses frames.
        with contextlib.suppress(OSError):
            self._socket.sendto(frame, socket.MSG_DONTWAIT, target)
