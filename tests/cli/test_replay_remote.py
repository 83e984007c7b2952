"""`flockpr replay` against iSCSI targets, ours and another, and against a device through SG_IO."""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from flockpr.cli import main
from flockpr.iscsi.initiator import Account, Initiator, TargetError
from tests.support import sbc_cdbs as sbc
from tests.support.daemon_process import PATIENCE, short_directory
from tests.support.sg_tools import compile_shim, run
from tests.support.targets import FlockprTarget, Tgt, Url, create_lun

Capture = pytest.CaptureFixture[str]
A, B = "iqn.2026-01.org.example:a", "iqn.2026-01.org.example:b"
SECRET = "a secret of some length"

REGISTER, RESERVE, PREEMPT, IGNORE = 0, 1, 4, 6


def out(
    who: str, action: int, own: int, new: int, *, status: int = 0, type_: int = 0
) -> dict[str, Any]:
    """A PERSISTENT RESERVE OUT and its status."""
    cdb = f"5f{action:02x}{type_:02x}00000000001800"
    data = f"{own:016x}{new:016x}{'0' * 16}"
    return {"initiator": who, "cdb": cdb, "data_out": data, "status": status}


def keys(who: str, generation: int, *found: int) -> dict[str, Any]:
    """READ KEYS and its data."""
    data = f"{generation:08x}{8 * len(found):08x}" + "".join(f"{key:016x}" for key in found)
    return {"initiator": who, "cdb": "5e000000000000200000", "status": 0, "data_in": data}


STORY = [
    keys(A, 0),
    out(A, REGISTER, 0, 0xA1),
    out(B, REGISTER, 0, 0xB2),
    out(A, RESERVE, 0xA1, 0, type_=5),
    out(B, RESERVE, 0xB2, 0, status=0x18, type_=5),
    {
        "initiator": B,
        "cdb": "5e010000000000200000",
        "status": 0,
        "data_in": "000000020000001000000000000000a10000000000050000",
    },
    keys(B, 2, 0xA1, 0xB2),
    out(B, PREEMPT, 0xB2, 0xA1, type_=5),
    {"initiator": A, "cdb": "00" * 6, "status": 2, "sense": {"key": 6, "asc": 0x2A, "ascq": 5}},
    keys(B, 3, 0xB2),
    out(A, RESERVE, 0xA1, 0, status=0x18, type_=5),
]
"""What SPC-4 says, so that any target has to answer like it."""


def trace(folder: pathlib.Path, commands: list[dict[str, Any]]) -> str:
    """A file of these commands."""
    path = folder / "trace"
    path.write_text("".join(json.dumps(one) + "\n" for one in commands))
    return str(path)


