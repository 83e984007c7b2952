"""The Debian package and the one-file program where nothing else is; a sweep has a whole system."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Iterator

import pytest

from release import debian, onefile
from tests.support import clean_root
from tests.support.clean_root import inside

pytestmark = pytest.mark.timeout(900)
PLAYED = "All 12 steps were answered as they must be."


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """Debian's Python and what it needs, the package and the program to install, nothing more."""
    root = tmp_path_factory.mktemp("clean") / "root"
    clean_root.build(root)
    (root / "opt").mkdir()
    debian.write(root / "opt")
    onefile.write(root / "opt" / "flockpr.pyz")
    yield root
    shutil.rmtree(root)


@pytest.mark.peer("dpkg-deb")
def test_package_and_program_run_where_nothing_else_is(clean: pathlib.Path) -> None:
    """The program first, so that it cannot have found the package; then dpkg, which sees to what
    the package depends on; last it goes again.
    """
    done = inside(
        clean,
        """
        ldconfig
        mkdir -p /var/log
        ! python3 -c 'import attrs' 2>/dev/null
        /opt/flockpr.pyz demo
        rm -r /root/.cache
        dpkg -i /opt/flockpr_*.deb
        flockpr demo
        flockpr lun create disk --root /opt/root --size 1M
        export FLOCKPR_ROOT=/opt/root FLOCKPR_INITIATOR=iqn.2026-01.org.example:a
        flockpr-sg-persist -n --out --register --param-sark=a1 disk
        flockpr status disk
        flockpr-pr-helper -V
        test -s /usr/share/man/man8/flockpr-lun-create.8.gz
        dpkg -r flockpr
        test ! -e /usr/lib/flockpr
        """,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(PLAYED) == 2
    assert "0x00000000000000a1" in done.stdout
