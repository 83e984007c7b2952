"""What an operator decides about the target door, as plain values."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import Literal, TypeAlias

import attrs

from flockpr.errors import ConfigError
from flockpr.spc.transport_id import InitiatorPort
from flockpr.store.identity import TARGET_PORT

ISCSI_PORT = 3260
"""The registered TCP port (RFC 7143 section 14)."""

NexusMode: TypeAlias = Literal["name", "name+isid"]
"""Whose the registrations of a session are: see docs/decisions/0009."""

NEXUS_MODES: tuple[NexusMode, ...] = ("name", "name+isid")


def _tag(_portal: object, _attribute: object, tag: int) -> None:
    if not 1 <= tag <= 0xFFFF:
        raise ValueError(f"a target portal group tag is 1 to 65535, not {tag}")


def _names(names: Iterable[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(InitiatorPort(name).name for name in names)


@attrs.frozen
class Portal:
    """One listening TCP socket; to SCSI, one target port.

    Attributes:
        host: Address or name to bind to. An address that means "everywhere" is told to
            initiators as the address that they connected to.
        port: TCP port; 0 takes any free one.
        tag: Target portal group tag, and relative target port identifier of every nexus
            through this portal. The same tag on two hosts lets a VM migrate between them.
        socket: A TCP socket that listens already and is used instead of `host` and `port`;
            closed by the server.
    """

    host: str = "127.0.0.1"
    port: int = ISCSI_PORT
    tag: int = attrs.field(default=TARGET_PORT, validator=_tag)
    socket: socket.socket | None = None


@attrs.frozen
class Address:
    """Where a portal listens: numeric address, TCP port, target portal group tag."""

    host: str
    port: int
    tag: int

    @property
    def text(self) -> str:
        """As a URL has it: brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen
class ChapAccount:
    """A name and a secret for CHAP (RFC 7143 section 12.1).

    Attributes:
        user: CHAP_N.
        secret: Never shown.
        initiator: Only the initiator of this iSCSI name may use it; None: any.
    """

    user: str
    secret: bytes = attrs.field(repr=False)
    initiator: str | None = None


@attrs.frozen
class LunSettings:
    """What differs per LUN.

    Attributes:
        initiators: iSCSI names that see the LUN, in lower case; None: all do.
        nexus: Whether the ISID is part of the I_T nexus.
        read_only: Writes are refused with 07/27/00.
        removable: The medium can be ejected, for what initiators do with such disks.
        physical_block_size: What READ CAPACITY(16) says, bytes.
    """

    initiators: frozenset[str] | None = attrs.field(default=None, converter=_names)
    nexus: NexusMode = attrs.field(default="name", validator=attrs.validators.in_(NEXUS_MODES))
    read_only: bool = False
    removable: bool = False
    physical_block_size: int = 4096


@attrs.frozen
class Limits:
    """Bounds of what peers may cost; seconds and bytes.

    Attributes:
        connections: TCP connections of all portals; None: what open files allow.
        per_initiator: Sessions of one initiator name.
        login: From accept to the full feature phase.
        keepalive: Silence after which a NOP-In asks whether the initiator still lives.
        keepalive_answer: Silence after that NOP-In which ends the connection.
        stalled: An initiator that takes nothing of its answers for so long, or sends nothing
            of the data that it was asked for, is dropped.
        reinstatement: A login waits so long for the commands of the sessions that it takes
            the place of; then it is refused, and tried again by the initiator.
        queue: Commands that may wait for a thread of one LUN or have one; more are answered
            TASK SET FULL.
        queue_each: The same for one session, those included whose data has not come.
        workers: Threads per LUN; started when there is work for them.
        window: Commands that one session may have under way (MaxCmdSN).
        output: Data-In of one connection, per LUN, that its initiator has not taken yet; one
            READ alone may bring more.
        output_all: What all initiators together have not taken and is not in the disks' hands
            any more. Where it is more, those that take nothing for longest are dropped.
        data_out: Data-Out that one connection may have gathered or asked for, per LUN.
        data_out_all: The same, all connections together; a quarter of it at most per LUN.
        data_in: Data-In that all disks may have in hand; at most half of it is for what waits to
            be taken.
        task_management: A task management function whose commands do not end in this time
            is answered "rejected": the initiator escalates.
        rescan: Between two looks for LUNs that came or went.
        mounts: Between two looks at the mount table.
        claim: To find out that another host's target must serve alone: two hosts that look at
            the same moment see each other and look again, and on GFS2 a look takes long.
    """

    connections: int | None = None
    per_initiator: int = 64
    login: float = 15.0
    keepalive: float = 30.0
    keepalive_answer: float = 30.0
    stalled: float = 60.0
    reinstatement: float = 10.0
    queue: int = 1024
    queue_each: int = 256
    workers: int = 8
    window: int = 64
    output: int = 8 << 20
    output_all: int = 256 << 20
    data_out: int = 16 << 20
    data_out_all: int = 256 << 20
    data_in: int = 256 << 20
    task_management: float = 20.0
    rescan: float = 2.0
    mounts: float = 5.0
    claim: float = 5.0


def is_loopback(host: str) -> bool:
    """Whether everything that this name stands for is reached from this host only.

    A name that cannot be resolved is not: whoever asks wants to refuse what is not safe.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return bool(found) and all(
        ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found
    )


def check_open_to_others(
    addresses: Iterable[Address], *, authenticated: bool, allowed: bool
) -> None:
    """Refuse to let anybody on the network write to the images, unless that was asked for.

    Args:
        addresses: Where the target listens.
        authenticated: Initiators prove who they are.
        allowed: The operator wants it all the same.

    Raises:
        ConfigError: Other hosts can connect, and need not prove anything.
    """
    if authenticated or allowed:
        return
    for address in addresses:
        if not is_loopback(address.host):
            raise ConfigError(
                f"portal {address.text}: other hosts can connect to it, and anybody there"
                " could read and write every image and claim to be any initiator",
                "give the file with the secrets of CHAP (--chap FILE, or chap in [target]),"
                " listen on 127.0.0.1, or say --allow-unauthenticated if that network is"
                " trusted; iSCSI does not encrypt, so others must not reach it in any case",
            )
