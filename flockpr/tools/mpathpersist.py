"""`flockpr-mpathpersist`: mpathpersist (multipath-tools 0.9.4) for a logical unit.

There is one path, and no multipathd that would remember keys. Otherwise: the same options, lines
and exit codes, a unit attention is passed over and the command sent again, and a batch file runs
command by command.
"""

from __future__ import annotations

import json
import shlex
import struct
import sys
from collections.abc import Sequence
from typing import Any

import attrs

from flockpr.spc.codes import Status
from flockpr.spc.sense import parse_sense
from flockpr.tools import sg_text
from flockpr.tools.device import Answer, CannotOpenError, Device
from flockpr.tools.getopt_long import parse
from flockpr.tools.numbers import scan_hex, scan_unsigned
from flockpr.tools.sg_persist_options import Options
from flockpr.tools.streams import say, tell
from flockpr.tools.transport_ids import build

PROGRAM = "flockpr-mpathpersist"
SYNTAX_ERROR, ILLEGAL, ATTENTION, NO_SENSE, CONFLICT, FILE_ERROR, OTHER = 1, 5, 6, 9, 11, 12, 15
RETRIES = 5
MOST = 8192
_BY_KEY = {0x0: NO_SENSE, 0x1: 0, 0x2: 2, 0x3: 3, 0x4: 4, 0x5: ILLEGAL, 0x6: ATTENTION, 0xB: 8}
_SHORT = "v:Cd:hHioYZK:S:PAT:skrGILcRX:l:f:j"
_LONG = {
    "verbose": "v",
    "clear": "C",
    "device": "d",
    "batch-file": "f",
    "help": "h",
    "hex": "H",
    "in": "i",
    "json": "j",
    "out": "o",
    "param-alltgpt": "Y",
    "param-aptpl": "Z",
    "param-rk": "K",
    "param-sark": "S",
    "preempt": "P",
    "preempt-abort": "A",
    "prout-type": "T",
    "read-full-status": "s",
    "read-keys": "k",
    "read-reservation": "r",
    "register": "G",
    "register-ignore": "I",
    "release": "L",
    "report-capabilities": "c",
    "reserve": "R",
    "transport-id": "X",
    "alloc-length": "l",
}
_IN = {"k": 0, "r": 1, "c": 2, "s": 3}
_OUT = {"G": 0, "R": 1, "L": 2, "C": 3, "P": 4, "A": 5, "I": 6}
_WITH_TYPE = frozenset((1, 2, 4, 5))
_LENGTHS = (MOST, 24, 8, MOST)
_READ_KEYS, _READ_RESERVATION, _CAPABILITIES, _FULL_STATUS = range(4)

HELP = """\
Usage: flockpr-mpathpersist [OPTIONS] [LUN]
PERSISTENT RESERVE IN or OUT on a flockpr logical unit, with mpathpersist's options and output.
LUN is its name, or the path of its lock directory, of its image, or of a device that is it.

  -i --in   with one of -k --read-keys, -r --read-reservation, -s --read-full-status,
            -c --report-capabilities
  -o --out  with one of -G --register, -I --register-ignore, -R --reserve, -L --release,
            -P --preempt, -A --preempt-abort, -C --clear

  -K --param-rk=RK      reservation key, hex       -S --param-sark=SARK  of the service action
  -T --prout-type=TYPE  1, 3, 5, 6, 7 or 8         -X --transport-id=T   iqn.NAME; repeatable
  -Y --param-alltgpt    ALL_TG_PT                  -Z --param-aptpl      APTPL
  -d --device=LUN       instead of the argument    -l --alloc-length=N   in decimal
  -f --batch-file=FILE  run commands from FILE     -H --hex              response in hex, too
  -v --verbose=LEVEL    accepted                   -h --help
  -j --json             one JSON document for each command on standard output instead of text

Environment: FLOCKPR_INITIATOR, FLOCKPR_ROOT and the others of flockpr-sg-persist.
Example:     FLOCKPR_INITIATOR=iqn.2026-01.org.example:node1 \\
             flockpr-mpathpersist --out --register --param-sark=a1 disk1"""


