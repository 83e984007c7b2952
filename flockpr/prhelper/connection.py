"""One connection: a thread that reads requests and answers them in turn."""

from __future__ import annotations

import array
import contextlib
import logging
import os
import socket
import threading
import time
from concurrent.futures import Future

import attrs

from flockpr.errors import ProtocolViolation
from flockpr.logical_unit import Result
from flockpr.manager import PRManager
from flockpr.manager.base import BUSY, in_thread
from flockpr.prhelper.door import answer, decided_here
from flockpr.prhelper.identity import Identifier, Identity
from flockpr.prhelper.protocol import Conversation, Request, encode_response
from flockpr.spc import sense as senses
from flockpr.spc.codes import Opcode, Status

_log = logging.getLogger("flockpr.prhelper.connection")

DESCRIPTOR_ROOM = 8
"""Descriptors that fit one read. With room for one only, the kernel would hide that there were
more; whatever more than this is sent shows as MSG_CTRUNC."""

_INT = array.array("i").itemsize
_CONTROL_SIZE = socket.CMSG_SPACE(DESCRIPTOR_ROOM * _INT)

BUSY_PAUSE = 0.25
"""Least seconds until BUSY goes out: Linux repeats the command at once, for a minute."""


@attrs.frozen
class Limits:
    """Bounds of what a connection may cost.

    Attributes:
        connections: How many there may be; more are closed at once. None: what the limit on
            open files allows a process with this one door.
        handshake: Seconds in which a client has to answer the greeting.
        request: Seconds for the rest of a request that has begun, and for the response. A
            client between two requests is never hurried: QEMU may be silent for days.
        command: Seconds after which a command is answered whatever its manager does.
    """

    connections: int | None = None
    handshake: float = 60.0
    request: float = 60.0
    command: float = 15.0


class Connection:
    """One client.

    Args:
        sock: The connection; closed with this object. The greeting has been sent.
        path: Where it was accepted.
        manager: Executes the commands.
        identifier: Finds the initiator port.
        limits: See there.
        stopping: Set when the daemon ends.
        number: For the log.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        path: str,
        manager: PRManager,
        identifier: Identifier,
        limits: Limits,
        stopping: threading.Event,
        number: int,
    ) -> None:
        self._sock = sock
        self._path = path
        self._manager = manager
        self._identifier = identifier
        self._limits = limits
        self._stopping = stopping
        self._name = f"connection {number}"
        self._conversation = Conversation()
        self._deadline: float | None = time.monotonic() + limits.handshake
        self._descriptors: list[int] = []
        self._identity: Future[Identity] | None = None
        self._acting: tuple[PRManager, Identity] | None = None

    def serve(self) -> None:
        """Serve the connection until it ends; raises nothing."""
        with self._sock, contextlib.ExitStack() as stack:
            try:
                while self._serve_one(stack):
                    pass
            except ProtocolViolation as error:
                _log.warning("%s: closed: %s", self._name, error)
            except TimeoutError:
                _log.warning(
                    "%s: closed: the client stopped amid a request or a response", self._name
                )
            except (ConnectionError, BrokenPipeError) as error:
                _log.debug("%s: %s", self._name, error)
            except Exception:  # noqa: BLE001, logged and answered
                _log.exception("%s: closed after an unexpected error", self._name)

    def end_input(self) -> None:
        """Let the connection end when it has answered what was sent so far; never blocks."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def abandon(self) -> None:
        """Break the connection; a command in execution goes on without an answer."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _serve_one(self, stack: contextlib.ExitStack) -> bool:
        """Read and answer one request; False at the end of the stream."""
        try:
            request = self._read_request()
            if request is None:
                return False
            result = self._result(stack, request)
            if result.status in (Status.BUSY, Status.TASK_SET_FULL):
                self._stopping.wait(BUSY_PAUSE)
            response = encode_response(request, result.status, result.sense, result.data_in)
            self._sock.settimeout(self._limits.request)
            self._sock.sendall(response, socket.MSG_NOSIGNAL)
            return True
        finally:
            # After the response: closing a file of a hung server may hang.
            self._close_descriptors()

    # ------------------------------------------------------------------ reading

    def _read_request(self) -> Request | None:
        while True:
            data, count, lost = self._receive()
            if not data:
                missing = self._conversation.end()
                if missing:
                    _log.info("%s: the stream ended within %s", self._name, missing)
                return None
            if self._conversation.idle:
                self._deadline = time.monotonic() + self._limits.request
            request = self._conversation.receive(data, count, lost=lost)
            if self._conversation.idle:
                self._deadline = None
            if request is not None:
                return request

    def _receive(self) -> tuple[bytes, int, bool]:
        """Read what is wanted next: bytes, how many descriptors came, whether one was lost."""
        left = None
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
        self._sock.settimeout(left)
        wanted = self._conversation.wanted
        if not self._conversation.takes_descriptors:
            # Without room for them the kernel drops descriptors that come here.
            return self._sock.recv(wanted), 0, False
        data, control, flags, _ = self._sock.recvmsg(wanted, _CONTROL_SIZE, socket.MSG_CMSG_CLOEXEC)
        came = self._take_descriptors(control)
        cut = bool(flags & socket.MSG_CTRUNC)
        if cut and came:
            raise ProtocolViolation("more than one file descriptor with a request")
        if cut:
            _log.error("%s: no room for a passed descriptor: too many open files", self._name)
        return data, came, cut

    def _take_descriptors(self, control: list[tuple[int, int, bytes]]) -> int:
        came = array.array("i")
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                came.frombytes(data[: len(data) - len(data) % _INT])
        self._descriptors += came
        return len(came)

    def _close_descriptors(self) -> None:
        while self._descriptors:
            with contextlib.suppress(OSError):
                os.close(self._descriptors.pop())

    # ------------------------------------------------------------------ answering

    def _result(self, stack: contextlib.ExitStack, request: Request) -> Result:
        early = decided_here(request)
        if early is not None and request.opcode != Opcode.PERSISTENT_RESERVE_OUT:
            return early
        try:
            manager, identity = self._act(stack)
        except ConnectionError:
            raise
        except (OSError, RuntimeError) as error:
            # Procfs hangs, or no descriptor or thread is left. Nobody's command: executed for
            # another port it could take a reservation away.
            _log.warning("%s: cannot tell yet who it is: BUSY (%s)", self._name, error)
            return BUSY
        except Exception:  # noqa: BLE001, logged and answered
            _log.exception("%s: cannot tell who it is", self._name)
            return Result.check(senses.INTERNAL_TARGET_FAILURE)
        return answer(
            manager,
            request,
            self._descriptors[0] if self._descriptors else -1,
            identity.port,
            timeout=self._limits.command,
        )

    def _act(self, stack: contextlib.ExitStack) -> tuple[PRManager, Identity]:
        """Return who the connection acts for; found with the first command.

        Raises:
            OSError, RuntimeError: It could not be found now; may be tried again.
            ConnectionError: The client has gone.
        """
        if self._acting is None:
            if self._identity is None:
                # In a thread of its own: procfs waits for the memory map of a process, which
                # a process that hangs may hold.
                self._identity = in_thread(
                    lambda: self._identifier.identify(self._sock, self._path), "identify"
                )
            try:
                identity = self._identity.result(self._limits.command)
            finally:
                if self._identity.done():
                    self._identity = None
            _log.info("%s: %s (%s)", self._name, identity.port, identity.source)
            manager = stack.enter_context(self._manager.acting_for(identity.port))
            self._acting = manager, identity
        return self._acting
