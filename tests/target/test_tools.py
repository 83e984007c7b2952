"""The tools that people have: libiscsi's and QEMU's command lines against `flockpr target`."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.support import libiscsi
from tests.support.daemon_process import PATIENCE, environment, eventually, short_directory
from tests.support.libiscsi import Outcome
from tests.support.peers import require
from tests.support.targets import FLOCKPR, FlockprTarget, Url, create_lun

pytestmark = [pytest.mark.timeout(300)]

_MIB = 1 << 20
_SIZE = 16 * _MIB
_SECRETS = """
[[chap]]
user = "guest"
secret = "correct-horse"
[mutual]
user = "disks"
secret = "battery-staple"
"""


def _run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end, whatever that is."""
    command = [require(tool)[tool], *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


def _output(tool: str, *arguments: str) -> str:
    """What a tool prints that must succeed."""
    done = _run(tool, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A new folder with a root that has one logical unit, ``disk``."""
    with short_directory() as path:
        create_lun(path / "root", "disk", _SIZE, "--target-port", "3")
        yield path


@contextlib.contextmanager
def _served(folder: pathlib.Path, *options: str) -> Iterator[Url]:
    """The unit's URL at a running target."""
    with FlockprTarget(folder / "root", folder / "target", options=options) as target:
        yield target.url()


def _image(folder: pathlib.Path) -> pathlib.Path:
    return folder / "root" / "images" / "disk.img"


@pytest.mark.peer("iscsi-ls")
def test_iscsi_ls_lists_every_portal_and_unit(folder: pathlib.Path) -> None:
    """Discovery through one portal tells of both, with their group tags, and of the disk."""
    portals = ["127.0.0.1:0,2", "127.0.0.1:0,3"]
    with FlockprTarget(folder / "root", folder / "target", portals) as target:
        address = f"iscsi://127.0.0.1:{target.urls[1].port}"
        listed = _output("iscsi-ls", address)
        units = _output("iscsi-ls", "-s", address)
    wanted = {
        f"Target:{url.target} Portal:127.0.0.1:{url.port},{tag}"
        for url, tag in zip(target.urls, (2, 3), strict=True)
    }
    assert set(listed.splitlines()) == wanted
    assert re.search(r"^Lun:0 ", units, re.MULTILINE), units


@pytest.mark.peer("iscsi-inq")
def test_iscsi_inq_with_chap_must_prove_the_secret(folder: pathlib.Path) -> None:
    """One way and both ways; a wrong secret on either side, or none, and nobody is logged in."""
    secrets = folder / "secrets.toml"
    secrets.write_text(_SECRETS)
    secrets.chmod(0o600)
    with _served(folder, "--chap", str(secrets)) as url:
        place = str(url).removeprefix("iscsi://")

        def logged_in(account: str, query: str = "") -> bool:
            done = _run("iscsi-inq", f"iscsi://{account}{place}{query}")
            return done.returncode == 0

        both = "?target_user=disks&target_password="
        assert logged_in("guest%correct-horse@")
        assert logged_in("guest%correct-horse@", both + "battery-staple")
        assert not logged_in("guest%correct-horse@", both + "battery-stable")
        assert not logged_in("guest%wrong-horse@")
        assert not logged_in("ghost%correct-horse@")
        assert not logged_in("")


@pytest.mark.peer(libiscsi.TOOL)
def test_libiscsi_with_header_digests_reads_and_writes(folder: pathlib.Path) -> None:
    """CRC32C of every header, both ways, as libiscsi computes it."""
    with _served(folder) as url:
        report = libiscsi.run(["Read10", "Write10"], [f"{url}?header_digest=crc32c"], verbose=True)
    assert not report.names(Outcome.FAILED), report.explain(report.names(Outcome.FAILED))
    assert len(report.names(Outcome.PASSED)) == 12


@pytest.mark.peer("qemu-img")
def test_qemu_img_copies_to_the_disk_and_back(folder: pathlib.Path) -> None:
    """What was written through QEMU's driver is what its image holds, holes included."""
    source, copy = folder / "source.img", folder / "copy.img"
    content = os.urandom(_MIB) + bytes(6 * _MIB) + os.urandom(_MIB) + bytes(8 * _MIB)
    source.write_bytes(content)
    with _served(folder) as url:
        raw = ("-f", "raw", "-O", "raw")
        _output("qemu-img", "convert", "-n", *raw, str(source), str(url))
        _output("qemu-img", "convert", *raw, str(url), str(copy))
        assert copy.read_bytes() == content
    assert _image(folder).read_bytes() == content


@pytest.mark.peer("qemu-img", "qemu-io")
def test_qemu_and_a_target_never_open_one_image_both(folder: pathlib.Path) -> None:
    """Who comes second is refused, whichever it is."""
    image = str(_image(folder))
    with _served(folder) as url:
        done = _run("qemu-img", "resize", "-f", "raw", image, "32M")
        assert done.returncode != 0
        assert "lock" in done.stderr, done.stderr
        assert _run("qemu-io", "-f", "raw", "-c", "write 0 4k", image).returncode != 0
        assert _output("qemu-io", "-f", "raw", "-c", "read 0 4k", str(url))
    with subprocess.Popen(
        [require("qemu-io")["qemu-io"], "-f", "raw", image],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as qemu:
        assert qemu.stdin is not None
        qemu.stdin.write(b"write 0 512\n")
        qemu.stdin.flush()
        assert qemu.stdout is not None
        while b"wrote" not in qemu.stdout.readline():  # it has the image open now
            assert qemu.poll() is None
        command = [*FLOCKPR, "target", "--root", str(folder / "root")]
        command += ["--lun", "disk", "--portal", "127.0.0.1:0"]
        refused = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=PATIENCE
        )
        assert refused.returncode not in (0, -6, -11), refused.stderr
        assert image in refused.stderr, refused.stderr
        qemu.stdin.close()


@pytest.mark.peer("iscsi-readcapacity16")
def test_grown_disk_is_seen_by_who_asks(folder: pathlib.Path) -> None:
    """The target serves what was added, without a restart."""
    with _served(folder) as url:
        grow = [*FLOCKPR, "lun", "grow", "disk", "--root", str(folder / "root"), "--size", "32M"]
        done = subprocess.run(
            grow, env=environment(), capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr

        def size() -> int:
            # The first command of a session after the change may be told of the change.
            done = _run("iscsi-readcapacity16", "-s", str(url))
            return int(done.stdout) if done.returncode == 0 else 0

        eventually(lambda: size() == 32 * _MIB, "the growth")
