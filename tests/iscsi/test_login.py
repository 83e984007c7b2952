"""Logins, request by request."""

from __future__ import annotations

import hashlib

import pytest

from flockpr.iscsi import events
from flockpr.iscsi.login import Admission, LoginStatus
from flockpr.iscsi.pdu import AsyncEvent
from flockpr.iscsi.session import Phase, ProtocolConfig, TargetConnection
from tests.support.iscsi_bench import INITIATOR, NAMES, TARGET, Bench, command, login_pdu
from tests.support.iscsi_wire import LOGIN, NOP_OUT, Pdu, decode_text, pdu

SECRET = b"a secret of 16 b"
WITH_CHAP = Admission(2, chap={"user": SECRET}, mutual=("the target", b"another secret.."))

# T, C, CSG and NSG
SECURITY = 0x00
SECURITY_TO_OPERATIONAL = 0x81
SECURITY_TO_FULL = 0x83
OPERATIONAL = 0x04
OPERATIONAL_TO_FULL = 0x87
CONTINUE = 0x40


def _status(response: Pdu) -> LoginStatus:
    return LoginStatus(int.from_bytes(response.header[36:38], "big"))


def _say(bench: Bench, keys: dict[str, str], flags: int) -> Pdu:
    bench.feed(login_pdu(keys, flags))
    return bench.answer()


def _keys(response: Pdu) -> dict[str, str]:
    return dict(decode_text(response.data))


def _refused(bench: Bench, keys: dict[str, str], flags: int = OPERATIONAL_TO_FULL) -> LoginStatus:
    response = _say(bench, keys, flags)
    assert bench.connection.closing
    assert isinstance(bench.events[-1], events.Violation)
    assert not response.flags & 0x80
    return _status(response)


def test_login_without_authentication_takes_one_request() -> None:
    """RFC 7143 6.3: an initiator may begin with operational parameters."""
    bench = Bench()
    response = _say(bench, {**NAMES, "MaxBurstLength": "65536"}, OPERATIONAL_TO_FULL)
    assert (response.opcode, response.flags) == (0x23, OPERATIONAL_TO_FULL)
    assert _status(response) is LoginStatus.SUCCESS
    assert _keys(response) == {
        "TargetPortalGroupTag": "2",
        "MaxBurstLength": "65536",
        "MaxRecvDataSegmentLength": "262144",
    }
    assert response.header[14:16] == b"\0\7"  # the TSIH of the new session
    assert [type(event) for event in bench.events] == [
        events.LoginStarted,
        events.SessionRequested,
        events.Established,
    ]
    assert bench.connection.phase is Phase.FULL_FEATURE
    assert bench.connection.parameters.max_burst_length == 65536


def test_login_as_libiscsi_does_it_with_an_offer_of_chap_names_everything_twice() -> None:
    """Offered CHAP and not asked for it, it begins its second stage with all names again."""
    bench = Bench()
    first = _say(bench, {**NAMES, "AuthMethod": "CHAP,None"}, SECURITY_TO_OPERATIONAL)
    assert first.flags == SECURITY_TO_OPERATIONAL
    assert _keys(first) == {"TargetPortalGroupTag": "2", "AuthMethod": "None"}
    second = _say(bench, {**NAMES, "HeaderDigest": "None,CRC32C"}, OPERATIONAL_TO_FULL)
    assert second.flags == OPERATIONAL_TO_FULL
    assert _keys(second) == {"HeaderDigest": "None", "MaxRecvDataSegmentLength": "262144"}


def test_login_as_the_linux_initiator_does_it_hears_nothing_strange_in_the_security_stage() -> None:
    """It fails on any key there but those of authentication, portal group and alias."""
    bench = Bench()
    first = _say(
        bench, {**NAMES, "InitiatorAlias": "host", "AuthMethod": "None"}, SECURITY_TO_OPERATIONAL
    )
    assert set(_keys(first)) == {"TargetPortalGroupTag", "AuthMethod"}
    second = _say(
        bench,
        {
            "HeaderDigest": "CRC32C,None",
            "DataDigest": "None",
            "DefaultTime2Wait": "2",
            "DefaultTime2Retain": "0",
            "IFMarker": "No",
            "OFMarker": "No",
            "ErrorRecoveryLevel": "0",
            "InitialR2T": "No",
            "ImmediateData": "Yes",
            "MaxBurstLength": "16776192",
            "FirstBurstLength": "262144",
            "MaxOutstandingR2T": "1",
            "MaxConnections": "1",
            "DataPDUInOrder": "Yes",
            "DataSequenceInOrder": "Yes",
            "MaxRecvDataSegmentLength": "262144",
        },
        OPERATIONAL_TO_FULL,
    )
    answers = _keys(second)
    assert answers["HeaderDigest"] == "CRC32C"
    assert (answers["MaxConnections"], answers["ErrorRecoveryLevel"]) == ("1", "0")
    assert len(answers) == 16
    assert bench.connection.phase is Phase.FULL_FEATURE


