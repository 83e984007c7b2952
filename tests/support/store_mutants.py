"""Stores that were broken on purpose, each in one place, and the scene that must notice.

A mutant is a change of the source text of one function; text that is not there any more is
an error, so that a mutant cannot become harmless unseen.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import random
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import attrs

from flockpr.logical_unit.standing import Standing
from flockpr.store import files
from flockpr.store.archive import Archive
from flockpr.store.chain import Chain
from flockpr.store.commits import CommitLog
from flockpr.store.lockdir import LockDirectory
from tests.support import interleave, stalls, sweeps
from tests.support.scenes import EVERYTHING, power_cuts, reply_before_durability
from tests.support.scsi import in_cdb, nexus
from tests.support.simtime import preempting

Scene = Callable[[], object]


@attrs.frozen
class Mutant:
    """One change and the scenes that notice it.

    Attributes:
        name: What is broken.
        owner: The class or module that has the function.
        function: The function.
        old: A piece of its source.
        new: What stands there instead.
        scenes: Each must raise AssertionError.
    """

    name: str
    owner: Any
    function: str
    old: str
    new: str
    scenes: tuple[Scene, ...]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The package with this change."""
        original = getattr(self.owner, self.function)
        source = textwrap.dedent(inspect.getsource(original))
        assert source.count(self.old) == 1, f"{self.name}: {self.old!r} is not in the source once"
        code = "from __future__ import annotations\n" + source.replace(self.old, self.new)
        module = vars(sys.modules[original.__module__])
        names = dict(module)
        exec(compile(code, f"<{self.name}>", "exec"), names)
        changed = names[self.function]
        if isinstance(changed, types.FunctionType):
            # With the names of the module as they are when it runs: a scene may replace some.
            live = types.FunctionType(changed.__code__, module, changed.__name__)
            live.__defaults__, live.__kwdefaults__ = changed.__defaults__, changed.__kwdefaults__
            changed = live
        with mock.patch.object(self.owner, self.function, changed):
            yield


def _cuts(*, forgetful: bool = False) -> None:
    power_cuts(EVERYTHING, random.Random(1), forgetful=forgetful)


def _fault(name: str, what: str, number: int, late: bool) -> Scene:
    """The fault at the last call of that kind in an operation."""

    def scene() -> None:
        calls = sweeps.calls_of(name)
        index = max(i for i, call in enumerate(calls) if call.name == what)
        sweeps.fault(name, index, number, late)

    return scene


def _faults(name: str, number: int) -> Scene:
    """That fault at each call of an operation."""

    def scene() -> None:
        for index in range(len(sweeps.calls_of(name))):
            sweeps.fault(name, index, number, False)

    return scene


def _alternations(name: str) -> Scene:
    def scene() -> None:
        plays, keys = (interleave.SPC2, False) if name == "spc2" else (interleave.PLAYS[name], True)
        points = interleave.interleave(plays, preempting(frozenset()), keys=keys)
        for choose in interleave.one_preemption(points):
            interleave.interleave(plays, choose, keys=keys)

    return scene


def _stalls(name: str, *, forgetful: bool = False) -> Scene:
    def scene() -> None:
        for index in range(len(sweeps.calls_of(name, forgetful=forgetful))):
            sweeps.stalled(name, index, forgetful=forgetful)

    return scene


def _asked_twice() -> None:
    """What was found to have changed has changed for whoever asks next as well."""
    stage = sweeps.OPERATIONS["glance"](False)
    a, of, cdb = stage.a, nexus("a"), in_cdb(0)
    a.keys("a")
    for _ in range(3):
        assert a.unit.read_at_once(of, cdb) is not None
    stage.b.register("b", 7)
    for _ in range(3):
        assert a.unit.read_at_once(of, cdb) is None


def _known_and_not_looked() -> None:
    """A look that found a successor has begun the vigil anew: nothing is known after it."""
    stage = sweeps.OPERATIONS["glance"](False)
    a, of, cdb = stage.a, nexus("a"), in_cdb(0)
    a.keys("a")
    for _ in range(3):
        assert a.unit.read_at_once(of, cdb) is not None
    assert a.unit.read_at_once(of, cdb, looks=False) is not None
    stage.b.register("b", 7)
    assert a.unit.read_at_once(of, cdb) is None
    assert a.unit.read_at_once(of, cdb, looks=False) is None


