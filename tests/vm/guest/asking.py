"""Commands through a daemon, and after each what the disk itself has. To be imported."""

import os

from flockpr.manager.sgio import SgioManager
from tests.support.pr_sequences import read

DIRECT = SgioManager("direct")


def itself(path):
    """The keys and the reservation that the disk has, asked without a daemon."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        return [asked(descriptor, action).hex() for action in (0, 1)]
    finally:
        os.close(descriptor)


def asked(descriptor, action):
    """What PERSISTENT RESERVE IN reads; not a unit attention of this path."""
    for _ in range(3):
        result = DIRECT.run(descriptor, read(0, action).cdb)
        if result.status == 0:
            return result.data_in
    raise SystemExit(f"the disk itself cannot be asked: {result}")


class Steps:
    """What was answered so far."""

    def __init__(self, client):
        self.client = client
        self.done = []

    def send(self, what, path, command, disk):
        """Send a command for a device; then look at the disk below it."""
        descriptor = os.open(path, os.O_RDWR)
        try:
            reply = self.client.execute(descriptor, command.cdb, command.data_out)
        finally:
            os.close(descriptor)
        sense = bytes(reply.sense_code).hex() if reply.status == 2 else ""
        self.done.append([what, reply.status, sense, reply.data_in.hex(), itself(disk)])
