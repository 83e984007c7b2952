"""The helper door over real sockets: what is answered, what closes."""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from typing import NoReturn, cast

import pytest

from flockpr.logical_unit import Result
from flockpr.prhelper import connection as connection_module
from flockpr.prhelper.connection import Limits
from flockpr.prhelper.door import describe_command
from flockpr.prhelper.identity import Identifier
from flockpr.prhelper.listener import Listener
from flockpr.prhelper.protocol import Request
from flockpr.prhelper.server import (
    DESCRIPTORS_EACH,
    RESERVED_DESCRIPTORS,
    HelperServer,
    affordable_connections,
)
from flockpr.spc.codes import Status
from tests.support.desks import image
from tests.support.helper import (
    DEADLINE,
    PORT,
    RawClient,
    Served,
    eventually,
    sense_code,
    serving,
    short_directory,
)
from tests.support.open_files import count_open
from tests.support.scsi import REGISTER, RESERVE, WERO, basic_list, in_cdb

KEY = 0xABC
READ_KEYS, READ_RESERVATION, CAPABILITIES, FULL_STATUS = range(4)


def out_cdb(action: int, length: int = 24, kind: int = 0, *, high: bytes = b"\0\0") -> bytes:
    """PERSISTENT RESERVE OUT as QEMU passes it on: length at bytes 7-8, `high` at 5-6."""
    return bytes((0x5F, action, kind, 0, 0)) + high + length.to_bytes(2, "big") + bytes(1)


@pytest.fixture
def served() -> Iterator[Served]:
    """A server whose every descriptor is the logical unit `disk`."""
    with serving() as running:
        yield running


def test_greeting_comes_before_a_byte_is_sent(served: Served) -> None:
    """QEMU waits for it in its main thread."""
    with RawClient(served.path, handshake=False) as client:
        assert client.receive(4) == bytes(4)


def test_greeting_need_not_be_read_first(served: Served, disk: int) -> None:
    """A client may send its word and its first command before it reads."""
    with RawClient(served.path, handshake=False) as client:
        client.send(bytes(4))
        client.send(in_cdb(READ_KEYS, 8).ljust(16, b"\0"), disk)
        assert client.receive(4) == bytes(4)
        assert client.reply()[0] == Status.GOOD


@pytest.mark.parametrize(
    ("word", "closed"),
    [(b"\0\0\0\0", False), (b"\0\0\0\1", False), (b"\1\0\0\0", True), (b"\xff" * 4, True)],
)
def test_features_not_offered_close(served: Served, disk: int, word: bytes, closed: bool) -> None:
    """The helper closes if the requested bits contain one that it does not know."""
    with RawClient(served.path, handshake=False) as client:
        client.receive(4)
        client.send(word)
        if closed:
            assert client.closed()
        else:
            assert client.run(disk, in_cdb(READ_KEYS, 8))[0] == Status.GOOD


def test_register_and_reserve_answer_like_a_target(served: Served, disk: int) -> None:
    """The vectors that a Linux target gave through the real helper."""
    with RawClient(served.path) as client:
        assert client.run(disk, in_cdb(READ_KEYS))[2] == bytes(8)
        register = basic_list(0, KEY)
        assert client.run(disk, out_cdb(REGISTER), register) == (0, bytes(96), b"")
        keys = bytes.fromhex("00000001 00000008 0000000000000abc")
        assert client.run(disk, in_cdb(READ_KEYS))[2] == keys
        assert client.run(disk, out_cdb(RESERVE, kind=WERO), basic_list(KEY)) == (0, bytes(96), b"")
        held = bytes.fromhex("00000001 00000010 0000000000000abc 00000000 00 05 0000")
        assert client.run(disk, in_cdb(READ_RESERVATION))[2] == held
        wrong = client.run(disk, out_cdb(REGISTER), basic_list(KEY + 1, 5))
        assert wrong == (Status.RESERVATION_CONFLICT, bytes(96), b"")


