"""`flockpr libvirt xml`: against libvirt's schema, and with a real libvirt and guest."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from xml.etree import ElementTree as ET

import pytest

from flockpr import create_lun
from flockpr.cli import main
from tests.cli.test_json import documented, flatten
from tests.support.daemon_process import PATIENCE, environment, eventually, short_directory
from tests.support.peers import require
from tests.support.targets import FlockprTarget
from tests.vm.disk import compile_shim

Capture = pytest.CaptureFixture[str]
DOMAIN = """
<domain type='qemu'>
  <name>web</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>{emulator}</emulator>
    <controller type='scsi' model='virtio-scsi'/>
{disk}
  </devices>
</domain>
"""
WWID = "naa.60014051111222233334444555566667"
WORDS = {
    "target": ["web", "disk"],
    "chap": ["web", "disk", "--user", "web", "--portal", "[2001:db8::1]:3260"],
    "managed": ["web", "device"],
    "unmanaged": ["web", "device", "--unmanaged"],
    "odd": ['it\'s <web> & "co"', "device", "--unmanaged", "--device", "/dev/a'b&c"],
}


@pytest.fixture
def root(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A logical unit with an image and one for a device."""
    path = str(tmp_path / "root")
    create_lun(path, "disk", size=1 << 20)
    create_lun(path, "device", wwids=(WWID,))
    monkeypatch.setenv("FLOCKPR_ROOT", path)
    return path


def disk(capsys: Capture, *words: str) -> str:
    """What is printed."""
    assert main(["libvirt", "xml", *words]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_xml_names_guest_target_and_portal(root: str, capsys: Capture) -> None:
    """The same on every host, so that a registration follows the guest."""
    found = json.loads(disk(capsys, "web", "disk", "--json"))
    tree = ET.fromstring(found["xml"])
    name = tree.find("source/initiator/iqn")
    host = tree.find("source/host")
    source = tree.find("source")
    assert name is not None
    assert host is not None
    assert source is not None
    assert name.get("name") == found["initiator"] == "iqn.2026-11.org.flockpr:guest.web"
    assert source.get("name") == f"{found['target']}/{found['lun']}"
    assert f"{host.get('name')}:{host.get('port')}" == found["portal"] == "127.0.0.1:3260"
    assert tree.find("shareable") is not None
    assert tree.get("device") == "lun"


def test_xml_takes_portal_and_name_from_the_configuration(
    root: str, capsys: Capture, tmp_path: pathlib.Path
) -> None:
    """The first portal that serves the logical unit; everywhere is here, too."""
    config = tmp_path / "flockpr.toml"
    config.write_text(
        f'[serve]\nroot = "{root}"\n[target]\nname = "iqn.2026-01.x:t"\n'
        '[[portal]]\nportal = "127.0.0.2:1"\ntag = 7\n'
        '[[portal]]\nportal = "0.0.0.0:3261"\n'
    )
    found = json.loads(disk(capsys, "web", "disk", "--config", str(config), "--json"))
    assert (found["portal"], found["target"]) == ("127.0.0.1:3261", "iqn.2026-01.x:t")


def test_xml_of_the_helper_names_the_device_of_every_host(root: str, capsys: Capture) -> None:
    """Managed: libvirt starts it; else the socket of the guest's own unit."""
    managed = json.loads(disk(capsys, "web", "device", "--json"))
    assert managed["device"] == f"/dev/disk/by-id/wwn-0x{WWID.removeprefix('naa.')}"
    assert (managed["managed"], managed["socket"], managed["initiator"]) == (True, None, None)
    unmanaged = json.loads(disk(capsys, "web", "device", "--unmanaged", "--json"))
    tree = ET.fromstring(unmanaged["xml"])
    source = tree.find("source/reservations/source")
    assert source is not None
    assert source.get("path") == unmanaged["socket"] == "/run/flockpr/web.sock"
    unit = pathlib.Path(sys.modules["flockpr"].__file__ or "").parent / "data/systemd"
    assert "-k /run/flockpr/%i.sock" in (unit / "flockpr@.service").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["Web", "disk"], "--initiator IQN"),
        (["web", "disk", "--initiator", "web"], "no iSCSI name"),
        (["web", "disk", "--portal", "host"], "--portal host: not HOST:PORT"),
        (["web", "disk", "--dev", "/dev/sda"], "--dev /dev/sda: not of the form sda"),
        (["web", "disk", "--unmanaged"], "--unmanaged is of the other door than target"),
        (["web", "device", "--user", "u"], "--user is of the other door than helper"),
        (["web", "device", "--socket", "/s"], "libvirt chooses the socket"),
        (["web", "device", "--door", "target"], "device has no image"),
        (["web", "disk", "--door", "helper"], "--device PATH"),
    ],
)
def test_xml_says_what_does_not_go_together(
    words: list[str], told: str, root: str, capsys: Capture
) -> None:
    """Nothing is passed over in silence."""
    assert main(["libvirt", "xml", *words]) == 2
    assert told in capsys.readouterr().err


