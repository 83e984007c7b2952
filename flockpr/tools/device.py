"""A logical unit as a tool sees a SCSI device: opened, sent commands, errors in its words."""

from __future__ import annotations

import errno
import os
from typing import Self

import attrs

from flockpr.cli.promise_view import declare_configured
from flockpr.errors import ConfigError, FlockprError, LunNotFound, StoreUnavailable
from flockpr.logical_unit import LogicalUnit
from flockpr.spc.codes import Status
from flockpr.tools import sg_text
from flockpr.tools.place import Place, find
from flockpr.tools.streams import say


class CannotOpenError(Exception):
    """The device is not there or cannot be used.

    Attributes:
        code: The exit code.
        text: What the operating system would have said.
        details: What is the matter, and what to do: lines for standard error.
    """

    def __init__(self, error: FlockprError) -> None:
        super().__init__(str(error))
        number = _errno_of(error)
        self.code = sg_text.exit_code_of_errno(number)
        self.text = os.strerror(number)
        what = str(getattr(error, "what", "") or error)
        path = getattr(error, "path", "")
        self.details = [f"  flockpr: {path}: {what}" if path else f"  flockpr: {what}"]
        if remedy := getattr(error, "remedy", ""):
            self.details.append(f"  remedy: {remedy}")


def _errno_of(error: FlockprError) -> int:
    match error:
        case LunNotFound():
            return errno.ENOENT
        case ConfigError():
            return errno.EINVAL
        case StoreUnavailable(errno=number) if number is not None:
            return number
    return errno.EIO


@attrs.frozen
class Answer:
    """What came back for a command.

    Attributes:
        cdb: The command.
        data_out: Its parameter list.
        status: SCSI status.
        sense: Sense data, fixed format; empty but with CHECK CONDITION.
        data: What was read.
    """

    cdb: bytes
    data_out: bytes
    status: int
    sense: bytes
    data: bytes

    @property
    def code(self) -> int:
        """What sg3_utils makes of it; 0 when it succeeded."""
        code = sg_text.category(self.status, self.sense)
        return 0 if code in (sg_text.RECOVERED, sg_text.NO_SENSE) else code


class Device:
    """An open device; a context manager.

    Args:
        name: As given by the user, see `flockpr.tools.place.find`.
        verbose: How often ``-v`` was given.

    Raises:
        CannotOpenError: It cannot be used.
    """

    def __init__(self, name: str, verbose: int = 0) -> None:
        self._verbose = verbose
        try:
            self.place: Place = find(name)
            declare_configured("sg_persist", None)  # what [target] and [serve] say of the mount
            self._unit = LogicalUnit.open(self.place.directory, door="cli")
        except FlockprError as error:
            raise CannotOpenError(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._unit.close()

    def send(self, name: str, cdb: bytes, data_out: bytes = b"", *, noisy: bool = True) -> Answer:
        """Send a command, and say on standard error what sg3_utils says of it.

        Args:
            name: Name of the command as sg3_utils has it.
            cdb: The command.
            data_out: Its parameter list.
            noisy: Whether a unit attention is told without ``-v``.
        """
        if self._verbose:
            say(f"    {name} cdb: [{cdb.hex(' ')}]")
            if self._verbose > 1 and data_out:
                say(f"    {name} parameters:", *sg_text.hex_lines(data_out, 0))
        result = self._unit.execute(self.place.nexus, cdb, data_out)
        answer = Answer(cdb, data_out, int(result.status), result.sense, result.data_in)
        self._tell(name, answer, noisy)
        return answer

    def _tell(self, name: str, answer: Answer, noisy: bool) -> None:
        if answer.status == Status.CHECK_CONDITION:
            told = answer.code not in _QUIET and noisy
            if self._verbose or told:
                say(f"{name}:", *sg_text.sense_lines(answer.sense, raw=self._verbose > 1))


_QUIET = frozenset(
    (sg_text.NOT_READY, sg_text.INVALID_OPCODE, sg_text.ILLEGAL, sg_text.OUT_OF_RANGE)
) | frozenset((sg_text.ABORTED, sg_text.PROTECT, sg_text.PROTECTION, sg_text.MISCOMPARE))
"""What is explained with -v only."""
