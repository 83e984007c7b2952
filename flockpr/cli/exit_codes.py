"""The exit codes of every verb: a promise to scripts (docs/cli.md), so only added to.

A code that a script does not know means failure. Codes below 10 say how the run went, those
from 10 on say what the logical unit or its store answered.
"""

from __future__ import annotations

import enum

from flockpr import errors


class ExitCode(enum.IntEnum):
    """What a verb leaves behind for the shell."""

    GOOD = 0
    FAILED = 1
    USAGE = 2
    RESERVATION_CONFLICT = 10
    BUSY = 11
    STATE_UNREADABLE = 12
    NO_SUCH_LUN = 13
    OUTCOME_UNKNOWN = 14
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """One clause for people; docs/cli.md prints the same."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.GOOD: "done, or answered",
    ExitCode.FAILED: "failed; also input or output that may work later",
    ExitCode.USAGE: "wrong option, name or configuration file",
    ExitCode.RESERVATION_CONFLICT: "the logical unit answered RESERVATION CONFLICT",
    ExitCode.BUSY: "nothing was done because others were faster; try again",
    ExitCode.STATE_UNREADABLE: "state that cannot be trusted: damaged, foreign, newer, gone back",
    ExitCode.NO_SUCH_LUN: "no logical unit of that name in the root",
    ExitCode.OUTCOME_UNKNOWN: "sent to the store, and whether it took effect is not known",
    ExitCode.INTERRUPTED: "interrupted from the keyboard",
}

_BY_ERROR: tuple[tuple[type[BaseException], ExitCode], ...] = (
    # The first match counts, so a subclass stands above its base.
    (errors.Unproven, ExitCode.FAILED),
    (errors.ConfigError, ExitCode.USAGE),
    (errors.LunNotFound, ExitCode.NO_SUCH_LUN),
    (errors.StateUnreadable, ExitCode.STATE_UNREADABLE),
    (errors.StateLost, ExitCode.STATE_UNREADABLE),
    (errors.Busy, ExitCode.BUSY),
    (errors.OutcomeUnknown, ExitCode.OUTCOME_UNKNOWN),
    (KeyboardInterrupt, ExitCode.INTERRUPTED),
)

_REMEDIES: tuple[tuple[type[BaseException], str], ...] = (
    # For errors that bring no remedy of their own. ConfigError has none here: a name that is
    # wrong and a configuration that is wrong have no remedy in common.
    (errors.LunNotFound, "`flockpr lun list` shows the names in this root"),
    (errors.PassedThrough, "its reservations are the device's; ask that (`sg_persist --in`)"),
    (errors.Emulated, "serve it with manager = auto or file-lock"),
    (errors.LunExists, "choose another name, or delete that logical unit first"),
    (errors.StateUnreadable, "nothing was changed; look at the file before anything else"),
    (errors.StateLost, "nothing was changed; find out who put older files in this directory"),
    (errors.Busy, "nothing was done; run it again"),
    (errors.OutcomeUnknown, "`flockpr log LUN` tells whether it was applied"),
    (errors.StoreUnavailable, "see that the share is mounted and has room, then run it again"),
    (FileNotFoundError, "see that the path is right and the share is mounted"),
    (PermissionError, "run it as the user or group that owns the root"),
)


def code_of(error: BaseException) -> ExitCode:
    """The exit code that an error ends with."""
    for kind, code in _BY_ERROR:
        if isinstance(error, kind):
            return code
    return ExitCode.FAILED


def remedy_of(error: BaseException) -> str:
    """What a person can do about an error; empty when there is nothing to say."""
    own = getattr(error, "remedy", "")
    if isinstance(own, str) and own:
        return own
    for kind, remedy in _REMEDIES:
        if isinstance(error, kind):
            return remedy
    return ""


def text_of(error: BaseException) -> str:
    """What is wrong and where, without the remedy."""
    if isinstance(error, errors.StoreError):
        return f"{error.path}: {error.what}" if error.path else error.what
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
