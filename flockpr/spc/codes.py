"""Code values of SPC-4 and SAM: status, service actions, types, scopes, attentions.

Names are the standard's. Numbers are what travels on the wire.
"""

from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """SAM-5 5.3.1 status codes."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02
    BUSY = 0x08
    RESERVATION_CONFLICT = 0x18
    TASK_SET_FULL = 0x28
    ACA_ACTIVE = 0x30
    TASK_ABORTED = 0x40


class Opcode(enum.IntEnum):
    """Operation codes that this package itself acts on (the access table knows more)."""

    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    INQUIRY = 0x12
    RESERVE_6 = 0x16
    RELEASE_6 = 0x17
    RESERVE_10 = 0x56
    RELEASE_10 = 0x57
    PERSISTENT_RESERVE_IN = 0x5E
    PERSISTENT_RESERVE_OUT = 0x5F
    REPORT_LUNS = 0xA0


class InAction(enum.IntEnum):
    """PERSISTENT RESERVE IN service actions (SPC-4 6.15.1)."""

    READ_KEYS = 0x00
    READ_RESERVATION = 0x01
    REPORT_CAPABILITIES = 0x02
    READ_FULL_STATUS = 0x03


class OutAction(enum.IntEnum):
    """PERSISTENT RESERVE OUT service actions (SPC-4 6.16.2) that are implemented."""

    REGISTER = 0x00
    RESERVE = 0x01
    RELEASE = 0x02
    CLEAR = 0x03
    PREEMPT = 0x04
    PREEMPT_AND_ABORT = 0x05
    REGISTER_AND_IGNORE_EXISTING_KEY = 0x06
    REGISTER_AND_MOVE = 0x07


LU_SCOPE = 0
"""The only scope that is not obsolete or reserved."""


class ReservationType(enum.IntEnum):
    """Persistent reservation types (SPC-4 6.15.3.4)."""

    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 8

    @property
    def all_registrants(self) -> bool:
        """Whether every registrant is a reservation holder."""
        return self in (self.WRITE_EXCLUSIVE_ALL_REGISTRANTS, self.EXCLUSIVE_ACCESS_ALL_REGISTRANTS)

    @property
    def registrants_only(self) -> bool:
        """Whether it is one of the two Registrants Only types (not All Registrants)."""
        return self in (
            self.WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
            self.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
        )

    @property
    def exclusive_access(self) -> bool:
        """Whether reads are excluded too."""
        return self in (
            self.EXCLUSIVE_ACCESS,
            self.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
            self.EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
        )


class Attention(enum.IntEnum):
    """Unit attention conditions as ASC << 8 | ASCQ; the sense key is 06h."""

    POWER_ON = 0x2900
    BUS_RESET = 0x2902
    LOGICAL_UNIT_RESET = 0x2903
    NEXUS_LOSS = 0x2907
    RESERVATIONS_PREEMPTED = 0x2A03
    RESERVATIONS_RELEASED = 0x2A04
    REGISTRATIONS_PREEMPTED = 0x2A05
    COMMANDS_CLEARED = 0x2F00

    @property
    def reset_class(self) -> bool:
        """Whether it outranks RESERVATION CONFLICT (SAM-5 5.3.3: 29/00-29/04, 29/07)."""
        return self >> 8 == 0x29
