"""Hostile peers in the full feature phase: the target lives, others are served, nothing leaks."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import random
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import iscsi_wire as wire
from tests.support import sbc_cdbs as sbc
from tests.support.hostile import (
    MEGABYTE,
    Bystander,
    Gauge,
    arbitrary_pdus,
    mutated,
    recorded,
)
from tests.support.iscsi_client import (
    ABORT_TASK,
    LUN_RESET,
    ConnectionLost,
    Initiator,
    ProtocolError,
    Rejected,
    Task,
)
from tests.support.iscsi_wire import FINAL, NO_TAG, Pdu, pdu
from tests.support.target_rig import (
    BLOCK,
    GOOD,
    SOLICITED,
    TASK_SET_FULL,
    Session,
    Target,
    eventually,
    initiator_name,
    make_root,
)

FAR = 100_000
"""A block that the sessions of the peers stay away from."""
DIGESTS: dict[str, Any] = {"header_digest": "CRC32C", "data_digest": "CRC32C"}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A target with two logical units: one for the peers, one for a bystander."""
    tmp_path = tmp_path_factory.mktemp("target")
    root = make_root(tmp_path, "disk", "quiet", size=64 * MEGABYTE)
    with Target(root, tmp_path / "log") as process:
        yield process
        assert process.running, process.log.read_text()
        text = process.log.read_text()
        assert "Traceback" not in text, text


def command_pdu(of: Session, cdb: bytes, flags: int = 0, **fields: Any) -> Pdu:
    """A SCSI command that is not sent by `Initiator.submit`."""
    fields.setdefault("itt", of.initiator.next_tag())
    out = pdu(wire.COMMAND, flags | FINAL | 1, lun=of.lun, **fields)
    out.header[32:48] = cdb.ljust(16, b"\0")
    return out


def still_served(target: Target) -> None:
    """A new session works, reads and writes: blocks that no other one writes, since a write of a
    session whose connection broke may still be under way.
    """
    with target.log_in("afterwards") as session:
        assert session.command(sbc.write(FAR, 1), b"\x77" * BLOCK).good
        assert session.command(sbc.read(FAR, 1), read=BLOCK).data == b"\x77" * BLOCK


# Fuzz.


def replay(target: Target, data: bytes) -> None:
    """Send bytes on a connection of their own; the target has to close it when we are done."""
    url = target.url()
    with socket.create_connection((url.host, url.port)) as connection:
        connection.settimeout(60.0)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(1 << 18):
                pass


def fuzz(target: Target, seed: int, count: int) -> None:
    """Mutations of recorded sessions."""
    rng = random.Random(seed)
    tapes = [
        recorded(target),
        recorded(target, keys=SOLICITED),
        recorded(target, keys={"MaxRecvDataSegmentLength": "512", "FirstBurstLength": "512"}),
        recorded(target, header_digest="CRC32C", data_digest="CRC32C"),
    ]
    gauge = Gauge(target)
    with Bystander(target) as bystander:
        for number in range(count):
            replay(target, mutated(rng.choice(tapes), rng))
            if number % 100 == 99:
                bystander.goes_on()
                assert target.running
    still_served(target)
    gauge.back()


@pytest.mark.parametrize("seed", [1, 2])
def test_fuzz_mutated_sessions_harm_nobody(target: Target, seed: int) -> None:
    """Valid sessions with something wrong in them [RFC 7143 7; seeded]"""
    fuzz(target, seed, 600)


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 104))
def test_fuzz_mutated_sessions_harm_nobody_for_long(target: Target, seed: int) -> None:
    """The same, much longer [RFC 7143 7; seeded]"""
    fuzz(target, seed, 20_000)


def storm(target: Target, seed: int, count: int) -> None:
    """Sessions that log in properly and then send anything in good frames."""
    rng = random.Random(seed)
    gauge = Gauge(target)
    with Bystander(target) as bystander:
        for _ in range(count):
            digests = DIGESTS if rng.random() < 0.2 else {}
            session = target.log_in("storm", settled=False, **digests)
            initiator = session.initiator
            with contextlib.suppress(ConnectionLost, ProtocolError):
                for out in arbitrary_pdus(rng, initiator, rng.randrange(1, 40)):
                    initiator.send_bytes(initiator.encoded(out))
            session.close()
        bystander.goes_on()
    still_served(target)
    gauge.back()


