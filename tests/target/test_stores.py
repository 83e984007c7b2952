"""The target door over a logical unit with a database: two targets of one host."""

from __future__ import annotations

import pathlib

from flockpr.store.kinds import SQLITE
from flockpr.store.layout import DATABASE
from tests.support import sbc_cdbs as sbc
from tests.support.scsi import PREEMPT, REGISTER, RESERVE, WE
from tests.support.target_rig import BLOCK, CONFLICT, GOOD, Target, make_root

KEY, OTHER = 0x11, 0x22


def test_targets_enforce_what_a_database_keeps(tmp_path: pathlib.Path) -> None:
    """Reserved through one, refused through the other; a kill forgets nothing, and who was
    preempted does not write any more.
    """
    root = make_root(tmp_path, store=SQLITE)
    with Target(root, tmp_path / "1.log") as one, Target(root, tmp_path / "2.log") as two:
        alice, bob = one.log_in("alice"), two.log_in("bob")
        alice.must(REGISTER, 0, KEY)
        alice.must(RESERVE, KEY, type_=WE)
        write = sbc.write(0, 1), b"b" * BLOCK
        assert bob.command(*write).status == CONFLICT
        assert alice.command(sbc.write(0, 1), b"a" * BLOCK).good
        one.kill()
        assert bob.command(*write).status == CONFLICT
        with Target(root, tmp_path / "3.log") as again:
            alice = again.log_in("alice")
            assert alice.keys() == [KEY]
            assert alice.command(sbc.write(0, 1), b"A" * BLOCK).good
            bob.must(REGISTER, 0, OTHER)
            bob.must(PREEMPT, OTHER, KEY, type_=WE)
            assert alice.command(sbc.write(0, 1), b"z" * BLOCK).status != GOOD
            assert bob.command(*write).good
            assert bob.command(sbc.read(0, 1), read=BLOCK).data == b"b" * BLOCK
            assert bob.keys() == [OTHER]
    assert (root / "disk" / DATABASE).stat().st_size
