"""`flockpr-sg-turs`: sg_turs (sg3_utils 1.46) for a logical unit."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from flockpr._version import __version__
from flockpr.tools import sg_text
from flockpr.tools.getopt_long import parse
from flockpr.tools.numbers import parse_count
from flockpr.tools.streams import say, tell

if TYPE_CHECKING:
    from flockpr.tools.device import Device

PROGRAM = "flockpr-sg-turs"
NAME = "test unit ready"
_SHORT = "d:hjln:NOptvV"
_LONG = {
    "delay": "d",
    "help": "h",
    "json": "j",
    "low": "l",
    "new": "N",
    "number": "n",
    "num": "n",
    "old": "O",
    "progress": "p",
    "time": "t",
    "verbose": "v",
    "version": "V",
}
_TEST_UNIT_READY = bytes(6)

HELP = """\
Usage: flockpr-sg-turs [OPTIONS] LUN
TEST UNIT READY on a flockpr logical unit, with sg_turs's options and output. A unit attention
that waits for this initiator is told, and is then gone.
LUN is its name, or the path of its lock directory, of its image, or of a device that is it.

  -n --number=NUM, --num=NUM  how many (default 1)    -d --delay=MS  before each
  -t --time      tell duration and commands a second  -p --progress  of one that becomes ready
  -v --verbose   more, with sense data                -V --version   -h --help
  -j --json      one JSON document on standard output instead of text
  -l --low, -N --new, -O --old   accepted, without effect

Environment: FLOCKPR_INITIATOR, FLOCKPR_ROOT and the others of flockpr-sg-persist.
Example:     FLOCKPR_INITIATOR=iqn.2026-01.org.example:node1 flockpr-sg-turs disk1"""


@attrs.define
class _Options:
    device: str = ""
    number: int = 1
    delay: int = 0
    verbose: int = 0
    time: bool = False
    json: bool = False
    help: bool = False
    version: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool.

    Args:
        argv: Arguments without the program's name; those of the process when None.

    Returns:
        The exit code, as sg_turs has it.
    """
    options = _read(sys.argv[1:] if argv is None else argv)
    if options is None:
        return sg_text.SYNTAX_ERROR
    if options.help:
        tell([HELP])
        return 0
    if options.version:
        say(f"Version string: flockpr {__version__}")
        return 0
    if not options.device:
        say("No DEVICE argument given")
        tell([HELP])
        return sg_text.SYNTAX_ERROR
    from flockpr.tools.device import CannotOpenError, Device

    try:
        with Device(options.device, options.verbose) as device:
            return _loop(device, options)
    except CannotOpenError as error:
        say(f"main: error opening file: {options.device}: {error.text}", *error.details)
        if options.json:
            _emit_json(options, error.code, 0, 0, str(error))
        return error.code


def _read(words: Sequence[str]) -> _Options | None:
    parsed = parse(PROGRAM, words, _SHORT, _LONG)
    options = _Options()
    say(*parsed.complaints)
    for letter, argument in parsed.options:
        if letter in "dn":
            count = parse_count(argument)
            if count is None:
                say(f"bad argument to '--{'delay' if letter == 'd' else 'number'}='")
                tell([HELP])
                return None
            if letter == "d":
                options.delay = count
            else:
                options.number = count
        options.help |= letter in "h?"
        options.version |= letter == "V"
        options.time |= letter == "t"
        options.json |= letter == "j"
        options.verbose += letter == "v"
    arguments = list(parsed.arguments)
    if arguments:
        options.device = arguments.pop(0)
    if arguments:
        say(*(f"Unexpected extra argument: {argument}" for argument in arguments))
        tell([HELP])
        return None
    return options


def _loop(device: Device, options: _Options) -> int:
    begun = time.monotonic()
    code = errors = done = 0
    reported = False
    stops = options.number == 1 or options.delay > 0
    for number in range(options.number):
        time.sleep(options.delay / 1000)
        answer = device.send(NAME, _TEST_UNIT_READY, noisy=number == 0)
        if answer.code:
            errors += 1
            code = answer.code
            if stops and code != sg_text.NOT_READY:
                _tell(options, [sg_text.meaning(code, longer=options.verbose > 0)])
                reported = True
                break
            if stops:
                _tell(options, ["device not ready"])
        done += 1
    if options.time:
        _tell(options, _times(time.monotonic() - begun, done))
    if (options.number > 1 or errors) and not reported:
        what = f"Completed {options.number} Test Unit Ready commands with {errors} errors"
        _tell(options, [what])
    if options.number != 1:
        code = 0  # sg_turs leaves so
    if options.json:
        _emit_json(options, code, done, errors, "")
    return code


def _tell(options: _Options, lines: Sequence[str]) -> None:
    if not options.json:
        tell(lines)


def _times(seconds: float, done: int) -> list[str]:
    microseconds = max(1, int(seconds * 1e6))
    spent = f"{microseconds // 10**6}.{microseconds % 10**6:06}"
    return [
        f"time to perform commands was {spent} secs; {done * 10**6 // microseconds} operations/sec"
    ]


def _emit_json(options: _Options, code: int, done: int, errors: int, error: str) -> None:
    found = {
        "format": 1,
        "device": options.device,
        "done": done,
        "errors": errors,
        "error": error,
        "exit_code": code,
        "meaning": sg_text.meaning(code) if code else "",
    }
    json.dump(found, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    sys.exit(main())
