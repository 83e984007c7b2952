"""What goes wrong below: errors, short files, full disks, lost permits; growing."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import time

import pytest

from flockpr import create_lun
from flockpr.block import MAX_BUFFER, Disk, Pool
from flockpr.block.image import QEMU_UNSHARED, QEMU_USED, claim_from_qemu, grow_image, qemu_holds
from flockpr.errors import Busy, ConfigError, StoreError, StoreUnavailable
from flockpr.gate import HostClaim
from flockpr.spc.codes import Status
from flockpr.store.listing import read_identity
from flockpr.store.syscalls import Syscalls
from flockpr.units import Units
from tests.support import sbc_cdbs as cdbs
from tests.support.disks import BLOCK, MemoryUnits, Rig, hold, identity, rigs, wait_until
from tests.support.scsi import A

READ_ERROR, WRITE_ERROR = (3, 0x11, 0), (3, 0x0C, 0)
NO_SPACE = (7, 0x27, 7)
DATA = b"d" * BLOCK
LAST = 2048


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO])
def test_read_that_fails_is_a_medium_error(rig: Rig, number: int) -> None:
    """SBC-3 4.18: 03/11/00, and the disk goes on."""
    rig.calls.errors["preadv"] = OSError(number, "no")
    assert rig.code(cdbs.read(0, 1)) == READ_ERROR
    assert rig.code(cdbs.verify(0, 1)) == READ_ERROR
    del rig.calls.errors["preadv"]
    rig.good(cdbs.read(0, 1))
    assert rig.disk._pool.lent == 0


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EIO, WRITE_ERROR),
        (errno.ESTALE, WRITE_ERROR),
        (errno.ENOSPC, NO_SPACE),
        (errno.EDQUOT, NO_SPACE),
        (errno.EROFS, (7, 0x27, 0)),
        (errno.EPERM, (7, 0x27, 0)),
        (errno.EFBIG, WRITE_ERROR),
    ],
)
def test_write_that_fails_says_why(rig: Rig, number: int, code: tuple[int, int, int]) -> None:
    """SBC-3 4.7.3.6, 4.18: 07/27/07 when there is no room, else a medium error."""
    for name in ("pwritev", "pwritev+dsync", "punch"):
        rig.calls.errors[name] = OSError(number, "no")
    assert rig.code(cdbs.write(0, 1), DATA) == code
    assert rig.code(cdbs.write(0, 1, fua=True), DATA) == code
    assert rig.code(cdbs.write_and_verify(0, 1), DATA) == code
    assert rig.code(cdbs.write_same(0, 8), DATA) == code
    assert rig.code(cdbs.compare_and_write(0, 1), bytes(BLOCK) + DATA) == code
    assert rig.code(*cdbs.unmap((0, 8))) == code
    rig.calls.errors.clear()
    rig.good(cdbs.write(0, 1), DATA)


def test_flush_that_fails_is_never_good(rig: Rig) -> None:
    """SBC-3 5.27: what is not known to be stable is not told to be."""
    rig.calls.errors["fdatasync"] = OSError(errno.EIO, "no")
    assert rig.code(cdbs.synchronize_cache()) == WRITE_ERROR
    assert rig.code(cdbs.synchronize_cache(width=16)) == WRITE_ERROR
    rig.calls.errors["fdatasync"] = OSError(errno.ENOSPC, "no")
    assert rig.code(cdbs.synchronize_cache()) == NO_SPACE


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EAGAIN, errno.EINTR])
def test_failure_that_passes_is_busy(rig: Rig, number: int) -> None:
    """SAM-5 5.3.1: nothing is wrong with the medium: BUSY, and the initiator tries again."""
    rig.calls.errors["preadv"] = rig.calls.errors["pwritev"] = OSError(number, "no")
    assert rig.run(cdbs.read(0, 1)).status is Status.BUSY
    assert rig.run(cdbs.write(0, 1), DATA).status is Status.BUSY


def test_lost_permit_is_asked_about_inside_and_told_as_such(rig: Rig) -> None:
    """On NFS EIO may be a lock that the server took away: not an error of the medium. A read
    is simply begun anew by the initiator, a write's outcome is unknown.
    """
    rig.permit.gone = True
    rig.calls.errors["preadv"] = rig.calls.errors["pwritev"] = OSError(errno.EIO, "no")
    assert rig.run(cdbs.read(0, 1)).status is Status.BUSY
    assert rig.code(cdbs.write(0, 1), DATA) == (0xB, 8, 1)
    rig.calls.errors.clear()
    rig.good(cdbs.read(0, 1))


def test_unexpected_einval_of_a_read_is_a_fault_of_ours(rig: Rig) -> None:
    """Memory and offsets are aligned here; the medium is not to blame."""
    rig.calls.errors["preadv"] = OSError(errno.EINVAL, "no")
    assert rig.code(cdbs.read(0, 1)) == (4, 0x44, 0)


def test_image_that_was_shrunk_keeps_its_capacity_and_fails_behind_its_end(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """A file cut short is lost data, never zeros, and never a hole that a write would make."""
    rig.good(cdbs.write(0, 16), DATA * 16)
    os.truncate(rig.path, 8 * BLOCK)
    assert rig.code(cdbs.read(0, 16)) == READ_ERROR
    assert rig.code(cdbs.read(8, 1)) == READ_ERROR
    assert rig.good(cdbs.read(0, 8)) == DATA * 8
    assert "was shrunk" in caplog.text
    assert rig.good(cdbs.READ_CAPACITY_10)[:4] == (LAST - 1).to_bytes(4, "big")
    assert rig.code(cdbs.write(100, 1), DATA) == WRITE_ERROR
    assert rig.code(cdbs.write_same(100, 1), DATA) == WRITE_ERROR
    assert rig.code(cdbs.compare_and_write(100, 1), bytes(2 * BLOCK)) == WRITE_ERROR
    assert rig.code(*cdbs.unmap((100, 1))) == WRITE_ERROR
    rig.good(cdbs.write(7, 1), DATA)
    assert rig.path.stat().st_size == 8 * BLOCK
    rig.good(cdbs.get_lba_status(0))
    os.truncate(rig.path, LAST * BLOCK)
    rig.good(cdbs.READ_CAPACITY_10)
    rig.good(cdbs.write(100, 1), DATA)


def test_image_that_was_shrunk_is_noticed_without_a_read(rig: Rig) -> None:
    """A write behind the new end has to fail also when nobody has read there."""
    os.truncate(rig.path, 8 * BLOCK)
    wait_until(lambda: rig.disk._medium._end == 8 * BLOCK)
    assert rig.code(cdbs.write(100, 1), DATA) == WRITE_ERROR
    assert rig.path.stat().st_size == 8 * BLOCK


def test_image_that_grows_is_told_to_every_session_once(rig: Rig) -> None:
    """SBC-3 4.7: CAPACITY DATA HAS CHANGED, 06/2A/09; then the new blocks are there."""
    rig.good(cdbs.read(0, 1))
    assert grow_image(str(rig.path), 2 * LAST * BLOCK) == LAST * BLOCK
    wait_until(lambda: rig.disk.blocks == 2 * LAST)
    assert rig.code(cdbs.read(0, 1)) == (6, 0x2A, 9)
    rig.good(cdbs.write(2 * LAST - 1, 1), DATA)
    assert rig.good(cdbs.READ_CAPACITY_10)[:4] == (2 * LAST - 1).to_bytes(4, "big")


def test_read_capacity_sees_a_grown_image_at_once(rig: Rig) -> None:
    """Who asks for the capacity right after the operator has grown it gets the new one."""
    rig.good(cdbs.read(0, 1))
    grow_image(str(rig.path), 2 * LAST * BLOCK)
    assert rig.good(cdbs.READ_CAPACITY_10)[:4] == (2 * LAST - 1).to_bytes(4, "big")


def test_image_with_a_part_of_a_block_is_served_without_it(tmp_path: pathlib.Path) -> None:
    """A size that is no multiple of 512: the rest is left alone."""
    (tmp_path / "x").mkdir()
    for rig in rigs(tmp_path / "x"):
        with rig.path.open("r+b") as image:
            image.truncate(LAST * BLOCK + 100)
        rig.good(cdbs.READ_CAPACITY_10)
        assert rig.disk.blocks == LAST
        rig.run(cdbs.TEST_UNIT_READY)
        assert rig.code(cdbs.read(LAST, 1)) == (5, 0x21, 0)


def test_grow_never_shrinks(tmp_path: pathlib.Path) -> None:
    """`grow_image` refuses a smaller size, an odd one, and what is not there."""
    path = tmp_path / "image"
    path.write_bytes(bytes(4 * BLOCK))
    for size in (BLOCK, 0, -BLOCK, 5 * BLOCK + 1):
        with pytest.raises(ConfigError):
            grow_image(str(path), size)
    assert grow_image(str(path), 4 * BLOCK) == 4 * BLOCK
    assert grow_image(str(path), 1 << 30) == 4 * BLOCK
    assert path.stat().st_size == 1 << 30
    assert path.stat().st_blocks * 512 < 1 << 20
    with pytest.raises(StoreError):
        grow_image(str(tmp_path / "absent"), BLOCK)


@pytest.mark.parametrize("byte", [QEMU_USED, QEMU_USED + 1])
def test_image_that_qemu_uses_is_refused(tmp_path: pathlib.Path, byte: int) -> None:
    """QEMU holds a byte for each permission that it uses; beside it we would destroy data."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(8 * BLOCK))
    other = hold(path, byte, 1, fcntl.F_RDLCK)
    mine = os.open(path, os.O_RDWR)
    try:
        with pytest.raises(Busy, match="QEMU"):
            claim_from_qemu(Syscalls(), mine, str(path))
    finally:
        os.close(other)
    claim_from_qemu(Syscalls(), mine, str(path))
    os.close(mine)


