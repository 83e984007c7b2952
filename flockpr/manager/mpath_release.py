"""RELEASE on all paths of a multipath map, by SG_IO.

Not by mpathpersist: after a RELEASE with another type than that of the reservation, which the
device refuses, version 0.9.4 was seen to say that it has succeeded; nothing was reserved then, its
own paths were registered, and the registrations of other hosts were gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from flockpr.logical_unit import Result
from flockpr.manager.device import number_text
from flockpr.spc import sense as senses
from flockpr.spc.codes import InAction, Opcode, Status
from flockpr.spc.sense import parse_sense

TRIES = 3
"""Of a command that meets unit attentions."""

_READ_RESERVATION = bytes(
    (Opcode.PERSISTENT_RESERVE_IN, InAction.READ_RESERVATION, 0, 0, 0, 0, 0, 0, 24, 0)
)
_LOST = frozenset((senses.NOT_READY, senses.ABORTED_COMMAND))
"""Sense keys of a path that is gone, as `sgio` makes them; RELEASE has no other use for them."""

Perform = Callable[[int, bytes, bytes], Result]
"""Sends a command to the device of a descriptor; see `PassingManager.perform`."""


def release(paths: list[str], cdb: bytes, data_out: bytes, perform: Perform) -> Result:
    """Send RELEASE by each path: the one that holds the reservation is not known.

    Args:
        paths: Device files of the paths.
        cdb: The command.
        data_out: Its parameter list, 24 bytes.
        perform: Sends it.

    Returns:
        GOOD if nothing of that key is reserved any more, or nothing was; else what a path said,
        or that the path which holds it is lost.
    """
    answers = {path: by_path(path, cdb, data_out, perform) for path in paths}
    good = [path for path, answer in answers.items() if _is_good(answer)]
    refused = [answer for answer in answers.values() if answer and not _is_good(answer)]
    if not good:
        return refused[0] if refused else Result.check(senses.COMMUNICATION_FAILURE)
    held = by_path(good[0], _READ_RESERVATION, b"", perform)
    if held is None or not _is_good(held):
        return Result.check(senses.OUTCOME_UNKNOWN)
    if len(held.data_in) < 24 or held.data_in[8:16] not in (data_out[:8], bytes(8)):
        return Result(Status.GOOD)
    if refused:
        return refused[0]
    # Of another host with the same key, if every path of this one was asked.
    return (
        Result.check(senses.COMMUNICATION_FAILURE)
        if None in answers.values()
        else Result(Status.GOOD)
    )


def _is_good(answer: Result | None) -> bool:
    return answer is not None and answer.status == Status.GOOD


def by_path(path: str, cdb: bytes, data_out: bytes, perform: Perform) -> Result | None:
    """What is answered by one path; None: it is lost.

    Args:
        path: Device file of the path.
        cdb: The command.
        data_out: Its parameter list.
        perform: Sends it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        for _ in range(TRIES):
            result = perform(descriptor, cdb, data_out)
            sense = parse_sense(result.sense) if result.status == Status.CHECK_CONDITION else None
            if sense is None or sense.key != senses.UNIT_ATTENTION:
                break
    finally:
        os.close(descriptor)
    return None if sense is not None and sense.key in _LOST else result


def paths_of(found: os.stat_result, *, sysfs: str = "/sys", devices: str = "/dev") -> list[str]:
    """Device files of the paths of a map.

    Args:
        found: What fstat says of a descriptor of the map.
        sysfs: Where sysfs is.
        devices: Where device files are.
    """
    number = number_text(found.st_rdev)
    try:
        names = sorted(os.listdir(f"{sysfs}/dev/block/{number}/slaves"))
    except OSError:
        return []
    return [f"{devices}/{name}" for name in names]