class _SyntaxMistake(Exception):
    """Nothing is sent; the message is for standard error."""


@attrs.define
class _Request:
    """One command line."""

    options: Options = attrs.field(factory=Options)
    reads: bool = False
    writes: bool = False
    in_actions: list[int] = attrs.field(factory=list)
    out_actions: list[int] = attrs.field(factory=list)
    length: int = 0
    batch: str = ""
    help: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool.

    Args:
        argv: Arguments without the program's name; those of the process when None.

    Returns:
        The exit code, as mpathpersist has it.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if not words:
        say("No parameter used", HELP)
        return SYNTAX_ERROR
    try:
        request = _read(words)
        if request.help:
            say(HELP)
            return 0
        code = 0
        if request.reads or request.writes or not request.batch:
            code = _one(request)
    except _SyntaxMistake as mistake:
        say(*filter(None, (str(mistake),)), HELP)
        return SYNTAX_ERROR
    return code or _batch(request.batch) if request.batch else code


def _batch(path: str) -> int:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError as error:
        say(f"unable to open {path}: {error.strerror}")
        return SYNTAX_ERROR
    worst = 0
    for number, line in enumerate(lines, start=1):
        words = line.split()
        for index, word in enumerate(words):
            if word.startswith("#"):
                words = words[:index]
                break
        words = words[1:] if words and words[0] == "mpathpersist" else words
        if not words:
            continue
        try:
            request = _read(words)
            if request.batch:
                raise _SyntaxMistake("ERROR: -f option not allowed in batch file")
            worst = _one(request) or worst
        except _SyntaxMistake as mistake:
            complaint = f"syntax error on line {number} in batch file"
            say(*filter(None, (str(mistake),)), complaint, f"  {shlex.join(words)}")
            worst = SYNTAX_ERROR
    return worst


# ------------------------------------------------------------------ the command line


def _read(words: Sequence[str]) -> _Request:
    parsed = parse(PROGRAM, words, _SHORT, _LONG)
    request = _Request()
    for letter, argument in parsed.options:
        if letter == "?":
            say(*parsed.complaints)
            raise _SyntaxMistake("unrecognised switch code 0x3f ??")
        _take(request, letter, argument)
    arguments = list(parsed.arguments)
    if arguments and not request.options.device:
        request.options.device = arguments.pop(0)
    if arguments:
        raise _SyntaxMistake("\n".join(f"Unexpected extra argument: {one}" for one in arguments))
    return request


def _take(request: _Request, letter: str, argument: str) -> None:
    options = request.options
    match letter:
        case "i":
            request.reads = True
        case "o":
            request.writes = True
        case "h":
            request.help = True
        case "H":
            options.hex = 1
        case "j":
            options.json = True
        case "Y":
            options.all_target_ports = True
        case "Z":
            options.aptpl = True
        case "d":
            options.device = argument
        case "K":
            options.key = _hex(argument, 64, "--param-rk")
        case "S":
            options.service_action_key = _hex(argument, 64, "--param-sark")
        case "T":
            options.type = _hex(argument, 32, "--prout-type")
        case "v":
            if scan_unsigned(argument) is None:
                raise _SyntaxMistake("bad argument to '--verbose'")
        case "l":
            request.length = _length(argument)
        case "X":
            complaints: list[str] = []
            found = build(argument, complaints.append)
            if found is None:
                raise _SyntaxMistake("\n".join([*complaints, "bad argument to '--transport-id'"]))
            options.transport_ids += found
        case "f":
            if request.batch:
                raise _SyntaxMistake("ERROR: -f option can be used at most once")
            request.batch = argument
        case _ if letter in _IN:
            request.in_actions.append(_IN[letter])
        case _:
            request.out_actions.append(_OUT[letter])


def _hex(argument: str, bits: int, name: str) -> int:
    number = scan_hex(argument, bits)
    if number is None:
        raise _SyntaxMistake(f"bad argument to '{name}'")
    return number


