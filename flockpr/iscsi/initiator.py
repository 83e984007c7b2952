"""A thin initiator: one connection, one command at a time, for replaying a trace (RFC 7143).

It asks for no digests and the plainest of everything. What it is told it believes as far as it
needs: this is no judge of a target's iSCSI, only of what its logical unit answers.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from struct import Struct
from types import TracebackType
from typing import Final, Self

import attrs

from flockpr.errors import FlockprError
from flockpr.iscsi import chap
from flockpr.iscsi.keys import Pair, format_text, parse_number, parse_text
from flockpr.iscsi.pdu import (
    BHS_LENGTH,
    FINAL,
    HAS_STATUS,
    IMMEDIATE,
    NO_TAG,
    OPCODE_MASK,
    READ,
    TRANSIT,
    WRITE,
    Opcode,
)

_SIMPLE: Final = 1
_RECEIVE_LIMIT: Final = 262144
_MOST_DATA: Final = 1 << 20
"""Bytes that a command may read; a trace has no more."""
_LOGOUT: Final = 5.0
"""Seconds that a target has to answer a logout: nothing depends on it."""
_SECURITY, _OPERATIONAL, _FULL_FEATURE = 0, 1, 3
_COMMAND = Struct(">BBHIQIIII16s")
"""Byte 0, flags, reserved, lengths, LUN, ITT, length of the data, CmdSN, ExpStatSN, CDB."""
_DATA_OUT = Struct(">BBHIQIIIIIIII")
"""Byte 0, flags, reserved, lengths, LUN, ITT, TTT, reserved, ExpStatSN, reserved, DataSN,
offset, reserved."""
_LOGIN = Struct(">BBBBI6sHIHHII16x")
"""Byte 0, stages, versions, lengths, ISID, TSIH, ITT, CID, reserved, CmdSN, ExpStatSN."""
_OPERATIONAL_KEYS = (
    *(("HeaderDigest", "None"), ("DataDigest", "None"), ("InitialR2T", "Yes")),
    *(("ImmediateData", "Yes"), ("MaxConnections", "1"), ("MaxOutstandingR2T", "1")),
    *(("ErrorRecoveryLevel", "0"), ("DefaultTime2Wait", "0"), ("DefaultTime2Retain", "0")),
    *(("DataPDUInOrder", "Yes"), ("DataSequenceInOrder", "Yes")),
    ("MaxRecvDataSegmentLength", str(_RECEIVE_LIMIT)),
)


class TargetError(FlockprError):
    """The target cannot be reached, refuses, or does not speak iSCSI."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.remedy = remedy


@attrs.frozen
class Account:
    """What an initiator proves itself with."""

    user: str
    secret: bytes = attrs.field(repr=False)


@attrs.frozen
class Reply:
    """What became of a command.

    Attributes:
        status: SCSI status byte.
        sense: Sense data; empty without.
        data_in: What was read.
    """

    status: int
    sense: bytes
    data_in: bytes


