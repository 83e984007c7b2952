"""Hostile peers before and in the login phase (RFC 7143 6, 11.12, 11.13, 12)."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import pathlib
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest

from tests.support import iscsi_wire as wire
from tests.support import sbc_cdbs as sbc
from tests.support.hostile import Bystander, Gauge, recorded
from tests.support.iscsi_client import ConnectionLost, Initiator
from tests.support.iscsi_login import (
    FULL_FEATURE,
    OPERATIONAL,
    SECURITY,
    TRANSIT,
    LoginFailed,
    LoginRefused,
    login_pdu,
)
from tests.support.iscsi_wire import FINAL, NO_TAG, Pdu, encode_text, pdu
from tests.support.target_rig import Session, Target, initiator_name, make_root

USER, SECRET = "someone", "a secret of some length"
TARGET_USER, TARGET_SECRET = "the target", "another secret, longer"
ACCOUNTS = f"""
[[chap]]
user = "{USER}"
secret = "{SECRET}"
[mutual]
user = "{TARGET_USER}"
secret = "{TARGET_SECRET}"
"""
REFUSED_AUTHENTICATION = (2, 1)
TO_OPERATIONAL = TRANSIT | SECURITY << 2 | OPERATIONAL
TO_THE_END: tuple[int, bytes] = (TRANSIT | OPERATIONAL << 2 | FULL_FEATURE, b"")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A target that lets everybody in."""
    tmp_path = tmp_path_factory.mktemp("target")
    root = make_root(tmp_path, "disk", "quiet")
    with Target(root, tmp_path / "log") as process:
        yield process
        assert process.running
        assert "Traceback" not in process.log.read_text()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A target that wants CHAP."""
    tmp_path = tmp_path_factory.mktemp("guarded")
    root = make_root(tmp_path)
    secrets = tmp_path / "chap.toml"
    secrets.write_text(ACCOUNTS)
    secrets.chmod(0o600)
    with Target(root, tmp_path / "log", "--chap", str(secrets)) as process:
        yield process
        assert process.running
        text = process.log.read_text()
        assert "Traceback" not in text
        assert SECRET not in text
        assert TARGET_SECRET not in text


def unconnected(target: Target, short: str = "a") -> Initiator:
    """A connection on which nothing was said yet."""
    url = target.url()
    return Initiator((url.host, url.port), name=initiator_name(short), login=False)


def introduction(target: Target, short: str = "a", **more: str | None) -> dict[str, str | None]:
    """The keys of a first request."""
    return {
        "InitiatorName": initiator_name(short),
        "SessionType": "Normal",
        "TargetName": target.url().target,
        **more,
    }


def ask(
    of: Initiator, flags: int, keys: Mapping[str, str | None] | bytes, *, tag: int = 1
) -> dict[str, str]:
    """One login request; what is answered.

    Raises:
        LoginRefused: The target refused.
        ConnectionLost: The target closed.
    """
    data = keys if isinstance(keys, bytes) else encode_text(keys)
    of.send(login_pdu(of, tag, flags, data))
    return taken(of)


def taken(of: Initiator) -> dict[str, str]:
    """The answer to a login request."""
    answer = of.receive()
    if answer.opcode == wire.REJECT:
        raise ConnectionLost("rejected")
    assert answer.opcode == wire.LOGIN_RESPONSE
    of.exp_stat_sn = answer.stat_sn + 1
    if answer.header[36]:
        raise LoginRefused((answer.header[36], answer.header[37]))
    return dict(wire.decode_text(answer.data))


CLOSED = (-1, -1)


def outcome(
    of: Initiator, requests: Iterable[tuple[int, Mapping[str, str | None] | bytes]]
) -> tuple[int, int] | None:
    """Make login requests until one is refused.

    Returns:
        Class and detail of the refusal, CLOSED for a connection that was just closed, None
        when all were answered.
    """
    try:
        for flags, keys in requests:
            ask(of, flags, keys)
    except LoginRefused as refusal:
        return refusal.status
    except ConnectionLost:
        return CLOSED
    return None


def refused(of: Initiator) -> None:
    """The target has refused, or closed; it must close now."""
    assert of.closed()
    of.close()


def served(target: Target) -> None:
    """A new session works."""
    with target.log_in("afterwards") as session:
        assert session.command(sbc.read(0, 1), read=512).good


# Before the login.


@pytest.mark.parametrize("opcode", [0, 1, 2, 4, 5, 6, 0x10, 0x1C, 0x20, 0x23, 0x3F])
def test_login_other_pdus_before_it_end_the_connection(target: Target, opcode: int) -> None:
    """Anything but a login request first [RFC 7143 6.3, 11.2.1.2]"""
    initiator = unconnected(target)
    initiator.send(pdu(opcode, FINAL, itt=1, ttt=NO_TAG, cmd_sn=1))
    refused(initiator)
    served(target)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4, b"\0" * 480, b"\xff" * 480, b"SSH-2.0-\r\n"]
)
def test_login_other_protocols_end_the_connection(target: Target, data: bytes) -> None:
    """Whoever speaks something else is let go of [total parser]"""
    initiator = unconnected(target)
    with contextlib.suppress(ConnectionLost):
        initiator.send_bytes(data)
        initiator.socket.shutdown(socket.SHUT_WR)
    refused(initiator)


def test_login_cut_anywhere_is_ended_in_time(target: Target) -> None:
    """Logins that stop in the middle, at every part, all at once [slow peers; deadline]"""
    gauge = Gauge(target)
    first = recorded(target)
    stream = first[0] + first[1]
    opened = []
    with Bystander(target) as bystander:
        for length in range(0, len(stream) - 1, 9):
            initiator = unconnected(target)
            initiator.send_bytes(stream[:length])
            opened.append(initiator)
        bystander.goes_on()
        served(target)
        for initiator in opened:
            refused(initiator)
    gauge.back()


def test_login_drip_by_drip_is_ended_in_time(target: Target) -> None:
    """A byte now and then buys no time [slow peers; deadline]"""
    stream = recorded(target)[0]
    crowd = [unconnected(target) for _ in range(20)]
    gone = 0
    deadline = time.monotonic() + 60.0
    with Bystander(target):
        for byte in stream * 4:
            for initiator in list(crowd):
                try:
                    initiator.send_bytes(bytes((byte,)))
                    initiator.receive(0.0)
                except TimeoutError:
                    continue
                except ConnectionLost:
                    crowd.remove(initiator)
                    initiator.close()
                    gone += 1
            if not crowd:
                break
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert gone == 20


def test_login_huge_lengths_in_the_header_are_refused(target: Target) -> None:
    """Neither a login of 16 MiB nor its additional headers are gathered [RFC 7143 13.12]"""
    gauge = Gauge(target)
    opened = []
    for number in range(40):
        initiator = unconnected(target)
        out = login_pdu(initiator, 1, TRANSIT | 1, b"")
        out.header[4] = 255 if number % 2 else 0
        out.header[5:8] = (0xFFFFFF if number % 3 else 20_000).to_bytes(3)
        with contextlib.suppress(ConnectionLost, TimeoutError):
            initiator.send_bytes(bytes(out.header))
            initiator.socket.settimeout(1.0)
            initiator.send_bytes(bytes(1 << 20))
        opened.append(initiator)
    gauge.bounded(32)
    for initiator in opened:
        refused(initiator)
    served(target)
    gauge.back()


# Negotiation.


def test_login_continued_for_ever_is_ended(target: Target) -> None:
    """Text in pieces (C=1) without end: bounded [RFC 7143 6.2; limits]"""
    gauge = Gauge(target)
    initiator = unconnected(target)
    piece = (wire.CONTINUE | SECURITY << 2, b"X-a=" + b"b" * 4000)
    assert outcome(initiator, itertools.repeat(piece, 20_000))
    refused(initiator)
    gauge.back(megabytes=16)


def test_login_without_end_is_ended(target: Target) -> None:
    """Requests that never ask for the next stage: bounded [RFC 7143 6.3; limits]"""
    initiator = unconnected(target)
    first = (SECURITY << 2, introduction(target))
    nothing: tuple[int, bytes] = (SECURITY << 2, b"")
    assert outcome(initiator, itertools.chain([first], itertools.repeat(nothing, 1_000_000)))
    refused(initiator)


def test_login_thousands_of_keys_are_bounded(target: Target) -> None:
    """Unknown keys are answered NotUnderstood, as many as fit [RFC 7143 6.2]"""
    initiator = unconnected(target)
    keys = {**introduction(target), **{f"X-{n}": "1" for n in range(600)}}
    with contextlib.suppress(ConnectionLost, LoginRefused):
        answered = ask(initiator, SECURITY << 2, keys)
        assert set(answered.values()) >= {"NotUnderstood"} or not answered
    initiator.close()
    served(target)


BROKEN_TEXTS = [
    b"InitiatorName",
    b"=\0",
    b"=x\0=y\0",
    b"InitiatorName=\0",
    b"\0" * 512,
    b"InitiatorName=" + b"a" * 224 + b"\0",
    b"InitiatorName=\xff\xfe\0",
    b"InitiatorName=iqn.2026-01.org.example:a b\0",
    b"InitiatorName=iqn.2026-01.org.example:a\nb\0",
    b"InitiatorName=iqn.2026-01.org.example:a,i,0x000000000001\0",
    b"InitiatorName=iqn.2026-01.org.example:a\0InitiatorName=iqn.2026-01.org.example:b\0",
    b"A" * 70 + b"=1\0",
    b"SessionType=Normal\0",
]


@pytest.mark.parametrize("text", BROKEN_TEXTS, ids=range(len(BROKEN_TEXTS)))
def test_login_broken_text_is_refused(target: Target, text: bytes) -> None:
    """Text that is none, and names that are none [RFC 7143 6.1, 4.2.7; initiator error]"""
    initiator = unconnected(target)
    assert outcome(initiator, [(TO_OPERATIONAL, text), TO_THE_END])
    refused(initiator)


VALUES = [
    *("", "0", "-1", "1.5", "0x", "0xffffffffffffffffff", "99999999999999999999", "511"),
    *("Yes", "yes", "Maybe", "None", "CRC32C,None", ",", "512~1024", "x" * 255, "\x7f"),
]


@pytest.mark.parametrize(
    "key",
    [
        *("HeaderDigest", "DataDigest", "MaxRecvDataSegmentLength", "InitialR2T"),
        *("ImmediateData", "MaxBurstLength", "FirstBurstLength", "MaxOutstandingR2T"),
        *("ErrorRecoveryLevel", "MaxConnections", "DefaultTime2Wait", "DataPDUInOrder"),
        *("OFMarker", "IFMarkInt", "TaskReporting", "iSCSIProtocolLevel", "SessionType"),
        *("TargetName", "AuthMethod", "InitiatorAlias", "TargetPortalGroupTag"),
    ],
)
def test_login_impossible_values_harm_nobody(target: Target, key: str) -> None:
    """Any value of any key: a login, a refusal or Reject, nothing else [RFC 7143 6.2, 13]"""
    for value in VALUES:
        initiator = unconnected(target)
        keys = introduction(target)
        if key in ("SessionType", "TargetName", "AuthMethod", "InitiatorAlias"):
            keys[key] = value
        with contextlib.suppress(LoginRefused, ConnectionLost):
            ask(initiator, TRANSIT | SECURITY << 2 | OPERATIONAL, keys)
            ask(initiator, TRANSIT | OPERATIONAL << 2 | FULL_FEATURE, {key: value})
        initiator.close()
    served(target)


STAGES = [TRANSIT | csg << 2 | nsg for csg in range(4) for nsg in range(4)]


@pytest.mark.parametrize("flags", [*STAGES, TRANSIT | wire.CONTINUE | 1, 0x0C, 0x08, 0x30])
def test_login_impossible_stages_are_refused(target: Target, flags: int) -> None:
    """Stages that do not exist or do not follow [RFC 7143 6.3, 11.12.3; 0200]"""
    possible = {TRANSIT | 1, TRANSIT | 3, TRANSIT | 7, 0x30}
    initiator = unconnected(target)
    try:
        ask(initiator, flags, introduction(target))
    except (LoginRefused, ConnectionLost):
        assert flags not in possible
        refused(initiator)
    else:
        assert flags in possible
        initiator.close()
    served(target)


def test_login_refusals_have_their_codes(target: Target) -> None:
    """Not found, no type, no name, no version, no session [RFC 7143 11.13.5]"""
    cases: list[tuple[dict[str, str | None], tuple[int, int]]] = [
        (introduction(target, TargetName="iqn.2026-01.org.example:nobody"), (2, 3)),
        (introduction(target, TargetName=None), (2, 7)),
        (introduction(target, InitiatorName=None), (2, 7)),
        (introduction(target, SessionType="Other"), (2, 9)),
    ]
    for keys, status in cases:
        initiator = unconnected(target)
        assert outcome(initiator, [(TO_OPERATIONAL, keys), TO_THE_END]) == status, keys
        refused(initiator)
    for field, value, status in ((3, 9, (2, 5)), (15, 77, (2, 10))):
        initiator = unconnected(target)
        out = login_pdu(initiator, 1, TRANSIT | 1, encode_text(introduction(target)))
        out.header[field] = value
        if field == 3:
            out.header[2] = 9
        initiator.send(out)
        with pytest.raises(LoginRefused) as told:
            taken(initiator)
        assert told.value.status == status
        refused(initiator)


def test_login_twice_on_one_connection_is_refused(target: Target) -> None:
    """A login request in the full feature phase [RFC 7143 7.3; protocol error]"""
    session = target.log_in("a")
    initiator = session.initiator
    with contextlib.suppress(ConnectionLost):
        initiator.send(login_pdu(initiator, 99, TRANSIT | 1, encode_text(introduction(target))))
        answer = initiator.receive()
        assert answer.opcode == wire.REJECT or answer.header[36], answer
    session.close()
    served(target)


def test_login_that_is_pipelined_into_commands_is_kept_apart(target: Target) -> None:
    """What follows the login in one segment waits for the full feature phase [total parser]"""
    initiator = unconnected(target)
    keys = introduction(target, AuthMethod="None")
    first = login_pdu(initiator, 1, TRANSIT | SECURITY << 2 | OPERATIONAL, encode_text(keys))
    second = login_pdu(initiator, 1, TRANSIT | OPERATIONAL << 2 | FULL_FEATURE, b"")
    third = pdu(wire.NOP_OUT, immediate=True, itt=7, ttt=NO_TAG, data=b"early")
    third.cmd_sn = initiator.cmd_sn
    initiator.send_bytes(b"".join(initiator.encoded(one) for one in (first, second, third)))
    answers: list[Pdu] = []
    with contextlib.suppress(ConnectionLost):
        while len(answers) < 3:
            answers.append(initiator.receive())
        assert answers[2].data == b"early"
    initiator.close()
    served(target)


# CHAP.


def log_in(target: Target, **options: Any) -> None:
    """A login that must work."""
    target.log_in("a", **options).logout()


def test_chap_both_ways_lets_in(guarded: Target) -> None:
    """Both secrets known [RFC 7143 12.1.3]"""
    log_in(guarded, chap=(USER, SECRET))
    log_in(guarded, chap=(USER, SECRET), mutual=(TARGET_USER, TARGET_SECRET))
    log_in(guarded, chap=(USER, SECRET), algorithms="7,5")


@pytest.mark.parametrize(
    "account",
    [(USER, SECRET + "x"), (USER, ""), ("somebody", SECRET), (TARGET_USER, TARGET_SECRET)],
)
def test_chap_wrong_account_is_refused(guarded: Target, account: tuple[str, str]) -> None:
    """Not the secret, not the name, not the target's own [RFC 7143 12.1.3; 0201]"""
    for mutual in (None, (TARGET_USER, TARGET_SECRET)):
        with pytest.raises(LoginRefused) as told:
            guarded.log_in("a", chap=account, mutual=mutual)
        assert told.value.status == REFUSED_AUTHENTICATION