def test_json_keys_are_the_documented_ones(root: str, capsys: Capture) -> None:
    """Of either door the same."""
    for words in WORDS.values():
        found = json.loads(disk(capsys, *words, "--json"))
        assert set(flatten(found)) == set(documented("libvirt xml"))


@pytest.mark.peer("virt-xml-validate", "xmllint")
@pytest.mark.parametrize("kind", WORDS)
def test_xml_is_of_libvirts_schema(
    kind: str, root: str, capsys: Capture, tmp_path: pathlib.Path
) -> None:
    """RELAX NG of the libvirt that is installed, in a whole domain."""
    file = tmp_path / "domain.xml"
    text = DOMAIN.format(emulator="/usr/bin/qemu-system-x86_64", disk=disk(capsys, *WORDS[kind]))
    file.write_text(text)
    command = [require("virt-xml-validate")["virt-xml-validate"], str(file), "domain"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr


# ------------------------------------------------------------------ a real libvirt


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A directory that an ordinary user can work in; no emulator is left behind."""
    with short_directory() as path:
        path.chmod(0o777)
        yield path
        for file in path.rglob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(file.read_text()), signal.SIGKILL)


def virsh(folder: pathlib.Path, *commands: str) -> str:
    """Give libvirt commands, one after the other, with an emulation of its own that ends with it.

    As an ordinary user: as root libvirt wants a user account that only its own packages make.
    """
    home = folder / "home"
    settings = home / "root" / "etc" / "qemu.conf"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text('stdio_handler = "file"\n')  # else a process of libvirt's stays behind
    (home / "run").mkdir(exist_ok=True)
    command = [require("virsh")["virsh"], "-c", f"qemu:///embed?root={home / 'root'}"]
    if os.geteuid() == 0:
        for path in (home, *home.rglob("*")):
            shutil.chown(path, "nobody", "nogroup")
        user = ("--reuid", "nobody", "--regid", "nogroup", "--clear-groups")
        command = [require("setpriv")["setpriv"], *user, *command]
    done = subprocess.run(
        [*command, "; ".join(commands)],
        cwd=folder,
        env=environment(
            HOME=str(home),
            XDG_RUNTIME_DIR=str(home / "run"),
            XDG_CONFIG_HOME=str(home / "config"),
            XDG_CACHE_HOME=str(home / "cache"),
        ),
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def disguised(folder: pathlib.Path, image: pathlib.Path) -> pathlib.Path:
    """An emulator that takes this file for a SCSI device: nothing here has one."""
    image.write_bytes(bytes(1 << 20))
    image.chmod(0o666)
    emulator = folder / "emulator"
    qemu = require("qemu-system-x86_64")["qemu-system-x86_64"]
    shim = f"LD_PRELOAD={compile_shim(folder)} FLOCKPR_SHIM_DISK={image}"
    emulator.write_text(f'#!/bin/sh\nexport {shim}\nexec {qemu} "$@"\n')
    emulator.chmod(0o755)
    return emulator


@contextlib.contextmanager
def serving(folder: pathlib.Path, root: str, socket: pathlib.Path) -> Iterator[None]:
    """A helper that anybody may connect to."""
    config = folder / "flockpr.toml"
    config.write_text('[serve]\nsocket_mode = "0666"\n')
    command = [sys.executable, "-m", "flockpr", "serve", "--root", root, "--lun", "device"]
    with subprocess.Popen(
        [*command, "--initiator", "iqn.2026-01.example:web", "--socket", str(socket)],
        env=environment(FLOCKPR_CONFIG=str(config)),
        stderr=subprocess.DEVNULL,
    ) as helper:
        try:
            eventually(socket.exists, "the socket")
            yield
        finally:
            helper.kill()


@pytest.mark.peer("virsh", "setpriv", "qemu-system-x86_64", "cc")
@pytest.mark.timeout(600)
def test_guest_of_libvirt_has_a_disk_of_either_door(
    root: str, folder: pathlib.Path, capsys: Capture
) -> None:
    """Defined and started, emulated: QEMU logs in under the guest's name, and is connected to
    the helper.
    """
    image, socket, file = folder / "image", folder / "web.sock", folder / "domain.xml"
    emulator = disguised(folder, image)
    target = FlockprTarget(pathlib.Path(root), folder / "target", options=("--lun", "disk"))
    with target, serving(folder, root, socket):
        url = target.url()
        shown = disk(capsys, "web", "disk", "--portal", f"{url.host}:{url.port}")
        words = ("--unmanaged", "--device", str(image), "--socket", str(socket), "--dev", "sdb")
        shown += disk(capsys, "web", "device", *words)
        file.write_text(DOMAIN.format(emulator=emulator, disk=shown))
        ask = 'qemu-monitor-command web --cmd \'{"execute": "query-pr-managers"}\''
        told = virsh(folder, f"define {file}", "start web", "domblklist web", ask, "destroy web")
        eventually(lambda: "guest.web" in target.log.read_text(), "the login")
    assert "Domain 'web' started" in told
    assert url.target in told
    assert '"connected":true' in told.replace(" ", "")