class Initiator:
    """A session with a target; a context manager that ends it. Of one thread.

    Args:
        host: Of the portal.
        port: Of the portal.
        target: Its iSCSI name.
        name: Our iSCSI name.
        isid: Our ISID, 48 bits; a random one if None.
        account: For CHAP; None where the target asks for nothing.
        timeout: Seconds that the login, and then each command, may take as a whole: also of a
            target that goes on sending something.

    Raises:
        TargetError: There is no session.
    """

    def __init__(
        self,
        host: str,
        port: int,
        target: str,
        name: str,
        *,
        isid: int | None = None,
        account: Account | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._where = f"{host}:{port}, {target}"
        self._isid = (0x80 << 40 | secrets.randbits(40)) if isid is None else isid
        self._tag = self._command_number = 1
        self._status_number = 0
        self._send_limit, self._first_burst, self._immediate = 8192, 65536, True
        self._timeout = timeout
        self._lost = False
        self._begin()
        try:
            self._socket = socket.create_connection((host, port), timeout)
        except OSError as error:
            raise TargetError(
                f"{host}:{port}: {error.strerror or error}", "see that the target runs there"
            ) from None
        try:
            self._log_in(target, name, account)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Log out, unless the session is lost already."""
        if not self._lost:
            self._begin(_LOGOUT)
            self._log_out()
        self._socket.close()

    def _log_out(self) -> None:
        with contextlib.suppress(TargetError):
            head = (Opcode.LOGOUT_REQUEST | IMMEDIATE, FINAL, 0, 0, 0, self._tag, 0)
            numbers = (self._command_number, self._status_number)
            self._send(_COMMAND.pack(*head, *numbers, bytes(16)), b"")
            for _ in range(64):  # what was on its way comes first
                if self._receive()[0][0] & OPCODE_MASK == Opcode.LOGOUT_RESPONSE:
                    break

    # ------------------------------------------------------------------ login

    def _log_in(self, target: str, name: str, account: Account | None) -> None:
        pairs = [("InitiatorName", name), ("TargetName", target), ("SessionType", "Normal")]
        pairs.append(("AuthMethod", "None" if account is None else "CHAP"))
        self._go_through(_SECURITY, _OPERATIONAL, pairs, account)
        self._go_through(_OPERATIONAL, _FULL_FEATURE, list(_OPERATIONAL_KEYS), None)

    def _go_through(
        self, stage: int, following: int, pairs: list[Pair], account: Account | None
    ) -> None:
        """One stage of the login; with an account it is left only after the proof."""
        proven = account is None
        for _ in range(8):
            over, given = self._exchange(stage, following if proven else None, pairs)
            self._heed(given)
            if over:
                return
            pairs = []
            if account is not None and not proven:
                proven = "CHAP_C" in given
                pairs = self._prove(given, account) if proven else [("CHAP_A", str(chap.MD5))]
        raise TargetError(f"{self._where}: the login comes to no end")

    def _exchange(
        self, stage: int, following: int | None, pairs: list[Pair]
    ) -> tuple[bool, dict[str, str]]:
        """One step of the login: whether the stage is over, and what the target says."""
        flags = stage << 2 | (0 if following is None else TRANSIT | following)
        text = format_text(pairs)
        isid = self._isid.to_bytes(6, "big")
        head = (Opcode.LOGIN_REQUEST | IMMEDIATE, flags, 0, 0, len(text), isid, 0, 0, 0, 0)
        self._send(_LOGIN.pack(*head, self._command_number, self._status_number), text)
        header, data = self._receive()
        if header[0] & OPCODE_MASK != Opcode.LOGIN_RESPONSE:
            raise TargetError(f"{self._where}: no answer to a login")
        if header[36]:
            raise self._refused(header[36], header[37])
        self._status_number = int.from_bytes(header[24:28], "big") + 1
        return bool(header[1] & TRANSIT), dict(parse_text(data) or ())

    def _refused(self, kind: int, detail: int) -> TargetError:
        known = {(2, 1): "CHAP failed", (2, 2): "not allowed", (2, 3): "no such target"}
        what = known.get((kind, detail), "moved" if kind == 1 else "refused")
        remedy = "give the secret with --chap FILE" if (kind, detail) == (2, 1) else ""
        return TargetError(f"{self._where}: login: {what} ({kind:02x}/{detail:02x})", remedy)

    def _prove(self, given: dict[str, str], account: Account) -> list[Pair]:
        """The answer to a challenge (RFC 7143 12.1.3)."""
        challenge = chap.decode_binary(given["CHAP_C"])
        identifier = parse_number(given.get("CHAP_I", ""))
        if challenge is None or identifier is None or identifier > 255:
            raise TargetError(f"{self._where}: login: a challenge that is not understood")
        answer = chap.response(chap.MD5, identifier, account.secret, challenge)
        return [("CHAP_N", account.user), ("CHAP_R", chap.encode_binary(answer))]

    def _heed(self, given: dict[str, str]) -> None:
        """What the target said about the data that it takes."""
        self._immediate = self._immediate and given.get("ImmediateData", "Yes") == "Yes"
        limit = parse_number(given.get("MaxRecvDataSegmentLength", ""))
        self._send_limit = self._send_limit if limit is None else max(512, limit)
        burst = parse_number(given.get("FirstBurstLength", ""))
        self._first_burst = self._first_burst if burst is None else max(512, burst)

    # ------------------------------------------------------------------ commands

    def command(self, lun: int, cdb: bytes, data_out: bytes = b"", read: int = 0) -> Reply:
        """Send a command, and wait for its answer.

        Args:
            lun: Logical unit number.
            cdb: The command, up to 16 bytes.
            data_out: What it writes.
            read: Bytes that it may read; 0 with `data_out`.

        Raises:
            TargetError: The session is over, or the answer is no answer.
        """
        if len(cdb) > 16 or read > _MOST_DATA:
            raise TargetError(f"{cdb.hex()}: longer than this initiator sends or reads")
        self._begin()
        flags = FINAL | _SIMPLE | (WRITE if data_out else READ if read else 0)
        at_once = min(self._send_limit, self._first_burst) if self._immediate else 0
        first = data_out[:at_once]
        tag = self._tag
        self._tag = (tag + 1) & 0x7FFFFFFF
        head = (Opcode.SCSI_COMMAND, flags, 0, len(first), _lun_field(lun), tag)
        numbers = (len(data_out) or read, self._command_number, self._status_number)
        self._command_number = (self._command_number + 1) & 0xFFFFFFFF
        self._send(_COMMAND.pack(*head, *numbers, cdb.ljust(16, b"\0")), first)
        return self._answer(tag, lun, data_out, read)

    def _answer(self, tag: int, lun: int, data_out: bytes, read: int) -> Reply:
        received = bytearray()
        while True:
            header, data = self._receive()
            kind = header[0] & OPCODE_MASK
            if kind == Opcode.NOP_IN:
                self._echo(header)
                continue
            if kind == Opcode.ASYNC_MESSAGE and header[36] in (0, 255):
                continue
            if kind not in _OF_A_COMMAND or int.from_bytes(header[16:20], "big") != tag:
                raise self._over(f"PDU {kind:02x}h ends the session")
            if kind == Opcode.R2T:
                self._send_data(header, lun, data_out)
                continue
            if kind == Opcode.DATA_IN:
                place = int.from_bytes(header[40:44], "big")
                if place != len(received) or place + len(data) > read:
                    raise self._over("data that was not asked for")
                received += data
                if not header[1] & HAS_STATUS:
                    continue
                sense = b""
            else:
                if header[2]:
                    raise TargetError(f"{self._where}: the target failed, {header[2]:02x}h")
                sense = data[2 : 2 + int.from_bytes(data[:2], "big")]
            self._status_number = (int.from_bytes(header[24:28], "big") + 1) & 0xFFFFFFFF
            return Reply(header[3], sense, bytes(received))

    def _echo(self, header: bytes) -> None:
        """Answer a ping."""
        transfer_tag = int.from_bytes(header[20:24], "big")
        if transfer_tag == NO_TAG:
            return
        lun = int.from_bytes(header[8:16], "big")
        head = (Opcode.NOP_OUT | IMMEDIATE, FINAL, 0, 0, lun, NO_TAG, transfer_tag)
        numbers = (self._command_number, self._status_number)
        self._send(_COMMAND.pack(*head, *numbers, bytes(16)), b"")

    def _send_data(self, header: bytes, lun: int, data_out: bytes) -> None:
        """Send what the target asks for."""
        tag, transfer_tag = header[16:20], header[20:24]
        place = int.from_bytes(header[40:44], "big")
        end = place + int.from_bytes(header[44:48], "big")
        if end > len(data_out) or end == place:
            raise self._over("data is asked for that there is not")
        number = 0
        while place < end:
            part = data_out[place : min(end, place + self._send_limit)]
            flags = FINAL if place + len(part) == end else 0
            head = (Opcode.DATA_OUT, flags, 0, len(part), _lun_field(lun))
            tags = (int.from_bytes(tag, "big"), int.from_bytes(transfer_tag, "big"))
            rest = (0, self._status_number, 0, number, place, 0)
            self._send(_DATA_OUT.pack(*head, *tags, *rest), part)
            place += len(part)
            number += 1

    # ------------------------------------------------------------------ bytes

    def _begin(self, most: float | None = None) -> None:
        """From now on the time runs: of the whole of what begins, not of each part of it."""
        self._limit = self._timeout if most is None else min(most, self._timeout)
        self._deadline = time.monotonic() + self._limit

    def _allow(self) -> None:
        """Let the next call on the socket take what is left of the time.

        Raises:
            TimeoutError: Nothing is left.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def _send(self, header: bytes, data: bytes) -> None:
        try:
            self._allow()
            self._socket.sendall(header + data + bytes(-len(data) % 4))
        except OSError as error:
            raise self._broken(error) from None

    def _receive(self) -> tuple[bytes, bytes]:
        """One PDU: its header and its data."""
        header = self._take(BHS_LENGTH)
        length = int.from_bytes(header[5:8], "big")
        if length > _RECEIVE_LIMIT:
            raise self._over(f"a PDU of {length} bytes; no iSCSI?")
        self._take(4 * header[4])
        return header, self._take(length + -length % 4)[:length]

    def _take(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                self._allow()
                part = self._socket.recv(size - len(data))
            except OSError as error:
                raise self._broken(error) from None
            if not part:
                raise self._over("the target closed the connection")
            data += part
        return bytes(data)

    def _broken(self, error: OSError) -> TargetError:
        if isinstance(error, TimeoutError):
            return self._over(f"no whole answer within {self._limit:g} s")
        return self._over(str(error.strerror or error))

    def _over(self, what: str) -> TargetError:
        """The session is lost: nothing can be sent on it any more."""
        self._lost = True
        return TargetError(f"{self._where}: {what}")


_OF_A_COMMAND = (Opcode.R2T, Opcode.DATA_IN, Opcode.SCSI_RESPONSE)


def _lun_field(lun: int) -> int:
    """The 8 bytes that address a logical unit (SAM-5 4.7)."""
    return (lun if lun < 256 else 0x4000 | lun) << 48
