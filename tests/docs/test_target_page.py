"""README and docs/target.md: what they show of the target is what it prints and what QEMU takes."""

from __future__ import annotations

import pathlib
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from flockpr import create_lun
from flockpr.store.identity import target_name
from tests.support.daemon_process import PATIENCE
from tests.support.docs import ROOT, block_after, read, section
from tests.support.peers import find
from tests.support.target_rig import Target, Url

SHOWN = "iqn.2026-11.org.flockpr:disk1.3f58bf7862481754"
PAGES = ("README.md", "docs/target.md")
README = section(read("README.md"), "## A fenced shared disk on NFS")


def qemu_line(page: str) -> str:
    """QEMU's options, as a shell reads them."""
    found = re.search(
        r"^(qemu-system-x86_64 .*?iscsi.*?)^```", read(page), re.MULTILINE | re.DOTALL
    )
    assert found is not None
    return found[1].replace("\\\n", "")


@pytest.mark.parametrize("page", PAGES)
def test_page_shows_a_name_as_it_is_made(page: str, tmp_path: pathlib.Path) -> None:
    """Same prefix, name of the logical unit, 16 digits that begin with 3."""
    made = target_name(create_lun(str(tmp_path / "root"), "disk1", size=512))
    pattern = re.escape(made[:-16]) + "3[0-9a-f]{15}"

    assert re.fullmatch(pattern, made)
    assert re.fullmatch(pattern, SHOWN)
    assert SHOWN in read(page)
    assert set(re.findall(r"iqn\.2026-11\.org\.flockpr:[\w.-]+", read(page))) == {SHOWN}


@pytest.mark.parametrize("page", PAGES)
def test_page_shows_what_is_printed(page: str, tmp_path: pathlib.Path) -> None:
    """The block of the page, with this run's port and identifier."""
    create_lun(str(tmp_path / "root"), "disk1", size=1 << 20)
    shown = next(
        block
        for block in re.findall(r"```text\n(.*?)```", read(page), re.DOTALL)
        if "ready" in block
    )
    with Target(tmp_path / "root", tmp_path / "log") as target:
        url = target.url("disk1")
        port, name = f":{url.port}", url.target
        assert target.stop() == 0

    assert shown.splitlines() == [
        f"portal 127.0.0.1{port},2".replace(port, ":3260"),
        f"iscsi://127.0.0.1{port}/{name}/{url.lun}".replace(port, ":3260").replace(name, SHOWN),
        "ready",
    ]


@pytest.mark.parametrize("page", ["README.md", "docs/libvirt-kubevirt.md"])
def test_libvirt_disk_names_the_target_and_the_guest(page: str) -> None:
    """device='lun' is what hands reservations through; `name` ends with the LUN."""
    blocks = re.findall(r"```xml\n(.*?)```", read(page), re.DOTALL)
    text = next(block for block in blocks if "iscsi" in block)
    disk = next(iter(ET.fromstring(f"<devices>{text}</devices>").iter("disk")))

    assert (disk.get("type"), disk.get("device")) == ("network", "lun")
    source = disk.find("source")
    assert source is not None
    assert source.get("name") == f"{SHOWN}/0"
    assert disk.find("shareable") is not None
    assert disk.find("source/initiator/iqn") is not None
    assert disk.find("source/host") is not None


@pytest.mark.peer("qemu-system-x86_64")
@pytest.mark.parametrize("page", PAGES)
def test_qemu_takes_the_options_of_the_page_and_logs_in(page: str, tmp_path: pathlib.Path) -> None:
    """Under the guest's name; the device is there although the guest never runs."""
    root = tmp_path / "root"
    create_lun(str(root), "disk1", size=1 << 20)
    with Target(root, tmp_path / "log") as target:
        command = arguments(page, target.url("disk1"))
        # It listens to QMP once all devices are there.
        done = subprocess.run(
            [find(command[0]) or "", *command[1:]],
            input='{"execute": "qmp_capabilities"} {"execute": "query-block"} {"execute": "quit"}',
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        assert target.url("disk1").target in done.stdout
        assert "example:guest1 with " in target.log.read_text()
        assert target.stop() == 0


def arguments(page: str, url: Url) -> list[str]:
    """The page's command, for a target that is there and for a guest that stands still."""
    line = (
        qemu_line(page)
        .replace(SHOWN, url.target)
        .replace("127.0.0.1:3260", f"{url.host}:{url.port}")
    )
    words = [word for word in shlex.split(line) if word != "..."]
    still = ["-accel", "tcg", "-S", "-nodefaults", "-display", "none", "-m", "64", "-qmp", "stdio"]
    return [words[0], *still, *words[1:]]


@pytest.mark.peer("iscsi-inq")
def test_commands_for_ci_run_as_they_are(tmp_path: pathlib.Path) -> None:
    """From nothing to a disk and back."""
    text = section(read("docs/target.md"), "## In tests and CI")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block_after(text, "<!-- command: ci -->")],
        env={
            "PATH": f"{pathlib.Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "FLOCKPR" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_readme_screen_is_one_screen() -> None:
    """All that somebody needs who has a share and guests."""
    assert len(README.split("\n")) < 60
    for part in ("flockpr lun create", "flockpr target", "scsi-block", "<disk", "sg_persist"):
        assert part in README
