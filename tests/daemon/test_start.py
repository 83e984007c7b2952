"""What happens before anything is served: default directories, the root, what is announced."""

from __future__ import annotations

import os
import pathlib
import shlex
import subprocess
import threading
from collections.abc import Iterator

import attrs
import pytest

from flockpr.daemon import root
from flockpr.daemon.config import load_settings
from flockpr.daemon.qemu_options import announcement, qemu_options
from flockpr.daemon.root import check_root
from flockpr.daemon.settings import ServedSocket, Settings
from flockpr.daemon.sockets import close_doors, open_doors
from flockpr.errors import ConfigError
from flockpr.store.provision import create_lun
from tests.support.daemon_process import PATIENCE, accepts, short_directory
from tests.support.peers import find


@pytest.fixture
def short() -> Iterator[pathlib.Path]:
    """A directory for sockets."""
    with short_directory() as directory:
        yield directory


def defaults(path: pathlib.Path) -> Settings:
    """Settings whose socket is a default there."""
    return Settings(root="/r", sockets=(ServedSocket(path=str(path), is_default=True),))


def test_default_sockets_directory_is_made_for_its_owner(short: pathlib.Path) -> None:
    """A user's own; the default's name goes with the door."""
    path = short / "flockpr" / "pr.sock"
    doors = open_doors(defaults(path))
    assert accepts(path)
    assert path.parent.stat().st_mode & 0o022 == 0
    close_doors(doors)
    assert not path.exists()


def test_default_sockets_directory_that_is_not_ours_is_refused(short: pathlib.Path) -> None:
    """Below /tmp anybody could have made it before us: a link, or open to others."""
    (short / "elsewhere").mkdir()
    (short / "link").symlink_to("elsewhere")
    (short / "open").mkdir()
    (short / "open").chmod(0o777)
    (short / "file").write_text("")
    for name in ("link", "open", "file"):
        with pytest.raises(ConfigError, match=r"--socket|cannot make it"):
            open_doors(defaults(short / name / "pr.sock"))
    if os.geteuid() == 0:
        (short / "others").mkdir()
        os.chown(short / "others", 12345, -1)
        with pytest.raises(ConfigError, match="yours alone"):
            open_doors(defaults(short / "others" / "pr.sock"))


def test_named_sockets_directory_is_not_made(short: pathlib.Path) -> None:
    """A slip in a path is told, not made true."""
    settings = Settings(root="/r", sockets=(ServedSocket(path=str(short / "no" / "s")),))
    with pytest.raises(ConfigError, match="cannot listen on"):
        open_doors(settings)
    assert not (short / "no").exists()


def test_socket_known_by_name_only_needs_the_manager(short: pathlib.Path) -> None:
    """Without systemd nobody passes it."""
    with pytest.raises(ConfigError, match="passed no socket called 'vm1'"):
        open_doors(Settings(root="/r", sockets=(ServedSocket(path="", name="vm1"),)))


def test_default_root_is_made_private(tmp_path: pathlib.Path) -> None:
    """Mode 0700, with its parents."""
    path = tmp_path / "a" / "b"
    check_root(Settings(root=str(path), root_is_default=True))
    assert path.stat().st_mode & 0o777 == 0o700
    check_root(Settings(root=str(path), root_is_default=True))


def test_root_that_is_missing_or_a_file_is_refused(tmp_path: pathlib.Path) -> None:
    """And not made: it would hide that the share is not mounted."""
    with pytest.raises(ConfigError, match="no such root"):
        check_root(Settings(root=str(tmp_path / "no")))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="not a directory"):
        check_root(Settings(root=str(tmp_path / "file")))
    with pytest.raises(ConfigError, match="no such root"):
        check_root(Settings(root=str(tmp_path / "dangling" / "x")))


def test_root_that_does_not_answer_is_served_all_the_same(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A hung file server at the start costs a moment: its commands are answered in time."""
    release = threading.Event()
    monkeypatch.setattr(root, "_look", lambda path, make: release.wait())
    check_root(Settings(root=str(tmp_path)), patience=0.05)
    release.set()
    assert "does not answer" in caplog.text


def test_announcement_quotes_what_a_shell_or_qemu_would_split() -> None:
    """A comma ends an option's value in QEMU, and is doubled; a blank is the shell's."""
    words = shlex.split(qemu_options("/run/a b,c/pr.sock").replace("\\\n", " "))
    assert words[:2] == ["-object", "pr-manager-helper,id=flockpr,path=/run/a b,,c/pr.sock"]
    settings = attrs.evolve(load_settings({}, {"HOME": "/h m"}, uid=7), root="/h m/root")
    text = announcement(settings)
    assert "--root '/h m/root'" in text
    assert "path=/tmp/flockpr-7/pr.sock" in text


@pytest.mark.peer("qemu-system-x86_64")
def test_announced_options_are_understood_by_qemu(short: pathlib.Path) -> None:
    """QEMU takes every option: it gets as far as asking the disk, which /dev/null is not."""
    path = short / "a,b"
    doors = open_doors(Settings(root="/r", sockets=(ServedSocket(path=str(path)),)))
    greeter = threading.Thread(target=greet_once, args=(doors[0].listener.socket.dup(),))
    greeter.start()
    text = qemu_options(str(path)).replace("DEVICE", "/dev/null")
    options = shlex.split(text.replace("\\\n", " "))
    done = subprocess.run(
        [find("qemu-system-x86_64") or "", "-machine", "q35", "-display", "none", "-S", *options],
        capture_output=True,
        text=True,
        timeout=100,
    )
    greeter.join()
    close_doors(doors)
    # Every option before the last has been accepted by then; the last fails on the disk only.
    assert done.returncode == 1
    assert "scsi-block" in done.stderr
    assert "SG_IO" in done.stderr
    assert done.stderr.count("qemu-system-x86_64:") == 1


def greet_once(listening: object) -> None:
    """Accept one connection and greet it, as a helper does."""
    import socket

    assert isinstance(listening, socket.socket)
    listening.setblocking(True)
    listening.settimeout(100)
    with listening:
        client, _ = listening.accept()
        with client:
            client.sendall(bytes(4))
            client.recv(4)
            client.recv(1)


def test_device_that_is_emulated_is_not_to_be_passed_on(tmp_path: pathlib.Path) -> None:
    """A configuration that says so does not start; a mark in the root says the opposite."""
    create_lun(str(tmp_path), "disk", wwids=["naa.6AA"])
    create_lun(str(tmp_path), "real", wwids=["naa.6bb"], passed=True)
    settings = Settings(root=str(tmp_path), devices={"NAA.6bb": "sgio", "naa.6cc": "sgio"})
    check_root(settings, patience=PATIENCE)
    settings = attrs.evolve(settings, devices={"NAA.6aa": "sgio"})
    with pytest.raises(ConfigError, match=r"devices\.NAA\.6aa: is the logical unit disk") as caught:
        check_root(settings, patience=PATIENCE)
    assert "never both" in caught.value.remedy
