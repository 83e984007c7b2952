"""libiscsi's conformance suite, ``iscsi-test-cu``: run by name, its report taken apart.

The tool counts a test that it skipped as one that passed, and says so only in the text that the
test printed. Here the two are apart, so that a command which quietly lost its support is seen.
"""

from __future__ import annotations

import enum
import functools
import re
import subprocess
from collections.abc import Sequence

from attrs import frozen

from tests.support.peers import require

TOOL = "iscsi-test-cu"
RUN_SECONDS = 300
_EVERYTHING = "ALL"  # the tool's name for all its families at once

_SUITE = re.compile(r"^Suite: (\S+)$", re.MULTILINE)
_TEST = re.compile(r"^  Test: (\S+) \.\.\.", re.MULTILINE)
_TOTALS = re.compile(r"^ +tests +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$", re.MULTILINE)
_VERDICT = re.compile(r"(passed|FAILED)(?![\w\]])")
_SKIPPED = re.compile(r"\[SKIPPED\] *([^\n]*)")


class Outcome(enum.Enum):
    """How a test of the tool ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@frozen
class CaseResult:
    """One test of the tool.

    Args:
        name: ``Suite.Test``.
        outcome: How it ended.
        text: What it printed.
    """

    name: str
    outcome: Outcome
    text: str

    @property
    def reason(self) -> str:
        """The tool's first remark about what it skipped; empty when there is none."""
        found = _SKIPPED.search(self.text)
        return found[1].strip() if found else ""


@frozen
class Report:
    """What one run of the tool gave.

    Args:
        cases: Its tests, in the order in which they ran.
        output: All that it printed.
    """

    cases: tuple[CaseResult, ...]
    output: str

    def names(self, outcome: Outcome) -> set[str]:
        """Tests that ended like this."""
        return {case.name for case in self.cases if case.outcome is outcome}

    def explain(self, names: set[str]) -> str:
        """The text of these tests, for the message of a failing assertion."""
        return "\n".join(f"{case.name}: {case.text[-4000:]}" for case in self.cases_of(names))

    def cases_of(self, names: set[str]) -> list[CaseResult]:
        """These tests."""
        return [case for case in self.cases if case.name in names]


class ReportError(AssertionError):
    """The tool gave no report: it crashed, or could not log in."""


def _parts(pattern: re.Pattern[str], text: str) -> list[tuple[str, str]]:
    """The texts that follow each match, with what the match names."""
    found = list(pattern.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [(match[1], text[match.end() : end]) for match, end in zip(found, ends, strict=True)]


def _case(name: str, text: str) -> CaseResult:
    verdict = _VERDICT.search(text)
    if verdict is None:
        raise ReportError(f"{name} did not end:\n{text[-4000:]}")
    # What comes after the verdict is the tidying up after the test, and the assertions.
    own = text[: verdict.start()]
    if verdict[1] == "FAILED":
        return CaseResult(name, Outcome.FAILED, text)
    skipped = "[SKIPPED]" in own
    return CaseResult(name, Outcome.SKIPPED if skipped else Outcome.PASSED, text)


def parse_report(output: str) -> Report:
    """Take a report of CUnit's "normal" or "verbose" mode apart.

    Raises:
        ReportError: It is no report, or its sums are not those of its tests.
    """
    body, _, summary = output.partition("\nRun Summary:")
    totals = _TOTALS.search(summary)
    if totals is None:
        raise ReportError(f"no report:\n{output[-4000:]}")
    cases = tuple(
        _case(f"{suite}.{test}", text)
        for suite, tests in _parts(_SUITE, body)
        for test, text in _parts(_TEST, tests)
    )
    failed = sum(case.outcome is Outcome.FAILED for case in cases)
    if (len(cases), failed) != (int(totals[2]), int(totals[4])):
        raise ReportError(f"read {len(cases)} tests, {failed} failed, but:\n{summary}")
    return Report(cases, output)


def run(
    tests: Sequence[str], urls: Sequence[str], *, verbose: bool = False, sanitize: bool = True
) -> Report:
    """Run tests of the tool against a logical unit, all data of which they may destroy.

    Args:
        tests: Names, each ``Suite`` or ``Suite.Test``, with the wildcards of the shell.
        urls: ``iscsi://`` URLs of the unit: one, or two paths to it.
        verbose: Have it print every command. Also what it skips only then.
        sanitize: Allow SANITIZE, which destroys all data at once.

    Raises:
        ReportError: No report came.
    """
    tool = require(TOOL)[TOOL]
    options = ["--dataloss", *(["-V"] if verbose else []), *(["-S"] if sanitize else [])]
    chosen = ",".join(f"{_EVERYTHING}.{test}" for test in tests)
    command = [tool, *options, "-t", chosen, *urls]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=RUN_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        output = (error.output or b"").decode("utf-8", "replace")
        raise ReportError(f"{tests}: not done in {RUN_SECONDS} s:\n{output[-4000:]}") from None
    output = done.stdout.decode("utf-8", "replace")
    if done.returncode < 0:
        raise ReportError(f"{tests}: signal {-done.returncode}:\n{output[-4000:]}")
    return parse_report(output)


@functools.cache
def catalogue() -> tuple[str, ...]:
    """Names of all tests of the tool, each ``Suite.Test``."""
    tool = require(TOOL)[TOOL]
    listed = subprocess.run([tool, "--list"], capture_output=True, text=True, timeout=60)
    names = (line.partition(".") for line in (listed.stdout + listed.stderr).split())
    return tuple(name for family, _, name in names if family == _EVERYTHING and "." in name)
