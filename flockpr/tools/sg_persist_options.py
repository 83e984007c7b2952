"""The command line of sg_persist, checked as sg_persist checks it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import attrs

from flockpr.tools import sg_text
from flockpr.tools.getopt_long import parse
from flockpr.tools.numbers import parse_count, scan_hex
from flockpr.tools.transport_ids import build

PROGRAM = "flockpr-sg-persist"
MOST = 8192
"""Bytes that PERSISTENT RESERVE IN may return."""

_SHORT = "AcCd:GHhiIjkK:l:Lm:MnoPQ:rRsS:T:UvVX:yYzZ"
_LONG = {
    "alloc-length": "l",
    "alloc_length": "l",
    "clear": "C",
    "device": "d",
    "help": "h",
    "hex": "H",
    "in": "i",
    "json": "j",
    "maxlen": "m",
    "no-inquiry": "n",
    "no_inquiry": "n",
    "out": "o",
    "param-alltgpt": "Y",
    "param_alltgpt": "Y",
    "param-aptpl": "Z",
    "param_aptpl": "Z",
    "param-rk": "K",
    "param_rk": "K",
    "param-sark": "S",
    "param_sark": "S",
    "param-unreg": "U",
    "param_unreg": "U",
    "preempt": "P",
    "preempt-abort": "A",
    "preempt_abort": "A",
    "prout-type": "T",
    "prout_type": "T",
    "read-full-status": "s",
    "read_full_status": "s",
    "read-keys": "k",
    "read_keys": "k",
    "readonly": "y",
    "read-reservation": "r",
    "read_reservation": "r",
    "read-status": "s",
    "read_status": "s",
    "register": "G",
    "register-ignore": "I",
    "register_ignore": "I",
    "register-move": "M",
    "register_move": "M",
    "release": "L",
    "relative-target-port": "Q",
    "relative_target_port": "Q",
    "replace-lost": "z",
    "replace_lost": "z",
    "report-capabilities": "c",
    "report_capabilities": "c",
    "reserve": "R",
    "transport-id": "X",
    "transport_id": "X",
    "unreg": "U",
    "verbose": "v",
    "version": "V",
}

IN_NAMES = ("Read keys", "Read reservation", "Report capabilities", "Read full status")
OUT_NAMES = (
    *("Register", "Reserve", "Release", "Clear", "Preempt", "Preempt and abort"),
    *("Register and ignore existing key", "Register and move", "Replace lost reservation"),
)
_IN = {"k": 0, "r": 1, "c": 2, "s": 3}
_OUT = {"G": 0, "R": 1, "L": 2, "C": 3, "P": 4, "A": 5, "I": 6, "M": 7, "z": 8}
_MOVE = 7
_WITH_TYPE = frozenset((1, 2, 4, 5))

HELP = """\
Usage: flockpr-sg-persist [OPTIONS] [LUN]
PERSISTENT RESERVE IN or OUT on a flockpr logical unit, with sg_persist's options and output.
LUN is its name, or the path of its lock directory, of its image, or of a device that is it.

  -i --in            PERSISTENT RESERVE IN (default)
  -k --read-keys     (default)        -r --read-reservation
  -s --read-status, --read-full-status
  -c --report-capabilities

  -o --out           PERSISTENT RESERVE OUT, with one of
  -G --register      -I --register-ignore      -M --register-move     -R --reserve
  -L --release       -P --preempt              -A --preempt-abort     -C --clear
  -z --replace-lost

  -K --param-rk=RK      reservation key, hex       -S --param-sark=SARK  of the service action
  -T --prout-type=TYPE  1 write exclusive, 3 exclusive access; 5 and 6 the same for registrants
                        only, 7 and 8 for all registrants
  -Y --param-alltgpt    ALL_TG_PT                  -Z --param-aptpl      APTPL
  -U --unreg            with --register-move       -Q --relative-target-port=RTPI  with it
  -X --transport-id=T   iqn.NAME, hex bytes, file=NAME, or - for standard input

  -d --device=LUN       instead of the argument    -n --no-inquiry       no INQUIRY first
  -H --hex              response in hex            -y --readonly         without effect here
  -l --alloc-length=N   in hex                     -m --maxlen=N         in decimal
  -v --verbose          more, with sense data      -V --version          -h --help
  -j --json             one JSON document on standard output instead of text

