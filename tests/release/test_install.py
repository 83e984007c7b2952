"""The Debian package and the one-file program in a clean Debian: installed, run, under systemd."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from release import debian, onefile
from tests.support import clean_root
from tests.support.clean_root import LONG
from tests.support.docs import ROOT
from tests.support.peers import require, unavailable

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(1800)]

MIRROR = "http://deb.debian.org/debian"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """A Debian 12 with Python and systemd, in which the package is installed."""
    found = require("debootstrap", "unshare", "chroot", "dpkg-deb")
    root = tmp_path_factory.mktemp("clean") / "root"
    made = subprocess.run(
        [
            *(found["debootstrap"], "--variant=minbase", "--include=python3,systemd,systemd-sysv"),
            *("bookworm", str(root), MIRROR),
        ],
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    if made.returncode != 0:
        unavailable(f"debootstrap: {made.stdout[-500:]}{made.stderr[-500:]}")
    package = debian.write(root / "opt")
    onefile.write(root / "opt" / "flockpr.pyz")
    done = inside(root, f"dpkg -i /opt/{package.name}")
    assert done.returncode == 0, done.stdout + done.stderr
    yield root
    shutil.rmtree(root, ignore_errors=True)


def inside(root: pathlib.Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in the root, with mounts and processes of its own."""
    return clean_root.inside(root, script, devices=False)


def test_package_runs_in_a_clean_root(clean: pathlib.Path) -> None:
    """The demo, a target that is ready, the tools; user and directories are there."""
    done = inside(
        clean,
        """
        flockpr demo
        flockpr lun create disk --root /opt/r --size 1M
        timeout --preserve-status 20 flockpr target --root /opt/r --portal 127.0.0.1:0 &
        sleep 5; kill -TERM $!; wait $!
        export FLOCKPR_ROOT=/opt/r FLOCKPR_INITIATOR=iqn.2026-01.org.example:a
        flockpr-sg-persist -n --out --register --param-sark=a1 disk
        flockpr status disk
        flockpr-pr-helper -V
        flockpr-fence-scsi --help
        getent passwd flockpr
        test -s /usr/share/man/man8/flockpr-lun-create.8.gz
        ls -d /run/flockpr /var/lib/flockpr /etc/flockpr
        """,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All 12 steps were answered as they must be." in done.stdout
    assert "0x00000000000000a1" in done.stdout


def test_one_file_runs_in_a_clean_root(clean: pathlib.Path) -> None:
    """Its own copies of everything, not the package's."""
    done = inside(clean, "cd /; /opt/flockpr.pyz demo; ls /root/.cache/flockpr/*/attrs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All 12 steps were answered as they must be." in done.stdout


def test_units_run_under_systemd(clean: pathlib.Path) -> None:
    """All at once, then by the socket: active, filtered, ended in order."""
    nspawn = require("systemd-nspawn")["systemd-nspawn"]
    shutil.copy(ROOT / "tests" / "release" / "units.sh", clean / "opt")
    unit = clean / "etc/systemd/system/units.service"
    unit.write_text(
        "[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\n"
        "ExecStart=/bin/sh -c 'sh /opt/units.sh >/opt/units.log 2>&1'\n"
    )
    wants = clean / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "units.service").symlink_to(unit.relative_to(clean / "etc/systemd/system"))
    booted = subprocess.run(
        [nspawn, "--quiet", "--register=no", "--keep-unit", "-D", str(clean), "--boot"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    log = clean / "opt/units.log"
    if not log.exists():
        unavailable(f"systemd does not boot here: {(booted.stdout + booted.stderr)[-500:]}")
    said = log.read_text()
    for line in (
        "started",
        "flockpr-target.service active 2",
        "flockpr.service active 2",
        "flockpr@db1.service active 2",
        "greeting pr 00000000",
        "greeting db1 00000000",
        "flockpr-target.service success",
        "flockpr.service success",
        "flockpr@db1.service success",
        "by its socket: active",
    ):
        assert f"{line}\n" in said, said


def test_recipe_of_the_container_works(clean: pathlib.Path) -> None:
    """Its steps, one by one, without a container engine; then as KubeVirt starts it."""
    recipe = ROOT / "flockpr" / "data" / "kubevirt"
    root = clean.with_name("container")
    shutil.copytree(clean, root, symlinks=True, ignore=_mounts)
    for name in ("proc", "dev"):
        (root / name).mkdir(exist_ok=True)
    purged = inside(root, "mknod -m 0666 /dev/null c 1 3; dpkg --purge flockpr")
    assert purged.returncode == 0, purged.stderr
    files = {path.name: path for path in recipe.iterdir()}
    (files["flockpr.deb"],) = (clean / "opt").glob("*.deb")
    for line in (recipe / "Containerfile").read_text().splitlines():
        step, _, rest = line.partition(" ")
        if step == "COPY":
            source, target = rest.split()
            shutil.copy(files[source], root / target.lstrip("/"))
        elif step == "RUN":
            done = inside(root, rest)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    done = inside(
        root,
        """
        mkdir -p /srv/reservations /var/run/kubevirt/daemons/pr
        flockpr lun create disk
        path=/var/run/kubevirt/daemons/pr/pr-helper.sock
        /entrypoint.sh -k $path &
        python3 -P -c "
import socket, sys, time
s = socket.socket(socket.AF_UNIX)
for _ in range(600):
    try:
        s.connect('$path')
        break
    except OSError:
        time.sleep(0.1)
print('greeting', s.recv(4).hex())"
        kill $!; wait $!
        test ! -e $path
        qemu-pr-helper -V
        """,
    )
    shutil.rmtree(root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "greeting 00000000\n" in done.stdout
    assert "qemu-pr-helper" in done.stdout


def _mounts(_: str, names: list[str]) -> set[str]:
    return {"proc", "sys", "dev"} & set(names)


def test_package_is_removed_without_a_trace_of_its_own(clean: pathlib.Path) -> None:
    """Last, whatever the order: in a copy. What stays is state: roots and secrets."""
    copy = clean.with_name("copy")
    shutil.copytree(clean, copy, symlinks=True, ignore=_mounts)
    (copy / "proc").mkdir(exist_ok=True)
    (copy / "dev").mkdir(exist_ok=True)
    (copy / "dev/null").touch()
    done = inside(copy, "dpkg -r flockpr; ls /usr/lib/flockpr /usr/bin/flockpr || true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (copy / debian.PRIVATE).exists()
    assert not (copy / "usr/bin/flockpr").exists()
    shutil.rmtree(copy)