def test_login_to_discover_may_skip_the_operational_stage() -> None:
    """The Linux initiator goes from stage 0 to 3; nothing was declared, so 8192 holds."""
    bench = Bench()
    names = {"InitiatorName": INITIATOR, "SessionType": "Discovery", "AuthMethod": "None"}
    response = _say(bench, names, SECURITY_TO_FULL)
    assert response.flags == SECURITY_TO_FULL
    assert _keys(response) == {"AuthMethod": "None"}  # no portal group without a target
    assert bench.connection.parameters.receive_limit == 8192
    started = bench.events[0]
    assert isinstance(started, events.LoginStarted)
    assert started.discovery
    assert started.target_name == ""


def test_login_in_small_steps_negotiates_until_the_initiator_is_ready() -> None:
    """RFC 7143 6.3.1: without the T bit the stage goes on, with empty requests, too."""
    bench = Bench()
    assert _say(bench, NAMES, OPERATIONAL).flags == OPERATIONAL
    assert _keys(_say(bench, {"ImmediateData": "No"}, OPERATIONAL)) == {"ImmediateData": "No"}
    assert _say(bench, {}, OPERATIONAL).data == b""
    assert bench.connection.phase is Phase.LOGIN
    assert _say(bench, {}, OPERATIONAL_TO_FULL).flags == OPERATIONAL_TO_FULL
    assert not bench.connection.parameters.immediate_data


def test_login_with_a_text_in_parts_is_put_together() -> None:
    """RFC 7143 11.12.3: the C bit; a key may be cut anywhere."""
    bench = Bench()
    text = login_pdu({**NAMES, "MaxBurstLength": "65536"}).data
    for part in (text[:20], text[20:90]):
        bench.feed(_raw(part, OPERATIONAL | CONTINUE))
        response = bench.answer()
        assert (response.flags, response.data) == (OPERATIONAL, b"")
    bench.feed(_raw(text[90:], OPERATIONAL_TO_FULL))
    assert _keys(bench.answer())["MaxBurstLength"] == "65536"
    assert bench.connection.phase is Phase.FULL_FEATURE


def _raw(text: bytes, flags: int) -> Pdu:
    made = login_pdu({}, flags)
    made.data = text
    return made


def test_login_with_a_long_answer_gets_it_in_parts() -> None:
    """RFC 7143 11.13: no response is longer than 8192 bytes, the rest follows when asked for."""
    bench = Bench()
    bench.feed(login_pdu(NAMES, OPERATIONAL))
    bench.sent()
    unknown = {f"{'X' * 55}{number:03}": "1" for number in range(125)}
    answers = b""
    for flags, keys in ((OPERATIONAL, unknown), (OPERATIONAL_TO_FULL, {})):
        response = _say(bench, keys, flags)
        assert len(response.data) <= 8192
        answers += response.data
    assert dict(decode_text(answers)) == dict.fromkeys(unknown, "NotUnderstood")
    # The second response ended the text; the stage changes with the next request.
    assert _say(bench, {}, OPERATIONAL_TO_FULL).flags == OPERATIONAL_TO_FULL


def _prove(response: Pdu, secret: bytes) -> dict[str, str]:
    asked = _keys(response)
    assert asked["CHAP_A"] == "5"
    challenge = bytes.fromhex(asked["CHAP_C"][2:])
    proof = hashlib.md5(bytes([int(asked["CHAP_I"])]) + secret + challenge).hexdigest()
    return {"CHAP_N": "user", "CHAP_R": "0x" + proof}


