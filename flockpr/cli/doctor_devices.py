"""Whether somebody passes commands on to a disk of this host that is emulated."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from flockpr.device_index import claims_of
from flockpr.errors import StoreError
from flockpr.manager.base import PRManager
from flockpr.manager.device import identify_device
from flockpr.spc.codes import Status
from flockpr.store.listing import read_identity

READ_KEYS = bytes((0x5E, 0, 0, 0, 0, 0, 0, 0x20, 0, 0))


def find_passed(root: str, name: str, *, devices: str = "/dev") -> Iterator[dict[str, Any]]:
    """Findings about disks of this host that are a logical unit, and have keys of their own.

    A host that passes commands on to a disk leaves registrations in it. Who may not ask the
    disk finds nothing.

    Args:
        root: The root.
        name: Of the logical unit.
        devices: Where the device files are.
    """
    disks = _disks(devices)
    if not disks:
        return
    from flockpr.manager.sgio import SgioManager

    try:
        claims = claims_of(root, read_identity(root, name))
    except StoreError:
        return  # told by whoever looks at the logical unit itself
    manager = SgioManager("doctor")
    for device in disks:
        with contextlib.suppress(OSError):
            if keys := _keys(manager, device, claims):
                yield {
                    "kind": "passed",
                    "text": f"{device} is this logical unit, which is emulated, and has {keys} "
                    f"registration{'s' if keys > 1 else ''} of its own: somebody passes commands "
                    "on to it, or did so before. Guests there and here are not kept apart.",
                    "remedy": "make that host share this root; then clear what the disk has "
                    f"(sg_persist --out --clear {device})",
                }
    manager.close()


def _disks(devices: str) -> list[str]:
    with contextlib.suppress(OSError):
        names = sorted(os.listdir("/sys/block"))
        return [f"{devices}/{name}" for name in names if name.startswith("sd")]
    return []


def _keys(manager: PRManager, device: str, claims: frozenset[str]) -> int:
    """How many keys a disk has, if it is one of these."""
    descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        names = identify_device(descriptor).candidates
        if not any(name in claims or name.lower() in claims for name in names):
            return 0
        result = manager.run(descriptor, READ_KEYS)
    finally:
        os.close(descriptor)
    if result.status != Status.GOOD or len(result.data_in) < 8:
        return 0
    return int.from_bytes(result.data_in[4:8]) // 8
