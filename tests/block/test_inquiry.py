"""INQUIRY and its pages, byte by byte; what is answered where there is no disk."""

from __future__ import annotations

import pytest

from flockpr.block import answer_without_unit, encode_lun, report_luns
from flockpr.block.inquiry import Face, inquiry, standard
from flockpr.block.reply import ScsiReply
from flockpr.spc.codes import Status
from flockpr.spc.sense import Sense, parse_sense
from tests.support import sbc_cdbs as cdbs
from tests.support.disks import Rig, identity
from tests.support.scsi import nexus

INVALID_FIELD = (5, 0x24, 0)
NAME = "iqn.2026-11.org.flockpr:disk"


def page(code: int, length: int = 4096, **changes: object) -> bytes:
    """A page of vital product data; its header is checked here."""
    face = Face(identity(), target_name=NAME, target_port=2)
    answer = inquiry(cdbs.inquiry(code, length), face)
    assert isinstance(answer, ScsiReply)
    data = b"".join(bytes(part) for part in answer.data)
    assert data[:2] == bytes((0, code))
    assert int.from_bytes(data[2:4], "big") == len(data) - 4
    return data[4:]


def test_standard_data_are_those_of_a_disk() -> None:
    """SPC-4 6.6.2: SPC-4, response format 2, TPGS, MULTIP, CMDQUE, names, versions."""
    expected = bytearray(96)
    expected[:8] = bytes((0x00, 0x00, 0x06, 0x12, 91, 0x10, 0x10, 0x02))
    expected[8:36] = b"FLOCKPR VIRTUAL-DISK    0001"
    expected[58:66] = bytes.fromhex("00a00960046004c0")
    assert standard(0) == bytes(expected)
    expected[1] = 0x80
    assert standard(0, removable=True) == bytes(expected)


def test_standard_data_are_cut_to_the_allocation_length(rig: Rig) -> None:
    """SPC-4 4.3.4.6: 16 bits of allocation length, and a short one is no error."""
    for length in (0, 1, 5, 36, 95, 96, 255, 256, 511, 512, 65535):
        assert rig.good(cdbs.inquiry(None, length)) == standard(0)[:length]


def test_page_code_without_evpd_is_refused(rig: Rig) -> None:
    """SPC-4 6.6.1: EVPD=0 and PAGE CODE not 0 is 05/24/00; so is CMDDT."""
    assert rig.code(bytes((0x12, 0, 1, 1, 0, 0))) == INVALID_FIELD
    assert rig.code(bytes((0x12, 2, 0, 1, 0, 0))) == INVALID_FIELD
    assert rig.code(cdbs.inquiry(0xB5)) == INVALID_FIELD


def test_supported_pages_are_sorted_and_readable(rig: Rig) -> None:
    """SPC-4 7.8.11: page 00h lists every page, in ascending order, itself too."""
    codes = list(page(0))
    assert codes == [0x00, 0x80, 0x83, 0x86, 0xB0, 0xB1, 0xB2]
    for code in codes:
        assert rig.good(cdbs.inquiry(code))[1] == code


def test_serial_number_is_that_of_the_unit() -> None:
    """SPC-4 7.8.16: page 80h."""
    assert page(0x80) == b"serial-1"


def test_identification_names_unit_port_and_target() -> None:
    """SPC-4 7.8.6: NAA, T10 vendor, relative port, port group, names of port and target."""
    port_name = NAME.encode() + b",t,0x0002\0"
    target_name = NAME.encode() + b"\0"
    port_name += bytes(-len(port_name) % 4)
    target_name += bytes(-len(target_name) % 4)
    assert page(0x83) == b"".join(
        (
            bytes.fromhex("010300083123456789abcdef"),
            bytes((0x02, 0x01, 0, 16)) + b"FLOCKPR serial-1",
            bytes.fromhex("5194000400000002"),
            bytes.fromhex("5195000400000001"),
            bytes((0x53, 0x98, 0, len(port_name))) + port_name,
            bytes((0x53, 0xA8, 0, len(target_name))) + target_name,
        )
    )


def test_identification_without_a_target_name_has_no_names() -> None:
    """A nexus that came in without iSCSI has no SCSI name strings."""
    answer = inquiry(cdbs.inquiry(0x83), Face(identity()))
    assert isinstance(answer, ScsiReply)
    assert b"iqn" not in bytes(answer.data[0])


def test_identification_tells_each_session_its_port(rig: Rig) -> None:
    """SPC-4 7.8.6.7: the relative port identifier is that of the port it came in through."""
    other = rig.disk.attach(nexus("b", 3), target_name=NAME)
    assert bytes.fromhex("5194000400000003") in rig.good(cdbs.inquiry(0x83), of=other)
    assert b",t,0x0003\0" in rig.good(cdbs.inquiry(0x83), of=other)


def test_long_names_do_not_overflow_their_designators() -> None:
    """SPC-4 7.8.6.1: DESIGNATOR LENGTH is one byte."""
    face = Face(identity(serial="s" * 252), target_name="iqn." + "n" * 219, target_port=65535)
    answer = inquiry(cdbs.inquiry(0x83, 4096), face)
    assert isinstance(answer, ScsiReply)
    data = bytes(answer.data[0])
    at, kinds = 4, []
    while at < len(data):
        kinds.append(data[at + 1] & 0x0F)
        at += 4 + data[at + 3]
    assert at == len(data)
    assert kinds == [3, 1, 4, 5, 8, 8]


