"""`flockpr metrics`: numbers that are right, in a format that Prometheus reads."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from flockpr.cli import main
from flockpr.cli.exposition import METRICS, Sample, collect, of_stale, render
from flockpr.cli.prometheus import RootCollector
from flockpr.daemon.metrics import EVENTS, HISTOGRAMS
from tests.support.daemon_process import PATIENCE, environment
from tests.support.docs import ROOT, block_after, read, rows
from tests.support.luns import broken_lun, contested_lun, preempted_lun
from tests.support.peers import find, unavailable

Capture = pytest.CaptureFixture[str]
DATA = ROOT / "flockpr" / "data" / "prometheus"
read_openmetrics: Any = openmetrics.text_string_to_metric_families
"""Without types, as the client has it."""
_LINE = re.compile(r'([a-z_]+)(\{(?:[a-z]+="(?:[^"\\]|\\.)*",?)*\})? (-?[\d.e+-]+)')


@pytest.fixture
def root(tmp_path: pathlib.Path) -> str:
    """A root with a contested, a preempted and a broken logical unit."""
    path = tmp_path / "root"
    contested_lun(str(path), "disk")
    preempted_lun(str(path), "taken")
    broken_lun(str(path), "wreck")
    return str(path)


def numbers(text: str) -> dict[str, float]:
    """Sample to value; every line must be one of the format."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP|TYPE) [a-z_]+ .+", line), line
            continue
        match = _LINE.fullmatch(line)
        assert match is not None, line
        found[f"{match[1]}{match[2] or ''}"] = float(match[3])
    return found


def test_metrics_say_what_is_the_case(root: str, capsys: Capture) -> None:
    """Holder, registrants, conflicts; a logical unit that cannot be read is down."""
    assert main(["metrics", "--root", root]) == 0
    found = numbers(capsys.readouterr().out)
    assert found['flockpr_up{lun="disk"}'] == 1
    assert found['flockpr_up{lun="wreck"}'] == 0
    assert found['flockpr_registrants{lun="disk",liveness="gone"}'] == 2
    assert found['flockpr_holder_alive{lun="disk"}'] == 0
    alice = 'flockpr_reservation{lun="disk",type="5",initiator="iqn.2026-01.example:alice"}'
    assert found[alice] == 1
    assert found['flockpr_conflicts{lun="disk",initiator="iqn.2026-01.example:bob"}'] == 1
    assert found['flockpr_attentions{lun="taken"}'] == 1
    assert found['flockpr_transaction{lun="disk"}'] == 4


def test_metrics_output_is_replaced_whole(root: str, tmp_path: pathlib.Path) -> None:
    """Nothing else is left in the directory."""
    directory = tmp_path / "textfiles"
    directory.mkdir()
    for _ in range(2):
        path = directory / "flockpr.prom"
        assert main(["metrics", "disk", "--root", root, "--output", str(path)]) == 0
    assert os.listdir(directory) == ["flockpr.prom"]
    assert numbers((directory / "flockpr.prom").read_text())['flockpr_up{lun="disk"}'] == 1


_MAIN = "import sys; from flockpr.cli import main; sys.exit(main())"
_WITHOUT_CLIENT = f"import sys; sys.modules['prometheus_client'] = None; {_MAIN[12:]}"
_OPEN = "application/openmetrics-text; version=1.0.0"


@pytest.mark.parametrize("code", [_MAIN, _WITHOUT_CLIENT], ids=["prometheus_client", "without"])
def test_metrics_by_http_on_the_loopback(code: str, root: str) -> None:
    """Fresh at each request, until it is interrupted; OpenMetrics where the client is there."""
    command = [sys.executable, "-c", code, "metrics", "--root", root]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            kind, text = _get(url, "*/*")
            assert kind.startswith("text/plain; version=0.0.4")
            assert numbers(text)['flockpr_up{lun="disk"}'] == 1
            kind, text = _get(url, _OPEN)
            if code == _MAIN:
                assert kind.startswith(_OPEN)
                found = {one.name: one for one in read_openmetrics(text)}
                assert len(found["flockpr_up"].samples) == 3
            else:
                assert kind.startswith("text/plain; version=0.0.4")
            os.rename(root, f"{root}.gone")
            with pytest.raises(urllib.error.HTTPError, match="503") as told:
                _get(url, "*/*")
            with told.value as answer:
                assert "this root does not exist" in answer.read().decode()
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def _get(url: str, accept: str) -> tuple[str, str]:
    """Content-Type and text."""
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_metrics_are_read_by_prometheus_own_parser(root: str) -> None:
    """Both ways of making the text say the same: name, labels, value."""
    samples = collect(root)
    ours = _families(read_text(render(samples)))
    registry = CollectorRegistry()
    registry.register(RootCollector(root))
    theirs = _families(read_text(generate_latest(registry).decode()))
    assert set(ours) == set(theirs) == {one.name for one in samples}
    moving = {"flockpr_look_seconds", "flockpr_committed_seconds", "flockpr_stale_seconds"}
    for name in set(ours) - moving - {"flockpr_host_contact_seconds"}:
        assert ours[name] == theirs[name]


