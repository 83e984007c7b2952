"""`lun.json`: what is written is read back; what is not exactly so is refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.errors import (
    ConfigError,
    LunNotFound,
    NewerFormat,
    PassedThrough,
    StateUnreadable,
)
from flockpr.spc.transport_id import InitiatorPort
from flockpr.store import identity as identities
from flockpr.store import layout
from flockpr.store.identity import (
    LunIdentity,
    check_image,
    check_label,
    check_lun_name,
    check_serial,
    check_wwid,
    encode_identity,
    new_naa,
    read_identity,
    target_name,
)
from flockpr.store.syscalls import Syscalls
from tests.support.spc_strategies import QUIET
from tests.support.states import hexadecimal

GOOD = LunIdentity(
    name="disk",
    incarnation="ab" * 16,
    naa="naa.3000000000000001",
    serial="S1",
    lun=7,
    created="2026-01-01T00:00:00.000000Z",
    wwids=("naa.600140500000001",),
    image="images/disk.raw",
    target_ports=(1, 7),
)


PASSED = attrs.evolve(GOOD, format=2, image=None, passed=True)


def read(directory: Path, data: bytes) -> LunIdentity:
    """What a lock directory named "disk" with this `lun.json` is."""
    lun = directory / "disk"
    lun.mkdir(exist_ok=True)
    (lun / "lun.json").write_bytes(data)
    fd = os.open(lun, os.O_RDONLY)
    try:
        return read_identity(Syscalls(), fd, str(lun))
    finally:
        os.close(fd)


_printable = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
_identities = st.builds(
    LunIdentity,
    name=st.just("disk"),
    incarnation=hexadecimal,
    naa=st.integers(0, (1 << 60) - 1).map(lambda n: f"naa.3{n:015x}"),
    serial=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=252),
    lun=st.integers(0, 16383),
    created=st.text(max_size=512),
    wwids=st.lists(st.text(_printable, min_size=1, max_size=512), max_size=8).map(tuple),
    image=st.none()
    | st.from_regex(r"[a-zé /]{0,20}[a-z]", fullmatch=True).filter(
        lambda path: not path.startswith("/")
    ),
    target_ports=st.sets(st.integers(2, 0xFFFF), max_size=5).map(lambda ports: (1, *ports)),
)


@QUIET
@given(_identities)
def test_identity_that_was_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, identity: LunIdentity
) -> None:
    """Every valid one survives."""
    assert read(tmp_path_factory.getbasetemp(), encode_identity(identity)) == identity


WRONG: dict[str, list[Any]] = {
    "format": [None, 0, -1, "1", True, 1.0, (1 << 31) + 1],
    "name": [None, 1, "", ".disk", "a/b", "other", "x" * 65],
    "incarnation": [None, 1, "", "ab" * 15, "AB" * 16, "zz" * 16],
    "naa": [None, 1, "", "naa.6000000000000001", "naa.300000000000000", "naa.300000000000000A"],
    "serial": [None, 1, "", "x" * 253, "a\nb", "é"],
    "lun": [None, -1, 16384, True, 1.0, "1"],
    "created": [None, 1, "x" * 513],
    "wwids": [None, "naa.6", {}, [1], [""], ["a b"], ["x" * 513], ["x"] * 257],
    "image": [1, "", "/etc/passwd", "../up", "a/../../b", "a\0b", "x" * 4097],
    "target_ports": [None, 1, [], [2], [1, 1], [1, 0], [1, 65536], [1, True], [1.0], ["1"]],
}


def test_table_of_wrong_values_has_every_member() -> None:
    """A member that `lun.json` gains needs a line above."""
    members = {field.name for field in attrs.fields(LunIdentity)}
    assert set(WRONG) == set(GOOD.to_json()) == members - {"passed"}
    assert set(PASSED.to_json()) == members


@pytest.mark.parametrize("member", WRONG)
def test_identity_with_a_wrong_member_is_refused(tmp_path: Path, member: str) -> None:
    """Fail closed, naming the file and a remedy; missing is wrong too."""
    for value in WRONG[member]:
        document = {**GOOD.to_json(), member: value}
        with pytest.raises(StateUnreadable, match=r"disk/lun\.json") as caught:
            pytest.fail(f"{value!r}: {read(tmp_path, json.dumps(document).encode())}")
        assert caught.value.remedy
        assert not isinstance(caught.value, NewerFormat)
    document = GOOD.to_json()
    del document[member]
    with pytest.raises(StateUnreadable, match=member):
        read(tmp_path, json.dumps(document).encode())


def test_identity_with_an_unknown_member_is_refused(tmp_path: Path) -> None:
    """It means something to whoever wrote it."""
    with pytest.raises(StateUnreadable, match="surprise"):
        read(tmp_path, json.dumps({**GOOD.to_json(), "surprise": 1}).encode())


def test_identity_of_a_newer_format_says_so(tmp_path: Path) -> None:
    """Whatever else it holds."""
    with pytest.raises(NewerFormat, match="run a newer flockpr"):
        read(tmp_path, b'{"format": 3, "what": "ever"}')


def test_mark_of_a_disk_that_is_passed_through_is_read_back(tmp_path: Path) -> None:
    """Only by who says that it emulates nothing; all others get an error that says what to do."""
    data = encode_identity(PASSED)
    with pytest.raises(PassedThrough, match="not emulated"):
        read(tmp_path, data)
    fd = os.open(tmp_path / "disk", os.O_RDONLY)
    try:
        assert read_identity(Syscalls(), fd, str(tmp_path / "disk"), passed=True) == PASSED
    finally:
        os.close(fd)


def test_versions_without_the_mark_refuse_it_as_newer() -> None:
    """They know format 1 only, and must not emulate the disk."""
    assert PASSED.to_json()["format"] > layout.FORMAT
    assert "passed" not in GOOD.to_json()


@pytest.mark.parametrize(
    "changes",
    [
        {"passed": False},
        {"passed": None},
        {"format": 1},
        {"image": "images/disk.raw"},
        {"wwids": []},
    ],
)
def test_mark_that_is_not_exactly_so_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Half a mark is neither."""
    with pytest.raises(StateUnreadable):
        read(tmp_path, json.dumps({**PASSED.to_json(), **changes}).encode())
    without = {name: value for name, value in PASSED.to_json().items() if name != "passed"}
    with pytest.raises(StateUnreadable):
        read(tmp_path, json.dumps(without).encode())


