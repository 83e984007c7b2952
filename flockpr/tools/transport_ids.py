"""TransportIDs on the command line, as sg_persist takes them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator

from flockpr.tools.numbers import scan_hex

Complain = Callable[[str], None]
"""What is called with each line for standard error."""

LONGEST_NAME = 241
_HEX_LIST = re.compile(r"[0-9a-fA-F, ]*")
_FILE_LIST = re.compile(r"[0-9a-fA-F ,\t]*")
_SYMBOLIC = {
    # Name: protocol identifier, offset of the identifier, its hex digits (SPC-4 7.6.4).
    "sas": (0x6, 4, 16),
    "fcp": (0x0, 8, 16),
    "sbp": (0x3, 8, 16),
    "srp": (0x4, 8, 32),
}


class BadTransportIdError(ValueError):
    """No TransportID; the message is what to complain with."""


def compact(transport_id: bytes) -> bytes:
    """A TransportID in the length that it is sent with."""
    if transport_id[0] & 0x0F == 0x05:
        length = max(24, int.from_bytes(transport_id[2:4], "big") + 4)
    else:
        length = 24
    return transport_id.ljust(length, b"\0")[:length]


def build(text: str, complain: Complain) -> list[bytes] | None:
    """The TransportIDs that the argument of ``--transport-id`` names.

    Args:
        text: A name (``iqn...``, ``sas,5000...``, ``fcp,...``, ``spi,...``), the
            bytes in hex, ``file=NAME``, or ``-`` for standard input.
        complain: Told what is wrong, line by line; also that bytes in hex are no name.

    Returns:
        The TransportIDs, or None when something is wrong.
    """
    try:
        if text.startswith("-"):
            return list(_from_lines(sys.stdin.read(), complain))
        if text[:5] in ("file=", "FILE="):
            return list(_from_lines(_read(text[5:]), complain))
        found = _symbolic(text, complain)
        return [compact(_hex_list(text) if found is None else found)]
    except BadTransportIdError as error:
        complain(str(error))
        return None


def _symbolic(text: str, complain: Complain) -> bytes | None:
    """A TransportID by name; None, and a complaint, when the text is no name of one."""
    if text.startswith("iqn."):
        return _iscsi(re.split(r"[ \t]", text, maxsplit=1)[0], complain)
    kind, _, rest = text.partition(",")
    known = kind in (kind.lower(), kind.upper()) and kind.lower() in (*_SYMBOLIC, "spi", "sop")
    if len(kind) == 3 and known and "," in text:
        found = _numbered(kind.lower(), rest)
        if found is None:
            complain(f"badly formed symbolic {kind.upper()} TransportID: {rest}")
        return found
    complain(f"unable to parse symbolic TransportID: {text}")
    return None


def _numbered(kind: str, rest: str) -> bytes | None:
    if kind in _SYMBOLIC:
        protocol, offset, digits = _SYMBOLIC[kind]
        found = re.match(r"[0-9a-fA-F]*", rest)
        if found is None or len(found[0]) != min(16, digits):
            return None
        head = bytes((protocol,)).ljust(offset, b"\0")
        return (head + bytes.fromhex(found[0])).ljust(24, b"\0")
    if kind == "spi":
        pair = re.match(r"(\d+),(\d+)", rest)
        if pair is None:
            return None
        address, port = (int(number) & 0xFFFF for number in pair.groups())
        parts = b"\x01\0", address.to_bytes(2, "big"), bytes(2), port.to_bytes(2, "big")
        return b"".join(parts).ljust(24, b"\0")
    return None  # sop: 1.46 refuses all of them


def _iscsi(name: str, complain: Complain) -> bytes | None:
    data = name.encode()
    # At least one NUL, and a multiple of four (SPC-4 7.6.4.6).
    length = max(20, len(data) + 1 + -(len(data) + 1) % 4)
    if length > LONGEST_NAME:
        complain(f"iSCSI name too long, alen={length}")
        return None
    form = 0x40 if ",i,0x" in name else 0
    return bytes((0x05 | form, 0, 0, length)) + data.ljust(length, b"\0")


def _hex_list(text: str) -> bytes:
    found = _HEX_LIST.match(text)
    if found is None or found.end() != len(text):
        position = 1 + (found.end() if found else 0)
        raise BadTransportIdError(f"build_transportid: error at pos {position}")
    return _bytes(text, "build_transportid: {} at pos {}", r"[ ,]")


def _bytes(text: str, message: str, separators: str) -> bytes:
    """The bytes of a list in hex.

    Args:
        text: The list.
        message: What to complain with: what is wrong, and at which position.
        separators: Pattern of what stands between two of them.
    """
    numbers = []
    position = 1
    for part in re.split(separators, text):
        number = scan_hex(part, 32)
        if number is None:
            raise BadTransportIdError(message.format("error", position))
        if number > 0xFF:
            raise BadTransportIdError(message.format("hex number larger than 0xff", position))
        numbers.append(number)
        position += len(part) + 1
    return bytes(numbers)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        raise BadTransportIdError(f"decode_file_tids: unable to open {path}") from None


def _from_lines(text: str, complain: Complain) -> Iterator[bytes]:
    for number, line in enumerate(text.splitlines()[:512], start=1):
        wanted = line.lstrip(" \t")
        if not wanted or wanted.startswith("#"):
            continue
        found = _symbolic(wanted, complain)
        if found is None:
            wanted = wanted.split("#", 1)[0]
            listed = _FILE_LIST.match(wanted)
            if listed is None or listed.end() != len(wanted):
                position = len(line) - len(line.lstrip(" \t")) + len(listed[0] if listed else "")
                what = f"decode_file_tids: syntax error at line {number}, pos {position + 1}"
                raise BadTransportIdError(what)
            message = f"decode_file_tids: {{}} in line {number}, at pos {{}}"
            found = _bytes(wanted.strip(" ,\t"), message, r"[ ,\t]+")
        yield compact(found)
