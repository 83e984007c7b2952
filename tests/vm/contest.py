"""The contest of two machines for one disk that enforces: what must be seen by any initiator."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from attrs import frozen

from tests.support.targets import FlockprTarget
from tests.vm.guests import CONFLICT, Guest, Registrant
from tests.vm.machine import Completed, Running

_BLOCK = 4096
_FREE_BLOCK = 15000
"""A block of the disk that the file system leaves alone."""
DISK_BYTES = 64 << 20
_FILE_SYSTEM_BLOCKS = 12000
_PATIENCE_SECONDS = 300
_MOUNT_POINT = "/tmp/disk"


@frozen
class Contender(Guest):
    """A machine that reads and writes the disk as well, and mounts it."""

    def write(self, text: str) -> Completed:
        """Write a block past every cache; the block begins with the text."""
        block = f"printf '%-{_BLOCK}s' '{text}'"
        place = f"bs={_BLOCK} seek={_FREE_BLOCK} count=1 iflag=fullblock"
        return self.machine.run(f"{block} | dd of=/dev/sda {place} oflag=direct conv=notrunc")

    def text(self) -> str:
        """What the block of `write` holds."""
        place = f"bs={_BLOCK} skip={_FREE_BLOCK} count=1"
        command = f"dd if=/dev/sda {place} iflag=direct 2>/dev/null"
        return self.machine.check(command).rstrip()

    def start_writing(self) -> Running:
        """Write the block again and again, ``tick 1``, ``tick 2``, until a write fails."""
        place = f"bs={_BLOCK} seek={_FREE_BLOCK} count=1 iflag=fullblock"
        return self.machine.start(
            f"number=1; while printf '%-{_BLOCK}s' \"tick $number\" | "
            f"dd of=/dev/sda {place} oflag=direct conv=notrunc; do "
            "number=$((number + 1)); done 2>&1 | tail -n 5"
        )

    def must(self, done: Completed) -> None:
        """A command that has to succeed did."""
        assert done.status == 0, f"{self.machine.name}: {done}"

    def refused(self, done: Completed) -> None:
        """A direct write failed, and for a reservation: that is what this error stands for."""
        assert done.status != 0, f"{self.machine.name}: {done}"
        assert "Invalid exchange" in done.output, f"{self.machine.name}: {done}"

    def attention(self) -> str:
        """What TEST UNIT READY, sent once, reports."""
        return self.machine.run("sg_turs -v /dev/sda").output

    def make_file_system(self) -> None:
        """An ext4 that keeps still when nothing is asked of it."""
        lazy = "lazy_itable_init=0,lazy_journal_init=0"
        self.machine.check(f"mkfs.ext4 -q -F -E {lazy} /dev/sda {_FILE_SYSTEM_BLOCKS * 4}k")

    def mount(self) -> None:
        """Mount it; the journal is replayed when that is due."""
        self.machine.check(
            f"mkdir -p {_MOUNT_POINT}; mount -t ext4 -o noatime /dev/sda {_MOUNT_POINT}"
        )

    def unmount(self) -> Completed:
        """Unmount it."""
        return self.machine.run(f"umount {_MOUNT_POINT}")

    def storing(self, name: str) -> str:
        """The command of `store`."""
        path = f"{_MOUNT_POINT}/{name}"
        return f"dd if=/dev/urandom of={path} bs=1M count=1 iflag=fullblock conv=fsync"

    def store(self, name: str) -> Completed:
        """Write a file of random content and wait until it is on the disk."""
        return self.machine.run(self.storing(name))

    def digest(self, name: str) -> str:
        """SHA-256 of a file."""
        return self.machine.check(f"sha256sum {_MOUNT_POINT}/{name}").split()[0]

    def check_file_system(self) -> None:
        """Not mounted, it has no error."""
        done = self.machine.run("e2fsck -f -n /dev/sda")
        assert done.status == 0, f"{self.machine.name}: {done}"


def reserve_and_write(alice: Contender, bob: Contender, names: tuple[str, str] | None) -> str:
    """Both register, Alice reserves and fills a file system; Bob's writes are refused.

    Args:
        alice: The first machine; it has the file system mounted afterwards.
        bob: The second machine, on another target.
        names: Initiator names of the two.

    Returns:
        SHA-256 of Alice's file ``first``.
    """
    for machine in (alice, bob):
        machine.must(machine.register())
    alice.must(alice.reserve())
    alice.make_file_system()
    alice.mount()
    alice.must(alice.store("first"))
    alice.must(alice.write("alice was here"))
    assert bob.keys() == {alice.key, bob.key}
    assert bob.holder() == alice.key
    if names is not None:
        expected = {
            Registrant(names[0], alice.key, holder=True),
            Registrant(names[1], bob.key, holder=False),
        }
        assert bob.full_status() == expected
    bob.refused(bob.write("bob was here"))
    assert bob.reserve().status == CONFLICT
    assert bob.text() == "alice was here"  # the type lets everybody read
    return alice.digest("first")


def outlives(machine: Contender, target: FlockprTarget) -> None:
    """The machine's mounted file system and its reservation outlive a death of its target.

    Args:
        machine: It holds the reservation.
        target: That of the machine. It is killed, and started at the same address.
    """
    target.kill()
    storing = machine.machine.start(machine.storing("meanwhile"))
    target.start()
    machine.must(storing.wait())
    machine.must(machine.write("alice is still here"))
    assert machine.holder() == machine.key


def outlives_many(machine: Contender, target: FlockprTarget, deaths: int) -> None:
    """Whatever it was doing whenever its target died, every file that was stored is whole.

    Args:
        machine: It has the file system mounted.
        target: That of the machine.
        deaths: How often it is killed and started again.
    """
    machine.machine.check(f"mkdir {_MOUNT_POINT}/many")
    storing = machine.machine.start(
        f"cd {_MOUNT_POINT}/many; number=0; while test ! -e {_MOUNT_POINT}/enough; do "
        "number=$((number + 1)); file=$((number % 20)); "
        "dd if=/dev/urandom of=$file.new bs=64k count=4 iflag=fullblock conv=fsync 2>/dev/null "
        "&& sha256sum $file.new | sed s/.new// > $file.sum && sync $file.sum "
        "&& mv $file.new $file && sync || exit 1; done; echo stored $number"
    )
    for _ in range(deaths):
        time.sleep(random.uniform(0.1, 3.0))
        target.kill()
        target.start()
    machine.machine.check(f"touch {_MOUNT_POINT}/enough")
    done = storing.wait()
    machine.must(done)
    machine.must(machine.unmount())
    machine.check_file_system()
    machine.mount()
    machine.machine.check(f"cd {_MOUNT_POINT}/many; sha256sum -c *.sum")


def preempt(alice: Contender, bob: Contender) -> None:
    """Bob preempts Alice: she learns it by a unit attention, and her writes are refused."""
    bob.must(bob.preempt(alice))
    first, second = alice.attention(), alice.attention()
    assert "Registrations preempted" in first, first
    assert "Unit Attention" not in second, second
    for machine in (bob, alice):
        assert machine.keys() == {bob.key}
        assert machine.holder() == bob.key
    alice.refused(_write_after_writeback(alice, "alice again"))
    assert alice.store("late").status != 0
    alice.unmount()
    bob.must(bob.write("bob is the holder"))
    assert alice.text() == "bob is the holder"


def _write_after_writeback(alice: Contender, text: str) -> Completed:
    """A direct write's own error: her kernel may have tried to write a mounted file system's
    journal before, and tells the next who writes that this failed, as EIO.
    """
    for _ in range(5):
        done = alice.write(text)
        if "Input/output error" not in done.output:
            break
    return done


def file_system_survives(alice: Contender, bob: Contender, digest: str) -> None:
    """Bob mounts what Alice left: her file is whole, his is added, nothing is damaged."""
    bob.mount()
    assert bob.digest("first") == digest
    assert bob.machine.run(f"test -e {_MOUNT_POINT}/late -a -s {_MOUNT_POINT}/late").status != 0
    bob.must(bob.store("second"))
    bob.must(bob.unmount())
    bob.check_file_system()
    alice.check_file_system()  # reads of the same disk through the other target


def silences(bob: Contender, alice: Contender, fence: Callable[[], Completed]) -> None:
    """When Bob's command that fences Alice is done, nothing that she sent lands any more.

    Args:
        bob: Who fences.
        alice: She is in the middle of writing.
        fence: Runs the command.
    """
    writing = alice.start_writing()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not bob.text().startswith("tick"):
        assert time.monotonic() < deadline, alice.machine.failure("does not write")
    bob.must(fence())
    last = bob.text()
    assert last.startswith("tick"), last
    done = writing.wait()
    assert "Invalid exchange" in done.output, done
    assert bob.text() == last


def still_the_holder(machine: Contender) -> None:
    """Started again, it is the nexus that it was: its key and its reservation are its own."""
    assert machine.keys() == {machine.key}
    assert machine.holder() == machine.key
    machine.must(machine.write("still the holder"))
    machine.must(machine.release())
    assert machine.holder() is None


def locked_out(machine: Contender) -> None:
    """Started again, it is another nexus: its own reservation keeps it out."""
    assert machine.keys() == {machine.key}
    assert machine.holder() == machine.key
    machine.refused(machine.write("who am I"))
    assert machine.release().status == CONFLICT
    machine.must(machine.register())  # the same key, by another nexus
    machine.must(machine.preempt(machine))
    machine.must(machine.write("alice is back"))
