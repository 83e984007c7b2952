"""The file of CHAP secrets: read only where nobody else could, and never quoted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flockpr.daemon import chap_file
from flockpr.daemon.chap_file import MAX_FILE, read_secrets
from flockpr.errors import ConfigError
from flockpr.iscsi.settings import ChapAccount

ONE = '[[chap]]\nuser = "u"\nsecret = "0123456789ab"\n'
SECRET = "sesame-open-now"


def write(directory: Path, text: str, mode: int = 0o600) -> str:
    """A file of secrets with this mode."""
    path = directory / "chap.toml"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_secrets_of_both_directions_are_read(tmp_path: Path) -> None:
    """Names as they are; initiators' names in lower case, as they arrive at login."""
    text = ONE + (
        '[[chap]]\nuser = "v"\nsecret = "0123456789äb"\ninitiator = "IQN.2026-11.example:B"\n'
        '[mutual]\nuser = "t"\nsecret = "ba9876543210"\n'
    )

    secrets = read_secrets(write(tmp_path, text))

    assert secrets.initiators == (
        ChapAccount("u", b"0123456789ab"),
        ChapAccount("v", "0123456789äb".encode(), "iqn.2026-11.example:b"),
    )
    assert secrets.target == ChapAccount("t", b"ba9876543210")
    assert "0123456789ab" not in repr(secrets)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_secrets_of_their_owner_alone_are_read(tmp_path: Path, mode: int) -> None:
    """No more than the owner's bits."""
    assert len(read_secrets(write(tmp_path, ONE, mode)).initiators) == 1


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o660, 0o644, 0o666])
def test_secrets_that_others_can_use_are_refused(tmp_path: Path, mode: int) -> None:
    """A secret that everybody knows proves nothing; the remedy is chmod."""
    with pytest.raises(ConfigError, match=f"mode {mode:04o}") as caught:
        read_secrets(write(tmp_path, ONE, mode))
    assert "chmod 600" in caught.value.remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_secrets_of_another_user_are_refused(tmp_path: Path) -> None:
    """They could be changed under us. A group that is root's may read: systemd's credentials."""
    path = write(tmp_path, ONE)
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        read_secrets(path)

    os.chown(path, 0, 0)
    os.chmod(path, 0o440)
    assert read_secrets(path).initiators
    os.chown(path, 0, 12345)
    with pytest.raises(ConfigError, match="mode 0440"):
        read_secrets(path)


def test_secrets_that_are_no_regular_file_are_refused(tmp_path: Path) -> None:
    """A FIFO must not stop the daemon for ever."""
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path, complaint in (
        (tmp_path / "fifo", "no regular file"),
        (tmp_path, "cannot read the secrets"),
        (tmp_path / "none", "cannot read the secrets: No such file"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            read_secrets(str(path))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", r"needs a table \[\[chap\]\] for each user"),
        ("chap = []\n", r"needs a table \[\[chap\]\]"),
        ("chap = 3\n", r"needs a table \[\[chap\]\]"),
        ("chap = [3]\n", r"chap\[1\]: must be a table"),
        ('[mutual]\nuser = "t"\nsecret = "0123456789ab"\n', r"needs a table \[\[chap\]\]"),
        (ONE + "[other]\n", "unknown table 'other'"),
        (ONE + "mutual = 3\n", r"chap\[1\]: unknown key 'mutual'"),
        ("mutual = 3\n" + ONE, "mutual: must be a table"),
        ('[[chap]]\nuser = "u"\n', r"chap\[1\]: needs a secret, a string"),
        ('[[chap]]\nsecret = "0123456789ab"\n', r"chap\[1\]: needs a user"),
        ('[[chap]]\nuser = ""\nsecret = "0123456789ab"\n', r"chap\[1\]: must be printable"),
        (f'[[chap]]\nuser = "{"u" * 256}"\nsecret = "0123456789ab"\n', "user: at most 255"),
        (ONE + "initiator = 3\n", "initiator: must be a string"),
        (ONE + 'initiator = "a b"\n', r"chap\[1\]: "),
        (ONE + 'password = "x"\n', r"chap\[1\]: unknown key 'password'"),
        ('[[chap]]\nuser = "u"\nsecret = "0123456789a"\n', "12 to 255 bytes, not 11"),
        (f'[[chap]]\nuser = "u"\nsecret = "{"x" * 256}"\n', "12 to 255 bytes, not 256"),
        (ONE + ONE, "a user is there twice"),
        (ONE + '[mutual]\nuser = "t"\nsecret = "0123456789ab"\n', "another one for each direction"),
        (ONE + '[mutual]\nuser = "t"\nsecret = "ba9876543210"\ninitiator = "iqn.x:y"\n', "unknown"),
    ],
)
def test_secrets_that_are_wrong_are_refused_by_place(
    tmp_path: Path, text: str, complaint: str
) -> None:
    """RFC 7143 9.2.1: 96 bits at the least, and another secret for each direction."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_secrets(path)
    assert str(caught.value).startswith(path)


@pytest.mark.parametrize(
    "text",
    [
        f'[[chap]]\nuser = "u"\nsecret = "{SECRET}',
        f'[[chap]]\nuser = "u"\nsecret = {SECRET}\n',
        f'[[chap]]\nuser = "u"\nsecret = "{SECRET}" "x"\n',
        f'[[chap]]\nuser = 3\nsecret = "{SECRET}"\n',
        f'[[chap]]\nuser = "u"\nsecret = ["{SECRET}"]\n',
        f'[[chap]]\nuser = "\\u0007"\nsecret = "{SECRET}"\n',
    ],
)
def test_secret_is_in_no_message(tmp_path: Path, text: str) -> None:
    """A mistake in the file must not put it into a log."""
    with pytest.raises(ConfigError) as caught:
        read_secrets(write(tmp_path, text))
    assert SECRET not in f"{caught.value!r} {caught.value} {caught.value.remedy}"
    assert SECRET not in str(caught.value.__cause__)


def test_same_user_for_two_initiators_is_fine(tmp_path: Path) -> None:
    """One name, and a secret for each initiator."""
    text = ONE + 'initiator = "iqn.x:a"\n' + ONE + 'initiator = "iqn.x:b"\n'
    assert len(read_secrets(write(tmp_path, text)).initiators) == 2


def test_file_that_is_huge_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk image named by mistake costs no memory."""
    path = write(tmp_path, "")
    os.truncate(path, 1 << 40)
    monkeypatch.setattr(chap_file, "MAX_FILE", 1 << 10)
    assert MAX_FILE >= 1 << 16
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_secrets(path)
