"""An operator says that a host which was declared fenced has booted since: the record goes.

A declaration is for one boot of a host, whose number never comes again, so a record of a boot
that is over stands for nobody; it only costs each command that has to wait a look. Nothing here
can tell that the boot is over, so a person says it. It is refused where the contrary can be seen.
"""

from __future__ import annotations

from collections.abc import Sequence

from flockpr.errors import Busy, ConfigError
from flockpr.gate import fenced, forcing
from flockpr.gate.overview import LunGate, Overview
from flockpr.gate.records import DIGITS


def declared(overview: Overview, host: str) -> list[int]:
    """The declared hosts of a name, or the one of a number: a name has several boots.

    Raises:
        ConfigError: None was declared.
    """
    digits = host.removeprefix("0x").lower()
    found = [
        number
        for number, declaration in sorted(overview.fenced.items())
        if f"{number:0{DIGITS}x}" == digits or host in (declaration.host, overview.name(number))
    ]
    if not found:
        raise ConfigError(f"no host {host} is declared fenced", "`flockpr gate show` lists them")
    return found


def check(overview: Overview, gates: Sequence[LunGate], number: int) -> None:
    """See that nothing speaks against the boot of a host being over.

    Args:
        overview: What is known of all hosts.
        gates: Of all logical units of the root.
        number: The host.

    Raises:
        ConfigError: It is this boot of this host.
        Busy: Its locks are still there, or it was heard of.
    """
    label, root = overview.label(number), overview.root
    if overview.here(number):
        raise ConfigError("it is this very boot of this host", "reboot it, then forget it")
    if any(gate.permits.get(number) or number in gate.rings for gate in gates):
        raise Busy(
            f"the file server still has locks of {label}: commands would wait for it again",
            root,
            "boot that host, or have the server forget its locks",
        )
    age = overview.age(number)
    if age is not None and abs(age) < forcing.FRESH:
        raise Busy(f"{label} was heard of {abs(age):.0f} s ago: it lives", root, "reboot it first")


def carry_out(overview: Overview, number: int) -> None:
    """Remove the declaration, durably; no harm if another operator has done so.

    Raises:
        StoreError: It cannot be removed.
    """
    fenced.forget(overview.root, number)