Environment: FLOCKPR_INITIATOR  the iSCSI name of this node (or `initiator` in [serve])
             FLOCKPR_ROOT       the root; FLOCKPR_CONFIG, the configuration file
             FLOCKPR_TARGET_PORT  the target port; else 2 for a LUN with an image, 1 without
Example:     FLOCKPR_INITIATOR=iqn.2026-01.org.example:node1 \\
             flockpr-sg-persist --out --register --param-sark=a1 disk1"""


class UsageError(Exception):
    """Nothing was sent, and the tool ends.

    Attributes:
        code: The exit code.
        lines: For standard error.
    """

    def __init__(self, code: int, *lines: str) -> None:
        super().__init__(lines[0] if lines else "")
        self.code = code
        self.lines = lines


def _syntax(*lines: str) -> UsageError:
    return UsageError(sg_text.SYNTAX_ERROR, *lines)


@attrs.define
class Options:
    """What the command line asks for."""

    device: str = ""
    reads: bool = True
    action: int = 0
    inquiry: bool = True
    json: bool = False
    version: bool = False
    readonly: bool = False
    readwrite: bool = False
    hex: int = 0
    verbose: int = 0
    allocation_length: int = MOST
    key: int = 0
    service_action_key: int = 0
    type: int = 0
    port: int = 0
    all_target_ports: bool = False
    aptpl: bool = False
    unregister: bool = False
    transport_ids: list[bytes] = attrs.field(factory=list)

    @property
    def action_name(self) -> str:
        """The service action in sg_persist's words."""
        return (IN_NAMES if self.reads else OUT_NAMES)[self.action]

    def parameter_list(self) -> bytes:
        """That of PERSISTENT RESERVE OUT (SPC-4 6.16.3, 6.16.4)."""
        data = bytearray(24)
        data[0:8] = self.key.to_bytes(8, "big")
        data[8:16] = self.service_action_key.to_bytes(8, "big")
        ids = b"".join(self.transport_ids)
        if self.action == _MOVE:
            data[17] = 2 * self.unregister | self.aptpl
            data[18:20] = self.port.to_bytes(2, "big")
            data[20:24] = len(ids).to_bytes(4, "big")
            return bytes(data) + ids
        data[20] = 4 * self.all_target_ports | self.aptpl
        if not ids:
            return bytes(data)
        data[20] |= 8  # SPEC_I_PT
        return bytes(data) + len(ids).to_bytes(4, "big") + ids


class _Taken:
    """Options as they are met, before they are checked against each other."""

    def __init__(self) -> None:
        self.options = Options()
        self.wants_in = self.wants_out = False
        self.in_actions: list[int] = []
        self.out_actions: list[int] = []
        self.help = 0

    def take(self, letter: str, argument: str) -> None:
        if letter in _IN:
            self.in_actions.append(_IN[letter])
        elif letter in _OUT:
            self.out_actions.append(_OUT[letter])
        elif letter in _FLAGS:
            setattr(self.options, _FLAGS[letter], letter != "n")
        elif letter in _COUNTS:
            name = _COUNTS[letter]
            setattr(self.options, name, getattr(self.options, name) + 1)
        else:
            _TAKERS[letter](self, argument)

    def take_in(self, _: str) -> None:
        self.wants_in = True

    def take_out(self, _: str) -> None:
        self.wants_out = True

    def take_help(self, _: str) -> None:
        self.help += 1

    def take_readonly(self, _: str) -> None:
        if not self.options.readwrite:  # twice means: for writing, whatever the environment says
            self.options.readwrite = self.options.readonly
            self.options.readonly = not self.options.readonly

    def take_device(self, argument: str) -> None:
        self.options.device = argument

    def take_key(self, argument: str) -> None:
        self.options.key = _hex(argument, 64, "--param-rk")

    def take_service_action_key(self, argument: str) -> None:
        self.options.service_action_key = _hex(argument, 64, "--param-sark")

    def take_type(self, argument: str) -> None:
        self.options.type = _hex(argument, 32, "--prout-type")

    def take_port(self, argument: str) -> None:
        self.options.port = _hex(argument, 32, "--relative-target-port")
        if self.options.port > 0xFFFF:
            raise _syntax("argument to '--relative-target-port' 0 to ffff inclusive")

    def take_allocation_length(self, argument: str) -> None:
        self._set_length(_hex(argument, 32, "--alloc-length"), "alloc-length")

    def take_most(self, argument: str) -> None:
        number = parse_count(argument)
        if number is None:
            raise _syntax("bad argument to '--maxlen'")
        self._set_length(number, "maxlen")

    def _set_length(self, number: int, name: str) -> None:
        if number > MOST:
            raise _syntax(f"'--{name}' argument exceeds maximum value ({MOST})")
        self.options.allocation_length = number

    def take_transport_ids(self, argument: str) -> None:
        complaints: list[str] = []
        found = build(argument, complaints.append)
        if found is None or len(found) > 32:
            raise _syntax(*complaints, "bad argument to '--transport-id'")
        sys.stderr.write("".join(f"{line}\n" for line in complaints))
        self.options.transport_ids = found

    def take_mistake(self, _: str) -> None:
        raise UsageError(0, HELP)  # 0 it is: sg_persist ends so


