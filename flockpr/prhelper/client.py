"""The other end of the helper protocol: what QEMU does, for the demo, for tests, for tools.

It shares no code with the server on purpose: a mistake in the framing that both ends made
together would go unseen, and would abort a QEMU.
"""

from __future__ import annotations

import array
import socket
import struct
from types import TracebackType
from typing import Self

import attrs

from flockpr.errors import ProtocolViolation

_WORD = struct.Struct(">I")
_REPLY = struct.Struct(">ii96s")
CDB_LENGTH = 16


@attrs.frozen
class HelperReply:
    """One response.

    Attributes:
        status: SCSI status code (SAM-5 5.3.1).
        sense: The 96 bytes of sense data; they mean something only with CHECK CONDITION.
        data_in: The payload of PERSISTENT RESERVE IN.
    """

    status: int
    sense: bytes
    data_in: bytes

    @property
    def sense_code(self) -> tuple[int, int, int]:
        """Sense key, ASC and ASCQ of fixed (70h) or descriptor (72h) sense data."""
        if self.sense[0] & 0x7F in (0x72, 0x73):
            return self.sense[1] & 0x0F, self.sense[2], self.sense[3]
        return self.sense[2] & 0x0F, self.sense[12], self.sense[13]


class HelperClient:
    """A connection to a helper: one command at a time, in order, as QEMU sends them.

    Args:
        path: Path of the helper's socket.
        timeout: Seconds that any single send or receive may take.
        features: Feature bits to request in the handshake.

    Raises:
        OSError: Nobody accepts on the socket.
        ProtocolViolation: The helper closed during the handshake.
    """

    def __init__(self, path: str, *, timeout: float = 60.0, features: int = 0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            (self.offered,) = _WORD.unpack(self._receive(_WORD.size))
            self._socket.sendall(_WORD.pack(features))
        except BaseException:
            self._socket.close()
            raise

    def execute(self, descriptor: int, cdb: bytes, data_out: bytes = b"") -> HelperReply:
        """Send one command and wait for its response.

        Args:
            descriptor: The device; the helper gets a duplicate of it.
            cdb: The command, at most 16 bytes; padded with zeros.
            data_out: The parameter list; its length is what bytes 7 and 8 of the CDB say.

        Raises:
            ProtocolViolation: The helper closed the connection instead of answering.
            OSError: The connection broke, or took longer than the timeout.
        """
        rights = array.array("i", [descriptor])
        padded = cdb.ljust(CDB_LENGTH, b"\0")
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        sent = self._socket.sendmsg([padded], control)
        # The rest of a short send goes without the descriptor: it has arrived already. Nothing
        # is not sent: that fails when a helper has answered and gone, and its answer is waiting.
        if rest := padded[sent:] + data_out:
            self._socket.sendall(rest)
        status, size, sense = _REPLY.unpack(self._receive(_REPLY.size))
        if size < 0:
            raise ProtocolViolation(f"the helper announced a payload of {size} bytes")
        return HelperReply(status, sense, self._receive(size))

    def _receive(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        received = bytearray()
        while len(received) < size:
            part = self._socket.recv(size - len(received))
            if not part:
                raise ProtocolViolation(
                    f"the helper closed the connection after {len(received)} of {size} bytes"
                )
            received += part
        return bytes(received)

    def fileno(self) -> int:
        """The descriptor of the connection."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
