"""Every exception that flockpr raises on purpose.

A refusal of a SCSI command is never an exception, it is a reply. What is raised here
means misuse, configuration, input/output, or state that must not be guessed at::

    FlockprError
    ├── ConfigError              a configuration file, an option or a name is wrong
    │   └── Unproven             nothing can be promised on that file system
    ├── UnknownManager           no PRManager has that id or kind
    ├── ProtocolViolation        a helper client broke the stream; close the connection
    └── StoreError               the lock directory; carries the path and a remedy
        ├── LunNotFound          no such logical unit in this root
        ├── PassedThrough        marked as a disk that keeps its reservations itself
        ├── Emulated             a device that is a logical unit, or may be, was to be passed on to
        ├── LunExists            the name is taken
        ├── StateUnreadable      unreadable, foreign, truncated, newer: fail closed
        │   └── NewerFormat      written by a newer flockpr
        ├── StateLost            the head went backwards, or another incarnation
        ├── StoreUnavailable     input/output failed; may go by itself (ENOSPC, EIO, ESTALE ...)
        │   └── HostFenced       this host was declared fenced, and must not serve until a reboot
        ├── Busy                 nothing was done; try again
        │   └── ServedElsewhere  another host's target serves it, and one of the two must be alone
        └── OutcomeUnknown       a commit was issued and its outcome is not known yet
"""

from __future__ import annotations


class FlockprError(Exception):
    """Base of all."""


class ConfigError(FlockprError):
    """A configuration file, an option or a name is wrong.

    Args:
        what: What is wrong and, for a name, what would be right.
        remedy: What a person can do about it, where that says more.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.remedy = remedy


class Unproven(ConfigError):
    """Nothing can be promised on that file system, and nobody allowed to serve all the same."""


class UnknownManager(FlockprError):
    """No PRManager has that id or kind."""


class ProtocolViolation(FlockprError):
    """A helper client broke the stream: only closing the connection is left."""


class StoreError(FlockprError):
    """Something about a lock directory; says where and what to do.

    Args:
        what: What is wrong, one clause.
        path: The file or directory concerned.
        remedy: What a person can do about it.
    """

    def __init__(self, what: str, path: str = "", remedy: str = "") -> None:
        super().__init__(what, path, remedy)
        self.what = what
        self.path = path
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.path}: {self.what}" if self.path else self.what
        return f"{text} ({self.remedy})" if self.remedy else text


class LunNotFound(StoreError):
    """No such logical unit in this root."""


class PassedThrough(StoreError):
    """Marked as a disk that keeps its reservations itself: nothing of it is emulated."""


class Emulated(StoreError):
    """A device is a logical unit, or may be one, so commands are not passed on to it."""


class LunExists(StoreError):
    """The name is taken."""


class StateUnreadable(StoreError):
    """State that cannot be read as ours: fail closed, overwrite nothing."""


class NewerFormat(StateUnreadable):
    """Written by a newer flockpr than this one."""


class StateLost(StoreError):
    """The head went backwards, or the logical unit is another one than it was."""


class StoreUnavailable(StoreError):
    """Input or output failed in a way that may pass (ENOSPC, EIO, ESTALE, EMFILE ...).

    Attributes:
        errno: Of the system call that failed, if one did.
        for_a_person: It does not pass by waiting, whatever `errno` says.
    """

    errno: int | None = None
    for_a_person: bool = False


class HostFenced(StoreUnavailable):
    """An operator declared this host fenced, and others go on without it."""

    for_a_person = True


class Busy(StoreError):
    """Nothing was done; the same command may be sent again."""


class ServedElsewhere(Busy):
    """Another host's target serves the LUN, and what it is on allows one host only."""


class OutcomeUnknown(StoreError):
    """A commit was issued; whether it took effect is not known yet."""
