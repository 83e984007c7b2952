"""What sg_persist prints of a response; and the same as JSON."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Sequence
from typing import Any

from flockpr.spc.codes import Status
from flockpr.spc.pr_in import (
    parse_capabilities,
    parse_full_status,
    parse_keys,
    parse_reservation,
)
from flockpr.spc.sense import parse_sense
from flockpr.spc.transport_id import InitiatorPort
from flockpr.tools import sg_text
from flockpr.tools.device import Answer
from flockpr.tools.place import Place
from flockpr.tools.sg_persist_options import MOST, Options

_KEYS, _RESERVATION, _CAPABILITIES, _FULL_STATUS = range(4)
_CAPABILITY_BITS = (
    ("Replace Lost Reservation Capable(RLR_C)", 2, 0x80),
    ("Compatible Reservation Handling(CRH)", 2, 0x10),
    ("Specify Initiator Ports Capable(SIP_C)", 2, 0x08),
    ("All Target Ports Capable(ATP_C)", 2, 0x04),
    ("Persist Through Power Loss Capable(PTPL_C)", 2, 0x01),
    ("Type Mask Valid(TMV)", 3, 0x80),
)
_MASK_BITS = ((7, 4, 0x80), (6, 4, 0x40), (5, 4, 0x20), (3, 4, 0x08), (1, 4, 0x02), (8, 5, 0x01))

Lines = list[str]


def inquiry_lines() -> Lines:
    """What comes first unless ``--no-inquiry`` was given."""
    from flockpr.block.inquiry import PRODUCT, REVISION, VENDOR  # agents ask without

    named = "  ".join(part.decode() for part in (VENDOR, PRODUCT, REVISION))
    return [f"  {named}", "  Peripheral device type: disk"]


def response(options: Options, data: bytes) -> tuple[int, Lines, Lines]:
    """What is printed of the data that PERSISTENT RESERVE IN returned.

    Returns:
        Exit code, lines for standard output, and lines for standard error.
    """
    whole = data.ljust(MOST, b"\0")  # sg_persist reads on in a buffer of zeros
    if options.action == _CAPABILITIES:
        return _capabilities(options, whole)
    generation, length = struct.unpack_from(">II", whole)
    if options.hex > 1:
        style = 1 if options.hex == 2 else -1
        return 0, sg_text.hex_lines(whole[: length + 8], style), []
    if options.hex:
        return 0, _hex(options, generation, length, whole), []
    head = f"  PR generation=0x{generation:x}"
    if options.action == _KEYS:
        return 0, _keys(head, whole[8 : 8 + length // 8 * 8]), []
    if options.action == _RESERVATION:
        return 0, _reservation(head, whole[8:], length), []
    return 0, _full_status(head, whole[8 : 8 + length], options.verbose), []


def full_status_lines(data: bytes) -> Lines:
    """What is printed of the data that READ FULL STATUS returned."""
    generation, length = struct.unpack_from(">II", data)
    return _full_status(f"  PR generation=0x{generation:x}", data[8 : 8 + length], 0)


def _capabilities(options: Options, data: bytes) -> tuple[int, Lines, Lines]:
    if data[1] != 8:
        lines = sg_text.hex_lines(data[: data[1]], 1) if options.hex else []
        complaint = "Unexpected response for PRIN Report Capabilities"
        return sg_text.MALFORMED, lines, [complaint]
    if options.hex:
        return 0, sg_text.hex_lines(data[:8], 1), []
    lines = ["Report capabilities response:"]
    lines += [f"  {text}: {int(bool(data[byte] & bit))}" for text, byte, bit in _CAPABILITY_BITS]
    lines.append(f"  Allow Commands: {data[3] >> 4 & 7}")
    lines.append(f"  Persist Through Power Loss Active(PTPL_A): {data[3] & 1}")
    if data[3] & 0x80:
        lines.append("    Support indicated in Type mask:")
        for type_, byte, bit in _MASK_BITS:
            lines.append(f"      {sg_text.TYPES[type_]}: {int(bool(data[byte] & bit))}")
    return 0, lines, []


def _hex(options: Options, generation: int, length: int, data: bytes) -> Lines:
    head = f"  PR generation=0x{generation:x}, "
    room = options.allocation_length - 8
    lines = []
    if length == 0:
        lines.append(f"{head}Additional length=0")
        head = ""
    if length > room >= 0:
        lines.append(f"{head}Additional length too large={length}, truncate")
        return lines + sg_text.hex_lines(data[8 : 8 + room], 1)
    lines.append(f"{head}Additional length={length}")
    return lines + sg_text.hex_lines(data[8 : 8 + length], 1)


def _keys(head: str, data: bytes) -> Lines:
    count = len(data) // 8
    if count == 0:
        return [f"{head}, there are NO registered reservation keys"]
    many = "1 registered reservation key follows:"
    if count > 1:
        many = f"{count} registered reservation keys follow:"
    keys = struct.unpack(f">{count}Q", data)
    return [f"{head}, {many}", *(f"    0x{key:x}" for key in keys)]


def _scope_and_type(indent: str, byte: int) -> str:
    scope = "LU_SCOPE, " if byte >> 4 == 0 else f"{byte >> 4} "
    return f"{indent}scope: {scope} type: {sg_text.TYPES[byte & 0x0F]}"


def _reservation(head: str, data: bytes, length: int) -> Lines:
    if length < 16:
        return [f"{head}, there is NO reservation held"]
    key = int.from_bytes(data[:8], "big")
    return [
        f"{head}, Reservation follows:",
        f"    Key=0x{key:x}",
        _scope_and_type("    ", data[13]),
    ]


def _full_status(head: str, data: bytes, verbose: int) -> Lines:
    lines = [head]
    if not data:
        lines.append("  No full status descriptors")
        if verbose:
            lines.append("  So there are no registered IT nexuses")
    while len(data) >= 24:
        length = int.from_bytes(data[20:24], "big")
        lines += _descriptor(data, data[24 : 24 + length])
        data = data[24 + length :]
    return lines


def _descriptor(head: bytes, transport_id: bytes) -> Lines:
    lines = [f"    Key=0x{int.from_bytes(head[:8], 'big'):x}"]
    if head[12] & 2:
        lines.append("      All target ports bit set")
    else:
        port = int.from_bytes(head[18:20], "big")
        lines.append("      All target ports bit clear")
        lines.append(f"      Relative port address: 0x{port:x}")
    if head[12] & 1:
        lines.append("      << Reservation holder >>")
        lines.append(_scope_and_type("      ", head[13]))
    else:
        lines.append("      not reservation holder")
    if transport_id:
        lines += sg_text.transport_id_lines(transport_id, "      ")
    return lines


# ------------------------------------------------------------------ JSON


def document(place: Place, options: Options, answer: Answer) -> dict[str, Any]:
    """The command and its answer, as `--json` shows them (docs/tools.md)."""
    sense = parse_sense(answer.sense) if answer.status == Status.CHECK_CONDITION else None
    response = None
    if options.reads and answer.code == 0:
        response = _READERS[options.action](answer.data)
    return {
        "root": place.root,
        "lun": place.identity.name,
        "initiator": place.nexus.initiator_port.text,
        "target_port": place.nexus.target_port,
        "command": "PERSISTENT RESERVE IN" if options.reads else "PERSISTENT RESERVE OUT",
        "service_action": options.action_name,
        "cdb": answer.cdb.hex(),
        "data_out": answer.data_out.hex(),
        "data_in": answer.data.hex(),
        "status": answer.status,
        "status_name": Status(answer.status).name.replace("_", " "),
        "sense": None if sense is None else _sense(answer.sense),
        "response": response,
        "error": None,
    }


def emit_json(options: Options, found: dict[str, Any], code: int) -> None:
    """Print the one document."""
    meaning = "" if code == 0 else sg_text.meaning(code)
    whole = {"format": 1, "device": options.device, **found}
    json.dump({**whole, "exit_code": code, "meaning": meaning}, sys.stdout, indent=2)
    sys.stdout.write("\n")


def _sense(data: bytes) -> dict[str, Any]:
    sense = parse_sense(data)
    assert sense is not None
    return {
        "key": sense.key,
        "asc": sense.asc,
        "ascq": sense.ascq,
        "text": sg_text.sense_lines(data)[1].removeprefix("Additional sense: "),
    }


def _key(key: int) -> str:
    return f"0x{key:016x}"


def _keys_document(data: bytes) -> dict[str, Any]:
    found = parse_keys(data)
    if found is None:
        return {}
    return {"generation": found.generation, "keys": [_key(key) for key in found.keys]}


def _reservation_document(data: bytes) -> dict[str, Any]:
    found = parse_reservation(data)
    if found is None:
        return {}
    held = found.held
    shown = None
    if held is not None:
        type_name = sg_text.TYPES[held.type]
        shown = {"key": _key(held.key), "type": held.type, "type_name": type_name}
    return {"generation": found.generation, "reservation": shown}


def _capabilities_document(data: bytes) -> dict[str, Any]:
    found = parse_capabilities(data)
    if found is None:
        return {}
    return {
        "replace_lost": found.replace_lost,
        "compatible_handling": found.compatible_handling,
        "specify_initiator_ports": found.specify_initiator_ports,
        "all_target_ports": found.all_target_ports,
        "persist_capable": found.persist_capable,
        "persist_active": found.persist_active,
        "allow_commands": found.allow_commands,
        "types": sorted(found.types or ()),
    }


def _full_status_document(data: bytes) -> dict[str, Any]:
    found = parse_full_status(data)
    if found is None:
        return {}
    return {
        "generation": found.generation,
        "registrations": [
            {
                "key": _key(one.key),
                "initiator": one.transport_id.text
                if isinstance(one.transport_id, InitiatorPort)
                else None,
                "target_port": one.relative_target_port,
                "all_target_ports": one.all_target_ports,
                "holder": one.holder,
                "type": one.type if one.holder else None,
            }
            for one in found.registrations
        ],
    }


_READERS = (_keys_document, _reservation_document, _capabilities_document, _full_status_document)

__all__: Sequence[str] = (
    "document",
    "emit_json",
    "full_status_lines",
    "inquiry_lines",
    "response",
)
