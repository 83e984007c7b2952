"""Pages for those who manage machines, that we could not run: what can be held to something is."""

from __future__ import annotations

import json
import pathlib
import re
import shlex
import subprocess
import tomllib

import pytest

from flockpr import create_lun
from flockpr.daemon import pr_helper
from flockpr.daemon.config import load_settings
from tests.support.daemon_process import PATIENCE
from tests.support.docs import ROOT, block_after, read
from tests.support.peers import find
from tests.support.target_rig import Target

RECIPE = ROOT / "flockpr" / "data" / "kubevirt"
SHOWN = "iqn.2026-11.org.flockpr:disk1.3f58bf7862481754"


def test_container_gets_what_is_beside_its_recipe() -> None:
    """And the package, which is built; the configuration loads and names the mounted root."""
    steps = (RECIPE / "Containerfile").read_text().splitlines()
    copied = {line.split()[1] for line in steps if line.startswith("COPY")}
    beside = {path.name for path in RECIPE.iterdir()} - {"Containerfile", "kubevirt.yaml"}
    assert copied == beside | {"flockpr.deb"}
    settings = load_settings({"config": str(RECIPE / "flockpr.toml")}, {}, system_file="/none")
    assert settings.root == tomllib.loads((RECIPE / "flockpr.toml").read_text())["serve"]["root"]
    subprocess.run(["sh", "-n", str(RECIPE / "entrypoint.sh")], check=True)


def test_container_is_mounted_what_its_configuration_names() -> None:
    """The patch is JSON, for the container that KubeVirt has, at the root's path."""
    text = (RECIPE / "kubevirt.yaml").read_text()
    (patch,) = re.findall(r"^ +patch: '(.*)'$", text, re.MULTILINE)
    pod = json.loads(patch)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (mount,) = container["volumeMounts"]
    assert container["name"] == "pr-helper"
    assert mount["name"] == pod["volumes"][0]["name"]
    assert f'"{mount["mountPath"]}"' in (RECIPE / "flockpr.toml").read_text()


def test_helper_takes_what_kubevirt_gives_it() -> None:
    """The path is on the page, in the script and short enough."""
    path = "/var/run/kubevirt/daemons/pr/pr-helper.sock"
    assert pr_helper.parse(["-k", path]).socket == path
    assert path in read("docs/libvirt-kubevirt.md")
    assert path in (RECIPE / "entrypoint.sh").read_text()


def test_lio_identifier_is_computed_from_the_serial_number() -> None:
    """LIO's company identifier and the first 25 hex digits (spc_gen_naa_6h_vendor_specific)."""
    done = subprocess.run(
        ["bash", "-euc", block_after(read("docs/lio.md"), "<!-- lio: once -->")],
        capture_output=True,
        text=True,
        check=True,
    )
    serial, wwid = done.stdout.split()
    assert re.fullmatch(r"naa\.6[0-9a-f]{31}", wwid)
    assert wwid == "naa.6001405" + serial.replace("-", "")[:25]


def test_lio_lines_are_a_shell_s() -> None:
    """They need a kernel with LIO; here only their form is looked at."""
    for marker in ("host", "end"):
        script = block_after(read("docs/lio.md"), f"<!-- lio: {marker} -->")
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)


@pytest.mark.peer("qemu-system-x86_64")
def test_proxmox_options_are_taken_by_qemu(tmp_path: pathlib.Path) -> None:
    """Those of the target door, for a guest that stands still; the helper's need a device."""
    root = tmp_path / "root"
    create_lun(str(root), "disk1", size=1 << 20)
    with Target(root, tmp_path / "log") as target:
        url = target.url("disk1")
        line = block_after(read("docs/proxmox.md"), "<!-- qemu: target -->")
        line = line.replace(SHOWN, url.target).replace("127.0.0.1:3260", f"{url.host}:{url.port}")
        still = "-accel tcg -S -nodefaults -display none -m 64 -qmp stdio"
        done = subprocess.run(
            [find("qemu-system-x86_64") or "", *still.split(), *shlex.split(line)],
            input='{"execute": "qmp_capabilities"} {"execute": "query-block"} {"execute": "quit"}',
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        assert "example:vm101 with " in target.log.read_text()
        assert target.stop() == 0
