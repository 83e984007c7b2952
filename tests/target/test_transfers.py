"""What a command moves and what its initiator expected of it, when the two differ; atomic acts."""

from __future__ import annotations

import pathlib
import random
import threading
from collections.abc import Iterator

import pytest

from tests.support import iscsi_wire as wire
from tests.support import sbc_cdbs as sbc
from tests.support.hostile import MEGABYTE
from tests.support.iscsi_client import READ, Initiator, Reply, Task
from tests.support.iscsi_wire import FINAL, pdu
from tests.support.scsi import REGISTER, RESERVE, WE, basic_list, out_cdb
from tests.support.target_rig import (
    BLOCK,
    BUSY,
    CONFLICT,
    SOLICITED,
    Session,
    Target,
    initiator_name,
    make_root,
)

OLD, NEW = b"\x0f" * BLOCK, b"\xf0" * BLOCK
MISCOMPARE = (0x0E, 0x1D, 0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Target, Target]]:
    """Two targets that serve one image."""
    directory = tmp_path_factory.mktemp("transfers")
    root = make_root(directory, size=16 * MEGABYTE)
    with Target(root, directory / "1.log") as first, Target(root, directory / "2.log") as second:
        yield first, second
        for target in (first, second):
            assert target.running
            assert "Traceback" not in target.log.read_text()


def mismatched(of: Session, cdb: bytes, flags: int, expected: int, data: bytes = b"") -> Reply:
    """A command whose flags, expected length and data are what they are."""
    initiator = of.initiator
    task = Task(
        initiator.next_tag(), initiator.cmd_sn, of.lun, cdb, data, expected, bool(flags & READ)
    )
    head = pdu(
        wire.COMMAND,
        FINAL | flags | 1,
        lun=of.lun,
        itt=task.itt,
        expected_length=expected,
        cmd_sn=initiator.cmd_sn,
    )
    head.header[32:48] = cdb.ljust(16, b"\0")
    initiator.cmd_sn += 1
    initiator.tasks[task.itt] = task
    initiator.send(head)
    return initiator.wait(task)


# READ.


@pytest.mark.parametrize("expected", [0, 1, 511, 512, 513, 4095])
def test_length_read_never_brings_more_than_expected(
    pair: tuple[Target, Target], expected: int
) -> None:
    """A READ of more than the initiator has room for: cut, overflow told [RFC 7143 11.4.5]"""
    with pair[0].log_in("a") as a:
        assert a.command(sbc.write(0, 8), NEW * 8).good
        reply = mismatched(a, sbc.read(0, 8), READ, expected)
        if reply.good:
            assert reply.data == (NEW * 8)[:expected]
            assert reply.residual == expected - 4096
        else:
            assert reply.status == 2
        assert a.ready().good


def test_length_read_of_less_than_expected_tells_underflow(pair: tuple[Target, Target]) -> None:
    """A READ that moves less than expected, up to the most that fits [RFC 7143 11.4.5]"""
    with pair[0].log_in("a") as a:
        for expected in (4097, 65536, 0xFFFFFFFF):
            reply = mismatched(a, sbc.read(0, 8), READ, expected)
            assert (reply.good, len(reply.data), reply.residual) == (True, 4096, expected - 4096)


def test_length_read_without_the_read_flag_brings_nothing(pair: tuple[Target, Target]) -> None:
    """No R bit: no Data-In, whatever the CDB says [RFC 7143 11.3.1]"""
    with pair[0].log_in("a") as a:
        reply = mismatched(a, sbc.read(0, 8), 0, 0)
        assert reply.data == b""
        assert not reply.good or reply.residual == -4096
        reply = mismatched(a, sbc.TEST_UNIT_READY, READ, 4096)
        assert (reply.good, reply.data, reply.residual) == (True, b"", 4096)


# WRITE.


@pytest.mark.parametrize("keys", [{}, SOLICITED], ids=["unsolicited", "solicited"])
@pytest.mark.parametrize("sent", [512, 1000, 1024, 3584])
def test_length_write_of_less_than_the_cdb_says_writes_only_that(
    pair: tuple[Target, Target], sent: int, keys: dict[str, str | None]
) -> None:
    """What did not come is not made up: the blocks behind stay [RFC 7143 11.4.5; EDTL]"""
    with pair[0].log_in("a", keys=keys) as a:
        assert a.command(sbc.write(0, 8), OLD * 8).good
        reply = a.command(sbc.write(0, 8), (NEW * 8)[:sent])
        found = a.command(sbc.read(0, 8), read=4096).data
        whole = sent // BLOCK
        assert found[whole * BLOCK :] == OLD * (8 - whole)
        if reply.good:
            assert found[: whole * BLOCK] == NEW * whole
            assert reply.residual == sent - 4096


