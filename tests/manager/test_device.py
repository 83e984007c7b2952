"""From a descriptor to names that every host agrees on."""

from __future__ import annotations

import os
import pathlib
import stat
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.manager.device import Device, identify_device, names_below, writable
from flockpr.manager.vpd import designators

NAA = "naa.60014051111222233334444555566667"
MULTIPATH = "360014051111222233334444555566667"


def descriptor(lu: int, code_set: int, kind: int, value: bytes) -> bytes:
    """A designation descriptor: association in bits 5-4 of byte 1."""
    return bytes((code_set, lu << 4 | kind, 0, len(value))) + value


def page(*descriptors: bytes) -> bytes:
    """VPD page 83h."""
    body = b"".join(descriptors)
    return bytes((0, 0x83)) + len(body).to_bytes(2, "big") + body


class FakeSysfs:
    """A sysfs tree, built attribute by attribute, with the kernel's symbolic links."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root

    def block(self, number: str, where: str, attributes: dict[str, str | bytes]) -> None:
        """A block device at devices/`where`."""
        self._node("block", number, where, attributes)

    def char(self, number: str, where: str, attributes: dict[str, str | bytes]) -> None:
        """A character device."""
        self._node("char", number, where, attributes)

    def _node(self, kind: str, number: str, where: str, attributes: dict[str, str | bytes]) -> None:
        node = self.root / "devices" / where
        for name, value in attributes.items():
            path = node / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value if isinstance(value, bytes) else value.encode())
        node.mkdir(parents=True, exist_ok=True)
        link = self.root / "dev" / kind / number
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(node, link.parent))


@pytest.fixture
def sysfs(tmp_path: pathlib.Path) -> FakeSysfs:
    """An empty sysfs."""
    return FakeSysfs(tmp_path)


def identify(
    monkeypatch: pytest.MonkeyPatch, sysfs: FakeSysfs, number: str, kind: int = stat.S_IFBLK
) -> Device:
    """Identify a descriptor that claims to be that device."""
    major, minor = map(int, number.split(":"))
    claimed = SimpleNamespace(st_mode=kind | 0o600, st_rdev=os.makedev(major, minor))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", lambda _: claimed)
        return identify_device(0, sysfs=str(sysfs.root))


def test_scsi_disk_has_its_wwid(monkeypatch: pytest.MonkeyPatch, sysfs: FakeSysfs) -> None:
    """/sys/dev/block/M:m/device/wwid, in the kernel's and in multipath's notation."""
    sysfs.block("8:0", "target/0:0:0:0/block/sda", {"device/wwid": NAA + "\n"})
    found = identify(monkeypatch, sysfs, "8:0")
    assert found == Device("block", (NAA, MULTIPATH))


def test_scsi_disk_page_83_adds_further_names(
    monkeypatch: pytest.MonkeyPatch, sysfs: FakeSysfs
) -> None:
    """The wwid of the kernel first, then every designator of the logical unit."""
    vpd = page(
        descriptor(0, 2, 1, b"LIO-ORG disk"),
        descriptor(1, 1, 3, bytes.fromhex("5000000000000001")),
        descriptor(0, 1, 2, bytes.fromhex("0011223344556677")),
    )
    attributes: dict[str, str | bytes] = {"device/wwid": NAA, "device/vpd_pg83": vpd}
    sysfs.block("8:16", "sdb", attributes)
    assert identify(monkeypatch, sysfs, "8:16").wwids == (
        NAA,
        MULTIPATH,
        "eui.0011223344556677",
        "20011223344556677",
        "t10.LIO-ORG disk",
        "t10.LIO-ORG_disk",
    )


def test_sg_node_has_the_same_names_as_its_disk(
    monkeypatch: pytest.MonkeyPatch, sysfs: FakeSysfs
) -> None:
    """scsi-generic passes /dev/sgN: major 21."""
    sysfs.char("21:3", "sg3", {"device/wwid": NAA})
    assert identify(monkeypatch, sysfs, "21:3", stat.S_IFCHR) == Device("char", (NAA, MULTIPATH))
    sysfs.char("22:3", "other", {"device/wwid": NAA})
    assert identify(monkeypatch, sysfs, "22:3", stat.S_IFCHR) == Device("char")


def test_partition_is_its_disk(monkeypatch: pytest.MonkeyPatch, sysfs: FakeSysfs) -> None:
    """Reservations are per logical unit."""
    sysfs.block("8:0", "block/sda", {"device/wwid": NAA})
    sysfs.block("8:1", "block/sda/sda1", {"partition": "1\n"})
    assert identify(monkeypatch, sysfs, "8:1") == Device("block", (NAA, MULTIPATH))


@pytest.mark.parametrize("uuid", [f"mpath-{MULTIPATH}", f"part2-mpath-{MULTIPATH}"])
def test_multipath_map_agrees_with_its_paths(
    monkeypatch: pytest.MonkeyPatch, sysfs: FakeSysfs, uuid: str
) -> None:
    """Device mapper nodes have no device/wwid; the prefix is stripped."""
    sysfs.block("253:0", "dm-0", {"dm/uuid": uuid + "\n"})
    assert identify(monkeypatch, sysfs, "253:0").wwids == (MULTIPATH, NAA)


def test_logical_volume_has_its_uuid(monkeypatch: pytest.MonkeyPatch, sysfs: FakeSysfs) -> None:
    """The same on every host that sees the volume group."""
    sysfs.block("253:1", "dm-1", {"dm/uuid": "LVM-abcDEF"})
    assert identify(monkeypatch, sysfs, "253:1").wwids == ("LVM-abcDEF",)


def test_map_lies_on_disks(monkeypatch: pytest.MonkeyPatch, sysfs: FakeSysfs) -> None:
    """A volume over a map of multipath over two paths, and over a partition of a third disk."""
    sysfs.block("8:0", "sda", {"device/wwid": "naa.6aa"})
    sysfs.block("8:16", "sdb", {"device/wwid": "naa.6aa"})
    sysfs.block("8:32", "sdc", {"device/wwid": "naa.6cc"})
    sysfs.block("8:33", "sdc/sdc1", {"partition": "1"})
    sysfs.block("253:0", "dm-0", {"slaves/sda/dev": "8:0\n", "slaves/sdb/dev": "8:16\n"})
    sysfs.block("253:1", "dm-1", {"slaves/dm-0/dev": "253:0\n", "slaves/sdc1/dev": "8:33\n"})
    assert below(monkeypatch, sysfs, "253:1") == ("naa.6cc", "36cc", "naa.6aa", "36aa")
    assert below(monkeypatch, sysfs, "8:0") == ()
    assert below(monkeypatch, sysfs, "8:99") == ()
    assert below(monkeypatch, sysfs, "253:1", stat.S_IFCHR) == ()
    sysfs.block("253:2", "dm-2", {"slaves/sdd/holders": ""})
    with pytest.raises(OSError, match="taken away"):
        below(monkeypatch, sysfs, "253:2")


def below(
    monkeypatch: pytest.MonkeyPatch, sysfs: FakeSysfs, number: str, kind: int = stat.S_IFBLK
) -> tuple[str, ...]:
    """What a descriptor that claims to be that device lies on."""
    major, minor = map(int, number.split(":"))
    claimed = SimpleNamespace(st_mode=kind | 0o600, st_rdev=os.makedev(major, minor))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", lambda _: claimed)
        return names_below(0, sysfs=str(sysfs.root))


def test_nvme_namespace_has_its_wwid(monkeypatch: pytest.MonkeyPatch, sysfs: FakeSysfs) -> None:
    """It lies at the block device itself."""
    sysfs.block("259:0", "nvme0n1", {"wwid": "eui.0025385b71b00001\n"})
    assert "eui.0025385b71b00001" in identify(monkeypatch, sysfs, "259:0").wwids


def test_loop_device_is_its_whole_file(
    monkeypatch: pytest.MonkeyPatch, sysfs: FakeSysfs, tmp_path: pathlib.Path
) -> None:
    """As the kernel names it, and with symbolic links resolved; also for its partitions."""
    image = tmp_path / "real" / "disk.img"
    image.parent.mkdir()
    image.touch()
    (tmp_path / "link").symlink_to("real")
    named = str(tmp_path / "link" / "disk.img")
    attributes: dict[str, str | bytes] = {
        "loop/backing_file": named + "\n",
        "loop/offset": "0\n",
        "loop/sizelimit": "0\n",
    }
    sysfs.block("7:0", "block/loop0", attributes)
    sysfs.block("259:5", "block/loop0/loop0p1", {"partition": "1"})
    expected = Device("block", images=(named, str(image.resolve())))
    assert identify(monkeypatch, sysfs, "7:0") == expected
    assert identify(monkeypatch, sysfs, "259:5") == expected
    assert expected.candidates == expected.images


@pytest.mark.parametrize(
    "attributes",
    [
        {"loop/backing_file": "/disk.img (deleted)"},
        {"loop/backing_file": "/disk.img", "loop/offset": "1048576"},
        {"loop/backing_file": "/disk.img", "loop/sizelimit": "1048576"},
        {"loop/backing_file": ""},
        {"loop/backing_file": "relative"},
        {},
    ],
)
def test_loop_device_that_is_not_a_whole_file_has_no_name(
    monkeypatch: pytest.MonkeyPatch, sysfs: FakeSysfs, attributes: dict[str, str | bytes]
) -> None:
    """Two windows into one file are two disks."""
    sysfs.block("7:0", "loop0", attributes)
    assert identify(monkeypatch, sysfs, "7:0") == Device("block")


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"device/wwid": ""},
        {"device/wwid": "\n"},
        {"device/wwid": "naa.0000000000000000"},
        {"device/wwid": "0000000000000000"},
        {"device/wwid": "/etc/passwd"},
        {"dm/uuid": ""},
        {"dm/uuid": "mpath-"},
    ],
)
def test_device_without_identity_has_no_name(
    monkeypatch: pytest.MonkeyPatch, sysfs: FakeSysfs, attributes: dict[str, str | bytes]
) -> None:
    """Never one made from major and minor; a wwid is never taken for a path either."""
    sysfs.block("8:0", "sda", attributes)
    assert identify(monkeypatch, sysfs, "8:0").candidates == ()


def test_device_behind_a_number_is_looked_at_anew(
    monkeypatch: pytest.MonkeyPatch, sysfs: FakeSysfs
) -> None:
    """Hot plug puts another disk behind the same number."""
    sysfs.block("8:0", "sda", {"device/wwid": NAA})
    assert identify(monkeypatch, sysfs, "8:0").wwids[0] == NAA
    sysfs.block("8:0", "sdz", {"device/wwid": "naa.5000c50000000001"})
    assert identify(monkeypatch, sysfs, "8:0").wwids[0] == "naa.5000c50000000001"


def test_device_that_sysfs_does_not_know_has_no_name(
    monkeypatch: pytest.MonkeyPatch, sysfs: FakeSysfs
) -> None:
    """Unplugged under the descriptor."""
    assert identify(monkeypatch, sysfs, "8:99") == Device("block")
    assert identify(monkeypatch, sysfs, "21:99", stat.S_IFCHR) == Device("char")


def test_regular_file_is_its_path(tmp_path: pathlib.Path) -> None:
    """By the link in procfs, and with symbolic links resolved."""
    path = tmp_path / "disk.img"
    with path.open("w") as file:
        found = identify_device(file.fileno())
        assert found.kind == "file"
        assert str(path.resolve()) in found.images


def test_regular_file_that_was_replaced_has_no_name(tmp_path: pathlib.Path) -> None:
    """The name leads to another file by now, perhaps the image of another logical unit."""
    path = tmp_path / "disk.img"
    with path.open("w") as file:
        path.unlink()
        assert identify_device(file.fileno()) == Device("file")
        path.touch()
        assert identify_device(file.fileno()) == Device("file")
        (tmp_path / "disk.img (deleted)").touch()
        assert identify_device(file.fileno()) == Device("file")


def test_other_descriptors_have_no_name() -> None:
    """Pipes, directories and character devices that are no SCSI device."""
    reader, writer = os.pipe()
    directory = os.open("/", os.O_RDONLY)
    null = os.open("/dev/null", os.O_RDWR)
    for number, kind in ((reader, "other"), (directory, "other"), (null, "char")):
        assert identify_device(number) == Device(kind)
    for number in (reader, writer, directory, null):
        os.close(number)


@pytest.mark.parametrize(
    ("flags", "proven"),
    [
        (os.O_RDWR, True),
        (os.O_WRONLY, True),
        (os.O_RDONLY, False),
        (os.O_PATH, False),
        (os.O_ACCMODE, False),
    ],
)
def test_writable_is_what_the_access_mode_proves(
    tmp_path: pathlib.Path, flags: int, proven: bool
) -> None:
    """O_PATH and the ioctl-only mode 3 prove nothing."""
    path = tmp_path / "file"
    path.touch()
    number = os.open(path, flags)
    assert writable(number) is proven
    os.close(number)


# VPD page 83h.


def test_designators_are_sorted_best_first() -> None:
    """NAA, EUI-64, SCSI name string, T10 vendor."""
    data = page(
        descriptor(0, 2, 1, b"VENDOR  x  \0"),
        descriptor(0, 3, 8, b"iqn.2020-01.com.example:lun\0\0"),
        descriptor(0, 1, 2, bytes(7) + b"\1"),
        descriptor(0, 1, 3, bytes.fromhex("6001405111122223")),
        descriptor(0, 1, 0, b"vendor specific"),
        descriptor(1, 1, 3, b"target port"),
        descriptor(2, 1, 3, b"target"),
    )
    assert designators(data) == [
        "naa.6001405111122223",
        "eui.0000000000000001",
        "iqn.2020-01.com.example:lun",
        "t10.VENDOR  x",
    ]


def test_designators_of_cut_pages_are_never_cut_names() -> None:
    """A shortened identifier could be that of another disk."""
    data = page(descriptor(0, 1, 3, bytes.fromhex("6001405111122223")))
    for length in range(len(data)):
        assert designators(data[:length]) == []
    assert designators(data + b"junk") == ["naa.6001405111122223"]


@given(st.binary(max_size=80).map(lambda body: page()[:2] + body) | st.binary(max_size=40))
def test_designators_of_any_bytes_are_text(data: bytes) -> None:
    """Total."""
    for name in designators(data):
        assert name
        assert isinstance(name, str)
