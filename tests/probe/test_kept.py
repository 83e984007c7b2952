"""What a probe found is kept for those who serve there, and believed only of the same mount."""

from __future__ import annotations

import json
import os
import pathlib

import attrs
import pytest

from flockpr.filesystems.facts import Sources, facts_of
from flockpr.filesystems.mount_rules import Facts
from flockpr.filesystems.mounts import Mount
from flockpr.probe import kept
from flockpr.probe.findings import Finding, Outcome
from flockpr.probe.mounts import Host
from flockpr.probe.report import Report
from tests.support.mount_tables import Tables

OPTIONS = "rw,relatime,vers=4.2,hard,clientaddr=10.0.0.1,local_lock=none"
FINE = Finding("link", Outcome.GOOD, "as it should be")
WRONG = Finding("link", Outcome.BAD, "both have won")
LOCKS = Finding("lock-hosts", Outcome.BAD, "both have it")
OTHER = Finding("peer", Outcome.GOOD, "with h2")
ALONE = Finding("peer", Outcome.UNKNOWN, "this host alone was asked")
SILENT = Finding("sync", Outcome.UNKNOWN, "no answer")


@attrs.define
class Place:
    """A directory on NFS, as this host's tables have it.

    Attributes:
        path: It.
        tables: Those.
    """

    path: pathlib.Path
    tables: Tables

    @property
    def sources(self) -> Sources:
        """They, for flockpr."""
        return self.tables.sources

    def keep(self, *tried: Finding) -> bool:
        """Keep what was found on what is mounted now."""
        mine = Host(os.uname().nodename, "b", facts_of(str(self.path), sources=self.sources))
        hosts = (mine, Host("h2", "c", Facts(None))) if OTHER in tried else (mine,)
        return kept.keep(Report(str(self.path), hosts, tried))

    def found(self, below: str = "") -> kept.Kept:
        """What is kept."""
        found = kept.find(str(self.path / below), self.sources)
        assert found is not None
        return found


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Place:
    """It."""
    (tmp_path / "share" / "root").mkdir(parents=True)
    tables = Tables(tmp_path / "tables")
    tables.mount(tmp_path / "share", "nfs4", OPTIONS)
    return Place(tmp_path / "share", tables)


def test_kept_is_found_in_the_root_or_above_it(place: Place) -> None:
    """A probe may have been made before there was a root."""
    assert kept.find(str(place.path / "root"), place.sources) is None
    assert place.keep(FINE, ALONE)

    (result,) = place.found("root").results
    assert result.hosts == (os.uname().nodename,)
    assert place.found("root").current(result)
    assert place.found("root").failed("gated") == ()


def test_kept_failure_speaks_against_the_doors_that_it_concerns(place: Place) -> None:
    """Locks that stop at the host leave the helper door its use."""
    assert place.keep(LOCKS, OTHER)

    ((failure),) = place.found().failed("gated")
    assert failure.startswith("locks of two hosts: both have it (")
    assert place.found().failed("advisory") == ()


def test_kept_is_about_another_mount_when_its_options_change(place: Place) -> None:
    """What differs with each mount of the same thing does not count."""
    assert place.keep(WRONG, ALONE)

    place.tables.remount("clientaddr=10.0.0.1", "clientaddr=10.0.0.9")
    assert len(place.found().failed("gated")) == 1

    place.tables.remount("vers=4.2", "vers=4.1")
    found = place.found()
    assert not found.current(found.results[0])
    assert found.failed("gated") == ()


def test_kept_of_another_mount_does_not_hide_what_is_known_of_this_one(place: Place) -> None:
    """A file in the root is nearer, and about what was mounted there once."""
    below = Place(place.path / "root", place.tables)
    assert below.keep(FINE, ALONE)
    place.tables.remount("vers=4.2", "vers=4.1")
    assert len(below.found().results) == 1
    assert place.keep(WRONG, ALONE)

    assert len(below.found().failed("gated")) == 1


def test_kept_pipe_hangs_nobody(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever may write there may make one."""
    assert place.keep(FINE, ALONE)
    path = pathlib.Path(place.found().path)
    path.unlink()
    os.mkfifo(path)

    assert kept.find(str(place.path), place.sources) is None
    assert "cannot be read" in caplog.text


def test_kept_alone_does_not_hide_what_two_hosts_found(place: Place) -> None:
    """It did not try that again. With a second host it did try all that one host can."""
    assert place.keep(WRONG, ALONE)
    assert place.keep(FINE, LOCKS, OTHER)
    assert [len(result.hosts) for result in place.found().results] == [2]

    assert place.keep(FINE, ALONE)
    assert [len(result.hosts) for result in place.found().results] == [1, 2]
    assert len(place.found().failed("gated")) == 1

    assert place.keep(FINE, OTHER)
    assert place.found().failed("gated") == ()


def test_probe_that_could_not_find_out_everything_is_not_kept(place: Place) -> None:
    """A server that is away for a minute would keep daemons from starting for good."""
    assert not place.keep(SILENT, ALONE)
    assert kept.find(str(place.path), place.sources) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"format": 2}', '{"format": 1, "alone": {"time": 3}, "pair": null}']
)
def test_kept_that_cannot_be_read_is_as_good_as_nothing(
    place: Place, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and the next probe takes its place."""
    assert place.keep(FINE, ALONE)
    path = pathlib.Path(place.found().path)
    path.write_text(text, encoding="utf-8")

    assert kept.find(str(place.path), place.sources) is None
    assert "cannot be read" in caplog.text
    assert place.keep(FINE, ALONE)
    assert len(place.found().results) == 1
    assert json.loads(path.read_text(encoding="utf-8"))["alone"]["report"]["gated"]["verdict"]


def test_kept_of_an_unknown_mount_is_never_current() -> None:
    """It might be any."""
    assert kept.identity(None) == ()
    result = kept.Result("t", (), (), {}, {})
    assert not kept.Kept("p", (result,), ()).current(result)
    one, other = (Mount("nfs4", f"srv:/{name}", "/mnt", ("rw",)) for name in "ab")
    assert kept.identity(one) != kept.identity(other)
