"""What a foreign file means here: its initiators and target ports as those of a logical unit."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from flockpr.cli.formats.registry import Registrant, Registry
from flockpr.core.events import Adopted, Adoption
from flockpr.core.model import Nexus, Reservation
from flockpr.errors import ConfigError
from flockpr.spc.transport_id import InitiatorPort
from flockpr.store.identity import HELPER_PORT, TARGET_PORT, LunIdentity


def resolve(
    registry: Registry,
    identity: LunIdentity,
    target_port: int | None,
    names: Mapping[str, str],
) -> tuple[Adoption, list[str]]:
    """The event that takes a file's registrations over, and what it leaves behind.

    Args:
        registry: The file.
        identity: Of the logical unit.
        target_port: Where all of them are to be registered; None: where the file says.
        names: By name in the file, the name here.

    Raises:
        ConfigError: Something does not exist here, or is not said: nothing is guessed.
    """
    if not registry.registrants:
        why = f" ({'; '.join(registry.notes)})" if registry.notes else ""
        raise ConfigError(f"nobody is registered{why}")
    _check_names(registry, names)
    if target_port is not None and target_port not in identity.target_ports:
        raise ConfigError(f"--target-port {target_port}: {_ports(identity)}")
    notes = list(registry.notes)
    adopted: dict[Nexus, Adopted] = {}
    holders: list[Nexus] = []
    for number, one in enumerate(registry.registrants):
        port = _initiator(one, names)
        numbers = _target_ports(one, identity, target_port, notes)
        for nexus in (Nexus(port, number) for number in numbers):
            _enter(adopted, Adopted(nexus, one.key, one.all_target_ports), notes)
            holders += [nexus] if number == registry.holder else []
    reservation = None
    if registry.type is not None:
        reservation = Reservation(registry.type, _holder(registry, holders))
    aptpl = registry.aptpl is not False
    adoption = Adoption(tuple(adopted.values()), reservation, aptpl, registry.generation)
    return adoption, list(dict.fromkeys(notes))


def _check_names(registry: Registry, names: Mapping[str, str]) -> None:
    known = {name for one in registry.registrants for name in _names(one)}
    for name in names:
        if name not in known:
            raise ConfigError(f"--rename {name}: the file has no initiator of that name")


def _names(one: Registrant) -> tuple[str, str]:
    """The names by which it can be renamed: with and without its ISID."""
    return one.initiator, one.initiator.partition(",i,0x")[0]


def _initiator(one: Registrant, names: Mapping[str, str]) -> InitiatorPort:
    new = next((names[name] for name in _names(one) if name in names), None)
    if new is None and not one.iscsi:
        raise ConfigError(
            f"{one.initiator}: of another transport than iSCSI",
            f"say which initiator it is here with --rename {one.initiator}=NAME",
        )
    try:
        return InitiatorPort.from_text(one.initiator if new is None else new)
    except ValueError as error:
        raise ConfigError(f"{new or one.initiator}: {error}") from None


def _target_ports(
    one: Registrant, identity: LunIdentity, wanted: int | None, notes: list[str]
) -> tuple[int, ...]:
    if wanted is not None:
        return (wanted,)
    if one.target_port is None and one.all_target_ports:
        return identity.target_ports
    if one.target_port is None:
        port = HELPER_PORT if identity.image is None else TARGET_PORT
        notes.append(f"the target port: it is {port}, that of the door which {identity.name} has")
        return (port,)
    if one.target_port not in identity.target_ports:
        raise ConfigError(
            f"{one.initiator} is registered at relative target port {one.target_port}: "
            + _ports(identity),
            "say with --target-port N where to register all of them",
        )
    return (one.target_port,)


def _ports(identity: LunIdentity) -> str:
    return f"{identity.name} has {', '.join(map(str, sorted(identity.target_ports)))}"


def _enter(adopted: dict[Nexus, Adopted], one: Adopted, notes: list[str]) -> None:
    """Two registrations that fall together here have to be one in all that counts."""
    other = adopted.get(one.nexus)
    if other is None:
        adopted[one.nexus] = one
        return
    who = f"{one.nexus.initiator_port.text} at target port {one.nexus.target_port}"
    if other.key != one.key:
        raise ConfigError(f"{who}: two registrations fall together, with different keys")
    notes.append(f"a second registration of {who}, with the same key")
    every = other.all_target_ports or one.all_target_ports
    adopted[one.nexus] = attrs.evolve(other, all_target_ports=every)


def _holder(registry: Registry, holders: list[Nexus]) -> Nexus | None:
    if registry.type is None or registry.type.all_registrants:
        return None
    if len(set(holders)) != 1:
        raise ConfigError(
            "the holder is registered at all target ports, and only one of them can hold here",
            "say which with --target-port N",
        )
    return holders[0]
