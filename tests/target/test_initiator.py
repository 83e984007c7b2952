"""The tests' own initiator, against a target that others wrote: a judge has to be right."""

from __future__ import annotations

import pathlib
import random
from collections.abc import Iterator

import pytest

from tests.support import sbc_cdbs as sbc
from tests.support import targets
from tests.support.iscsi_client import LUN_RESET, Initiator, LoginRefused
from tests.support.iscsi_wire import crc32c
from tests.support.target_rig import BLOCK

KEYS: list[dict[str, str | None]] = [
    {},
    {"ImmediateData": "No", "InitialR2T": "Yes"},
    {"MaxRecvDataSegmentLength": "4096", "FirstBurstLength": "1024"},
]


@pytest.fixture
def tgt(tmp_path: pathlib.Path) -> Iterator[targets.Url]:
    """A logical unit of tgt's."""
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    with targets.Tgt(image, tmp_path) as peer:
        yield peer.urls[0]


def session(url: targets.Url, **options: object) -> Initiator:
    """Logged in there."""
    return Initiator((url.host, url.port), target=url.target, **options)  # type: ignore[arg-type]


def test_crc32c_of_known_data_is_known() -> None:
    """The examples of the standard [RFC 7143 B.4]"""
    assert crc32c(bytes(32)).to_bytes(4, "little").hex() == "aa36918a"
    assert crc32c(b"\xff" * 32).to_bytes(4, "little").hex() == "43aba862"
    assert crc32c(bytes(range(32))).to_bytes(4, "little").hex() == "4e79dd46"
    assert crc32c(bytes(range(31, -1, -1))).to_bytes(4, "little").hex() == "5cdb3f11"


@pytest.mark.peer("tgtd", "tgtadm")
@pytest.mark.parametrize("digest", ["None", "CRC32C"])
@pytest.mark.parametrize("keys", KEYS, ids=["default", "solicited", "small"])
def test_initiator_reads_what_it_wrote(
    tgt: targets.Url, keys: dict[str, str | None], digest: str
) -> None:
    """Writes and reads of many sizes, one at a time and many at once [another target]"""
    rng = random.Random(3)
    with session(tgt, keys=keys, header_digest=digest, data_digest=digest) as initiator:
        while not initiator.command(tgt.lun, sbc.TEST_UNIT_READY).good:
            pass
        for blocks in (1, 3, 130, 300):
            data = rng.randbytes(blocks * BLOCK)
            assert initiator.command(tgt.lun, sbc.write(5, blocks), data).good
            reply = initiator.command(tgt.lun, sbc.read(5, blocks), read=len(data))
            assert reply.data == data
        data = rng.randbytes(16 * BLOCK)
        tasks = [initiator.submit(tgt.lun, sbc.write(16 * n, 16), data) for n in range(20)]
        assert all(initiator.wait(task).good for task in tasks)
        reply = initiator.command(tgt.lun, sbc.inquiry(), read=255)
        assert reply.data[8:16] == b"IET     "
        assert reply.residual == 255 - len(reply.data)
        assert initiator.ping(b"there") == b"there"
        assert initiator.task_management(LUN_RESET, lun=tgt.lun) == 0


@pytest.mark.peer("tgtd", "tgtadm")
def test_initiator_discovers_and_is_refused(tgt: targets.Url) -> None:
    """SendTargets, and a name that is not there [another target]"""
    with Initiator((tgt.host, tgt.port)) as discovery:
        assert discovery.targets() == {tgt.target: [f"{tgt.host}:{tgt.port},1"]}
    with pytest.raises(LoginRefused) as told:
        Initiator((tgt.host, tgt.port), target="iqn.2026-01.org.example:nobody")
    assert told.value.status == (2, 3)