@pytest.mark.parametrize("method", ["None", "KRB5", "SRP", "Reject", "", None])
def test_chap_cannot_be_talked_away(guarded: Target, method: str | None) -> None:
    """No method, other methods, no word about it [RFC 7143 12; 0201]"""
    initiator = unconnected(guarded)
    keys = introduction(guarded, AuthMethod=method)
    assert outcome(initiator, [(TO_OPERATIONAL, keys), TO_THE_END, TO_THE_END])
    refused(initiator)


@pytest.mark.parametrize("into", [OPERATIONAL, FULL_FEATURE])
@pytest.mark.parametrize("stage", [SECURITY, OPERATIONAL])
def test_chap_cannot_be_skipped(guarded: Target, stage: int, into: int) -> None:
    """Straight to the operational or the full feature phase [RFC 7143 6.3.3; 0201]"""
    if stage == into:
        return
    initiator = unconnected(guarded)
    keys = introduction(guarded, AuthMethod="CHAP,None")
    assert outcome(initiator, [(TRANSIT | stage << 2 | into, keys), TO_THE_END, TO_THE_END])
    refused(initiator)


def test_chap_discovery_wants_it_too(guarded: Target) -> None:
    """Names of targets are not told to strangers [RFC 7143 4.3, 12]"""
    url = guarded.url()
    with pytest.raises(LoginRefused) as told:
        Initiator((url.host, url.port), name=initiator_name("a"))
    assert told.value.status == REFUSED_AUTHENTICATION
    with Initiator((url.host, url.port), name=initiator_name("a"), chap=(USER, SECRET)) as found:
        assert url.target in found.targets()


