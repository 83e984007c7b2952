"""The helper process of `cluster_lock`: takes the cluster's own lock of one file after another.

Run as a file of its own, with nothing but the standard library: it has to start quickly. It
reads a request per line and answers with a line, in their order::

    {"path": "/srv/images/disk.img", "device": 64769, "inode": 12}
    {"errno": 0}

Setting a file's times is a change of its metadata, for which GFS2 needs the lock of the inode
exclusively. While a node that may have it is being fenced, that call hangs, and no signal
ends it. So the input is watched by a thread of its own: at its end the parent is gone, and
this process goes too.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading

_LOOK = 5.0
"""Seconds between two looks whether the parent is still there: somebody who was forked from it
may hold the other end of the input open.
"""


def force(path: str, device: int, inode: int) -> int:
    """Have the lock for a moment; 0 or the number of the error.

    Args:
        path: The file.
        device: Its device, and ...
        inode: ... its inode: another file of that name has another lock. Both 0 for any.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if (device, inode) not in ((0, 0), (status.st_dev, status.st_ino)):
                return 116  # ESTALE
            os.utime(fd)
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno or 5
    return 0


def main() -> None:
    """Serve requests until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the parent, which says when it is over
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    parent = os.getppid()

    def listen() -> None:
        for line in sys.stdin:
            requests.put(line)
        os._exit(0)  # at once, whatever the other thread hangs in

    threading.Thread(target=listen, daemon=True).start()
    while True:
        try:
            line = requests.get(timeout=_LOOK)
        except queue.Empty:
            if os.getppid() != parent:
                return
            continue
        request = json.loads(line)
        error = force(request["path"], request["device"], request["inode"])
        try:
            print(json.dumps({"errno": error}), flush=True)
        except OSError:  # nobody is left to hear it
            os._exit(0)


if __name__ == "__main__":
    main()
