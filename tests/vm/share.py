"""Machines that share a folder over NFSv4.2, with flockpr's daemons inside.

A machine's root is this host's own, read-only through 9p under a RAM disk: it runs the Python
and the flockpr that run the test. One machine exports an ext4 disk with the kernel's server,
the others mount it; the lease is short, so that a client cut off loses its locks in seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import define, field, frozen

from flockpr.errors import ProtocolViolation
from flockpr.prhelper.client import HelperClient
from tests.vm import tunnel
from tests.vm.initramfs import initramfs
from tests.vm.kernel import Kernel, kernel, package_tree
from tests.vm.machine import Machine, Running
from tests.vm.network import Hub, Station

LEASE_SECONDS = 10
MOUNT_POINT = "/mnt/share"
ROOT = f"{MOUNT_POINT}/root"

FLOCKPR = f"env PYTHONPATH={Path(__file__).parents[2]} {sys.executable} -m flockpr"
"""The command line of this very flockpr in a machine."""

_BRIDGE = Path(__file__).parent / "guest" / "bridge.py"
PACKAGES = ("nfs-kernel-server", "nfs-common")
TREE_MODULES = ("9p", "9pnet_virtio", "overlay")
"""What `tree_arguments` takes in the machine."""
MODULES = (
    *("virtio_pci", "virtio_console", "virtio_net", "virtio_blk"),
    *TREE_MODULES,
    *("crc32c_generic", "ext4", "nfsv4", "nfsd"),
)
_DISK_BYTES = 256 << 20
_START_SECONDS = 300

_EXPORT = f"""
set -e
mkfs.ext4 -q -F /dev/vda
mkdir -p /srv/share /var/lib/nfs/nfsdcld /run/rpc_pipefs
mount /dev/vda /srv/share
mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
mount -t nfsd nfsd /proc/fs/nfsd
# fsid=0 makes it the root of version 4: an overlay, which / is here, cannot be exported.
echo '/srv/share *(rw,sync,no_root_squash,no_subtree_check,fsid=0)' > /etc/exports
nfsdcld -p /run/rpc_pipefs
exportfs -ra
echo {LEASE_SECONDS} > /proc/fs/nfsd/nfsv4leasetime
echo {LEASE_SECONDS} > /proc/fs/nfsd/nfsv4gracetime
# Locks of version 4 wait for the grace period of lockd as well, 50 s unless it is told so.
echo {LEASE_SECONDS} > /proc/sys/fs/nfs/nlm_grace_period
rpc.mountd -N 3
rpc.nfsd -N 3 -V 4.2 4
"""


@frozen
class Host:
    """A booted machine on the segment.

    Args:
        machine: The machine.
        station: Its place on the segment.
    """

    machine: Machine
    station: Station


@define
class HostDaemon:
    """`flockpr serve` in a machine, reachable through a socket on this host.

    Args:
        host: Where it runs.
        command: Program and arguments, run in the machine.
        helper: The socket on this host.
    """

    host: Host
    command: str
    helper: Path
    _running: Running | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it; returns when it answers through the tunnel."""
        shell = f"echo $$ > /run/daemon.pid; exec {self.command} >> /run/daemon.log 2>&1"
        self._running = self.host.machine.start(shell)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                HelperClient(str(self.helper)).close()
                return
            except (OSError, ProtocolViolation):
                if self._running.finished or time.monotonic() > deadline:
                    raise self.host.machine.failure(f"no daemon: {self.log()}") from None
                time.sleep(0.1)

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._running is not None
        self.host.machine.check("kill -9 $(cat /run/daemon.pid)")
        self._running.wait()

    def log(self) -> str:
        """What it printed."""
        return self.host.machine.run("tail -n 50 /run/daemon.log").output


