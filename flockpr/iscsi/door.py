"""What all connections of a server share."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping

import attrs

from flockpr.block.quiet import QuietLog
from flockpr.desk import Desk
from flockpr.iscsi.backlog import Backlog
from flockpr.iscsi.housekeeper import Housekeeper
from flockpr.iscsi.memory import Memory
from flockpr.iscsi.reading import Reading
from flockpr.iscsi.relief import Relief
from flockpr.iscsi.session import ProtocolConfig
from flockpr.iscsi.sessions import SessionRegistry
from flockpr.iscsi.settings import ChapAccount, Limits
from flockpr.iscsi.targets import TargetMap

log = logging.getLogger(__name__)

PortalTags = Callable[[socket.socket], list[tuple[str, int]]]


@attrs.frozen(eq=False)
class Door:
    """What all connections of a server share.

    Attributes:
        targets: What is served.
        registry: Who is logged in.
        housekeeper: For what is due later.
        relief: For threads that read and are kept from it.
        desk: One thread that reads from those that need none of their own.
        looks_hang: To be told when a look at the reservations of a LUN has hung.
        limits: Bounds of what peers may cost.
        memory: For Data-Out.
        backlog: What clients have not taken.
        protocol: What is negotiated.
        chap: Accounts of which initiators must prove one; none: they need not.
        mutual: What the target proves.
        portals: Every portal as SendTargets names it over a connection, and its tag.
        complaints: Of what clients that have proven nothing can provoke as often as they like.
    """

    targets: TargetMap
    registry: SessionRegistry
    housekeeper: Housekeeper
    relief: Relief
    desk: Desk[Reading]
    looks_hang: Callable[[], None]
    limits: Limits
    memory: Memory
    backlog: Backlog
    protocol: ProtocolConfig
    chap: tuple[ChapAccount, ...]
    mutual: ChapAccount | None
    portals: PortalTags
    complaints: QuietLog = attrs.field(factory=lambda: QuietLog(log))

    def accounts(self, initiator: str) -> Mapping[str, bytes] | None:
        """The secrets by user of which this initiator must prove one; None: it need not."""
        if not self.chap:
            return None
        return {
            account.user: account.secret
            for account in self.chap
            if account.initiator is None or account.initiator.lower() == initiator
        }

    def listed(self, initiator: str, sock: socket.socket) -> list[tuple[str, list[str]]]:
        """What SendTargets tells this initiator: names and portals (RFC 7143 appendix C)."""
        portals = self.portals(sock)
        found = self.targets.listed(initiator, {tag for _, tag in portals})
        return [
            (name, [address for address, tag in portals if tag in tags]) for name, tags in found
        ]
