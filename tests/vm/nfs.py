"""The fault matrix over NFS: a server with a disk of its own, two hosts that mount it.

Version 3 has locks beside it (rpcbind, statd, lockd). What statd remembers over a reboot, on
which the release of a dead host's locks hangs, is kept on a disk, as on a real machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import define, field

from tests.vm import lab as labs
from tests.vm import tunnel
from tests.vm.initramfs import initramfs
from tests.vm.kernel import kernel, package_tree
from tests.vm.lab import Node
from tests.vm.machine import Machine
from tests.vm.matrix import Row
from tests.vm.network import Hub
from tests.vm.nfs_rows import nfs_rows
from tests.vm.share import (
    LEASE_SECONDS,
    MODULES,
    MOUNT_POINT,
    PACKAGES,
    ROOT,
    Builder,
    Host,
    network,
    prepare,
)

_DISK_BYTES = 96 << 20
_STATE_BYTES = 8 << 20
"""Of a host's disk for what statd remembers."""
_NAMES = ("host1", "host2")
_EXPORTED = "/srv/disk/share"
_FILLER = "/srv/disk/filler"
"""Beside what is exported."""

_FORMAT = f"""
set -e
mkfs.ext4 -q -F -m 0 /dev/vda
mkdir -p /srv/disk
mount /dev/vda /srv/disk
mkdir -p {_EXPORTED} /srv/disk/nfs/nfsdcld /srv/disk/nfs/sm /srv/disk/nfs/sm.bak
"""

_EXPORT = f"""
set -e
mkdir -p /srv/disk /var/lib/nfs /run/rpc_pipefs
mountpoint -q /srv/disk || mount /dev/vda /srv/disk
mount --bind /srv/disk/nfs /var/lib/nfs
mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
mount -t nfsd nfsd /proc/fs/nfsd
echo '{_EXPORTED} *(rw,sync,no_root_squash,no_subtree_check,fsid=0)' > /etc/exports
nfsdcld -p /run/rpc_pipefs
exportfs -ra
echo {LEASE_SECONDS} > /proc/fs/nfsd/nfsv4leasetime
echo {LEASE_SECONDS} > /proc/fs/nfsd/nfsv4gracetime
# Locks of either version wait for the grace period of lockd, 50 s unless it is told so.
echo {LEASE_SECONDS} > /proc/sys/fs/nfs/nlm_grace_period
"""

# rpcbind ends at once without its user; whoever packages it makes one.
_RPC = """
grep -q ^_rpc: /etc/passwd || echo '_rpc:x:127:65534::/run/rpcbind:/usr/sbin/nologin' >> /etc/passwd
mkdir -p /run/rpcbind && chown 127 /run/rpcbind
rpcbind
"""

_STATE = """
set -e
mkdir -p /var/lib/nfs
blkid /dev/vda > /dev/null || mkfs.ext4 -q -F /dev/vda
mount /dev/vda /var/lib/nfs
mkdir -p /var/lib/nfs/sm /var/lib/nfs/sm.bak
"""


