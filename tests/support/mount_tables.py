"""A host whose mount table, /sys and /proc are files of a test."""

from __future__ import annotations

import os
import pathlib

from flockpr.filesystems.facts import Sources


class Tables:
    """What a host tells about itself; nothing is mounted.

    Args:
        place: A directory that is not there yet.

    Attributes:
        sources: For `flockpr.filesystems`.
        device: Number of the device that the last mount seems to be on.
    """

    def __init__(self, place: pathlib.Path) -> None:
        self.place = place
        self.device = "0:0"
        self._table = place / "mountinfo"
        (place / "sys/module").mkdir(parents=True)
        (place / "proc/self").mkdir(parents=True)
        self._table.write_text("")
        self.sources = Sources(
            table=lambda: self._table.read_text(encoding="utf-8"),
            sysfs=str(place / "sys"),
            procfs=str(place / "proc"),
            dlm_conf=str(place / "dlm.conf"),
        )

    def mount(self, path: pathlib.Path, kind: str, options: str, device: str = "") -> None:
        """Say that this is mounted at a path; it keeps the number of the device that it is on."""
        there = path
        while not there.exists():
            there = there.parent
        number = there.stat().st_dev
        self.device = device or f"{os.major(number)}:{os.minor(number)}"
        with self._table.open("a", encoding="utf-8") as table:
            table.write(f"9 1 {self.device} / {path} rw - {kind} server:/export {options}\n")
        self.layouts(path, "not configured", kind)

    def layouts(self, path: pathlib.Path, driver: str | None, kind: str = "nfs4") -> None:
        """Say what the NFS client does by pNFS there; None: it says nothing of it."""
        pnfs = "" if driver is None else f",pnfs={driver}"
        with (self.place / "proc/self/mountstats").open("a", encoding="utf-8") as counters:
            counters.write(
                f"device server:/export mounted on {path} with fstype {kind} statvers=1.1\n"
                f"\topts:\trw,vers=4.2\n\tnfsv4:\tbm0=0xf7,acl=0x3,sessions{pnfs},lease_time=90\n\n"
            )

    def remount(self, old: str, new: str) -> None:
        """Replace words of the table, as a remount does."""
        text = self._table.read_text(encoding="utf-8")
        assert old in text
        self._table.write_text(text.replace(old, new), encoding="utf-8")

    def replace(self, old: str, new: str) -> None:
        """The same, where they are there."""
        text = self._table.read_text(encoding="utf-8")
        self._table.write_text(text.replace(old, new), encoding="utf-8")

    def clear(self) -> None:
        """Leave nothing in the table."""
        self._table.write_text("")

    def recover(self, value: str) -> None:
        """Set nfs.recover_lost_locks."""
        parameters = self.place / "sys/module/nfs/parameters"
        parameters.mkdir(parents=True, exist_ok=True)
        (parameters / "recover_lost_locks").write_text(f"{value}\n", encoding="ascii")

    def lockd(self) -> None:
        """Load the lock manager of NFS 3."""
        (self.place / "sys/module/lockd").mkdir(parents=True)

    def dlm(self, arguments: list[str] | None, conf: str | None) -> None:
        """Start dlm_controld, or not, and write its configuration."""
        if conf is not None:
            (self.place / "dlm.conf").write_text(conf, encoding="ascii")
        if arguments is not None:
            process = self.place / "proc/4711"
            process.mkdir()
            (process / "comm").write_text("dlm_controld\n", encoding="ascii")
            command = "\0".join(["/usr/sbin/dlm_controld", *arguments, ""])
            (process / "cmdline").write_text(command, encoding="ascii")

    def gfs2(self, name: str, protocol: str, device: str) -> None:
        """What sysfs has of a mounted GFS2."""
        module = self.place / "sys/fs/gfs2" / name / "lock_module"
        module.mkdir(parents=True)
        (module / "proto_name").write_text(f"{protocol}\n", encoding="ascii")
        (module.parent / "id").write_text(f"{device}\n", encoding="ascii")