def test_served_image_is_refused_to_qemu_and_shared_with_targets(rig: Rig) -> None:
    """QEMU looks whether the permissions that it wants are unshared; targets share them."""
    calls = Syscalls()
    fd = os.open(rig.path, os.O_RDWR)
    for permission in range(4):
        assert calls.get_lock(fd, fcntl.F_WRLCK, QEMU_UNSHARED + permission, 1) != fcntl.F_UNLCK
    assert not qemu_holds(fd, calls)
    claim_from_qemu(calls, fd, str(rig.path))
    os.close(fd)
    rig.close()
    fd = os.open(rig.path, os.O_RDWR)
    assert calls.get_lock(fd, fcntl.F_WRLCK, QEMU_UNSHARED, 4) == fcntl.F_UNLCK
    os.close(fd)


def test_file_system_with_larger_sectors_is_refused(tmp_path: pathlib.Path) -> None:
    """A block that has to be written with its neighbours is not safe between hosts."""
    rig = Rig(tmp_path)
    fd = rig.permit.fd
    rig.calls.errors["preadv"] = OSError(errno.EINVAL, "no")
    with pytest.raises(StoreUnavailable, match="512"):
        rig.disk._medium.opened(fd)
    rig.calls.errors["preadv"] = OSError(errno.EIO, "no")
    with pytest.raises(StoreError):
        rig.disk._medium.opened(fd)
    rig.calls.errors.clear()
    rig.close()


