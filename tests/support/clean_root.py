"""A clean Debian to install a package in: a few packages of this machine's and what they need.

Their files are copied and their entries in dpkg's database, so it takes seconds and no network.
What else there is on this machine, a Python of somebody's own, modules of pip, is not in it. A
sweep does the same in a root that debootstrap made.
"""

from __future__ import annotations

import glob
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.support.peers import require

PACKAGES = (
    *("python3", "dash", "coreutils", "diffutils", "dpkg", "findutils", "tar", "sed", "grep"),
    "libc-bin",
)
LONG = 900
_PYTHON = "/usr/bin/python3"
_MERGED = ("bin", "sbin", "lib", "lib64")
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C"}


def build(root: pathlib.Path) -> None:
    """Make the root; the test is skipped, or fails, where that cannot be.

    Args:
        root: A directory that is not there yet.
    """
    require("dpkg-query", "apt-cache", "chroot", "unshare", "tar")
    words = ("unshare", "--mount", "--pid", "--fork", "mount", "-t", "proc", "proc", "/proc")
    trial = subprocess.run(words, capture_output=True, timeout=LONG)
    if trial.returncode:
        pytest.skip(f"no mounts here: {trial.stderr.decode().strip()}")
    if not os.path.exists(_PYTHON):
        pytest.skip("Debian's Python is not installed")
    found = _output(_PYTHON, "-c", "import sys; print(*sys.version_info[:2])").split()
    if found != [str(number) for number in sys.version_info[:2]]:
        pytest.skip("Debian's Python is another one than that which builds")
    packages = _with_dependencies()
    for name in ("proc", "dev", "tmp", "root", "run", "etc", "var/lib/dpkg/info"):
        (root / name).mkdir(parents=True)
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    listed = dict.fromkeys(_output("dpkg-query", "--listfiles", *packages).splitlines())
    files = [name for name in listed if os.path.islink(name) or os.path.isfile(name)]
    _copy([name for name in files if name[1:] not in _MERGED], root)
    database = root / "var/lib/dpkg"
    (database / "status").write_text(_output("dpkg-query", "--status", *packages))
    for name in packages:
        for file in glob.glob(f"/var/lib/dpkg/info/{name}.list") or glob.glob(
            f"/var/lib/dpkg/info/{name}:*.list"
        ):
            shutil.copy(file, database / "info")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")


def _with_dependencies() -> list[str]:
    """The packages and all that they depend on, of this machine's own architecture."""
    options = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks")]
    options += ["--no-replaces", "--no-enhances", "--recurse", "--installed"]
    lines = _output("apt-cache", "depends", *options, *PACKAGES).splitlines()
    names = {line for line in lines if line[:1].isalnum() and ":" not in line}
    shown = _output("dpkg-query", "--show", "--showformat", "${Package}\n").split()
    return sorted(names & set(shown))


def _copy(files: list[str], root: pathlib.Path) -> None:
    """Copy files and links to where they are; what is above /bin and the like is in /usr."""
    reading = ["tar", "-C", "/", "--no-recursion", "-cf", "-", "-T", "-"]
    writing = ["tar", "-C", str(root), "--keep-directory-symlink", "-xf", "-"]
    with (
        subprocess.Popen(reading, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as source,
        subprocess.Popen(writing, stdin=source.stdout) as target,
    ):
        assert source.stdin is not None
        assert source.stdout is not None
        source.stdout.close()  # so that it is told when the other one ends early
        source.stdin.write("".join(f"{name[1:]}\n" for name in files).encode())
        source.stdin.close()
    assert (source.returncode, target.returncode) == (0, 0)


def _output(*command: str) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=LONG, env=_ENVIRONMENT
    ).stdout


def inside(
    root: pathlib.Path, script: str, *, devices: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a script in a root, with mounts and processes of its own.

    Args:
        root: The root.
        script: For its shell.
        devices: Show it this machine's /dev.
    """
    mounts = 'mount --bind "$0" "$0"; mount -t proc proc "$0/proc"; '
    if devices:
        mounts += 'mount --rbind /dev "$0/dev"; '
    return subprocess.run(
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc"),
            f'{mounts}exec chroot "$0" sh -euc "$1"',
            *(str(root), script),
        ],
        capture_output=True,
        text=True,
        timeout=LONG,
        env=_ENVIRONMENT,
    )
