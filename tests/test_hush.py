"""Whoever answers several commands has those who receive wait until all answers are given."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from flockpr.logical_unit import Result
from flockpr.spc.codes import OutAction, Status
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from flockpr.units import Hush, Units
from flockpr.units import hush as limits
from flockpr.units import worker as module
from flockpr.units.requests import AnyRequest
from tests.support.hanging import LONG, Hanging
from tests.support.scsi import basic_list, nexus, out_cdb


def test_whoever_waits_goes_on_after_the_last_speaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with several that overlap; and nobody waits when all have said what they had to."""
    monkeypatch.setattr(limits, "MOST", LONG)
    hush = Hush()
    hush.begin()
    hush.begin()
    waiting = threading.Thread(target=hush.wait)
    waiting.start()
    hush.end()
    waiting.join(0.1)
    assert waiting.is_alive()
    hush.end()
    waiting.join(LONG)
    assert not waiting.is_alive()
    assert not hush.lasts


def test_speaker_who_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at each command that comes; whoever speaks next is heard again."""
    monkeypatch.setattr(limits, "MOST", 0.3)
    hush = Hush()
    hush.begin()
    assert _seconds(hush.wait) >= 0.3
    assert _seconds(hush.wait) < 0.3
    hush.begin()
    assert _seconds(hush.wait) >= 0.3


def _seconds(call: Callable[[], None]) -> float:
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


# --------------------------------------------------------------------------- at a LUN


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """The file server of the LUN."""
    hanging = Hanging()

    def opened(path: str, **options: Any) -> LockDirectory:
        return LockDirectory(path, syscalls=hanging, **options)

    monkeypatch.setattr(module, "open_store", opened)
    yield hanging
    hanging.release()


@pytest.fixture
def units(tmp_path: Path, server: Hanging) -> Iterator[Units]:
    """A daemon with one LUN."""
    create_lun(str(tmp_path), "disk")
    units = Units(str(tmp_path), timeout=4 * LONG)
    yield units
    server.release()
    units.close()


class Told(Hush):
    """Says what happens in which order, by number of the guest; one of them makes a mistake."""

    def __init__(self) -> None:
        super().__init__()
        self.story: list[object] = []
        self.results: dict[int, Future[Result]] = {}

    def begin(self) -> None:
        """Several answers follow."""
        super().begin()
        self.story.append("begin")

    def end(self) -> None:
        """That was all."""
        super().end()
        self.story.append("end")

    def enter(self, units: Units, number: int) -> None:
        """REGISTER AND IGNORE EXISTING KEY of one of the guests."""
        result = self.results[number] = Future[Result]()

        def answered(value: Result) -> None:
            self.story.append(number)
            result.set_result(value)
            if number == 1:
                raise RuntimeError("a mistake of ours")

        units.submit_to(
            "disk",
            nexus(f"n{number}"),
            out_cdb(OutAction.REGISTER_AND_IGNORE_EXISTING_KEY),
            basic_list(0, 1),
            answered=answered,
            hush=self,
            door="api",
            report_attentions=False,
            long_parameter_length=False,
        )

    def status(self, number: int) -> Status:
        """What a guest was told."""
        return self.results[number].result(LONG).status


def test_answers_of_one_commit_are_given_in_one_go(
    units: Units, server: Hanging, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One answer alone asks for no quiet. Who makes a mistake on being answered stops nobody."""
    told = Told()
    told.enter(units, 9)
    assert told.status(9) == Status.GOOD
    server.hang_in("link")
    told.enter(units, 8)
    assert server.stuck.wait(LONG)
    for number in range(3):
        told.enter(units, number)
    with caplog.at_level(logging.ERROR):
        server.release()
        assert [told.status(number) for number in range(3)] == [Status.GOOD] * 3
        told.enter(units, 7)
        assert told.status(7) == Status.GOOD
    assert told.story == [9, 8, "begin", 0, 1, 2, "end", 7]
    assert "a mistake of ours" in caplog.text
    commits = sorted((tmp_path / "disk" / "commits").glob("[0-9]*.json"))
    assert [len(json.loads(one.read_text())["commands"]) for one in commits][-2:] == [3, 1]


def test_mistake_amid_the_answers_ends_the_quiet(
    units: Units, server: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the desk would wait at each command from then on."""
    told = Told()
    told.enter(units, 9)
    assert told.status(9) == Status.GOOD
    server.hang_in("link")
    told.enter(units, 8)
    assert server.stuck.wait(LONG)
    for number in (2, 3):
        told.enter(units, number)

    worker = units._workers["disk", "api"]
    pass_on = worker._pass_on

    def broken(request: AnyRequest, answer: object) -> None:
        if told.lasts:
            raise RuntimeError("cannot be passed on")
        pass_on(request, answer)

    monkeypatch.setattr(worker, "_pass_on", broken)
    server.release()
    assert {told.status(2), told.status(3)} == {Status.CHECK_CONDITION}
    assert not told.lasts