def test_identity_that_is_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    """At every byte but the newline."""
    data = encode_identity(GOOD)
    assert read(tmp_path, data) == GOOD
    for length in range(len(data) - 1):
        with pytest.raises(StateUnreadable):
            read(tmp_path, data[:length])


def test_identity_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    """Which of the two would it be?"""
    data = encode_identity(GOOD).replace(b'"lun": 7,', b'"lun": 7, "lun": 8,')

    with pytest.raises(StateUnreadable, match="twice"):
        read(tmp_path, data)


def test_identity_that_is_huge_is_refused(tmp_path: Path) -> None:
    """Not read into memory."""
    data = encode_identity(GOOD)
    assert read(tmp_path, data.ljust(identities.MAX_IDENTITY)) == GOOD
    with pytest.raises(StateUnreadable, match="larger than"):
        read(tmp_path, data.ljust(identities.MAX_IDENTITY + 1))


def test_identity_that_is_missing_is_no_lock_directory(tmp_path: Path) -> None:
    """A folder of images in the root, say."""
    lun = tmp_path / "disk"
    lun.mkdir()
    fd = os.open(lun, os.O_RDONLY)

    with pytest.raises(LunNotFound, match=r"lun\.json is missing"):
        read_identity(Syscalls(), fd, str(lun))
    os.close(fd)


@pytest.mark.parametrize("name", ["a", "A9._+-", "x" * 64, "0"])
def test_name_of_a_lun_is_taken(name: str) -> None:
    """Safe as a directory's name, in a shell and in a log."""
    assert check_lun_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".x",
        "-x",
        "_x",
        "+x",
        "a/b",
        "a b",
        "a\n",
        "a\0",
        "é",
        "x" * 65,
        "a:b",
        "\u0661",
    ],
)
def test_name_of_a_lun_is_refused(name: str) -> None:
    """Nothing that leads elsewhere or needs quoting; the message shows it."""
    with pytest.raises(ConfigError, match="is no name for a LUN"):
        check_lun_name(name)


@pytest.mark.parametrize("path", ["", "/a", "..", "../a", "a/..", "a/../b", "a\0"])
def test_image_outside_the_root_is_refused(path: str) -> None:
    """An image is inside the root, so that it is the same on every host."""
    with pytest.raises(ConfigError, match="no path inside the root"):
        check_image(path)
    assert check_image("a..b/..c/d..") == "a..b/..c/d.."


def test_labels_serials_and_identifiers_have_bounds() -> None:
    """What every reader takes, and not one character more."""
    assert check_serial(" " * 252)
    assert check_wwid("!" * 512)
    assert check_label("h" * 255, "host")
    for wrong in ("", "x" * 253, "\x7f", "a\n"):
        with pytest.raises(ConfigError):
            check_serial(wrong)
    for wrong in ("", "x" * 513, "a b", "é", "a\n"):
        with pytest.raises(ConfigError):
            check_wwid(wrong)
    for wrong in ("", "x" * 256):
        with pytest.raises(ConfigError, match="no name for a host"):
            check_label(wrong, "host")


def test_naa_is_locally_assigned_and_random() -> None:
    """SPC-4 7.8.6.6.4: NAA 3h and 60 bits."""
    made = {new_naa() for _ in range(100)}

    assert len(made) == 100
    assert all(len(naa) == 20 and naa.startswith("naa.3") for naa in made)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("disk", "iqn.2026-11.org.flockpr:disk.3000000000000001"),
        ("A_b+C.d-9", "iqn.2026-11.org.flockpr:a-b-c.d-9.3000000000000001"),
        ("x" * 64, f"iqn.2026-11.org.flockpr:{'x' * 64}.3000000000000001"),
    ],
)
def test_target_name_is_an_iscsi_name(name: str, expected: str) -> None:
    """RFC 7143 4.2.7.2: lower case, no character that iSCSI names do not have, 223 bytes."""
    made = target_name(attrs.evolve(GOOD, name=name))

    assert made == expected
    assert len(made.encode()) <= 223
    assert InitiatorPort(made).name == made


def test_target_name_differs_for_names_that_look_the_same() -> None:
    """The digits of the NAA identifier keep "a_b" and "a+b" apart."""
    one = attrs.evolve(GOOD, name="a_b", naa="naa.3000000000000001")
    other = attrs.evolve(GOOD, name="a+b", naa="naa.3000000000000002")

    assert target_name(one) != target_name(other)