@pytest.mark.parametrize("seed", [1, 2])
def test_fuzz_arbitrary_pdus_harm_nobody(target: Target, seed: int) -> None:
    """Well framed PDUs with any contents, after a login [RFC 7143 11; seeded]"""
    storm(target, seed, 150)


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(200, 204))
def test_fuzz_arbitrary_pdus_harm_nobody_for_long(target: Target, seed: int) -> None:
    """The same, much longer [RFC 7143 11; seeded]"""
    storm(target, seed, 5_000)


# Digests.


def test_digest_wrong_header_digest_ends_the_connection(target: Target) -> None:
    """A header that cannot be believed: the connection is dropped [RFC 7143 7.7; ERL 0]"""
    session = target.log_in("a", **DIGESTS)
    data = bytearray(session.initiator.encoded(command_pdu(session, sbc.TEST_UNIT_READY)))
    data[-1] ^= 1
    session.initiator.send_bytes(bytes(data))
    assert session.initiator.closed()
    still_served(target)


@pytest.mark.parametrize("solicited", [False, True])
def test_digest_wrong_data_digest_writes_nothing(target: Target, solicited: bool) -> None:
    """Data that cannot be believed is not written [RFC 7143 7.8; ERL 0]"""
    with target.log_in("a") as a:
        assert a.command(sbc.write(0, 1), b"\x11" * BLOCK).good
        session = target.log_in("b", keys=SOLICITED if solicited else {}, **DIGESTS)
        initiator = session.initiator

        def spoil(data: bytes) -> bytes:
            return data[:-1] + bytes((data[-1] ^ 0xFF,))

        def send_spoiled(out: Pdu) -> list[Pdu]:
            initiator.send_bytes(spoil(initiator.encoded(out)))
            return []

        if solicited:
            initiator.data_hook = send_spoiled
            with contextlib.suppress(ConnectionLost, Rejected):
                assert session.command(sbc.write(0, 1), b"\x22" * BLOCK).status != GOOD
        else:
            out = command_pdu(session, sbc.write(0, 1), 0x20, expected_length=BLOCK)
            out.cmd_sn, out.data = initiator.cmd_sn, b"\x22" * BLOCK
            initiator.send_bytes(spoil(initiator.encoded(out)))
            with contextlib.suppress(ConnectionLost, TimeoutError):
                while (answer := initiator.receive()).opcode not in (wire.RESPONSE, wire.REJECT):
                    pass
                assert answer.opcode == wire.REJECT or answer.status != GOOD
        session.close()
        assert a.command(sbc.read(0, 1), read=BLOCK).data == b"\x11" * BLOCK


# Lengths.


@pytest.mark.parametrize("length", [8 << 20, (1 << 24) - 1])
def test_length_huge_data_segments_are_not_gathered(target: Target, length: int) -> None:
    """More than MaxRecvDataSegmentLength is refused, not buffered [RFC 7143 13.12]"""
    gauge = Gauge(target)
    opened = [target.log_in(f"peer{number}", settled=False) for number in range(12)]
    with Bystander(target) as bystander:
        for session, opcode in zip(opened, itertools.cycle((0, 1, 4, 5)), strict=False):
            out = pdu(opcode, FINAL | 0x21 * (opcode == 1), itt=5, ttt=NO_TAG)
            out.cmd_sn = session.initiator.cmd_sn
            out.header[5:8] = length.to_bytes(3)
            with contextlib.suppress(ConnectionLost, TimeoutError):
                session.initiator.send_bytes(bytes(out.header))
                session.initiator.socket.settimeout(2.0)
                session.initiator.send_bytes(bytes(length))
        gauge.bounded(64)
        bystander.goes_on()
        for session in opened:
            assert session.initiator.closed()
            session.close()
    gauge.back()