def test_payload_is_cut_to_the_allocation_length(served: Served, disk: int) -> None:
    """ADDITIONAL LENGTH still says how much there would be."""
    with RawClient(served.path) as client:
        client.run(disk, out_cdb(REGISTER), basic_list(0, KEY))
        for length in (0, 1, 3, 8, 12, 16, 17):
            status, _, payload = client.run(disk, in_cdb(READ_KEYS, length))
            assert status == Status.GOOD
            assert payload == bytes.fromhex("00000001 00000008 0000000000000abc")[:length]


@pytest.mark.parametrize("answer", [Status.GOOD, Status.CHECK_CONDITION, Status.BUSY])
def test_payload_of_a_bad_manager_cannot_abort_qemu(
    served: Served, disk: int, answer: Status
) -> None:
    """One clamp stands between any result and the wire."""
    served.units.canned = Result(answer, b"\x70" + bytes(17), b"x" * 9000)
    with RawClient(served.path) as client:
        status, _, payload = client.run(disk, in_cdb(READ_KEYS, 24))
        assert (status, len(payload)) == (answer, 24 if answer == Status.GOOD else 0)
        assert client.run(disk, out_cdb(REGISTER), bytes(24))[2] == b""


@pytest.mark.parametrize("length", range(8))
def test_report_capabilities_shorter_than_8_is_refused(
    served: Served, disk: int, length: int
) -> None:
    """QEMU 11 aborts on a short payload that is not empty: 05/24/00 on this door."""
    with RawClient(served.path) as client:
        status, sense, payload = client.run(disk, in_cdb(CAPABILITIES, length))
        assert (status, sense_code(sense), payload) == (2, (5, 0x24, 0), b"")
        assert client.run(disk, in_cdb(CAPABILITIES | 0xE0, length))[0] == 2
        status, _, payload = client.run(disk, in_cdb(CAPABILITIES, 8))
        assert (status, len(payload), payload[:2]) == (0, 8, b"\0\x08")


@pytest.mark.parametrize("action", [READ_KEYS, READ_RESERVATION, FULL_STATUS])
@pytest.mark.parametrize("length", [0, 1, 4, 7])
def test_other_actions_shorter_than_8_are_truncated(
    served: Served, disk: int, action: int, length: int
) -> None:
    """Only REPORT CAPABILITIES is refused."""
    with RawClient(served.path) as client:
        status, _, payload = client.run(disk, in_cdb(action, length))
        assert (status, payload) == (0, bytes(length))


def test_service_action_with_garbage_above_is_masked(served: Served, disk: int) -> None:
    """Bits 5-7 of byte 1 arrive as the guest wrote them."""
    with RawClient(served.path) as client:
        assert client.run(disk, in_cdb(0xE0))[0] == Status.GOOD
        assert client.run(disk, out_cdb(0xE0), basic_list(0, KEY))[0] == Status.GOOD
        assert client.run(disk, in_cdb(READ_KEYS))[2][8:] == KEY.to_bytes(8, "big")


def test_length_is_bytes_7_and_8(served: Served, disk: int) -> None:
    """With 1 in bytes 5-6 the stream stays in step, and the list is 24 bytes long."""
    with RawClient(served.path) as client:
        assert client.run(disk, out_cdb(REGISTER, high=b"\0\1"), basic_list(0, KEY))[0] == 0
        assert client.run(disk, in_cdb(READ_KEYS))[0] == Status.GOOD
    assert served.units.calls[0].long_parameter_length is False


@pytest.mark.parametrize("action", [0x04, 0x08, 0x1F])
def test_unknown_service_actions_are_answered(served: Served, disk: int, action: int) -> None:
    """05/24/00, and the connection stays."""
    with RawClient(served.path) as client:
        assert sense_code(client.run(disk, in_cdb(action))[1]) == (5, 0x24, 0)
        if action != 0x04:
            assert sense_code(client.run(disk, out_cdb(action), bytes(24))[1]) == (5, 0x24, 0)
        assert client.run(disk, in_cdb(READ_KEYS))[0] == Status.GOOD


@pytest.mark.parametrize("length", [0, 1, 7, 8, 23, 25, 8192])
def test_parameter_lists_of_any_length_are_consumed_and_answered(
    served: Served, disk: int, length: int
) -> None:
    """A bad list is 05/1A/00 from the rules, never a closed connection."""
    with RawClient(served.path) as client:
        status, sense, _ = client.run(disk, out_cdb(REGISTER, length), bytes(length))
        assert (status, sense_code(sense)) == (2, (5, 0x1A, 0))
        assert client.run(disk, in_cdb(READ_KEYS))[0] == Status.GOOD


