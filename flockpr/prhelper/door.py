"""What the helper door decides by itself, and the answer to everything that can be read.

A request that was read is always answered. A closed connection reaches the guest as
ILLEGAL REQUEST, which cluster software takes for "no persistent reservations here", and it
costs every disk of that QEMU its connection.
"""

from __future__ import annotations

import logging
import time

from flockpr.logical_unit import Result
from flockpr.manager import PRManager
from flockpr.manager.base import BUSY, settle
from flockpr.prhelper.protocol import CLEANUP, Request
from flockpr.spc import sense as senses
from flockpr.spc.codes import InAction, Opcode, OutAction, Status
from flockpr.spc.transport_id import InitiatorPort

_log = logging.getLogger("flockpr.prhelper.door")

CAPABILITIES_LENGTH = 8


def decided_here(request: Request) -> Result | None:
    """Return the answer to a request that no manager gets to see, None for the others."""
    if request.opcode == CLEANUP:
        # A machine that has migrated away sends it from the source, when its port belongs to
        # the destination already: unregistering it here would take that one's registration.
        return Result(Status.GOOD)
    if request.descriptor_lost:
        return BUSY
    short = request.length < CAPABILITIES_LENGTH
    capabilities = (
        request.opcode == Opcode.PERSISTENT_RESERVE_IN
        and request.service_action == InAction.REPORT_CAPABILITIES
    )
    if capabilities and short:
        # QEMU 11 changes byte 2 of the payload, and aborts if there is a payload without it.
        return Result.check(senses.INVALID_FIELD_IN_CDB)
    return None


def answer(
    manager: PRManager,
    request: Request,
    descriptor: int,
    port: InitiatorPort,
    *,
    timeout: float,
) -> Result:
    """Answer a request, in bounded time and without an exception.

    Args:
        manager: Executes what is not decided here; acts for the connection's port.
        request: The request.
        descriptor: The descriptor that came with it; stays the caller's.
        port: The connection's initiator port, for the log.
        timeout: Seconds after which the manager is not waited for any longer.
    """
    started = time.monotonic()
    try:
        result = decided_here(request)
        if result is None:
            future = manager.execute(descriptor, request.cdb, request.data_out)
            result = settle(future, request.cdb, timeout)
    except Exception:  # noqa: BLE001, logged and answered
        result = unexpected(port)
    note(manager, request, port, result, started)
    return result


def unexpected(port: InitiatorPort) -> Result:
    """Log the exception that is being handled; the answer instead of one."""
    _log.exception("%s: unexpected error, answered as a hardware error", port)
    return Result.check(senses.INTERNAL_TARGET_FAILURE)


def noted(opcode: int) -> bool:
    """Whether anybody wants to know of a command with this operation code."""
    return _log.isEnabledFor(_level(opcode))


def note(
    manager: PRManager, request: Request, port: InitiatorPort, result: Result, started: float
) -> None:
    """Log a command and its answer.

    Args:
        manager: Who executed it.
        request: The command.
        port: Who sent it.
        result: The answer.
        started: When it began, by `time.monotonic`.
    """
    if noted(request.opcode):
        facts = {
            "lun": manager.where,
            "nexus": f"{port}/1",
            "status": describe_result(result),
            "seconds": round(time.monotonic() - started, 3),
        }
        _log.log(_level(request.opcode), "%s", describe_command(request), extra=facts)


def _level(opcode: int) -> int:
    return logging.INFO if opcode == Opcode.PERSISTENT_RESERVE_OUT else logging.DEBUG


def describe_command(request: Request) -> str:
    """Return a command for the log: `PR OUT REGISTER`, `PR IN 0x1f`."""
    actions: type[InAction | OutAction]
    match request.opcode:
        case Opcode.PERSISTENT_RESERVE_OUT:
            name, actions = "PR OUT", OutAction
        case Opcode.PERSISTENT_RESERVE_IN:
            name, actions = "PR IN", InAction
        case _:
            return "CLEANUP"
    try:
        return f"{name} {actions(request.service_action).name.replace('_', ' ')}"
    except ValueError:
        return f"{name} {request.service_action:#04x}"


def describe_result(result: Result) -> str:
    """Return a result for the log: `GOOD`, `CHECK CONDITION 05/24/00`."""
    status = result.status.name.replace("_", " ")
    if result.status == Status.CHECK_CONDITION:
        status += f" {senses.parse_sense(result.sense)}"
    return status
