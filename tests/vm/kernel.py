"""Debian packages that the emulated machines need: fetched once, never installed.

A guest needs a kernel with its modules, and some machines need NFS or iSCSI tools, on hosts
that have neither. apt downloads the packages, this module takes them apart into a cache
folder (``$FLOCKPR_VM_CACHE``, else ``~/.cache/flockpr-tests``) that parallel test processes
share. What is in the cache is complete or absent: it is built aside and renamed into place.
"""

from __future__ import annotations

import contextlib
import fcntl
import lzma
import os
import re
import shutil
import struct
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from attrs import field, frozen

from tests.support.peers import unavailable

CACHE_VARIABLE = "FLOCKPR_VM_CACHE"
_KERNEL = "linux-image-amd64"
_XZ_MAGIC = b"\xfd7zXZ\0"

_MODULE_FILES = re.compile(
    r"/kernel/(arch/x86/crypto|block|crypto|lib|drivers/virtio|net/(9p|core|dns_resolver|sunrpc)"
    r"|fs/(9p|configfs|dlm|ext4|fscache|gfs2|jbd2|lockd|mbcache|netfs|nfs|nfsd|nfs_common|overlayfs)"
    r"|drivers/(block|char|net|scsi)/(iscsi_tcp|libiscsi|net_failover|scsi|sd_mod|sg|virtio))"
)
"""Where the modules of this rig live; the rest of the 400 MB package is not unpacked."""


def cache_folder() -> Path:
    """The folder that outlives a test run; created when it is not there."""
    chosen = os.environ.get(CACHE_VARIABLE)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(chosen) if chosen else Path(home) / "flockpr-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _held(lock: Path) -> Iterator[None]:
    """Only one process of this host at a time is inside; the kernel frees it if we die."""
    with lock.open("a", encoding="ascii") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _once(name: str, build: Callable[[Path], None]) -> Path:
    """Folder `name` of the cache, built by whichever process comes first.

    A process killed while building leaves a ``.new`` folder behind, which the next one removes;
    the final name appears only when everything is in it.
    """
    cache = cache_folder()
    final = cache / name
    with _held(cache / f"{name}.lock"):
        if not final.exists():
            draft = cache / f"{name}.new"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            build(draft)
            draft.rename(final)
    return final


# --- apt ----------------------------------------------------------------------------------


def _apt(*command: str, cwd: Path | None = None) -> str:
    """Output of an apt command; the test cannot go on without it (no apt, no network)."""
    environment = dict(os.environ, LC_ALL="C")
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        unavailable(f"{command[0]} cannot be run: {error}")
    if done.returncode:
        unavailable(
            f"{' '.join(command)} failed; is there a network, was `apt-get update` run? "
            f"{done.stderr.strip()[-300:]}"
        )
    return done.stdout


@contextlib.contextmanager
def _files_of(package: str) -> Iterator[IO[bytes]]:
    """The file archive of a Debian package, downloaded, as a stream in tar format."""
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        _apt("apt-get", "-q", "download", package, cwd=Path(scratch))
        (archive,) = Path(scratch).glob("*.deb")
        command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as unpacker:
            assert unpacker.stdout is not None  # asked for above
            yield unpacker.stdout
        if unpacker.returncode:
            unavailable(f"{package} cannot be unpacked: dpkg-deb says {unpacker.returncode}")


# --- the kernel -----------------------------------------------------------------------------


