"""Who is at the other end of a connection, and what its commands come to."""

from __future__ import annotations

import contextlib
import logging
import socket
from concurrent.futures import Future

from flockpr.logical_unit import Result
from flockpr.manager import PRManager
from flockpr.manager.base import BUSY, Asker, in_thread, settle, unsettled
from flockpr.prhelper.door import answer, decided_here, note, noted, unexpected
from flockpr.prhelper.identity import Identifier, Identity
from flockpr.prhelper.protocol import MAX_TRANSFER, Request, encode_response, transfer_length
from flockpr.spc import sense as senses
from flockpr.spc.codes import InAction, Opcode
from flockpr.spc.transport_id import InitiatorPort

_log = logging.getLogger("flockpr.prhelper.connection")

MAX_RESPONSES = 4
"""Responses that are kept ready: a guest asks the same few things again and again."""

_READS = frozenset((InAction.READ_KEYS, InAction.READ_RESERVATION, InAction.READ_FULL_STATUS))


class Guest:
    """The initiator port of one connection, found with its first command.

    Args:
        sock: The connection; stays the caller's.
        path: Where it was accepted.
        manager: Executes the commands.
        identifier: Finds the initiator port.
        timeout: Seconds after which a command is answered whatever its manager does.
        name: For the log.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        path: str,
        manager: PRManager,
        identifier: Identifier,
        timeout: float,
        name: str,
    ) -> None:
        self._sock = sock
        self._path = path
        self._manager = manager
        self._identifier = identifier
        self._timeout = timeout
        self._name = name
        self._stack = contextlib.ExitStack()
        self._identity: Future[Identity] | None = None
        self._acting: tuple[PRManager, InitiatorPort] | None = None
        self._responses: dict[bytes, tuple[Result, bytes]] = {}

    @property
    def port(self) -> InitiatorPort | None:
        """The initiator port; None as long as it is not known."""
        return None if self._acting is None else self._acting[1]

    @property
    def reads_blindly(self) -> bool:
        """Whether what it reads can be told without looking at the disk that it names."""
        return self._acting is not None and self._acting[0].reads_blindly

    def close(self) -> None:
        """It has gone."""
        try:
            self._stack.close()
        except Exception:  # noqa: BLE001, logged
            _log.exception("%s: its end could not be noted", self._name)

    # ------------------------------------------------------------------ where waiting is no harm

    def result(self, request: Request, descriptor: int) -> Result:
        """Carry out a request, in bounded time.

        Raises:
            ConnectionError: The client has gone.
        """
        early = decided_here(request)
        if early is not None and request.opcode != Opcode.PERSISTENT_RESERVE_OUT:
            return early
        try:
            manager, port = self._act()
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
        return answer(manager, request, descriptor, port, timeout=self._timeout)

    def _act(self) -> tuple[PRManager, InitiatorPort]:
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
                identity = self._identity.result(self._timeout)
            finally:
                if self._identity.done():
                    self._identity = None
            _log.info("%s: %s (%s)", self._name, identity.port, identity.source)
            manager = self._stack.enter_context(self._manager.acting_for(identity.port))
            self._acting = manager, identity.port
        return self._acting

    # ------------------------------------------------------------------ where it is

    def begin(self, request: Request, descriptor: int, asker: Asker) -> Future[Result] | None:
        """Hand a request to the units.

        Args:
            request: The request.
            descriptor: That came with it.
            asker: Whose it is.

        Returns:
            What it comes to; None if the asker is called, or was.
        """
        assert self._acting is not None
        manager, port = self._acting
        try:
            result = decided_here(request)
            if result is None:
                return manager.execute_for(descriptor, request.cdb, request.data_out, asker)
        except Exception:  # noqa: BLE001, logged and answered
            result = unexpected(port)
        future: Future[Result] = Future()
        future.set_result(result)
        return future

    def outcome(self, request: Request, future: Future[Result] | None) -> Result:
        """What a request that was begun has come to by now.

        Args:
            request: The request.
            future: From `begin`; where it is not done the outcome is not known.
        """
        if future is None:
            return unsettled(request.cdb)
        try:
            return settle(future, request.cdb, 0)
        except Exception:  # noqa: BLE001, logged and answered
            assert self._acting is not None
            return unexpected(self._acting[1])

    def note(self, request: Request, result: Result, started: float) -> None:
        """Log a request that was begun.

        Args:
            request: The request.
            result: The answer.
            started: When it was begun, by `time.monotonic`.
        """
        assert self._acting is not None
        manager, port = self._acting
        note(manager, request, port, result, started)

    def response_at_once(self, cdb: bytes, descriptor: int) -> bytes | None:
        """The response to a command that only reads what is known; None for all others.

        Args:
            cdb: The command.
            descriptor: That came with it; -1 where `reads_blindly`.
        """
        known = self._responses.get(cdb)
        if (known is None and not _reads(cdb)) or noted(cdb[0]) or self._acting is None:
            return None
        result = self._acting[0].read_at_once(descriptor, cdb)
        if result is None:
            return None
        if known is not None and known[0] is result:
            return known[1]
        response = encode_response(Request(cdb), result.status, result.sense, result.data_in)
        if len(self._responses) >= MAX_RESPONSES:
            self._responses.clear()
        self._responses[cdb] = result, response
        return response

    def hangs(self) -> None:
        """What was asked for at once takes too long."""
        if self._acting is not None:
            self._acting[0].read_hangs()


def _reads(cdb: bytes) -> bool:
    """Whether this may be answered at once, and breaks no rule of the protocol."""
    return (
        cdb[0] == Opcode.PERSISTENT_RESERVE_IN
        and cdb[1] in _READS
        and transfer_length(cdb) <= MAX_TRANSFER
    )