def _until_challenge(bench: Bench) -> Pdu:
    first = _say(bench, {**NAMES, "AuthMethod": "CHAP,None"}, SECURITY_TO_OPERATIONAL)
    assert _keys(first) == {"TargetPortalGroupTag": "2", "AuthMethod": "CHAP"}
    assert first.flags == SECURITY  # not before it is proven
    return _say(bench, {"CHAP_A": "5"}, SECURITY)


def test_login_with_chap_one_way_reaches_the_session() -> None:
    """RFC 7143 12.1.3: and the door hears who it was."""
    bench = Bench(admission=WITH_CHAP)
    response = _say(bench, _prove(_until_challenge(bench), SECRET), SECURITY_TO_OPERATIONAL)
    assert response.flags == SECURITY_TO_OPERATIONAL
    assert response.data == b""
    assert _say(bench, {}, OPERATIONAL_TO_FULL).flags == OPERATIONAL_TO_FULL
    requested = bench.events[1]
    assert isinstance(requested, events.SessionRequested)
    assert requested.user == "user"


def test_login_with_chap_both_ways_has_the_proof_of_the_target() -> None:
    """RFC 7143 12.1.3: with the response that lets the initiator in."""
    bench = Bench(admission=WITH_CHAP)
    proof = _prove(_until_challenge(bench), SECRET)
    response = _say(bench, {**proof, "CHAP_I": "9", "CHAP_C": "0xabcdef"}, SECURITY_TO_OPERATIONAL)
    expected = hashlib.md5(b"\x09another secret..\xab\xcd\xef").hexdigest()
    assert _keys(response) == {"CHAP_N": "the target", "CHAP_R": "0x" + expected}


@pytest.mark.parametrize("flags", [SECURITY, SECURITY_TO_OPERATIONAL, SECURITY_TO_FULL])
def test_login_with_a_wrong_secret_fails(flags: int) -> None:
    """RFC 7143 11.13.5: 0201h, authentication failure."""
    bench = Bench(admission=WITH_CHAP)
    proof = _prove(_until_challenge(bench), b"wrong")
    assert _refused(bench, proof, flags) is LoginStatus.AUTHENTICATION_FAILURE


@pytest.mark.parametrize(
    ("keys", "flags"),
    [
        ({}, OPERATIONAL_TO_FULL),
        ({}, OPERATIONAL),
        ({"AuthMethod": "None"}, SECURITY_TO_OPERATIONAL),
        ({"AuthMethod": "None"}, SECURITY),
        ({"AuthMethod": "KRB5,SRP"}, SECURITY),
        ({"AuthMethod": "CHAPX"}, SECURITY),
        ({}, SECURITY_TO_FULL),
        ({"CHAP_A": "5"}, SECURITY),
    ],
)
def test_login_that_leaves_authentication_out_fails(keys: dict[str, str], flags: int) -> None:
    """RFC 7143 6.3.2: whichever way around it is tried."""
    bench = Bench(admission=WITH_CHAP)
    assert _refused(bench, {**NAMES, **keys}, flags) is LoginStatus.AUTHENTICATION_FAILURE


def test_login_cannot_leave_the_security_stage_before_the_proof() -> None:
    """The T bit is asked for and not granted."""
    bench = Bench(admission=WITH_CHAP)
    _say(bench, {**NAMES, "AuthMethod": "CHAP"}, SECURITY_TO_FULL)
    response = _say(bench, {"CHAP_A": "5"}, SECURITY_TO_FULL)
    assert response.flags == SECURITY
    assert _refused(bench, {}, OPERATIONAL_TO_FULL) is LoginStatus.INITIATOR_ERROR


@pytest.mark.parametrize(
    ("names", "status"),
    [
        ({"TargetName": TARGET}, LoginStatus.MISSING_PARAMETER),
        ({"InitiatorName": INITIATOR}, LoginStatus.MISSING_PARAMETER),
        ({}, LoginStatus.MISSING_PARAMETER),
        ({**NAMES, "SessionType": "Odd"}, LoginStatus.SESSION_TYPE_NOT_SUPPORTED),
        ({**NAMES, "InitiatorName": "x" * 224}, LoginStatus.INITIATOR_ERROR),
        ({**NAMES, "InitiatorName": "iqn.a b"}, LoginStatus.INITIATOR_ERROR),
        ({**NAMES, "InitiatorName": "iqn.a,i,0x1"}, LoginStatus.INITIATOR_ERROR),
        ({**NAMES, "InitiatorName": "iqn.\u0130" + "x" * 217}, LoginStatus.INITIATOR_ERROR),
    ],
)
def test_login_that_names_nobody_fails(names: dict[str, str], status: LoginStatus) -> None:
    """RFC 7143 6.3, 11.13.5: who, and to what."""
    assert _refused(Bench(), names) is status


