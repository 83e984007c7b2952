"""What comes on a connection, read from a socket."""

from __future__ import annotations

import array
import math
import os
import socket
from collections.abc import Iterator

import pytest

from flockpr.prhelper.inbox import Inbox, close_all
from flockpr.prhelper.protocol import Request
from tests.support.scsi import basic_list, in_cdb, out_cdb

READ = in_cdb(0).ljust(16, b"\0")
CHANGE = out_cdb(6).ljust(16, b"\0")


class Line:
    """Both ends of a connection after the handshake."""

    def __init__(self) -> None:
        self.client, self.sock = socket.socketpair()
        self.sock.setblocking(False)
        self.inbox = Inbox(self.sock, "connection", handshake=math.inf, request=math.inf)
        self.begins(bytes(4))

    def send(self, data: bytes, *descriptors: int) -> None:
        """Send bytes, and descriptors with them."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        self.client.sendmsg([data], [rights] if descriptors else [])

    def begins(self, data: bytes, *descriptors: int) -> None:
        """Send what is no whole request."""
        self.send(data, *descriptors)
        with pytest.raises(BlockingIOError):
            self.inbox.read_now()

    def hurried(self) -> bool:
        """Whether the client has to be done in time."""
        return self.inbox.deadline is not None

    def close(self) -> None:
        """Close everything."""
        close_all(self.inbox.take_descriptors())
        self.client.close()
        self.sock.close()


@pytest.fixture
def line() -> Iterator[Line]:
    """Nothing was sent."""
    line = Line()
    yield line
    line.close()


def test_client_is_hurried_from_the_first_byte_of_a_request_to_its_last(
    line: Line, disk: int
) -> None:
    """Between two requests it may be silent for days, whatever it has sent before."""
    for _ in range(3):
        assert not line.hurried()
        line.begins(READ[:3], disk)
        assert line.hurried()
        line.send(READ[3:])
        assert line.inbox.read_now() == Request(READ)
        assert not line.hurried()
        line.send(READ, disk)
        assert line.inbox.read_now() == Request(READ)
        assert not line.hurried()
        line.begins(CHANGE, disk)
        assert line.hurried()
        line.send(basic_list(0, 1))
        assert line.inbox.read_now() == Request(CHANGE, basic_list(0, 1))
        close_all(line.inbox.take_descriptors())


def test_descriptor_is_that_of_the_request(line: Line, disk: int) -> None:
    """Of each, also of one that is known by what it says."""
    other = os.open("/", os.O_PATH)
    for file in (disk, other, disk):
        line.send(READ, file)
        assert line.inbox.read_now() == Request(READ)
        assert os.path.sameopenfile(line.inbox.descriptor, file)
        assert not os.get_inheritable(line.inbox.descriptor)
        (taken,) = line.inbox.take_descriptors()
        os.close(taken)
        assert line.inbox.descriptor == -1
    os.close(other)
