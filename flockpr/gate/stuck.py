"""A command that has the permits of all and never ends, because its host died or it was stopped.

One lock covers everybody's bytes then, so no host can be left out any more, and a declaration that
its host is fenced helps nobody. Only what makes the file server forget that lock does. The lock
does not say whose it is; but a command rings for everybody for as long as it has it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from flockpr.errors import Busy
from flockpr.gate import places
from flockpr.gate.doorbell import Doorbell
from flockpr.gate.holders import walk
from flockpr.gate.image import SYSCALLS, ImageFile, open_image
from flockpr.gate.overview import LunGate, Overview
from flockpr.store import files
from flockpr.store.syscalls import Syscalls

PATIENCE = 10.0
"""Seconds after which a command that lives has let go of the permits, mostly."""
_EVERY = 0.05
_REMEDY = (
    "on one host end that process; on NFS 4 wait for the host's lease; on GFS2 see to its fencing; "
    "on NFS 3 boot the host, or have the server drop its locks: docs/when-it-breaks.md, 'A host "
    "has all permits'"
)


def gates_of(
    overview: Overview, gates: Sequence[LunGate], number: int, syscalls: Syscalls | None = None
) -> list[LunGate]:
    """The gates of which a host's command seems to have all permits, and does not let go of them.

    Waits where that is not clear at once.

    Args:
        overview: Of the root.
        gates: As they were a moment ago.
        number: The host.
        syscalls: Where the calls go.

    Raises:
        StoreError: The file server cannot be asked.
    """
    sys_ = syscalls or SYSCALLS
    until = time.monotonic() + PATIENCE
    seeming = [gate for gate in gates if number in gate.narrowers]
    return [gate for gate in seeming if _holds_on(overview.root, gate, number, until, sys_)]


def no_help(overview: Overview, gates: Sequence[LunGate], number: int) -> Busy:
    """What to tell somebody who wants to declare such a host fenced."""
    hosts = sorted({number, *(host for gate in gates for host in gate.narrowers)})
    whose = " or ".join(map(overview.label, hosts))
    what = f"a command of {whose} has the permits of all: a declaration would help nobody"
    return Busy(what, gates[0].image, _REMEDY)


def _holds_on(root: str, gate: LunGate, number: int, until: float, sys_: Syscalls) -> bool:
    """Whether it is so each time one looks."""
    image = open_image(gate.image, sys_)
    try:
        with Doorbell(root, sys_) as bell:
            while _narrows(image, sys_) and _rings(bell, gate.lun, number):
                if time.monotonic() >= until:
                    return True
                time.sleep(_EVERY)
            return False
    finally:
        image.close()


def _rings(bell: Doorbell, lun: int, number: int) -> bool:
    bell.nudge(lun)  # some servers end a lease that is over only when somebody wants the lock
    return any(ring.host == number and ring.everybody for ring in bell.rings(lun))


def _narrows(image: ImageFile, sys_: Syscalls) -> bool:
    """Whether somebody has more than the permits of one host."""
    try:
        locks = walk(image.fd, *places.ALL_PERMITS, sys_)
    except OSError as error:
        raise files.unavailable(error, "cannot be asked for locks", image.path) from error
    return any(lock.length > places.permits_of(0).length for lock in locks)