def test_cleanup_is_a_good_no_op(served: Served, disk: int) -> None:
    """FFh must not unregister what the destination of a migration owns by now."""
    with RawClient(served.path) as client:
        client.run(disk, out_cdb(REGISTER), basic_list(0, KEY))
        assert client.run(disk, b"\xff") == (0, bytes(96), b"")
        assert len(client.run(disk, in_cdb(READ_KEYS))[2]) == 16
    assert [call.cdb[0] for call in served.units.calls] == [0x5F, 0x5E]


def test_cleanup_without_descriptor_closes(served: Served) -> None:
    """FFh needs one like any request."""
    with RawClient(served.path) as client:
        client.send(b"\xff".ljust(16, b"\0"))
        assert client.closed()


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_PATH, os.O_RDONLY | os.O_DIRECTORY])
def test_out_on_a_descriptor_not_open_for_writing_is_refused(
    served: Served, disk: int, flags: int
) -> None:
    """05/20/00 after the data were consumed: the access mode is the only proof that it may."""
    path = os.path.dirname(image(disk)) if flags & os.O_DIRECTORY else image(disk)
    descriptor = os.open(path, flags)
    with RawClient(served.path) as client:
        status, sense, _ = client.run(descriptor, out_cdb(REGISTER), basic_list(0, KEY))
        assert (status, sense_code(sense)) == (2, (5, 0x20, 0))
        assert client.run(descriptor, in_cdb(READ_KEYS))[2] == bytes(8)
    os.close(descriptor)


def test_out_on_a_descriptor_open_for_writing_only_is_served(served: Served, disk: int) -> None:
    """Writing is what has to be proven."""
    descriptor = os.open(image(disk), os.O_WRONLY)
    with RawClient(served.path) as client:
        assert client.run(descriptor, out_cdb(REGISTER), basic_list(0, KEY))[0] == 0
    os.close(descriptor)


def test_device_without_logical_unit_is_refused_not_disconnected(disk: int) -> None:
    """05/25/00; a disconnect would cost every disk of that QEMU its connection."""
    null = os.open("/dev/null", os.O_RDWR)
    with serving(lun=None) as served, RawClient(served.path) as client:
        for descriptor in (null, disk, client.sock.fileno()):
            status, sense, payload = client.run(descriptor, in_cdb(READ_KEYS))
            assert (status, sense_code(sense), payload) == (2, (5, 0x25, 0), b"")
        assert sense_code(client.run(disk, out_cdb(0), bytes(24))[1]) == (5, 0x25, 0)
        served.units.names[image(disk)] = "found"
        assert client.run(disk, in_cdb(READ_KEYS))[0] == Status.GOOD
        assert served.units.calls[-1].lun == "found"
    os.close(null)


@pytest.mark.parametrize("opcode", [0x00, 0x12, 0x28, 0x5D, 0x60, 0x88, 0xA3])
def test_other_opcodes_close(served: Served, disk: int, opcode: int) -> None:
    """The client is no QEMU, or the stream is out of step."""
    with RawClient(served.path) as client:
        client.send(bytes((opcode,)).ljust(16, b"\0"), disk)
        assert client.closed()


@pytest.mark.parametrize("opcode", [0x5E, 0x5F])
@pytest.mark.parametrize("length", [8193, 65535])
def test_length_above_the_most_closes(served: Served, disk: int, opcode: int, length: int) -> None:
    """8192 is the most."""
    with RawClient(served.path) as client:
        client.send(bytes((opcode, *bytes(6))) + length.to_bytes(2, "big") + bytes(7), disk)
        assert client.closed()


def test_descriptor_missing_closes(served: Served) -> None:
    """No descriptor by the end of the CDB."""
    with RawClient(served.path) as client:
        client.send(in_cdb(READ_KEYS).ljust(16, b"\0"))
        assert client.closed()