def kernel_elf(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage, or the image itself when it is packed otherwise.

    QEMU enters an ELF kernel directly (PVH), so that the guest need not decompress itself:
    under TCG that saves several seconds of every boot.

    Args:
        image: A bzImage (Linux boot protocol 2.08 or later).
    """
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1F1] or 4) + 1) * 512 + offset
    if not image.startswith(_XZ_MAGIC, start):
        return image
    return lzma.LZMADecompressor().decompress(image[start : start + length])


def _unpack_kernel(folder: Path, package: str) -> None:
    modules = folder / "modules"
    modules.mkdir()
    with _files_of(package) as files, tarfile.open(fileobj=files, mode="r|") as archive:
        for member in archive:
            content = archive.extractfile(member)  # None for what is not a regular file
            name = os.path.basename(member.name)
            if content is None:
                continue
            if "/boot/vmlinuz-" in member.name:
                (folder / "vmlinux").write_bytes(kernel_elf(content.read()))
            elif not _MODULE_FILES.search(member.name):
                continue
            elif name.endswith(".ko"):
                (modules / name).write_bytes(content.read())
            elif name.endswith(".ko.xz"):  # busybox's insmod takes them only unpacked
                (modules / name.removesuffix(".xz")).write_bytes(lzma.decompress(content.read()))


@frozen
class Kernel:
    """A Debian kernel, ready to be booted by QEMU.

    Args:
        release: What ``uname -r`` says in the guest.
        image: Path of the kernel for QEMU's ``-kernel``.
        modules: Folder of the module files, flat.
    """

    release: str
    image: Path
    modules: Path
    _paths: dict[str, Path] = field(factory=dict, init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._paths.update(
            (path.stem.replace("-", "_"), path) for path in self.modules.glob("*.ko")
        )

    def closure(self, names: Iterable[str]) -> list[Path]:
        """Files of the named modules and of all they need, in the order to load them.

        A name without a file is taken for built in, as modprobe does.

        Raises:
            KeyError: One of them needs a module that was not unpacked.
        """
        order: dict[str, Path] = {}

        def visit(name: str) -> None:
            if name in order:
                return
            for needed in _dependencies(self._paths[name]):
                visit(needed)
            order[name] = self._paths[name]

        for name in names:
            if (known := name.replace("-", "_")) in self._paths:
                visit(known)
        return list(order.values())


def _dependencies(module: Path) -> list[str]:
    """Names in the module's own `depends=`; saves running depmod over a whole tree."""
    listed = re.search(rb"\0depends=([^\0]+)\0", module.read_bytes())
    return listed[1].decode("ascii").replace("-", "_").split(",") if listed else []


def kernel() -> Kernel:
    """Debian's current kernel for this machine (not the cloud flavour: it lacks 9p and sg)."""
    if os.uname().machine != "x86_64":
        unavailable("the emulated machines are x86_64 and borrow programs from the host")
    depends = _apt("apt-cache", "depends", "--no-recommends", "--no-suggests", _KERNEL)
    package = re.search(r"Depends: (linux-image-\S+)", depends)
    if package is None:
        unavailable(f"apt knows no {_KERNEL}: is this Debian, was `apt-get update` run?")
    name = package[1]
    # The folder's name changes with what is unpacked, so an older cache is not taken for it.
    layout = zlib.crc32(_MODULE_FILES.pattern.encode())
    folder = _once(f"{name}.{layout:08x}", lambda draft: _unpack_kernel(draft, name))
    return Kernel(name.removeprefix("linux-image-"), folder / "vmlinux", folder / "modules")


# --- other packages -------------------------------------------------------------------------


def _missing(packages: Sequence[str]) -> list[str]:
    """The packages themselves and what apt would have to install along with them."""
    plan = _apt("apt-get", "-s", "install", "--no-install-recommends", *packages)
    return sorted({*packages, *re.findall(r"^Inst (\S+)", plan, re.MULTILINE)})


def _unpack_packages(folder: Path, packages: Sequence[str], alone: Sequence[str]) -> None:
    for directory in ("bin", "sbin", "lib", "lib64"):
        (folder / "usr" / directory).mkdir(parents=True, exist_ok=True)
        # The merged layout: else /sbin/mount.nfs of a package would hide the host's /sbin.
        (folder / directory).symlink_to(f"usr/{directory}")
    for package in [*_missing(packages), *alone]:
        with _files_of(package) as files:
            subprocess.run(
                ["tar", "-C", str(folder), "--keep-directory-symlink", "-xf", "-"],
                stdin=files,
                check=True,
            )


def package_tree(name: str, packages: Sequence[str], alone: Sequence[str] = ()) -> Path:
    """Folder with the files of packages that this host lacks, laid out as below ``/``.

    Their maintainer scripts are not run: users and configuration are the caller's to make.

    Args:
        name: Name of the folder in the cache.
        packages: Names of Debian packages; what they need comes along.
        alone: Those of which one part is wanted that can do without what the others need.
    """
    return _once(name, lambda draft: _unpack_packages(draft, packages, alone))
