"""The way of one command to the permits of all targets, although some may never answer.

In rounds: ring for everybody, and targets that live give their permits back within a grace. If
some do not, see whose permits they are, call those hosts alone and let everybody else go on
meanwhile; once they have given way, or the file server has ended their leases, ring for
everybody again. So a host that hangs or is dead costs the others one grace for each command,
and none where this process knows it to be silent already. Whoever was late is called from then
on, so that each round has fewer to wait for; only while a long wait for others lasts it is let
go on.

Nothing is held from one round to the next but the call. All permits are taken while somebody
rings for everybody, in one system call, or piece by piece, ascending, around hosts that are
declared fenced: then nobody who has some waits for somebody who has others.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from flockpr import events
from flockpr.errors import Busy, StoreError
from flockpr.gate import aside, local, places, roster
from flockpr.gate.doorbell import Doorbell
from flockpr.gate.fences import fences_of
from flockpr.gate.holders import Lock, walk
from flockpr.gate.image import ImageFile
from flockpr.gate.pauses import Pauses
from flockpr.gate.silence import silence_of
from flockpr.store import files
from flockpr.store.syscalls import Syscalls

GRACE = 1.5
"""Seconds in which a target that lives gives its permit back, mostly: so long do all targets of
the LUN stand still for one that does not.
"""
CALM = 3.0
"""Seconds of waiting for others after which a target that was late, but gave way, may go on."""
PATIENCE = 0.1
"""Seconds without all permits after which somebody may be in the way who is declared fenced."""
CLOSING = 5.0
"""Seconds that closing the image may take, before the ring ends without that."""

ClusterLock = Callable[[ImageFile, float], bool]
"""Takes a deadline; False: not in time. See `Rounds.obtain`."""


class Gated(Protocol):
    """What a way needs to know of its gate."""

    root: str
    number: int
    path: str
    host: int
    syscalls: Syscalls
    cluster_lock: ClusterLock | None

    def name_of(self, host: int) -> str:
        """A host as people know it."""


class Rounds:
    """One command's way to all permits, through one description of the image.

    Args:
        gate: Whose permits.
        image: The description; closed by `end`.
        deadline: When to give up, by `time.monotonic`.
        withdrawn: Asked while waiting; True gives up at once.

    Attributes:
        left_out: Hosts that have permits and were not waited for: they are declared fenced.

    Raises:
        StoreError: There is no doorbell.
    """

    def __init__(
        self, gate: Gated, image: ImageFile, deadline: float, withdrawn: Callable[[], bool]
    ) -> None:
        self.image = image
        self.left_out: frozenset[int] = frozenset()
        self._gate = gate
        self._begun = time.monotonic()
        self._deadline = deadline
        self._withdrawn = withdrawn
        self._silence = silence_of(image.key)
        self._fences = fences_of(gate.root, gate.syscalls)
        self._fenced: frozenset[int] = frozenset()
        self._late: set[int] = set()
        self._barred: list[local.Yielding] = []
        self._waited_for_cluster = False
        self._bell = Doorbell(gate.root, gate.syscalls, gate.host)

    def obtain(self) -> None:
        """Have all permits.

        Where the locks of a lost host are given away before that host is fenced (GFS2), the
        file system's own lock is forced after that: it is not given before.

        Raises:
            Busy: Not in time; says who is in the way.
            StoreError: Locks fail there.
        """
        try:
            self._wait_for_silent()
            while not self._round():
                self._step_back()
                self._wait_for_silent()
                self._check_time("targets did not give their permits back in time")
        except Busy:
            gate = self._gate
            self._silence.knock(gate.root, gate.number, gate.path, gate.host, gate.syscalls)
            raise

    def has_all(self) -> bool:
        """Whether the server gives all permits once more. Of its own range a holder is not in
        the way, so this says at once whether anybody else has taken one.
        """
        try:
            return all(self.image.lock(place) for place in places.all_permits_but(self._fenced))
        except StoreError:
            return False

    def end(self) -> None:
        """Give all back: permits, then doorbell. Who hears nobody takes a permit.

        In this order, because permits that are held stop everybody for as long as they are, and a
        ring does not (see `ears`): a dead file server below the doorbell must not keep the permits.
        Where it is the image that cannot be closed, the ring ends without that. Nobody gets in too
        early: who goes for a permit that the server has not got back yet is refused by it.
        """
        try:
            aside.within(self.image.close, time.monotonic() + CLOSING)
        finally:
            self._bell.close()
            for permit in self._barred:
                permit.admit(self)
            self._barred.clear()

    # ------------------------------------------------------------------ a round

    def _round(self) -> bool:
        """Ring for everybody; False where somebody does not answer."""
        self._ring()
        while not self._take(self._grace()):
            silent = self._in_the_way()
            if silent:
                self._note(silent)
                return False
            self._check_time("another command that takes access away is under way", of_whom=True)
        return self._cluster_is_whole()

    def _ring(self) -> None:
        pauses = Pauses(self._deadline)
        while not self._bell.ring(self._gate.number):
            self._check_time("another command of this host that takes access away is under way")
            pauses.pause()
        self._bell.call(self._gate.number, self._late)
        for permit in local.permits_of(self.image.key):
            if permit not in self._barred:
                self._barred.append(permit)
            permit.bar(self)
        until = self._grace()
        for permit in self._barred:
            permit.yielded(until)  # who does not is found by its lock

    def _take(self, until: float) -> bool:
        """Take the permits of all who need not be left out; False at the end of the grace."""
        self._leave_out(self._fences.known())
        pending = list(places.all_permits_but(self._fenced))
        look = time.monotonic() + PATIENCE
        pauses = Pauses(until)
        while True:
            while pending and self.image.lock(pending[0]):
                del pending[0]
            if not pending:
                self.left_out = self._passed()
                return True
            now = time.monotonic()
            if now >= until:
                return False
            if now >= look and self._leave_out(self._fences.look()):
                pending = list(places.all_permits_but(self._fenced))
            if self._withdrawn():
                raise Busy("nobody wants it any more", self._gate.path)
            pauses.pause()

    def _leave_out(self, fenced: frozenset[int]) -> bool:
        """Wait for these no more; whether that is another choice than before. For this host
        always: it lives, whatever was declared, and a write of it may be under way.
        """
        fenced -= {self._gate.host}
        if fenced == self._fenced:
            return False
        self.image.unlock(places.ALL_PERMITS)
        self._fenced = fenced
        return True

    def _passed(self) -> frozenset[int]:
        """The hosts that are declared fenced and have permits at this moment."""
        return frozenset(host for host in self._fenced if self._locks(places.permits_of(host)))

    def _in_the_way(self) -> frozenset[int]:
        """The hosts that have permits; a command, which has more than single bytes, is none."""
        locks = self._locks(places.ALL_PERMITS)
        return frozenset(places.host_at(lock.start) for lock in locks if lock.length == 1) - (
            self._fenced
        )

    def _locks(self, place: places.Range) -> list[Lock]:
        try:
            return walk(self.image.fd, *place, self._gate.syscalls)
        except OSError as error:
            raise files.unavailable(error, "locks cannot be asked for", self.image.path) from error

    def _cluster_is_whole(self) -> bool:
        """Whether the cluster's file system has forgotten all nodes that it lost; False: not
        within the grace, and then all others go on until it has.
        """
        force = self._gate.cluster_lock
        if force is None:
            return True
        # It may just be slow. Once it was waited for, there is nothing better to do.
        until = self._deadline if self._waited_for_cluster else self._grace()
        if force(self.image, until):
            return True
        self._step_back()
        if not force(self.image, self._deadline):
            raise Busy(
                "the lock of the cluster's file system was not had in time",
                self._gate.path,
                "see `dlm_tool ls`: it waits where a node was lost and is not fenced yet; or the "
                "cluster is slow, and the command can be sent again",
            )
        self._waited_for_cluster = True
        return False

    # ------------------------------------------------------------------ between two rounds

    def _note(self, silent: frozenset[int]) -> None:
        """Remember who is in the way, and tell it once."""
        for host in sorted(silent - self._silence.known()):
            events.silent_host(
                self._gate.path, self._gate.name_of(host), time.monotonic() - self._begun
            )
        self._silence.note(silent)

    def _step_back(self) -> None:
        """Let everybody go on but those who are late, who are called alone."""
        self._late |= self._silence.known()
        self._bell.call(self._gate.number, self._late)
        self.image.unlock(places.ALL_PERMITS)
        self._bell.hush(self._gate.number)
        self._admit()

    def _admit(self) -> None:
        """Lift the bars of the permits of this process that have been given back. Not of one
        that is held: it would let others in again, who take as long.
        """
        for permit in self._barred[:]:
            if not permit.held:
                self._barred.remove(permit)
                permit.admit(self)

    def _wait_for_silent(self) -> None:
        """Until none of the hosts that are known to be silent is in the way."""
        gate = self._gate
        silent = self._try_silent(self._fences.known())
        if not silent:
            return
        self._late |= silent
        calm = time.monotonic() + CALM
        with roster.waiting(gate.root, gate.host, gate.number, silent, gate.syscalls):
            while silent:
                self._bell.call(gate.number, self._late if time.monotonic() < calm else silent)
                self._admit()
                roster.beat(gate.root, gate.host, gate.syscalls)
                if self._over():
                    self._refuse(silent)
                time.sleep(random.uniform(0.05, 0.1))  # noqa: S311 - jitter, not secrecy
                silent = self._try_silent(self._fences.look())

    def _try_silent(self, fenced: frozenset[int]) -> frozenset[int]:
        return self._silence.try_once(self.image, fenced - {self._gate.host})

    def _refuse(self, silent: Iterable[int]) -> None:
        names = ", ".join(self._gate.name_of(host) for host in sorted(silent))
        raise Busy(
            f"{names} did not give the permit back in time",
            self._gate.path,
            "`flockpr gate show` says who has it; a host that is dead may have to be fenced",
        )

    # ------------------------------------------------------------------ time

    def _grace(self) -> float:
        return min(self._deadline, time.monotonic() + GRACE)

    def _over(self) -> bool:
        return time.monotonic() >= self._deadline or self._withdrawn()

    def _check_time(self, why: str, *, of_whom: bool = False) -> None:
        if not self._over():
            return
        if of_whom:
            rings = self._bell.rings(self._gate.number)
            others = [self._gate.name_of(one.host) for one in rings if one.everybody]
            why += f" ({', '.join(others)})" if others else ""
        raise Busy(why, self._gate.path, "`flockpr gate show` tells more")