@pytest.mark.parametrize("at", [0, 1, 7, 15])
def test_request_byte_by_byte_is_put_together(served: Served, disk: int, at: int) -> None:
    """Every read may be short; the descriptor comes with any byte of the CDB."""
    with RawClient(served.path, handshake=False) as client:
        client.receive(4)
        for _ in range(4):
            client.send(b"\0")
        for index, byte in enumerate(out_cdb(REGISTER).ljust(16, b"\0")):
            client.send(bytes((byte,)), *([disk] if index == at else []))
        for byte in basic_list(0, KEY):
            client.send(bytes((byte,)))
        assert client.reply() == (0, bytes(96), b"")
        assert len(client.run(disk, in_cdb(READ_KEYS))[2]) == 16


def test_pipelined_requests_are_answered_in_order(served: Served, disk: int) -> None:
    """Descriptors stay with their own requests although all bytes lie in one buffer."""
    other = os.open(image(disk), os.O_RDONLY)
    with RawClient(served.path) as client:
        for number in range(20):
            descriptor = other if number % 3 == 2 else disk
            client.send(out_cdb(6).ljust(16, b"\0") + basic_list(0, number + 1)[:5], descriptor)
            client.send(basic_list(0, number + 1)[5:])
            client.send(in_cdb(READ_KEYS).ljust(16, b"\0"), disk)
        for number in range(20):
            assert client.reply()[0] == (2 if number % 3 == 2 else 0)
            key = number + 1 if number % 3 != 2 else number
            assert client.reply()[2][8:] == key.to_bytes(8, "big")
    os.close(other)


def test_half_close_after_a_request_still_gets_its_reply(served: Served, disk: int) -> None:
    """The end of the client's stream ends nothing that it asked for before."""
    with RawClient(served.path) as client:
        client.send(in_cdb(READ_KEYS, 8).ljust(16, b"\0"), disk)
        client.sock.shutdown(1)
        assert client.reply()[0] == Status.GOOD
        assert client.closed()


def test_client_that_dies_within_a_request_changes_nothing(served: Served, disk: int) -> None:
    """Half a parameter list is no command."""
    with RawClient(served.path) as client:
        client.send(out_cdb(REGISTER).ljust(16, b"\0") + basic_list(0, KEY)[:20], disk)
    eventually(lambda: served.server.connections == 0, "the connection did not end")
    assert served.units.calls == []
    assert count_open(image(disk)) == 1


def test_client_that_dies_before_the_reply_has_its_command_done(served: Served, disk: int) -> None:
    """A reply that cannot be delivered undoes nothing."""
    with RawClient(served.path) as client:
        client.send(out_cdb(REGISTER).ljust(16, b"\0") + basic_list(0, KEY), disk)
    eventually(lambda: len(served.units.calls) == 1, "the command did not arrive")
    with RawClient(served.path) as client:
        assert len(client.run(disk, in_cdb(READ_KEYS))[2]) == 16


# Time.


def test_idle_connection_outlives_every_timeout(disk: int) -> None:
    """QEMU is silent for days between two requests."""
    with (
        serving(limits=Limits(request=0.05)) as served,
        RawClient(served.path) as client,
    ):
        for _ in range(3):
            assert client.run(disk, in_cdb(READ_KEYS))[0] == Status.GOOD
            time.sleep(0.2)
        assert served.server.connections == 1


def test_client_that_never_answers_the_greeting_is_closed() -> None:
    """It would keep its thread for ever."""
    with (
        serving(limits=Limits(handshake=0.1)) as served,
        RawClient(served.path, handshake=False) as client,
    ):
        assert client.receive(4) == bytes(4)
        assert client.closed()


def test_client_that_stops_within_a_request_is_closed(disk: int) -> None:
    """With the descriptor it has sent."""
    with serving(limits=Limits(request=0.1)) as served, RawClient(served.path) as client:
        client.send(out_cdb(REGISTER).ljust(16, b"\0"), disk)
        assert client.closed()
        eventually(lambda: count_open(image(disk)) == 1, "the descriptor stayed open")


