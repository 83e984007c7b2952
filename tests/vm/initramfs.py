"""A small initial RAM file system: busybox, some modules, a few programs of this host.

Written as a cpio archive straight from memory: a few megabytes and milliseconds, so it is made
for every run and never stale.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import define, field

from tests.support.peers import require
from tests.vm.kernel import Kernel

GUEST_FILES = Path(__file__).parent / "guest"


@define
class Archive:
    """A cpio archive in the "newc" format, the one that Linux unpacks."""

    _data: bytearray = field(factory=bytearray, init=False)
    _names: set[str] = field(factory=set, init=False)

    def _entry(self, name: str, mode: int, content: bytes) -> None:
        if name in self._names:
            return
        self._names.add(name)
        path = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        # inode, mode, uid, gid, links, mtime, size, device, rdevice, name's size, check
        numbers = (
            len(self._names),
            mode,
            *(0, 0, links, 0),
            len(content),
            *(0, 0, 0, 0),
            len(path),
            0,
        )
        self._data += b"070701" + b"".join(b"%08x" % number for number in numbers) + path
        self._pad()
        self._data += content
        self._pad()

    def _pad(self) -> None:
        self._data += bytes(-len(self._data) % 4)

    def directory(self, name: str) -> None:
        """Add a directory, and those above it, once."""
        parent = os.path.dirname(name)
        if parent:
            self.directory(parent)
        if name:
            self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Add a regular file, with the directories above it."""
        self.directory(os.path.dirname(name))
        self._entry(name, stat.S_IFREG | mode, content)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self.directory(os.path.dirname(name))
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def program(self, path: str) -> None:
        """Add an executable of this host as ``/bin/NAME``, with the libraries it loads."""
        self.file(f"bin/{os.path.basename(path)}", Path(path).read_bytes(), 0o755)
        listed = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
        for library in re.findall(r"(/\S+) \(0x", listed):
            self.file(library.lstrip("/"), Path(library).read_bytes(), 0o755)

    def bytes(self) -> bytes:
        """The finished archive."""
        self._entry("TRAILER!!!", 0, b"")
        return bytes(self._data)


def initramfs(
    kernel: Kernel,
    modules: Sequence[str],
    programs: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """The archive that boots ``guest/init.sh``.

    Args:
        kernel: Where the modules come from.
        modules: Names of modules that init loads, in this order, each after what it needs.
        programs: Names of host programs to have in the guest.
        environment: Settings for init, as shell variables.

    Returns:
        The bytes for QEMU's ``-initrd``.
    """
    tools = require("busybox", *programs)
    archive = Archive()
    for name in ("dev", "proc", "sys", "tmp", "run"):
        archive.directory(name)
    for path in tools.values():
        archive.program(path)
    listed = subprocess.run([tools["busybox"], "--list"], capture_output=True, text=True)
    for applet in listed.stdout.split():
        archive.link(f"bin/{applet}", "busybox")
    files = kernel.closure(modules)
    for file in files:
        archive.file(f"modules/{file.name}", file.read_bytes())
    archive.file("modules/order", "".join(f"{file.name}\n" for file in files).encode())
    settings = "".join(f"{name}='{value}'\n" for name, value in (environment or {}).items())
    archive.file("settings", settings.encode())
    for script in GUEST_FILES.glob("*.sh"):
        archive.file(script.name, script.read_bytes(), 0o755)
    archive.link("init", "init.sh")
    return archive.bytes()
