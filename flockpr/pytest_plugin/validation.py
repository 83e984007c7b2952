"""The steps by which a cluster validates a shared disk, as a ready-made test.

They follow what is published of the persistent reservation test of Windows failover cluster
validation: register, reserve, read the reservation back, conflict of the others, preempt by a
registered node, writes of whoever is not registered, release and unregister, for each node in
turn. It is not that program; whether it passes can only be seen by running it.
"""

from __future__ import annotations

from collections.abc import Sequence

from flockpr.pytest_plugin.nexus import Nexus
from flockpr.spc.codes import ReservationType

TYPE = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY


def key_of(number: int) -> int:
    """The reservation key of the node with this number, from 1."""
    return 0x5000_0000_0000_0000 + number


def validate(nodes: Sequence[Nexus]) -> None:
    """Take all nodes through the steps; nothing is left registered.

    Args:
        nodes: At least two, of one logical unit; none registered.

    Raises:
        AssertionError: A step was not answered as it must be; says which, and of which node.
    """
    assert len(nodes) > 1, "validation takes two nodes"
    for number, node in enumerate(nodes, start=1):
        key = key_of(number)
        _clear(nodes)
        node.register_ignore(key).ok()
        _shows(node, key)
        node.reserve(key, TYPE).ok()
        _reserved_by(node, key)
        for other_number, other in enumerate(nodes, start=1):
            if other is not node:
                _contest(node, key, other, key_of(other_number))
        node.release(key, TYPE).ok()
        assert node.read_reservation().held is None, f"{node.name} has released, in vain"
        node.register_ignore(0).ok()
        assert key not in node.read_keys().keys, f"{node.name} has unregistered, in vain"
    _clear(nodes)


def _contest(node: Nexus, key: int, other: Nexus, other_key: int) -> None:
    """The holder defends the disk against another node, loses it, and gets it back."""
    other.attentions()
    other.reserve(other_key, TYPE).conflicts()
    other.write().conflicts()
    other.register_ignore(other_key).ok()
    other.reserve(other_key, TYPE).conflicts()
    other.write().ok()
    _reserved_by(other, key)
    other.preempt(other_key, key, TYPE).ok()
    _reserved_by(other, other_key)
    assert key not in other.read_keys().keys, f"{other.name} has preempted {node.name}, in vain"
    assert node.attentions(), f"{node.name} was not told that it was preempted"
    node.write().conflicts()
    node.register_ignore(key).ok()
    node.preempt(key, other_key, TYPE).ok()
    other.attentions()
    _reserved_by(node, key)


def _clear(nodes: Sequence[Nexus]) -> None:
    """Nothing of earlier steps is left: whoever registers may clear."""
    key = key_of(0)
    nodes[0].attentions()
    nodes[0].register_ignore(key).ok()
    nodes[0].clear(key).ok()
    for node in nodes:
        node.attentions()


def _shows(node: Nexus, key: int) -> None:
    assert node.read_keys().keys.count(key) == 1, f"{node.name} does not find its key"


def _reserved_by(node: Nexus, key: int) -> None:
    held = node.read_reservation().held
    assert held is not None, f"{node.name} finds no reservation"
    assert (held.key, held.type) == (key, TYPE), f"{node.name} finds {held}, not key {key:#x}"