def test_login_in_capital_letters_is_the_same_name() -> None:
    """RFC 7143 4.2.7: names are compared after mapping to lower case."""
    bench = Bench()
    bench.feed(login_pdu({"InitiatorName": INITIATOR.upper(), "TargetName": TARGET.upper()}))
    started = bench.events[0]
    assert isinstance(started, events.LoginStarted)
    assert (started.initiator_name, started.target_name) == (INITIATOR, TARGET)


@pytest.mark.parametrize(
    "keys",
    [
        {"InitiatorName": "iqn.other"},
        {"TargetName": "iqn.other"},
        {"SessionType": "Discovery"},
    ],
)
def test_login_that_changes_its_mind_fails(keys: dict[str, str]) -> None:
    """What was checked at the beginning cannot be replaced later."""
    bench = Bench()
    _say(bench, {**NAMES}, OPERATIONAL)
    assert _refused(bench, keys) is LoginStatus.INITIATOR_ERROR


@pytest.mark.parametrize(
    "flags",
    [
        0x80,  # security to security
        0x82,  # to the reserved stage
        0x85,  # operational to operational
        0x84,  # backwards
        0x08,  # the reserved stage
        0x0C,  # full feature phase
        0x8F,
        0xC7,  # T and C
    ],
)
def test_login_with_an_impossible_step_fails(flags: int) -> None:
    """RFC 7143 11.12.2: the stage changes that there are."""
    assert _refused(Bench(), NAMES, flags) is LoginStatus.INITIATOR_ERROR


def test_login_that_goes_back_a_stage_fails() -> None:
    """RFC 7143 6.3.1: CSG must be the stage that both are in."""
    bench = Bench()
    _say(bench, {**NAMES, "AuthMethod": "None"}, SECURITY_TO_OPERATIONAL)
    assert _refused(bench, {}, SECURITY_TO_OPERATIONAL) is LoginStatus.INITIATOR_ERROR


def test_login_with_a_newer_version_only_fails() -> None:
    """RFC 7143 11.12.4: Version-min above 0."""
    bench = Bench()
    request = login_pdu(NAMES)
    request.header[2:4] = b"\1\1"
    bench.feed(request)
    assert _status(bench.answer()) is LoginStatus.UNSUPPORTED_VERSION
    assert bench.connection.closing


def test_login_with_a_newer_version_as_well_is_accepted() -> None:
    """RFC 7143 11.12.4: Version-max may be higher; Version-active is 0."""
    bench = Bench()
    request = login_pdu(NAMES)
    request.header[2:4] = b"\3\0"
    bench.feed(request)
    response = bench.answer()
    assert _status(response) is LoginStatus.SUCCESS
    assert response.header[2:4] == b"\0\0"


@pytest.mark.parametrize("text", [b"nonsense\0", b"=\0", b"A=\xff\0", b"\1=2\0"])
def test_login_with_a_text_that_is_none_fails(text: bytes) -> None:
    """RFC 7143 6.1."""
    bench = Bench()
    bench.feed(_raw(text, OPERATIONAL_TO_FULL))
    assert _status(bench.answer()) is LoginStatus.INITIATOR_ERROR


def test_login_that_offers_a_key_twice_fails() -> None:
    """RFC 7143 6.3: no renegotiation during login."""
    bench = Bench()
    _say(bench, {**NAMES, "MaxBurstLength": "512"}, OPERATIONAL)
    assert _refused(bench, {"MaxBurstLength": "1024"}) is LoginStatus.INITIATOR_ERROR


def test_login_that_changes_its_session_identifier_fails() -> None:
    """RFC 7143 11.12.6: ISID and TSIH are the same in all requests of a login."""
    bench = Bench()
    _say(bench, NAMES, OPERATIONAL)
    other = login_pdu({}, OPERATIONAL_TO_FULL)
    other.header[8] ^= 1
    bench.feed(other)
    assert _status(bench.answer()) is LoginStatus.INITIATOR_ERROR