@pytest.mark.parametrize("keys", [{}, SOLICITED], ids=["unsolicited", "solicited"])
def test_length_write_of_more_than_the_cdb_says_writes_only_that(
    pair: tuple[Target, Target], keys: dict[str, str | None]
) -> None:
    """The rest of the data goes nowhere [RFC 7143 11.4.5; underflow]"""
    with pair[0].log_in("a", keys=keys) as a:
        assert a.command(sbc.write(0, 8), OLD * 8).good
        reply = a.command(sbc.write(0, 1), NEW * 8)
        found = a.command(sbc.read(0, 8), read=4096).data
        assert found == (NEW if reply.good else OLD) + OLD * 7
        assert reply.residual in (7 * BLOCK, 8 * BLOCK)


@pytest.mark.parametrize("flags", [0, READ])
def test_length_write_with_wrong_flags_writes_nothing(
    pair: tuple[Target, Target], flags: int
) -> None:
    """No W bit, or the R bit instead: nothing is written, nothing breaks [RFC 7143 11.3.1]"""
    with pair[0].log_in("a", keys=SOLICITED) as a:
        assert a.command(sbc.write(0, 8), OLD * 8).good
        assert not mismatched(a, sbc.write(0, 8), flags, 4096).data
        assert a.command(sbc.read(0, 8), read=4096).data == OLD * 8


@pytest.mark.parametrize("sent", [0, 1, 8, 15, 16, 23])
def test_length_parameter_list_that_is_cut_registers_nothing(
    pair: tuple[Target, Target], sent: int
) -> None:
    """PERSISTENT RESERVE OUT with less data than it says: no key out of thin air [05/1A/00]"""
    with pair[0].log_in("a") as a:
        # Leave something behind in the memory that comes next.
        assert a.command(sbc.write(0, 1), b"\xcc" * BLOCK).good
        reply = a.command(out_cdb(REGISTER), basic_list(0, 0xC0FFEE)[:sent])
        assert not reply.good
        assert a.keys() == []


def test_length_unmap_list_that_is_cut_unmaps_nothing(pair: tuple[Target, Target]) -> None:
    """An UNMAP whose descriptors did not all come leaves the blocks alone [SBC-3 5.28]"""
    with pair[0].log_in("a") as a:
        assert a.command(sbc.write(0, 16), OLD * 16).good
        cdb, data = sbc.unmap((0, 8), (8, 8))
        for sent in (4, 8, 20):
            a.command(cdb, data[:sent])
            assert a.command(sbc.read(0, 16), read=16 * BLOCK).data == OLD * 16


def test_length_memory_of_others_never_comes_back(pair: tuple[Target, Target]) -> None:
    """Short replies carry nothing that an earlier command left in memory [confidentiality]"""
    secret = b"SECRET! " * 64
    with pair[0].log_in("a") as a, pair[0].log_in("b") as b:
        assert a.command(sbc.write(2000, 256), secret * 256).good
        assert a.command(sbc.read(2000, 256), read=256 * BLOCK).good
        assert a.command(sbc.write(2000, 256), bytes(256 * BLOCK)).good
        for cdb, read in (
            (sbc.read(3000, 256), 256 * BLOCK),
            (sbc.inquiry(), 255),
            (sbc.mode_sense(0x3F), 255),
            (sbc.get_lba_status(0), 4096),
            (sbc.report_luns(), 4096),
            (sbc.request_sense(), 252),
            (bytes((0x37, *bytes(6), 16, 0, 0)), 4096),
            (bytes((0xA3, 0x0C, *bytes(6), 16, 0, 0, 0)), 4096),
        ):
            assert b"SECRET" not in b.command(cdb, read=read).data


# Sizes.


@pytest.mark.parametrize("digest", ["None", "CRC32C"])
@pytest.mark.parametrize("limit", [512, 513, 1023, 4099, 65535])
def test_sizes_odd_segments_arrive_whole(
    pair: tuple[Target, Target], limit: int, digest: str
) -> None:
    """Data-In in pieces that need padding, bursts that do not divide [RFC 7143 11.1, 11.7]"""
    rng = random.Random(limit)
    keys: dict[str, str | None] = {
        "MaxRecvDataSegmentLength": str(limit),
        "MaxBurstLength": str(limit + 1000),
        "FirstBurstLength": "777",
    }
    with pair[0].log_in("a", keys=keys, header_digest=digest, data_digest=digest) as a:
        for blocks in (1, 2, 65):
            data = rng.randbytes(blocks * BLOCK)
            assert a.command(sbc.write(4000, blocks), data).good
            assert a.command(sbc.read(4000, blocks), read=len(data)).data == data


