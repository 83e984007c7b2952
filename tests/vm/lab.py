"""What a shared file system between two emulated hosts is to the fault matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from attrs import define

from tests.vm import tunnel
from tests.vm.machine import Machine

if TYPE_CHECKING:
    from tests.vm.matrix import Row

DOORS: Mapping[str, int] = {"iscsi": 3260, "helper": 7000, "observer": 7001}
"""Names and ports of what tests connect to in a host, at `tunnel.BRIDGE_ADDRESS`."""


@define
class Node:
    """A host that serves.

    Args:
        name: Its host name, the same after each boot.
        machine: It, or what it is since its last boot.
        ports: Of 127.0.0.1, by the names of `DOORS`: they lead into the machine.
    """

    name: str
    machine: Machine
    ports: Mapping[str, int]


class Lab(Protocol):
    """Two hosts with one shared file system, and what can befall them."""

    @property
    def column(self) -> str:
        """What the file system is called in the table, such as ``NFSv4.2``."""

    @property
    def root(self) -> str:
        """Path of the root in both machines; the directory is not made yet."""

    @property
    def target_options(self) -> str:
        """Lines of TOML for the table ``[target]``."""

    @property
    def forgets(self) -> float | None:
        """Seconds after which the locks of a silent host are given to others by themselves;
        None where they never are.
        """

    @property
    def nodes(self) -> Sequence[Node]:
        """The two, booted and mounted."""

    @property
    def rows(self) -> Sequence[Row]:
        """The faults that only this file system knows."""

    def cut(self, number: int) -> None:
        """Take from a host all that it shares with others; the tests still reach it."""

    def mend(self, number: int) -> None:
        """End a cut."""

    def kill(self, number: int) -> None:
        """A host's power is gone."""

    def boot(self, number: int) -> None:
        """Boot a killed host, and mount; returns when it may serve."""


def free_ports() -> dict[str, int]:
    """Ports of 127.0.0.1 for the doors of one host."""
    return {name: tunnel.free_port() for name in DOORS}


def card(ports: Mapping[str, int]) -> list[str]:
    """QEMU's arguments for the network card that the tests reach a host through."""
    return tunnel.forwarding({ports[name]: inside for name, inside in DOORS.items()})