def test_extended_data_claim_task_attributes_only() -> None:
    """SPC-4 7.8.7: SIMPLE, ORDERED, HEAD OF QUEUE; a volatile cache; no protection."""
    assert page(0x86) == bytes((0, 7, 1)) + bytes(57)


def test_block_limits_say_what_is_enforced() -> None:
    """SBC-3 6.6.4: page B0h, 60 bytes."""
    assert page(0xB0) == bytes.fromhex(
        "00ff0008"  # WSNZ=0, 255 blocks of COMPARE AND WRITE, granularity 8
        "00002000"  # 8192 blocks of transfer
        "00000000"
        "00000000"
        "00040000"  # 262144 blocks of UNMAP
        "00000100"  # in 256 descriptors
        "00000008"  # optimal 8 at a time
        "80000000"  # aligned at 0
        "0000000000008000"  # 32768 blocks of WRITE SAME
    ).ljust(60, b"\0")


def test_characteristics_do_not_rotate() -> None:
    """SBC-3 6.6.2: non-rotating medium; WABEREQ=01b."""
    assert page(0xB1) == bytes((0, 1, 0, 0x40)) + bytes(56)


def test_provisioning_is_thin_and_zeros() -> None:
    """SBC-3 6.6.5: LBPU, LBPWS, LBPWS10, LBPRZ; thin provisioned."""
    assert page(0xB2) == bytes((0, 0xE4, 2, 0))


@pytest.mark.parametrize(
    ("lun", "encoded"),
    [(0, "0000"), (1, "0001"), (255, "00ff"), (256, "4100"), (16383, "7fff")],
)
def test_encode_lun_uses_two_addressing_methods(lun: int, encoded: str) -> None:
    """SAM-5 4.7.7: peripheral device addressing below 256, flat space addressing above."""
    assert encode_lun(lun) == bytes.fromhex(encoded) + bytes(6)


def test_report_luns_lists_each_once_in_order() -> None:
    """SPC-4 6.33: LUN LIST LENGTH counts all, whatever the allocation length cuts off."""
    reply = report_luns(cdbs.report_luns(), (3, 1, 300, 1))
    body = b"".join(bytes.fromhex(text) + bytes(6) for text in ("0001", "0003", "412c"))
    assert reply.data == (bytes((0, 0, 0, 24, 0, 0, 0, 0)) + body,)
    assert report_luns(cdbs.report_luns(9), (3, 1)).data == (bytes((0, 0, 0, 16)) + bytes(5),)
    assert report_luns(cdbs.report_luns(), ()).data == (bytes(8),)


@pytest.mark.parametrize(
    ("select", "count"), [(0, 2), (1, 0), (2, 2), (0x10, 0), (0x11, 0), (0x12, 0)]
)
def test_report_luns_knows_what_is_selected(select: int, count: int) -> None:
    """SPC-4 6.33: SELECT REPORT 01h and 1xh ask for well known and subsidiary units: none."""
    cdb = bytearray(cdbs.report_luns())
    cdb[2] = select
    assert len(report_luns(bytes(cdb), (0, 1)).data[0]) == 8 + 8 * count


def test_report_luns_of_an_unknown_selection_is_refused() -> None:
    """SPC-4 6.33: reserved values of SELECT REPORT are 05/24/00; so is a CDB cut short."""
    cdb = bytearray(cdbs.report_luns())
    cdb[2] = 3
    for bad in (bytes(cdb), cdbs.report_luns()[:11]):
        reply = report_luns(bad, (0,))
        sense = parse_sense(reply.sense)
        assert sense is not None
        assert (sense.key, sense.asc, sense.ascq) == INVALID_FIELD


def test_missing_unit_answers_what_it_has_to_and_refuses_the_rest() -> None:
    """SPC-4 6.6.2, SAM-5 5.11: INQUIRY says 7Fh, REQUEST SENSE and others 05/25/00."""
    found = answer_without_unit(cdbs.inquiry(), (1,))
    assert found.data == (standard(0x7F),)
    assert answer_without_unit(cdbs.report_luns(), (1,)).data == (
        bytes((0, 0, 0, 8, 0, 0, 0, 0, 0, 1)) + bytes(6),
    )
    said = answer_without_unit(cdbs.request_sense(), ())
    assert said.status is Status.GOOD
    assert parse_sense(bytes(said.data[0])) == Sense(5, 0x25, 0)
    for cdb in (b"", b"\xff", cdbs.TEST_UNIT_READY, cdbs.read(0, 1), cdbs.inquiry(0x83)[:3]):
        reply = answer_without_unit(cdb, ())
        assert parse_sense(reply.sense) == Sense(5, 0x25, 0)
    sense = parse_sense(answer_without_unit(cdbs.inquiry(0x83), ()).sense)
    assert sense is not None
    assert sense.asc == 0x24


def test_a_disk_reports_itself(rig: Rig) -> None:
    """A door that does not answer REPORT LUNS itself gets this LUN."""
    assert rig.good(cdbs.report_luns()) == bytes((0, 0, 0, 8)) + bytes(12)
