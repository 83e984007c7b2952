"""A target and the file systems under it: refused, allowed, and watched while it serves.

The mount tables are data: what is really mounted is whatever the tests run on.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import attrs
import pytest

from flockpr.errors import ServedElsewhere, Unproven
from flockpr.filesystems import Terms
from flockpr.gate import HostClaim
from flockpr.iscsi.server import TargetServer
from flockpr.iscsi.settings import Limits, Portal
from tests.support import sbc_cdbs
from tests.support.daemon_process import eventually
from tests.support.iscsi_client import Initiator
from tests.support.mount_tables import Tables
from tests.support.target_rig import Session, Url, initiator_name, make_root

NFS42 = "rw,vers=4.2,hard,local_lock=none"
READ = sbc_cdbs.read(0, 1)
NOT_READY = (2, 4, 3)
"""Somebody has to do something."""


@attrs.frozen
class Share:
    """A root on what seems to be a share.

    Attributes:
        root: With the logical unit `disk`.
        tables: What the host tells about itself.
    """

    root: pathlib.Path
    tables: Tables

    def server(
        self, *, mounts: float = 0.05, allow: bool = False, **options: object
    ) -> TargetServer:
        """A target under these terms."""
        return TargetServer(
            str(self.root),
            portals=[Portal(port=0)],
            limits=Limits(rescan=1e6, mounts=mounts, claim=0.2),
            terms=Terms(allow_unproven=allow, sources=self.tables.sources),
            **options,  # type: ignore[arg-type]
        )


@pytest.fixture
def share(tmp_path: pathlib.Path) -> Share:
    """NFS 4.2, as it should be."""
    root = make_root(tmp_path)
    tables = Tables(tmp_path / "host")
    tables.mount(root, "nfs4", NFS42)
    tables.recover("N")
    return Share(root, tables)


def log_in(server: TargetServer) -> Session:
    """A session with `disk`."""
    url = Url.parse(server.url("disk"))
    name = initiator_name("alice")
    return Session(Initiator((url.host, url.port), target=url.target, name=name), url.lun)


@pytest.fixture
def served(share: Share) -> Iterator[tuple[Share, Session]]:
    """A target that serves it, and a session that has read."""
    with share.server() as server, log_in(server) as session:
        session.settle()
        assert session.command(READ, read=512).good
        yield share, session


def answer(session: Session) -> object:
    """Sense of a READ, or None when it was GOOD."""
    return session.command(READ, read=512).code


def test_target_on_a_share_says_what_it_promises(
    share: Share, caplog: pytest.LogCaptureFixture
) -> None:
    """In its log, with what the operator has to see to."""
    caplog.set_level("INFO")
    with share.server():
        assert "enforced for the targets of any number of hosts (nfs 4.2)" in caplog.text
        assert "it must be sync" in caplog.text


def test_targets_of_several_hosts_serve_one_lun_on_a_share(share: Share) -> None:
    """Each leaves its mark, and none keeps the others away."""
    with share.server() as server:
        assert [lun.identity.name for target in server.targets for lun in target.luns.values()]
        other = HostClaim(str(share.root / "disk"), exclusive=False, host="elsewhere")
        other.take(0.0)
        other.close()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("hard", "soft", "soft"),
        ("local_lock=none", "local_lock=all", "local_lock"),
        ("vers=4.2", "vers=3", "NFS 3"),
        ("nfs4", "9p", "9p"),
        ("nfs4", "fuse.sshfs", "fuse.sshfs"),
        ("nfs4", "cifs", "cifs"),
        ("nfs4", "newfs", "newfs is not known"),
    ],
)
def test_lun_where_nothing_is_promised_is_not_served(
    share: Share, caplog: pytest.LogCaptureFixture, old: str, new: str, words: str
) -> None:
    """One that is named is an error of the start, others are told of in the log."""
    share.tables.remount(old, new)

    with pytest.raises(Unproven, match=words):
        share.server(luns=["disk"]).start()
    with share.server() as server:
        assert list(server.targets) == []
    assert "disk is not served" in caplog.text
    assert words in caplog.text


def test_lun_that_is_served_without_a_promise_is_one_hosts(
    share: Share, caplog: pytest.LogCaptureFixture
) -> None:
    """Loudly, and no other host's target begins beside it."""
    share.tables.remount("hard", "soft")
    with share.server(allow=True) as server, log_in(server) as session:
        session.settle()
        assert answer(session) is None
        assert "WITHOUT A PROMISE" in caplog.text
        other = HostClaim(str(share.root / "disk"), exclusive=False, host="elsewhere")
        with pytest.raises(Exception, match="another host's target"):
            other.take(0.0)
        assert answer(session) is None


def test_lun_without_a_promise_that_is_served_elsewhere_is_refused_at_the_start(
    share: Share,
) -> None:
    """Whatever that one is on."""
    share.tables.remount("hard", "soft")
    other = HostClaim(str(share.root / "disk"), exclusive=False, host="elsewhere")
    other.take()

    with pytest.raises(ServedElsewhere):
        share.server(allow=True, luns=["disk"]).start()

    other.close()


def test_image_on_another_mount_is_judged_too(
    share: Share, caplog: pytest.LogCaptureFixture
) -> None:
    """A share for the lock directory says nothing about the image."""
    share.tables.mount(share.root / "images", "9p", "rw")

    with share.server() as server:
        assert list(server.targets) == []

    assert "disk is not served" in caplog.text
    assert "locks of 9p often stop at the host" in caplog.text


Change = Callable[[Tables], None]
CHANGES: dict[str, tuple[Change, Change]] = {
    "recover": (lambda t: t.recover("Y"), lambda t: t.recover("N")),
    "remount": (lambda t: t.remount("hard", "soft"), lambda t: t.remount("soft", "hard")),
    "other": (lambda t: t.remount("nfs4", "ext4"), lambda t: t.remount("ext4", "nfs4")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_promise_that_goes_closes_the_gate_until_it_is_back(
    served: tuple[Share, Session], caplog: pytest.LogCaptureFixture, change: str
) -> None:
    """NOT READY, an event in the log, and then it is served again without a restart."""
    share, session = served
    break_it, mend_it = CHANGES[change]

    break_it(share.tables)

    eventually(lambda: answer(session) == NOT_READY, "the gate to close")
    eventually(lambda: "the mount was lost" in caplog.text, "the event")
    mend_it(share.tables)
    eventually(lambda: answer(session) is None, "the gate to open")
    eventually(lambda: "the mount is back" in caplog.text, "the end of it")


def test_other_file_system_over_the_path_closes_the_gate(served: tuple[Share, Session]) -> None:
    """What is mounted over the images is another place, although the old one is still open."""
    share, session = served

    share.tables.mount(share.root / "images", "tmpfs", "rw")

    eventually(lambda: answer(session) == NOT_READY, "the gate to close")


def test_tables_that_stay_the_same_cost_no_look_at_the_luns(
    share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred idle LUNs cost as much as one."""
    looks: list[int] = []
    with share.server(mounts=1e6) as server:
        (lun,) = (lun for target in server.targets for lun in target.luns.values())
        monkeypatch.setattr(lun.disk, "look_at_promise", lambda: looks.append(1))
        for _ in range(3):
            server.look_at_promises()
        assert len(looks) == 1
        share.tables.recover("Y")
        server.look_at_promises()
        assert len(looks) == 2
