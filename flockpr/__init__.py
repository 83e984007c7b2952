"""SCSI-3 persistent reservations for disks that have no SAN behind them.

The public names, by what they are for::

    LogicalUnit                         open a lock directory and execute commands on it
    Nexus, InitiatorPort                who sends a command
    Result, Status, Sense               what it is answered
    InAction, OutAction,                what is sent ...
      ReservationType, encode_*           ... as bytes
    parse_*                             what PERSISTENT RESERVE IN returned, as values
    UnitStatus, AuditRecord             what people and tools see of a logical unit
    create_lun, list_luns,              the lock directories of a root
      read_identity, delete_lun,
      LunIdentity, LunListing
    PRManager, create_manager, ...      the level of QEMU's pr-manager: commands by descriptor
    FlockprError and its subclasses     whatever is raised on purpose

They are loaded on first use, so that importing the package costs nothing. docs/python-api.md
is the guide, with an example that runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flockpr._lazy import loader
from flockpr._version import __version__

if TYPE_CHECKING:
    from flockpr.core.model import Nexus
    from flockpr.errors import (
        Busy,
        ConfigError,
        Emulated,
        FlockprError,
        HostFenced,
        LunExists,
        LunNotFound,
        NewerFormat,
        OutcomeUnknown,
        PassedThrough,
        ProtocolViolation,
        ServedElsewhere,
        StateLost,
        StateUnreadable,
        StoreError,
        StoreUnavailable,
        UnknownManager,
        Unproven,
    )
    from flockpr.logical_unit import LogicalUnit, Result
    from flockpr.manager import (
        PRManager,
        create_manager,
        lookup_manager,
        register_kind,
        remove_manager,
    )
    from flockpr.spc.cdb import encode_persistent_reserve_in, encode_persistent_reserve_out
    from flockpr.spc.codes import InAction, OutAction, ReservationType, Status
    from flockpr.spc.pr_in import (
        parse_capabilities,
        parse_full_status,
        parse_keys,
        parse_reservation,
    )
    from flockpr.spc.prout_list import encode_basic_list, encode_move_list
    from flockpr.spc.sense import Sense, parse_sense
    from flockpr.spc.transport_id import InitiatorPort
    from flockpr.store.base import AuditRecord
    from flockpr.store.identity import LunIdentity
    from flockpr.store.listing import LunListing, list_luns, read_identity
    from flockpr.store.provision import create_lun
    from flockpr.store.removal import delete_lun
    from flockpr.unit_status import UnitStatus

__all__ = [
    "AuditRecord",
    "Busy",
    "ConfigError",
    "Emulated",
    "FlockprError",
    "HostFenced",
    "InAction",
    "InitiatorPort",
    "LogicalUnit",
    "LunExists",
    "LunIdentity",
    "LunListing",
    "LunNotFound",
    "NewerFormat",
    "Nexus",
    "OutAction",
    "OutcomeUnknown",
    "PRManager",
    "PassedThrough",
    "ProtocolViolation",
    "ReservationType",
    "Result",
    "Sense",
    "ServedElsewhere",
    "StateLost",
    "StateUnreadable",
    "Status",
    "StoreError",
    "StoreUnavailable",
    "UnitStatus",
    "UnknownManager",
    "Unproven",
    "__version__",
    "create_lun",
    "create_manager",
    "delete_lun",
    "encode_basic_list",
    "encode_move_list",
    "encode_persistent_reserve_in",
    "encode_persistent_reserve_out",
    "list_luns",
    "lookup_manager",
    "parse_capabilities",
    "parse_full_status",
    "parse_keys",
    "parse_reservation",
    "parse_sense",
    "read_identity",
    "register_kind",
    "remove_manager",
]

_HOMES = {
    "flockpr.core.model": ("Nexus",),
    "flockpr.errors": (
        "Busy",
        "ConfigError",
        "Emulated",
        "FlockprError",
        "HostFenced",
        "LunExists",
        "LunNotFound",
        "NewerFormat",
        "OutcomeUnknown",
        "PassedThrough",
        "ProtocolViolation",
        "ServedElsewhere",
        "StateLost",
        "StateUnreadable",
        "StoreError",
        "StoreUnavailable",
        "UnknownManager",
        "Unproven",
    ),
    "flockpr.logical_unit": ("LogicalUnit", "Result"),
    "flockpr.store.base": ("AuditRecord",),
    "flockpr.store.removal": ("delete_lun",),
    "flockpr.unit_status": ("UnitStatus",),
    "flockpr.manager": (
        "PRManager",
        "create_manager",
        "lookup_manager",
        "register_kind",
        "remove_manager",
    ),
    "flockpr.spc.cdb": ("encode_persistent_reserve_in", "encode_persistent_reserve_out"),
    "flockpr.spc.codes": ("InAction", "OutAction", "ReservationType", "Status"),
    "flockpr.spc.pr_in": (
        "parse_capabilities",
        "parse_full_status",
        "parse_keys",
        "parse_reservation",
    ),
    "flockpr.spc.prout_list": ("encode_basic_list", "encode_move_list"),
    "flockpr.spc.sense": ("Sense", "parse_sense"),
    "flockpr.spc.transport_id": ("InitiatorPort",),
    "flockpr.store.identity": ("LunIdentity",),
    "flockpr.store.listing": ("LunListing", "list_luns", "read_identity"),
    "flockpr.store.provision": ("create_lun",),
}
__getattr__ = loader(__name__, _HOMES)


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__})
