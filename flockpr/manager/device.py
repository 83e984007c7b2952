"""What a passed descriptor is: names of its disk that every host would agree on.

A device's number means something else on every host and after every boot, so it serves
only to find the device in sysfs. Nothing is remembered by it from one command to the next: the
descriptor of a slot that was plugged out and in again is another disk (qemu-pr-helper runs
in the machine's own mount namespace too, where /dev/disk does not exist). What may be
remembered for a moment, and by what, is in `known`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat

import attrs

from flockpr.manager.vpd import designators

DELETED = " (deleted)"
"""What the kernel appends to the name of an open file that has none any more."""
_DM_MULTIPATH = re.compile(r"(?:part\d+-)?mpath-")
_ATTRIBUTE_MAX = 8192
_SG_MAJOR = 21

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that are this process's or this host's trouble, not the descriptor's."""


@attrs.frozen
class Device:
    """Names of the disk behind a descriptor.

    Attributes:
        kind: `block`, `char`, `file` or `other`, for the log.
        wwids: World wide identifiers, best first, in the kernel's notation (`naa.6001405...`)
            and in those of multipath (`36001405...`).
        images: Absolute paths of the image file behind it: as known to the kernel, and with
            symbolic links resolved.
    """

    kind: str
    wwids: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    @property
    def candidates(self) -> tuple[str, ...]:
        """All names; image paths start with a slash, wwids never do."""
        return self.wwids + self.images


def writable(descriptor: int) -> bool:
    """Whether the descriptor was opened for writing; never blocks.

    The access mode is the only proof that the client may change the disk. O_PATH
    descriptors and the ioctl-only mode 3 prove nothing.
    """
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    return not flags & os.O_PATH and flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)


def identify_device(descriptor: int, *, sysfs: str = "/sys", proc: str = "/proc") -> Device:
    """Find the names of the disk behind a descriptor.

    May block as long as the file system of a regular file does.

    Args:
        descriptor: Any open descriptor.
        sysfs: Where sysfs is.
        proc: Where procfs is.

    Returns:
        The names; none of them when the disk has no identity that other hosts share.
    """
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode):
        return Device("file", images=_image_of_file(descriptor, found, proc))
    if stat.S_ISBLK(found.st_mode):
        return _block_device(found.st_rdev, sysfs)
    if stat.S_ISCHR(found.st_mode):
        return _character_device(found.st_rdev, sysfs)
    return Device("other")


def names_below(descriptor: int, *, sysfs: str = "/sys") -> tuple[str, ...]:
    """Names of the disks that a map of the device mapper lies on, whatever lies in between.

    Args:
        descriptor: Any open descriptor; what is no such map lies on nothing.
        sysfs: Where sysfs is.
    """
    found = os.fstat(descriptor)
    names: list[str] = []
    numbers = [number_text(found.st_rdev)]
    if not stat.S_ISBLK(found.st_mode):
        return ()
    for number in numbers:  # grows; a map cannot lie on itself
        slaves = f"{sysfs}/dev/block/{number}/slaves"
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for slave in sorted(os.listdir(slaves)):
                below = _text(f"{slaves}/{slave}/dev")
                major, colon, minor = below.partition(":")
                if not colon:
                    raise OSError(errno.ENODEV, "is being taken away", slave)
                numbers.append(below)
                names += _block_device(os.makedev(int(major), int(minor)), sysfs).candidates
    return tuple(dict.fromkeys(names))


def _image_of_file(descriptor: int, found: os.stat_result, proc: str) -> tuple[str, ...]:
    path = os.readlink(f"{proc}/self/fd/{descriptor}")
    try:
        there = os.stat(path)
    except OSError:
        return ()
    # The link shows the name as of opening, perhaps of another mount namespace: another file
    # may be there by now, and be the image of another logical unit.
    return _paths(path) if os.path.samestat(found, there) else ()


def _paths(path: str) -> tuple[str, ...]:
    if not path.startswith("/"):
        return ()
    return tuple(dict.fromkeys((path, os.path.realpath(path))))


