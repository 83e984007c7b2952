"""Whole PDUs, byte by byte as the drawings of RFC 7143 section 11 have them.

Nothing here is computed by the package or by the helpers of other tests, apart from receiving
and sending.
"""

from __future__ import annotations

import pytest

from flockpr.iscsi import events
from flockpr.iscsi.command import Command
from flockpr.iscsi.pdu import AsyncEvent
from tests.support.iscsi_bench import Bench

_TEXT = (
    b"InitiatorName=iqn.2026-01.org.example:i\0"  # 40
    b"TargetName=iqn.2026-01.org.example:t\0"  # 37
    b"SessionType=Normal\0"  # 19
    b"InitialR2T=No\0"  # 14
    b"ImmediateData=Yes\0"  # 18
    b"FirstBurstLength=1024\0"  # 22
    b"MaxBurstLength=1024\0"  # 20
    b"MaxRecvDataSegmentLength=1024\0"  # 30
)
assert len(_TEXT) == 200

LOGIN_REQUEST = bytes.fromhex(
    "43 87 00 00"  # immediate, Login; T, CSG 1, NSG 3; versions
    "00 00 00 c8"  # no AHS, 200 bytes
    "80 00 12 34 56 78 00 00"  # ISID, TSIH
    "00 00 00 01"  # ITT
    "00 02 00 00"  # CID
    "00 00 00 64"  # CmdSN 100
    "00 00 00 00"  # ExpStatSN
    "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00"
)
_ANSWER = (
    b"TargetPortalGroupTag=2\0"
    b"InitialR2T=No\0"
    b"ImmediateData=Yes\0"
    b"FirstBurstLength=1024\0"
    b"MaxBurstLength=1024\0"
    b"MaxRecvDataSegmentLength=262144\0"
)
LOGIN_RESPONSE = bytes.fromhex(
    "23 87 00 00"  # Login Response; T, CSG 1, NSG 3; versions
    "00 00 00 81"  # 129 bytes
    "80 00 12 34 56 78 00 07"  # ISID, TSIH
    "00 00 00 01"  # ITT
    "00 00 00 00"
    "00 00 00 01"  # StatSN
    "00 00 00 64"  # ExpCmdSN
    "00 00 00 a3"  # MaxCmdSN: 64 commands
    "00 00 00 00"  # status
    "00 00 00 00 00 00 00 00"
)


def _logged_in() -> Bench:
    bench = Bench()
    bench.feed_bytes(LOGIN_REQUEST + _TEXT)
    bench.events.clear()
    bench.connection.data_to_send()
    return bench


def _sent(bench: Bench) -> bytes:
    return b"".join(bytes(part) for part in bench.connection.data_to_send())


def test_login_in_one_request_gives_the_response_of_the_drawing() -> None:
    """RFC 7143 11.12, 11.13: the whole login of an initiator without authentication."""
    bench = Bench()
    bench.feed_bytes(LOGIN_REQUEST + _TEXT)
    assert _sent(bench) == LOGIN_RESPONSE + _ANSWER + bytes(3)
    asked = next(event for event in bench.events if isinstance(event, events.LoginStarted))
    assert asked.identification == events.Identification(
        initiator_name="iqn.2026-01.org.example:i",
        target_name="iqn.2026-01.org.example:t",
        isid=0x800012345678,
        cid=2,
    )


READ_COMMAND = bytes.fromhex(
    "01 c1 00 00 00 00 00 00"  # F, R, simple
    "00 05 00 00 00 00 00 00"  # LUN 5
    "00 00 00 11"  # ITT
    "00 00 08 00"  # 2048 bytes
    "00 00 00 64"  # CmdSN
    "00 00 00 02"  # ExpStatSN
    "28 00 00 00 00 09 00 00 04 00 00 00 00 00 00 00"  # READ(10)
)


def test_read_command_arrives_as_it_was_sent() -> None:
    """RFC 7143 11.3: the fields of a SCSI Command."""
    bench = _logged_in()
    bench.feed_bytes(READ_COMMAND)
    command = bench.take(Command)
    assert (command.itt, command.lun, command.edtl, command.cmd_sn) == (0x11, 5, 2048, 100)
    assert (command.read, command.write, command.attribute) == (True, False, 1)
    assert command.lun_field == 0x0005000000000000
    assert command.cdb == bytes.fromhex("28000000000900000400000000000000")
    assert command.complete
    assert not command.immediate


