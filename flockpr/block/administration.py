"""Commands about the disk itself: readiness, capacity, modes, power, removal, ports."""

from __future__ import annotations

from typing import Final

from flockpr.block import modes, senses
from flockpr.block.device import Answer, Device, Task
from flockpr.block.inquiry import PORT_GROUP
from flockpr.block.reply import GOOD, good
from flockpr.spc.sense import PARAMETER_LIST_LENGTH_ERROR, Sense, cdb_field
from flockpr.store.images import BLOCK

_LBPME_LBPRZ: Final = 0xC0


def unit_ready(_device: Device, _task: Task) -> Answer:
    """TEST UNIT READY; a medium that is not there was refused before."""
    return GOOD


def read_capacity_10(device: Device, task: Task) -> Answer:
    """READ CAPACITY(10) (SBC-3 5.15); beyond 32 bits READ CAPACITY(16) is to be asked."""
    if not task.cdb[8] & 1 and any(task.cdb[2:6]):
        return cdb_field(2)
    device.medium.look_now()
    last = min(device.medium.blocks - 1, 0xFFFF_FFFF)
    return good(last.to_bytes(4, "big") + BLOCK.to_bytes(4, "big"), 8)


def read_capacity_16(device: Device, task: Task) -> Answer:
    """READ CAPACITY(16) (SBC-3 5.16)."""
    device.medium.look_now()
    data = bytearray(32)
    data[0:8] = (device.medium.blocks - 1).to_bytes(8, "big")
    data[8:12] = BLOCK.to_bytes(4, "big")
    data[13] = device.face.physical_exponent
    data[14] = _LBPME_LBPRZ
    return good(bytes(data), int.from_bytes(task.cdb[10:14], "big"))


def mode_sense(device: Device, task: Task) -> Answer:
    """MODE SENSE(6), (10) (SPC-4 6.13, 6.14)."""
    cdb = task.cdb
    ten = cdb[0] == 0x5A
    pages = modes.sense_pages(device.modes, cdb[2] >> 6, cdb[2] & 0x3F, cdb[3])
    if isinstance(pages, Sense):
        return pages
    protected = device.protected() is not None
    data = modes.header(
        pages,
        device_specific=modes.DPOFUA | (modes.WRITE_PROTECT if protected else 0),
        blocks=None if cdb[1] & 0x08 else device.medium.blocks,
        block_size=BLOCK,
        ten=ten,
        long=ten and bool(cdb[1] & 0x10),
    )
    return good(data, int.from_bytes(cdb[7:9], "big") if ten else cdb[4])


def mode_select(device: Device, task: Task) -> Answer:
    """MODE SELECT(6), (10) (SPC-4 6.11, 6.12)."""
    cdb = task.cdb
    ten = cdb[0] == 0x55
    if cdb[1] & 1:
        return cdb_field(1, 0)  # SP: nothing is saved
    length = int.from_bytes(cdb[7:9], "big") if ten else cdb[4]
    data = bytes(task.data[:length])
    if len(data) < length:
        return PARAMETER_LIST_LENGTH_ERROR
    blocks = device.medium.blocks
    new = modes.select(device.modes, data, ten=ten, blocks=blocks, block_size=BLOCK)
    if isinstance(new, Sense):
        return new
    device.set_modes(new, task.nexus)
    return GOOD


def start_stop_unit(device: Device, task: Task) -> Answer:
    """START STOP UNIT (SBC-3 5.26): nothing turns, but a removable medium comes and goes."""
    cdb = task.cdb
    condition, flags = cdb[4] >> 4, cdb[4]
    if condition:
        return GOOD  # LOEJ and START mean nothing then; every power condition is the same
    start, eject, no_flush = flags & 1, flags & 2, flags & 4
    if eject and not device.removable:
        return cdb_field(4, 1)
    if not start and not no_flush and device.loaded:
        device.medium.sync()
        fault = device.unstable(task)
        if fault is not None:
            return fault
    if not eject:
        return GOOD
    return device.load(bool(start)) or GOOD


def prevent_allow(device: Device, task: Task) -> Answer:
    """PREVENT ALLOW MEDIUM REMOVAL (SPC-4 6.17); what cannot be removed is no error."""
    wanted = task.cdb[4] & 3
    if wanted > 1:
        return cdb_field(4, 1)
    device.prevent(task.nexus, bool(wanted))
    return GOOD


def read_defect_data_10(_device: Device, task: Task) -> Answer:
    """READ DEFECT DATA(10) (SBC-3 5.17): there are none in whatever list."""
    asked = task.cdb[2] & 0x1F
    return good(bytes((0, asked, 0, 0)), int.from_bytes(task.cdb[7:9], "big"))


def read_defect_data_12(_device: Device, task: Task) -> Answer:
    """READ DEFECT DATA(12) (SBC-3 5.18): there are none in whatever list."""
    asked = task.cdb[1] & 0x1F
    return good(bytes((0, asked)) + bytes(6), int.from_bytes(task.cdb[6:10], "big"))


def send_diagnostic(_device: Device, task: Task) -> Answer:
    """SEND DIAGNOSTIC: the default self-test passes; there are no others (SPC-4 6.42)."""
    if not task.cdb[1] & 4:
        return cdb_field(1, 2)
    return cdb_field(3) if any(task.cdb[3:5]) else GOOD


def report_target_port_groups(device: Device, task: Task) -> Answer:
    """REPORT TARGET PORT GROUPS (SPC-4 6.37): one group, active/optimized, of all ports."""
    form = task.cdb[1] >> 5
    if form > 1:
        return cdb_field(1, 7)
    ports = device.face.identity.target_ports
    group = bytes((0x00, 0x01)) + PORT_GROUP.to_bytes(2, "big") + bytes((0, 2, 0, len(ports)))
    group += b"".join(bytes(2) + port.to_bytes(2, "big") for port in ports)
    body = bytes((0x10, 0, 0, 0)) + group if form else group
    length = int.from_bytes(task.cdb[6:10], "big")
    return good(len(body).to_bytes(4, "big") + body, length)


def report_supported_task_management(_device: Device, task: Task) -> Answer:
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.36).

    ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, and the target's resets.
    """
    data = bytes((0xDA, 0, 0, 0))
    if task.cdb[2] & 0x80:
        data = bytes((0xDA, 0, 0, 12)) + bytes(12)
    return good(data, int.from_bytes(task.cdb[6:10], "big"))


def no_medium(device: Device) -> Sense | None:
    """Refuse what needs a medium when it has been ejected."""
    return None if device.loaded else senses.NO_MEDIUM
