"""What the daemon says about its root once it is ready."""

from __future__ import annotations

import logging
import os
import pathlib
import threading

import pytest

from flockpr.daemon import survey as module
from flockpr.daemon.survey import start_survey, survey
from flockpr.store.provision import create_lun


@pytest.fixture
def root(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> str:
    """An empty root, and every message kept."""
    caplog.set_level(logging.DEBUG, "flockpr.daemon")
    return str(tmp_path)


def test_survey_of_a_missing_lun_warns_and_names_those_that_exist(
    root: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A slip in `--lun` would otherwise be seen only in a guest that finds no disk."""
    for name in ("disk", "other"):
        create_lun(root, name)
    os.mkdir(os.path.join(root, "folder"))
    survey(root, ["disk", "disc", "folder"])
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert [text.partition(" in ")[0] for text in warnings] == [
        "no logical unit disc",
        "no logical unit folder",
    ]
    assert all("there: disk, other (" in text for text in warnings)


def test_survey_of_a_damaged_lun_does_not_call_it_missing(
    root: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is wrong with it is said by the commands to it."""
    create_lun(root, "disk")
    pathlib.Path(root, "disk", "lun.json").write_text("{")
    survey(root, ["disk"])
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


def test_survey_of_many_luns_names_a_few(root: str, caplog: pytest.LogCaptureFixture) -> None:
    """One line of bounded length."""
    for number in range(12):
        create_lun(root, f"d{number:02}")
    survey(root, ["typo"])
    assert "d08, d09 and 2 more (" in caplog.text


@pytest.mark.parametrize(
    ("kind", "told"), [("ext4", 1), ("tmpfs", 1), ("nfs4", 0), ("fuse.x", 0), (None, 0)]
)
def test_survey_tells_once_of_a_file_system_of_one_host(
    root: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    kind: str | None,
    told: int,
) -> None:
    """Whoever meant two hosts learns it before they contest a disk; it is no fault as such."""
    monkeypatch.setattr(module, "filesystem_type", lambda _: kind)
    survey(root, [])
    found = [one for one in caplog.records if "other hosts do not see" in one.getMessage()]
    assert len(found) == told
    assert all(one.levelno == logging.INFO and str(kind) in one.getMessage() for one in found)


def test_survey_of_a_root_that_hangs_blocks_nobody(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead file server must not delay the daemon."""
    reached, release = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        reached.set()
        release.wait(60)

    monkeypatch.setattr(module, "survey", hang)
    start_survey(root, ["disk"])
    assert reached.wait(60)
    assert not release.is_set()
    release.set()


def test_survey_of_a_root_that_fails_raises_nothing(
    root: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing depends on it."""
    survey(os.path.join(root, "gone"), ["disk"])
    assert "cannot be surveyed" in caplog.text
