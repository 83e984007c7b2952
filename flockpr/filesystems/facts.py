"""Reads what a host knows of what a path stands on.

Only the kernel's own tables are read, so nothing here hangs with a file server, but for the one
look at the path where its device is not known yet.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator

import attrs

from flockpr.filesystems import mounts
from flockpr.filesystems.kinds import CLUSTER, NETWORK
from flockpr.filesystems.mount_rules import Facts
from flockpr.filesystems.mounts import Mount

_OFF = ("0", "no", "false")
_MOUNTED = re.compile(r" mounted on (\S+) with fstype ")
_LAYOUTS = re.compile(r"\bpnfs=([^,\n]*)")
_NO_LAYOUTS = "not configured"


@attrs.frozen
class Sources:
    """Where a host tells about itself; tests have others.

    Attributes:
        table: The mount table.
        sysfs: Where sysfs is.
        procfs: Where proc is.
        dlm_conf: Configuration of dlm_controld.
    """

    table: Callable[[], str] = mounts.read_table
    sysfs: str = "/sys"
    procfs: str = "/proc"
    dlm_conf: str = "/etc/dlm/dlm.conf"


SYSTEM = Sources()
"""Those of this host."""


def facts_of(path: str, *, fd: int | None = None, sources: Sources | None = None) -> Facts:
    """The facts about a directory or an image; what is not there stands where it will be made.

    Args:
        path: A path; its nearest existing parent counts where it is missing.
        fd: A descriptor of it, if there is one: then the path is not looked at.
        sources: Where the host tells about itself.

    Raises:
        OSError: It cannot be looked at.
    """
    sources = sources or SYSTEM
    real = os.path.realpath(path)
    if fd is not None:
        device = os.fstat(fd).st_dev
    else:
        while not os.path.lexists(real) and os.path.dirname(real) != real:
            real = os.path.dirname(real)
        device = os.stat(real).st_dev
    return facts_of_mount(mounts.mount_of(device, real, sources.table()), sources)


def facts_of_mount(mount: Mount | None, sources: Sources | None = None) -> Facts:
    """The facts about what a line of the mount table stands for; touches nothing below it."""
    sources = sources or SYSTEM
    if mount is not None and mount.kind in NETWORK:
        return Facts(
            mount,
            recover_lost_locks=recover_lost_locks(sources),
            lockd=_lockd(sources),
            pnfs=_layout_driver(mount, sources),
        )
    if mount is not None and mount.kind in CLUSTER:
        return Facts(
            mount,
            lock_protocol=_lock_protocol(mount, sources),
            dlm_fences=_dlm(sources, "enable_fencing", "-f"),
            dlm_locks=_dlm(sources, "enable_plock", "-p"),
        )
    return Facts(mount)


def recover_lost_locks(sources: Sources | None = None) -> str | None:
    """The parameter of the NFS client, as the kernel writes it; None where it is not there."""
    sources = sources or SYSTEM
    for module in ("nfsv4", "nfs"):
        path = f"{sources.sysfs}/module/{module}/parameters/recover_lost_locks"
        if (value := _line(path)) is not None:
            return value
    return None


def _layout_driver(mount: Mount, sources: Sources) -> str | None:
    """What the client's counters say of pNFS; the last mount of a point is the one that is seen."""
    found = None
    text = _text(f"{sources.procfs}/self/mountstats", -1) or ""
    for block in re.split(r"^device ", text, flags=re.MULTILINE):
        if (where := _MOUNTED.search(block)) and mounts.unescape(where[1]) == mount.point:
            driver = _LAYOUTS.search(block)
            found = "" if driver is None or driver[1] == _NO_LAYOUTS else driver[1]
    return found


def _lockd(sources: Sources) -> bool | None:
    if not os.path.isdir(f"{sources.sysfs}/module/nfs"):
        return None  # of this kernel's modules nothing is seen from here
    return os.path.isdir(f"{sources.sysfs}/module/lockd")


def _lock_protocol(mount: Mount, sources: Sources) -> str | None:
    """The lock module that a GFS2 runs with, by its directory in sysfs."""
    base = f"{sources.sysfs}/fs/gfs2"
    with contextlib.suppress(OSError):
        for name in os.listdir(base):
            if _line(f"{base}/{name}/id") == mount.device:
                return _line(f"{base}/{name}/lock_module/proto_name")
    return None


def _dlm(sources: Sources, name: str, short: str) -> bool | None:
    """A switch of dlm_controld: its command line, then its file, then its default, which is on."""
    for arguments in _dlm_controlds(sources.procfs):
        told = _option(arguments, f"--{name}", short)
        return told if told is not None else _configured(sources.dlm_conf, name)
    return None


def _dlm_controlds(procfs: str) -> Iterator[list[str]]:
    with contextlib.suppress(OSError):
        for name in os.listdir(procfs):
            if name.isdigit() and _line(f"{procfs}/{name}/comm") == "dlm_controld":
                command = _text(f"{procfs}/{name}/cmdline")
                if command is not None:
                    yield command.split("\0")


def _option(arguments: list[str], long: str, short: str) -> bool | None:
    """What the command line says, in all of its spellings; the last one counts."""
    told = None
    for one, after in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = one.partition("=")
        if name == long:
            told = value if equals else after
        elif one == short:
            told = after
        elif one.startswith(short) and not one.startswith("--"):
            told = one[len(short) :]
    return None if told is None else told.strip().lower() not in _OFF


def _configured(path: str, wanted: str) -> bool | None:
    text = _text(path)
    if text is None:
        return None if os.path.lexists(path) else True
    for line in text.splitlines():
        name, _, value = line.partition("#")[0].partition("=")
        if name.strip() == wanted:
            return value.strip().lower() not in _OFF
    return True


def _line(path: str) -> str | None:
    text = _text(path)
    return None if text is None else text.partition("\n")[0].strip()


def _text(path: str, most: int = 1 << 16) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(most)
    except OSError:
        return None
