"""A process that works in the directory under test: a request a line, an answer a line.

It is a process because a call to a dead file server cannot be interrupted, only left behind.
"""

from __future__ import annotations

import json
import sys

from flockpr.probe.operations import Operations
from flockpr.store.syscalls import Syscalls


def work(path: str, syscalls: Syscalls) -> None:
    """Answer until the other end is closed.

    Args:
        path: The directory that is probed.
        syscalls: Where the calls go.
    """
    operations = Operations(path, syscalls)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(operations.perform(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    work(sys.argv[1], Syscalls())