def test_sizes_sequence_numbers_wrap(pair: tuple[Target, Target]) -> None:
    """CmdSN goes from FFFFFFFFh to 0 in mid flight [RFC 7143 4.2.2.1, RFC 1982]"""
    url = pair[0].url()
    name = initiator_name("wrap")
    with Initiator((url.host, url.port), target=url.target, name=name, login=False) as initiator:
        initiator.cmd_sn = (1 << 32) - 20
        initiator.exp_cmd_sn = initiator.cmd_sn
        initiator.login()
        tasks = [initiator.submit(url.lun, sbc.TEST_UNIT_READY) for _ in range(60)]
        assert all(initiator.wait(task).status in (0, 2) for task in tasks)
        assert initiator.cmd_sn == 40


# Acts that are one.


def test_atomic_compare_and_write_counts_right(pair: tuple[Target, Target]) -> None:
    """A counter raised by COMPARE AND WRITE through two targets loses no step [SBC-3 5.2]"""
    steps = 40
    failures: list[BaseException] = []

    def count(session: Session) -> None:
        try:
            done = 0
            while done < steps:
                seen = session.command(sbc.read(5000, 1), read=BLOCK).data
                following = (int.from_bytes(seen[:8]) + 1).to_bytes(8) * (BLOCK // 8)
                reply = session.command(sbc.compare_and_write(5000, 1), seen + following)
                assert reply.good or reply.code == MISCOMPARE or reply.status == BUSY, reply
                done += reply.good
        except BaseException as error:
            failures.append(error)

    sessions = [target.log_in(f"counter{n}") for target in pair for n in range(2)]
    assert sessions[0].command(sbc.write(5000, 1), bytes(BLOCK)).good
    threads = [threading.Thread(target=count, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    data = sessions[0].command(sbc.read(5000, 1), read=BLOCK).data
    assert data == (steps * len(sessions)).to_bytes(8) * (BLOCK // 8)
    for session in sessions:
        session.close()


def test_atomic_reserve_has_one_winner(pair: tuple[Target, Target]) -> None:
    """Two that RESERVE at once through two targets: never both [SPC-4 5.13.9; mutual exclusion]"""
    inside: list[int] = []
    wins = [0, 0]
    failures: list[BaseException] = []

    def compete(number: int, session: Session) -> None:
        key = 0x100 + number
        try:
            session.must(REGISTER, 0, key)
            for _ in range(400):
                if wins[number] == 10:
                    break
                reply = session.out(RESERVE, key, type_=WE)
                assert reply.good or reply.status == CONFLICT, reply
                if reply.good:
                    inside.append(number)
                    assert inside == [number]
                    assert session.command(sbc.write(6000, 1), NEW).good
                    inside.remove(number)
                    wins[number] += 1
                    session.must(2, key, type_=WE)
            session.must(REGISTER, key, 0)
        except BaseException as error:
            failures.append(error)

    sessions = [target.log_in(f"rival{number}") for number, target in enumerate(pair)]
    threads = [
        threading.Thread(target=compete, args=(number, session))
        for number, session in enumerate(sessions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sum(wins) >= 10
    for session in sessions:
        session.close()


def test_end_comes_in_time_whatever_peers_do(tmp_path: pathlib.Path) -> None:
    """SIGTERM while peers read nothing, send nothing, and say half a PDU [service]"""
    root = make_root(tmp_path, size=16 * MEGABYTE)
    with Target(root, tmp_path / "log") as target:
        deaf = target.log_in("deaf", receive_buffer=4096)
        while deaf.initiator.window_open:
            deaf.initiator.submit(deaf.lun, sbc.read(0, 2048, 16), read=MEGABYTE)
        mute = target.log_in("mute", keys=SOLICITED)
        mute.initiator.data_hook = lambda out: []
        mute.initiator.submit(mute.lun, sbc.write(0, 8), NEW * 8)
        mute.initiator.poll(0.1)
        half = target.log_in("half")
        half.initiator.send_bytes(bytes(20))
        assert target.stop() == 0
