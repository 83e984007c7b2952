"""What a probe found, kept for those who serve there: a file in the directory for each host.

Two results are kept, the newest alone and the newest with a second host, which takes the place of
one alone, since it has tried all of that as well. Who reads them goes by them only while the
mount is the one that was probed, and only by steps that were *seen* to fail: a server that did
not answer on the day of the probe is no reason to serve nobody today.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from flockpr.filesystems import facts
from flockpr.filesystems.facts import Sources
from flockpr.filesystems.mounts import Mount
from flockpr.filesystems.rules import TIERS
from flockpr.store.clock import utc_now
from flockpr.store.strict import Malformed, Reader, loads

if TYPE_CHECKING:
    from flockpr.probe.report import Report

log = logging.getLogger(__name__)

PREFIX: Final = ".flockpr-probed-"
FORMAT: Final = 1
MOST: Final = 1 << 20
"""Bytes of such a file."""
_KINDS: Final = ("alone", "pair")
_NO_MATTER: Final = frozenset({"rw", "relatime", "noatime", "nodiratime", "strictatime"})
_OF_THE_MOMENT: Final = frozenset({"addr", "clientaddr", "mountaddr", "mountport", "port"})
"""Options whose values differ when the same is mounted again."""


@attrs.frozen
class Result:
    """What came of one probe.

    Attributes:
        time: When, UTC.
        hosts: Names of those who took part.
        mount: What it was about, see `identity`.
        verdicts: Of each tier, as the probe printed it.
        failed: Of each tier, what was seen to be wrong and speaks against it.
    """

    time: str
    hosts: tuple[str, ...]
    mount: tuple[str, ...]
    verdicts: Mapping[str, str]
    failed: Mapping[str, tuple[str, ...]]


@attrs.frozen
class Kept:
    """What this host keeps of a directory.

    Attributes:
        path: Of the file.
        results: The newest first; one or two.
        mount: What is mounted there now, see `identity`.
    """

    path: str
    results: tuple[Result, ...]
    mount: tuple[str, ...]

    def current(self, result: Result) -> bool:
        """Whether it is about what is mounted now."""
        return result.mount == self.mount != ()

    def failed(self, tier: str) -> tuple[str, ...]:
        """What was seen to be wrong with what is mounted now, and when."""
        return tuple(
            f"{what} ({result.time})"
            for result in self.results
            if self.current(result)
            for what in result.failed[tier]
        )

    def to_json(self) -> list[dict[str, Any]]:
        """The array `probes` of `--json` documents."""
        return [
            {
                "time": result.time,
                "hosts": list(result.hosts),
                "current": self.current(result),
                **{tier: result.verdicts[tier] for tier in TIERS},
            }
            for result in self.results
        ]


def identity(mount: Mount | None) -> tuple[str, ...]:
    """What tells a mount from another one: type, source, and the options that matter. Empty
    where it is not known, and then it is like no other.
    """
    if mount is None:
        return ()
    options = {
        one
        for one in mount.options
        if one not in _NO_MATTER and one.partition("=")[0] not in _OF_THE_MOMENT
    }
    return (mount.kind, mount.source, *sorted(options))


def keep(report: Report) -> bool:
    """Keep what a probe on this host found.

    Returns:
        False if it is not worth it: not everything was found out.

    Raises:
        OSError: It cannot be written.
    """
    if not report.whole:
        return False
    path, host = _path(report.directory), os.uname().nodename
    mount = next((one.facts.mount for one in report.hosts if one.name == host), None)
    result = Result(
        utc_now(),
        tuple(one.name for one in report.hosts),
        identity(mount),
        {tier: answer.value for tier, answer in report.answers().items()},
        {tier: report.failed(tier) for tier in TIERS},
    )
    document: dict[str, Any] = {"format": FORMAT, "alone": None, "pair": None}
    if not report.with_second_host:
        with contextlib.suppress(OSError, Malformed):
            document["pair"] = _load(path).raw("pair")
    kind = "pair" if report.with_second_host else "alone"
    document[kind] = {**attrs.asdict(result), "report": report.to_json()}
    _replace(path, (json.dumps(document, indent=1) + "\n").encode())
    return True


def _replace(path: str, data: bytes) -> None:
    aside = f"{path}.{secrets.token_hex(4)}"
    try:
        # For whoever serves there, whoever probed it; there is nothing secret in it.
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o644)
            file.write(data)
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise


def forget(directory: str) -> bool:
    """Remove what this host keeps of a directory; whether there was anything.

    Raises:
        OSError: It cannot be removed.
    """
    try:
        os.unlink(_path(directory))
    except FileNotFoundError:
        return False
    return True


def find(root: str, sources: Sources | None = None) -> Kept | None:
    """What this host keeps of a root, or else of a directory above it on the same file system:
    the nearest that is about what is mounted now, or else the nearest.
    Never raises: what cannot be read is logged, and as good as nothing.

    Args:
        root: The root.
        sources: Where the host tells about itself.
    """
    nearest: Kept | None = None
    try:
        for directory in _upwards(root):
            path = _path(directory)
            if not os.path.lexists(path):
                continue
            found = _read(path, facts.facts_of(directory, sources=sources).mount)
            if found is not None and any(map(found.current, found.results)):
                return found
            nearest = nearest or found
    except (OSError, Malformed) as error:
        log.warning("%s: what a probe found cannot be read: %s", root, error)
    return nearest


def _upwards(root: str) -> Iterator[str]:
    """It, and what is above it on its file system."""
    directory = os.path.realpath(root)
    device = os.stat(directory).st_dev
    while os.stat(directory).st_dev == device:
        yield directory
        above = os.path.dirname(directory)
        if above == directory:
            return
        directory = above


def _path(directory: str) -> str:
    host = os.uname().nodename
    digest = hashlib.sha256(host.encode(errors="surrogateescape")).hexdigest()
    return os.path.join(directory, f"{PREFIX}{digest[:16]}.json")


def _load(path: str) -> Reader:
    # A pipe of that name must hang nobody.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        reader = Reader(loads(file.read(MOST)), "document")
    reader.integer("format", FORMAT, FORMAT)
    return reader


def _read(path: str, mount: Mount | None) -> Kept | None:
    reader = _load(path)
    found = [_result(one) for kind in _KINDS if (one := reader.optional_child(kind)) is not None]
    found.sort(key=lambda result: result.time, reverse=True)
    return Kept(path, tuple(found), identity(mount)) if found else None


def _result(reader: Reader) -> Result:
    verdicts, failed = reader.child("verdicts"), reader.child("failed")
    return Result(
        time=reader.string("time", most=40),
        hosts=reader.strings("hosts", 16),
        mount=reader.strings("mount", 1000, longest=4096),
        verdicts={tier: verdicts.string(tier) for tier in TIERS},
        failed={tier: failed.strings(tier, 1000, longest=4096) for tier in TIERS},
    )