def test_length_additional_headers_are_bounded(target: Target) -> None:
    """1020 bytes of additional headers, of any kind, harm nobody [RFC 7143 11.2.1.5, 11.2.2]"""
    gauge = Gauge(target)
    rng = random.Random(5)
    for number in range(60):
        session = target.log_in("peer", settled=False)
        out = command_pdu(session, sbc.TEST_UNIT_READY)
        out.cmd_sn = session.initiator.cmd_sn
        kind = rng.choice((0, 1, 1, 2, 3, 255))
        claimed = rng.choice((0, 1, 2, 5, 17, 1017, 1020, 0xFFFF))
        out.ahs = (claimed.to_bytes(2) + bytes((kind,)) + rng.randbytes(1017))[: 4 * (number % 255)]
        # The answer to a command that the client does not know of may overtake that to the ping.
        with contextlib.suppress(ConnectionLost, ProtocolError):
            session.initiator.send(out)
            session.initiator.ping()
        session.close()
    still_served(target)
    gauge.back()


# Sequence numbers.


def test_window_command_outside_is_ignored(target: Target) -> None:
    """CmdSN outside the window or twice: silently ignored [RFC 7143 4.2.2.1]"""
    with target.log_in("a") as a:
        initiator = a.initiator
        right = initiator.cmd_sn
        for cmd_sn in (right - 1, right - 1000, initiator.max_cmd_sn + 1, right + (1 << 31)):
            out = command_pdu(a, sbc.TEST_UNIT_READY)
            out.cmd_sn = cmd_sn
            initiator.send(out)
        # Were any of them answered, the judge of sequence numbers would not know the task.
        assert initiator.ping(b"there") == b"there"
        assert a.ready().good
        assert initiator.exp_cmd_sn == right + 1


def test_window_gap_holds_commands_back_until_it_is_filled(target: Target) -> None:
    """Commands are delivered in the order of CmdSN [RFC 7143 4.2.2.1; order]"""
    with target.log_in("a") as a:
        initiator = a.initiator
        first = initiator.cmd_sn
        initiator.cmd_sn = first + 1
        later = [initiator.submit(a.lun, sbc.TEST_UNIT_READY) for _ in range(8)]
        assert initiator.ping() == b""
        assert all(task.reply is None for task in later)
        after, initiator.cmd_sn = initiator.cmd_sn, first
        missing = initiator.submit(a.lun, sbc.TEST_UNIT_READY)
        initiator.cmd_sn = after
        assert all(initiator.wait(task).good for task in (missing, *later))


def test_window_gaps_with_data_are_bounded(target: Target) -> None:
    """Commands that wait for one that never comes hold no more than is allowed [limits]"""
    gauge = Gauge(target)
    opened = [target.log_in(f"peer{number}") for number in range(10)]
    with Bystander(target) as bystander:
        for session in opened:
            initiator = session.initiator
            initiator.cmd_sn += 1
            while initiator.window_open:
                initiator.submit(session.lun, sbc.write(0, 128), bytes(65536))
        gauge.bounded(160)
        bystander.goes_on()
        for session in opened:
            session.close()
    gauge.back()


def test_tasks_immediate_commands_without_end_are_bounded(target: Target) -> None:
    """Immediate delivery takes no place in the window: it is limited all the same [4.2.2.1]"""
    gauge = Gauge(target)
    session = target.log_in("a", keys=SOLICITED)
    with Bystander(target) as bystander:
        with contextlib.suppress(ConnectionLost, TimeoutError):
            session.initiator.socket.settimeout(3.0)
            for number in range(5000):
                out = command_pdu(
                    session, sbc.write(0, 128), 0x20, expected_length=65536, itt=10_000 + number
                )
                out.header[0] |= 0x40
                out.cmd_sn = session.initiator.cmd_sn
                session.initiator.send(out)
        gauge.bounded(64)
        bystander.goes_on()
        session.close()
    gauge.back()


def test_tasks_same_tag_twice_harms_nobody(target: Target) -> None:
    """An initiator task tag that is in use already [RFC 7143 11.2.1.8; reject, 7.3]"""
    session = target.log_in("a", keys=SOLICITED)
    with Bystander(target):
        for _ in range(20):
            out = command_pdu(session, sbc.write(0, 8), 0x20, expected_length=4096, itt=0x4242)
            out.cmd_sn = session.initiator.cmd_sn
            session.initiator.cmd_sn += 1
            with contextlib.suppress(ConnectionLost):
                session.initiator.send(out)
        with contextlib.suppress(ConnectionLost):
            session.initiator.send(pdu(wire.NOP_OUT, immediate=True, itt=9, ttt=NO_TAG))
        session.close()
    still_served(target)


