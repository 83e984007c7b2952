"""SPDK's file for reservations through power loss of an NVMe-oF namespace, JSON.

NVMe knows hosts by UUID, and no target ports. A host is the initiator
``nqn.2014-08.org.nvmexpress:uuid:<UUID>`` here, which is NVMe's own way to make a name of one.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from flockpr.cli.formats import checks
from flockpr.cli.formats.registry import Registrant, Registry, Source, Wanted, Written
from flockpr.errors import ConfigError
from flockpr.spc.codes import ReservationType

TITLE = "SPDK PTPL file"
PREFIX = "nqn.2014-08.org.nvmexpress:uuid:"
_MOST = 16
_TYPES = dict(enumerate(ReservationType, start=1))
"""By NVMe's number; the order is SCSI's."""
_MEMBERS = ("ptpl", "rtype", "crkey", "bdev_uuid", "holder_uuid", "registrants")


def recognise(data: bytes) -> bool:
    """Whether it looks like this."""
    return data.lstrip()[:1] == b"{" and b'"registrants"' in data


# ------------------------------------------------------------------ writing


def write(source: Source, wanted: Wanted) -> Written:
    """The file of a state.

    Raises:
        ConfigError: It is not known which NVMe hosts or bdev they are, or SPDK has no room.
    """
    registry = source.registry()
    if not wanted.uuid:
        raise ConfigError("SPDK wants the UUID of its bdev", "give it with --uuid UUID")
    hosts, losses = _hosts(registry, wanted)
    if len(hosts) > _MOST:
        raise ConfigError(f"{len(hosts)} registrants, SPDK has {_MOST} at the most")
    losses += ["PRGENERATION: SPDK counts anew", "target ports: NVMe has none"]
    if registry.aptpl is False:
        losses.append("APTPL=0: SPDK drops what is not to stay, so ptpl is written as true")
    document = {
        "ptpl": True,
        **_reservation(registry, wanted),
        "registrants": [{"rkey": key, "host_uuid": host} for host, key in hosts.items()],
    }
    return Written((json.dumps(document, indent=2) + "\n").encode(), tuple(losses))


def _hosts(registry: Registry, wanted: Wanted) -> tuple[dict[str, int], list[str]]:
    """Keys by host UUID, in order, and what that leaves out."""
    hosts: dict[str, int] = {}
    losses: list[str] = []
    for one in registry.registrants:
        host = _host(one.initiator, wanted)
        if hosts.setdefault(host, one.key) != one.key:
            raise ConfigError(
                f"{one.initiator}: two keys of one host, which has one with NVMe",
                "unregister one of them first",
            )
        if ",i,0x" in one.initiator:
            losses.append(f"the ISID of {one.initiator}: NVMe has none")
        if one.all_target_ports:
            losses.append(f"ALL_TG_PT of {one.initiator}: with NVMe a host has all ports")
    return hosts, losses


def _host(initiator: str, wanted: Wanted) -> str:
    name = initiator.partition(",i,0x")[0]
    found = wanted.hosts.get(initiator) or wanted.hosts.get(name)
    if found is None and name.startswith(PREFIX):
        found = name.removeprefix(PREFIX)
    if found is None:
        raise ConfigError(
            f"{initiator}: it is not known which NVMe host that is",
            f"say it with --host {name}=UUID",
        )
    return _uuid(found, f"--host {name}")


def _reservation(registry: Registry, wanted: Wanted) -> dict[str, Any]:
    kind, key, holder = 0, 0, ""
    if registry.type is not None:
        kind = list(ReservationType).index(registry.type) + 1
        # Of an All Registrants reservation SPDK has the key of who made it, which nobody knows.
        one = registry.registrants[registry.holder or 0]
        key = one.key
        holder = "" if registry.type.all_registrants else _host(one.initiator, wanted)
    bdev = _uuid(wanted.uuid, "--uuid")
    return {"rtype": kind, "crkey": key, "bdev_uuid": bdev, "holder_uuid": holder}


def _uuid(text: str, where: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise ConfigError(f"{where}: {text[:60]!r} is no UUID") from None


# ------------------------------------------------------------------ reading


def read(data: bytes) -> Registry:
    """What such a file says.

    Raises:
        ConfigError: It is none.
    """
    document = _object(_parsed(data), "the file", _MEMBERS)
    if not _of(document, "ptpl", bool, "the file", default=False):
        return Registry(aptpl=False, notes=("ptpl is false: SPDK keeps nothing of it",))
    rtype = _of(document, "rtype", int, "the file", default=0)
    if rtype and rtype not in _TYPES:
        raise checks.wrong("rtype", f"{rtype} is no type of a reservation")
    kind = _TYPES.get(rtype)
    listed = _of(document, "registrants", list, "the file")
    registrants = [_registrant(value, f"registrants[{n}]") for n, value in enumerate(listed)]
    names = [one.initiator for one in registrants]
    holders = []
    if kind is not None and not kind.all_registrants:
        holder = _name(_of(document, "holder_uuid", str, "the file"), "holder_uuid")
        holders = [n for n, name in enumerate(names) if name == holder]
    notes = [
        checks.NO_GENERATION,
        "target ports: NVMe has none",
        f"its bdev: {_of(document, 'bdev_uuid', str, 'the file')}, is passed over",
    ]
    index = checks.one_holder(kind, holders)
    return Registry(tuple(registrants), kind, index, None, aptpl=True, notes=tuple(notes))


def _parsed(data: bytes) -> object:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise checks.wrong("the file", "a name occurs twice in an object")
        return dict(pairs)

    try:
        return json.loads(checks.text_of(data), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise checks.wrong("the file", f"no JSON: {error}") from None


def _object(value: object, where: str, members: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise checks.wrong(where, "no object")
    unknown = sorted(set(value) - set(members))
    if unknown:
        raise checks.wrong(where, f"{unknown[0][:60]!r} is not expected")
    return value


def _of(
    document: dict[str, Any], name: str, kind: type, where: str, default: object = None
) -> Any:  # of `kind`
    value = document.get(name, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise checks.wrong(where, f"{name} is no {kind.__name__}")
    return value


def _registrant(value: object, where: str) -> Registrant:
    one = _object(value, where, ("rkey", "host_uuid"))
    key = _of(one, "rkey", int, where)
    checks.key_of(str(key), 10, f"{where}.rkey")
    return Registrant(_name(_of(one, "host_uuid", str, where), where), key)


def _name(host: str, where: str) -> str:
    return PREFIX + _uuid(host, where)
