"""`lun.json`: what a logical unit is, generated once and the same from every host."""

from __future__ import annotations

import json
import os
import re
import secrets
from typing import Any

import attrs

from flockpr.errors import (
    ConfigError,
    LunNotFound,
    NewerFormat,
    PassedThrough,
    StateUnreadable,
)
from flockpr.store import files
from flockpr.store.layout import FORMAT, IDENTITY, LUN_NAME
from flockpr.store.strict import Malformed, Reader, loads
from flockpr.store.syscalls import Syscalls

MAX_IDENTITY = 64 << 10
PASSED_FORMAT = 2
"""Of the `lun.json` of a disk that is passed through: who knows nothing of the mark must not
take the disk for one that is emulated, and refuses a newer format."""
MAX_LABEL = 255
HELPER_PORT = 1
"""Relative target port identifier of the helper door, on every host."""
TARGET_PORT = 2
"""Relative target port identifier that a portal of the target door has unless it says another."""
TARGET_PREFIX = "iqn.2026-11.org.flockpr:"
"""Beginning of the iSCSI names that logical units have unless the configuration gives one."""

_SERIAL = re.compile(r"[ -~]{1,252}")
_NAA = re.compile(r"naa\.3[0-9a-f]{15}")
_WWID = re.compile(r"[!-~]{1,512}")
_NOT_IN_ISCSI_NAMES = re.compile(r"[^a-z0-9.-]")


@attrs.frozen
class LunIdentity:
    """A logical unit's lasting properties.

    Attributes:
        name: Of its directory.
        incarnation: 128 random bits in hexadecimal; another one is another logical unit.
        naa: NAA identifier as Linux writes it: "naa." and 16 digits, locally assigned (3h).
        serial: Unit serial number (VPD page 80h).
        wwids: Identifiers of devices that are this logical unit, as the helper door
            finds them; `naa` counts without being listed.
        lun: Logical unit number, unique in the root.
        image: Backing image, relative to the root; None for a lock directory alone.
        target_ports: Relative target port identifiers; 1 is the helper door.
        created: UTC, ISO 8601.
        format: Of the document.
        passed: Commands go to the device on every host; nothing is emulated.
    """

    name: str
    incarnation: str
    naa: str
    serial: str
    lun: int
    created: str
    wwids: tuple[str, ...] = ()
    image: str | None = None
    target_ports: tuple[int, ...] = (HELPER_PORT,)
    format: int = FORMAT
    passed: bool = False

    def to_json(self) -> dict[str, Any]:
        """The object of `lun.json`."""
        result = attrs.asdict(self)
        if not self.passed:
            del result["passed"]
        result["wwids"] = list(self.wwids)
        result["target_ports"] = list(self.target_ports)
        return {"format": result.pop("format"), **result}


def check_lun_name(name: str) -> str:
    """The name, if it is one.

    Raises:
        ConfigError: It is not.
    """
    if not LUN_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for a LUN: 1 to 64 letters, digits, '.', '_', '+', '-', "
            "beginning with a letter or digit"
        )
    return name


def check_image(image: str) -> str:
    """A backing image's path, if it stays inside the root.

    Raises:
        ConfigError: It does not.
    """
    parts = image.split("/")
    if not image or image.startswith("/") or ".." in parts or "\0" in image:
        raise ConfigError(f"{image!r} is no path inside the root (relative, without '..')")
    return image


def check_wwid(wwid: str) -> str:
    """A device identifier, if it is one.

    Raises:
        ConfigError: It is not.
    """
    if not _WWID.fullmatch(wwid):
        raise ConfigError(f"{wwid!r} is no device identifier: 1 to 512 printable characters")
    return wwid


def check_label(text: str, what: str) -> str:
    """A name of a host or door for the record, if every reader of the record takes it.

    Raises:
        ConfigError: It does not fit: nobody could read the commit that names it.
    """
    if not 1 <= len(text) <= MAX_LABEL:
        raise ConfigError(f"{text[:80]!r} is no name for a {what}: 1 to {MAX_LABEL} characters")
    return text


def check_serial(serial: str) -> str:
    """A unit serial number, if it is one.

    Raises:
        ConfigError: It is not.
    """
    if not _SERIAL.fullmatch(serial):
        raise ConfigError(f"{serial!r} is no serial number: 1 to 252 printable characters")
    return serial


def new_naa() -> str:
    """A locally assigned NAA identifier (SPC-4 7.8.6.6.4): 3h and 60 random bits."""
    return f"naa.3{secrets.randbits(60):015x}"


def new_serial() -> str:
    """A random unit serial number."""
    import uuid  # whoever reads an identity makes none

    return str(uuid.uuid4())