_part = functools.partial
_LATE = _part(stalls.late_link, stop="open")
_UNSETTLED = _part(stalls.unsettled, lands="during")

MUTANTS: tuple[Mutant, ...] = (
    Mutant("no file fsync", files, "write_new", "if sync:", "if False:", (_cuts,)),
    Mutant(
        "no file fsync on a share",
        files,
        "write_ours",
        "syscalls.fsync(fd)",
        "pass",
        (_part(_cuts, forgetful=True),),
    ),
    Mutant(
        "no directory fsync", Chain, "ensure_durable", "self._sys.fsync(self._fd)", "pass", (_cuts,)
    ),
    Mutant(
        "no base check after link",
        CommitLog,
        "_link",
        "if found is not None and self._still_stands(base):",
        "if found is not None:",
        (_LATE, _part(stalls.late_link, stop="open", forgetful=True)),
    ),
    Mutant(
        "base of one's own not asked for",
        CommitLog,
        "_still_stands",
        "and self._is_ours(commit_name(base.number))",
        "",
        (_part(stalls.late_link_on_own, phantom=False),),
    ),
    Mutant(
        "base of one's own without a name",
        CommitLog,
        "_is_ours",
        "now.st_nlink > 0 and ",
        "",
        (_part(stalls.late_link_on_own, phantom=False, kept=True),),
    ),
    Mutant(
        "base of one's own known by its name",
        CommitLog,
        "_is_ours",
        "and identity_of(now) == self._head_identity",
        "",
        (_part(stalls.late_link_on_own, phantom=True),),
    ),
    Mutant(
        "base of one's own known by the number of its file",
        CommitLog,
        "_is_ours",
        "identity_of(now) == self._head_identity",
        "identity_of(now)[:2] == self._head_identity[:2]",
        (_part(stalls.late_link_on_own, phantom=True),),
    ),
    Mutant(
        "phantom successor followed",
        Chain,
        "_search",
        "if not self._stands(document):",
        "if False:",
        (_part(stalls.phantom_read, forgetful=True),),
    ),
    Mutant(
        "phantom successor leapt to",
        Chain,
        "_leap",
        "if not self._stands(known):",
        "if False:",
        (stalls.phantom_read,),
    ),
    Mutant(
        "publish read for a decision",
        LockDirectory,
        "head",
        "return document.snapshot",
        "shown = self._transactions.read(self.published() or document.number) or document\n"
        "    self._transactions._head = shown\n"
        "    return shown.snapshot",
        (stalls.late_rename,),
    ),
    Mutant(
        "BUSY after link",
        CommitLog,
        "_not_known",
        "return OutcomeUnknown(",
        "return Busy(",
        (_part(stalls.unsettled, lands="before"), _UNSETTLED),
    ),
    Mutant(
        "any failure of link taken for a refusal",
        CommitLog,
        "_settle",
        "if error.errno in refusals and self._was_not_done(base):",
        "if True:",
        (_fault("register", "link", errno.EIO, True), _UNSETTLED),
    ),
    Mutant(
        "a refusal of link believed without a look",
        CommitLog,
        "_settle",
        " and self._was_not_done(base)",
        "",
        (_fault("register", "link", errno.ENOSPC, True),),
    ),
    Mutant(
        "stale-cache head: no directory revalidation",
        Chain,
        "_revalidate",
        "if not self._coherent:",
        "if False:",
        (stalls.stale_names,),
    ),
    Mutant(
        "predecessor id not compared",
        Chain,
        "_check_predecessor",
        "if not successor_of(document, before):",
        "if False:",
        (stalls.foreign_successor,),
    ),
    Mutant(
        "reply before durability of somebody else's transaction",
        LockDirectory,
        "ensure_durable",
        "self._transactions.ensure_durable(snapshot.number)",
        "pass",
        tuple(
            _part(reply_before_durability, play)
            for play in (("keys", "b"), (1, "b", 7, 0), (2, "b", 2, 0))
        ),
    ),
    Mutant(
        "rename as the commit",
        CommitLog,
        "_link",
        "self._sys.link(aside, commit_name(document.number), dir_fd=self._fd)",
        "self._sys.rename(aside, commit_name(document.number), "
        "source_fd=self._fd, target_fd=self._fd)",
        (_alternations("register and register"),),
    ),
    Mutant(
        "unsettled transaction forgotten",
        CommitLog,
        "_settle_old",
        "if issued is None:",
        "if True:",
        (_UNSETTLED,),
    ),
    Mutant(
        "unsettled transaction not sealed",
        CommitLog,
        "_outcome",
        "if head.number >= document.number:",
        "if True:",
        (_UNSETTLED,),
    ),
    Mutant(
        "too old to tell taken for a failure",
        CommitLog,
        "_prove",
        "if included is None:",
        "if False:",
        (_part(stalls.forgotten, landed=True),),
    ),
    Mutant(
        "phantom left behind",
        CommitLog,
        "_prove",
        "self._remove_phantom(document)",
        "pass",
        (_LATE,),
    ),
    Mutant(
        "late documents not taken away before pruning",
        CommitLog,
        "remove_late",
        "if document.number <= last:",
        "if False:",
        (_part(stalls.lost_reply, retransmit=True, foreign=False),),
    ),
    Mutant(
        "identity of a file taken from its name",
        CommitLog,
        "_identity_of",
        "self._sys.stat(issued.aside, dir_fd=self._fd)",
        "self._sys.stat(commit_name(issued.document.number), dir_fd=self._fd)",
        (_part(stalls.lost_reply, retransmit=True, foreign=True, forgetful=False),),
    ),
    Mutant(
        "head looked at in the wrong order",
        Chain,
        "_is_head",
        "    if files.exists(self._sys, commit_name(document.number + 1), dir_fd=self._fd):\n"
        "        return False\n"
        "    return self._stands(document)",
        "    stands = self._stands(document)\n"
        "    if files.exists(self._sys, commit_name(document.number + 1), dir_fd=self._fd):\n"
        "        return False\n"
        "    return stands",
        (_stalls("read keys of another's commit"),),
    ),
    Mutant(
        "pruned from the top",
        Archive,
        "tidy",
        "for number in numbers:",
        "for number in reversed(numbers):",
        (stalls.pruner_dies,),
    ),
    Mutant(
        "pruned without an archive",
        Archive,
        "tidy",
        "self._write_segment(fd, first)",
        "pass",
        (_cuts,),
    ),
    Mutant(
        "pruned before the archive is on stable storage",
        Archive,
        "tidy",
        "self._sys.fsync(fd)",
        "pass",
        (_cuts,),
    ),
    Mutant(
        "a segment lacks what could not be read",
        Archive,
        "_write_segment",
        "if document is None and number in self._numbers():",
        "if False:",
        (_faults("prune", errno.ENOENT),),
    ),
    Mutant(
        "history does not see that others archived meanwhile",
        Archive,
        "history",
        "if number > told + 1 and",
        "if False and",
        (_stalls("history"),),
    ),
    Mutant(
        "nothing is ever believed to have changed",
        Chain,
        "_undisturbed",
        "if self._vigil.undisturbed():",
        "if True:",
        (_alternations("glance and register"), _asked_twice),
    ),
    Mutant(
        "what is known is never believed to have changed",
        Chain,
        "_quiet",
        "vigil is not None and vigil.quiet()",
        "vigil is not None",
        (_alternations("glance and register"),),
    ),
    Mutant(
        "what is quiet is known, looked at or not",
        Chain,
        "head_at_once",
        "document if document is self._looked and self._quiet()",
        "document if self._quiet()",
        (_known_and_not_looked,),
    ),
    Mutant(
        "any listing is new enough",
        Chain,
        "_was_head",
        "0 < seen < highest.number and before is not None",
        "True",
        (stalls.old_listing,),
    ),
    Mutant(
        "what has changed is told once",
        Chain,
        "head_at_once",
        "    self._looked = None\n",
        "",
        (_asked_twice,),
    ),
    Mutant(
        "two RESERVEs at once share a range",
        Standing,
        "with_free_slot",
        "held is None or self._store.hold(held.slot)",
        "held is None or self._store.hold(held.slot) or True",
        (_alternations("spc2"),),
    ),
)
