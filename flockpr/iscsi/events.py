"""What a connection tells the door. `command.Command` is an event as well."""

from __future__ import annotations

import attrs

from flockpr.iscsi.command import Command
from flockpr.iscsi.keys import Parameters


@attrs.frozen(kw_only=True)
class Identification:
    """Who logs in to what.

    Attributes:
        initiator_name: iSCSI name of the initiator, in lower case.
        initiator_alias: What it calls itself, possibly empty.
        target_name: iSCSI name of the target, in lower case; empty in a discovery session.
        discovery: It is a discovery session.
        isid: Initiator session identifier, 48 bits.
        tsih: Target session identifying handle; 0 asks for a new session.
        cid: Connection identifier, 16 bits.
    """

    initiator_name: str
    initiator_alias: str = ""
    target_name: str = ""
    discovery: bool = False
    isid: int = 0
    tsih: int = 0
    cid: int = 0


@attrs.frozen
class LoginStarted:
    """Somebody wants to log in: to be answered with `admit` or `refuse`."""

    identification: Identification

    @property
    def initiator_name(self) -> str:
        """Its iSCSI name."""
        return self.identification.initiator_name

    @property
    def target_name(self) -> str:
        """Where it wants to go, empty in a discovery session."""
        return self.identification.target_name

    @property
    def discovery(self) -> bool:
        """It is a discovery session."""
        return self.identification.discovery


@attrs.frozen
class SessionRequested:
    """Authenticated and agreed: to be answered with `establish` or `refuse`.

    Attributes:
        identification: Who.
        parameters: What was agreed on.
        user: CHAP name that was proven, empty without authentication.
    """

    identification: Identification
    parameters: Parameters
    user: str = ""


@attrs.frozen
class Established:
    """The full feature phase has begun."""


@attrs.frozen
class DataComplete:
    """All Data-Out of a command is there: it can be executed."""

    command: Command


@attrs.frozen
class DataRefused:
    """The Data-Out of a command was wrong. It has been answered; its buffer is free."""

    command: Command


@attrs.frozen
class Released:
    """Nothing will be received into the buffer of this command any more."""

    command: Command


@attrs.frozen
class TaskManagement:
    """A task management request, in its turn (RFC 7143 11.5).

    Attributes:
        function: One that is known: `pdu.TaskFunction`.
        lun: Logical unit number, -1 when the field addresses none of ours.
        lun_field: The 8 bytes of the LUN field.
        itt: Tag of the request.
        referenced_itt: For ABORT TASK, the tag of the task.
        referenced: That task, if it is here and not answered.
        unreceived: The task never came, and its place in the order of commands was given
            up: the answer is "function complete" (11.6.1, note 1).
        immediate: Delivered out of order.
        cmd_sn: Its CmdSN.
    """

    function: int
    lun: int
    lun_field: int
    itt: int
    referenced_itt: int
    referenced: Command | None = None
    unreceived: bool = False
    immediate: bool = True
    cmd_sn: int = 0


@attrs.frozen
class LogoutRequested:
    """The initiator leaves (11.14): to be answered with `logout_response`."""

    reason: int
    cid: int
    itt: int


@attrs.frozen
class TargetsRequested:
    """SendTargets (Appendix C): to be answered with `send_targets`.

    Attributes:
        which: One target, or None for all that the initiator may see.
        itt: Tag of the text request.
        others: Answers to other keys of the same text.
    """

    which: str | None
    itt: int
    others: tuple[tuple[str, str], ...] = ()


@attrs.frozen
class Violation:
    """The peer cannot be followed or must not be: the connection is closing."""

    reason: str


Event = (
    LoginStarted
    | SessionRequested
    | Established
    | Command
    | DataComplete
    | DataRefused
    | Released
    | TaskManagement
    | LogoutRequested
    | TargetsRequested
    | Violation
)
