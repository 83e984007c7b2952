"""`flockpr-sg-persist`: sg_persist (sg3_utils 1.46) for a logical unit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flockpr._version import __version__
from flockpr.tools import sg_text
from flockpr.tools.sg_persist_options import OUT_NAMES, Options, UsageError, read
from flockpr.tools.streams import say, tell

if TYPE_CHECKING:
    from flockpr.tools.device import Answer, Device

ME = "sg_persist"
IN_NAME, OUT_NAME = "Persistent reservation in", "Persistent reservation out"
_REGISTER_AND_MOVE = 7


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool.

    Args:
        argv: Arguments without the program's name; those of the process when None.

    Returns:
        The exit code, as sg_persist has it.
    """
    try:
        options = read(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        say(*error.lines)
        return error.code
    if options.version:
        say(f"version: flockpr {__version__}")
        return 0
    return _Run(options).run()


class _Run:
    """One command."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._document: dict[str, Any] = {}

    def run(self) -> int:
        from flockpr.tools import sg_persist_output as output
        from flockpr.tools.device import CannotOpenError, Device

        try:
            with Device(self._options.device, self._options.verbose) as device:
                code = self._with(device)
        except CannotOpenError as error:
            mode = "ro" if self._options.inquiry else f"r{'o' if self._options.readonly else 'w'}"
            where = f" (ro): {self._options.device}"
            if not self._options.inquiry:
                where = f" {self._options.device} ({mode})"
            say(f"{ME}: error opening file{where}: {error.text}", *error.details)
            self._document = {"error": {"what": str(error), "exit_code": error.code}}
            code = error.code
        if self._options.json:
            output.emit_json(self._options, self._document, code)
        return code

    def _with(self, device: Device) -> int:
        from flockpr.tools import sg_persist_output as output

        options = self._options
        if options.inquiry:
            if options.verbose > 1:
                say(f"open {options.device} with flags=0x800")
            if options.verbose:
                say("    inquiry cdb: [12 00 00 00 24 00]")
            if not options.json:
                tell(output.inquiry_lines())
        if options.verbose > 1:
            flags = 0x800 if options.readonly else 0x802
            say(f"open {options.device} with flags=0x{flags:x}")
        answer = self._in(device) if options.reads else self._out(device)
        self._document = output.document(device.place, options, answer)
        code = answer.code
        if code == 0 and options.reads:
            code, lines, complaints = output.response(options, answer.data)
            say(*complaints)
            if not options.json:
                tell(lines)
        if code and options.verbose == 0:
            say(f"sg_persist failed: {sg_text.meaning(code)}")
        return code

    def _in(self, device: Device) -> Answer:
        options = self._options
        length = options.allocation_length
        cdb = bytes((0x5E, options.action, 0, 0, 0, 0, 0)) + length.to_bytes(2, "big") + b"\0"
        answer = device.send(IN_NAME, cdb)
        if answer.code:
            self._failed("PR in", options.action_name, answer.code)
        elif options.verbose > 1 and len(answer.data) != length:
            say(
                f"    {IN_NAME}: pass-through requested {length} bytes (data-in), "
                f"got  got {len(answer.data)} bytes"
            )
        return answer

    def _out(self, device: Device) -> Answer:
        options = self._options
        data = options.parameter_list()
        cdb = bytes((0x5F, options.action, options.type & 0x0F, 0, 0, 0, 0))
        cdb += len(data).to_bytes(2, "big") + b"\0"
        answer = device.send(OUT_NAME, cdb, data)
        name = OUT_NAMES[options.action]
        if options.action == _REGISTER_AND_MOVE:
            name = "register and move"
        if answer.code:
            self._failed("PR out", name, answer.code)
        elif options.verbose and options.action == _REGISTER_AND_MOVE:
            say(f"PR out: '{name}' command successful")
        elif options.verbose:
            say(f"PR out: command ({name}) successful")
        return answer

    def _failed(self, what: str, name: str, code: int) -> None:
        if code == sg_text.INVALID_OPCODE:
            text = "command not supported"
        elif code == sg_text.ILLEGAL:
            text = "bad field in cdb or parameter list (perhaps unsupported service action)"
        else:
            text = sg_text.meaning(code, longer=self._options.verbose > 0)
        say(f"{what} ({name}): {text}")


if __name__ == "__main__":
    sys.exit(main())