def _families(found: Iterable[Metric]) -> dict[str, set[tuple[str, float]]]:
    return {
        one.name: {(str(sorted(each.labels.items())), each.value) for each in one.samples}
        for one in found
    }


def test_collector_of_the_page_runs(root: str) -> None:
    """In a program that exports what is its own as well."""
    script = block_after(read("docs/metrics.md"), "<!-- example: collector -->")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=os.path.dirname(root),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert 'flockpr_up{lun="disk"} 1.0' in done.stdout
    assert "python_info" in done.stdout


@pytest.mark.parametrize("place", ["0.0.0.0:9750", "9750", "127.0.0.1:x", "127.0.0.1:70000"])
def test_metrics_listen_elsewhere_is_refused(place: str, root: str, capsys: Capture) -> None:
    """There is nothing that would authenticate."""
    assert main(["metrics", "--root", root, "--listen", place]) == 2
    assert "--listen" in capsys.readouterr().err


def test_stale_is_as_old_as_the_silence_of_the_host() -> None:
    """Of a host of which nothing is known nothing is said."""
    gone = [{"initiator": f"iqn.x:{host}", "host": host} for host in ("h1", "h2", "h3")]
    found = list(of_stale("disk", gone, {"h1": 7.5, "h2": None}))
    labels = {"lun": "disk", "initiator": "iqn.x:h1", "host": "h1"}
    assert found == [Sample("flockpr_stale_seconds", labels, 7.5)]


def test_render_escapes_what_initiators_are_called() -> None:
    """Quotes, backslashes, and lines that end."""
    sample = Sample("flockpr_conflicts", {"initiator": 'a"b\\c\nd'}, 1)
    assert render([sample]).splitlines()[2] == 'flockpr_conflicts{initiator="a\\"b\\\\c\\nd"} 1'


def test_metrics_page_names_every_metric() -> None:
    """And none that is not there."""
    named = {
        cells[0].strip("`") for cells in rows(read("docs/metrics.md")) if "flockpr_" in cells[0]
    }
    assert named == {*METRICS, EVENTS[0], *(name for name, _ in HISTOGRAMS.values())}


def test_alerts_and_dashboard_use_metrics_that_exist() -> None:
    """The dashboard is JSON with a query in every panel."""
    rules = (DATA / "flockpr.rules.yml").read_text()
    dashboard = json.loads((DATA / "flockpr.dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    used = set(re.findall(r"flockpr_[a-z_]+", rules + " ".join(queries)))
    parts = {f"{name}_{part}" for name, _ in HISTOGRAMS.values() for part in ("bucket", "count")}
    assert used <= {*METRICS, EVENTS[0], *parts}
    # Every number about time is looked at by somebody.
    assert {f"{name}_bucket" for name, _ in HISTOGRAMS.values()} | {"flockpr_stale_seconds"} <= used


def test_metrics_commands_of_the_page_run(root: str, tmp_path: pathlib.Path) -> None:
    """As they stand there."""
    script = block_after(read("docs/metrics.md"), "<!-- command: metrics -->")
    script = script.replace("flockpr metrics", f"{sys.executable} -m flockpr metrics")
    done = subprocess.run(
        ["sh", "-eu", "-c", script],
        env=environment(ROOT=root),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "flockpr.prom").is_file()


@pytest.mark.sweep
@pytest.mark.peer("promtool")
def test_alerts_are_taken_by_promtool() -> None:
    """Prometheus' own reader of rules; every expression is parsed."""
    done = subprocess.run(
        [find("promtool") or "", "check", "rules", str(DATA / "flockpr.rules.yml")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    rules = (DATA / "flockpr.rules.yml").read_text().count("- alert:")
    assert f"SUCCESS: {rules} rules found" in done.stdout


@pytest.mark.sweep
def test_dashboard_is_understood_by_grafanas_own_models() -> None:
    """Read and written again it is the same: no field that they do not know."""
    if importlib.util.find_spec("grafana_foundation_sdk") is None:
        unavailable("not installed: grafana-foundation-sdk, of PyPI")
    program = """
import json, sys
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
register_default_plugins()
print(JSONEncoder().encode(Dashboard.from_json(json.load(open(sys.argv[1])))))
"""
    file = DATA / "flockpr.dashboard.json"
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    _within(json.loads(file.read_text()), json.loads(done.stdout), "")


def _within(wanted: Any, found: Any, place: str) -> None:
    """All that is wanted is found; what has a default may be there besides."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict), place
        for key, value in wanted.items():
            assert key in found, f"{place}.{key}"
            _within(value, found[key], f"{place}.{key}")
    elif isinstance(wanted, list):
        assert len(wanted) == len(found), place
        for number, (one, other) in enumerate(zip(wanted, found, strict=True)):
            _within(one, other, f"{place}[{number}]")
    else:
        assert wanted == found, place
