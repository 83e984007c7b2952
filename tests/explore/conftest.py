"""Schedules of simulated hosts: the package sees simulated time and threads."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.support.explore.installed import installed


@pytest.fixture(autouse=True)
def simulated() -> Iterator[None]:
    """For the whole of each test. What the package logs is of no interest here."""
    logging.disable(logging.CRITICAL)
    try:
        with installed(("flockpr",)):
            yield
    finally:
        logging.disable(logging.NOTSET)
