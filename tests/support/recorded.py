"""What a real process writes and syncs, recorded, and what a power cut leaves of it.

For software whose system calls cannot be replaced: strace records a run on a real file system,
and the run is played again in memory. Of each file there is what is on stable storage and what
was written since; a power cut keeps any part of the latter, sector by sector.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence

import attrs

from tests.support.daemon_process import PATIENCE, REPOSITORY, environment
from tests.support.peers import require, unavailable
from tests.support.strace import Call, parse

SECTOR = 512
_CALLS = (
    *("openat", "pwrite64", "pwritev", "write", "fdatasync", "fsync", "ftruncate", "fallocate"),
    *("unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "mmap"),
)
_BYTES = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR = re.compile(r"\d+<([^>]*)>")
_OFFSET = re.compile(r", (\d+), (\d+)$")


@attrs.frozen
class Write:
    """Bytes that were written to a file."""

    path: str
    offset: int
    data: bytes


@attrs.frozen
class Resize:
    """A file was made shorter, or longer by zeros."""

    path: str
    size: int


@attrs.frozen
class Sync:
    """A file or a directory was synced."""

    path: str


@attrs.frozen
class Make:
    """A file was opened, and made if it was not there."""

    path: str


@attrs.frozen
class Remove:
    """A name was removed."""

    path: str


@attrs.frozen
class Mark:
    """The process said something."""

    text: str


Change = Write | Resize
Step = Change | Sync | Make | Remove | Mark


def record(command: Sequence[str], output: str, mark: str, files: Sequence[str]) -> list[Step]:
    """Run a program to its end; what it did to some files, in order.

    Args:
        command: The program.
        output: File for the trace.
        mark: File to which it writes what it has to say.
        files: Names, without directories, of the files that matter. Whatever cannot be played
            again (a new one, a removed one, a shorter one) is an AssertionError.
    """
    strace = require("strace")["strace"]
    tracing = [strace, "-f", "-yy", "-xx", "-s", "100000", "-o", output]
    tracing += ["-e", "trace=" + ",".join(_CALLS)]
    done = subprocess.run(
        [*tracing, *command],
        env=environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    if "not permitted" in done.stderr:
        unavailable(f"strace may not trace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    with open(output, encoding="ascii", errors="replace") as file:
        return list(_steps(parse(file.readlines()), mark, frozenset(files)))


def _steps(calls: Sequence[Call], mark: str, files: frozenset[str]) -> Iterator[Step]:
    for call in calls:
        if not call.done:
            continue
        found = _DESCRIPTOR.match(call.arguments)
        path = _plain(found[1]) if found else ""
        named = [_plain(text) for text in _strings(call)]
        ours = [name for name in named if os.path.basename(name) in files]
        if path == mark and call.name == "write":
            yield Mark(_data(call).decode())
        elif call.name in ("fdatasync", "fsync"):
            yield Sync(path)
        elif os.path.basename(path) in files:
            yield _written(call, path)
        elif ours and call.name == "openat":
            assert "O_TRUNC" not in call.arguments, call
            if "O_CREAT" in call.arguments:
                yield Make(ours[0])
        elif ours and call.name == "unlink":
            yield Remove(ours[0])
        else:
            assert not ours, f"{call.name} cannot be played again"


def _written(call: Call, path: str) -> Step:
    if call.name == "ftruncate":
        return Resize(path, int(call.arguments.rpartition(", ")[2]))
    assert call.name == "pwrite64", f"{call.name} cannot be played again"
    data = _data(call)
    found = _OFFSET.search(call.arguments)
    assert found is not None
    assert int(found[1]) == len(data) == int(call.result)
    return Write(path, int(found[2]), data)


def _strings(call: Call) -> list[str]:
    return [match[0] for match in re.finditer(r'"[^"]*"', call.arguments)]


def _plain(text: str) -> str:
    """A string of strace's, whose characters may all be written as hexadecimal numbers."""
    text = text.strip('"')
    if text.startswith("\\x"):
        return bytes.fromhex(text.replace("\\x", "")).decode(errors="surrogateescape")
    return text


def _data(call: Call) -> bytes:
    found = _BYTES.search(call.arguments)
    assert found is not None, call
    return bytes.fromhex(found[1].replace("\\x", ""))