# Data.


def test_data_out_for_unknown_tasks_harms_nobody(target: Target) -> None:
    """Data for tasks and transfer tags that do not exist [RFC 7143 7.3, 11.7]"""
    gauge = Gauge(target)
    with Bystander(target) as bystander:
        for _ in range(5):
            session = target.log_in("a")
            with contextlib.suppress(ConnectionLost):
                for number in range(400):
                    out = pdu(wire.DATA_OUT, FINAL, itt=number, ttt=number * 7, data=bytes(8192))
                    session.initiator.send(out)
            bystander.goes_on()
            session.close()
    still_served(target)
    gauge.back()


@pytest.mark.parametrize("what", ["number", "offset", "length", "tag", "final", "more"])
def test_data_out_that_breaks_the_rules_writes_nothing(target: Target, what: str) -> None:
    """Wrong DataSN, offset, length, tag or final bit: not GOOD [RFC 7143 11.7; 7.3]"""
    session = target.log_in("a", keys=SOLICITED)
    initiator = session.initiator
    blank = bytes(4096)
    assert session.command(sbc.write(0, 8), blank).good

    def spoil(out: Pdu) -> list[Pdu]:
        if what == "number":
            out.data_sn += 3
        elif what == "offset":
            out.buffer_offset += 512
        elif what == "length":
            out.data = out.data[:-4]
        elif what == "tag":
            out.ttt ^= 0x55
        elif what == "final":
            out.flags = 0
        else:
            out.data += bytes(512)
        return [out]

    initiator.data_hook = spoil
    task = initiator.submit(session.lun, sbc.write(0, 8), b"\x33" * 4096)
    with contextlib.suppress(ConnectionLost, Rejected, TimeoutError):
        assert initiator.wait(task, 3.0).status != GOOD
    session.close()
    with target.log_in("b") as b:
        assert b.command(sbc.read(0, 8), read=4096).data == blank


def test_data_withheld_by_many_leaves_room_for_others(target: Target) -> None:
    """Writes whose data never comes, from many clients: others write on [limits; fairness]"""
    gauge = Gauge(target)
    opened: list[Session] = []
    with Bystander(target) as bystander:
        for number in range(24):
            session = target.log_in(f"peer{number}", keys=SOLICITED)
            opened.append(session)
            session.initiator.data_hook = lambda out: []
            for _ in range(16):
                if session.initiator.window_open:
                    session.initiator.submit(session.lun, sbc.write(0, 2048, 16), bytes(MEGABYTE))
        for session in opened:
            # They may be closed: a TARGET COLD RESET of a storm before may have come late.
            with contextlib.suppress(ConnectionLost):
                session.initiator.poll(0.05)
        bystander.goes_on()
        gauge.bounded(256)
        with target.log_in("newcomer", "quiet") as newcomer:
            reply = newcomer.command(sbc.write(4096, 2048, 16), bytes(MEGABYTE))
            assert reply.good
        bystander.goes_on()
        for session in opened:
            session.close()
    gauge.back(megabytes=200)


def test_data_withheld_can_be_aborted(target: Target) -> None:
    """ABORT TASK and LU RESET end writes that wait for data, late data is let go [11.5.1]"""
    with target.log_in("a", keys=SOLICITED) as a:
        initiator = a.initiator
        assert a.command(sbc.write(0, 8), bytes(4096)).good
        withheld = [a.withhold(sbc.write(0, 8), b"\x44" * 4096) for _ in range(6)]
        tasks = [task for task, _ in withheld]
        assert initiator.task_management(ABORT_TASK, lun=a.lun, task=tasks[0]) == 0
        initiator.forget(tasks[0])
        assert initiator.task_management(LUN_RESET, lun=a.lun) == 0
        for task in tasks[1:]:
            initiator.forget(task)
        for _, held in withheld:
            for out in held:
                initiator.send(out)
        assert initiator.ping(b"x") == b"x"
        a.settle()
        assert a.command(sbc.read(0, 8), read=4096).data == bytes(4096)


