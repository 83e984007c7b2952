"""Units, users and directories for systemd: they are understood, and let the daemons work."""

from __future__ import annotations

import configparser
import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from flockpr import create_lun
from flockpr.daemon import pr_helper
from flockpr.daemon.config import default_root, load_settings
from flockpr.daemon.settings import Serve
from flockpr.spc.codes import OutAction
from tests.support import sbc_cdbs
from tests.support.daemon_process import PATIENCE, environment, eventually
from tests.support.docs import ROOT
from tests.support.peers import find
from tests.support.target_rig import Target

DATA = ROOT / "flockpr" / "data"
UNITS = sorted((DATA / "systemd").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]


def directives(unit: pathlib.Path, section: str = "Service") -> dict[str, str]:
    """A section of a unit file."""
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text())
    return dict(parser[section])


def _name(path: pathlib.Path) -> str:
    return path.name


@pytest.fixture
def short() -> Iterator[pathlib.Path]:
    """A directory whose name leaves room for a socket's."""
    directory = tempfile.mkdtemp(prefix="fpr", dir="/tmp")
    yield pathlib.Path(directory)
    shutil.rmtree(directory)


def run(*command: str, stdin: str = "", **environ: str) -> str:
    """What a program prints; it must succeed."""
    done = subprocess.run(
        [find(command[0]) or command[0], *command[1:]],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", **environ},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.peer("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=_name)
def test_unit_is_understood_by_systemd(unit: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """No unknown directive, no bad value; a template as an instance."""
    for path in UNITS:
        text = re.sub(r"/usr/bin/flockpr\S*", "/bin/true", path.read_text())
        (tmp_path / path.name.replace("@.", "@db1.")).write_text(text)
    name = unit.name.replace("@.", "@db1.")
    said = run(
        *("systemd-analyze", "verify", "--man=no", str(tmp_path / name)),
        SYSTEMD_UNIT_PATH=f"{tmp_path}:",
    )
    assert "flockpr" not in said


@pytest.mark.peer("systemd-analyze")
@pytest.mark.parametrize("unit", SERVICES, ids=_name)
def test_service_is_confined(unit: pathlib.Path) -> None:
    """By systemd's own measure, from 0 to 10 for what is not confined at all."""
    said = run("systemd-analyze", "security", "--offline=true", "--no-pager", str(unit))
    found = re.search(r"exposure level for \S+: ([\d.]+) ", said)
    assert found is not None
    assert float(found[1]) < 4


def test_services_have_the_same_safeguards() -> None:
    """What confines one confines all; what differs is said in a comment."""
    first, *others = (directives(unit) for unit in SERVICES)
    guards = ("Protect", "Restrict", "Lock", "NoNew", "SystemCall", "CapabilityBoundingSet")
    names = {name for name in first if name.startswith(guards)}
    for other in others:
        assert names - {"ProtectProc"} <= set(other)
        assert other["SystemCallFilter"] == "@system-service"
        assert other["CapabilityBoundingSet"] == first["CapabilityBoundingSet"]


def test_guest_unit_fits_the_helper() -> None:
    """A command line that it takes; a guest's own environment; no target door beside it."""
    unit = DATA / "systemd" / "flockpr@.service"
    service = directives(unit)
    assert service["Type"] == "notify"
    program, *arguments = service["ExecStart"].replace("%i", "db1").split()
    assert pathlib.Path(program).name == "flockpr-pr-helper"
    assert pr_helper.parse(arguments).socket == "/run/flockpr/db1.sock"
    assert service["EnvironmentFile"] == "-/etc/flockpr/%i.env"
    assert float(service["TimeoutStopSec"]) > Serve().drain
    assert service["RuntimeDirectoryPreserve"] == "yes"
    assert default_root({}, 0) == f"/var/lib/{service['StateDirectory']}"
    example = re.search(r"^#   (FLOCKPR_\w+)=(\S+)$", unit.read_text(), re.MULTILINE)
    assert example is not None
    settings = load_settings({}, {example[1]: example[2]}, system_file="/none", user_file=False)
    assert settings.serve.initiator == example[2]


def test_guest_unit_tells_systemd_when_it_is_ready_and_when_it_ends(short: pathlib.Path) -> None:
    """Type=notify: READY=1 once the socket accepts, STOPPING=1 at SIGTERM, by the main process."""
    create_lun(str(short / "root"), "disk")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(short / "notify"))
        notify.settimeout(PATIENCE)
        path = short / "db1.sock"
        process = subprocess.Popen(
            [sys.executable, "-m", "flockpr.daemon.pr_helper", "-k", str(path)],
            env=environment(NOTIFY_SOCKET=notify.getsockname(), FLOCKPR_ROOT=str(short / "root")),
            stderr=subprocess.DEVNULL,
        )
        try:
            assert notify.recv(4096).startswith(b"READY=1")
            with socket.socket(socket.AF_UNIX) as guest:
                guest.settimeout(PATIENCE)
                guest.connect(str(path))
                assert len(guest.recv(4)) == 4  # the greeting
            process.send_signal(signal.SIGTERM)
            assert notify.recv(4096).startswith(b"STOPPING=1")
            assert process.wait(PATIENCE) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait(PATIENCE)