def test_disk_that_cannot_be_opened_leaves_nothing_open(tmp_path: pathlib.Path) -> None:
    """No image, an empty image, a wrong setting: an error that says so, and no descriptor."""
    before = len(os.listdir("/proc/self/fd"))
    units = MemoryUnits()
    with pytest.raises(ConfigError, match="no image"):
        Disk(str(tmp_path), identity(image=None), units)
    with pytest.raises(ConfigError, match="physical"):
        Disk(str(tmp_path), identity(), units, physical_block_size=1024)
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "locks").touch()
    with pytest.raises(StoreError):
        Disk(str(tmp_path), identity(), units)
    (tmp_path / "disk.img").touch()
    with pytest.raises(ConfigError, match="not a single block"):
        Disk(str(tmp_path), identity(), units)
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # the doorbell of the root stays


def test_pool_that_is_empty_makes_reads_busy_and_nothing_else(tmp_path: pathlib.Path) -> None:
    """Clients that do not take their data hold up reads, for a bounded time, not writes."""
    pool = Pool(MAX_BUFFER)
    for rig in rigs(tmp_path, pool=pool, timeout=0.2):
        rig.good(cdbs.read(0, 1))
        held = pool.acquire(MAX_BUFFER)
        assert held is not None
        assert rig.run(cdbs.read(0, 1)).status is Status.BUSY
        rig.good(cdbs.write(0, 1), DATA)
        rig.good(cdbs.compare_and_write(0, 1), DATA + DATA)
        rig.good(cdbs.verify(0, 1))
        held.release()
        rig.good(cdbs.read(0, 1))
        assert pool.lent == 0