def _challenged(target: Target) -> tuple[Initiator, dict[str, str]]:
    """A login up to the target's challenge."""
    initiator = unconnected(target)
    ask(initiator, SECURITY << 2, introduction(target, AuthMethod="CHAP"))
    return initiator, ask(initiator, SECURITY << 2, {"CHAP_A": "5"})


def _response(challenge: Mapping[str, str], secret: str) -> str:
    text = challenge["CHAP_C"]
    assert text[:2].lower() == "0x"
    message = bytes((int(challenge["CHAP_I"], 0),)) + secret.encode() + bytes.fromhex(text[2:])
    return "0x" + hashlib.md5(message).hexdigest()


def test_chap_reflected_challenge_proves_nothing(guarded: Target) -> None:
    """The target's own challenge, sent back for it to answer [RFC 7143 9.2.1; reflection]"""
    initiator, challenge = _challenged(guarded)
    reply = {
        "CHAP_N": USER,
        "CHAP_R": _response(challenge, SECRET),
        "CHAP_I": challenge["CHAP_I"],
        "CHAP_C": challenge["CHAP_C"],
    }
    with pytest.raises((LoginRefused, ConnectionLost)):
        ask(initiator, TRANSIT | SECURITY << 2 | OPERATIONAL, reply)
    refused(initiator)


