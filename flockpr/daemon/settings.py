"""What can be configured, as frozen values: one class per table of the TOML file.

The classes are the schema. `flockpr.daemon.config` finds the values, merges them by
precedence and builds `Settings`; docs/configuration.md lists every key, and a test holds
the page against these classes. A validator raises ValueError or TypeError with one clause
about the value; the loader adds where the value came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

SOCKET_PATH_MAX = 107
"""Longest path that fits sun_path with its final NUL (unix(7))."""

_PORTAL = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):([0-9]{1,5})")

type_names: dict[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    list: "an array of strings",
}

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def key(
    kind: type,
    *checks: Callable[[Any], None],
    default: Any = None,
    convert: Callable[[Any], Any] | None = None,
) -> Any:
    """A key of a table.

    Args:
        kind: The TOML type that is accepted; an integer passes for a float.
        checks: Called with the value; raise ValueError with what is wrong with it.
        default: The value when nobody sets the key; None means "not set".
        convert: Applied after the checks by the loader.

    Returns:
        An attrs field that carries `kind` and `convert` for the loader.
    """

    def validate(_instance: Any, _attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is not None:
            for check in checks:
                check(value)

    return attrs.field(
        default=default,
        validator=validate,
        metadata={"kind": kind, "convert": convert},
    )


def check_absolute(value: str) -> None:
    """Raise ValueError unless `value` is an absolute path without NUL."""
    if not value.startswith("/") or "\0" in value:
        raise ValueError(f"must be an absolute path, not {value!r}")


def check_socket_path(value: str) -> None:
    """Raise ValueError unless a Unix socket can have this path."""
    check_absolute(value)
    if len(value.encode("utf-8", "surrogateescape")) > SOCKET_PATH_MAX:
        raise ValueError(
            f"is too long for a Unix socket (at most {SOCKET_PATH_MAX} bytes): {value!r}"
        )


def check_lun_name(value: str) -> None:
    """Raise ValueError unless `value` can be the name of a logical unit."""
    from flockpr.store.layout import LUN_NAME

    if not LUN_NAME.fullmatch(value):
        raise ValueError(
            "must be 1 to 64 letters, digits, '.', '_', '+' or '-' and start with a letter or"
            f" digit, not {value!r}"
        )


def check_initiator(value: str) -> None:
    """Raise ValueError unless `value` names an initiator port (SPC-4 7.6.4.6)."""
    from flockpr.spc.transport_id import InitiatorPort

    InitiatorPort.from_text(value)


def check_iscsi_name(value: str) -> None:
    """Raise ValueError unless `value` is an iSCSI name without a session identifier."""
    from flockpr.spc.transport_id import InitiatorPort

    InitiatorPort(value)


def check_one_of(*choices: str) -> Callable[[str], None]:
    """A check that the value is one of `choices`."""

    def check(value: str) -> None:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {value!r}")

    return check


def check_between(low: float, high: float) -> Callable[[float], None]:
    """A check that low <= value <= high."""

    def check(value: float) -> None:
        if not low <= value <= high:
            raise ValueError(f"must be from {low:g} to {high:g}, not {value!r}")

    return check


def check_filled(value: str) -> None:
    """Raise ValueError for an empty string or one with control characters."""
    if not value or not value.isprintable():
        raise ValueError(f"must be printable and not empty, not {value!r}")


def check_mode(value: str) -> None:
    """Raise ValueError unless `value` is a file mode in octal digits, as in chmod(1)."""
    if not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError(f'must be a mode in octal digits such as "0660", not {value!r}')


def check_portal(value: str) -> None:
    """Raise ValueError unless `value` is ADDRESS:PORT or [IPV6]:PORT."""
    match = _PORTAL.fullmatch(value)
    if not match or not 0 < int(match[2]) < 65536:
        raise ValueError(
            f'must be ADDRESS:PORT, such as "192.0.2.1:3260" or "[2001:db8::1]:3260", not {value!r}'
        )


def check_strings(value: list[Any]) -> None:
    """Raise ValueError unless `value` is a list of strings that are not empty."""
    for entry in value:
        if not isinstance(entry, str) or not entry.strip():
            raise ValueError(f"must hold strings that are not empty, not {entry!r}")


@attrs.frozen(kw_only=True)
class Serve:
    """Table [serve]: the daemon, and what every socket of it inherits.

    Attributes:
        root: Directory of lock directories, one per logical unit.
        socket: Path of a Unix socket to serve.
        lun: Logical unit of every descriptor; otherwise found by the device's wwid.
        initiator: Initiator port of every connection; otherwise told apart by `[initiators]`
            and by the peer's process.
        unit_attentions: Report pending unit attentions on this door.
        host: Name of this host in identities and in the audit trail; otherwise the kernel's.
        timeout: Seconds after which a command is answered whatever the storage does.
        drain: Seconds that a terminating daemon waits for commands in execution.
        user: User to become before a lock directory is touched (name or number).
        group: Group to become, likewise; the user's own group when absent.
        socket_mode: Mode of the sockets, octal; otherwise what the umask leaves of 0777.
        socket_owner: Owner of the sockets (name or number); otherwise who starts the daemon.
        socket_group: Group of the sockets, likewise.
        pidfile: Write the process id here and keep the file locked.
        log_level: Least severe message that is logged.
        log_format: One line of words and key=value pairs, or one JSON object, per message.
    """

    root: str | None = key(str, check_absolute)
    socket: str | None = key(str, check_socket_path)
    lun: str | None = key(str, check_lun_name)
    initiator: str | None = key(str, check_initiator)
    unit_attentions: bool = key(bool, default=False)
    host: str | None = key(str, check_filled)
    timeout: float = key(float, check_between(0.1, 300), default=10.0)
    drain: float = key(float, check_between(0, 300), default=8.0)
    user: str | None = key(str, check_filled)
    group: str | None = key(str, check_filled)
    socket_mode: str | None = key(str, check_mode)
    socket_owner: str | None = key(str, check_filled)
    socket_group: str | None = key(str, check_filled)
    pidfile: str | None = key(str, check_absolute)
    log_level: str = key(str, check_one_of("debug", "info", "warning", "error"), default="info")
    log_format: str = key(str, check_one_of("text", "json"), default="text")


@attrs.frozen(kw_only=True)
class Socket:
    """Table [[socket]]: one socket with an identity of its own; the rest is from [serve].

    Attributes:
        path: Path of the Unix socket.
        name: FileDescriptorName= of the systemd socket unit that passes this socket.
        lun: As in [serve], for this socket.
        initiator: As in [serve], for this socket.
        unit_attentions: As in [serve], for this socket.
        mode: As socket_mode in [serve], for this socket.
        owner: As socket_owner in [serve], for this socket.
        group: As socket_group in [serve], for this socket.
    """

    path: str | None = key(str, check_socket_path)
    name: str | None = key(str, check_filled)
    lun: str | None = key(str, check_lun_name)
    initiator: str | None = key(str, check_initiator)
    unit_attentions: bool | None = key(bool)
    mode: str | None = key(str, check_mode)
    owner: str | None = key(str, check_filled)
    group: str | None = key(str, check_filled)


@attrs.frozen(kw_only=True)
class Target:
    """Table [target]: reserved for the iSCSI door; checked and kept, used by nothing yet.

    Attributes:
        name: iSCSI name of the target.
    """

    name: str | None = key(str, check_iscsi_name)


@attrs.frozen(kw_only=True)
class Portal:
    """Table [[portal]]: reserved for the iSCSI door; checked and kept, used by nothing yet.

    Attributes:
        portal: ADDRESS:PORT to listen on.
        tag: Relative target port identifier of the portal; 1 is the helper door.
    """

    portal: str | None = key(str, check_portal)
    tag: int | None = key(int, check_between(2, 65535))


@attrs.frozen(kw_only=True)
class Lun:
    """Table [lun.NAME]: what this host knows about a logical unit.

    Attributes:
        wwids: Further identifiers by which this host's devices show this logical unit,
            beside those in its lun.json.
    """

    wwids: tuple[str, ...] = key(list, check_strings, default=(), convert=tuple)


TABLES: Mapping[str, type] = {
    "serve": Serve,
    "socket": Socket,
    "target": Target,
    "portal": Portal,
    "lun": Lun,
}
"""The tables with fixed keys; [initiators] beside them maps free names to initiator names."""

ARRAYS = frozenset({"socket", "portal"})
"""Tables that are written [[name]], any number of times."""


@attrs.frozen(kw_only=True)
class ServedSocket:
    """One socket with everything it inherits filled in.

    Attributes:
        path: Absolute path; "" for a socket that is only known by `name`.
        name: Name under which systemd passes it, if it does.
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
        luns: The tables [lun.NAME].
        initiators: Table [initiators]: what a connection is told by, to the initiator port.
        target: Table [target], for later.
        portals: Tables [[portal]], for later.
        files: The configuration files that were read, weakest first.
    """

    root: str
    root_is_default: bool = False
    sockets: tuple[ServedSocket, ...] = ()
    unnamed_socket: ServedSocket = attrs.field(factory=lambda: ServedSocket(path=""))
    sockets_from_flag: bool = False
    serve: Serve = attrs.field(factory=Serve)
    luns: Mapping[str, Lun] = attrs.field(factory=dict)
    initiators: Mapping[str, str] = attrs.field(factory=dict)
    target: Target | None = None
    portals: tuple[Portal, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def all_defaults(self) -> bool:
        """Nobody named a root or a socket, in any way."""
        return self.root_is_default and all(entry.is_default for entry in self.sockets)
