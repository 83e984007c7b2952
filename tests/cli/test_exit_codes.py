"""Exit codes and error reports: a promise to scripts."""

from __future__ import annotations

import inspect

import pytest

from flockpr import errors
from flockpr.cli.exit_codes import ExitCode, code_of, remedy_of, text_of
from tests.support.docs import read, rows, section

STORE_ERRORS = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, errors.StoreError)
]


def test_exit_codes_are_pinned() -> None:
    """Scripts test for these numbers: they keep their meaning and are only added to."""
    assert {code.name: int(code) for code in ExitCode} == {
        "GOOD": 0,
        "FAILED": 1,
        "USAGE": 2,
        "RESERVATION_CONFLICT": 10,
        "BUSY": 11,
        "STATE_UNREADABLE": 12,
        "NO_SUCH_LUN": 13,
        "OUTCOME_UNKNOWN": 14,
        "INTERRUPTED": 130,
    }


def test_exit_codes_page_has_every_code_in_the_same_words() -> None:
    """docs/cli.md and `flockpr --help` cannot disagree."""
    documented = dict(rows(section(read("docs/cli.md"), "## Exit codes")))

    assert documented == {str(int(code)): code.meaning for code in ExitCode}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), ExitCode.USAGE),
        (errors.UnknownManager("x"), ExitCode.FAILED),
        (errors.ProtocolViolation("x"), ExitCode.FAILED),
        (errors.StoreError("x"), ExitCode.FAILED),
        (errors.StoreUnavailable("x"), ExitCode.FAILED),
        (errors.LunExists("x"), ExitCode.FAILED),
        (errors.PassedThrough("x"), ExitCode.FAILED),
        (errors.Emulated("x"), ExitCode.FAILED),
        (errors.LunNotFound("x"), ExitCode.NO_SUCH_LUN),
        (errors.StateUnreadable("x"), ExitCode.STATE_UNREADABLE),
        (errors.NewerFormat("x"), ExitCode.STATE_UNREADABLE),
        (errors.StateLost("x"), ExitCode.STATE_UNREADABLE),
        (errors.Busy("x"), ExitCode.BUSY),
        (errors.OutcomeUnknown("x"), ExitCode.OUTCOME_UNKNOWN),
        (OSError(5, "Input/output error"), ExitCode.FAILED),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_code_of_error_is_its_own(error: BaseException, code: ExitCode) -> None:
    """Each kind of error ends with the code that the table gives it."""
    assert code_of(error) is code


@pytest.mark.parametrize("kind", [kind for kind in STORE_ERRORS if kind is not errors.StoreError])
def test_remedy_of_store_error_without_its_own_is_not_empty(kind: type[errors.StoreError]) -> None:
    """An operator at night is told what to do about whatever the store raises."""
    assert remedy_of(kind("x", "/path"))


def test_remedy_of_store_error_own_remedy_wins() -> None:
    """Where it was raised more was known."""
    assert remedy_of(errors.Busy("x", "/path", "wait a minute")) == "wait a minute"


def test_text_of_store_error_says_where_and_leaves_the_remedy_out() -> None:
    """The remedy has a line of its own."""
    assert text_of(errors.Busy("is busy", "/r/disk", "wait")) == "/r/disk: is busy"
    assert text_of(errors.Busy("is busy")) == "is busy"


def test_text_of_os_error_names_the_file() -> None:
    """Not the number of the error alone."""
    assert text_of(PermissionError(13, "Permission denied", "/r")) == "/r: Permission denied"