def number_text(number: int) -> str:
    """The number of a device (`st_rdev`) as sysfs writes it: `8:16`."""
    return f"{os.major(number)}:{os.minor(number)}"


def disk_node(number: int, sysfs: str) -> str:
    """The directory in sysfs of a disk, or of the one that a partition is of.

    Args:
        number: Of the block device.
        sysfs: Where sysfs is.
    """
    node = os.path.realpath(f"{sysfs}/dev/block/{number_text(number)}")
    if os.path.exists(f"{node}/partition"):
        # Reservations are per logical unit: a partition's are those of its disk.
        node = os.path.dirname(node)
    return node


def _block_device(number: int, sysfs: str) -> Device:
    node = disk_node(number, sysfs)
    wwids = _scsi_wwids(f"{node}/device")
    wwids += _notations(_text(f"{node}/wwid"))  # NVMe
    wwids += _mapped_wwids(_text(f"{node}/dm/uuid"))
    return Device("block", _distinct(wwids), _image_of_loop(f"{node}/loop"))


def _character_device(number: int, sysfs: str) -> Device:
    if os.major(number) != _SG_MAJOR:
        return Device("char")
    node = f"{sysfs}/dev/char/{_SG_MAJOR}:{os.minor(number)}"
    return Device("char", _distinct(_scsi_wwids(f"{node}/device")))


def _scsi_wwids(device: str) -> list[str]:
    wwids = _notations(_text(f"{device}/wwid"))
    for designator in designators(_bytes(f"{device}/vpd_pg83")):
        wwids += _notations(designator)
    return wwids


def _mapped_wwids(mapping: str) -> list[str]:
    """Names of a device mapper node, from its uuid.

    A multipath map is one LUN and shares its wwid with its paths. Other maps, such as
    logical volumes, have uuids that are the same on every host.
    """
    match = _DM_MULTIPATH.match(mapping)
    if match is None:
        return [mapping] if mapping else []
    return _notations(mapping[match.end() :])


def _notations(wwid: str) -> list[str]:
    """Return a wwid in the kernel's notation and in multipath's, the given one first.

    multipath and udev write the designator's type in front of its digits: 3 for NAA, 2 for
    EUI-64.
    """
    if not wwid or not wwid.strip("0. "):
        return []
    kind, dot, digits = wwid.partition(".")
    if dot and kind in _TYPE_DIGITS and _is_hex(digits):
        # All zeros is what devices say that were never given an identity.
        return [wwid, _TYPE_DIGITS[kind] + digits] if digits.strip("0") else []
    for kind, digit in _TYPE_DIGITS.items():
        if wwid.startswith(digit) and len(wwid) in (17, 33) and _is_hex(wwid):
            return [wwid, f"{kind}.{wwid[1:]}"]
    # A vendor's text is padded with blanks; udev and lun.json write an underscore for them.
    return [wwid, re.sub(r"\s+", "_", wwid)]


_TYPE_DIGITS = {"naa": "3", "eui": "2"}


def _is_hex(text: str) -> bool:
    return bool(text) and not text.strip("0123456789abcdefABCDEF")


def _image_of_loop(loop: str) -> tuple[str, ...]:
    """Return the paths of a loop device's file if the device is the whole file."""
    path = _text(f"{loop}/backing_file", strip="\n")
    if not path or path.endswith(DELETED):
        return ()
    # A window into a file is a disk of its own, and other windows may be other disks.
    if any(_text(f"{loop}/{limit}") not in ("", "0") for limit in ("offset", "sizelimit")):
        return ()
    return _paths(path)


def _text(path: str, strip: str | None = None) -> str:
    """Return an attribute as text, "" if there is none; binary junk as surrogates."""
    return os.fsdecode(_bytes(path)).strip(strip)


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(_ATTRIBUTE_MAX) or b""
    except OSError as error:
        # A full table of open files says nothing about the disk: not "it has no identity".
        if error.errno in EXHAUSTED:
            raise
        return b""


def _distinct(wwids: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(wwid for wwid in wwids if not wwid.startswith("/")))