def target_name(identity: LunIdentity) -> str:
    """The iSCSI name of the target that carries this LUN, the same from every host.

    RFC 7143 4.2.7.2 has lower case letters, digits, ".", "-" and ":" only, so other characters of
    the name become "-"; the digits of the NAA identifier keep two LUNs apart all the same.
    """
    plain = _NOT_IN_ISCSI_NAMES.sub("-", identity.name.lower())
    return f"{TARGET_PREFIX}{plain}.{identity.naa.removeprefix('naa.')}"


def encode_identity(identity: LunIdentity) -> bytes:
    """The bytes of `lun.json`."""
    return (json.dumps(identity.to_json(), indent=2) + "\n").encode()


def check_identity(identity: LunIdentity) -> LunIdentity:
    """The identity, if every reader of its `lun.json` takes it.

    Raises:
        ConfigError: Some property does not fit, or all of them together are too much.
    """
    data = encode_identity(identity)
    if len(data) > MAX_IDENTITY:
        raise ConfigError(f"lun.json would be larger than {MAX_IDENTITY} bytes: fewer wwids")
    try:
        _decode(data)
    except Malformed as error:
        raise ConfigError(str(error)) from None
    return identity


def read_identity(
    syscalls: Syscalls, lun_fd: int, path: str, *, passed: bool = False
) -> LunIdentity:
    """The identity in an open lock directory.

    Args:
        syscalls: Where the calls go.
        lun_fd: The lock directory.
        path: Its path, for messages and for the name that it has to have.
        passed: Whether one that is passed through will do: only for who emulates nothing.

    Raises:
        PassedThrough: It is one, and that will not do.
        LunNotFound: There is no `lun.json`: not a lock directory.
        StateUnreadable: It cannot be read as ours.
        StoreUnavailable: Input or output failed.
    """
    where = f"{path}/{IDENTITY}"
    try:
        data = files.read_whole(syscalls, IDENTITY, dir_fd=lun_fd, most=MAX_IDENTITY)
    except FileNotFoundError:
        raise LunNotFound(
            "is no lock directory: lun.json is missing",
            path,
            "create one with `flockpr lun create`, or restore it from a backup",
        ) from None
    except StateUnreadable as error:
        raise StateUnreadable(error.what, where, error.remedy) from None
    except OSError as error:
        raise files.unavailable(error, "cannot be read", where) from error
    try:
        identity = _decode(data)
        if identity.name != os.path.basename(os.path.abspath(path)):
            # Served under two names, one disk would have two sets of reservations.
            raise Malformed(f"belongs to the LUN {identity.name}: this is a copy, or was renamed")
        if identity.passed and not passed:
            raise PassedThrough(
                "is passed through to its device on every host, and not emulated",
                path,
                "serve it with manager = auto or sgio; or delete it with `flockpr lun delete` "
                "once no guest has the disk, and create it anew",
            )
        return identity
    except _Newer as error:
        raise NewerFormat(str(error), where, "run a newer flockpr on this host") from None
    except (Malformed, ConfigError) as error:
        raise StateUnreadable(str(error), where, "restore it from a backup") from None


class _Newer(Malformed):
    pass


def _decode(data: bytes) -> LunIdentity:
    reader = Reader(loads(data), "lun")
    number = reader.integer("format", 1, 1 << 31)
    if number > PASSED_FORMAT:
        raise _Newer(f"format {number} is newer than format {PASSED_FORMAT}, which this reads")
    identity = LunIdentity(
        format=number,
        name=check_lun_name(reader.string("name")),
        incarnation=reader.hexadecimal("incarnation", 32),
        naa=_naa(reader.string("naa")),
        serial=check_serial(reader.string("serial")),
        lun=reader.integer("lun", 0, 16383),
        created=reader.string("created"),
        wwids=tuple(check_wwid(item) for item in reader.strings("wwids", 256)),
        image=_image(reader.optional_string("image")),
        target_ports=_ports(reader.items("target_ports", 256)),
        passed=number == PASSED_FORMAT and reader.boolean("passed"),
    )
    reader.done()
    if identity.passed != (number == PASSED_FORMAT):
        raise Malformed(f"format {number} is for LUNs that are passed through, and this is none")
    if identity.passed and (identity.image is not None or not identity.wwids):
        raise Malformed("a LUN that is passed through has no image, and identifiers of its device")
    return identity


def _naa(naa: str) -> str:
    if not _NAA.fullmatch(naa):
        raise Malformed(f"{naa!r} is no locally assigned NAA identifier")
    return naa


def _image(image: str | None) -> str | None:
    return None if image is None else check_image(image)


def _ports(items: list[Any]) -> tuple[int, ...]:
    for item in items:
        if type(item) is not int or not 1 <= item <= 0xFFFF:
            raise Malformed(f"{item!r} is no relative target port identifier")
    if HELPER_PORT not in items or len(set(items)) != len(items):
        raise Malformed("target_ports must list 1 and each port once")
    return tuple(items)