def test_read_is_answered_with_data_in_and_status_in_the_last() -> None:
    """RFC 7143 11.7: two Data-In, the second with F, S, the StatSN and an underflow."""
    bench = _logged_in()
    bench.feed_bytes(READ_COMMAND)
    command = bench.take(Command)
    bench.connection.respond(command, 0, data=[b"a" * 1024, b"b" * 1000])
    first = bytes.fromhex(
        "25 80 00 00 00 00 04 00"  # F, because the burst of 1024 bytes ends; 1024 bytes
        "00 00 00 00 00 00 00 00"
        "00 00 00 11"
        "ff ff ff ff"  # TTT
        "00 00 00 00"  # no StatSN
        "00 00 00 65 00 00 00 a4"  # ExpCmdSN, MaxCmdSN
        "00 00 00 00"  # DataSN
        "00 00 00 00"  # Buffer Offset
        "00 00 00 00"
    )
    second = bytes.fromhex(
        "25 83 00 00 00 00 03 e8"  # F, U, S; 1000 bytes
        "00 00 00 00 00 00 00 00"
        "00 00 00 11"
        "ff ff ff ff"
        "00 00 00 02"  # StatSN
        "00 00 00 65 00 00 00 a4"
        "00 00 00 01"
        "00 00 04 00"
        "00 00 00 18"  # 24 bytes are missing
    )
    assert _sent(bench) == first + b"a" * 1024 + second + b"b" * 1000


def test_check_condition_is_sent_with_the_length_of_its_sense() -> None:
    """RFC 7143 11.4: a SCSI Response with sense data."""
    bench = _logged_in()
    bench.feed_bytes(READ_COMMAND)
    bench.connection.respond(bench.take(Command), 2, bytes(range(18)))
    assert _sent(bench) == bytes.fromhex(
        "21 82 00 02 00 00 00 14"  # F, U; command completed; CHECK CONDITION; 20 bytes
        "00 00 00 00 00 00 00 00"
        "00 00 00 11"
        "00 00 00 00"  # SNACK tag
        "00 00 00 02"  # StatSN
        "00 00 00 65 00 00 00 a4"
        "00 00 00 00"  # ExpDataSN
        "00 00 00 00"  # bidirectional residual
        "00 00 08 00"  # nothing of 2048 bytes came
        "00 12"  # SenseLength
        "00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 10 11"
    )


def test_write_is_gathered_from_all_three_sources() -> None:
    """RFC 7143 11.3, 11.7, 11.8: immediate data, an unsolicited Data-Out, an R2T, a Data-Out."""
    bench = _logged_in()
    bench.feed_bytes(
        bytes.fromhex(
            "01 21 00 00 00 00 02 00"  # W, not F: more comes unasked; 512 bytes
            "00 00 00 00 00 00 00 00"
            "00 00 00 12"
            "00 00 08 00"
            "00 00 00 64"
            "00 00 00 02"
            "2a 00 00 00 00 00 00 00 04 00 00 00 00 00 00 00"
        )
        + b"1" * 512
        + bytes.fromhex(
            "05 80 00 00 00 00 02 00"  # Data-Out, F
            "00 00 00 00 00 00 00 00"
            "00 00 00 12"
            "ff ff ff ff"  # unsolicited
            "00 00 00 00"
            "00 00 00 02"
            "00 00 00 00"
            "00 00 00 00"  # DataSN
            "00 00 02 00"  # Buffer Offset
            "00 00 00 00"
        )
        + b"2" * 512
    )
    command = bench.take(Command)
    assert not command.complete
    assert _sent(bench) == bytes.fromhex(
        "31 80 00 00 00 00 00 00"
        "00 00 00 00 00 00 00 00"
        "00 00 00 12"
        "00 00 00 01"  # TTT
        "00 00 00 02"  # the next StatSN
        "00 00 00 65 00 00 00 a3"  # one command holds the window back
        "00 00 00 00"  # R2TSN
        "00 00 04 00"  # from 1024
        "00 00 04 00"  # 1024 bytes
    )
    bench.feed_bytes(
        bytes.fromhex(
            "05 80 00 00 00 00 04 00"
            "00 00 00 00 00 00 00 00"
            "00 00 00 12"
            "00 00 00 01"
            "00 00 00 00"
            "00 00 00 02"
            "00 00 00 00"
            "00 00 00 00"
            "00 00 04 00"
            "00 00 00 00"
        )
        + b"3" * 1024
    )
    assert bench.take(events.DataComplete).command is command
    assert bytes(bench.buffers[0x12]) == b"1" * 512 + b"2" * 512 + b"3" * 1024
    bench.connection.respond(command, 0)
    assert _sent(bench) == bytes.fromhex(
        "21 80 00 00 00 00 00 00"
        "00 00 00 00 00 00 00 00"
        "00 00 00 12"
        "00 00 00 00"
        "00 00 00 02"
        "00 00 00 65 00 00 00 a4"
        "00 00 00 01"  # ExpDataSN: one R2T
        "00 00 00 00"
        "00 00 00 00"
    )


def test_ping_comes_back_with_its_data() -> None:
    """RFC 7143 11.18, 11.19: an immediate NOP-Out."""
    bench = _logged_in()
    bench.feed_bytes(
        bytes.fromhex(
            "40 80 00 00 00 00 00 04"
            "00 00 00 00 00 00 00 00"
            "00 00 00 21"
            "ff ff ff ff"
            "00 00 00 64"
            "00 00 00 02"
            "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00"
        )
        + b"ping"
    )
    assert (
        _sent(bench)
        == bytes.fromhex(
            "20 80 00 00 00 00 00 04"
            "00 00 00 00 00 00 00 00"
            "00 00 00 21"
            "ff ff ff ff"
            "00 00 00 02"
            "00 00 00 64 00 00 00 a3"
            "00 00 00 00 00 00 00 00 00 00 00 00"
        )
        + b"ping"
    )


