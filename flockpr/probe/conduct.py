"""Conducts a probe: alone, or with a second host."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from flockpr.probe import steps
from flockpr.probe.findings import Finding, Outcome
from flockpr.probe.helpers import Actor, Helper, NoAnswer, ask, command_for
from flockpr.probe.mailbox import END, Peer, follow
from flockpr.probe.mounts import Host
from flockpr.probe.place import Owner, abandoned, myself, new_name
from flockpr.probe.report import Report, from_letter, read_host
from flockpr.probe.steps import Scene, Step

PATIENCE: Final = 100.0
"""Seconds after which a helper is given up: a lock may wait for the grace of a server."""
WAIT: Final = 600.0
"""Seconds for which the first host waits for the second."""
_MOST_SILENT: Final = 2
"""After so many steps without an answer the rest is not tried."""
_REMOVALS: Final = 3
_POLL: Final = 0.5
_SKEW: Final = 2.0


@attrs.define(eq=False)
class Probe:
    """One run.

    Args:
        path: The directory, absolute.
        patience: Seconds after which a helper is given up.
        command: How a helper is run; tests have file systems that lie.
        say: Gets a line for people on what is going on.
    """

    path: str
    patience: float = PATIENCE
    command: Sequence[str] | None = None
    say: Callable[[str], None] = lambda _: None
    _helpers: list[Helper] = attrs.Factory(list)
    _own: str = ""
    _made: bool = False
    _silent: int = 0
    _found: list[Finding] = attrs.Factory(list)
    _removed: list[str] = attrs.Factory(list)
    _left: list[str] = attrs.Factory(list)

    def run(self, *, peer: bool = False, wait: float = WAIT) -> Report:
        """Probe the directory.

        Args:
            peer: With a second host: join one that waits, or wait for one.
            wait: Seconds to wait for it.

        Raises:
            OSError: There is no such directory, or it cannot be opened.
        """
        try:
            report = self._run(peer, wait)
        finally:
            self._tidy()
        return attrs.evolve(report, left=tuple(self._left))

    def _run(self, peer: bool, wait: float) -> Report:
        try:
            host = read_host(ask(self._helper(), "describe"))
        except NoAnswer as error:
            self._find("place", Outcome.UNKNOWN, str(error))
            return self._report()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from error
        if peer and (joined := self._join_one("")) is not None:
            return joined
        me = myself(waits=peer)
        self._own = new_name()
        try:
            self._make(me)
        except (OSError, NoAnswer) as error:
            self._find("place", _outcome(error), _text(error))
            return self._report(host)
        self._alone()
        if not peer:
            self._find("peer", Outcome.UNKNOWN, "this host alone was asked")
            return self._report(host)
        return self._with_peer(host, wait)

    # Helpers, of which any may hang.

    def _helper(self, *, enter: bool = False) -> Helper:
        helper = Helper(self.command or command_for(self.path), self.patience)
        self._helpers.append(helper)
        if enter:
            ask(helper, "enter", name=self._own)
        return helper

    def _end_helpers(self) -> None:
        while self._helpers:
            self._helpers.pop().kill()

    def _tidy(self) -> None:
        """Remove what was made; what a silent directory keeps, the next probe removes."""
        self._end_helpers()
        if self._made and not self._remove():
            self._left.append(self._own)
        self._end_helpers()

    def _remove(self) -> bool:
        with contextlib.suppress(NoAnswer):
            janitor = self._helper()
            for attempt in range(_REMOVALS):
                # A file that a helper had open when it was killed goes a moment later.
                time.sleep(_POLL * attempt)
                try:
                    ask(janitor, "remove", name=self._own)
                except (FileNotFoundError, PermissionError):
                    return True  # it could not be made
                except OSError:
                    continue
                return True
        return False

    # Alone.

    def _make(self, me: Owner) -> None:
        helper = self._helper()
        self._made = True
        ask(helper, "make", name=self._own, owner=attrs.asdict(me))
        with contextlib.suppress(OSError):  # somebody else's leftovers are no fault of this place
            self._sweep(helper, me)

    def _sweep(self, helper: Helper, me: Owner) -> None:
        now = ask(helper, "server_time")
        for one in ask(helper, "probes"):
            if one["name"] != self._own and abandoned(_owner(one), me, now - one["seen"]):
                with contextlib.suppress(FileNotFoundError):
                    ask(helper, "remove", name=one["name"])
                self._removed.append(one["name"])

    def _alone(self) -> None:
        self._step("lock-descriptions", steps.exclusion, lambda: [self._helper(enter=True)] * 2)
        for name, step in (*steps.LOCAL, *steps.NOTED):
            noted = (name, step) in steps.NOTED
            self._step(name, step, self._two, Outcome.NOTE if noted else Outcome.BAD)
        self._step("lock-death", self._death, self._two)

    def _death(self, scene: Scene) -> str:
        return steps.freed_by_death(scene, self._helper(enter=True))

    def _two(self) -> list[Helper]:
        if len(self._helpers) != 2:
            self._end_helpers()
            return [self._helper(enter=True), self._helper(enter=True)]
        return list(self._helpers)

    def _step(
        self,
        name: str,
        step: Step,
        actors: Callable[[], Sequence[Actor]],
        bad: Outcome = Outcome.BAD,
    ) -> None:
        if self._silent >= _MOST_SILENT:
            self._find(name, Outcome.UNKNOWN, "not tried, because the directory is silent")
            return
        self.say(name)
        try:
            one, other = actors()
            complaint = step(Scene(one, other, name, self.patience / 2))
        except NoAnswer as error:
            self._silent += 1
            self._end_helpers()
            self._find(name, Outcome.UNKNOWN, str(error))
        except OSError as error:
            self._end_helpers()  # with the locks and descriptors that the step left behind
            self._find(name, bad, _text(error))
        else:
            if complaint:
                self._end_helpers()
            self._find(name, bad if complaint else Outcome.GOOD, complaint or "as it should be")

    # With a second host.

    def _join_one(self, before: str) -> Report | None:
        """Join a probe that waits, if there is one; None where there is none, or it is silent."""
        me = myself()
        with contextlib.suppress(OSError, NoAnswer, ValueError, KeyError, TypeError):
            looker = self._helper()
            for one in ask(looker, "probes"):
                name, owner = one["name"], _owner(one)
                if one["joined"] or owner is None or not owner.waits or abandoned(owner, me, 0.0):
                    continue
                if (before and name >= before) or not ask(looker, "join", name=name):
                    continue
                self.say(f"joins the probe of {owner.host}")
                report = self._follow(name)
                if report is not None:
                    return report
        return None

    def _follow(self, name: str) -> Report | None:
        try:
            postman, hands = self._helper(), self._helper()
            for helper in (postman, hands):
                ask(helper, "enter", name=name)
            letter = follow(postman, hands, 3 * self.patience)
        except NoAnswer:
            return None  # of a probe that has crashed; its leftovers go later
        return from_letter(self.path, letter)

    def _with_peer(self, host: Host, wait: float) -> Report:
        try:
            joined = self._await_peer(wait)
        except (NoAnswer, OSError) as error:
            self._find("peer-silent", Outcome.BAD, _text(error))
            return self._report(host)
        if isinstance(joined, Report):
            return joined
        if not joined:
            self._find("peer", Outcome.UNKNOWN, f"no second host came within {wait:g} s")
            return self._report(host)
        self._end_helpers()
        hosts = [host]
        try:
            peer = Peer(self._helper(enter=True), 3 * self.patience)
            hosts.append(read_host(ask(peer, "describe")))
            if host.boot and host.boot == hosts[1].boot:
                self._find("same-host", Outcome.BAD, "both ends are the same host")
            else:
                self._find("peer", Outcome.GOOD, f"with {hosts[1].name}")
            self._across(peer)
        except (NoAnswer, OSError, ValueError, KeyError, TypeError) as error:
            self._find("peer-silent", Outcome.BAD, _text(error))
            return self._report(*hosts)
        report = self._report(*hosts)
        with contextlib.suppress(NoAnswer, OSError):
            ask(peer, END, **report.to_letter())
        return report

    def _await_peer(self, wait: float) -> bool | Report:
        self._end_helpers()
        postman = self._helper(enter=True)
        self.say("waits for a second host: run `flockpr probe DIR --peer` there")
        deadline = time.monotonic() + wait
        while not ask(postman, "joined"):
            if time.monotonic() > deadline:
                return False
            # Both may have begun to wait: the one with the greater name goes over.
            rivals = [one for one in ask(postman, "probes") if one["name"] < self._own]
            if any(_joinable(one) for one in rivals) and ask(postman, "join", name=self._own):
                report = self._join_one(self._own)
                return report if report is not None else False
            ask(postman, "stir")
            time.sleep(_POLL)
        return True

    def _across(self, peer: Peer) -> None:
        here = self._helper(enter=True)
        for name, step in steps.ACROSS:
            self.say(name)
            wrong = ""
            try:
                wrong = step(Scene(here, peer, f"{name}-1", self.patience / 2)) or step(
                    Scene(peer, here, f"{name}-2", self.patience / 2)
                )
            except NoAnswer as error:
                self._find(name, Outcome.UNKNOWN, str(error))
                raise
            except OSError as error:
                wrong = _text(error)
                here.kill()  # with an answer that nobody fetched, and the locks of the step
                here = self._helper(enter=True)
            self._find(name, Outcome.BAD if wrong else Outcome.GOOD, wrong or "as it should be")
        self._clock(peer)

    def _clock(self, peer: Peer) -> None:
        with contextlib.suppress(NoAnswer, OSError, TypeError):
            before = time.time()
            theirs = ask(peer, "clock")
            after = time.time()
            # Their clock was read somewhere in between: only what is outside is a difference.
            skew = max(before - theirs, theirs - after, 0.0)
            what = f"they differ by at least {skew:.1f} s" if skew else "no difference is seen"
            self._find("clock", Outcome.BAD if skew > _SKEW else Outcome.GOOD, what)

    def _find(self, name: str, outcome: Outcome, what: str) -> None:
        self._found.append(Finding(name, outcome, what))

    def _report(self, *hosts: Host) -> Report:
        return Report(self.path, hosts, tuple(self._found), tuple(self._removed))


def _owner(one: dict[str, Any]) -> Owner | None:
    try:
        return Owner(**one["owner"])
    except TypeError:
        return None


def _joinable(one: dict[str, Any]) -> bool:
    owner = _owner(one)
    waits = owner is not None and owner.waits and not one["joined"]
    return waits and not abandoned(owner, myself(), 0.0)


def _text(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)


def _outcome(error: BaseException) -> Outcome:
    return Outcome.UNKNOWN if isinstance(error, NoAnswer) else Outcome.BAD
