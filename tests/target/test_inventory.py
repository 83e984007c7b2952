"""LUNs that come and go while a target runs, and what its sessions see of it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from flockpr.errors import Busy, LunNotFound, StoreError
from flockpr.gate import HostClaim
from flockpr.iscsi import inventory
from flockpr.iscsi.server import TargetServer
from flockpr.iscsi.settings import Limits, LunSettings, Portal
from flockpr.store.listing import read_identity
from flockpr.store.provision import create_lun
from flockpr.store.removal import delete_lun
from tests.support import sbc_cdbs
from tests.support.in_process import Rig
from tests.support.iscsi_client import LoginRefused, Reply
from tests.support.peers import require
from tests.support.target_rig import (
    TASK_ABORTED,
    Session,
    Target,
    eventually,
    initiator_name,
    make_root,
)

REGISTER = 6
NEVER = Limits(rescan=1e6, claim=0.2, task_management=100.0)
"""Tests look themselves, so that they know when it was done."""
NOT_SUPPORTED = (5, 0x25, 0)
CHANGED = (6, 0x3F, 0x0E)
NAME = "iqn.2026-01.org.example:all"
SIZE = 1 << 20
BLOCK = bytes(range(256)) * 2
READ, WRITE = sbc_cdbs.read(0, 1), sbc_cdbs.write(0, 1)


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    """A root with two LUNs, `disk` and `other`."""
    return make_root(tmp_path, "disk", "other")


@pytest.fixture
def rig(root: pathlib.Path) -> Iterator[Rig]:
    """A server with a target for each LUN."""
    with Rig(root, limits=NEVER) as made:
        yield made


@pytest.fixture
def single(root: pathlib.Path) -> Iterator[Rig]:
    """A server with one target for all LUNs."""
    with Rig(root, limits=NEVER, target_name=NAME) as made:
        yield made


def names(server: TargetServer) -> set[str]:
    """The LUNs that are served."""
    return {lun.identity.name for target in server.targets for lun in target.luns.values()}


def report_luns(session: Session, select: int = 0) -> Reply:
    """REPORT LUNS."""
    cdb = bytes((0xA0, 0, select, 0, 0, 0)) + (4096).to_bytes(4, "big") + bytes(2)
    return session.command(cdb, read=4096)


def numbers(session: Session) -> list[int]:
    """What REPORT LUNS tells."""
    data = report_luns(session).data
    return [data[at + 1] for at in range(8, len(data), 8)]


def on(session: Session, lun: int) -> Session:
    """The same session, talking to another LUN."""
    return Session(session.initiator, lun)


# ---------------------------------------------------------------------- coming


def test_lun_that_is_created_is_served_without_being_asked(root: pathlib.Path) -> None:
    """The server looks by itself; other sessions notice nothing."""
    with Rig(root, limits=Limits(rescan=0.05)) as rig:
        session = rig.session("a")
        create_lun(str(root), "third", size=SIZE)
        eventually(lambda: "third" in names(rig.server), "the new LUN")
        assert rig.session("a", "third").command(WRITE, BLOCK).good
        assert session.settle() == []


def test_lun_of_a_host_that_must_be_alone_is_never_taken_over(
    root: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """That its claim ends says nothing about its last writes: only a new start serves it."""
    claim = HostClaim(str(root / "disk"), host="elsewhere")
    claim.take()
    with TargetServer(str(root), portals=[Portal(port=0)], limits=NEVER) as server:
        server.rescan()
        assert names(server) == {"other"}
        assert "disk is not served until this target is started again" in caplog.text
        claim.close()
        server.rescan()
        assert names(server) == {"other"}
    with TargetServer(str(root), portals=[Portal(port=0)], limits=NEVER) as server:
        assert names(server) == {"disk", "other"}


def test_lun_that_is_made_anew_is_served_although_its_name_was_another_hosts(
    root: pathlib.Path,
) -> None:
    """What was refused was the other disk."""
    claim = HostClaim(str(root / "disk"), host="elsewhere")
    claim.take()
    with TargetServer(str(root), portals=[Portal(port=0)], limits=NEVER) as server:
        assert names(server) == {"other"}
        claim.close()
        delete_lun(str(root), "disk")
        create_lun(str(root), "disk", image="images/disk.img")
        server.rescan()
        assert names(server) == {"disk", "other"}


def test_lun_that_was_named_and_is_another_hosts_is_an_error_of_the_start(
    root: pathlib.Path,
) -> None:
    """Who names a LUN wants that one."""
    claim = HostClaim(str(root / "disk"), host="elsewhere")
    claim.take()
    server = TargetServer(str(root), portals=[Portal(port=0)], luns=["disk"])
    with pytest.raises(Busy, match="another host"):
        server.start()
    claim.close()


def test_lun_that_could_not_be_read_is_served_when_it_can(
    root: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Damaged state and a missing image are told of once, and tried again."""
    text, image = root / "disk" / "lun.json", root / "images" / "other.img"
    before = text.read_bytes()
    text.write_bytes(b"{")
    aside = image.rename(root / "aside.img")
    with TargetServer(str(root), portals=[Portal(port=0)], limits=NEVER) as server:
        server.rescan()
        server.rescan()
        assert names(server) == set()
        assert caplog.text.count("disk is not served") == 1
        assert caplog.text.count("other is not served") == 1
        text.write_bytes(before)
        aside.rename(image)
        server.rescan()
        assert names(server) == {"disk", "other"}


