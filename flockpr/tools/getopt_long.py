"""Options as the C library's getopt_long reads them; scripts rely on all of its liberties.

Options and arguments may be mixed, one-letter options bundled, long names cut short as long as
only one option is meant, and arguments stand in the same word or in the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs


@attrs.frozen
class Parsed:
    """A command line that was read.

    Attributes:
        options: Letter and argument ("" without one) in the order given; "?" for a mistake.
        arguments: What is no option.
        complaints: What getopt_long says of each "?", with the program's name in front.
    """

    options: tuple[tuple[str, str], ...]
    arguments: tuple[str, ...]
    complaints: tuple[str, ...]


class _Reader:
    """Reads one command line."""

    def __init__(self, program: str, short: str, long: Mapping[str, str]) -> None:
        self._program = program
        self._letters = {
            letter: short[n + 1 : n + 2] == ":" for n, letter in enumerate(short) if letter != ":"
        }
        self._long = long
        self.options: list[tuple[str, str]] = []
        self.arguments: list[str] = []
        self.complaints: list[str] = []

    def read(self, words: Sequence[str]) -> None:
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                self.arguments += rest
                return
            if word.startswith("--"):
                self._take_long(word[2:], rest)
            elif word.startswith("-") and word != "-":
                self._take_letters(word[1:], rest)
            else:
                self.arguments.append(word)

    def _mistake(self, text: str) -> None:
        self.options.append(("?", ""))
        self.complaints.append(f"{self._program}: {text}")

    def _take_letters(self, letters: str, rest: list[str]) -> None:
        while letters:
            letter, letters = letters[0], letters[1:]
            takes = self._letters.get(letter)
            if takes is None:
                self._mistake(f"invalid option -- '{letter}'")
            elif not takes:
                self.options.append((letter, ""))
            elif letters or rest:
                self.options.append((letter, letters or rest.pop(0)))
                return
            else:
                self._mistake(f"option requires an argument -- '{letter}'")

    def _take_long(self, text: str, rest: list[str]) -> None:
        given, equals, argument = text.partition("=")
        name = self._complete(given)
        if name is None:
            return
        letter = self._long[name]
        if not self._letters.get(letter, False):
            if equals:
                self._mistake(f"option '--{name}' doesn't allow an argument")
            else:
                self.options.append((letter, ""))
        elif equals or rest:
            self.options.append((letter, argument if equals else rest.pop(0)))
        else:
            self._mistake(f"option '--{name}' requires an argument")

    def _complete(self, given: str) -> str | None:
        """The long name that is meant; two names of one option are no ambiguity."""
        if given in self._long:
            return given
        names = [name for name in self._long if name.startswith(given)]
        if not names:
            self._mistake(f"unrecognized option '--{given}'")
            return None
        if len({self._long[name] for name in names}) > 1:
            # The C library leaves out further names of the first option.
            first = self._long[names[0]]
            told = [names[0], *(name for name in names if self._long[name] != first)]
            listed = "".join(f" '--{name}'" for name in told)
            self._mistake(f"option '--{given}' is ambiguous; possibilities:{listed}")
            return None
        return names[0]


def parse(program: str, words: Sequence[str], short: str, long: Mapping[str, str]) -> Parsed:
    """Read a command line.

    Args:
        program: What complaints begin with.
        words: The command line without the program's name.
        short: The letters; a colon behind one that takes an argument.
        long: Long name to its letter, in the order in which possibilities are listed. Only
            its letter says whether it takes an argument.
    """
    reader = _Reader(program, short, long)
    reader.read(words)
    return Parsed(tuple(reader.options), tuple(reader.arguments), tuple(reader.complaints))