def replayed(capsys: Capture, *words: str, code: int = 0) -> dict[str, Any]:
    """The document of a replay."""
    assert main(["replay", *words, "--json"]) == code, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A directory of its own."""
    with short_directory() as path:
        yield path


@pytest.fixture
def target(folder: pathlib.Path) -> Iterator[FlockprTarget]:
    """Ours, with one logical unit."""
    create_lun(folder / "root", "disk", 4 << 20)
    with FlockprTarget(folder / "root", folder / "target") as running:
        yield running


def test_replay_against_our_target_is_as_the_standard_says(
    target: FlockprTarget, folder: pathlib.Path, capsys: Capture
) -> None:
    """A session for each initiator; then, on what was left behind, the differences are shown."""
    against = ("--against", str(target.url()))
    assert replayed(capsys, trace(folder, STORY), *against)["differences"] == []
    again = replayed(capsys, trace(folder, STORY), *against, code=1)["differences"]
    assert (again[0]["number"], again[0]["field"]) == (1, "data_in")
    statuses = {one["number"]: one["answered"] for one in again if one["field"] == "status"}
    assert statuses[3] == "RESERVATION CONFLICT"
    rest = replayed(capsys, trace(folder, STORY), *against, "--ignore", "status", code=1)
    assert "data_in" in {one["field"] for one in rest["differences"]} <= {"data_in", "sense"}
    one = replayed(capsys, trace(folder, [keys(A, 0), keys(B, 0)]), *against, "--only", B, code=1)
    assert [(each["number"], each["initiator"]) for each in one["differences"]] == [(1, B)]


@pytest.mark.peer("tgtd", "tgtadm")
def test_replay_against_another_target_is_as_the_standard_says(
    folder: pathlib.Path, capsys: Capture
) -> None:
    """What another target (tgt) answers otherwise is known, and nothing else differs."""
    image = folder / "image"
    image.write_bytes(bytes(4 << 20))
    with Tgt(image, folder) as running:
        found = replayed(capsys, trace(folder, STORY), "--against", str(running.urls[0]), code=1)
    # SPC-4 5.13.11.2.6: who loses its registration is told of that; tgt speaks of reservations.
    assert [(one["number"], one["answered"]) for one in found["differences"]] == [(9, "06/2A/03")]


@pytest.mark.peer("cc", "iscsi-ls")
def test_replay_against_a_device_goes_through_sg_io(
    target: FlockprTarget, folder: pathlib.Path
) -> None:
    """The ioctl of a real process, carried to a real target by a preloaded library."""
    commands = [keys(A, 0), out(A, REGISTER, 0, 0xA1), keys(A, 1, 0xA1), keys(A, 7)]
    commands += [out(A, RESERVE, 0xA1, 0, type_=5), out(A, RESERVE, 0xFF, 0, status=0x18, type_=5)]
    bad = {"initiator": A, "cdb": "5f0f0000000000001800", "data_out": "00" * 24, "status": 2}
    commands.append({**bad, "sense": {"key": 5, "asc": 0x24, "ascq": 0}})
    device = str(folder / "sg0")
    done = run(
        [
            *(sys.executable, "-m", "flockpr", "replay", trace(folder, commands)),
            *("--against", device, "--json"),
        ],
        folder,
        LD_PRELOAD=str(compile_shim(folder)),
        FLOCKPR_SG_DEVICE=device,
        FLOCKPR_SG_URL=str(target.url()),
        FLOCKPR_SG_INITIATOR=A,
    )
    assert done.code == 1, done.err
    (found,) = json.loads(done.out)["differences"]
    assert (found["number"], found["field"]) == (4, "data_in")
    assert found["answered"] == keys(A, 1, 0xA1)["data_in"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--against", "/nowhere/sg0"], "/nowhere/sg0: a device is one initiator"),
        (["--against", "/nowhere/sg0", "--only", A], "/nowhere/sg0: No such file"),
        (["--against", "/dev/null", "--only", A], "/dev/null: SG_IO: "),
        (["--against", "iscsi://host/target"], "not of the form iscsi://"),
        (["--against", "iscsi://host:99999/target/0"], "not of the form iscsi://"),
        (["--against", "iscsi://127.0.0.1:1/target/0"], "127.0.0.1:1: Connection refused"),
        (["--chap", "file"], "--chap is for --against iscsi://"),
        (["--only", "iqn.x:nobody"], f"the trace has {A}, {B}"),
    ],
)
def test_replay_says_what_it_cannot_reach(
    words: list[str], told: str, folder: pathlib.Path, capsys: Capture
) -> None:
    """Before anything is sent."""
    assert main(["replay", trace(folder, STORY), *words]) in (1, 2)
    assert told in capsys.readouterr().err


def test_replay_sends_nothing_that_may_change_data(
    target: FlockprTarget, folder: pathlib.Path, capsys: Capture
) -> None:
    """Unless it is told to; then the data is what was written."""
    block = bytes(range(256)) * 2
    write = {"initiator": A, "cdb": sbc.write(0, 1).hex(), "data_out": block.hex(), "status": 0}
    read = {"initiator": A, "cdb": sbc.read(0, 1).hex(), "status": 0, "data_in": block.hex()}
    against = ("--against", str(target.url()))
    path = trace(folder, [keys(A, 0), write, read])
    assert main(["replay", path, *against]) == 2
    assert "command 2, " in capsys.readouterr().err
    assert replayed(capsys, path, *against, "--all-commands")["differences"] == []


# ------------------------------------------------------------------ the initiator


def test_initiator_moves_more_data_than_fits_in_a_pdu(target: FlockprTarget) -> None:
    """Immediate data, then what the target asks for; and what comes in several parts."""
    url = target.url()
    data = bytes(range(256)) * 3072
    with Initiator(url.host, url.port, url.target, A) as initiator:
        assert initiator.command(url.lun, sbc.TEST_UNIT_READY).status in (0, 2)
        assert initiator.command(url.lun, sbc.write(8, 1536), data).status == 0
        reply = initiator.command(url.lun, sbc.read(8, 1536), read=len(data))
    assert (reply.status, reply.data_in) == (0, data)


def test_initiator_proves_itself(folder: pathlib.Path) -> None:
    """CHAP; and what is said without the secret, or with a wrong one."""
    create_lun(folder / "root", "disk", 1 << 20)
    secrets = folder / "chap.toml"
    secrets.write_text(f'[[chap]]\nuser = "u"\nsecret = "{SECRET}"\n')
    secrets.chmod(0o600)
    options = ("--chap", str(secrets))
    with FlockprTarget(folder / "root", folder / "target", options=options) as running:
        url = running.url()
        code = main(
            ["replay", trace(folder, [keys(A, 0)]), "--against", str(url), "--chap", str(secrets)]
        )
        assert code == 0
        for account in (None, Account("u", b"another of some length")):
            with pytest.raises(TargetError, match="login: CHAP failed") as told:
                Initiator(url.host, url.port, url.target, A, account=account)
            assert "--chap" in told.value.remedy


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(48), "no iSCSI|no answer to a login"),
        (bytes((0x23,)) + bytes(35) + b"\2\3" + bytes(10), "no such target"),
        (bytes((0x23,)) + bytes(35) + b"\1\1" + bytes(10), "moved"),
        ((bytes((0x23,)) + bytes(47)) * 9, "comes to no end"),
    ],
)
def test_initiator_is_not_held_up_by_what_is_no_target(answer: bytes, told: str) -> None:
    """It says what came, and keeps no socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises(TargetError, match=told):
                Initiator("127.0.0.1", server.getsockname()[1], "iqn.x:t", A, timeout=PATIENCE)
        finally:
            thread.join(PATIENCE)
    assert not thread.is_alive()


