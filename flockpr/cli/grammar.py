"""The command line as data: what completion scripts, man pages and the reference are made from.

All of it is read from the parser that also checks the command line and prints `--help`, so that
none of them can name an option that is not there, or miss one that is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import attrs


@attrs.frozen
class Option:
    """An option of a verb.

    Attributes:
        flags: Its names, such as ``-o`` and ``--output``.
        value: What its value is called; empty for an option that takes none.
        choices: The values that there are; empty when there is no list.
        help: What it does.
        repeatable: It may be given several times.
    """

    flags: tuple[str, ...]
    value: str
    choices: tuple[str, ...]
    help: str
    repeatable: bool


@attrs.frozen
class Operand:
    """A word that is no option.

    Attributes:
        name: What it is called.
        choices: The words that there are; empty when there is no list.
        help: What it means; empty where the name says it all.
        required: Without it the command line is wrong.
        repeatable: It may be given several times.
    """

    name: str
    choices: tuple[str, ...]
    help: str
    required: bool
    repeatable: bool


@attrs.frozen
class Command:
    """A verb, an action of a verb, or the program itself.

    Attributes:
        path: The words that lead to it, beginning with the program's name.
        summary: A line on it.
        description: Sentences on it; empty where the line says it all.
        epilog: What its help ends with.
        options: Its options, in the order of its help.
        operands: Its operands, in the order in which they are given.
        commands: What is below it; it has no operands then.
    """

    path: tuple[str, ...]
    summary: str
    description: str
    epilog: str
    options: tuple[Option, ...]
    operands: tuple[Operand, ...]
    commands: tuple[Command, ...]

    @property
    def name(self) -> str:
        """The words that lead to it, as they are typed."""
        return " ".join(self.path)

    def walk(self) -> Iterator[Command]:
        """The command itself and all that are below it."""
        yield self
        for command in self.commands:
            yield from command.walk()


def describe(parser: argparse.ArgumentParser, summary: str = "") -> Command:
    """What a parser accepts.

    Args:
        parser: The parser of a program or of a verb.
        summary: The line on it that its parent has.
    """
    options: list[Option] = []
    operands: list[Operand] = []
    commands: list[Command] = []
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            commands += _below(action)
        elif action.option_strings:
            options.append(_option(parser, action))
        else:
            operands.append(_operand(action))
    return Command(
        path=tuple(parser.prog.split()),
        summary=summary or parser.description or "",
        description=parser.description or "",
        epilog=parser.epilog or "",
        options=tuple(options),
        operands=tuple(operands),
        commands=tuple(commands),
    )


def _below(action: argparse._SubParsersAction[argparse.ArgumentParser]) -> list[Command]:
    lines = {one.dest: one.help or "" for one in action._choices_actions}  # noqa: SLF001
    return [describe(parser, lines.get(name, "")) for name, parser in action.choices.items()]


def _choices(action: argparse.Action) -> tuple[str, ...]:
    return tuple(str(choice) for choice in action.choices or ())


def _name(action: argparse.Action, otherwise: str) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    return "{" + ",".join(_choices(action)) + "}" if action.choices else otherwise


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> Option:
    takes = action.nargs != 0
    return Option(
        flags=tuple(action.option_strings),
        value=_name(action, action.dest.upper()) if takes else "",
        choices=_choices(action),
        help=_help(parser, action),
        repeatable=isinstance(action, argparse._AppendAction),  # noqa: SLF001
    )


def _operand(action: argparse.Action) -> Operand:
    return Operand(
        name=_name(action, action.dest.upper()),
        choices=_choices(action),
        help=action.help or "",
        required=action.nargs not in ("?", "*"),
        repeatable=action.nargs in ("*", "+"),
    )


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """The text as `--help` shows it, with its %-references filled in."""
    formatter = argparse.HelpFormatter(parser.prog)
    return formatter._expand_help(action) if action.help else ""  # noqa: SLF001