# Clients that do not read.


def flood(of: Initiator, data: bytes, seconds: float) -> int:
    """Send as much as is taken in that time; how many bytes that was."""
    of.socket.settimeout(0.2)
    sent, deadline = 0, time.monotonic() + seconds
    with contextlib.suppress(ConnectionResetError, BrokenPipeError, TimeoutError):
        while time.monotonic() < deadline:
            sent += of.socket.send(data[sent % len(data) :])
    return sent


@pytest.mark.parametrize("what", ["ping", "text", "unknown", "task management", "data"])
def test_reading_nothing_while_asking_without_end_is_bounded(target: Target, what: str) -> None:
    """Requests whose answers nobody takes: the target stops reading [limits; back pressure]"""
    gauge = Gauge(target)
    opened = [
        target.log_in(f"peer{number}", settled=False, receive_buffer=4096) for number in range(4)
    ]
    with Bystander(target) as bystander:
        for session in opened:
            initiator = session.initiator
            one = {
                "ping": pdu(wire.NOP_OUT, immediate=True, itt=1, ttt=NO_TAG, data=bytes(8192)),
                "text": pdu(
                    wire.TEXT, immediate=True, itt=1, ttt=NO_TAG, data=b"SendTargets=All\0"
                ),
                "unknown": pdu(0x1C, immediate=True, itt=1),
                "task management": pdu(wire.TASK_REQUEST, FINAL | 1, immediate=True, itt=1, ttt=77),
                "data": pdu(wire.DATA_OUT, itt=1, ttt=5, data=bytes(512)),
            }[what]
            one.cmd_sn = initiator.cmd_sn
            flood(initiator, initiator.encoded(one) * 50, 1.0)
        gauge.bounded(96)
        bystander.goes_on()
        for session in opened:
            session.close()
    gauge.back(megabytes=96)


def test_reading_nothing_of_what_was_read_is_bounded(target: Target) -> None:
    """A full window of large READs that nobody takes, from many [limits; output]"""
    gauge = Gauge(target)
    opened = []
    with Bystander(target) as bystander:
        for number in range(12):
            session = target.log_in(f"peer{number}", receive_buffer=4096)
            opened.append(session)
            while session.initiator.window_open:
                session.initiator.submit(session.lun, sbc.read(0, 2048, 16), read=MEGABYTE)
        time.sleep(1.0)
        gauge.bounded(256)
        bystander.goes_on()
        still_served(target)
        for session in opened:
            session.close()
    gauge.back(megabytes=200)


def test_reading_slowly_gets_everything(target: Target) -> None:
    """A slow reader is not a dead one: all its data comes, in order [RFC 7143 4.2]"""
    pattern = random.Random(9).randbytes(MEGABYTE)
    with target.log_in("writer") as writer:
        assert writer.command(sbc.write(0, 2048, 16), pattern).good
    with target.log_in("slow", receive_buffer=4096) as slow:
        tasks: list[Task] = []
        while slow.initiator.window_open and len(tasks) < 12:
            tasks.append(slow.initiator.submit(slow.lun, sbc.read(0, 2048, 16), read=MEGABYTE))
        for task in tasks:
            time.sleep(0.1)
            assert slow.initiator.wait(task).data == pattern


# Connections.


def test_connections_broken_in_mid_command_leave_nothing(target: Target) -> None:
    """Resets and silent ends, with commands under way in both directions [leaks]"""
    gauge = Gauge(target)
    with Bystander(target):
        for number in range(120):
            session = target.log_in("peer", settled=False)
            initiator = session.initiator
            if number % 3:
                for _ in range(8):
                    initiator.submit(session.lun, sbc.read(0, 512, 16), read=512 * BLOCK)
            initiator.data_hook = lambda out: []
            for _ in range(4):
                initiator.submit(session.lun, sbc.write(0, 512, 16), bytes(512 * BLOCK))
            if number % 2:
                initiator.reset()
            else:
                initiator.close()
    still_served(target)
    gauge.back(megabytes=96)