def test_buffers_of_every_refusal_are_given_back(rig: Rig) -> None:
    """A read that is refused, conflicts or fails holds no memory."""
    rig.code(cdbs.read(LAST, 1))
    rig.permit.closed = True
    rig.run(cdbs.read(0, 1))
    rig.permit.closed = False
    rig.run(cdbs.read(0, 1), cancelled=lambda: True)
    rig.calls.errors["preadv"] = OSError(errno.EIO, "no")
    rig.run(cdbs.read(0, 1))
    rig.units.fault = StoreUnavailable("away")
    rig.disk._served.drop()
    rig.run(cdbs.read(0, 1))
    assert rig.disk._pool.lent == 0


def test_file_system_without_durable_writes_gets_a_flush_after_each(rig: Rig) -> None:
    """FUA keeps its promise where RWF_DSYNC is not to be had."""
    rig.calls.errors["pwritev+dsync"] = OSError(errno.EOPNOTSUPP, "no")
    for _ in range(2):
        rig.good(cdbs.write(0, 1, fua=True), DATA)
        assert rig.calls.names()[-2:] == ["pwritev", "fdatasync"]
    rig.good(cdbs.write(0, 1), DATA)
    assert rig.calls.names() == ["pwritev"]
    assert rig.content(0, 1) == DATA


def test_session_that_comes_after_the_end_is_refused(rig: Rig) -> None:
    """A login that races with the end of the service leaves nothing behind."""
    rig.disk.close()
    late = rig.disk.attach(A)
    assert rig.code(cdbs.read(0, 1), of=late) == (5, 0x25, 0)
    rig.disk.detach(late)
    assert rig.permit.attended == 0


def test_other_hosts_are_kept_away_until_the_last_write_has_ended(tmp_path: pathlib.Path) -> None:
    """A target of another host would write beside one that hangs in a system call."""
    create_lun(str(tmp_path), "disk", size=1 << 20)
    units = Units(str(tmp_path), timeout=60.0)
    disk = Disk(str(tmp_path), read_identity(str(tmp_path), "disk"), units)
    path = str(tmp_path / "disk")
    assert disk._permit.enter(time.monotonic() + 60)
    disk.close()
    with pytest.raises(Busy, match="another host"):
        HostClaim(path, host="other").take(0.0)
    disk._permit.leave()
    wait_until(lambda: disk._footing._claim is not None and disk._footing._claim._fd < 0)
    claim = HostClaim(path, host="other")
    claim.take()
    claim.close()
    assert units.close(60.0)
