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

OUT_ACTIONS = {action.value: action.name.replace("_", " ") for action in OutAction}


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
        _log.exception("%s: unexpected error, answered as a hardware error", port)
        result = Result.check(senses.INTERNAL_TARGET_FAILURE)
    elapsed = time.monotonic() - started
    if request.opcode == Opcode.PERSISTENT_RESERVE_OUT:
        _log.info("%s", describe(request, result, manager.where, port, elapsed))
    else:
        _log.debug("%s", describe(request, result, manager.where, port, elapsed))
    return result


def describe(
    request: Request, result: Result, where: str, port: InitiatorPort, elapsed: float
) -> str:
    """Return the line that the log has about a command."""
    action: str = f"{request.service_action:#04x}"
    if request.opcode == Opcode.PERSISTENT_RESERVE_OUT:
        command = "PR OUT"
        action = OUT_ACTIONS.get(request.service_action, action)
    else:
        command = "PR IN" if request.opcode == Opcode.PERSISTENT_RESERVE_IN else "CLEANUP"
    status = result.status.name.replace("_", " ")
    if result.status == Status.CHECK_CONDITION:
        status += f" {senses.parse_sense(result.sense)}"
    return f"{command} {action} lun={where} nexus={port}/1 status={status} in {elapsed:.3f} s"
