"""An operator answers for a host: first what that would mean, then the declaration.

A declaration is for the host and not for one logical unit: what has no power, or no path to the
storage, has none for any of them. It is refused where it would be wrong or of no use: for a host
that gives its permits back when it is called, for this host, and for one that has no permit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import attrs

from flockpr import events
from flockpr.errors import Busy, ConfigError
from flockpr.gate import fenced, places, records
from flockpr.gate.doorbell import Doorbell
from flockpr.gate.image import SYSCALLS, ImageFile, open_image
from flockpr.gate.overview import LunGate, Overview
from flockpr.store.syscalls import Syscalls

CALL = 3.0
"""Seconds in which a host that lives gives its permit back when it is called."""
FRESH = 60.0
"""Seconds in which a word from a host says that it lives, by clocks that may differ."""
_EVERY = 0.05


@attrs.frozen
class Plan:
    """What declaring a host fenced would do.

    Attributes:
        overview: What is known of all hosts.
        number: The host.
        gates: Of the logical units for which its permit, or its ring, is in the way.
        declared: It is declared already.
    """

    overview: Overview
    number: int
    gates: tuple[LunGate, ...]
    declared: fenced.Declaration | None

    @property
    def fresh(self) -> bool:
        """Whether it was heard of so lately that it probably lives."""
        age = self.overview.age(self.number)
        return age is not None and abs(age) < FRESH


def resolve(overview: Overview, gates: Sequence[LunGate], host: str) -> int:
    """The host that an operator means, by name or by number.

    A name that several boots have had is that of the one whose permit is in the way.

    Raises:
        ConfigError: There is no such host, or several.
    """
    known = {*overview.concerned(gates)}
    digits = host.removeprefix("0x").lower()
    if len(digits) == records.DIGITS and not digits.strip("0123456789abcdef"):
        number = int(digits, 16)
        if number in known:
            return number
    named = {number for number in known if overview.name(number) == host}
    holding = named & {number for gate in gates for number in (*gate.permits, *gate.rings)}
    found = holding or named
    if not found:
        raise ConfigError(f"no host {host} is known here", "`flockpr gate show` lists them")
    if len(found) > 1:
        numbers = ", ".join(f"{number:0{records.DIGITS}x}" for number in sorted(found))
        raise ConfigError(f"{host} is the name of several hosts", f"give a number: {numbers}")
    return found.pop()


def plan(overview: Overview, gates: Sequence[LunGate], number: int) -> Plan:
    """What declaring this host would do.

    Args:
        overview: What is known of all hosts.
        gates: Of the logical units that are concerned.
        number: The host.

    Raises:
        ConfigError: It is this host, perhaps by a name that it had before.
        Busy: Its permit is not in the way.
    """
    if overview.here(number):
        raise ConfigError(
            f"{overview.label(number)} is this very host, or runs since the same boot: it cannot "
            "be declared fenced from itself",
            "stop its target instead; a copy of this machine is declared from a third one",
        )
    held = tuple(gate for gate in gates if gate.permits.get(number) or number in gate.rings)
    declared = overview.fenced.get(number)
    if not held and declared is None:
        raise Busy(
            f"{overview.label(number)} has no permit here, nor rings: nobody waits for it",
            overview.root,
            "`flockpr gate show` says who has",
        )
    return Plan(overview, number, held, declared)


def answers(plan: Plan, syscalls: Syscalls | None = None) -> bool:
    """Call the host for the first of its permits: whether it gives it back, as only one that
    lives does. Nothing is kept, and it takes its permit again after that. Of one that has none,
    and rings: whether it stops.

    Raises:
        StoreError: It cannot be called.
    """
    sys_ = syscalls or SYSCALLS
    if not plan.gates or plan.declared is not None:
        return False
    gate, deadline = plan.gates[0], time.monotonic() + CALL
    image = open_image(gate.image, sys_)
    try:
        with Doorbell(plan.overview.root, sys_) as bell:
            if plan.number in gate.permits:
                bell.call(gate.lun, [plan.number])
            while not _gave_way(plan.number, gate, image, bell):
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_EVERY)
            return True
    finally:
        image.close()


def _gave_way(number: int, gate: LunGate, image: ImageFile, bell: Doorbell) -> bool:
    if number in gate.permits:
        return image.lock(places.permits_of(number))
    return all(ring.host != number for ring in bell.rings(gate.lun))


def check(plan: Plan, *, answered: bool, sure: bool) -> None:
    """See that a host may be declared fenced.

    Args:
        plan: What it would do.
        answered: It gave its permit back when it was called.
        sure: The operator insists that a host which was heard of lately is fenced.

    Raises:
        Busy: It lives, or seems to.
    """
    name, root = plan.overview.label(plan.number), plan.overview.root
    if answered:
        raise Busy(
            f"{name} lives: it gave its permit back when it was called",
            root,
            "send the command that was BUSY again",
        )
    if plan.fresh and not sure and plan.declared is None:
        age = plan.overview.age(plan.number)
        raise Busy(
            f"{name} was heard of {abs(age or 0.0):.0f} s ago: it seems to live",
            root,
            "make sure that it is fenced and wait a minute, or say --yes-it-is-fenced",
        )


def carry_out(
    plan: Plan, proof: str, lun: str = "", syscalls: Syscalls | None = None
) -> fenced.Declaration:
    """Declare the host fenced, durably, and tell it.

    Args:
        plan: What it does.
        proof: Why the host cannot write any more.
        lun: The logical unit that waits for it; empty for all.
        syscalls: Where the calls go.

    Returns:
        What is in force: of two operators the first one's.

    Raises:
        ConfigError: There is no proof.
        StoreError: It could not be written.
    """
    overview, number = plan.overview, plan.number
    host = overview.name(number) or ""
    declared = fenced.declare(overview.root, number, syscalls, proof=proof, host=host, lun=lun)
    detail = f"by {declared.user} on {declared.declared_on}: {declared.proof}"
    for gate in plan.gates:
        events.forced_gate(gate.image, [overview.label(number)], detail)
    return declared