def test_chap_target_proves_nothing_to_who_has_not_proved_himself(guarded: Target) -> None:
    """A wrong response gets no proof of the target's to work on [RFC 7143 9.2.1; oracle]"""
    initiator, _ = _challenged(guarded)
    reply = {"CHAP_N": USER, "CHAP_R": "0x" + "00" * 16, "CHAP_I": "9", "CHAP_C": "0x" + "ab" * 16}
    initiator.send(login_pdu(initiator, 1, TRANSIT | 1, encode_text(reply)))
    answer = initiator.receive()
    assert (answer.header[36], answer.header[37]) == REFUSED_AUTHENTICATION
    assert b"CHAP_R" not in answer.data
    refused(initiator)


def test_chap_challenges_are_never_the_same(guarded: Target) -> None:
    """Every login has a challenge of its own, long enough [RFC 7143 12.1.3]"""
    seen = set()
    for _ in range(50):
        initiator, challenge = _challenged(guarded)
        assert len(challenge["CHAP_C"]) >= 2 + 2 * 16
        seen.add(challenge["CHAP_C"])
        initiator.close()
    assert len(seen) == 50


@pytest.mark.parametrize(
    "reply",
    [
        {"CHAP_N": USER},
        {"CHAP_R": "0x00"},
        {"CHAP_N": USER, "CHAP_R": ""},
        {"CHAP_N": USER, "CHAP_R": "0x"},
        {"CHAP_N": USER, "CHAP_R": "0xzz"},
        {"CHAP_N": USER, "CHAP_R": "0b!!!!"},
        {"CHAP_N": USER, "CHAP_R": "0x" + "00" * 2000},
        {"CHAP_N": "x" * 2000, "CHAP_R": "0x" + "00" * 16},
        {"CHAP_A": "5"},
        {"CHAP_A": "0"},
        {"CHAP_A": ""},
        {},
    ],
    ids=range(12),
)
def test_chap_broken_response_is_refused(guarded: Target, reply: dict[str, str]) -> None:
    """Half a response, no number, far too much of it [RFC 7143 12.1; total parser]"""
    initiator, _ = _challenged(guarded)
    assert outcome(initiator, [(TO_OPERATIONAL, reply)] * 3 + [TO_THE_END])
    refused(initiator)


