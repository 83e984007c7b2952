"""The Debian package: the bundle in a directory of its own, units, man pages, completion.

Debian 12 has neither the portalocker nor the attrs that flockpr needs, so both come along, below
/usr/lib/flockpr, where no other program sees them.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from flockpr._version import __version__
from flockpr.cli import build_parser
from flockpr.cli.completion import SHELLS
from flockpr.cli.completion_scripts import script
from flockpr.cli.grammar import describe
from release import bundle, man

PRIVATE = "usr/lib/flockpr"
_COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/flockpr",
    "zsh": "usr/share/zsh/vendor-completions/_flockpr",
    "fish": "usr/share/fish/vendor_completions.d/flockpr.fish",
}
_WRAPPER = """\
#!/usr/bin/python3 -P
import os
import sys

place = "/{private}"
sys.path.insert(0, place)
# For the processes that it starts.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (place, os.environ.get("PYTHONPATH"))))

from {module} import {function}

sys.exit({function}())
"""
_CONTROL = """\
Package: flockpr
Version: {version}
Architecture: {architecture}
Maintainer: {maintainer}
Installed-Size: {size}
Depends: python3 (>= {python}), python3 (<< {next_python}), libc6
Suggests: fence-agents, libiscsi-bin, python3-prometheus-client, python3-rich, qemu-block-extra,
 sg3-utils
Section: admin
Priority: optional
Description: SCSI-3 persistent reservations for disks that have no SAN behind them
 A target that serves images on shared storage as iSCSI disks and enforces
 reservations on every command, and a helper that answers the reservation
 commands of QEMU guests for devices that are there already. The helper sees
 no reads and writes: it records reservations and enforces none, which is not
 fencing.
 .
 Built from the sources by `python -m release deb`; not a package of Debian.
 Brings copies of {bundled}.
"""
_POSTINST = """\
#!/bin/sh
set -e
if [ "$1" = configure ]; then
  python3 -m compileall -q /{private}
  if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers flockpr.conf
  fi
  if command -v systemd-tmpfiles >/dev/null; then
    # Not where /proc is missing, as in a chroot; the next boot makes up for it.
    systemd-tmpfiles --create flockpr.conf || true
  fi
  # Nothing is started: where the root is has to be said first. Nothing is restarted: when, is
  # for who runs the guests to decide.
  if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
  fi
fi
"""
_PRERM = """\
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  systemctl stop flockpr.socket flockpr.service flockpr-target.service 'flockpr@*.service'
fi
find /{private} -name __pycache__ -type d -prune -exec rm -r {{}} +
"""


def write(directory: pathlib.Path) -> pathlib.Path:
    """Build the package.

    Args:
        directory: Where to; made if it is missing.

    Returns:
        The file.

    Raises:
        CalledProcessError: dpkg-deb failed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    architecture = _output("dpkg", "--print-architecture")
    target = directory / f"flockpr_{__version__}_{architecture}.deb"
    with tempfile.TemporaryDirectory() as name:
        tree = pathlib.Path(name) / "tree"
        _fill(tree)
        _modes(tree)
        _describe(tree, architecture)
        command = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(target)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return target


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _put(path: pathlib.Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def _fill(tree: pathlib.Path) -> None:
    bundle.copy(tree / PRIVATE)
    for name, place in bundle.scripts().items():
        module, function = place.split(":")
        wrapper = _WRAPPER.format(private=PRIVATE, module=module, function=function)
        _put(tree / "usr/bin" / name, wrapper)
    data = bundle.ROOT / "flockpr" / "data"
    shutil.copytree(data / "systemd", tree / "usr/lib/systemd/system")
    for kind in ("sysusers.d", "tmpfiles.d"):
        shutil.copytree(data / kind, tree / "usr/lib" / kind)
    grammar = describe(build_parser())
    for shell in SHELLS:
        _put(tree / _COMPLETIONS[shell], script(shell, grammar))
    for name, page in man.pages().items():
        file = tree / f"usr/share/man/man{man.SECTION}" / f"{name}.{man.SECTION}.gz"
        _put(file, gzip.compress(page.encode(), mtime=0))
    _documents(tree / "usr/share/doc/flockpr")


def _documents(directory: pathlib.Path) -> None:
    for name in ("README.md", "CHANGELOG.md"):
        _put(directory / name, (bundle.ROOT / name).read_bytes())
    shutil.copytree(bundle.ROOT / "docs", directory / "docs")
    _put(directory / "copyright", _copyright())


def _copyright() -> str:
    """Our licence, and where those of the copies are."""
    lines = [
        "flockpr: Apache-2.0, see /usr/share/common-licenses/Apache-2.0",
        "",
        f"Unchanged copies of other projects in /{PRIVATE}, their licences in NAME.dist-info:",
    ]
    for name in bundle.dependencies():
        data = importlib.metadata.metadata(name).json
        licence = str(data.get("license_expression") or data.get("license") or "see there")
        lines.append(f"  {name} {data['version']}: {licence.splitlines()[0]}")
    return "\n".join(lines) + "\n"


def _modes(tree: pathlib.Path) -> None:
    for path in (tree, *tree.rglob("*")):
        executable = path.is_dir() or path.parent == tree / "usr/bin"
        path.chmod(0o755 if executable else 0o644)


def _describe(tree: pathlib.Path, architecture: str) -> None:
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    sums = "".join(
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}"
        f"  {path.relative_to(tree)}\n"
        for path in files
    )
    major, minor = sys.version_info[:2]
    name = os.environ.get("DEBFULLNAME", "local build")
    control = _CONTROL.format(
        version=__version__,
        architecture=architecture,
        maintainer=f"{name} <{os.environ.get('DEBEMAIL', 'root@localhost')}>",
        size=sum(path.stat().st_size for path in files) // 1024 + 1,
        python=f"{major}.{minor}",
        next_python=f"{major}.{minor + 1}",
        bundled=", ".join(bundle.dependencies()),
    )
    scripts = {"postinst": _POSTINST, "prerm": _PRERM}
    for file, text in {"control": control, "md5sums": sums}.items():
        _put(tree / "DEBIAN" / file, text)
    for file, text in scripts.items():
        _put(tree / "DEBIAN" / file, text.format(private=PRIVATE))
        (tree / "DEBIAN" / file).chmod(0o755)
