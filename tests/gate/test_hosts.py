"""The targets of one host, and of no other, serve a LUN."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flockpr import LunNotFound, create_lun
from flockpr.errors import Busy, StoreError
from flockpr.gate import HostClaim, hosts
from flockpr.store.layout import HOSTS
from flockpr.store.removal import delete_lun
from flockpr.store.syscalls import Syscalls
from tests.support.gates import LONG, Aside, Failing
from tests.support.open_files import open_descriptors


@pytest.fixture
def lun(tmp_path: Path) -> str:
    """A lock directory."""
    create_lun(str(tmp_path), "disk")
    return str(tmp_path / "disk")


@pytest.fixture
def taken(lun: str) -> Iterator[HostClaim]:
    """The claim of host one."""
    claim = HostClaim(lun, host="one")
    claim.take()
    yield claim
    claim.close()


@pytest.mark.usefixtures("taken")
def test_targets_of_one_host_serve_together(lun: str) -> None:
    """The gate keeps them in order."""
    claims = [HostClaim(lun, host="one") for _ in range(5)]
    for claim in claims:
        claim.take(LONG)
    for claim in claims:
        claim.close()


def test_target_of_another_host_is_refused_until_the_last_of_the_first_has_gone(
    lun: str, taken: HostClaim
) -> None:
    """Two hosts need more than one host's gate."""
    second = HostClaim(lun, host="one")
    second.take(LONG)
    other = HostClaim(lun, host="two")
    for before in (taken, second):
        with pytest.raises(Busy, match="another host's target"):
            other.take(0.05)
        before.close()

    other.take(LONG)
    with pytest.raises(Busy):
        HostClaim(lun, host="one").take(0.0)
    other.close()


def test_one_of_two_hosts_that_begin_at_once_is_served(lun: str) -> None:
    """They see each other, and try again; never both, and not neither."""
    for _ in range(5):
        claims = [HostClaim(lun, host=f"h{n}") for n in range(4)]
        line = threading.Barrier(len(claims))

        def begin(claim: HostClaim, line: threading.Barrier = line) -> bool:
            line.wait(LONG)
            try:
                claim.take(0.0)
            except Busy:
                return False
            return True

        asides = [Aside(lambda claim=claim: begin(claim)) for claim in claims]  # type: ignore[misc]
        served = [aside.result() for aside in asides]
        assert served.count(True) <= 1
        for claim in claims:
            claim.close()
        claims[0].take(LONG)
        claims[0].close()


def test_number_of_a_host_goes_by_name_and_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copied machine has the boot id of the other, and a host is another one after a boot."""
    one = hosts.host_number("one")
    assert 0 <= one < HOSTS
    assert one == hosts.host_number("one") != hosts.host_number("two")
    monkeypatch.setattr(hosts, "BOOT_ID", "/nonexistent")
    assert hosts.host_number("one") != one


@pytest.mark.parametrize("number", [0, HOSTS - 1])
def test_first_and_last_number_have_neighbours_on_one_side(
    lun: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """An empty range would be one up to the end of the file."""
    monkeypatch.setattr(hosts, "host_number", lambda _: number)
    mine, same = HostClaim(lun), HostClaim(lun)
    monkeypatch.setattr(hosts, "host_number", lambda _: 5)
    other = HostClaim(lun)
    mine.take()
    same.take()
    same.close()
    with pytest.raises(Busy):
        other.take(0.0)
    mine.close()
    other.take(LONG)
    with pytest.raises(Busy):
        mine.take(0.0)
    other.close()


def test_lock_file_that_cannot_be_used_refuses(lun: str) -> None:
    """It is not known then who serves."""
    server = Failing()
    for call, number in (("set_lock", errno.ENOLCK), ("open", errno.EIO)):
        server.errors = {call: number}
        with pytest.raises(StoreError, match="cannot be locked"):
            HostClaim(lun, syscalls=server).take()
    os.unlink(os.path.join(lun, "locks"))
    with pytest.raises(LunNotFound):
        HostClaim(lun).take()


def test_claim_tells_a_lun_that_was_deleted_from_one_that_is_missing(
    lun: str, tmp_path: Path
) -> None:
    """A directory that was moved away comes back; a file without a name does not."""
    claim = HostClaim(lun)
    assert not claim.deleted()
    claim.take()
    assert not claim.deleted()
    os.rename(lun, tmp_path / "aside")
    assert not claim.deleted()
    os.rename(tmp_path / "aside", lun)
    delete_lun(str(tmp_path), "disk")
    assert claim.deleted()
    claim.close()


@pytest.mark.parametrize(
    ("number", "mounted", "deleted"),
    [(errno.ESTALE, True, True), (errno.ESTALE, False, False), (errno.EIO, True, False)],
)
def test_claim_of_a_file_that_the_server_forgot_is_deleted_while_its_root_is_there(
    lun: str, tmp_path: Path, *, number: int, mounted: bool, deleted: bool
) -> None:
    """ESTALE: removed by another host, or nothing of that share is served at the moment."""

    class Forgetful(Syscalls):
        held = -1

        def fstat(self, fd: int) -> os.stat_result:
            if fd == self.held:
                raise OSError(number, os.strerror(number))
            return super().fstat(fd)

    server = Forgetful()
    claim = HostClaim(lun, syscalls=server)
    claim.take()
    server.held = next(int(name) for name, found in open_descriptors() if found == f"{lun}/locks")
    if not mounted:
        os.rename(tmp_path, f"{tmp_path}-aside")
    assert claim.deleted() is deleted
    claim.close()
    if not mounted:
        os.rename(f"{tmp_path}-aside", tmp_path)


def test_targets_of_two_hosts_serve_together_where_they_may(lun: str) -> None:
    """The mark stays, for people."""
    claims = [HostClaim(lun, exclusive=False, host=host) for host in ("one", "two", "one")]
    for claim in claims:
        claim.take(LONG)
    for claim in claims:
        claim.close()


@pytest.mark.parametrize("exclusive", [True, False])
def test_target_that_must_be_alone_does_not_begin_beside_another_hosts(
    lun: str, *, exclusive: bool
) -> None:
    """Whichever of the two comes first, and whichever it is that must be alone."""
    first = HostClaim(lun, exclusive=exclusive, host="one")
    second = HostClaim(lun, exclusive=not exclusive, host="two")
    first.take()
    with pytest.raises(Busy, match="another host's target"):
        second.take(0.0)
    same = HostClaim(lun, exclusive=not exclusive, host="one")
    same.take(LONG)
    same.close()
    first.close()
    second.take(LONG)
    with pytest.raises(Busy):
        first.take(0.0)
    second.close()