def test_client_that_does_not_read_is_closed_in_the_end(disk: int) -> None:
    """Responses pile up until the socket is full; then it has the time of a request."""
    with serving(limits=Limits(request=0.2)) as served, RawClient(served.path) as client:
        client.sock.settimeout(0.5)
        with pytest.raises(OSError):  # noqa: PT012, a timeout or a broken pipe, at some send
            while True:
                client.send(in_cdb(READ_KEYS).ljust(16, b"\0"), disk)
        eventually(lambda: served.server.connections == 0, "the connection stayed")
        eventually(lambda: count_open(image(disk)) == 1, "descriptors stayed open")


def test_hung_unit_delays_nobody_else(disk: int) -> None:
    """Other machines are greeted and answered while one waits; it is answered in bounded time."""
    with serving(lun=None, limits=Limits(command=3.0)) as served:
        hung_path = image(disk) + ".hung"
        hung_disk = os.open(hung_path, os.O_RDWR | os.O_CREAT, 0o600)
        served.units.names.update({image(disk): "fine", hung_path: "hung"})
        served.units.hung.add("hung")
        with RawClient(served.path) as slow:
            slow.send(out_cdb(REGISTER).ljust(16, b"\0") + basic_list(0, 1), hung_disk)
            eventually(lambda: bool(served.units.pending), "the command did not arrive")
            with RawClient(served.path) as quick:
                assert quick.run(disk, out_cdb(REGISTER), basic_list(0, 2))[0] == 0
            status, sense, _ = slow.reply()
            # It had been handed over, so whether it took effect cannot be said.
            assert (status, sense_code(sense)) == (2, (0x0B, 0x08, 0x01))
            assert slow.run(hung_disk, in_cdb(READ_KEYS))[0] == Status.BUSY
            assert slow.run(disk, in_cdb(READ_KEYS))[0] == Status.GOOD
        os.close(hung_disk)


def test_silent_clients_delay_nobody(served: Served, disk: int) -> None:
    """300 idle connections, in every phase, and the next one is served as if alone."""
    clients = []
    try:
        for number in range(300):
            client = RawClient(served.path, handshake=number % 3 > 0)
            if number % 3 == 2:
                client.send(in_cdb(READ_KEYS)[:5])
            clients.append(client)
        with RawClient(served.path) as client:
            assert client.run(disk, in_cdb(READ_KEYS))[0] == Status.GOOD
        for client in clients[1::3]:
            assert client.run(disk, in_cdb(READ_KEYS))[0] == Status.GOOD
    finally:
        for client in clients:
            client.close()
    eventually(lambda: served.server.connections == 0, "connections stayed")


def test_burst_of_connects_is_greeted(served: Served) -> None:
    """A backlog of 1 would answer some of them with EAGAIN."""
    clients = [RawClient(served.path, handshake=False) for _ in range(100)]
    for client in clients:
        assert client.receive(4) == bytes(4)
        client.close()


def test_connections_beyond_the_most_are_turned_away() -> None:
    """Closed at once: a connection without a greeting would stop QEMU's main thread."""
    with serving(limits=Limits(connections=2)) as served, RawClient(served.path):
        with RawClient(served.path), RawClient(served.path, handshake=False) as third:
            assert third.closed()
        eventually(lambda: served.server.connections == 1, "the slot stayed taken")
        with RawClient(served.path):
            eventually(lambda: served.server.connections == 2, "the slot was not used")