def test_connections_broken_while_data_is_awaited_are_forgotten(target: Target) -> None:
    """What is left of a broken session is nothing, and at once [leaks; timers]"""
    gauge = Gauge(target)
    for _ in range(1000):
        session = target.log_in("peer", settled=False, keys={"InitialR2T": "Yes"})
        session.initiator.data_hook = lambda out: []
        session.initiator.submit(session.lun, sbc.write(0, 512), bytes(512 * BLOCK))
        session.initiator.poll(0.002)
        session.close()
    gauge.back(megabytes=32)


def logins(target: Target, count: int) -> None:
    """Log in and out, or break off, again and again."""
    gauge = Gauge(target)
    with Bystander(target):
        for number in range(count):
            name = "peer" if number % 2 else f"peer{number}"
            session = target.log_in(name, settled=False, isid=0x80 << 40 | number % 7)
            if number % 3:
                assert session.ready().status in (GOOD, 2)
            if number % 4:
                session.logout()
            else:
                session.close()
    still_served(target)
    gauge.back()


def test_connections_thousand_logins_leave_nothing(target: Target) -> None:
    """A thousand sessions one after the other [leaks]"""
    logins(target, 1000)


@pytest.mark.sweep
@pytest.mark.timeout(3600)
def test_connections_twenty_thousand_logins_leave_nothing(target: Target) -> None:
    """Twenty thousand [leaks]"""
    logins(target, 20_000)


def test_connections_many_at_once_are_all_served(target: Target) -> None:
    """A hundred sessions at once [limits]"""
    gauge = Gauge(target)
    opened = [target.log_in(f"peer{number}") for number in range(100)]
    assert all(session.command(sbc.read(0, 8), read=4096).good for session in opened)
    for session in opened:
        session.close()
    gauge.back()


def test_connections_more_than_files_may_be_open(tmp_path: pathlib.Path) -> None:
    """File descriptors run out: the target lives, and accepts again later [EMFILE]"""
    root = make_root(tmp_path, "disk", "quiet", size=64 * MEGABYTE)
    wrapper = ("prlimit", "--nofile=96:96")
    with Target(root, tmp_path / "log", wrapper=wrapper) as target:
        url = target.url()
        gauge = Gauge(target)
        with Bystander(target) as bystander:
            crowd = [socket.create_connection((url.host, url.port)) for _ in range(200)]
            bystander.goes_on()
            for connection in crowd:
                connection.close()
            eventually(lambda: logs_in(target), "a login after the crowd")
        gauge.back()


def logs_in(target: Target) -> bool:
    """Whether a login succeeds now."""
    url = target.url()
    try:
        name = initiator_name("probe")
        with Initiator((url.host, url.port), target=url.target, name=name, timeout=5.0) as probe:
            return probe.ping(b"1") == b"1"
    except (OSError, TimeoutError):
        return False


def test_session_reinstated_again_and_again_answers_only_the_last(target: Target) -> None:
    """The same name and ISID: the older session is closed, its tasks with it [RFC 7143 6.3.5]"""
    gauge = Gauge(target)
    with Bystander(target):
        older: list[Session] = []
        for _ in range(40):
            session = target.log_in("peer", isid=0x80_0000_0000_77, keys=SOLICITED)
            if older:
                assert older[-1].initiator.closed()
            session.initiator.data_hook = lambda out: []
            for _ in range(4):
                session.initiator.submit(session.lun, sbc.write(0, 512, 16), bytes(512 * BLOCK))
            session.initiator.poll(0.01)
            older.append(session)
        for session in older:
            session.close()
    still_served(target)
    gauge.back(megabytes=96)


def test_queue_that_is_full_is_told_and_recovers(target: Target) -> None:
    """Many sessions with full windows: GOOD or TASK SET FULL or BUSY, never silence [SAM-5]"""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(target.log_in(f"peer{number}")) for number in range(16)]
        tasks = []
        for session in opened:
            for _ in range(40):
                if session.initiator.window_open:
                    task = session.initiator.submit(session.lun, sbc.read(0, 64), read=64 * BLOCK)
                    tasks.append((session, task))
        statuses = {session.initiator.wait(task).status for session, task in tasks}
        assert statuses <= {GOOD, TASK_SET_FULL, 8}
        assert GOOD in statuses