def test_login_with_text_without_end_fails() -> None:
    """A text that always continues is not kept for ever."""
    bench = Bench()
    responses = []
    while not bench.connection.closing:
        bench.feed(_raw(b"X" * 8000, OPERATIONAL | CONTINUE))
        responses.append(bench.answer())
    assert len(responses) == 3
    assert _status(responses[-1]) is LoginStatus.INITIATOR_ERROR


def test_login_without_end_fails() -> None:
    """Nobody can hold a connection in the login for as long as he likes to talk."""
    bench = Bench()
    _say(bench, NAMES, OPERATIONAL)
    for _ in range(100):
        if bench.connection.closing:
            break
        bench.feed(login_pdu({}, OPERATIONAL))
    assert bench.connection.closing


def test_login_that_the_door_refuses_closes_with_its_status() -> None:
    """RFC 7143 11.13.5: target not found, and no event about what the door itself said."""
    connection = TargetConnection(ProtocolConfig(), allocate=lambda _: None)
    found = _give(connection, login_pdu(NAMES))
    assert isinstance(found[0], events.LoginStarted)
    connection.refuse(LoginStatus.TARGET_NOT_FOUND)
    assert connection.closing
    response = b"".join(bytes(part) for part in connection.data_to_send())
    assert response[36:38] == b"\2\3"
    assert _give(connection, pdu(NOP_OUT)) == []


def _give(connection: TargetConnection, *pdus: Pdu) -> list[events.Event]:
    data = b"".join(one.encode() for one in pdus)
    connection.get_buffer()[: len(data)] = data
    return connection.received(len(data))


def test_login_waits_for_the_door_and_nothing_is_lost() -> None:
    """An initiator that does not wait for answers is served all the same."""
    connection = TargetConnection(ProtocolConfig(), allocate=lambda _: None)
    first = login_pdu({**NAMES, "AuthMethod": "None"}, SECURITY_TO_OPERATIONAL)
    found = _give(connection, first, login_pdu({}), command(5))
    assert [type(event) for event in found] == [events.LoginStarted]
    assert connection.data_to_send() == []
    found = connection.admit(Admission(2))
    assert [type(event) for event in found] == [events.SessionRequested]
    found = connection.establish(7)
    assert [getattr(event, "itt", None) for event in found] == [None, 5]


def test_answer_that_was_not_asked_for_is_misuse() -> None:
    """The door's own mistake, which is not the peer's."""
    connection = TargetConnection(ProtocolConfig(), allocate=lambda _: None)
    with pytest.raises(RuntimeError):
        connection.admit(Admission(2))
    _give(connection, login_pdu(NAMES))
    with pytest.raises(RuntimeError):
        connection.establish(7)


def test_login_with_something_else_first_is_dropped() -> None:
    """RFC 7143 11.12: the first PDU of a connection is a Login Request."""
    bench = Bench()
    bench.feed(pdu(NOP_OUT))
    assert bench.connection.closing
    assert bench.sent() == []
    assert isinstance(bench.events[-1], events.Violation)


def test_login_with_something_else_in_between_is_refused() -> None:
    """RFC 7143 11.13.5: 020Bh, invalid request during login."""
    bench = Bench()
    _say(bench, NAMES, OPERATIONAL)
    bench.feed(pdu(NOP_OUT))
    assert _status(bench.answer()) is LoginStatus.INVALID_DURING_LOGIN
    assert bench.connection.closing


def test_login_with_a_segment_over_8192_bytes_is_dropped() -> None:
    """RFC 7143 13.12: the limit before anything was declared."""
    bench = Bench()
    huge = pdu(LOGIN, OPERATIONAL_TO_FULL, immediate=True)
    huge.header[5:8] = b"\xff\xff\xff"
    bench.feed_bytes(huge.encode_as_is())
    assert bench.connection.closing
    assert "16777215" in bench.connection.violation


def test_digests_begin_after_the_last_response() -> None:
    """RFC 7143 13.1: in both directions, with the first PDU of the full feature phase."""
    bench = Bench().login(HeaderDigest="CRC32C", DataDigest="CRC32C")
    assert bench.header_digest
    assert bench.data_digest
    bench.feed(pdu(NOP_OUT, immediate=True, itt=9, ttt=0xFFFFFFFF, data=b"odd", cmd_sn=100))
    assert bench.answer().data == b"odd"  # the reader of the bench has checked the digests