@pytest.mark.parametrize(
    ("soft", "doors", "each"),
    [(3064, 1, 1000), (3064, 4, 250), (3064, 1000, 16), (64, 1, 16), (1 << 30, 2, 4096)],
)
def test_connections_of_all_doors_together_fit_the_limit_on_open_files(
    monkeypatch: pytest.MonkeyPatch, soft: int, doors: int, each: int
) -> None:
    """Doors share it equally; each has room for a few clients whatever it is."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert affordable_connections(doors) == each
    fits = doors * each * DESCRIPTORS_EACH + RESERVED_DESCRIPTORS <= soft
    assert fits or each == 16


# Failures.


def test_unexpected_error_is_a_hardware_error_not_a_disconnect(
    served: Served, disk: int, caplog: pytest.LogCaptureFixture
) -> None:
    """04/44/00, with a traceback in the log."""
    served.units.failure = RuntimeError("broken on purpose")
    with RawClient(served.path) as client:
        status, sense, _ = client.run(disk, out_cdb(REGISTER), bytes(24))
        assert (status, sense_code(sense)) == (2, (4, 0x44, 0))
        served.units.failure = None
        assert client.run(disk, in_cdb(READ_KEYS))[0] == Status.GOOD
    assert "broken on purpose" in caplog.text


def test_manager_that_cannot_act_is_a_hardware_error(served: Served, disk: int) -> None:
    """Also what goes wrong before the command is answered, not disconnected."""

    def fail(_: object) -> NoReturn:
        raise ValueError("broken on purpose")

    with pytest.MonkeyPatch.context() as patch, RawClient(served.path) as client:
        patch.setattr(served.manager, "acting_for", fail)
        assert sense_code(client.run(disk, in_cdb(READ_KEYS))[1]) == (4, 0x44, 0)
        patch.undo()
        assert client.run(disk, in_cdb(READ_KEYS))[0] == Status.GOOD


def test_error_without_an_answer_ends_one_connection_only(
    served: Served, disk: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Descriptors are closed, the others go on."""

    def fail(*_: object) -> NoReturn:
        raise ValueError("broken on purpose")

    with RawClient(served.path) as client, RawClient(served.path) as other:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connection_module, "encode_response", fail)
            client.send(in_cdb(READ_KEYS).ljust(16, b"\0"), disk)
            assert client.closed()
        assert other.run(disk, in_cdb(READ_KEYS))[0] == Status.GOOD
    assert "broken on purpose" in caplog.text
    eventually(lambda: count_open(image(disk)) == 1, "a descriptor stayed open")


class FaultyAccept:
    """A listening socket whose first accepts fail."""

    def __init__(self, sock: socket.socket, errors: list[Exception]) -> None:
        self._sock = sock
        self._errors = errors

    def accept(self) -> tuple[socket.socket, object]:
        """Fail, or accept."""
        if self._errors:
            raise self._errors.pop()
        return self._sock.accept()

    def fileno(self) -> int:
        """For poll."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close it."""
        self._sock.close()


def test_accept_goes_on_after_any_error(served: Served, disk: int) -> None:
    """A client that has gone, a full table, and what nobody has thought of."""
    numbers = [errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINVAL]
    errors: list[Exception] = [OSError(number, os.strerror(number)) for number in numbers]
    errors.append(ValueError("broken on purpose"))
    with short_directory() as directory:
        listener = Listener.bind(os.path.join(directory, "s"))
        listener.socket = cast("socket.socket", FaultyAccept(listener.socket, errors))
        server = HelperServer(listener, served.manager, Identifier(explicit=PORT))
        server.start()
        with RawClient(server.path) as client:
            assert client.run(disk, in_cdb(READ_KEYS))[0] == Status.GOOD
        assert errors == []
        assert server.stop(DEADLINE)


