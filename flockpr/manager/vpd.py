"""VPD page 83h, Device Identification, as Linux keeps it in sysfs (SPC-4 7.8.5)."""

from __future__ import annotations

_LOGICAL_UNIT = 0
_T10, _EUI64, _NAA, _NAME = 0x1, 0x2, 0x3, 0x8
_BEST_FIRST = (_NAA, _EUI64, _NAME, _T10)


def designators(page: bytes) -> list[str]:
    """Return the names of the logical unit in a Device Identification page.

    Args:
        page: The page from its first byte; any bytes, cut pages are fine.

    Returns:
        Names in the kernel's notation, best first: `naa.HEX`, `eui.HEX`, the SCSI name
        string, `t10.TEXT`. Names of ports and targets are left out: they belong to a path.
    """
    if len(page) < 4 or page[1] != 0x83:
        return []
    end = min(len(page), 4 + (page[2] << 8 | page[3]))
    found: list[tuple[int, str]] = []
    offset = 4
    while offset + 4 <= end:
        length = page[offset + 3]
        value = page[offset + 4 : offset + 4 + length]
        kind = page[offset + 1] & 0x0F
        if offset + 4 + length > end:
            break  # what is cut could be mistaken for a shorter identifier
        association = page[offset + 1] >> 4 & 0x03
        if association == _LOGICAL_UNIT and kind in _BEST_FIRST and value.strip(b"\0 "):
            found.append((_BEST_FIRST.index(kind), _name(kind, value)))
        offset += 4 + length
    return [name for _, name in sorted(found, key=lambda entry: entry[0])]


def _name(kind: int, value: bytes) -> str:
    if kind == _NAA:
        return f"naa.{value.hex()}"
    if kind == _EUI64:
        return f"eui.{value.hex()}"
    text = value.rstrip(b"\0 ").decode("utf-8", "backslashreplace")
    return f"t10.{text}" if kind == _T10 else text
