"""The secrets of CHAP: a file of their own, for its owner only.

::

    [[chap]]                                          # what an initiator proves
    user = "db1"
    secret = "at least twelve bytes"
    initiator = "iqn.2026-11.org.example:db1"         # optional: who may use it

    [mutual]                                          # what the target proves when asked
    user = "target"
    secret = "another one, also that long"
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

import attrs

from flockpr.daemon.schema import check_filled, check_iscsi_name
from flockpr.errors import ConfigError
from flockpr.iscsi.settings import ChapAccount

SHORTEST, LONGEST = 12, 255
"""Bytes of a secret: RFC 7143 9.2.1 wants 96 random bits where nothing encrypts."""
MAX_FILE = 1 << 20

_REMEDY = "docs/target.md shows such a file; `chmod 600` makes it its owner's alone"


@attrs.frozen
class Secrets:
    """What a file of secrets holds.

    Attributes:
        initiators: What an initiator proves, one of these; none: it need not.
        target: What the target proves to an initiator that asks it to.
    """

    initiators: tuple[ChapAccount, ...] = ()
    target: ChapAccount | None = None


def read_secrets(path: str) -> Secrets:
    """Read a file of secrets.

    Raises:
        ConfigError: It cannot be read, others could read it, or its contents are wrong. No
            message shows a secret.
    """
    import tomllib

    data = _read(path)
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        # Without the parser's words: they quote the line.
        raise ConfigError(f"{path}: not valid TOML", _REMEDY) from None
    unknown = document.keys() - {"chap", "mutual"}
    if unknown:
        raise ConfigError(f"{path}: unknown table {min(unknown)!r}", _REMEDY)
    entries = document.get("chap", [])
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: needs a table [[chap]] for each user", _REMEDY)
    initiators = tuple(
        _secret(entry, f"{path}: chap[{number}]", {"user", "secret", "initiator"})
        for number, entry in enumerate(entries, 1)
    )
    target = document.get("mutual")
    own = None if target is None else _secret(target, f"{path}: mutual", {"user", "secret"})
    _check_together(path, initiators, own)
    return Secrets(initiators, own)


def _read(path: str) -> bytes:
    try:
        # Non-blocking: a FIFO in the place of the file must not stop the daemon for ever.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            _check_private(path, os.fstat(file.fileno()))
            return file.read(MAX_FILE)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the secrets: {error.strerror}", _REMEDY) from error


def _check_private(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path}: the file of secrets is no regular file", _REMEDY)
    # systemd's LoadCredential= gives a service user access by an ACL, which shows as the
    # group's bits of a file that belongs to root and root's group.
    others = 0o027 if (status.st_uid, status.st_gid) == (0, 0) else 0o077
    if status.st_mode & others:
        raise ConfigError(
            f"{path}: others than its owner can use these secrets (mode "
            f"{stat.S_IMODE(status.st_mode):04o})",
            _REMEDY,
        )
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{path}: belongs to user {status.st_uid}, who could change it", _REMEDY)


def _secret(entry: Any, where: str, known: set[str]) -> ChapAccount:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where}: must be a table", _REMEDY)
    unknown = entry.keys() - known
    if unknown:
        raise ConfigError(f"{where}: unknown key {min(unknown)!r}", _REMEDY)
    for name in ("user", "secret"):
        if not isinstance(entry.get(name), str):
            raise ConfigError(f"{where}: needs a {name}, a string", _REMEDY)
    secret = entry["secret"].encode()
    if not SHORTEST <= len(secret) <= LONGEST:
        raise ConfigError(
            f"{where}: a secret has {SHORTEST} to {LONGEST} bytes, not {len(secret)}", _REMEDY
        )
    initiator = entry.get("initiator")
    try:
        check_filled(entry["user"])
        if len(entry["user"].encode()) > LONGEST:
            raise ValueError(f"user: at most {LONGEST} bytes")
        if initiator is not None:
            if not isinstance(initiator, str):
                raise ValueError("initiator: must be a string")
            check_iscsi_name(initiator)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}", _REMEDY) from None
    return ChapAccount(
        user=entry["user"],
        secret=secret,
        initiator=None if initiator is None else initiator.lower(),
    )


def _check_together(
    path: str, initiators: tuple[ChapAccount, ...], own: ChapAccount | None
) -> None:
    names = [(each.user, each.initiator) for each in initiators]
    if len(set(names)) < len(names):
        raise ConfigError(f"{path}: a user is there twice for the same initiator", _REMEDY)
    if own is not None and any(each.secret == own.secret for each in initiators):
        # Whoever knows an initiator's secret could pass for the target.
        raise ConfigError(
            f"{path}: mutual: the target's secret is an initiator's, too; RFC 7143 9.2.1 wants "
            "another one for each direction",
            _REMEDY,
        )
