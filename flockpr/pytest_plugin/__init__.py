"""The pytest plugin: logical units, initiators, clusters and doors as fixtures (docs/pytest.md).

It is found by pytest wherever flockpr is installed. What it works with is imported when a test
asks for a fixture, so it costs other tests nothing.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flockpr.pytest_plugin.clock import VirtualClock
    from flockpr.pytest_plugin.cluster import Cluster
    from flockpr.pytest_plugin.doors import HelperDoor, TargetDoor
    from flockpr.pytest_plugin.lun import Lun
    from flockpr.pytest_plugin.nexus import Nexus

_LUNS = pytest.StashKey[list["Lun"]]()
IMAGE_SIZE = 1 << 20
"""Bytes of the image of a logical unit that a target serves."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the logical units go."""
    parser.addini(
        "flockpr_directory",
        "directory for the logical units of tests (default: /dev/shm, else the temporary one)",
        default="",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what happened to the logical units of a test that failed."""
    report = yield
    if report.failed and call.when == "call":
        for lun in item.stash.get(_LUNS, []):
            report.sections.append((f"flockpr timeline of {lun.name}", lun.timeline()))
    return report


def _stated_directory(config: pytest.Config) -> str:
    try:
        return str(config.getini("flockpr_directory"))
    except ValueError:  # the fixtures were imported, and the plugin is not there
        return ""


def _stated_store(request: pytest.FixtureRequest) -> str:
    try:
        return str(request.getfixturevalue("flockpr_store"))
    except pytest.FixtureLookupError:  # the same
        return "lockdir"


@pytest.fixture
def flockpr_clock(monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    """Time that only the test moves; leases, ages and waits go by it."""
    from flockpr.pytest_plugin.clock import VirtualClock

    clock = VirtualClock()
    clock.install(monkeypatch)
    return clock


@pytest.fixture
def flockpr_store() -> str:
    """What keeps the transactions of `flockpr_lun`: "lockdir" or, in a test or module that
    overrides this fixture, "sqlite".
    """
    return "lockdir"


@pytest.fixture
def flockpr_lun(request: pytest.FixtureRequest) -> Iterator[Lun]:
    """A new logical unit, `disk`; with an image if the test uses `flockpr_target`."""
    from flockpr.pytest_plugin.lun import Lun, fast_directory

    parent = _stated_directory(request.config) or fast_directory()
    directory = tempfile.mkdtemp(prefix="flockpr-", dir=parent)
    names = request.fixturenames
    clock = request.getfixturevalue("flockpr_clock") if "flockpr_clock" in names else None
    size = IMAGE_SIZE if "flockpr_target" in names else None
    lun = Lun.create(directory, "disk", size=size, clock=clock, store=_stated_store(request))
    request.node.stash.setdefault(_LUNS, []).append(lun)
    try:
        yield lun
    finally:
        lun.close()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def flockpr_nexus(flockpr_lun: Lun) -> Callable[[str], Nexus]:
    """Makes an initiator of the logical unit, from its name."""
    return flockpr_lun.nexus


@pytest.fixture
def flockpr_cluster(flockpr_lun: Lun) -> Iterator[Callable[[int], Cluster]]:
    """Makes a cluster of so many nodes, each a host of its own that can fail."""
    from flockpr.pytest_plugin.cluster import Cluster

    made: list[Cluster] = []

    def make(count: int) -> Cluster:
        made.append(Cluster(flockpr_lun, count))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture
def flockpr_target(flockpr_lun: Lun) -> Iterator[TargetDoor]:
    """An iSCSI target that serves the logical unit: `url`."""
    from flockpr.pytest_plugin.doors import TargetDoor

    with TargetDoor(flockpr_lun) as door:
        yield door


@pytest.fixture
def flockpr_helper(flockpr_lun: Lun) -> Iterator[HelperDoor]:
    """A pr-manager-helper for the logical unit: `socket`."""
    from flockpr.pytest_plugin.doors import HelperDoor

    with HelperDoor(flockpr_lun) as door:
        yield door
