"""LIO's APTPL metadata: ``pr/aptpl_<unit serial>`` under its directory, text.

A block of ``name=value`` lines for each registration, keys in decimal, types in hex. The kernel
writes the file with a NUL at its end, and takes a block through ``pr/res_aptpl_metadata``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from flockpr.cli.formats import checks
from flockpr.cli.formats.registry import Registrant, Registry, Source, Wanted, Written
from flockpr.errors import ConfigError
from flockpr.spc.codes import ReservationType

TITLE = "LIO APTPL metadata"
_NOBODY = "No Registrations or Reservations"
_START, _END = "PR_REG_START: ", "PR_REG_END: "
_FABRIC = "iSCSI"
_ISID = re.compile(r"[0-9a-fA-F]{12}")
_ISCSI_NAME = re.compile(r"(iqn|eui|naa)\.")
_TYPED = ("res_type", "res_scope")
_NEEDED = ("initiator_fabric", "initiator_node", "sa_res_key", "res_holder")
_PASSED_OVER = ("mapped_lun", "target_fabric", "target_node", "tpgt", "target_lun")
_KNOWN = (*_NEEDED, *_TYPED, *_PASSED_OVER, "initiator_sid", "res_all_tg_pt", "port_rtpi")


def recognise(data: bytes) -> bool:
    """Whether it looks like this."""
    return data.startswith((_START.encode(), _NOBODY.encode()))


# ------------------------------------------------------------------ writing


def write(source: Source, wanted: Wanted) -> Written:
    """The file of a state.

    Raises:
        ConfigError: An initiator's name cannot stand in it.
    """
    registry = source.registry()
    losses = ["PRGENERATION: LIO counts anew"]
    if registry.aptpl is False and registry.registrants:
        losses.append("APTPL=0: what LIO reads from this file outlives a power cycle")
    unfit = [one.initiator for one in registry.registrants if not _ISCSI_NAME.match(one.initiator)]
    losses += [f"{name}: no iSCSI name, LIO has no access list entry for it" for name in unfit]
    if registry.type is not None and registry.type.all_registrants:
        first = registry.registrants[0].initiator
        losses.append(f"the holder: all registrants hold, LIO names one of them, {first}")
    if registry.registrants:
        losses.append(
            f"its target: target_node={wanted.target_node}, tpgt={wanted.tag}, target_lun and "
            f"mapped_lun={wanted.lun} have to be those of LIO's configuration"
        )
    blocks = [_block(number, registry, wanted) for number in range(len(registry.registrants))]
    text = "".join(blocks) or f"{_NOBODY}\n"
    return Written(text.encode() + b"\0", tuple(losses))


def _block(number: int, registry: Registry, wanted: Wanted) -> str:
    one = registry.registrants[number]
    node, _, isid = one.initiator.partition(",i,0x")
    if "," in node:
        raise ConfigError(f"{node}: LIO separates by commas and cannot read such a name")
    everybody = registry.type is not None and registry.type.all_registrants
    holder = number == (0 if everybody else registry.holder)
    lines = [f"{_START}{number}", f"initiator_fabric={_FABRIC}", f"initiator_node={node}"]
    lines += [f"initiator_sid={isid}"] if isid else []
    lines += [f"sa_res_key={one.key}", f"res_holder={int(holder)}"]
    if holder and registry.type is not None:
        lines += [f"res_type={registry.type:02x}", "res_scope=00"]
    lines += [
        f"res_all_tg_pt={int(one.all_target_ports)}",
        f"mapped_lun={wanted.lun}",
        f"target_fabric={_FABRIC}",
        f"target_node={wanted.target_node}",
        f"tpgt={wanted.tag}",
        f"port_rtpi={one.target_port}",
        f"target_lun={wanted.lun}",
        f"{_END}{number}",
    ]
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------ reading


def read(data: bytes) -> Registry:
    """What such a file says.

    Raises:
        ConfigError: It is none, or one that was cut short.
    """
    text = checks.text_of(data.rstrip(b"\0"))
    if text.strip() == _NOBODY:
        return Registry(aptpl=None, notes=("registrations: it has none, also where APTPL was 0",))
    registrants: list[Registrant] = []
    holders: list[int] = []
    kinds = []
    targets: set[str] = set()
    for where, block in _blocks(text):
        if checks.number(block["res_holder"], 10, 1, f"{where}, res_holder"):
            holders.append(len(registrants))
            kinds.append(_type(block, where))
        registrants.append(_registrant(block, where))
        targets.add(block.get("target_node", ""))
    if len(holders) > 1:
        raise checks.wrong("reservation", f"{len(holders)} holders, LIO has one")
    kind = kinds[0] if kinds else None
    notes = [checks.NO_GENERATION]
    notes += [f"its target: {name}, is passed over" for name in sorted(targets - {""})]
    holder = checks.one_holder(kind, holders)
    return Registry(tuple(registrants), kind, holder, None, aptpl=True, notes=tuple(notes))


def _blocks(text: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Each registration with the place where it begins."""
    block: dict[str, str] | None = None
    begun = ""
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"line {number}"
        if line.startswith(_START):
            if block is not None:
                raise checks.wrong(where, f"the registration of {begun} has no end")
            block, begun = {}, where
        elif block is None:
            if line.strip():
                raise checks.wrong(where, "outside of a registration")
        elif line.startswith(_END):
            missing = [name for name in _NEEDED if name not in block]
            if missing:
                raise checks.wrong(begun, f"a registration without {', '.join(missing)}")
            yield begun, block
            block = None
        else:
            name, equals, value = line.partition("=")
            if not equals or name not in _KNOWN or name in block:
                raise checks.wrong(where, f"{line[:60]!r} is not expected")
            block[name] = value
    if block is not None:
        raise checks.wrong(begun, "the registration has no end: the file was cut short")


def _type(block: Mapping[str, str], where: str) -> ReservationType:
    if "res_type" not in block:
        raise checks.wrong(where, "a holder without res_type")
    if checks.number(block.get("res_scope", "00"), 16, 15, f"{where}, res_scope"):
        raise checks.wrong(where, "a scope that is not the logical unit")
    kind = checks.number(block["res_type"], 16, 15, f"{where}, res_type")
    return checks.type_of(kind, where)


def _registrant(block: Mapping[str, str], where: str) -> Registrant:
    name = block["initiator_node"]
    isid = block.get("initiator_sid")
    if isid is not None:
        if not _ISID.fullmatch(isid):
            raise checks.wrong(where, f"initiator_sid {isid[:40]!r} has not 12 hex digits")
        name = f"{name},i,0x{isid}"
    port = block.get("port_rtpi")
    every = checks.number(block.get("res_all_tg_pt", "0"), 10, 1, f"{where}, res_all_tg_pt")
    return Registrant(
        name.lower(),
        checks.key_of(block["sa_res_key"], 10, f"{where}, sa_res_key"),
        None if port is None else checks.number(port, 10, 0xFFFF, f"{where}, port_rtpi"),
        bool(every),
        iscsi=block["initiator_fabric"] == _FABRIC,
    )
