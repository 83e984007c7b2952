"""An initiator that speaks to a helper socket itself: a guest without the emulation of one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from attrs import define, field

from flockpr.errors import ProtocolViolation
from flockpr.prhelper.client import HelperClient, HelperReply
from flockpr.spc import pr_in
from flockpr.spc.cdb import encode_persistent_reserve_in, encode_persistent_reserve_out
from flockpr.spc.codes import InAction, OutAction, ReservationType, Status
from flockpr.spc.prout_list import encode_basic_list

_PATIENCE_SECONDS = 300
_REPLY_SECONDS = 120
_TYPE = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
_UNTYPED = (OutAction.REGISTER, OutAction.REGISTER_AND_IGNORE_EXISTING_KEY)


@define
class Initiator:
    """Sends commands over one connection, which it opens again when it broke.

    Args:
        helper: The socket.
        key: The reservation key that it uses.
    """

    helper: Path
    key: int
    _client: HelperClient | None = field(default=None, init=False)
    _device: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._device = os.open(self.helper.with_suffix(".dev"), os.O_RDWR | os.O_CREAT, 0o600)

    def out(self, action: OutAction, *, own: int = 0, other: int = 0) -> HelperReply:
        """Send one PERSISTENT RESERVE OUT, once.

        Args:
            action: Service action.
            own: RESERVATION KEY.
            other: SERVICE ACTION RESERVATION KEY.

        Raises:
            OSError: The connection broke, so the outcome is unknown.
            ProtocolViolation: Likewise, it was closed.
        """
        cdb = encode_persistent_reserve_out(action, type_=0 if action in _UNTYPED else _TYPE)
        return self._send(cdb, encode_basic_list(own, other))

    def insist(self, action: OutAction, *, own: int = 0, other: int = 0) -> HelperReply:
        """Send it until it is answered with something else than BUSY, as initiators do.

        Only for commands that may be sent twice: after a broken connection they are.
        """
        return self._until_done(lambda: self.out(action, own=own, other=other))

    def register(self) -> HelperReply:
        """REGISTER AND IGNORE EXISTING KEY with the key."""
        return self.insist(OutAction.REGISTER_AND_IGNORE_EXISTING_KEY, other=self.key)

    def reserve(self) -> HelperReply:
        """RESERVE, write exclusive, registrants only."""
        return self.insist(OutAction.RESERVE, own=self.key)

    def keys(self) -> pr_in.Keys:
        """READ KEYS, as soon as it is answered with GOOD."""
        cdb = encode_persistent_reserve_in(InAction.READ_KEYS)
        report = pr_in.parse_keys(self._read(cdb))
        assert report is not None
        return report

    def holder(self) -> int | None:
        """Key of READ RESERVATION; None without a reservation."""
        cdb = encode_persistent_reserve_in(InAction.READ_RESERVATION)
        report = pr_in.parse_reservation(self._read(cdb))
        assert report is not None
        return report.held.key if report.held else None

    def close(self) -> None:
        """Close the connection and the device."""
        self._drop()
        os.close(self._device)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, cdb: bytes) -> bytes:
        reply = self._until_done(lambda: self._send(cdb), good=True)
        return reply.data_in

    def _until_done(self, send: Callable[[], HelperReply], *, good: bool = False) -> HelperReply:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                reply = send()
            except (OSError, ProtocolViolation):
                if time.monotonic() > deadline:
                    raise
            else:
                done = reply.status == Status.GOOD if good else reply.status != Status.BUSY
                if done or time.monotonic() > deadline:
                    return reply
            time.sleep(0.1)

    def _send(self, cdb: bytes, data_out: bytes = b"") -> HelperReply:
        try:
            if self._client is None:
                self._client = HelperClient(str(self.helper), timeout=_REPLY_SECONDS)
            return self._client.execute(self._device, cdb, data_out)
        except (OSError, ProtocolViolation):
            self._drop()
            raise

    def _drop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
