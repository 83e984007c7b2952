"""A daemon's own numbers: histograms that add up, by HTTP on the loopback."""

from __future__ import annotations

import contextlib
import functools
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr import LogicalUnit, OutAction, Status, create_lun, timings
from flockpr.daemon.metrics import HISTOGRAMS, MetricsServer, plain, render, split_place
from flockpr.errors import ConfigError
from tests.support.daemon_process import PATIENCE, environment, eventually, short_directory
from tests.support.luns import ALICE, BOB, TYPE, out
from tests.support.spc_strategies import QUIET

_SAMPLE = re.compile(r"([a-z_]+)\{([^}]*)\} ([\d.]+)")


def samples(text: str) -> dict[tuple[str, str], float]:
    """By metric and labels."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = _SAMPLE.fullmatch(line)
            assert match is not None, line
            found[match[1], match[2]] = float(match[3])
    return found


@QUIET
@given(st.lists(st.floats(0, 100)))
def test_histogram_counts_each_once(seconds: list[float]) -> None:
    """In the first bucket whose bound it does not exceed; longer ones in none."""
    tally = timings.Tally()
    for one in seconds:
        tally.add(one)
    histogram = tally.histogram()
    assert histogram.count == len(seconds)
    assert histogram.total == pytest.approx(sum(seconds))
    so_far = 0
    for bound, count in zip(timings.BUCKETS, histogram.buckets, strict=True):
        so_far += count
        assert so_far == sum(one <= bound for one in seconds)


def test_commits_and_waits_are_counted_by_logical_unit(tmp_path: Path) -> None:
    """A commit for each change, a wait for the gate where access was taken away."""
    create_lun(str(tmp_path), "timed-disk", size=1 << 20)
    with LogicalUnit.open(str(tmp_path / "timed-disk")) as unit:
        assert out(unit, ALICE, OutAction.REGISTER, new=1) == Status.GOOD
        assert out(unit, ALICE, OutAction.RESERVE, own=1, type_=TYPE) == Status.GOOD
        assert out(unit, BOB, OutAction.RESERVE, own=1, type_=TYPE) != Status.GOOD
    found = samples(render())
    lun = 'lun="timed-disk"'
    assert found["flockpr_commit_seconds_count", lun] == 2
    assert found["flockpr_gate_wait_seconds_count", lun] == 1
    for name in ("flockpr_commit_seconds", "flockpr_gate_wait_seconds"):
        buckets = [
            v for (one, labels), v in found.items() if one == f"{name}_bucket" and lun in labels
        ]
        assert buckets == sorted(buckets)
        assert buckets[-1] == found[f"{name}_count", lun]
        assert len(buckets) == len(timings.BUCKETS) + 1


def test_every_kind_has_a_metric() -> None:
    """And each says what it is, also before there is one."""
    assert set(HISTOGRAMS) == set(timings.Kind)
    text = render()
    for name, _ in HISTOGRAMS.values():
        assert f"# TYPE {name} histogram" in text


def test_daemon_answers_on_the_loopback_until_it_ends() -> None:
    """`flockpr serve --metrics`; another path is not found, and SIGTERM ends it as ever."""
    with short_directory() as folder, _daemon_with_metrics(folder) as (daemon, url):
        assert "flockpr_daemon_events_total" in _read(url)
        with pytest.raises(urllib.error.HTTPError, match="404") as told:
            urllib.request.urlopen(f"{url}/x", timeout=PATIENCE)
        told.value.close()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(PATIENCE) == 0


@contextlib.contextmanager
def _daemon_with_metrics(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A daemon that serves, and the URL of its numbers: on another port where somebody was
    faster to take the one that was free.
    """
    create_lun(str(folder / "root"), "disk")
    log = folder / "log"
    command = [sys.executable, "-m", "flockpr", "serve", "--root", str(folder / "root")]
    for _ in range(20):
        with socket.create_server(("127.0.0.1", 0)) as held:
            place = f"127.0.0.1:{held.getsockname()[1]}"
        with (
            log.open("wb") as output,
            subprocess.Popen(
                [*command, "--socket", str(folder / "socket"), "--metrics", place],
                env=environment(),
                stderr=output,
            ) as daemon,
        ):
            try:
                url = f"http://{place}/metrics"
                eventually(functools.partial(_answers_or_ended, url, daemon), "the numbers")
                if daemon.poll() is None:
                    yield daemon, url
                    return
            finally:
                daemon.kill()
        said = log.read_text()
        assert "Address already in use" in said, said
    pytest.fail("every free port was taken meanwhile")


def _answers_or_ended(url: str, daemon: subprocess.Popen[bytes]) -> bool:
    return bool(_read(url)) or daemon.poll() is not None


def _read(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.mark.parametrize("place", ["0.0.0.0:1", "192.0.2.1:1", "1", "127.0.0.1:", "localhost:x"])
def test_place_that_others_reach_is_refused(place: str) -> None:
    """There is nothing that would authenticate."""
    with pytest.raises(ConfigError):
        split_place(place)


def test_port_that_is_taken_is_an_error_in_words() -> None:
    """With the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=place):
            MetricsServer(place, plain(str))
