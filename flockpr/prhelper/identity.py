"""Which initiator port a connection is.

In order: a name given for the socket, the administrator's map, the QEMU process that
connected (its machine UUID, then its name), this host. What is read from a process's
arguments is a label and no proof: a guest that has taken over its QEMU can write another's
there. Whoever needs more gives each machine a socket of its own and names the port there.

A machine's UUID is the same on every host, so its registrations follow it through a live
migration whatever the QEMU version; docs/decisions tells what that costs.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import socket
from collections.abc import Mapping, Sequence

import attrs

from flockpr.errors import ConfigError
from flockpr.prhelper.peer import Peer, read_peer
from flockpr.prhelper.qemu_arguments import canonical_uuid
from flockpr.spc.transport_id import InitiatorPort

NAME_PREFIX = "iqn.2026-11.org.flockpr:"
_SLUG_MAX = 150
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")
MACHINE_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")


@attrs.frozen
class Identity:
    """What a connection was found to be.

    Attributes:
        port: Its initiator port.
        source: How it was found, in a few words for the log.
    """

    port: InitiatorPort
    source: str


@attrs.frozen
class Rule:
    """One line of the administrator's map.

    Attributes:
        criterion: `uuid`, `name`, `socket`, `cgroup` or `uid`.
        value: What it has to be: a canonical UUID, a machine's name, a socket path or a
            cgroup path (both shell patterns), a decimal user id.
        port: The initiator port of those who match.
    """

    criterion: str
    value: str
    port: InitiatorPort

    def matches(self, peer: Peer | None, socket_path: str) -> bool:
        """Whether a connection matches; `peer` is None when nothing is known of it."""
        if self.criterion == "socket":
            return fnmatch.fnmatchcase(socket_path, self.value)
        if peer is None:
            return False
        match self.criterion:
            case "uuid":
                return peer.uuid == self.value
            case "name":
                return peer.name == self.value
            case "cgroup":
                return any(fnmatch.fnmatchcase(path, self.value) for path in peer.cgroups)
        return str(peer.uid) == self.value


CRITERIA = ("uuid", "name", "socket", "cgroup", "uid")
"""Most specific first: the order in which the map is searched."""


def rules_from(table: Mapping[str, str]) -> tuple[Rule, ...]:
    """Read the administrator's map.

    Args:
        table: From `uuid:U`, `name:N`, `socket:PATTERN`, `cgroup:PATTERN` or `uid:USER` to
            the text of an initiator port. A key without such a prefix is a UUID if it looks
            like one, else a machine's name.

    Returns:
        The rules, most specific criterion first, else as given.

    Raises:
        ConfigError: A key or a name is wrong.
    """
    rules = []
    for key, text in table.items():
        criterion, separator, value = key.partition(":")
        if not separator or criterion not in CRITERIA:
            criterion, value = ("uuid" if canonical_uuid(key) else "name"), key
        rules.append(Rule(criterion, _rule_value(criterion, value), port_from(text)))
    return tuple(sorted(rules, key=lambda rule: CRITERIA.index(rule.criterion)))


def _rule_value(criterion: str, value: str) -> str:
    if criterion == "uuid":
        canonical = canonical_uuid(value)
        if canonical is None:
            raise ConfigError(f"initiators: {value!r} is no UUID of a machine")
        return canonical
    if criterion == "uid" and not value.isdecimal():
        import pwd

        try:
            return str(pwd.getpwnam(value).pw_uid)
        except KeyError:
            raise ConfigError(f"initiators: there is no user {value!r}") from None
    if not value:
        raise ConfigError(f"initiators: {criterion}: needs a value")
    return value


def port_from(text: str) -> InitiatorPort:
    """Return the initiator port of that name.

    Raises:
        ConfigError: It is no valid name of an initiator port.
    """
    try:
        return InitiatorPort.from_text(text)
    except ValueError as error:
        raise ConfigError(f"initiator {text!r}: {error}") from error


def derived_port(kind: str, label: str) -> InitiatorPort:
    """Return the port that stands for a label that somebody else chose.

    iSCSI names have lower case letters, digits, dots and hyphens only (RFC 3722). A label
    that loses something on the way gets a digest of itself appended, or two machines called
    `db 1` and `DB_1` would be one nexus and could not fence each other.

    Args:
        kind: `vm`, `name` or `host`; keeps labels of different kinds apart.
        label: Any text, also with undecodable bytes as surrogates.
    """
    slug = re.sub(r"[^a-z0-9.-]", "-", label.lower())[:_SLUG_MAX]
    if slug != label or not slug:
        digest = hashlib.sha256(label.encode(errors="surrogateescape")).hexdigest()
        slug = f"{slug}-{digest[:12]}"
    return InitiatorPort(f"{NAME_PREFIX}{kind}-{slug}")


def host_port(
    name: str | None = None, machine_id_files: Sequence[str] = MACHINE_ID_FILES
) -> InitiatorPort:
    """Return the port that stands for this host.

    Args:
        name: The host's name if the administrator gave one.
        machine_id_files: Where a machine id may be. Other hosts see the port, and
            machine-id(5) asks not to show the id to them, so a digest of it is used.
    """
    if name:
        return derived_port("host", name)
    for path in machine_id_files:
        try:
            with open(path, encoding="ascii") as file:
                text = file.read(64).strip()
        except (OSError, ValueError):
            continue
        # "uninitialized" in images, and zeros, are the same on every host.
        if _MACHINE_ID.fullmatch(text) and int(text, 16):
            digest = hashlib.sha256(b"flockpr initiator port\0" + text.encode()).hexdigest()
            return derived_port("host", digest[:32])
    return derived_port("host", os.uname().nodename)


class Identifier:
    """Finds the initiator port of each connection to one socket.

    Args:
        explicit: The port of every connection, if the administrator gave one.
        rules: The administrator's map.
        host: This host's name, if the administrator gave one.
        proc: Where procfs is.
    """

    def __init__(
        self,
        *,
        explicit: InitiatorPort | None = None,
        rules: Sequence[Rule] = (),
        host: str | None = None,
        proc: str = "/proc",
    ) -> None:
        self._explicit = explicit
        self._rules = tuple(rules)
        self._host = host_port(host)
        self._proc = proc

    def identify(self, sock: socket.socket, socket_path: str) -> Identity:
        """Find the initiator port of a connection. May block as long as procfs does.

        Args:
            sock: The connection.
            socket_path: Where it was accepted.

        Raises:
            ConnectionResetError: The client is gone already. What it has sent must not be
                executed in the name of somebody else.
        """
        if self._explicit is not None:
            return Identity(self._explicit, "configured for the socket")
        peer = read_peer(sock, self._proc)
        for rule in self._rules:
            if rule.matches(peer, socket_path):
                return Identity(rule.port, f"mapped by {rule.criterion}:{rule.value}")
        if peer is not None and peer.uuid:
            return Identity(derived_port("vm", peer.uuid), f"UUID of process {peer.pid}")
        if peer is not None and peer.name:
            return Identity(derived_port("name", peer.name), f"name of process {peer.pid}")
        return Identity(self._host, "this host")
