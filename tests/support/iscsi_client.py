"""A small iSCSI initiator for tests, written from RFC 7143 alone.

It is a judge as well as a client: every sequence number, length and flag that it receives is
checked, and what a target may not send raises `ProtocolError`. Sockets block, and every wait
ends after a minute. One initiator belongs to one thread.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import attrs

from tests.support import iscsi_wire as wire
from tests.support.iscsi_login import LoginFailed, LoginRefused, Negotiation, negotiate
from tests.support.iscsi_wire import FINAL, NO_TAG, Pdu, pdu

__all__ = [
    "ConnectionLost",
    "Initiator",
    "LoginFailed",
    "LoginRefused",
    "ProtocolError",
    "Rejected",
    "Reply",
    "Task",
]

DEADLINE = 60.0
READ, WRITE = 0x40, 0x20
SIMPLE, ORDERED, HEAD_OF_QUEUE, ACA = 1, 2, 3, 4
ABORT_TASK, ABORT_TASK_SET, CLEAR_ACA, CLEAR_TASK_SET = 1, 2, 3, 4
LUN_RESET, TARGET_WARM_RESET, TARGET_COLD_RESET = 5, 6, 7
_MODULUS = 1 << 32


class ProtocolError(AssertionError):
    """The target sent what RFC 7143 does not let it send."""


class ConnectionLost(OSError):
    """The target closed the connection."""


class Rejected(Exception):
    """The target rejected a PDU (RFC 7143 11.17); `reason` is the code."""

    def __init__(self, answer: Pdu) -> None:
        super().__init__(f"reject, reason {answer.byte_2:#04x}")
        self.reason: int = answer.byte_2
        self.header = answer.data[: wire.BHS_LENGTH]


@attrs.frozen
class Reply:
    """What became of a command.

    Attributes:
        status: SCSI status.
        sense: Sense data, empty if there is none.
        data: What was read.
        residual: Bytes fewer than expected; negative where more would have come.
        response: iSCSI response code; not zero when the target failed (11.4.3).
    """

    status: int
    sense: bytes = b""
    data: bytes = b""
    residual: int = 0
    response: int = 0

    @property
    def good(self) -> bool:
        """GOOD, and nothing wrong below SCSI."""
        return self.status == 0 and self.response == 0

    @property
    def code(self) -> tuple[int, int, int] | None:
        """Sense key, additional sense code and its qualifier; None without sense data."""
        if len(self.sense) < 4:
            return None
        if self.sense[0] & 0x7F in (0x72, 0x73):
            return self.sense[1] & 15, self.sense[2], self.sense[3]
        if len(self.sense) < 14:
            return self.sense[2] & 15, 0, 0
        return self.sense[2] & 15, self.sense[12], self.sense[13]


@attrs.define(eq=False)
class Task:
    """A command on its way.

    Attributes:
        itt: Initiator task tag.
        lun: Logical unit number.
        cdb: The command.
        data_out: What it writes.
        expected: Expected Data Transfer Length.
        received: What has been read so far.
        reply: How it ended, once it has.
        counted: Data-In and R2T PDUs that have come (ExpDataSN, 11.4.8).
        r2ts: Where each R2T wanted data: offset and length.
    """

    itt: int
    cmd_sn: int
    lun: int
    cdb: bytes
    data_out: bytes
    expected: int
    reads: bool
    received: bytearray = attrs.field(factory=bytearray)
    reply: Reply | None = None
    counted: int = 0
    burst: int = 0
    r2ts: list[tuple[int, int]] = attrs.field(factory=list)


class Initiator:
    """A session of one connection.

    Args:
        address: Host and port of a portal.
        target: Name of the target; None for a discovery session.
        name: Our name.
        isid: The six bytes of the ISID as a number.
        keys: Operational keys to ask for, in place of or beside our own; None leaves one out.
        header_digest: What to ask for, None or CRC32C.
        data_digest: Likewise.
        chap: Our user and secret, with which the target is to be satisfied.
        mutual: User and secret that the target has to show.
        algorithms: CHAP algorithms that are offered, best first.
        tsih: Not zero to join a session that exists.
        cid: Connection identifier.
        timeout: Seconds that any wait may take.
        login: Log in at once.
        receive_buffer: SO_RCVBUF, for clients that hardly read.

    Raises:
        LoginRefused: With class and detail of the status.
        OSError: The portal does not answer.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        target: str | None = None,
        name: str = "iqn.2026-01.org.example:a",
        isid: int = 0x800000000001,
        keys: Mapping[str, str | None] | None = None,
        header_digest: str = "None",
        data_digest: str = "None",
        chap: tuple[str, str] | None = None,
        mutual: tuple[str, str] | None = None,
        algorithms: str = "5",
        tsih: int = 0,
        cid: int = 0,
        timeout: float = DEADLINE,
        login: bool = True,
        receive_buffer: int | None = None,
    ) -> None:
        self.address = address
        self.timeout = timeout
        self.tsih = tsih
        self.isid = isid
        self.name = name
        self.cid = cid
        self.cmd_sn = 1
        self.exp_stat_sn = 0
        self.exp_cmd_sn = 1
        self.max_cmd_sn = 1
        self.negotiated: dict[str, str] = {}
        self.tasks: dict[int, Task] = {}
        self.asynchronous: list[Pdu] = []
        self.rejects: list[Pdu] = []
        self.answers: dict[int, Pdu] = {}
        self.data_hook: Callable[[Pdu], list[Pdu]] = lambda out: [out]
        self.alive = True
        self.reader = wire.PduReader()
        self._arrived: list[Pdu] = []
        self._tag = 0
        self._request = Negotiation(
            target=target,
            name=name,
            chap=chap,
            mutual=mutual,
            algorithms=algorithms,
            keys={"HeaderDigest": header_digest, "DataDigest": data_digest, **(keys or {})},
        )
        self.socket = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self._poll = select.poll()
        self._poll.register(self.socket, select.POLLIN)
        try:
            self.socket.connect(address)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if login:
                self.login()
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.alive and error is None and "TargetPortalGroupTag" in self.negotiated:
            with contextlib.suppress(OSError):
                self.logout()
        self.close()

    # Raw traffic.

    def next_tag(self) -> int:
        """An initiator task tag that is not in use."""
        self._tag = (self._tag + 1) % NO_TAG
        return self._tag

    def send_bytes(self, data: bytes | memoryview) -> None:
        """Send bytes as they are."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            self.alive = False
            raise ConnectionLost(str(error)) from error

    def encoded(self, out: Pdu) -> bytes:
        """A PDU as this connection carries it, digests and all."""
        reader = self.reader
        return out.encode(header_digest=reader.header_digest, data_digest=reader.data_digest)

    def send(self, out: Pdu) -> None:
        """Send a PDU; ExpStatSN is filled in."""
        out.exp_stat_sn = self.exp_stat_sn
        self.send_bytes(self.encoded(out))

    def receive(self, timeout: float | None = None) -> Pdu:
        """The next PDU, unjudged.

        Raises:
            TimeoutError: Nothing came.
            ConnectionLost: The target closed.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while not self._arrived:
            left = deadline - time.monotonic()
            if not self._poll.poll(max(0.0, left) * 1000):
                raise TimeoutError("the target does not answer")
            try:
                data = self.socket.recv(1 << 18)
            except ConnectionResetError as error:
                self.alive = False
                raise ConnectionLost(str(error)) from error
            if not data:
                self.alive = False
                raise ConnectionLost("closed by the target")
            self.reader.feed(data)
            self._arrived.extend(self.reader)
        return self._arrived.pop(0)

    def closed(self, timeout: float | None = None) -> bool:
        """Wait for the target to close the connection; what comes until then is thrown away."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        try:
            while time.monotonic() < deadline:
                self.receive(max(0.0, deadline - time.monotonic()))
        except ConnectionLost:
            return True
        except TimeoutError:
            pass
        return False

    # Session.

    def login(self) -> None:
        """Log in."""
        self.negotiated = negotiate(self, self._request)
        self.reader.header_digest = self.negotiated.get("HeaderDigest") == "CRC32C"
        self.reader.data_digest = self.negotiated.get("DataDigest") == "CRC32C"

    def number(self, key: str) -> int:
        """A negotiated number."""
        return int(self.negotiated[key], 0)

    def logout(self, reason: int = 0, *, cid: int | None = None) -> int:
        """Log out; the response code (RFC 7143 11.15.1). The connection is closed after it."""
        out = pdu(wire.LOGOUT, FINAL | reason, immediate=True, itt=self.next_tag())
        out.header[20:22] = (self.cid if cid is None else cid).to_bytes(2, "big")
        answer = self._ask(out, wire.LOGOUT_RESPONSE)
        response: int = answer.byte_2
        if response == 0:
            self.alive = False
        return response

    def close(self) -> None:
        """Close the connection, without a word."""
        self.alive = False
        self.socket.close()

    def reset(self) -> None:
        """Break the connection with a TCP reset."""
        linger = (1).to_bytes(4, "little") + bytes(4)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()

    def ping(self, data: bytes = b"") -> bytes:
        """NOP-Out that wants an answer; what comes back."""
        out = pdu(wire.NOP_OUT, immediate=True, itt=self.next_tag(), ttt=NO_TAG, data=data)
        return self._ask(out, wire.NOP_IN).data

    def text(self, keys: Mapping[str, str | None]) -> list[tuple[str, str]]:
        """A text negotiation; all that was answered, in order."""
        data = wire.encode_text(keys)
        ttt, answered = NO_TAG, b""
        tag = self.next_tag()
        while True:
            out = pdu(wire.TEXT, FINAL, immediate=True, itt=tag, ttt=ttt, data=data)
            answer = self._ask(out, wire.TEXT_RESPONSE)
            answered += answer.data
            if answer.flags & FINAL:
                if answer.ttt != NO_TAG or answer.flags & wire.CONTINUE:
                    raise ProtocolError("a final text response goes on (11.11.1, 11.11.4)")
                return wire.decode_text(answered)
            ttt, data = answer.ttt, b""

    def targets(self) -> dict[str, list[str]]:
        """SendTargets=All: the addresses of each target."""
        found: dict[str, list[str]] = {}
        name = ""
        for key, value in self.text({"SendTargets": "All"}):
            if key == "TargetName":
                name = value
                found[name] = []
            elif key == "TargetAddress":
                found[name].append(value)
        return found

    def task_management(
        self,
        function: int,
        *,
        lun: int = 0,
        task: Task | None = None,
        tag: int = NO_TAG,
        ref_cmd_sn: int = 0,
        immediate: bool = True,
    ) -> int:
        """A task management function; the response code (RFC 7143 11.6.1)."""
        out = self.task_request(
            function, lun=lun, task=task, tag=tag, ref_cmd_sn=ref_cmd_sn, immediate=immediate
        )
        response: int = self._ask(out, wire.TASK_RESPONSE).byte_2
        return response

    def task_request(
        self,
        function: int,
        *,
        lun: int = 0,
        task: Task | None = None,
        tag: int = NO_TAG,
        ref_cmd_sn: int = 0,
        immediate: bool = True,
    ) -> Pdu:
        """The PDU of a task management function, not sent."""
        return pdu(
            wire.TASK_REQUEST,
            FINAL | function,
            immediate=immediate,
            lun=lun,
            itt=self.next_tag(),
            ttt=tag if task is None else task.itt,
            ref_cmd_sn=ref_cmd_sn if task is None else task.cmd_sn,
        )

    # Commands.

    def command(
        self,
        lun: int,
        cdb: bytes,
        data_out: bytes = b"",
        read: int = 0,
        *,
        attribute: int = SIMPLE,
        immediate: bool = False,
        expected: int | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """Carry out a command; see `submit`.

        Raises:
            Rejected: The target rejected one of its PDUs.
        """
        task = self.submit(
            lun,
            cdb,
            data_out,
            read,
            attribute=attribute,
            immediate=immediate,
            expected=expected,
        )
        return self.wait(task, timeout)

    def submit(
        self,
        lun: int,
        cdb: bytes,
        data_out: bytes = b"",
        read: int = 0,
        *,
        attribute: int = SIMPLE,
        immediate: bool = False,
        expected: int | None = None,
    ) -> Task:
        """Send a command, with immediate and unsolicited data as negotiated.

        Args:
            lun: Logical unit number.
            cdb: At most 16 bytes, or more, which then travel in an additional header.
            data_out: What it writes.
            read: Expected Data Transfer Length of a command that reads.
            attribute: Task attribute.
            immediate: Deliver at once, outside the command window.
            expected: Expected Data Transfer Length if it is not that of the data.
        """
        if data_out and read:
            raise ValueError("no bidirectional commands here")
        deadline = time.monotonic() + self.timeout
        while not immediate and not self.window_open:
            self._handle(self.receive(max(0.0, deadline - time.monotonic())))
        length = read or len(data_out) if expected is None else expected
        flags = attribute | READ * bool(read) | WRITE * bool(data_out)
        task = Task(self.next_tag(), self.cmd_sn, lun, cdb, data_out, length, bool(read))
        sent, unsolicited = self._first_burst(data_out)
        head = pdu(
            wire.COMMAND,
            flags | FINAL * (unsolicited == sent),
            immediate=immediate,
            lun=lun,
            itt=task.itt,
            expected_length=length,
            cmd_sn=self.cmd_sn,
            data=data_out[:sent],
        )
        head.header[32:48] = cdb[:16].ljust(16, b"\0")
        if len(cdb) > 16:
            rest = cdb[16:]
            head.ahs = (len(rest) + 1).to_bytes(2, "big") + bytes((1, 0)) + rest
        if not immediate:
            self.cmd_sn = (self.cmd_sn + 1) % _MODULUS
        self.tasks[task.itt] = task
        self.send(head)
        if unsolicited > sent:
            self._send_data(task, sent, unsolicited - sent, NO_TAG)
        return task

    @property
    def window_open(self) -> bool:
        """Whether the target takes one more command (RFC 7143 4.2.2.1)."""
        return (self.max_cmd_sn - self.cmd_sn) % _MODULUS < _MODULUS // 2

    def wait(self, task: Task, timeout: float | None = None) -> Reply:
        """Wait for a command's end, serving all the others meanwhile."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while task.reply is None:
            self._handle(self.receive(max(0.0, deadline - time.monotonic())))
            self._raise_rejects(task.itt)
        return task.reply

    def poll(self, timeout: float = 0.0) -> None:
        """Handle what arrives within that time."""
        deadline = time.monotonic() + timeout
        with contextlib.suppress(TimeoutError):
            while True:
                self._handle(self.receive(max(0.0, deadline - time.monotonic())))

    def forget(self, task: Task) -> None:
        """Expect nothing of this task any more: it was aborted."""
        self.tasks.pop(task.itt, None)

    def _first_burst(self, data: bytes) -> tuple[int, int]:
        """How much goes with the command, and how much goes unasked in all (RFC 7143 4.2.5.2)."""
        first = min(len(data), self.number("FirstBurstLength"))
        sent = 0
        if self.negotiated["ImmediateData"] == "Yes":
            sent = min(first, self.number("MaxRecvDataSegmentLength"))
        return sent, sent if self.negotiated["InitialR2T"] == "Yes" else first

    def _send_data(self, task: Task, offset: int, length: int, ttt: int) -> None:
        """A sequence of Data-Out PDUs."""
        limit, end, number = self.number("MaxRecvDataSegmentLength"), offset + length, 0
        while offset < end:
            piece = task.data_out[offset : min(end, offset + limit)]
            final = FINAL * (offset + len(piece) == end)
            out = pdu(
                wire.DATA_OUT,
                final,
                itt=task.itt,
                ttt=ttt,
                lun=task.lun,
                data=piece,
                data_sn=number,
                buffer_offset=offset,
            )
            for changed in self.data_hook(out):
                self.send(changed)
            offset += len(piece)
            number += 1

    def _ask(self, out: Pdu, opcode: int) -> Pdu:
        """Send a request and wait for the answer with its tag."""
        out.cmd_sn = self.cmd_sn
        if not out.immediate:
            self.cmd_sn = (self.cmd_sn + 1) % _MODULUS
        tag: int = out.itt
        self.send(out)
        deadline = time.monotonic() + self.timeout
        while tag not in self.answers:
            self._handle(self.receive(max(0.0, deadline - time.monotonic())))
            self._raise_rejects(tag)
        answer = self.answers.pop(tag)
        if answer.opcode != opcode:
            raise ProtocolError(f"opcode {answer.opcode:#04x} instead of {opcode:#04x}")
        return answer

    def _raise_rejects(self, tag: int) -> None:
        for answer in self.rejects:
            if answer.data[16:20] == tag.to_bytes(4, "big"):
                self.rejects.remove(answer)
                self.tasks.pop(tag, None)
                raise Rejected(answer)

    # What the target sends.

    def _handle(self, got: Pdu) -> None:
        """Judge and take in one PDU of the full feature phase."""
        self._sequence(got)
        opcode = got.opcode
        if opcode == wire.DATA_IN:
            self._data_in(got)
        elif opcode == wire.R2T:
            self._r2t(got)
        elif opcode == wire.RESPONSE:
            self._response(got)
        elif opcode == wire.NOP_IN and got.itt == NO_TAG:
            if got.ttt != NO_TAG:
                answer = pdu(wire.NOP_OUT, immediate=True, itt=NO_TAG, ttt=got.ttt)
                answer.header[8:16] = got.header[8:16]
                answer.cmd_sn = self.cmd_sn
                self.send(answer)
        elif opcode == wire.ASYNCHRONOUS:
            self.asynchronous.append(got)
        elif opcode == wire.REJECT:
            self.rejects.append(got)
        else:
            self.answers[got.itt] = got

    def _sequence(self, got: Pdu) -> None:
        """StatSN goes up by one with every status; the command window never shrinks (4.2.2)."""
        opcode = got.opcode
        plain_data = opcode == wire.DATA_IN and not got.flags & 1
        asks = opcode == wire.R2T or (opcode == wire.NOP_IN and got.itt == NO_TAG)
        if not plain_data:
            if got.stat_sn != self.exp_stat_sn:
                raise ProtocolError(f"StatSN {got.stat_sn}, expected {self.exp_stat_sn}: {got}")
            if not asks:
                self.exp_stat_sn = (self.exp_stat_sn + 1) % _MODULUS
        if (got.exp_cmd_sn - self.exp_cmd_sn) % _MODULUS < _MODULUS // 2:
            self.exp_cmd_sn = got.exp_cmd_sn
        else:
            raise ProtocolError(f"ExpCmdSN fell from {self.exp_cmd_sn} to {got.exp_cmd_sn}")
        if (got.max_cmd_sn - got.exp_cmd_sn + 1) % _MODULUS > _MODULUS // 2:
            raise ProtocolError("MaxCmdSN below ExpCmdSN - 1 (4.2.2.1)")
        if (got.max_cmd_sn - self.max_cmd_sn) % _MODULUS < _MODULUS // 2:
            self.max_cmd_sn = got.max_cmd_sn

    def _task(self, got: Pdu) -> Task:
        task = self.tasks.get(got.itt)
        if task is None:
            raise ProtocolError(f"no task {got.itt:#x} for {got}")
        return task

    def _data_in(self, got: Pdu) -> None:
        task = self._task(got)
        own = int(self.negotiated["own MaxRecvDataSegmentLength"])
        if not task.reads or len(got.data) > own:
            raise ProtocolError(f"Data-In of {len(got.data)} bytes, {own} may come")
        if (got.data_sn, got.buffer_offset) != (task.counted, len(task.received)):
            raise ProtocolError(f"Data-In out of order: {got}")
        task.counted += 1
        task.burst += len(got.data)
        task.received += got.data
        if task.burst > self.number("MaxBurstLength") or len(task.received) > task.expected:
            raise ProtocolError("more data than the burst or the command may have (11.7)")
        if got.flags & FINAL:
            task.burst = 0
        if got.flags & 1:
            if not got.flags & FINAL:
                raise ProtocolError("status without the final bit (11.7.3)")
            self._finish(task, got, Reply(got.status, b"", bytes(task.received)))

    def _r2t(self, got: Pdu) -> None:
        task = self._task(got)
        offset, length = got.buffer_offset, got.residual
        end = offset + length
        if not 0 < length <= self.number("MaxBurstLength") or end > task.expected:
            raise ProtocolError(f"R2T of {length} bytes at {offset} of {task.expected}")
        if got.data_sn != task.counted:
            raise ProtocolError(f"R2TSN {got.data_sn}, expected {task.counted}")
        if got.ttt == NO_TAG:
            raise ProtocolError("R2T without a Target Transfer Tag (11.8.4)")
        task.counted += 1
        task.r2ts.append((offset, length))
        self._send_data(task, offset, length, got.ttt)

    def _response(self, got: Pdu) -> None:
        task = self._task(got)
        sense = b""
        if got.data:
            length = int.from_bytes(got.data[:2], "big")
            sense = got.data[2 : 2 + length]
            if len(sense) != length:
                raise ProtocolError("sense data cut short (11.4.7.2)")
        if got.byte_2 == 0 and got.data_sn not in (0, task.counted):
            raise ProtocolError(f"ExpDataSN {got.data_sn}, {task.counted} came (11.4.8)")
        reply = Reply(got.status, sense, bytes(task.received), 0, got.byte_2)
        self._finish(task, got, reply)

    def _finish(self, task: Task, got: Pdu, reply: Reply) -> None:
        over, under = got.flags & 4, got.flags & 2
        if over and under:
            raise ProtocolError("overflow and underflow at once (11.4.1)")
        residual = got.residual if under else -got.residual if over else 0
        came = len(task.received)
        if task.reads and reply.status == 0 and not over and came + residual != task.expected:
            raise ProtocolError(f"{came} bytes and a residual of {residual}, not {task.expected}")
        del self.tasks[task.itt]
        task.reply = attrs.evolve(reply, residual=residual)
