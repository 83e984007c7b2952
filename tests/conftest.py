"""Settings for every test: hypothesis profiles, the `peer` marker, nobody's configuration."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.support.peers import require

# No deadlines anywhere: the machines that run this are busy, and a slow example proves nothing.
_CALM = [HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile("dev", deadline=None, suppress_health_check=_CALM)
settings.register_profile(
    "ci", deadline=None, suppress_health_check=_CALM, derandomize=True, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_configure() -> None:
    """Keep the developer's own root and configuration file out of the tests, and safe from them."""
    from flockpr.daemon.config import CONFIG_VARIABLE, ENVIRONMENT

    for variable in (*ENVIRONMENT, CONFIG_VARIABLE):
        os.environ.pop(variable, None)
    os.environ["XDG_CONFIG_HOME"] = "/nonexistent"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Hold a `peer("binary", ...)` test to the binaries that it names."""
    for marker in item.iter_markers("peer"):
        require(*marker.args)
