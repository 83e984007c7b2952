"""A disk: the commands of SBC on an image file, admitted by reservations. No iSCSI here.

`Disk` is one LUN as a target process serves it; a transport hands it commands and sends
what comes back. `Pool` lends the memory, `report_luns` and `answer_without_unit` answer
where there is no disk.
"""

from __future__ import annotations

from flockpr.block.absent import answer_without_unit, encode_lun, report_luns
from flockpr.block.disk import Disk
from flockpr.block.nexus import DiskNexus
from flockpr.block.pool import MAX_BUFFER, Buffer, Pool
from flockpr.block.reply import Direction, ScsiReply, Transfer
from flockpr.block.table import MAX_TRANSFER, transfer_of

__all__ = [
    "MAX_BUFFER",
    "MAX_TRANSFER",
    "Buffer",
    "Direction",
    "Disk",
    "DiskNexus",
    "Pool",
    "ScsiReply",
    "Transfer",
    "answer_without_unit",
    "encode_lun",
    "report_luns",
    "transfer_of",
]
