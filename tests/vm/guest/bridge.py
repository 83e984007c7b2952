"""Lets a QEMU outside of this machine use a helper inside of it.

Usage: bridge.py PORT HELPER_SOCKET IMAGE

A file descriptor cannot leave its host, so the other end of the TCP connection
(tests/vm/tunnel.py) keeps it and sends only the bytes; a descriptor of IMAGE, a file of this
machine, takes its place beside every CDB. Everything else passes unchanged, and when either
side closes, both are closed.
"""

import array
import contextlib
import os
import socket
import sys
import threading

HANDSHAKE = 4
CDB = 16
PERSISTENT_RESERVE_OUT = 0x5F


def exactly(connection, count):
    """`count` bytes; EOFError when the other side closes first."""
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def requests(outside, helper, image):
    """From QEMU to the helper."""
    helper.sendall(exactly(outside, HANDSHAKE))
    while True:
        cdb = exactly(outside, CDB)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [image]))
        helper.sendmsg([cdb], [rights])
        if cdb[0] == PERSISTENT_RESERVE_OUT:
            helper.sendall(exactly(outside, int.from_bytes(cdb[7:9], "big")))


def replies(helper, outside):
    """From the helper to QEMU."""
    while data := helper.recv(65536):
        outside.sendall(data)


def until_closed(work, pair, *arguments):
    """One direction, until either side closes; then the other direction ends as well."""
    with contextlib.suppress(OSError, EOFError):
        work(*arguments)
    for connection in pair:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def serve(outside, path, image):
    """One connection of QEMU, with a connection to the helper of its own."""
    helper = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with outside, helper:
        try:
            helper.connect(path)
        except OSError:
            return  # no helper now: the other side sees its connection closed
        pair = (outside, helper)
        back = threading.Thread(target=until_closed, args=(replies, pair, helper, outside))
        back.start()
        until_closed(requests, pair, outside, helper, image)
        back.join()


def main():
    """Serve for ever."""
    port, path, image = sys.argv[1:]
    descriptor = os.open(image, os.O_RDWR | os.O_CREAT, 0o600)
    with socket.create_server(("0.0.0.0", int(port))) as server:
        while True:
            outside, _ = server.accept()
            outside.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(outside, path, descriptor), daemon=True).start()


main()