@define
class NfsLab:
    """A server and two hosts.

    Args:
        version: What the hosts mount: ``4.2``, ``4.1``, ``4.0`` or ``3``.
        builder: Boots machines.
        hub: The segment.
        server: The server, booted and exporting.
        hosts: The hosts, on the segment.
        nodes: The hosts, as the matrix sees them.
    """

    version: str
    builder: Builder
    hub: Hub
    server: Host
    hosts: list[Host]
    nodes: list[Node]
    root: str = ROOT
    rows: Sequence[Row] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.rows = nfs_rows(self)

    @property
    def column(self) -> str:
        """What the file system is called in the table."""
        return f"NFSv{self.version}"

    @property
    def leased(self) -> bool:
        """Whether locks end with a lease."""
        return self.version != "3"

    @property
    def target_options(self) -> str:
        """Version 3 is served only to hosts that something else fences."""
        return "" if self.leased else 'fencing = "external"\n'

    @property
    def forgets(self) -> float | None:
        """Seconds until a silent host's locks are given to others."""
        return LEASE_SECONDS if self.leased else None

    # ------------------------------------------------------------------ hosts

    def cut(self, number: int) -> None:
        """Cut a host off from the server."""
        self.hub.cut(self.hosts[number].station)

    def mend(self, number: int) -> None:
        """Connect it again."""
        self.hub.mend(self.hosts[number].station)

    def kill(self, number: int) -> None:
        """A host's power is gone."""
        self.hosts[number].machine.kill()

    def boot(self, number: int) -> None:
        """Boot a killed host, and mount."""
        before, node = self.hosts[number], self.nodes[number]
        host = self.builder.boot(node.name, _host_arguments(self, number), again=before.station)
        self.hosts[number] = host
        self.mount(number)
        node.machine = host.machine

    def mount(self, number: int) -> None:
        """Bring a booted host onto the segment, and mount the share."""
        host = self.hosts[number]
        prepare(host)
        network(host, "eth1", tunnel.BRIDGE_ADDRESS)
        self._know_names(host.machine)
        if not self.leased:
            host.machine.check(_STATE)
            _rpc(host.machine)
            host.machine.check("rpc.statd --no-notify && sm-notify -f")
        source = f"{self.server.station.address}:{'/' if self.leased else _EXPORTED}"
        options = f"vers={self.version},hard"
        command = f"mkdir -p {MOUNT_POINT}; mount -t nfs -o {options} {source} {MOUNT_POINT}"
        host.machine.check(command)

    def _know_names(self, machine: Machine) -> None:
        """Statd tells of hosts by their names."""
        places = [("server", self.server), *zip(_NAMES, self.hosts, strict=True)]
        lines = "".join(f"{host.station.address} {name}\\n" for name, host in places)
        machine.check(f"printf '127.0.0.1 localhost\\n{lines}' > /etc/hosts")

    # ------------------------------------------------------------------ the server

    def export(self, *, first: bool) -> None:
        """Start the server's services."""
        machine = self.server.machine
        prepare(self.server)
        self._know_names(machine)
        if first:
            machine.check(_FORMAT)
        machine.check(_EXPORT)
        if not self.leased:
            _rpc(machine)
            machine.check("rpc.statd --no-notify")
            if not first:
                machine.check("sm-notify -f")
        machine.check(f"rpc.mountd {'-N 3' if self.leased else ''}")
        machine.check(self._serve)

    @property
    def _serve(self) -> str:
        return "rpc.nfsd -N 3 -V 4.0 -V 4.1 -V 4.2 4" if self.leased else "rpc.nfsd -N 4 -V 3 4"

    def restart_server(self, *, notify: bool = True) -> None:
        """Stop and start the file service.

        Args:
            notify: Tell the clients of version 3, who then ask for their locks again.
        """
        telling = "; sm-notify -f" if notify and not self.leased else ""
        self.server.machine.check(f"rpc.nfsd 0; sleep 1; {self._serve}{telling}")

    def power_cycle_server(self) -> None:
        """Cut the server's power, and boot it again."""
        self.server.machine.kill()
        self.server = self.builder.boot("server", _disk(self, "share"), again=self.server.station)
        self.export(first=False)

    def fill(self) -> None:
        """Leave no room on the server's disk, and take what is given back, until `drain`."""
        machine = self.server.machine
        machine.run(f"mkdir {_FILLER}; dd if=/dev/zero of={_FILLER}/most bs=64k; sync")
        left = machine.check("df --output=avail /srv/disk | tail -n 1").strip()
        assert int(left) < 64, left
        # A commit takes a few blocks, and gives back those of older ones.
        more = f"dd if=/dev/zero bs=4k count=64 oflag=append conv=notrunc of={_FILLER}/more"
        machine.start(f"while test -d {_FILLER}; do {more} 2> /dev/null; sleep 0.3; done")

    def drain(self) -> None:
        """Give the room back."""
        gone = f"{_FILLER}.gone"  # so that nobody puts anything in meanwhile
        self.server.machine.check(f"mv {_FILLER} {gone}; rm -r {gone}; sync")


def _rpc(machine: Machine) -> None:
    machine.check(_RPC)
    deadline = time.monotonic() + 60
    while machine.run("rpcinfo -p localhost").status != 0:
        assert time.monotonic() < deadline, machine.failure("no rpcbind")
        time.sleep(0.2)


def _disk(of: NfsLab | Path, name: str) -> list[str]:
    folder = of if isinstance(of, Path) else of.builder.folder
    drive = f"driver=raw,node-name={name},file.driver=file,file.filename={folder}/{name}.img"
    return ["-blockdev", drive, "-device", f"virtio-blk-pci,drive={name}"]


def _host_arguments(of: NfsLab, number: int) -> list[str]:
    state = [] if of.leased else _disk(of, _NAMES[number])
    return [*labs.card(of.nodes[number].ports), *state]


def _make_disks(folder: Path) -> None:
    for name, size in (("share", _DISK_BYTES), *((name, _STATE_BYTES) for name in _NAMES)):
        with (folder / f"{name}.img").open("wb") as stream:
            stream.truncate(size)


@contextmanager
def boot_nfs_lab(folder: Path, version: str, memory: int = 512) -> Iterator[NfsLab]:
    """A server and two hosts, booted and mounted; everything ends with the context.

    Args:
        folder: Where everything goes; short.
        version: Of NFS.
        memory: MiB of each machine.
    """
    chosen = kernel()
    packages = package_tree("nfs", PACKAGES)
    initrd = folder / "host.initrd"
    modules = (*MODULES, "nfsv3")
    initrd.write_bytes(initramfs(chosen, modules, environment={"ROOT": "host"}))
    _make_disks(folder)
    with ExitStack() as stack:
        hub = Hub(folder / "hub")
        stack.callback(hub.close)
        builder = Builder(folder, hub, chosen, initrd, packages, memory, stack)
        server = builder.boot("server", _disk(folder, "share"))
        ports = [labs.free_ports() for _ in _NAMES]
        lab = NfsLab(version, builder, hub, server, [], [])
        for name, doors in zip(_NAMES, ports, strict=True):
            arguments = [*labs.card(doors), *([] if lab.leased else _disk(folder, name))]
            host = builder.boot(name, arguments)
            lab.hosts.append(host)
            lab.nodes.append(Node(name, host.machine, doors))
        lab.export(first=True)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lab.mount, range(len(_NAMES))))
        yield lab
