"""A whole probe: alone, with a peer, on a directory that lies or is silent; it leaves nothing."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import threading

import attrs
import pytest

from flockpr.probe.conduct import Probe
from flockpr.probe.findings import Outcome
from flockpr.probe.helpers import Helper, NoAnswer, ask, command_for
from flockpr.probe.mailbox import END, Peer, follow
from flockpr.probe.operations import Operations
from flockpr.probe.place import OWNER, myself, new_name
from flockpr.probe.report import Report
from flockpr.probe.steps import ACROSS, LOCAL, NOTED
from flockpr.probe.verdict import Answer
from flockpr.store.syscalls import Syscalls


def liar(path: pathlib.Path, name: str) -> list[str]:
    """The command of a helper on a file system that lies."""
    code = (
        "import sys; from flockpr.probe.worker import work; from tests.support import liars;"
        "work(sys.argv[1], getattr(liars, sys.argv[2])())"
    )
    return [sys.executable, "-c", code, str(path), name]


def outcomes(report: Report) -> dict[str, Outcome]:
    """Outcome of each step by name."""
    return {one.name: one.outcome for one in report.tried}


def test_probe_alone_tries_every_step_and_leaves_nothing(tmp_path: pathlib.Path) -> None:
    """On a file system that keeps its word; a logical unit beside it is not touched."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "lun.json").write_text("{}")

    report = Probe(str(tmp_path)).run()

    tried = outcomes(report)
    names = {name for name, _ in (*LOCAL, *NOTED)}
    assert set(tried) == names | {"lock-descriptions", "lock-death", "peer"}
    assert tried.pop("peer") is Outcome.UNKNOWN
    assert {name: how for name, how in tried.items() if how is not Outcome.GOOD} in (
        {},
        {"direct": Outcome.BAD},  # an older tmpfs
    )
    assert os.listdir(tmp_path) == ["disk"]
    assert os.listdir(tmp_path / "disk") == ["lun.json"]
    assert (report.removed, report.left) == ((), ())


@pytest.mark.parametrize(
    ("lie", "caught"),
    [
        ("NeverConflicts", {"lock-descriptions", "lock-processes", "lock-close", "lock-death"}),
        ("LinkOverwrites", {"link"}),
        ("NoLocks", {"lock-descriptions", "lock-processes", "lock-ranges", "lock-close"}),
    ],
)
def test_probe_of_a_lying_directory_refuses_both_doors(
    lie: str, caught: set[str], tmp_path: pathlib.Path
) -> None:
    """The lie is found by the whole probe, in processes of its own, which then tidies up."""
    report = Probe(str(tmp_path), command=liar(tmp_path, lie)).run()

    assert caught <= {name for name, how in outcomes(report).items() if how is Outcome.BAD}
    assert set(report.answers().values()) == {Answer.NO}
    assert os.listdir(tmp_path) == []


def test_probe_of_a_silent_directory_gives_up(tmp_path: pathlib.Path) -> None:
    """Locks that never return: no more than two are waited for, and nothing is promised."""
    report = Probe(str(tmp_path), 2.0, command=liar(tmp_path, "LocksHang")).run()

    assert Outcome.UNKNOWN in outcomes(report).values()
    assert set(report.answers().values()) == {Answer.NO}
    assert Outcome.GOOD not in outcomes(report).values()


def test_helper_that_hangs_is_given_up(tmp_path: pathlib.Path) -> None:
    """A call that does not return is not waited for."""
    helper = Helper([sys.executable, "-c", "import time; time.sleep(3600)"], 0.1)

    with pytest.raises(NoAnswer, match="no answer within"):
        ask(helper, "clock")
    helper.kill()


def test_helper_that_ends_is_no_answer(tmp_path: pathlib.Path) -> None:
    """A helper that dies is told from one that answers."""
    helper = Helper([sys.executable, "-c", "input()"], 100)

    with pytest.raises(NoAnswer, match="has ended"):
        ask(helper, "clock")
    helper.kill()


def test_probe_of_a_missing_directory_says_so(tmp_path: pathlib.Path) -> None:
    """It makes no directory where the share is not mounted."""
    with pytest.raises(FileNotFoundError) as caught:
        Probe(str(tmp_path / "none")).run()

    assert caught.value.filename == str(tmp_path / "none")
    assert os.listdir(tmp_path) == []


def test_probe_that_cannot_make_its_place_refuses_both_doors(tmp_path: pathlib.Path) -> None:
    """No room, or no right to write: the answer is no, with the reason."""
    report = Probe(str(tmp_path), command=liar(tmp_path, "NoRoom")).run()

    assert [(one.name, one.what) for one in report.tried] == [("place", "No space left on device")]
    assert set(report.answers().values()) == {Answer.NO}
    assert report.left == ()


def leftover(path: pathlib.Path, **changes: object) -> str:
    """What a probe that crashed leaves behind."""
    operations = Operations(str(path), Syscalls())
    name = new_name()
    owner = attrs.asdict(myself(waits=True)) | changes
    assert operations.perform({"do": "make", "with": {"name": name, "owner": owner}})
    return name