def test_task_management_both_ways() -> None:
    """RFC 7143 11.5, 11.6: LOGICAL UNIT RESET."""
    bench = _logged_in()
    bench.feed_bytes(
        bytes.fromhex(
            "42 85 00 00 00 00 00 00"
            "00 05 00 00 00 00 00 00"
            "00 00 00 22"
            "ff ff ff ff"
            "00 00 00 64"
            "00 00 00 02"
            "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00"
        )
    )
    request = bench.take(events.TaskManagement)
    assert (request.function, request.lun, request.referenced) == (5, 5, None)
    bench.connection.task_management_response(request, 0)
    assert _sent(bench) == bytes.fromhex(
        "22 80 00 00 00 00 00 00"
        "00 00 00 00 00 00 00 00"
        "00 00 00 22"
        "00 00 00 00"
        "00 00 00 02"
        "00 00 00 64 00 00 00 a3"
        "00 00 00 00 00 00 00 00 00 00 00 00"
    )


def test_logout_both_ways() -> None:
    """RFC 7143 11.14, 11.15: the session is closed."""
    bench = _logged_in()
    bench.feed_bytes(
        bytes.fromhex(
            "46 80 00 00 00 00 00 00"
            "00 00 00 00 00 00 00 00"
            "00 00 00 23"
            "00 02 00 00"  # CID
            "00 00 00 64"
            "00 00 00 02"
            "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00"
        )
    )
    request = bench.take(events.LogoutRequested)
    assert request == events.LogoutRequested(reason=0, cid=2, itt=0x23)
    bench.connection.logout_response(request)
    assert bench.connection.closing
    assert _sent(bench) == bytes.fromhex(
        "26 80 00 00 00 00 00 00"
        "00 00 00 00 00 00 00 00"
        "00 00 00 23"
        "00 00 00 00"
        "00 00 00 02"
        "00 00 00 64 00 00 00 a3"
        "00 00 00 00"
        "00 00 00 00"  # Time2Wait, Time2Retain
        "00 00 00 00"
    )


@pytest.mark.parametrize(
    ("event", "third", "words"),
    [
        (AsyncEvent.LOGOUT, 5, "01 00 00 00 00 00 00 05"),
        (AsyncEvent.DROP_CONNECTION, 0, "02 00 00 02 00 00 00 00"),
    ],
)
def test_asynchronous_message_is_the_one_of_the_drawing(
    event: AsyncEvent, third: int, words: str
) -> None:
    """RFC 7143 11.9: AsyncEvent, AsyncVCode and the three parameters."""
    bench = _logged_in()
    first = 2 if event is AsyncEvent.DROP_CONNECTION else 0
    bench.connection.async_message(event, first, 0, third)
    assert _sent(bench) == bytes.fromhex(
        "32 80 00 00 00 00 00 00"
        "00 00 00 00 00 00 00 00"
        "ff ff ff ff"
        "00 00 00 00"
        "00 00 00 02"
        "00 00 00 64 00 00 00 a3" + words + "00 00 00 00"
    )


def test_reject_carries_the_header_that_it_rejects() -> None:
    """RFC 7143 11.17: SNACK, which recovery level 0 has no use for."""
    bench = _logged_in()
    snack = bytes.fromhex(
        "10 80 00 00 00 00 00 00"
        "00 00 00 00 00 00 00 00"
        "00 00 00 24"
        "ff ff ff ff"
        "00 00 00 00"
        "00 00 00 02"
        "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00"
    )
    bench.feed_bytes(snack)
    assert (
        _sent(bench)
        == bytes.fromhex(
            "3f 80 03 00 00 00 00 30"
            "00 00 00 00 00 00 00 00"
            "ff ff ff ff"
            "00 00 00 00"
            "00 00 00 02"
            "00 00 00 64 00 00 00 a3"
            "00 00 00 00 00 00 00 00 00 00 00 00"
        )
        + snack
    )


def test_ping_of_the_target_spends_no_number() -> None:
    """RFC 7143 11.19.1: NOP-In with the reserved ITT carries the next StatSN."""
    bench = _logged_in()
    bench.connection.nop_in()
    assert _sent(bench) == bytes.fromhex(
        "20 80 00 00 00 00 00 00"
        "00 00 00 00 00 00 00 00"
        "ff ff ff ff"
        "00 00 00 01"  # TTT
        "00 00 00 02"
        "00 00 00 64 00 00 00 a3"
        "00 00 00 00 00 00 00 00 00 00 00 00"
    )
    assert bench.connection.stat_sn == 2
