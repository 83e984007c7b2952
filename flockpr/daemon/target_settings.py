"""What can be configured about the target door: one class per table of the TOML file.

Like those of `flockpr.daemon.settings`, the classes are the schema; docs/configuration.md lists
every key, and a test holds the page against them.
"""

from __future__ import annotations

import attrs

from flockpr.daemon.schema import (
    check_absolute,
    check_between,
    check_each,
    check_filled,
    check_iscsi_name,
    check_lun_name,
    check_one_of,
    check_portal,
    check_strings,
    key,
    split_portal,
)

DEFAULT_PORTAL = "127.0.0.1:3260"
"""Of somebody who named none: iSCSI has no encryption, so this host only."""


@attrs.frozen(kw_only=True)
class Target:
    """Table [target]: the iSCSI door; `flockpr serve` has one when this table or a portal is there.

    Attributes:
        name: iSCSI name of one target that carries all logical units; otherwise each has a
            target of its own, named in `flockpr lun show`.
        luns: Logical units to serve; otherwise all of the root that have an image.
        chap: File with the secrets of CHAP, for its owner only; otherwise initiators need not
            prove who they are.
        allow_unauthenticated: Serve without CHAP where other hosts can connect.
        fencing: What keeps the late writes of a host that is cut off from the storage, where the
            file system does not: nothing, or something that the operator sees to.
        connections: TCP connections at a time; otherwise what the limit of open files affords.
        keepalive: Seconds of silence after which an initiator is asked whether it lives.
    """

    name: str | None = key(str, check_iscsi_name)
    luns: tuple[str, ...] | None = key(list, check_each(check_lun_name), convert=tuple)
    chap: str | None = key(str, check_absolute)
    allow_unauthenticated: bool = key(bool, default=False)
    fencing: str = key(str, check_one_of("none", "external"), default="none")
    connections: int | None = key(int, check_between(1, 1 << 20))
    keepalive: float = key(float, check_between(1, 3600), default=30.0)


@attrs.frozen(kw_only=True)
class Portal:
    """Table [[portal]]: where the target door listens.

    Attributes:
        portal: ADDRESS:PORT to listen on; port 0 is any free one.
        name: FileDescriptorName= of the systemd socket unit that passes the listening socket.
        tag: Target portal group tag, and relative target port identifier of who comes through
            this portal; 1 is the helper door.
    """

    portal: str | None = key(str, check_portal)
    name: str | None = key(str, check_filled)
    tag: int = key(int, check_between(2, 65535), default=2)

    @property
    def address(self) -> tuple[str, int]:
        """Address and port to listen on; `portal` has to be there."""
        assert self.portal is not None
        return split_portal(self.portal)


@attrs.frozen(kw_only=True)
class Lun:
    """Table [lun.NAME]: what this host knows about a logical unit.

    Attributes:
        wwids: Further identifiers by which this host's devices show this logical unit,
            beside those in its lun.json.
        initiators: iSCSI names of the initiators that see it; otherwise all do.
        nexus: Whether an initiator is told by its name, or by its name and session identifier.
        read_only: Refuse every write.
        removable: Say that the medium can be removed, and let initiators eject it.
        physical_block_size: Bytes of a physical block, as initiators are told.
    """

    wwids: tuple[str, ...] = key(list, check_strings, default=(), convert=tuple)
    initiators: tuple[str, ...] | None = key(list, check_each(check_iscsi_name), convert=tuple)
    nexus: str = key(str, check_one_of("name", "name+isid"), default="name")
    read_only: bool = key(bool, default=False)
    removable: bool = key(bool, default=False)
    physical_block_size: int = key(int, check_one_of(512, 4096), default=4096)
