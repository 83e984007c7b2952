"""Man pages: synopsis and options from the parser, the rest from docs/cli.md.

There is a page for each verb and each action, and one for each of the other programs, which is
the text of its `--help`.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import re
import textwrap
import time
from collections.abc import Iterator

from flockpr._version import __version__
from flockpr.cli import build_parser
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.grammar import Command, Operand, Option, describe
from release import roff

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECTION = 8
PROGRAMS = {
    "flockpr-pr-helper": ("flockpr.daemon.pr_helper", "take the place of qemu-pr-helper"),
    "flockpr-sg-persist": ("flockpr.tools.sg_persist_options", "sg_persist for a logical unit"),
    "flockpr-sg-turs": ("flockpr.tools.sg_turs", "sg_turs for a logical unit"),
    "flockpr-mpathpersist": ("flockpr.tools.mpathpersist", "mpathpersist for a logical unit"),
    "flockpr-fence-scsi": ("flockpr.tools.fence_scsi", "the agent fence_scsi on logical units"),
}
"""The other programs: the module that has the text of `--help`, and a line on each."""

_WIDTH = 78


def write(directory: pathlib.Path) -> list[pathlib.Path]:
    """Write all pages.

    Args:
        directory: Where to; made if it is missing.

    Returns:
        The files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in pages().items():
        file = directory / f"{name}.{SECTION}"
        file.write_text(text, encoding="utf-8")
        written.append(file)
    return written


def pages() -> dict[str, str]:
    """Name of a page, such as ``flockpr-lun-create``, to its text."""
    program = describe(build_parser())
    found = {_title(command): _page(command, program) for command in program.walk()}
    for name, (module, line) in PROGRAMS.items():
        found[name] = _program_page(name, module, line)
    return found


def _title(command: Command) -> str:
    return "-".join(command.path)


def _head(title: str, line: str) -> list[str]:
    return [
        '.\\" Made by `python -m release man` from the command line and docs/cli.md.',
        f'.TH {title.upper()} {SECTION} {_date()} "flockpr {__version__}" "flockpr"',
        ".SH NAME",
        f"{title} \\- {roff.escape(line.rstrip('.'))}",
    ]


def _date() -> str:
    """Today, or the day that a build which can be repeated is told."""
    told = os.environ.get("SOURCE_DATE_EPOCH")
    now = time.gmtime(int(told)) if told else time.gmtime()
    return time.strftime("%Y-%m-%d", now)


def _page(command: Command, program: Command) -> str:
    lines = _head(_title(command), command.summary)
    lines += [".SH SYNOPSIS", *_synopsis(command)]
    lines += [".SH DESCRIPTION", *_description(command)]
    if command.commands:
        lines += [".SH COMMANDS", *_commands(command)]
    if command.operands:
        lines += [".SH ARGUMENTS", *(line for word in command.operands for line in _operand(word))]
    lines += [".SH OPTIONS", *(line for option in command.options for line in _option(option))]
    if not command.commands:
        lines += [".SH EXIT STATUS", *_exit_codes()]
    examples = list(_examples(command))
    if examples:
        lines += [".SH EXAMPLES", *roff.literal(examples)]
    lines += [".SH SEE ALSO", _see_also(command, program)]
    return "\n".join(lines) + "\n"


def _synopsis(command: Command) -> Iterator[str]:
    yield ".nh"
    yield ".HP"
    yield roff.bold(command.name)
    for option in command.options:
        if option.flags[0] != "-h":
            yield f"[{_flag_and_value(option, option.flags[-1])}]" + "..." * option.repeatable
    if command.commands:
        yield f"{roff.italic('VERB' if len(command.path) == 1 else 'ACTION')} ..."
    for word in command.operands:
        name = roff.italic(word.name) + "..." * word.repeatable
        yield name if word.required else f"[{name}]"
    yield ".hy"


def _flag_and_value(option: Option, flag: str) -> str:
    value = f" {roff.italic(option.value)}" if option.value else ""
    return roff.bold(flag) + value


def _option(option: Option) -> list[str]:
    names = ", ".join(roff.bold(flag) for flag in option.flags)
    value = f" {roff.italic(option.value)}" if option.value else ""
    return [".TP", names + value, roff.inline(option.help) or "\\&"]


def _operand(word: Operand) -> list[str]:
    text = word.help or _names_of_operands()[word.name]
    return [".TP", roff.italic(word.name), roff.inline(text)]


def _names_of_operands() -> dict[str, str]:
    """What an operand is whose name says it all to who reads `--help`."""
    return {
        "LUN": "name of the logical unit",
        "NAME": "name of the logical unit",
        "NEW": "name of the new logical unit",
    }


def _description(command: Command) -> list[str]:
    lines = []
    if command.description:
        lines += [".PP", *map(roff.inline, textwrap.wrap(command.description, _WIDTH))]
    lines += roff.convert(_prose(command))
    if not lines:
        lines = [roff.inline(command.summary[:1].upper() + command.summary[1:] + ".")]
    return lines[1:] if lines[:1] == [".PP"] else lines  # the heading begins a paragraph itself


def _prose(command: Command) -> str:
    """The section of docs/cli.md; of the whole program, what it says of the root."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    verb = " ".join(command.path[1:])
    heading = re.escape(f"### {verb}" if verb else "## The root")
    found = re.search(rf"^{heading}\n(.*?)(?=^#{{2,3}} )", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def _commands(command: Command) -> Iterator[str]:
    for one in command.commands:
        yield from (".TP", f"{roff.bold(one.path[-1])}", roff.inline(one.summary))


def _exit_codes() -> Iterator[str]:
    for code in ExitCode:
        yield from (".TP", roff.bold(str(int(code))), roff.inline(code.meaning))


def _examples(command: Command) -> Iterator[str]:
    """The lines of docs/cli.md that run this very command."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for block in re.findall(r"<!-- command: \w+ -->\n```sh\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if line.startswith(f"{command.name} ") or line == command.name:
                yield line


def _see_also(command: Command, program: Command) -> str:
    names = [_title(one) for one in program.walk() if one.path != command.path]
    near = [name for name in names if name.count("-") == 0 or _related(name, command)]
    if command.path == program.path:
        near = [*names, *PROGRAMS]
    return ",\n".join(f"{roff.bold(name)}({SECTION})" for name in near)


def _related(name: str, command: Command) -> bool:
    """The page above and those below, and of an action its neighbours."""
    own = _title(command)
    above = "-".join(command.path[:-1])
    return name.startswith(f"{own}-") or (len(command.path) > 2 and name.startswith(above))


def _program_page(name: str, module: str, line: str) -> str:
    loaded = importlib.import_module(module)
    text: str = getattr(loaded, "HELP", "") or loaded._HELP  # noqa: SLF001 - the text of --help
    usage, _, rest = text.partition("\n")
    lines = [
        *_head(name, line),
        ".SH SYNOPSIS",
        f"{roff.bold(name)} {roff.escape(usage.removeprefix(f'Usage: {name}').strip())}",
        ".SH DESCRIPTION",
        ".EX",
        *(roff.escape(one) for one in rest.rstrip().split("\n")),
        ".EE",
        ".SH SEE ALSO",
        f"{roff.bold('flockpr')}({SECTION})",
    ]
    return "\n".join(lines) + "\n"
