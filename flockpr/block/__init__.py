"""A disk: the commands of SBC on an image file, admitted by reservations. No iSCSI here.

`Disk` is one LUN as a target process serves it; a transport hands it commands and sends
what comes back. `Pool` lends the memory, `report_luns` and `answer_without_unit` answer
where there is no disk.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flockpr.block.absent import answer_without_unit, encode_lun, report_luns
    from flockpr.block.disk import Disk
    from flockpr.block.launches import Launch
    from flockpr.block.nexus import DiskNexus
    from flockpr.block.pool import MAX_BUFFER, Buffer, Pool
    from flockpr.block.reply import Direction, ScsiReply, Transfer
    from flockpr.block.ring import Ring
    from flockpr.block.rows import MAX_TRANSFER
    from flockpr.block.table import transfer_of

__all__ = [
    "MAX_BUFFER",
    "MAX_TRANSFER",
    "Buffer",
    "Direction",
    "Disk",
    "DiskNexus",
    "Launch",
    "Pool",
    "Ring",
    "ScsiReply",
    "Transfer",
    "answer_without_unit",
    "encode_lun",
    "report_luns",
    "transfer_of",
]

# The command line needs `flockpr.block.image` and none of these: they load when asked for.
_HOMES = {
    "absent": ("answer_without_unit", "encode_lun", "report_luns"),
    "disk": ("Disk",),
    "launches": ("Launch",),
    "nexus": ("DiskNexus",),
    "pool": ("MAX_BUFFER", "Buffer", "Pool"),
    "reply": ("Direction", "ScsiReply", "Transfer"),
    "ring": ("Ring",),
    "rows": ("MAX_TRANSFER",),
    "table": ("transfer_of",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Load a public name from where it lives (PEP 562)."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"flockpr.block.{home}"), name)
    globals()[name] = value
    return value
