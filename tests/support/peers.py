"""The real peers that some tests run against: QEMU, sg3_utils, strace ..."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

REQUIRED = "FLOCKPR_REQUIRE_PEERS"
"""Set to 1 where every peer is installed (CI): a missing one is then a failure, not a skip."""

_ADMIN_PATH = ("/usr/sbin", "/sbin", "/usr/local/sbin")


def find(binary: str) -> str | None:
    """Path of an executable, looked for in the administrator's directories as well."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_ADMIN_PATH))
    return shutil.which(binary, path=path)


def unavailable(reason: str) -> NoReturn:
    """Skip the running test with a reason; fail it where peers are required.

    For capabilities that are not a binary (a kernel feature, a package that has to be
    downloaded): the same rule holds for all of them.
    """
    if os.environ.get(REQUIRED, "") not in ("", "0"):
        pytest.fail(f"{reason} ({REQUIRED} is set)", pytrace=False)
    pytest.skip(reason)


def require(*binaries: str) -> dict[str, str]:
    """Paths of the named executables; the test is skipped, or fails, when one is missing.

    Returns:
        Binary name to absolute path.
    """
    found = {binary: find(binary) for binary in binaries}
    missing = sorted(binary for binary, path in found.items() if path is None)
    if missing:
        unavailable(f"not installed: {', '.join(missing)}")
    return {binary: path for binary, path in found.items() if path is not None}
