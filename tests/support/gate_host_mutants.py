"""Gates that treat a host which does not answer wrongly, each in one place."""

from __future__ import annotations

import functools
import tempfile
import time
from pathlib import Path
from typing import Any

from flockpr.errors import Busy, HostFenced
from flockpr.gate import Doorbell, fenced, places
from flockpr.gate.ears import Ears
from flockpr.gate.fences import fences_of
from flockpr.gate.image import SYSCALLS
from flockpr.gate.narrowing import Held
from flockpr.gate.rounds import Rounds
from flockpr.gate.stake import Stake
from tests.support import gate_scenes
from tests.support.gate_mutants import silent_log
from tests.support.gates import Rig, soon
from tests.support.store_mutants import Mutant

SEEDS = 30


def many(scene: gate_scenes.Scene) -> Any:
    """A scene with many schedules."""

    @functools.wraps(scene)
    def scenes() -> None:
        for seed in range(SEEDS):
            scene(seed)

    return scenes


def stays_out_when_fenced() -> None:
    """A target of a host that was declared fenced gets no permit."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root, silent_log():
        rig = Rig.at(Path(root))
        target = rig.permit()
        fenced.declare(root, target.host, proof="a test")
        entered = target.enter(soon())
        if entered:
            target.leave()
        rig.close()
        assert not entered, "a fenced host has a permit"
        assert isinstance(target.fault, HostFenced)


def waits_for_its_own() -> None:
    """A host that was declared fenced, and lives, has a write under way."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root, silent_log():
        rig = Rig.at(Path(root))
        target = rig.permit()
        assert target.enter(soon())
        fenced.declare(root, target.host, proof="a test")
        fences_of(root, SYSCALLS).look()
        try:
            with rig.gate().narrow(time.monotonic() + 0.5):
                raise AssertionError("it goes past a write of its own")
        except Busy:
            target.leave()
        except HostFenced:  # which is looked at with all permits held
            raise AssertionError("it goes past a write of its own") from None
        finally:
            rig.close()


def has_a_byte_of_its_own() -> None:
    """Two targets of one host."""
    assert len({places.any_permit(5) for _ in range(50)}) > 1, "two targets have one byte"


(
    hung_for_too_long,
    dead,
    dead_for_long,
    gone_for_good,
    lost_node,
    slow,
    late,
    around,
    two_commands_and_a_fenced_host,
    fenced_ringer,
    stopped,
    command_dies,
    locks_forgotten,
    one_process,
) = map(
    many,
    (
        gate_scenes.hung_for_too_long,
        gate_scenes.dead,
        gate_scenes.dead_for_longer_than_a_command_waits,
        gate_scenes.gone_for_good,
        gate_scenes.lost_node,
        gate_scenes.slow,
        gate_scenes.late,
        gate_scenes.around_a_fenced_host,
        gate_scenes.two_commands_and_a_fenced_host,
        gate_scenes.fenced_ringer,
        gate_scenes.stopped_ringer,
        gate_scenes.command_dies,
        gate_scenes.locks_forgotten,
        gate_scenes.one_process,
    ),
)

HOST_MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "rings for everybody while it waits for one",
        Rounds,
        "_step_back",
        "self._bell.hush(self._gate.number)",
        "pass",
        (dead, one_process),
    ),
    Mutant(
        "bars its own process while it waits for another host",
        Rounds,
        "_admit",
        "permit.admit(self)",
        "pass",
        (one_process,),
    ),
    Mutant(
        "keeps permits while it waits for fencing",
        Rounds,
        "_step_back",
        "self.image.unlock(places.ALL_PERMITS)",
        "pass",
        (lost_node,),
    ),
    Mutant(
        "silent hosts are not called",
        Doorbell,
        "call",
        "self.ring(number, group)",
        "pass",
        (slow, late),
    ),
    Mutant(
        "late ones are kept away for those who are silent",
        Rounds,
        "_wait_for_silent",
        "self._late if time.monotonic() < calm else silent",
        "self._late",
        (late,),
    ),
    Mutant(
        "a target that is called alone does not listen",
        Doorbell,
        "wanted",
        "groups = {places.EVERYBODY, places.group_of(host)}",
        "groups = {places.EVERYBODY}",
        (slow,),
    ),
    Mutant(
        "silent hosts are not remembered",
        Rounds,
        "_note",
        "self._silence.note(silent)",
        "pass",
        (dead, hung_for_too_long),
    ),
    Mutant(
        "nobody knocks in the background",
        Rounds,
        "obtain",
        "self._silence.knock(gate.root, gate.number, gate.path, gate.host, gate.syscalls)",
        "pass",
        (dead_for_long,),
    ),
    Mutant(
        "fenced hosts are waited for",
        Rounds,
        "_leave_out",
        "if fenced == self._fenced:",
        "if True:",
        (gone_for_good, around),
    ),
    Mutant(
        "permits behind a fenced host are not taken",
        Rounds,
        "_take",
        "del pending[0]",
        "pending.clear()",
        (around,),
    ),
    Mutant(
        "permits are taken in any order",
        places,
        "all_permits_but",
        "return tuple(ranges)",
        "return tuple(random.sample(ranges, len(ranges)))",
        (two_commands_and_a_fenced_host,),
    ),
    Mutant(
        "a fenced host serves",
        Stake,
        "take",
        "fenced.check(self._root, self._host, self._sys)",
        "pass",
        (stays_out_when_fenced,),
    ),
    Mutant(
        "the ring of a fenced host counts",
        Doorbell,
        "wanted",
        "ringing - deaf(number, ringing)",
        "ringing",
        (fenced_ringer,),
    ),
    Mutant(
        "a ring is heeded for ever",
        Ears,
        "_endless",
        "age >= ENDLESS and",
        "False and",
        (stopped,),
    ),
    Mutant(
        "a host leaves out its own permits",
        Rounds,
        "_leave_out",
        "fenced -= {self._gate.host}",
        "pass",
        (waits_for_its_own,),
    ),
    Mutant(
        "nobody looks whether a ringer lives",
        Stake,
        "take",
        "bell.nudge(self._number)",
        "pass",
        (command_dies,),
    ),
    Mutant(
        "the cluster's lock is not waited for",
        Rounds,
        "_cluster_is_whole",
        "if force is None:",
        "if True:",
        (lost_node,),
    ),
    Mutant(
        "the cluster's lock is had before the permits",
        Rounds,
        "_round",
        """self._ring()
    while not self._take(self._grace()):
        silent = self._in_the_way()
        if silent:
            self._note(silent)
            return False
        self._check_time("another command that takes access away is under way", of_whom=True)
    return self._cluster_is_whole()""",
        """whole = self._cluster_is_whole()
    self._ring()
    return whole and self._take(self._deadline)""",
        (lost_node,),
    ),
    Mutant(
        "permits are not asked for again",
        Held,
        "_proven",
        "not self._way.has_all()",
        "False",
        (locks_forgotten,),
    ),
    Mutant(
        "all targets of a host have one byte",
        places,
        "any_permit",
        "random.randrange(PERMIT_INSTANCES)",
        "5",
        (has_a_byte_of_its_own,),
    ),
)
