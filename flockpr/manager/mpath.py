"""The manager that passes commands on to all paths of a multipath map, by `mpathpersist`.

A command to the map itself would reach one path, and register that alone. multipath-tools knows
the others, and keeps the key for those that come back. Of its library and its program it is the
program that is run, once for each command: what hangs in there can be ended, and what crashes is
not the daemon. It tells the kind of an error and no sense data. RELEASE is not for it: see
`flockpr.manager.mpath_release`.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import subprocess
from typing import ClassVar

from flockpr.logical_unit import Result
from flockpr.manager.device import number_text
from flockpr.manager.mpath_release import paths_of, release
from flockpr.manager.passing import PassingManager, name_of
from flockpr.manager.plain_out import Change, change_of
from flockpr.manager.sgio import SgioManager
from flockpr.spc import sense as senses
from flockpr.spc.codes import InAction, Opcode, OutAction, Status
from flockpr.spc.sense import Sense

_log = logging.getLogger("flockpr.manager")

PROGRAM = "mpathpersist"
TIMEOUT = 60.0
"""Seconds that the program has; whoever waits for the command was answered before."""

_PLACES = "/usr/sbin:/sbin:/usr/bin:/bin"
_READS = {
    InAction.READ_KEYS: "--read-keys",
    InAction.READ_RESERVATION: "--read-reservation",
    InAction.REPORT_CAPABILITIES: "--report-capabilities",
}
_CHANGES = {
    OutAction.REGISTER: "--register",
    OutAction.RESERVE: "--reserve",
    OutAction.CLEAR: "--clear",
    OutAction.PREEMPT: "--preempt",
    OutAction.PREEMPT_AND_ABORT: "--preempt-abort",
    OutAction.REGISTER_AND_IGNORE_EXISTING_KEY: "--register-ignore",
}
_WITHOUT_OTHER = frozenset((OutAction.RESERVE, OutAction.CLEAR))
_HEX = re.compile(rb"^(?: *[0-9]+\.[0-9]+ \|)? *((?:[0-9a-f]{2} +)*[0-9a-f]{2}) *$", re.MULTILINE)
"""A line of the response, of up to 16 bytes, perhaps with the time before it."""

_SYNTAX, _CONFLICT = 1, 11
_BY_EXIT = {
    2: Sense(senses.NOT_READY, 0x04, 0x00),
    3: Sense(0x03, 0x11, 0x00),
    4: senses.INTERNAL_TARGET_FAILURE,
    5: senses.INVALID_FIELD_IN_CDB,
    6: Sense(senses.UNIT_ATTENTION, 0x29, 0x02),  # it is gone; this one makes a guest look anew
    7: senses.INVALID_OPCODE,
    8: senses.IO_PROCESS_TERMINATED,
}


class MpathManager(PassingManager):
    """Hands commands to the multipath map of the descriptor, on all its paths. Needs root with
    CAP_SYS_ADMIN and CAP_SYS_RAWIO, inherited by the programs that it starts, and multipathd.

    A device that is no such map is sent the command by SG_IO.
    """

    kind: ClassVar[str] = "mpath"

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self._single = SgioManager(f"{self.id} single")

    def perform(self, fd: int, cdb: bytes, data_out: bytes) -> Result:
        """See `PassingManager.perform`."""
        if not is_map(os.fstat(fd)):
            return self._single.perform(fd, cdb, data_out)
        if cdb[0] == Opcode.PERSISTENT_RESERVE_IN:
            return _read(fd, cdb)
        change = change_of(cdb, data_out, all_target_ports=True)
        if isinstance(change, Result):
            return change
        if change.action == OutAction.RELEASE:
            return release(paths_of(os.fstat(fd)), cdb, data_out, self._single.perform)
        return _change(fd, change)


def is_map(found: os.stat_result, sysfs: str = "/sys") -> bool:
    """Whether a device is a map of multipath.

    Args:
        found: What fstat says of its descriptor.
        sysfs: Where sysfs is.
    """
    if not stat.S_ISBLK(found.st_mode):
        return False
    number = number_text(found.st_rdev)
    try:
        with open(f"{sysfs}/dev/block/{number}/dm/uuid", encoding="utf-8") as file:
            return file.read(6) == "mpath-"
    except (OSError, UnicodeDecodeError):
        return False


def _read(fd: int, cdb: bytes) -> Result:
    option = _READS.get(cdb[1] & 0x1F)  # type: ignore[call-overload]
    if option is None:
        return Result.check(senses.INVALID_FIELD_IN_CDB)
    status, told = _run(fd, "--in", option, "--hex")
    if status != 0:
        return _refused(fd, status, told, option)
    data = _response(told, capabilities=option == _READS[InAction.REPORT_CAPABILITIES])
    if data is None:
        _log.error("%s: %s answers what is no response: %r", _name(fd), PROGRAM, told[-200:])
        return Result.check(senses.IO_PROCESS_TERMINATED)
    return Result(Status.GOOD, data_in=data[: int.from_bytes(cdb[7:9])])


def _response(told: bytes, *, capabilities: bool) -> bytes | None:
    """The bytes of a response, if they are as many as it says itself."""
    data = b"".join(bytes.fromhex(line.decode("ascii")) for line in _HEX.findall(told))
    if len(data) < 8:
        return None
    # REPORT CAPABILITIES begins with its whole length; the others with PRGENERATION and the
    # length of what follows.
    length = int.from_bytes(data[:2]) if capabilities else 8 + int.from_bytes(data[4:8])
    return data if len(data) == length else None


def _change(fd: int, change: Change) -> Result:
    words = [_CHANGES[change.action]]
    if change.action != OutAction.REGISTER_AND_IGNORE_EXISTING_KEY:
        words.append(f"--param-rk={change.key:x}")
    if change.action not in _WITHOUT_OTHER:
        words.append(f"--param-sark={change.other:x}")
    if change.type:
        words.append(f"--prout-type={change.type}")
    words += ["--param-aptpl"] * change.aptpl + ["--param-alltgpt"] * change.all_target_ports
    status, told = _run(fd, "--out", *words)
    if status is None:
        return Result.check(senses.OUTCOME_UNKNOWN)
    if status != 0:
        return _refused(fd, status, told, words[0])
    return Result(Status.GOOD)


def _run(fd: int, *words: str) -> tuple[int | None, bytes]:
    """The exit status of the program, None if it was ended, and all that it says."""
    program = shutil.which(PROGRAM, path=_PLACES)
    if program is None:
        return 127, f"{PROGRAM} is not there: install multipath-tools".encode()
    try:
        done = subprocess.run(
            [program, *words, f"/proc/self/fd/{fd}"],
            pass_fds=(fd,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": _PLACES, "LC_ALL": "C"},
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        _log.error("%s: %s %s has taken %g s", _name(fd), PROGRAM, words[1], TIMEOUT)
        return None, error.output or b""
    return done.returncode, done.stdout


def _refused(fd: int, status: int | None, told: bytes, what: str) -> Result:
    """What an initiator is told when the program has not succeeded."""
    if status == _CONFLICT or (status == _SYNTAX and b"reservation key doesn't match" in told):
        return Result(Status.RESERVATION_CONFLICT)
    lines = told.decode(errors="replace").splitlines()
    reason = next((line.strip() for line in lines if " | " in line), lines[-1] if lines else "")
    _log.warning("%s: %s %s: %s: %s", _name(fd), PROGRAM, what, status, reason)
    return Result.check(
        _BY_EXIT.get(status, senses.COMMUNICATION_FAILURE)
        if status is not None
        else senses.COMMUNICATION_FAILURE
    )


def _name(fd: int) -> str:
    return name_of(os.fstat(fd))