def _length(argument: str) -> int:
    number = scan_unsigned(argument)
    if number is None:
        raise _SyntaxMistake("bad argument to '--alloc-length'")
    if number > MOST:
        raise _SyntaxMistake(f"'--alloc-length' argument exceeds maximum limit({MOST})")
    return number


def _check(request: _Request) -> None:
    options = request.options
    if request.reads == request.writes:
        raise _SyntaxMistake("choose either '--in' or '--out' ")
    options.reads = request.reads
    if request.writes:
        if len(request.out_actions) != 1 or request.in_actions:
            raise _SyntaxMistake(
                " For Persistent Reserve Out only one appropriate\n service action must be chosen "
            )
        options.action = request.out_actions[0]
    elif request.out_actions:
        raise _SyntaxMistake(
            " When a service action for Persistent Reserve Out is chosen the\n"
            " '--out' option must be given "
        )
    elif not request.in_actions:
        raise _SyntaxMistake(" No service action given for Persistent Reserve IN")
    elif len(request.in_actions) > 1:
        raise _SyntaxMistake(" Too many service actions given; choose one only")
    else:
        options.action = request.in_actions[0]
    if request.writes and options.action in _WITH_TYPE and options.type == 0:
        say("Warning: --prout-type probably needs to be given")
    if not options.device:
        raise _SyntaxMistake("No device name given ")


# ------------------------------------------------------------------ the command


def _one(request: _Request) -> int:
    _check(request)
    options = request.options
    try:
        with Device(options.device) as device:
            answer = _send(device, request)
            code = _code(answer)
            if options.json:
                _emit_json(device, options, answer, code)
                return code
    except CannotOpenError as error:
        say(f"{options.device}: error opening file (rw) fd=-1", *error.details)
        if options.json:
            _emit_error(options, str(error))
        return FILE_ERROR
    if options.reads and code:
        say("Persistent Reserve IN command failed")
    if options.reads and not code:
        if options.hex:
            say(*(f"{'':8}{line}" for line in sg_text.hex_lines(answer.data, -1)))
        tell(_response(options.action, answer.data.ljust(MOST, b"\0")))
    elif code:
        tell(_failure(code))
    return code


def _send(device: Device, request: _Request) -> Answer:
    options = request.options
    if options.reads:
        length = request.length or _LENGTHS[options.action]
        cdb = bytes((0x5E, options.action, 0, 0, 0, 0, 0)) + length.to_bytes(2, "big") + b"\0"
        data = b""
    else:
        data = options.parameter_list()
        cdb = bytes((0x5F, options.action, options.type & 0x0F, 0, 0, 0, 0))
        cdb += len(data).to_bytes(2, "big") + b"\0"
    answer = device.send("", cdb, data, noisy=False)
    for _ in range(RETRIES):
        if _code(answer) != ATTENTION:
            break
        answer = device.send("", cdb, data, noisy=False)
    return answer


def _code(answer: Answer) -> int:
    if answer.status == Status.GOOD:
        return 0
    if answer.status == Status.RESERVATION_CONFLICT:
        return CONFLICT
    sense = parse_sense(answer.sense) if answer.status == Status.CHECK_CONDITION else None
    return OTHER if sense is None else _BY_KEY.get(sense.key, OTHER)


def _failure(code: int) -> list[str]:
    lines = []
    if code == ATTENTION:
        lines.append("persistent reserve out: scsi status: Unit Attention")
    if code == CONFLICT:
        lines.append("persistent reserve out: scsi status: Reservation Conflict")
    return [*lines, "PR out: command failed"]


# ------------------------------------------------------------------ responses