@attrs.define
class Disk:
    """Files as they are seen, and as a power cut may leave them.

    Attributes:
        names: By path, which file it is.
        kept: The same on stable storage.
        changes: Names that changed since, in order; None: removed.
        stable: By file, what of it is on stable storage.
        pending: By file, what was written since, in order.
    """

    names: dict[str, int]
    kept: dict[str, int]
    changes: list[tuple[str, int | None]]
    stable: dict[int, bytes]
    pending: dict[int, list[Change]]

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Disk:
        """One on which all is stable."""
        names = {path: number for number, path in enumerate(files)}
        return cls(names, dict(names), [], dict(enumerate(files.values())), {})

    def copy(self, before: str = "", after: str = "") -> Disk:
        """Another one of the same, below another path if there is one."""

        def moved(path: str) -> str:
            return after + path.removeprefix(before)

        return Disk(
            {moved(path): file for path, file in self.names.items()},
            {moved(path): file for path, file in self.kept.items()},
            [(moved(path), file) for path, file in self.changes],
            dict(self.stable),
            {file: list(some) for file, some in self.pending.items()},
        )

    def do(self, step: Step) -> None:
        """Play one step."""
        match step:
            case Write(path) | Resize(path):
                self.pending.setdefault(self.names[path], []).append(step)
            case Make(path) if path not in self.names:
                self.stable[len(self.stable)] = b""
                self._name(path, len(self.stable) - 1)
            case Remove(path):
                self._name(path, None)
            case Sync(path) if path in self.names:
                file = self.names[path]
                self.stable[file] = self._seen(file)
                self.pending.pop(file, None)
            case Sync(path):
                for name, changed in self.changes:
                    if os.path.dirname(name) == path:
                        _change(self.kept, name, changed)
                self.changes = [one for one in self.changes if os.path.dirname(one[0]) != path]

    def _name(self, path: str, file: int | None) -> None:
        _change(self.names, path, file)
        self.changes.append((path, file))

    def _seen(self, file: int) -> bytes:
        return _apply(self.stable[file], self.pending.get(file, ()))

    def seen(self) -> dict[str, bytes]:
        """What any process of this host reads, by path."""
        return {path: self._seen(file) for path, file in self.names.items()}

    def cut(self, keep: str, chance: random.Random) -> dict[str, bytes]:
        """What is there after a power cut, by path.

        Args:
            keep: Of what was not synced: "nothing", "everything", any "writes", any "sectors",
                or the "first" ones only. Of names, that changed, the first ones stay or none.
            chance: Decides which.
        """
        names = dict(self.kept)
        lasting = {"nothing": 0, "everything": len(self.changes)}
        most = lasting.get(keep, chance.randrange(len(self.changes) + 1))
        for path, changed in self.changes[:most]:
            _change(names, path, changed)
        return {
            path: _apply(self.stable[file], _kept(self.pending.get(file, []), keep, chance))
            for path, file in names.items()
        }


def _change(names: dict[str, int], path: str, file: int | None) -> None:
    if file is None:
        names.pop(path, None)
    else:
        names[path] = file


KEEPS = ("nothing", "everything", "writes", "sectors", "first")


def _kept(some: Sequence[Change], keep: str, chance: random.Random) -> Sequence[Change]:
    match keep:
        case "nothing":
            return ()
        case "everything":
            return some
        case "writes":
            return [one for one in some if chance.random() < 0.5]
        case "first":
            return some[: chance.randrange(len(some) + 1)]
    return [part for one in some for part in _sectors(one) if chance.random() < 0.5]


def _sectors(one: Change) -> Iterator[Change]:
    if isinstance(one, Resize):
        yield one
        return
    start, end = one.offset, one.offset + len(one.data)
    while start < end:
        stop = min(end, (start // SECTOR + 1) * SECTOR)
        yield Write(one.path, start, one.data[start - one.offset : stop - one.offset])
        start = stop


def _apply(data: bytes, some: Sequence[Change]) -> bytes:
    if not some:
        return data
    result = bytearray(data)
    for one in some:
        if isinstance(one, Resize):
            result = result[: one.size] + bytes(max(0, one.size - len(result)))
            continue
        end = one.offset + len(one.data)
        if end > len(result):
            result += bytes(end - len(result))
        result[one.offset : end] = one.data
    return bytes(result)