def test_probe_removes_the_leftovers_of_a_crashed_one_only(tmp_path: pathlib.Path) -> None:
    """By process, boot and age; that of a live probe, of this host or another, stays."""
    gone = [
        leftover(tmp_path, started="1"),
        leftover(tmp_path, boot="another"),
        leftover(tmp_path, host="h2"),
        leftover(tmp_path, started="1"),
    ]
    os.utime(tmp_path / gone[2] / "mail", (1, 1))
    (tmp_path / gone[3] / "test" / "half").write_text("x")
    kept = [leftover(tmp_path), leftover(tmp_path, host="h2")]

    report = Probe(str(tmp_path)).run()

    assert set(report.removed) == set(gone)
    assert set(os.listdir(tmp_path)) == set(kept)


def test_probe_with_a_foreign_directory_of_its_kind_leaves_it(tmp_path: pathlib.Path) -> None:
    """A name of the kind without an owner may just have been made."""
    name = new_name()
    (tmp_path / name).mkdir()
    (tmp_path / name / OWNER).write_text("not JSON")
    (tmp_path / ".flockpr-probe-mine").mkdir()

    assert Probe(str(tmp_path)).run().removed == ()
    assert set(os.listdir(tmp_path)) == {name, ".flockpr-probe-mine"}


def together(*probes: Probe) -> list[Report]:
    """The reports of probes with a peer that are started at the same time."""
    reports: list[Report] = []
    threads = [
        threading.Thread(target=lambda one=one: reports.append(one.run(peer=True, wait=100)))
        for one in probes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(110)
    return reports


def test_probe_with_a_peer_both_report_the_same(tmp_path: pathlib.Path) -> None:
    """Two probes find each other by files alone, in whichever order they come."""
    first, second = together(Probe(str(tmp_path)), Probe(str(tmp_path)))

    assert first.findings == second.findings
    assert {outcomes(first)[name] for name, _ in ACROSS} == {Outcome.GOOD}
    assert outcomes(first)["same-host"] is Outcome.BAD
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("lie", "caught"), [("NeverConflicts", "lock-hosts"), ("LinkOverwrites", "link-hosts")]
)
def test_probe_with_a_peer_that_lies_is_refused_by_both(
    lie: str, caught: str, tmp_path: pathlib.Path
) -> None:
    """One host that mounted it with nolock is enough, and both learn of it."""
    first, second = together(
        Probe(str(tmp_path)), Probe(str(tmp_path), command=liar(tmp_path, lie))
    )

    assert first.findings == second.findings
    assert outcomes(first)[caught] is Outcome.BAD
    assert first.answers()["gated"] is Answer.NO
    assert os.listdir(tmp_path) == []


def test_probe_without_a_peer_in_time_is_conditional(tmp_path: pathlib.Path) -> None:
    """Nobody came: what one host can say is said."""
    report = Probe(str(tmp_path)).run(peer=True, wait=0.1)

    assert outcomes(report)["peer"] is Outcome.UNKNOWN
    assert "no second host came" in report.tried[-1].what
    assert os.listdir(tmp_path) == []


def test_probe_with_a_peer_that_is_silent_refuses(tmp_path: pathlib.Path) -> None:
    """It joined, and nothing that it writes is ever seen."""
    over = threading.Event()

    def join() -> None:
        operations = Operations(str(tmp_path), Syscalls())
        while not over.wait(0.05):
            for name in os.listdir(tmp_path):
                if "value" in operations.perform({"do": "join", "with": {"name": name}}):
                    return

    thread = threading.Thread(target=join)
    thread.start()
    report = Probe(str(tmp_path), 2.0).run(peer=True, wait=100)
    over.set()
    thread.join(100)

    assert set(report.answers().values()) == {Answer.NO}
    # On a machine so busy that no helper starts in time it is the place that is silent.
    assert {"peer-silent", "place"} & set(outcomes(report))


def test_follow_does_nothing_but_what_a_peer_may_ask(tmp_path: pathlib.Path) -> None:
    """A letter cannot have a directory removed, nor an unknown thing done."""
    name = leftover(tmp_path)
    helpers = [Helper(command_for(str(tmp_path)), 100) for _ in range(3)]
    for helper in helpers:
        ask(helper, "enter", name=name)
    letters: list[dict[str, object]] = []
    thread = threading.Thread(
        target=lambda: letters.append(follow(helpers[0], helpers[1], 100)), daemon=True
    )
    thread.start()
    peer = Peer(helpers[2], 100)

    for what in ("remove", "make", "nothing"):
        with pytest.raises(OSError, match="not for another host"):
            ask(peer, what, name=name)
    assert isinstance(ask(peer, "clock"), float)
    ask(peer, END, all="well")
    thread.join(100)

    assert letters == [{"all": "well"}]
    for helper in helpers:
        helper.kill()


def test_worker_ends_with_its_probe(tmp_path: pathlib.Path) -> None:
    """A helper outlives no probe that was killed."""
    ran = subprocess.run(
        command_for(str(tmp_path)),
        input=json.dumps({"do": "clock"}) + "\n",
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert ran.returncode == 0
    assert json.loads(ran.stdout)["value"] > 0