@pytest.mark.parametrize("challenge", ["0x", "", "0x" + "ab" * 1025, "0xg", "0b====", "nothing"])
def test_chap_broken_challenge_of_the_initiator_is_refused(guarded: Target, challenge: str) -> None:
    """What the target is to answer must be a challenge of at most 1024 bytes [RFC 7143 12.1.3]"""
    initiator, theirs = _challenged(guarded)
    reply = {"CHAP_N": USER, "CHAP_R": _response(theirs, SECRET), "CHAP_I": "1"}
    keys = {**reply, "CHAP_C": challenge}
    assert outcome(initiator, [(TO_OPERATIONAL, keys), TO_THE_END])
    refused(initiator)


def test_chap_account_of_one_initiator_lets_no_other_in(tmp_path: pathlib.Path) -> None:
    """With the name as the nexus, an account is not a key to other names [project ruling]"""
    root = make_root(tmp_path)
    secrets = tmp_path / "chap.toml"
    secrets.write_text(
        f'[[chap]]\nuser = "{USER}"\nsecret = "{SECRET}"\ninitiator = "{initiator_name("a")}"\n'
    )
    secrets.chmod(0o600)
    with Target(root, tmp_path / "log", "--chap", str(secrets)) as target:
        log_in(target, chap=(USER, SECRET))
        for name in ("b", "A.b"):
            with pytest.raises(LoginRefused):
                target.log_in(name, chap=(USER, SECRET))