_LOGGED_IN = b"".join(bytes((0x23, flags)) + bytes(46) for flags in (0x81, 0x87))
_READY = bytes((0x21, 0x80)) + bytes(14) + (1).to_bytes(4, "big") + bytes(28)
_PING = bytes((0x20, 0x80)) + bytes(14) + b"\xff" * 8 + bytes(24)


@contextlib.contextmanager
def tireless(answer: bytes, then: bytes) -> Iterator[str]:
    """The URL of a target that sends this, and then that for as long as somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(answer)
                while not pause.wait(0.01):
                    connection.sendall(then)

        pause = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"iscsi://127.0.0.1:{server.getsockname()[1]}/iqn.x:t/0"
        finally:
            pause.set()
            thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("answer", "then", "told"),
    [
        (b"", b"\x23", "t: no whole answer within 0.3 s"),
        (_LOGGED_IN, _PING, "t: no whole answer within 0.3 s"),
        (_LOGGED_IN + _READY, _PING, "no whole answer within 0.3 s; at command 1 of 1, 5e00"),
    ],
    ids=["login", "first look", "command"],
)
def test_replay_is_not_kept_by_a_target_that_never_ends(
    answer: bytes, then: bytes, told: str, folder: pathlib.Path, capsys: Capture
) -> None:
    """One byte at a time, or pings without end: the limit is that of the whole command."""
    with tireless(answer, then) as url:
        words = ["replay", trace(folder, [keys(A, 0)]), "--against", url, "--timeout", "0.3"]
        assert main(words) == 1
    assert told in capsys.readouterr().err


def test_url_of_the_tests_is_the_one_of_the_verb() -> None:
    """One form of address for targets, in what prints it and in what takes it."""
    from flockpr.cli.replay_doors import _URL

    assert _URL.fullmatch(str(Url("127.0.0.1", 3260, "iqn.2026-11.org.flockpr:d", 0)))
    assert _URL.fullmatch("iscsi://[::1]:3260/iqn.2026-11.org.flockpr:d/7")