# What the confinement leaves.


def allowed(group: str = "@system-service") -> set[str]:
    """The system calls of a group, as this machine's systemd has it."""
    calls: set[str] = set()
    for line in run("systemd-analyze", "--no-pager", "syscall-filter", group).splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            calls |= allowed(word)
        elif word and not word.startswith("#"):
            calls.add(word)
    return calls


def traced(trace: pathlib.Path) -> set[str]:
    """The system calls that strace saw."""
    text = trace.read_text(errors="replace")
    return set(re.findall(r"^\d+ +(?:<\.\.\. )?(\w+)(?: resumed>|\()", text, re.MULTILINE))


@pytest.mark.peer("systemd-analyze", "strace")
def test_target_needs_no_system_call_that_its_unit_denies(tmp_path: pathlib.Path) -> None:
    """Locks of open files, direct reads and writes, a reservation, a PREEMPT, an orderly end."""
    create_lun(str(tmp_path / "root"), "disk", size=1 << 20)
    trace = tmp_path / "trace"
    # -D: the tracer is a child of the target, so that signals reach the target itself.
    wrapper = (find("strace") or "", "-D", "-f", "-o", str(trace))
    with Target(tmp_path / "root", tmp_path / "log", wrapper=wrapper) as target:
        a, b = target.log_in("a"), target.log_in("b")
        a.must(OutAction.REGISTER, 0, 0xA1)
        b.must(OutAction.REGISTER, 0, 0xB2)
        a.must(OutAction.RESERVE, 0xA1, type_=5)
        b.must(OutAction.PREEMPT, 0xB2, 0xA1, type_=5)
        assert b.command(sbc_cdbs.write(0, 8), bytes(4096)).good
        assert b.command(sbc_cdbs.synchronize_cache()).good
        assert b.command(sbc_cdbs.read(0, 8), read=4096).data == bytes(4096)
        pid = target.pid
        assert target.stop() == 0
    eventually(lambda: re.search(rf"^{pid} .*exited with 0", trace.read_text(), re.MULTILINE))

    calls = traced(trace)
    assert {"fcntl", "fdatasync", "capset"} <= calls
    assert calls <= allowed(), calls - allowed()


@pytest.mark.peer("systemd-sysusers")
def test_user_is_made_by_systemd(tmp_path: pathlib.Path) -> None:
    """A system user that nobody can log in as."""
    (tmp_path / "etc").mkdir()
    text = (DATA / "sysusers.d" / "flockpr.conf").read_text()
    run("systemd-sysusers", f"--root={tmp_path}", "-", stdin=text)
    (line,) = (tmp_path / "etc" / "passwd").read_text().splitlines()
    name, _, uid, _, _, home, shell = line.split(":")
    assert (name, home) == ("flockpr", "/var/lib/flockpr")
    assert 0 < int(uid) < 1000
    assert shell.endswith("nologin")


@pytest.mark.peer("systemd-tmpfiles")
def test_directories_are_made_by_systemd(tmp_path: pathlib.Path) -> None:
    """Those of the configuration's defaults; what holds secrets or state is closed to others."""
    conf = DATA / "tmpfiles.d" / "flockpr.conf"
    run("systemd-tmpfiles", "--create", f"--root={tmp_path}", str(conf))
    modes = {
        f"/{path.relative_to(tmp_path)}": os.stat(path).st_mode & 0o777
        for path in tmp_path.glob("*/**/flockpr")
    }
    assert modes == {"/run/flockpr": 0o755, default_root({}, 0): 0o700, "/etc/flockpr": 0o700}
