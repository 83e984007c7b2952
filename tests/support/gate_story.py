"""Hosts that hold permits, knock, wait, say nothing, or are declared fenced: as files and locks."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
from collections.abc import Iterator
from typing import Any

from flockpr.gate import Doorbell, fenced, places
from flockpr.store.clock import utc_now
from flockpr.store.syscalls import Syscalls

SERVING, SILENT, FENCED = 0x0000000ABC, 0x0000000DEF, 0x0000000FED
"""Numbers of hosts node1, node2 and node3."""
LONG_AGO = "2026-01-31T12:00:00.000000Z"
SYSCALLS = Syscalls()


def say(root: str, number: int, host: str, *, contact: str = "", **members: object) -> None:
    """Have a record of a process of a host."""
    value: dict[str, Any] = {
        "format": 1,
        "number": f"{number:010x}",
        "host": host,
        "boot_id": "11111111-2222-3333-4444-555555555555",
        "pid": 4711,
        "doors": ["iscsi"],
        "since": LONG_AGO,
        "last_contact": contact or utc_now(),
        "waits": [],
    }
    directory = os.path.join(root, ".hosts")
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, f"{number:010x}-00000001.json"), "w") as file:
        json.dump(value | members, file)


@contextlib.contextmanager
def permit(image: str, *hosts: int) -> Iterator[None]:
    """Hosts that have permits and answer nobody."""
    fds = [os.open(image, os.O_RDWR) for _ in hosts]
    try:
        for fd, host in zip(fds, hosts, strict=True):
            SYSCALLS.set_lock(fd, fcntl.F_WRLCK, *places.any_permit(host))
        yield
    finally:
        for fd in fds:
            os.close(fd)


@contextlib.contextmanager
def knock(root: str, lun: int, host: int) -> Iterator[None]:
    """A command of a host that rings for everybody."""
    with Doorbell(root, SYSCALLS, host) as bell:
        assert bell.ring(lun)
        yield


@contextlib.contextmanager
def everything(root: str, lun: int, image: str) -> Iterator[None]:
    """All that can be seen of a gate: node1 serves, and waits for node2, which is silent; node3
    is declared fenced.
    """
    wait = {"lun": lun, "since": utc_now(), "for": [f"{SILENT:010x}"]}
    # By a clock that is ahead: a busy machine must not make it silent.
    later = (dt.datetime.now(dt.UTC) + dt.timedelta(minutes=30)).isoformat()
    say(root, SERVING, "node1", contact=later, waits=[wait])
    say(root, SILENT, "node2", contact=LONG_AGO)
    fenced.declare(root, FENCED, proof="its power was cut", host="node3", lun="disk")
    with permit(image, SERVING, SILENT, FENCED), knock(root, lun, SERVING):
        yield