# Who may see what.


def test_allowed_initiators_see_it_and_no_others(tmp_path: pathlib.Path) -> None:
    """A list of initiator names per LUN: login and SendTargets both keep to it [allow-list]"""
    root = make_root(tmp_path, "disk", "open")
    config = tmp_path / "flockpr.toml"
    config.write_text(f'[lun.disk]\ninitiators = ["{initiator_name("friend")}"]\n')
    with Target(root, tmp_path / "log", "--config", str(config)) as target:
        log_in_as = {}
        url = target.url("disk")
        for name in ("friend", "enemy"):
            with Initiator((url.host, url.port), name=initiator_name(name)) as discovery:
                log_in_as[name] = set(discovery.targets())
        assert url.target in log_in_as["friend"]
        assert log_in_as["enemy"] == {target.url("open").target}
        target.log_in("FRIEND").logout()
        with pytest.raises(LoginRefused) as told:
            target.log_in("enemy")
        assert told.value.status in ((2, 2), (2, 3))


def test_allowed_initiators_hold_within_a_session_of_all_targets(tmp_path: pathlib.Path) -> None:
    """One target with all LUNs: who may not use one does not see it there [allow-list; LUNs]"""
    root = make_root(tmp_path, "disk", "open")
    config = tmp_path / "flockpr.toml"
    config.write_text(f'[lun.disk]\ninitiators = ["{initiator_name("friend")}"]\n')
    name = "iqn.2026-01.org.example:all"
    options = ("--config", str(config), "--name", name)
    with Target(root, tmp_path / "log", *options) as target:
        numbers = {url.lun for url in target.urls}
        first = target.urls[0]
        address = first.host, first.port
        with Initiator(address, target=name, name=initiator_name("enemy")) as enemy:
            data = enemy.command(0, sbc.report_luns(), read=4096).data
            seen = {data[at + 1] for at in range(8, 8 + int.from_bytes(data[:4]), 8)}
            assert len(seen) == 1
            hidden = (numbers - seen).pop()
            reply = Session(enemy, hidden).command(sbc.read(0, 1), read=512)
            assert reply.code == (5, 0x25, 0)


def test_login_failed_is_not_ours() -> None:
    """The judge's own errors are assertion errors, so that no test passes by them [tests]"""
    assert issubclass(LoginFailed, AssertionError)
