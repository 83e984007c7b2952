"""Faults put into the rules: the second model and a few sequences have to notice them."""

from __future__ import annotations

import random

import pytest

from flockpr.core.events import occur
from flockpr.core.invariants import check
from flockpr.core.machine import step
from tests.support.mutant_oracle import SECONDS, notices
from tests.support.mutants import Mutant, built, modules, mutants, processor_time
from tests.support.twins import Machine

_EQUAL = "The one that is made instead is equal; nobody asks whether it is the same."
_FALSY = "None and False are the same to every caller"
_NO_PARSER = "only a list made by hand lacks a key without a fault, and that is 05/1A/00 anyway"

EQUIVALENT: tuple[tuple[str, str, str, str, str], ...] = (
    # module, function, before, after, why it makes no difference
    ("outcome", "Outcome.shown", "if epoch == self.seen_epoch:", "pass", _EQUAL),
    ("outcome", "Outcome.shown", "return self", "pass", _EQUAL),
    (
        "standing",
        "holds",
        "return False",
        "return None",
        _FALSY,
    ),
    (
        "preempt",
        "_takes_over",
        "return False",
        "return None",
        _FALSY,
    ),
    (
        "access",
        "_allowed_beside_spc2",
        "return False",
        "return None",
        _FALSY,
    ),
    (
        "access",
        "narrows",
        "return False",
        "return None",
        _FALSY,
    ),
    (
        "access",
        "narrows",
        "if after.reservation is None and after.spc2 is None:",
        "pass",
        "to look at everybody finds the same where nothing keeps anybody away",
    ),
    (
        "access",
        "allowed",
        "reservation is None or reservation.type.exclusive_access",
        "reservation.type.exclusive_access",
        "without a reservation everybody has access, so this line is not reached",
    ),
    (
        "attention",
        "pending",
        "up_to_date(state, seen_epoch) or Attention.POWER_ON in codes",
        "up_to_date(state, seen_epoch)",
        "29/00 twice in what waits is told once: clearing drops every one",
    ),
    (
        "attention",
        "pending",
        "Attention.POWER_ON",
        "Attention.BUS_RESET",
        "nothing raises 29/02; then as above",
    ),
    (
        "attention",
        "most_urgent",
        "65535",
        "65536",
        "any number above every code will do",
    ),
    (
        "attention",
        "most_urgent",
        "65535",
        "65534",
        "any number above every code will do",
    ),
    (
        "registry",
        "enrol",
        "used.add(slot)",
        "pass",
        "the search goes on behind the slot just given out, and never comes round in one command",
    ),
    (
        "prin",
        "_full_status",
        "0",
        "1",
        "the type is shown with holders only, so with a reservation",
    ),
    (
        "preempt",
        "_takes_over",
        "holder is not None and holder.key == key",
        "holder.key == key",
        "a holder is registered (invariant)",
    ),
    (
        "preempt",
        "_take_over",
        "state.reservation is not None and state.reservation.type is not kind",
        "state.reservation.type is not kind",
        "only a reservation can be taken over",
    ),
    (
        "registering",
        "register",
        "key is None or _is_length(fault)",
        "_is_length(fault)",
        _NO_PARSER,
    ),
    (
        "registering",
        "register",
        "fault or PARAMETER_LIST_LENGTH_ERROR",
        "fault and PARAMETER_LIST_LENGTH_ERROR",
        _NO_PARSER,
    ),
    (
        "registering",
        "register",
        "fault or PARAMETER_LIST_LENGTH_ERROR",
        "PARAMETER_LIST_LENGTH_ERROR",
        _NO_PARSER,
    ),
    (
        "registering",
        "register",
        "fault or PARAMETER_LIST_LENGTH_ERROR",
        "fault",
        _NO_PARSER,
    ),
    (
        "registering",
        "_destination",
        "key is None or _is_length(fault)",
        "_is_length(fault)",
        _NO_PARSER,
    ),
    (
        "registering",
        "_target_ports",
        " for port in config.target_ports if port != nexus.target_port",
        " for port in config.target_ports",
        "to register a nexus twice in one command is to register it",
    ),
    (
        "prout",
        "release",
        "held is None or not holds(state, own.nexus)",
        "not holds(state, own.nexus)",
        "nobody holds what there is not",
    ),
    (
        "machine",
        "_tell",
        "isinstance(command, OtherCommand) and opcode == Opcode.REQUEST_SENSE",
        "opcode == Opcode.REQUEST_SENSE",
        "only an OtherCommand has an opcode here",
    ),
    (
        "events",
        "_adopt",
        "state.registrations or state.reservation is not None or state.spc2 is not None",
        "state.registrations or state.spc2 is not None",
        "who holds a reservation is registered (invariant)",
    ),
    (
        "machine",
        "_sense_data",
        "5",
        "6",
        "the sixth byte is not looked at",
    ),
)
"""Mutants that change nothing that can be seen."""


def survivors(chosen: list[Mutant], commands: int) -> list[Mutant]:
    """Which mutants the oracle does not notice."""
    found = []
    for mutant in chosen:
        mutant.put()
        try:
            with processor_time(SECONDS), built(TREES, mutant.module) as machine:
                pass
            noticed = notices(machine, commands)
        except Exception as error:
            noticed = repr(error)
        finally:
            mutant.undo()
        if noticed is None:
            found.append(mutant)
    return found


def tell(found: list[Mutant]) -> str:
    """The survivors, one a line."""
    return "\n".join(f"{it.module}.py:{it.line} {it.where}: {it.what}" for it in found)


TREES = modules()
SAME = {(module, where, f"{before} -> {after}") for module, where, before, after, _ in EQUIVALENT}
MUTANTS = {
    name: [mutant for mutant in mutants(name, tree) if mutant.name not in SAME]
    for name, tree in TREES.items()
}


def test_mutant_oracle_has_nothing_against_the_machine() -> None:
    """The oracle is quiet about the package as it is."""
    assert notices(Machine(step, occur, check), 1500) is None


def test_mutant_equivalents_still_exist() -> None:
    """An exclusion whose code is gone is an error: it may hide another mutant one day."""
    names = {mutant.name for name, tree in TREES.items() for mutant in mutants(name, tree)}
    assert names >= SAME


def test_mutant_sample_is_killed() -> None:
    """Of 40 mutants of all modules at least 95 % are noticed by a short run."""
    every = [mutant for found in MUTANTS.values() for mutant in found]
    sample = random.Random(4).sample(every, 40)
    left = survivors(sample, 3000)
    assert len(left) <= len(sample) * 0.05, tell(left)


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("module", TREES)
def test_mutant_of_module_is_killed(module: str) -> None:
    """Of all mutants of each module that implements the rules at least 95 % are noticed."""
    left = survivors(MUTANTS[module], 12000)
    total = len(MUTANTS[module])
    print(f"\n{module}: {total - len(left)} of {total} mutants killed\n{tell(left)}")
    assert len(left) <= total * 0.05, tell(left)
