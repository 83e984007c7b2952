"""What comes on one connection: requests, and the descriptors that come with them."""

from __future__ import annotations

import array
import logging
import os
import socket
import struct
import time
from collections.abc import Iterable

from flockpr.errors import ProtocolViolation
from flockpr.prhelper.protocol import CDB_LENGTH, Conversation, Request

_log = logging.getLogger("flockpr.prhelper.connection")

DESCRIPTOR_ROOM = 8
"""Descriptors that fit one read. With room for one only, the kernel would hide that there were
more; whatever more than this is sent shows as MSG_CTRUNC."""

_INT = array.array("i").itemsize
_ONE = struct.Struct("i")
_SOCKET, _RIGHTS = socket.SOL_SOCKET, socket.SCM_RIGHTS
_CUT, _PEEK, _CLOEXEC = map(
    int, (socket.MSG_CTRUNC, socket.MSG_PEEK, socket.MSG_CMSG_CLOEXEC)
)  # as numbers, since to combine flags that have names takes as long as to read
_CONTROL_SIZE = socket.CMSG_SPACE(DESCRIPTOR_ROOM * _INT)


class Inbox:
    """Reads from a socket, as far as the socket's own timeout lets it wait.

    Args:
        sock: The connection; stays the caller's.
        name: For the log.
        handshake: Seconds in which the client has to answer the greeting.
        request: Seconds for a request from its first byte on.

    Attributes:
        deadline: When what has begun has to be complete, by `time.monotonic`; None while
            nothing has.
    """

    def __init__(self, sock: socket.socket, name: str, *, handshake: float, request: float) -> None:
        self._sock = sock
        self._name = name
        self._request = request
        self._conversation = Conversation()
        self._descriptors: list[int] = []
        self._peeked = bytearray(CDB_LENGTH)
        self._room = [memoryview(self._peeked)]
        self.deadline: float | None = time.monotonic() + handshake

    @property
    def descriptor(self) -> int:
        """The descriptor of the request that was read; -1 if there is none."""
        return self._descriptors[0] if self._descriptors else -1

    def take_descriptors(self) -> list[int]:
        """The descriptors that came, which are the caller's to close from now on."""
        taken, self._descriptors = self._descriptors, []
        return taken

    # ------------------------------------------------------------------ reading

    def read(self) -> Request | None:
        """Read one request, in time; None at the end of the stream.

        Raises:
            TimeoutError: It has begun, and is not complete in time.
            ProtocolViolation, OSError: The connection is of no use any more.
        """
        while True:
            left = None
            if self.deadline is not None:
                left = self.deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
            self._sock.settimeout(left)
            data, request = self._read_some()
            if not data or request is not None:
                return request

    def read_now(self) -> Request | None:
        """As `read`, of what is there.

        Raises:
            BlockingIOError: It is not complete yet.
        """
        while True:
            data, request = self._read_some()
            if not data or request is not None:
                return request

    def peek(self) -> bytes | None:
        """The CDB that came as a whole and with a descriptor, which is left where it is; None
        if something else came. To be followed by `skip`, or to be read.

        Raises:
            BlockingIOError: There is nothing.
        """
        if not self._conversation.idle:
            return None
        found, _, flags, _ = self._sock.recvmsg_into(self._room, 0, _PEEK)
        # Without room for it the kernel says that there was a descriptor, and keeps it.
        if found == CDB_LENGTH and flags & _CUT:
            return bytes(self._peeked)
        return None

    def skip(self) -> None:
        """Take what `peek` showed, without its descriptor. It is never opened here, so nothing is
        closed either; only if the client has closed it itself meanwhile, the kernel does.
        """
        self._sock.recv_into(self._peeked, CDB_LENGTH)

    def _read_some(self) -> tuple[bytes, Request | None]:
        conversation = self._conversation
        wanted = conversation.wanted
        came, lost = 0, False
        if conversation.takes_descriptors:
            data, control, flags, _ = self._sock.recvmsg(wanted, _CONTROL_SIZE, _CLOEXEC)
            came, lost = self._took(control, cut=bool(flags & _CUT))
        else:
            # Without room for them the kernel drops descriptors that come here.
            data = self._sock.recv(wanted)
        if not data:
            missing = conversation.end()
            if missing:
                _log.info("%s: the stream ended within %s", self._name, missing)
            return data, None
        begins = conversation.idle
        request = conversation.receive(data, came, lost=lost)
        if request is not None or conversation.idle:
            self.deadline = None
        elif begins:
            self.deadline = time.monotonic() + self._request
        return data, request

    def _took(self, control: list[tuple[int, int, bytes]], *, cut: bool) -> tuple[int, bool]:
        """Keep descriptors: how many came, and whether one was lost."""
        came: list[int] = []
        for level, kind, data in control:
            if level == _SOCKET and kind == _RIGHTS:
                came += _numbers(data)
        self._descriptors += came
        if cut and came:
            raise ProtocolViolation("more than one file descriptor with a request")
        if cut:
            _log.error("%s: no room for a passed descriptor: too many open files", self._name)
        return len(came), cut


def _numbers(data: bytes) -> Iterable[int]:
    """The descriptors in a control message; mostly it is one."""
    if len(data) == _INT:
        return _ONE.unpack(data)
    return array.array("i", data[: len(data) - len(data) % _INT])


def close_all(descriptors: list[int]) -> None:
    """Close descriptors; may hang."""
    for descriptor in descriptors:
        try:  # noqa: SIM105, done for each command
            os.close(descriptor)
        except OSError:
            pass