@define
class Lab:
    """One server and some hosts that mount its disk at ``/mnt/share``.

    Args:
        folder: Where everything goes; short.
        hub: The segment.
        hosts: The hosts, mounted.
        ports: Of 127.0.0.1, one per host: they lead to the host's bridge.
        stack: Ends what is added to the lab.
    """

    folder: Path
    hub: Hub
    hosts: Sequence[Host]
    ports: Sequence[int]
    stack: ExitStack

    def create_lun(self, name: str) -> None:
        """Make a logical unit on the share, and a file to pass as its disk."""
        self.hosts[0].machine.check(
            f"mkdir -p -m 700 {ROOT}; {FLOCKPR} lun create {name} --root {ROOT}"
        )

    def daemon(self, number: int, lun: str, initiator: str) -> HostDaemon:
        """A daemon on a host, with its tunnel; not started yet.

        Args:
            number: Of the host, from 0.
            lun: The logical unit of all its guests.
            initiator: The initiator port of all its guests.
        """
        host = self.hosts[number]
        bridge = f"{sys.executable} {_BRIDGE} {tunnel.BRIDGE_PORT} /run/pr.sock /run/disk.img"
        host.machine.start(bridge)
        helper = tunnel.Tunnel(self.folder / f"pr{number}", self.ports[number])
        self.stack.callback(helper.close)
        command = (
            f"{FLOCKPR} serve --root {ROOT} --socket /run/pr.sock "
            f"--lun {lun} --initiator {initiator} --host {host.machine.name}"
        )
        return HostDaemon(host, command, helper.path)

    def cut(self, number: int) -> None:
        """Cut a host off from the server."""
        self.hub.cut(self.hosts[number].station)

    def mend(self, number: int) -> None:
        """Connect it again."""
        self.hub.mend(self.hosts[number].station)


def tree_arguments(packages: Path) -> list[str]:
    """QEMU's arguments for a machine whose root is this host's own, and more packages.

    Args:
        packages: The folder with these.
    """
    common = "security_model=none,readonly=on,multidevs=remap"
    # fmt: off
    return [
        "-virtfs", f"local,path=/,mount_tag=host,{common}",
        "-virtfs", f"local,path={packages},mount_tag=packages,{common}",
        "-device", "virtio-rng-pci",
    ]
    # fmt: on


@define
class Builder:
    """Boots machines of one kind on one segment."""

    folder: Path
    hub: Hub
    kernel: Kernel
    initrd: Path
    packages: Path
    memory: int
    stack: ExitStack
    _count: int = field(default=0, init=False)

    def boot(self, name: str, arguments: Sequence[str], *, again: Station | None = None) -> Host:
        """A machine that was started and is not waited for.

        Args:
            name: Its name, and that of its host.
            arguments: More of QEMU.
            again: The place of the machine of that name that was killed; None for a new one.
        """
        self._count += 1
        station = again or self.hub.join(self._count)
        trees = tree_arguments(self.packages)
        card = station.arguments(self.hub.path)
        folder = self.folder
        if again is not None:
            folder = self.folder / f"boot{self._count}"
            folder.mkdir()
        machine = Machine(
            name,
            folder,
            self.kernel,
            self.initrd,
            memory=self.memory,
            arguments=[*trees, *card, *arguments],
        )
        self.stack.enter_context(machine)
        return Host(machine, station)


def network(host: Host, card: str, address: str) -> None:
    """Give a network card its address."""
    host.machine.check(f"ip link set {card} up; ip addr add {address}/24 dev {card}")


def prepare(host: Host) -> None:
    """Wait until a machine has booted; name it, and connect it to the segment."""
    machine = host.machine
    machine.wait_booted()
    machine.check(f"echo {machine.name} > /proc/sys/kernel/hostname; ip link set lo up")
    network(host, "eth0", host.station.address)


@contextmanager
def boot_lab(folder: Path, names: Sequence[str], memory: int = 512) -> Iterator[Lab]:
    """A server and hosts, booted and mounted; everything ends with the context.

    Args:
        folder: Where everything goes; short.
        names: Of the hosts.
        memory: MiB of each machine.
    """
    chosen = kernel()
    packages = package_tree("nfs", PACKAGES)
    initrd = folder / "host.initrd"
    initrd.write_bytes(initramfs(chosen, MODULES, environment={"ROOT": "host"}))
    disk = folder / "share.img"
    with disk.open("wb") as stream:
        stream.truncate(_DISK_BYTES)
    with ExitStack() as stack:
        hub = Hub(folder / "hub")
        stack.callback(hub.close)
        builder = Builder(folder, hub, chosen, initrd, packages, memory, stack)
        drive = f"driver=raw,node-name=share,file.driver=file,file.filename={disk}"
        server = builder.boot(
            "server", ["-blockdev", drive, "-device", "virtio-blk-pci,drive=share"]
        )
        ports = [tunnel.free_port() for _ in names]
        pairs = zip(names, ports, strict=True)
        hosts = [builder.boot(name, tunnel.arguments(port)) for name, port in pairs]
        prepare(server)
        server.machine.check(_EXPORT)
        for host in hosts:
            prepare(host)
            network(host, "eth1", tunnel.BRIDGE_ADDRESS)
            host.machine.check(
                f"mkdir -p {MOUNT_POINT}; mount -t nfs -o vers=4.2,hard "
                f"{server.station.address}:/ {MOUNT_POINT}"
            )
        yield Lab(folder, hub, hosts, ports, stack)