def test_lun_that_was_not_named_is_not_picked_up(root: pathlib.Path) -> None:
    """With a list of LUNs, the others are somebody else's; a listed one may come again."""
    with Rig(root, limits=NEVER, luns=["disk"]) as rig:
        create_lun(str(root), "third", size=SIZE)
        rig.server.rescan()
        assert names(rig.server) == {"disk"}
        delete_lun(str(root), "disk")
        rig.server.rescan()
        assert names(rig.server) == set()
        create_lun(str(root), "disk", image="images/disk.img")
        rig.server.rescan()
        assert names(rig.server) == {"disk"}


def test_look_opens_nothing_of_luns_that_are_served(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first look, one reading of the directory is all that an idle LUN costs."""
    rig.server.rescan()
    opened: list[str] = []

    def noted(root: str, name: str) -> Any:
        opened.append(name)
        return read_identity(root, name)

    monkeypatch.setattr(inventory, "read_identity", noted)
    rig.server.rescan()
    assert opened == ["images"]


# ---------------------------------------------------------------------- going


def test_lun_that_is_deleted_is_let_go_of(rig: Rig, root: pathlib.Path) -> None:
    """Its sessions stay and do not find it; who logs in finds no target; others go on."""
    session, other = rig.session("a"), rig.session("a", "other")
    url = rig.url("disk")
    delete_lun(str(root), "disk")
    rig.server.rescan()
    assert names(rig.server) == {"other"}
    assert session.ready().code == NOT_SUPPORTED
    assert session.command(WRITE, BLOCK).code == NOT_SUPPORTED
    assert session.command(bytes((0x12, 0, 0, 0, 36, 0)), read=36).data[0] == 0x7F
    assert numbers(session) == []
    assert session.initiator.ping(b"still here") == b"still here"
    assert other.settle() == []
    with pytest.raises(LoginRefused):
        rig.initiator("b", "other", target=url.target)
    session.logout()


def test_lun_that_is_made_anew_under_its_name_is_another_one(rig: Rig, root: pathlib.Path) -> None:
    """Sessions of the old one do not reach it, and it has nobody's registrations."""
    old = rig.session("a")
    old.must(REGISTER, 0, 0xA)
    rig.server.rescan()
    delete_lun(str(root), "disk", force=True)
    create_lun(str(root), "disk", image="images/disk.img")
    rig.server.rescan()
    new = rig.session("a")
    assert new.keys() == []
    new.must(REGISTER, 0, 0xB)
    assert new.command(WRITE, BLOCK).good
    assert old.ready().code == NOT_SUPPORTED


def test_lun_that_is_deleted_ends_what_it_had_in_execution(rig: Rig, root: pathlib.Path) -> None:
    """Nothing that was sent to it can land in a LUN that is made on its image."""
    session = rig.session("a")
    calls = rig.calls["disk"]
    calls.hang()
    task = session.initiator.submit(session.lun, WRITE, BLOCK)
    calls.until_waiting(1)
    delete_lun(str(root), "disk")
    looking = threading.Thread(target=rig.server.rescan)
    looking.start()
    eventually(lambda: session.ready().code == NOT_SUPPORTED, "the end of the LUN")
    assert looking.is_alive()
    calls.go_on()
    assert session.initiator.wait(task).status in (0, TASK_ABORTED)
    looking.join(100.0)
    assert names(rig.server) == {"other"}


def test_root_that_is_missing_for_a_while_deletes_nothing(rig: Rig, root: pathlib.Path) -> None:
    """A share that is unmounted comes back: neither its absence nor an empty directory counts."""
    rig.server.rescan()
    aside = root.rename(root.parent / "aside")
    with pytest.raises(StoreError):
        rig.server.rescan()
    root.mkdir()
    rig.server.rescan()
    assert names(rig.server) == {"disk", "other"}
    root.rmdir()
    aside.rename(root)
    rig.server.rescan()
    assert rig.session("a").command(WRITE, BLOCK).good


# ---------------------------------------------------------------------- sessions


def test_session_is_told_of_a_new_lun_and_uses_it(single: Rig, root: pathlib.Path) -> None:
    """SPC-4 6.33: 3F/0E with the next command; the new LUN needs no other login."""
    session = single.session("a")
    third = create_lun(str(root), "third", size=SIZE).lun
    assert on(session, third).ready().code == NOT_SUPPORTED
    single.server.rescan()
    assert session.command(bytes((0x12, 0, 0, 0, 36, 0)), read=36).good
    assert session.settle() == [CHANGED]
    new = on(session, third)
    new.settle()
    assert new.command(WRITE, BLOCK).good
    assert new.command(READ, read=512).data == BLOCK
    new.must(REGISTER, 0, 0xA)
    assert new.keys() == [0xA]


def test_report_luns_takes_the_place_of_the_attention(single: Rig, root: pathlib.Path) -> None:
    """SAM-5 5.14: of every LUN; a REPORT LUNS that is refused does not."""
    session = single.session("a")
    other = on(session, 1)
    other.settle()
    create_lun(str(root), "third", size=SIZE)
    single.server.rescan()
    assert report_luns(session, select=0x77).code == (5, 0x24, 0)
    assert other.ready().code == CHANGED
    assert numbers(session) == [0, 1, 2]
    assert session.settle() == []


def test_session_is_told_of_a_lun_that_was_deleted(single: Rig, root: pathlib.Path) -> None:
    """By the LUNs that are left; that one is answered for as if it had never been."""
    session = single.session("a")
    delete_lun(str(root), "other")
    single.server.rescan()
    assert on(session, 1).ready().code == NOT_SUPPORTED
    assert session.settle() == [CHANGED]
    assert numbers(session) == [0]


def test_session_with_a_target_without_luns_finds_the_next_one(
    single: Rig, root: pathlib.Path
) -> None:
    """It works on without any, and a LUN with the number of the last one is another one."""
    session = single.session("a")
    for name in ("disk", "other"):
        delete_lun(str(root), name)
    single.server.rescan()
    assert single.server.targets == ()
    assert session.ready().code == NOT_SUPPORTED
    assert numbers(session) == []
    assert create_lun(str(root), "next", size=SIZE).lun == session.lun
    single.server.rescan()
    session.settle()
    assert session.command(READ, read=512).data == bytes(512)


def test_session_that_may_not_see_a_lun_is_not_told_of_it(root: pathlib.Path) -> None:
    """Nothing changed for it."""
    settings = {"third": LunSettings(initiators=frozenset({initiator_name("b")}))}
    with Rig(root, limits=NEVER, target_name=NAME, settings=settings) as rig:
        stranger, friend = rig.session("a"), rig.session("b")
        third = create_lun(str(root), "third", size=SIZE).lun
        rig.server.rescan()
        assert stranger.settle() == []
        assert friend.settle() == [CHANGED]
        assert on(stranger, third).ready().code == NOT_SUPPORTED
        on(friend, third).settle()
        assert on(friend, third).ready().good


# ---------------------------------------------------------------------- a root that hangs


def test_root_that_hangs_holds_up_nobody(
    root: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions go on, new ones are let in, and the server ends."""
    hanging, go_on = threading.Event(), threading.Event()
    look = os.scandir

    def hang(path: str) -> Any:
        hanging.set()
        assert go_on.wait(100.0)
        return look(path)

    with Rig(root, limits=Limits(rescan=0.01)) as rig:
        session = rig.session("a")
        monkeypatch.setattr(os, "scandir", hang)
        assert hanging.wait(100.0)
        assert session.command(WRITE, BLOCK).good
        assert rig.session("b", "other").ready().good
        assert rig.server.alive
        assert rig.server.stop(60.0)
        go_on.set()


def test_look_that_is_late_serves_nothing_after_the_end(rig: Rig, root: pathlib.Path) -> None:
    """What would be opened then would stay open."""
    create_lun(str(root), "third", size=SIZE)
    rig.server.stop()
    rig.server.rescan()
    assert "third" not in names(rig.server)


def test_watch_says_once_why_it_finds_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """And goes on after any error."""
    looks: list[int] = []
    enough = threading.Event()

    def look() -> None:
        looks.append(1)
        if len(looks) > 5:
            enough.set()
        if len(looks) == 2:
            raise ValueError("a bug")
        raise LunNotFound("this root does not exist", "/none")

    watch = inventory.Watch(0.001, look)
    watch.start()
    assert enough.wait(100.0)
    assert watch.stop(100.0)
    assert caplog.text.count("this root does not exist") == 1
    assert caplog.text.count("ValueError: a bug") == 1


# ---------------------------------------------------------------------- real processes

HOLD = """
    import sys
    from flockpr.gate import HostClaim
    claim = HostClaim(sys.argv[1], host="elsewhere")
    claim.take()
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.peer("iscsi-ls")
def test_target_process_finds_luns_that_come(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """One that is created, without a restart; never one whose host has died."""
    tool = require("iscsi-ls")["iscsi-ls"]
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(root / "disk")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(holder)
        stack.callback(holder.kill)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        target = stack.enter_context(Target(root, tmp_path / "log"))
        (url,) = target.urls

        def listed(lun: str) -> bool:
            command = [tool, f"iscsi://{url.host}:{url.port}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=100)
            return f":{lun}." in done.stdout

        create_lun(str(root), "third", size=SIZE)
        eventually(lambda: listed("third"), "the LUN that was created")
        assert not listed("disk")
        holder.kill()
        holder.wait()
        create_lun(str(root), "fourth", size=SIZE)
        eventually(lambda: listed("fourth"), "a look after the other host's end")
        assert not listed("disk")
        assert target.stop() == 0
