"""One socket, two logical units: a look at one hangs in the thread that answers for both."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest

from flockpr import create_lun
from flockpr.prhelper.client import HelperClient, HelperReply
from flockpr.spc.codes import Status
from flockpr.store.layout import COMMITS
from tests.support.daemons import PATIENCE, Daemon, Door, out, read, wait_for
from tests.support.scsi import REGISTER_IGNORE
from tests.support.strace import Call, Strace

pytestmark = pytest.mark.peer("strace")

DOOR = Door("a")
READS = ("recvmsg", "recvfrom")


class Guest:
    """A connection with a disk of its own, which is found by its image."""

    def __init__(self, daemon: Daemon, lun: str) -> None:
        self.commits = os.path.join(daemon.root, lun, COMMITS)
        self._device = os.open(os.path.join(daemon.root, f"{lun}.img"), os.O_RDWR | os.O_CREAT)
        self._client = HelperClient(daemon.path(DOOR), timeout=PATIENCE)

    def reads(self) -> HelperReply:
        """READ KEYS."""
        return self._client.execute(self._device, read().cdb)

    def registers(self, key: int) -> HelperReply:
        """REGISTER AND IGNORE EXISTING KEY."""
        sent = out(REGISTER_IGNORE, 0, key)
        return self._client.execute(self._device, sent.cdb, sent.data_out)

    def close(self) -> None:
        """Go away."""
        self._client.close()
        os.close(self._device)


@pytest.fixture
def daemon(directory: str) -> Iterator[Daemon]:
    """Serves whatever disk a client passes."""
    daemon = Daemon(directory, "one", [DOOR])
    for lun in ("first", "second"):
        create_lun(daemon.root, lun, image=f"{lun}.img")
    at = daemon.command.index("--lun")
    del daemon.command[at : at + 2]
    with daemon:
        yield daemon


def desk_of(daemon: Daemon, guest: Guest, output: str) -> int:
    """The thread that reads the connection and looks at its logical unit, when there is one."""
    found: set[int] = set()

    def seen(calls: list[Call]) -> bool:
        looking = {call.tid for call in calls if guest.commits in call.paths}
        found.update(looking & {call.tid for call in calls if call.name in READS})
        return bool(found)

    def answers() -> bool:
        with Strace(daemon.pid, output, follow=True) as tracer:
            for _ in range(3):
                assert guest.reads().status == Status.GOOD
            tracer.detach()
            return seen(tracer.so_far())

    wait_for(answers, daemon.last_words)
    return found.pop()


def test_look_that_hangs_at_the_desk_delays_no_other_logical_unit(
    daemon: Daemon, directory: str
) -> None:
    """Another thread answers for all others. The one that hung is answered in the end."""
    output = os.path.join(directory, "trace")
    with (
        contextlib.closing(Guest(daemon, "first")) as first,
        contextlib.closing(Guest(daemon, "second")) as second,
    ):
        for guest in (first, second):
            assert guest.registers(1).status == Status.GOOD
        desk = desk_of(daemon, first, output)
        assert desk == desk_of(daemon, second, output)
        answers: list[HelperReply] = []
        held = threading.Thread(target=lambda: answers.append(first.reads()), daemon=True)
        hold = ["newfstatat:delay_enter=3600s:when=1"]
        with Strace(desk, output, trace=("newfstatat",), inject=hold) as tracer:
            held.start()
            wait_for(lambda: bool(tracer.so_far()), daemon.last_words)
            for key in range(2, 8):
                assert second.reads().status == Status.GOOD
                assert second.registers(key).status == Status.GOOD
            with contextlib.closing(Guest(daemon, "second")) as another:
                assert another.reads().status == Status.GOOD
            assert not answers, "it did not hang"
        held.join()
        assert [answer.status for answer in answers] == [Status.GOOD]
        for guest in (first, second):
            assert guest.registers(8).status == Status.GOOD
            assert guest.reads().status == Status.GOOD