def test_client_without_a_thread_is_turned_away(
    served: Served, disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed, so that it can try again; the others go on."""
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name.startswith("helper-"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with RawClient(served.path) as first:
        # Its greeting comes before its thread; an answer does not.
        assert first.run(disk, in_cdb(READ_KEYS))[0] == Status.GOOD
        monkeypatch.setattr(threading.Thread, "start", fail)
        with RawClient(served.path, handshake=False) as second:
            assert second.receive(4) == bytes(4)
            assert second.closed()
        monkeypatch.undo()
        assert first.run(disk, in_cdb(READ_KEYS))[0] == Status.GOOD
        # The second one is counted until it was closed, which it sees before that.
        eventually(lambda: served.server.connections == 1, "the second one is still counted")


def test_busy_is_not_answered_at_once(served: Served, disk: int) -> None:
    """Linux repeats a BUSY command about a hundred times a second."""
    served.units.canned = Result(Status.BUSY)
    with RawClient(served.path) as client:
        started = time.monotonic()
        assert client.run(disk, in_cdb(READ_KEYS))[0] == Status.BUSY
        assert time.monotonic() - started > 0.2


def test_log_has_one_line_per_out(
    served: Served, disk: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Logical unit, nexus, service action and status of every PERSISTENT RESERVE OUT."""
    with caplog.at_level("INFO", "flockpr.prhelper"), RawClient(served.path) as client:
        client.run(disk, out_cdb(REGISTER), basic_list(0, KEY))
        client.run(disk, in_cdb(READ_KEYS))
        client.run(disk, out_cdb(RESERVE, kind=4 << 4), basic_list(KEY))
    records = [record for record in caplog.records if record.name == "flockpr.prhelper.door"]
    assert [record.getMessage() for record in records] == ["PR OUT REGISTER", "PR OUT RESERVE"]
    facts = [
        {name: vars(record)[name] for name in ("lun", "nexus", "status")} for record in records
    ]
    nexus = f"{PORT.text}/1"
    assert facts == [
        {"lun": "disk", "nexus": nexus, "status": "GOOD"},
        {"lun": "disk", "nexus": nexus, "status": "CHECK CONDITION 05/24/00"},
    ]


@pytest.mark.parametrize(
    ("opcode", "action", "text"),
    [
        (0x5E, 3, "PR IN READ FULL STATUS"),
        (0x5E, 0x1F, "PR IN 0x1f"),
        (0x5F, 0xE6, "PR OUT REGISTER AND IGNORE EXISTING KEY"),
        (0x5F, 8, "PR OUT 0x08"),
        (0xFF, 0, "CLEANUP"),
    ],
)
def test_log_names_commands(opcode: int, action: int, text: str) -> None:
    """By the standard's names; by number where it has none."""
    assert describe_command(Request(bytes((opcode, action, *bytes(14))))) == text


# Attendance.


def test_attendance_is_counted_over_connections(served: Served, disk: int) -> None:
    """A nexus attends with its first command, and leaves with its last connection."""
    with RawClient(served.path) as idle:
        assert served.units.presence == []
        idle.run(disk, in_cdb(READ_KEYS))
        nexus = served.units.calls[0].nexus
        arrived = [(True, "disk", nexus, "helper")]
        assert served.units.presence == arrived
        with RawClient(served.path) as second:
            second.run(disk, in_cdb(READ_KEYS))
            second.run(disk, in_cdb(READ_KEYS))
        eventually(lambda: served.server.connections == 1, "the connection did not end")
        assert served.units.presence == arrived
    eventually(lambda: len(served.units.presence) == 2, "nobody left")
    assert served.units.presence == [*arrived, (False, "disk", nexus, "helper")]


# The end.


def test_stop_answers_what_is_in_execution_and_drops_the_idle(disk: int) -> None:
    """Silent clients, and half requests, do not delay the end."""
    with serving() as served:
        with RawClient(served.path) as idle, RawClient(served.path) as half:
            half.send(out_cdb(REGISTER).ljust(16, b"\0"), disk)
            served.units.hung.add("disk")
            with RawClient(served.path) as busy:
                busy.send(in_cdb(READ_KEYS).ljust(16, b"\0"), disk)
                eventually(lambda: bool(served.units.pending), "the command did not arrive")
                outcome: list[bool] = []
                stopper = threading.Thread(
                    target=lambda: outcome.append(served.server.stop(DEADLINE))
                )
                stopper.start()
                assert idle.closed()
                assert half.closed()
                assert not os.path.exists(served.path)
                assert stopper.is_alive()
                served.units.pending[0].set_result(Result(Status.GOOD, b"", b"12345678"))
                assert busy.reply() == (0, bytes(96), b"12345678")
                stopper.join(DEADLINE)
                assert outcome == [True]
                assert busy.closed()
        eventually(lambda: count_open(image(disk)) == 1, "descriptors stayed open")


def test_stop_gives_up_on_a_command_that_hangs(disk: int) -> None:
    """It says so, and the process can end."""
    with serving() as served, RawClient(served.path) as client:
        served.units.hung.add("disk")
        client.send(in_cdb(READ_KEYS).ljust(16, b"\0"), disk)
        eventually(lambda: bool(served.units.pending), "the command did not arrive")
        assert served.server.stop(0.1) is False
        assert client.closed()


def test_stop_twice_is_fine(served: Served) -> None:
    """Idempotent."""
    assert served.server.alive
    assert served.server.stop()
    assert served.server.stop()
    assert not served.server.alive