def _response(action: int, data: bytes) -> list[str]:
    generation, length = struct.unpack_from(">II", data)
    head = f"  PR generation=0x{generation:x}"
    if action == _READ_KEYS:
        return _keys(head, data[8 : 8 + length // 8 * 8])
    if action == _READ_RESERVATION:
        return _reservation(head, data, length)
    if action == _CAPABILITIES:
        return _capabilities(data)
    return _full_status(head, data[8 : 8 + length])


def _keys(head: str, data: bytes) -> list[str]:
    keys = struct.unpack(f">{len(data) // 8}Q", data)
    if not keys:
        return [f"{head}, \t0 registered reservation key."]
    many = "1 registered reservation key follows:"
    if len(keys) > 1:
        many = f"{len(keys)} registered reservation keys follow:"
    return [f"{head}, \t{many}", *(f"    0x{key:x}" for key in keys)]


def _reservation(head: str, data: bytes, length: int) -> list[str]:
    if length < 8:
        return [f"{head}, there is NO reservation held "]
    scope = "LU_SCOPE" if data[21] >> 4 == 0 else str(data[21] >> 4)
    return [
        f"{head}, Reservation follows:",
        f"   Key = 0x{int.from_bytes(data[8:16], 'big'):x}",
        f"  scope = {scope}, type = {sg_text.TYPES[data[21] & 0x0F]}",
    ]


def _capabilities(data: bytes) -> list[str]:
    if int.from_bytes(data[:2], "big") <= 2:
        say("Unexpected response for PRIN Report Capabilities")
        return []
    lines = [
        "Report capabilities response:",
        f"  Compatible Reservation Handling(CRH): {data[2] >> 4 & 1}",
        f"  Specify Initiator Ports Capable(SIP_C): {data[2] >> 3 & 1}",
        f"  All Target Ports Capable(ATP_C): {data[2] >> 2 & 1}",
        f"  Persist Through Power Loss Capable(PTPL_C): {int(data[2] != 0)}",
        f"  Type Mask Valid(TMV): {data[3] >> 7}",
        f"  Allow Commands: {int(data[3] >> 4 & 7 != 0)}",
        f"  Persist Through Power Loss Active(PTPL_A): {data[3] & 1}",
    ]
    if data[3] & 0x80:
        lines.append("    Support indicated in Type mask:")
        # mpathpersist reads the mask as one number, most significant byte first, and so looks
        # at other bits than it names. Its lines, its numbers.
        mask = int.from_bytes(data[4:6], "big")
        for type_, bit in ((7, 0x80), (6, 0x40), (5, 0x20), (3, 0x08), (1, 0x02), (8, 0x100)):
            lines.append(f"      {sg_text.TYPES[type_]}: {mask & bit}")
    return lines


def _full_status(head: str, data: bytes) -> list[str]:
    lines = [f"{head} "]
    while len(data) >= 24:
        end = 24 + int.from_bytes(data[20:24], "big")
        lines += _descriptor(data[:24], data[24:end])
        data = data[end:]
    return lines


def _descriptor(head: bytes, transport_id: bytes) -> list[str]:
    lines = [f"   Key = 0x{int.from_bytes(head[:8], 'big'):x}"]
    if head[12] & 2:
        lines.append("      All target ports bit set")
    else:
        port = int.from_bytes(head[18:20], "big")
        lines += ["      All target ports bit clear", f"      Relative port address: 0x{port:x}"]
    if head[12] & 1:
        scope = "LU_SCOPE, " if head[13] >> 4 == 0 else f"{head[13] >> 4} "
        lines.append("      << Reservation holder >>")
        lines.append(f"      scope: {scope} type: {sg_text.TYPES[head[13] & 0x0F]}")
    else:
        lines.append("      not reservation holder")
    if transport_id[:1] and transport_id[0] & 0x0F == 0x05:
        what = "world wide unique port id" if transport_id[0] >> 6 else "name"
        name = transport_id[4:].split(b"\0")[0].decode(errors="replace")
        lines.append(f"   iSCSI {what}: {name}")
    return lines


# ------------------------------------------------------------------ JSON


def _emit_json(device: Device, options: Options, answer: Answer, code: int) -> None:
    from flockpr.tools.sg_persist_output import document

    _print({**document(device.place, options, answer), "exit_code": code}, options)


def _emit_error(options: Options, what: str) -> None:
    _print({"error": {"what": what, "exit_code": FILE_ERROR}, "exit_code": FILE_ERROR}, options)


def _print(found: dict[str, Any], options: Options) -> None:
    json.dump({"format": 1, "device": options.device, **found}, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    sys.exit(main())