def test_limits_of_the_session_hold_after_the_login() -> None:
    """What was declared is what is accepted."""
    config = ProtocolConfig(max_recv_data_segment_length=1024)
    bench = Bench(config).login()
    bench.feed(pdu(NOP_OUT, immediate=True, itt=9, data=bytes(1024)))
    assert len(bench.answer().data) == 1024
    bench.feed(pdu(NOP_OUT, immediate=True, itt=9, data=bytes(1025)))
    assert bench.connection.closing


def test_login_with_an_alias_of_the_target_hears_it() -> None:
    """RFC 7143 13.6: TargetAlias, in the first response."""
    bench = Bench(admission=Admission(3, alias="a disk"))
    response = _say(bench, NAMES, OPERATIONAL)
    assert _keys(response)["TargetAlias"] == "a disk"
    assert _keys(response)["TargetPortalGroupTag"] == "3"


def test_login_with_a_very_long_answer_gets_three_parts() -> None:
    """RFC 7143 11.13: each is asked for with an empty request."""
    bench = Bench()
    bench.feed(login_pdu(NAMES, OPERATIONAL))
    bench.sent()
    unknown = {f"{'X' * 60}{number:03}": "" for number in range(124)}
    first = _raw(login_pdu(unknown).data[:8000], OPERATIONAL | CONTINUE)
    bench.feed(first)
    assert bench.answer().data == b""
    bench.feed(_raw(login_pdu(unknown).data[8000:], OPERATIONAL))
    parts = [bench.answer()]
    while parts[-1].flags & CONTINUE:
        parts.append(_say(bench, {}, OPERATIONAL))
    text = b"".join(part.data for part in parts)
    assert dict(decode_text(text)) == dict.fromkeys(unknown, "NotUnderstood")


def test_login_that_talks_into_a_long_answer_fails() -> None:
    """RFC 7143 11.13: until the answer ends, requests are empty."""
    bench = Bench()
    bench.feed(login_pdu(NAMES, OPERATIONAL))
    bench.sent()
    unknown = {f"{'X' * 55}{number:03}": "1" for number in range(125)}
    assert _say(bench, unknown, OPERATIONAL).flags & CONTINUE
    assert _refused(bench, {"X": "1"}, OPERATIONAL) is LoginStatus.INITIATOR_ERROR


@pytest.mark.parametrize("key", ["AuthMethod", "CHAP_A"])
def test_login_that_authenticates_in_the_wrong_stage_fails(key: str) -> None:
    """RFC 7143 6.3.2: those keys belong to the security stage."""
    assert _refused(Bench(), {**NAMES, key: "None"}) is LoginStatus.INITIATOR_ERROR


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ([("CHAP_A", "5"), ("CHAP_A", "7")], LoginStatus.INITIATOR_ERROR),
        ([("CHAP_A", "5")], LoginStatus.AUTHENTICATION_FAILURE),
        ([("AuthMethod", "CHAP")], LoginStatus.AUTHENTICATION_FAILURE),
    ],
)
def test_login_that_authenticates_without_being_asked_to_fails(
    keys: list[tuple[str, str]], status: LoginStatus
) -> None:
    """An initiator that insists on CHAP is not told that it succeeded."""
    bench = Bench()
    bench.feed(login_pdu([*NAMES.items(), *keys], SECURITY))
    assert _status(bench.answer()) is status


def test_login_that_chooses_its_method_twice_fails() -> None:
    """RFC 7143 6.3: no renegotiation."""
    bench = Bench(admission=WITH_CHAP)
    _say(bench, {**NAMES, "AuthMethod": "CHAP"}, SECURITY)
    assert _refused(bench, {"AuthMethod": "None"}, SECURITY) is LoginStatus.INITIATOR_ERROR


def test_connection_before_the_full_feature_phase_takes_no_answers() -> None:
    """The door may be late or early; nothing is sent and nothing breaks."""
    bench = Bench()
    request = events.TargetsRequested(None, 1)
    bench.connection.send_targets(request, [])
    bench.connection.nop_in()
    bench.connection.async_message(AsyncEvent.LOGOUT)
    assert bench.connection.commands == ()
    assert bench.connection.abandon() == []
    bench.connection.logout_response(events.LogoutRequested(0, 0, 1))
    assert bench.sent() == []
