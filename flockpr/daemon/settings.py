"""What can be configured, as frozen values: one class per table of the TOML file.

The classes are the schema. `flockpr.daemon.config` finds the values, merges them by
precedence and builds `Settings`; docs/configuration.md lists every key, and a test holds
the page against these classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from flockpr.daemon.schema import (
    check_absolute,
    check_between,
    check_filled,
    check_initiator,
    check_lun_name,
    check_metrics,
    check_mode,
    check_one_of,
    check_socket_path,
    key,
)
from flockpr.daemon.target_settings import Lun, Portal, Target
from flockpr.filesystems import Terms

FILE_LOCK, AUTO = "file-lock", "auto"
PASSING = ("sgio", "ioc-pr", "mpath")
"""Managers that pass commands on to the device."""
MANAGERS = (AUTO, FILE_LOCK, *PASSING)
"""Who answers the commands of a socket: from lock directories, from the device, or whichever of the
two a disk is for."""
STORES = ("lockdir", "sqlite")
"""As in `flockpr.store.kinds`, which is not loaded before the socket listens."""


@attrs.frozen(kw_only=True)
class Serve:
    """Table [serve]: the daemon, and what every socket of it inherits.

    Attributes:
        root: Directory of lock directories, one per logical unit.
        socket: Path of a Unix socket to serve.
        manager: Who answers commands, one of `MANAGERS`.
        lun: Logical unit of every descriptor; otherwise found by the device's wwid.
        initiator: Initiator port of every connection; otherwise told apart by `[initiators]`
            and by the peer's process.
        unit_attentions: Report pending unit attentions on this door.
        host: Name of this host in identities and in the audit trail; otherwise the kernel's.
        allow_unproven: Serve on file systems on which nothing can be promised.
        timeout: Seconds after which a command is answered whatever the storage does.
        drain: Seconds that a terminating daemon waits for commands in execution.
        user: User to become before a lock directory is touched (name or number).
        group: Group to become, likewise; the user's own group when absent.
        socket_mode: Mode of the sockets, octal; otherwise what the umask leaves of 0777.
        socket_owner: Owner of the sockets (name or number); otherwise who starts the daemon.
        socket_group: Group of the sockets, likewise.
        pidfile: Write the process id here and keep the file locked.
        metrics: HOST:PORT on the loopback where the daemon's own numbers are.
        log_level: Least severe message that is logged.
        log_format: One line of words and key=value pairs, or one JSON object, per message.
    """

    root: str | None = key(str, check_absolute)
    socket: str | None = key(str, check_socket_path)
    manager: str | None = key(str, check_one_of(*MANAGERS))
    lun: str | None = key(str, check_lun_name)
    initiator: str | None = key(str, check_initiator)
    unit_attentions: bool = key(bool, default=False)
    host: str | None = key(str, check_filled)
    allow_unproven: bool = key(bool, default=False)
    timeout: float = key(float, check_between(0.1, 300), default=10.0)
    drain: float = key(float, check_between(0, 300), default=8.0)
    user: str | None = key(str, check_filled)
    group: str | None = key(str, check_filled)
    socket_mode: str | None = key(str, check_mode)
    socket_owner: str | None = key(str, check_filled)
    socket_group: str | None = key(str, check_filled)
    pidfile: str | None = key(str, check_absolute)
    metrics: str | None = key(str, check_metrics)
    log_level: str = key(str, check_one_of("debug", "info", "warning", "error"), default="info")
    log_format: str = key(str, check_one_of("text", "json"), default="text")


@attrs.frozen(kw_only=True)
class Socket:
    """Table [[socket]]: one socket with an identity of its own; the rest is from [serve].

    Attributes:
        path: Path of the Unix socket.
        name: FileDescriptorName= of the systemd socket unit that passes this socket.
        manager: As in [serve], for this socket.
        lun: As in [serve], for this socket.
        initiator: As in [serve], for this socket.
        unit_attentions: As in [serve], for this socket.
        mode: As socket_mode in [serve], for this socket.
        owner: As socket_owner in [serve], for this socket.
        group: As socket_group in [serve], for this socket.
    """

    path: str | None = key(str, check_socket_path)
    name: str | None = key(str, check_filled)
    manager: str | None = key(str, check_one_of(*MANAGERS))
    lun: str | None = key(str, check_lun_name)
    initiator: str | None = key(str, check_initiator)
    unit_attentions: bool | None = key(bool)
    mode: str | None = key(str, check_mode)
    owner: str | None = key(str, check_filled)
    group: str | None = key(str, check_filled)


@attrs.frozen(kw_only=True)
class Create:
    """The table [create]: logical units that are made.

    Attributes:
        store: What keeps the transactions, one of `STORES`; what there is keeps what it has.
    """

    store: str | None = key(str, check_one_of(*STORES))


TABLES: Mapping[str, type] = {
    "serve": Serve,
    "socket": Socket,
    "target": Target,
    "portal": Portal,
    "lun": Lun,
    "create": Create,
}
"""The tables with fixed keys; beside them, [initiators] maps free names to initiator names, and
[devices] identifiers to managers."""

ARRAYS = frozenset({"socket", "portal"})
"""Tables that are written [[name]], any number of times."""


@attrs.frozen(kw_only=True)
class ServedSocket:
    """One socket with everything it inherits filled in.

    Attributes:
        path: Absolute path; "" for a socket that is only known by `name`.
        name: Name under which systemd passes it, if it does.
        manager: Who answers its commands, one of `MANAGERS`.
        lun: Logical unit of every descriptor, or None: by the device.
        initiator: Initiator port of every connection, or None: by the peer.
        unit_attentions: Report pending unit attentions.
        mode: Octal mode, or None: what the umask leaves.
        owner: Owner, or None.
        group: Group, or None.
        is_default: The path is the built-in default, so its directory may be made.
    """

    path: str
    name: str | None = None
    manager: str = FILE_LOCK
    lun: str | None = None
    initiator: str | None = None
    unit_attentions: bool = False
    mode: str | None = None
    owner: str | None = None
    group: str | None = None
    is_default: bool = False


@attrs.frozen(kw_only=True)
class Settings:
    """Everything that a daemon or a command needs to know, merged and checked.

    Attributes:
        root: Directory of lock directories, absolute.
        root_is_default: Nobody named it: it may be made.
        sockets: What to serve, in order; at least one.
        unnamed_socket: What a passed socket without a table of its own gets; no path.
        sockets_from_flag: The socket was named on the command line or in the environment.
        serve: The merged table [serve].
        create: Table [create].
        luns: The tables [lun.NAME].
        initiators: Table [initiators]: what a connection is told by, to the initiator port.
        devices: Table [devices]: identifier of a device to the manager that passes on to it.
        target: Table [target]; None when there is no target door.
        portals: Where the target door listens; with `target`, at least one.
        fencing: As in [target], or as the command line says of a daemon without a target door.
        files: The configuration files that were read, weakest first.
    """

    root: str
    root_is_default: bool = False
    sockets: tuple[ServedSocket, ...] = ()
    unnamed_socket: ServedSocket = attrs.field(factory=lambda: ServedSocket(path=""))
    sockets_from_flag: bool = False
    serve: Serve = attrs.field(factory=Serve)
    create: Create = attrs.field(factory=Create)
    luns: Mapping[str, Lun] = attrs.field(factory=dict)
    initiators: Mapping[str, str] = attrs.field(factory=dict)
    devices: Mapping[str, str] = attrs.field(factory=dict)
    target: Target | None = None
    portals: tuple[Portal, ...] = ()
    fencing: str = "none"
    files: tuple[str, ...] = ()

    @property
    def terms(self) -> Terms:
        """Under which terms about the file system to serve."""
        return Terms(self.fencing, allow_unproven=self.serve.allow_unproven)

    @property
    def all_defaults(self) -> bool:
        """Nobody named a root or a socket, in any way."""
        return self.root_is_default and all(entry.is_default for entry in self.sockets)
