"""Two machines that share a disk with GFS2: corosync, dlm_controld, the file system on both.

The fence device is real: a node that the other one has it fence loses its power. It is reached
through the serial port of the machine, not through the segment, but does not listen to a node
that was cut off, so it is always that one which dies. The test may put it out of order for a
while, which makes the order of what happens at the death of a node the test's to choose, on a
host of any speed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import define, field

from tests.vm import tunnel
from tests.vm.cluster_files import TOKENS, Fencing, join_command
from tests.vm.gfs2_rows import gfs2_rows
from tests.vm.initramfs import initramfs
from tests.vm.kernel import Kernel, kernel, package_tree
from tests.vm.lab import Node, card, free_ports
from tests.vm.machine import Machine, MachineError
from tests.vm.matrix import Row
from tests.vm.network import Hub, Station
from tests.vm.share import MOUNT_POINT, ROOT, TREE_MODULES, tree_arguments

_PACKAGES = ("corosync", "dlm-controld", "gfs2-utils")
_MODULES = (
    *("virtio_pci", "virtio_console", "virtio_net", "virtio_blk"),
    *TREE_MODULES,
    *("crc32c_generic", "configfs", "dlm", "gfs2"),
)
_DISK_BYTES = 512 << 20
_NAMES = ("host1", "host2")
_MEMORY = 512  # MiB
_JOURNAL_MEGABYTES = 8  # the least that mkfs.gfs2 makes
PATIENT_SECONDS = 30
"""Silence after which corosync takes a node for dead: no busy host is silent that long."""
_SHORT_TOKEN_SECONDS = 3
"""The same once a node is about to be killed."""
_CONSENSUS = 1.2
"""Of the time of a token, what it takes until all who are left agree."""
_WAIT_SECONDS = 300
_FOR_EVER = 86400
_FILLER = f"{MOUNT_POINT}/filler"


@define
class Cluster:
    """Two nodes that mount one disk at ``/mnt/share``.

    Args:
        folder: Where everything goes; short.
        stack: Ends the machines.
        fencing: What happens to a node that is lost.
        token: Seconds of silence after which corosync takes a node for dead.
        device_works: Set while the fence device is in order.
    """

    folder: Path
    stack: ExitStack
    fencing: Fencing = Fencing.DEVICE
    token: int = PATIENT_SECONDS
    device_works: threading.Event = field(factory=threading.Event, init=False)
    hub: Hub = field(init=False)
    stations: Sequence[Station] = field(init=False)
    nodes: list[Node] = field(factory=list, init=False)
    _kernel: Kernel = field(init=False)
    _packages: Path = field(init=False)
    _boots: int = field(default=0, init=False)
    _cut: set[int] = field(factory=set, init=False)
    _power: threading.Lock = field(factory=threading.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        self.device_works.set()
        self._kernel = kernel()
        self._packages = package_tree("gfs2", _PACKAGES)
        self._initrd.write_bytes(initramfs(self._kernel, _MODULES, environment={"ROOT": "host"}))
        with self._disk.open("wb") as stream:
            stream.truncate(_DISK_BYTES)
        self.hub = Hub(self.folder / "hub")
        self.stack.callback(self.hub.close)
        self.stations = [self.hub.join(number) for number, _ in enumerate(_NAMES, 1)]

    @property
    def _initrd(self) -> Path:
        return self.folder / "node.initrd"

    @property
    def _disk(self) -> Path:
        return self.folder / "shared.img"

    @property
    def column(self) -> str:
        """What the file system is called in the table."""
        return "GFS2"

    @property
    def root(self) -> str:
        """Path of the root in both machines; the directory is not made yet."""
        return ROOT

    @property
    def target_options(self) -> str:
        """Nothing has to be declared."""
        return ""

    @property
    def forgets(self) -> float:
        """Seconds after which a silent node is not a member any more, and is being fenced."""
        return self.token * (1 + _CONSENSUS)

    @property
    def rows(self) -> Sequence[Row]:
        """The faults that only a cluster knows."""
        return gfs2_rows(self)

    # --- lives of the nodes -------------------------------------------------------------------

    def form(self) -> None:
        """Boot the nodes, make the cluster and the file system, and mount it on both."""
        for number, name in enumerate(_NAMES):
            ports = free_ports()
            self.nodes.append(Node(name, self._machine(number, name, card(ports)), ports))
        for step in (self._join, self._start_dlm, self._wait_joined):
            for number, _ in enumerate(self.nodes):
                step(number)
        options = f"-p lock_dlm -t flockpr:share -j {len(_NAMES)} -J {_JOURNAL_MEGABYTES}"
        self.nodes[0].machine.check(f"mkfs.gfs2 -q -O {options} /dev/vda")
        # One after the other: the second finds the lock space of the first.
        for number, _ in enumerate(self.nodes):
            self._mount(number)

    def boot(self, number: int) -> None:
        """Boot a node that lost its power; it joins and mounts again.

        Not before it was fenced, if it is: the device would find it running.
        """
        node = self.nodes[number]
        if self.fencing is Fencing.DEVICE and self.device_works.is_set():
            gone = f"dlm_tool status | grep '^node {self.stations[number].number} X'"
            self._until(1 - number, f"{gone} | grep -qv ' fence 0 '", "the fence")
        self._set_token(1 - number, self.token)
        self._link(number)
        node.machine = self._machine(number, node.name, card(node.ports))
        for step in (self._join, self._start_dlm, self._wait_joined, self._mount):
            step(number)

    def hurry(self) -> None:
        """From now on a node that is killed is taken for dead soon.

        On a busy host one that is alive may be as well, so do it right before the end of one.
        """
        for number, _ in enumerate(self.nodes):
            self._set_token(number, _SHORT_TOKEN_SECONDS)
        time.sleep(2 * self.token / TOKENS)  # the token that goes round has the old time

    def kill(self, number: int) -> None:
        """A node's power is gone."""
        with self._power:
            self.nodes[number].machine.kill()

    def cut(self, number: int) -> None:
        """Cut a node off from the other one; both go on with the disk, until one is fenced."""
        self._cut.add(number)
        self.hub.cut(self.stations[number])

    def mend(self, number: int) -> None:
        """Connect it again; it is booted, if the other one has had it fenced."""
        if self._lost(1 - number):
            deadline = time.monotonic() + _WAIT_SECONDS
            while self._alive(number):
                assert time.monotonic() < deadline, self.state(1 - number)
                time.sleep(0.2)
            self.boot(number)
        self._link(number)

    def withdraw(self, number: int) -> None:
        """A node's kernel finds the file system damaged, and lets go of it."""
        files = "/sys/fs/gfs2/flockpr:share"
        # It waits until somebody, mostly udev's helper, has heard of it.
        self.nodes[number].machine.check(
            f"(echo 1 > {files}/withdraw) > /run/withdraw.log 2>&1 & "
            f"sleep 2; echo 1 > {files}/lock_module/withdraw"
        )
        self._until(number, "dmesg | grep -q 'File system withdrawn'", "the withdraw")

    def fill(self) -> None:
        """Leave no room on the shared disk, and take what is given back, until `drain`."""
        # Big pieces at first: what is written goes through an emulated processor.
        pieces = " ".join(f"{1 << power}" for power in range(28, 11, -1))
        machine = self.nodes[0].machine
        machine.check(
            f"mkdir {_FILLER}; for size in {pieces}; do for n in 1 2 3; do "
            f"fallocate -l $size {_FILLER}/$size.$n 2> /dev/null || break; done; done; sync; "
            f"! dd if=/dev/zero of={_FILLER}/last bs=64k count=4 2> /dev/null"
        )
        # A commit takes a few blocks, and gives back those of older ones.
        more = f"dd if=/dev/zero bs=4k count=64 oflag=append conv=notrunc of={_FILLER}/more"
        machine.start(f"while test -d {_FILLER}; do {more} 2> /dev/null; sleep 0.3; done")

    def drain(self) -> None:
        """Give the room back."""
        gone = f"{_FILLER}.gone"  # so that nobody puts anything in meanwhile
        self.nodes[0].machine.check(f"mv {_FILLER} {gone}; rm -r {gone}; sync")

    def _link(self, number: int) -> None:
        self.hub.mend(self.stations[number])
        self._cut.discard(number)

    def _machine(self, number: int, name: str, tunnels: Sequence[str]) -> Machine:
        self._boots += 1
        folder = self.folder / f"boot{self._boots}"
        folder.mkdir()
        drive = f"driver=raw,node-name=shared,file.driver=file,file.filename={self._disk}"
        sharing = "file.locking=off,cache.direct=on,file.cache.direct=on"
        machine = Machine(
            name,
            folder,
            self._kernel,
            self._initrd,
            memory=_MEMORY,
            arguments=[
                *tree_arguments(self._packages),
                *self.stations[number].arguments(self.hub.path),
                *tunnels,
                *("-blockdev", f"{drive},{sharing}"),
                *("-device", "virtio-blk-pci,drive=shared,share-rw=on"),
            ],
        )
        self.stack.callback(machine.kill)
        return machine

    def _join(self, number: int) -> None:
        node, station = self.nodes[number], self.stations[number]
        machine = node.machine
        machine.wait_booted()
        machine.check(
            f"echo {node.name} > /proc/sys/kernel/hostname; ip link set lo up; "
            f"ip link set eth0 up; ip addr add {station.address}/24 dev eth0; "
            f"ip link set eth1 up; ip addr add {tunnel.BRIDGE_ADDRESS}/24 dev eth1"
        )
        machine.check(join_command(self.stations, self.token, self.fencing))
        if self.fencing is Fencing.DEVICE:
            device = threading.Thread(target=self._fence_device, args=(number, machine))
            device.daemon = True
            device.start()

    def _start_dlm(self, number: int) -> None:
        """Start the lock manager's daemon, once corosync is one of two."""
        both = "test $(corosync-quorumtool -l | grep -c '^ *[0-9]') -eq 2"
        self._until(number, both, "the other node")
        self.nodes[number].machine.check("dlm_controld")

    def _wait_joined(self, number: int) -> None:
        self._until(
            number,
            f"dlm_tool status | grep -q 'quorate 1' && "
            f"test $(dlm_tool status | grep -c '^node [0-9]* M') -eq {len(self.nodes)}",
            "membership",
        )

    def _mount(self, number: int) -> None:
        self.nodes[number].machine.check(
            f"mkdir -p {MOUNT_POINT}; mount -t gfs2 -o noatime /dev/vda {MOUNT_POINT} || "
            "{ dmesg | tail -n 20; dlm_tool status; exit 1; }"
        )

    # --- fencing ------------------------------------------------------------------------------

    def wait_lost(self, survivor: int) -> None:
        """Return when a node knows that the other one is not a member any more."""
        self._until(survivor, self._other_is_lost(survivor), "the other's loss")

    def wait_asked(self, survivor: int) -> None:
        """Return when a node has asked its fence device to act."""
        self._until(survivor, "test -s /run/fence.asked", "the call for the fence")

    def _lost(self, survivor: int) -> bool:
        return self.nodes[survivor].machine.run(self._other_is_lost(survivor)).status == 0

    def _other_is_lost(self, survivor: int) -> str:
        return f"dlm_tool status | grep -q '^node {self.stations[1 - survivor].number} X'"

    def _fence_device(self, number: int, machine: Machine) -> None:
        """Power off the other node whenever this one asks for it and is not cut off."""
        try:
            while True:
                asked = "until test -s /run/fence.asked; do sleep 0.3; done"
                machine.start(asked).wait(_FOR_EVER)
                while number in self._cut or not self.device_works.is_set():
                    if not machine.alive:
                        return  # what it has asked for is forgotten with it
                    time.sleep(0.2)
                with self._power:  # of two that ask at the same time one lives
                    if not machine.alive:
                        return
                    self.nodes[1 - number].machine.kill()
                answered = "while test -e /run/fence.asked; do sleep 0.2; done"
                machine.check(f"touch /run/fence.yes; {answered}")
        except (MachineError, OSError):
            return  # it is dead itself

    # --- the cluster --------------------------------------------------------------------------

    def state(self, number: int) -> str:
        """What the cluster's programs say on a node."""
        return (
            self.nodes[number]
            .machine.run(
                "dlm_tool status; dlm_tool ls; dlm_tool plocks share; cat /run/fence.asked; "
                "tail -n 20 /var/log/corosync.log /var/log/dlm_controld/dlm_controld.log; "
                "dmesg | tail -n 20"
            )
            .output
        )

    def _until(self, number: int, condition: str, what: str) -> None:
        """Wait until a shell command succeeds on a node."""
        machine = self.nodes[number].machine
        deadline = time.monotonic() + _WAIT_SECONDS
        while machine.run(condition).status != 0:
            if time.monotonic() > deadline:
                states = "\n".join(self.state(each) for each in (0, 1) if self._alive(each))
                raise machine.failure(f"waited in vain for {what}\n{states}")
            time.sleep(0.2)

    def _alive(self, number: int) -> bool:
        return self.nodes[number].machine.alive

    def _set_token(self, number: int, seconds: int) -> None:
        value = seconds * 1000
        self.nodes[number].machine.check(
            f"corosync-cmapctl -s totem.consensus u32 {int(value * _CONSENSUS)}; "
            f"corosync-cmapctl -s totem.token u32 {value}"
        )


@contextmanager
def boot_cluster(
    folder: Path, fencing: Fencing = Fencing.DEVICE, token: int = PATIENT_SECONDS
) -> Iterator[Cluster]:
    """A cluster, booted and mounted; everything ends with the context.

    Args:
        folder: Where everything goes; short.
        fencing: What happens to a node that is lost.
        token: Seconds of silence after which corosync takes a node for dead.
    """
    with ExitStack() as stack:
        cluster = Cluster(folder, stack, fencing, token)
        cluster.form()
        yield cluster