_FLAGS = {
    "n": "inquiry",
    "j": "json",
    "V": "version",
    "U": "unregister",
    "Y": "all_target_ports",
    "Z": "aptpl",
}
_COUNTS = {"H": "hex", "v": "verbose"}
_TAKERS: dict[str, Callable[[_Taken, str], None]] = {
    "i": _Taken.take_in,
    "o": _Taken.take_out,
    "h": _Taken.take_help,
    "y": _Taken.take_readonly,
    "d": _Taken.take_device,
    "K": _Taken.take_key,
    "S": _Taken.take_service_action_key,
    "T": _Taken.take_type,
    "Q": _Taken.take_port,
    "l": _Taken.take_allocation_length,
    "m": _Taken.take_most,
    "X": _Taken.take_transport_ids,
    "?": _Taken.take_mistake,
}


def _hex(argument: str, bits: int, name: str) -> int:
    number = scan_hex(argument, bits)
    if number is None:
        raise _syntax(f"bad argument to '{name}'")
    return number


def read(words: Sequence[str]) -> Options:
    """Read and check a command line; warnings go to standard error.

    Args:
        words: The command line without the program's name.

    Raises:
        UsageError: It asks for nothing that can be sent.
    """
    parsed = parse(PROGRAM, words, _SHORT, _LONG)
    taken = _Taken()
    complaints = iter(parsed.complaints)
    for letter, argument in parsed.options:
        if letter == "?":
            raise UsageError(0, next(complaints), HELP)
        taken.take(letter, argument)
    arguments = list(parsed.arguments)
    if arguments and not taken.options.device:
        taken.options.device = arguments.pop(0)
    if arguments:
        extra = [f"Unexpected extra argument: {argument}" for argument in arguments]
        raise _syntax(*extra, HELP)
    if taken.help:
        raise UsageError(0, HELP)
    if taken.options.version:
        return taken.options
    if not taken.options.device:
        raise _syntax("No device name given", HELP)
    return _check(taken)


def _check(taken: _Taken) -> Options:
    options = taken.options
    if taken.wants_in and taken.wants_out:
        raise UsageError(sg_text.CONTRADICT, "choose '--in' _or_ '--out' (not both)", HELP)
    options.reads = not taken.wants_out
    if options.reads:
        options.action = _in_action(taken)
    elif len(taken.out_actions) != 1 or taken.in_actions:
        raise UsageError(
            sg_text.CONTRADICT,
            ">> For Persistent Reserve Out one and only one appropriate",
            ">> service action must be chosen (e.g. '--register')",
        )
    else:
        options.action = taken.out_actions[0]
    moves = not options.reads and options.action == _MOVE
    if (options.unregister or options.port) and not moves:
        text = "--unreg or --relative-target-port only useful with --register-move"
        raise UsageError(sg_text.CONTRADICT, text, HELP)
    if moves and len(options.transport_ids) != 1:
        text = "with --register-move one (and only one) --transport-id should be given"
        raise UsageError(sg_text.CONTRADICT, text, HELP)
    if not options.reads and options.action in _WITH_TYPE and options.type == 0:
        sys.stderr.write("warning>>> --prout-type probably needs to be given\n")
    return options


def _in_action(taken: _Taken) -> int:
    if taken.out_actions:
        raise UsageError(
            sg_text.CONTRADICT,
            ">> When a service action for Persistent Reserve Out is chosen the",
            ">> '--out' option must be given (as a safeguard)",
        )
    if not taken.in_actions:
        sys.stderr.write(
            ">> No service action given; assume Persistent Reserve In command\n"
            ">> with Read Keys service action\n"
        )
        return 0
    if len(taken.in_actions) > 1:
        text = "Too many service actions given; choose one only"
        raise UsageError(sg_text.CONTRADICT, text, HELP)
    return taken.in_actions[0]
