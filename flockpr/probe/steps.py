"""The experiments. Each is a function of two actors and says what was wrong, or nothing.

The same function serves two processes of this host and two hosts. One that raises is judged
by its caller: an `OSError` is bad, and no answer is not known.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from flockpr.probe.helpers import Actor, Helper, ask
from flockpr.probe.operations import KINDS
from flockpr.store.layout import LOCK_BASE

BYTE: Final = LOCK_BASE + 0x1000
"""As far out as the store's own lock bytes."""
SLOTS: Final = 32
EDITIONS: Final = 40
ROUNDS: Final = 5
_PAUSE: Final = 0.05

Try = tuple[int, str, int, bool, str]

_EXCLUSION: Final[tuple[Try, ...]] = (
    (0, "write", BYTE, True, "a byte that nobody has is refused"),
    (1, "write", BYTE, False, "both have the same byte exclusively"),
    (1, "read", BYTE, False, "one has a byte shared that the other has exclusively"),
    (1, "ask", BYTE, True, "a lock is not seen by whoever asks for it"),
    (0, "none", BYTE, True, ""),
    (0, "read", BYTE, True, "a byte that nobody has is refused to a reader"),
    (1, "read", BYTE, True, "two cannot share a byte"),
    (1, "write", BYTE, False, "one has a byte exclusively that the other shares"),
    (1, "none", BYTE, True, ""),
    (0, "none", BYTE, True, ""),
    (1, "write", BYTE, True, "a byte that was given back is refused"),
    (1, "none", BYTE, True, ""),
)
_RANGES: Final[tuple[Try, ...]] = (
    (0, "write", BYTE, True, "a byte that nobody has is refused"),
    (1, "write", BYTE + 1, True, "locks of different bytes conflict: it locks whole files"),
    (1, "none", BYTE + 1, True, ""),
    (0, "none", BYTE, True, ""),
)


@attrs.frozen
class Scene:
    """What a step works with.

    Attributes:
        one: An actor.
        other: Another one, or the same for two descriptions of one process.
        tag: Begins the names of its files; no two steps have the same.
        limit: Seconds that waiting inside an operation may take.
    """

    one: Actor
    other: Actor
    tag: str
    limit: float


@contextlib.contextmanager
def _handles(scene: Scene) -> Iterator[tuple[tuple[Actor, int], tuple[Actor, int]]]:
    name = f"{scene.tag}-lock"
    mine = ask(scene.one, "open", name=name)
    try:
        theirs = ask(scene.other, "open", name=name)
        try:
            yield (scene.one, mine), (scene.other, theirs)
        finally:
            ask(scene.other, "close", handle=theirs)
    finally:
        ask(scene.one, "close", handle=mine)


def _play(scene: Scene, tries: tuple[Try, ...]) -> str:
    with _handles(scene) as pair:
        for who, kind, start, expected, complaint in tries:
            actor, handle = pair[who]
            if kind in KINDS:
                answer = ask(actor, "lock", handle=handle, kind=kind, start=start)
            else:
                answer = ask(actor, "locked", handle=handle, start=start)
            if complaint and answer != expected:
                return complaint
    return ""


def exclusion(scene: Scene) -> str:
    """Locks exclude and share as fcntl(2) says."""
    return _play(scene, _EXCLUSION)


def ranges(scene: Scene) -> str:
    """Locks of different bytes have nothing to do with each other."""
    return _play(scene, _RANGES)


def kept_at_close(scene: Scene) -> str:
    """A lock outlives the close of another descriptor of its file."""
    with _handles(scene) as ((one, mine), (other, theirs)):
        second = ask(one, "open", name=f"{scene.tag}-lock")
        taken = ask(one, "lock", handle=mine, kind="write", start=BYTE)
        ask(one, "close", handle=second)
        if not taken:
            return "a byte that nobody has is refused"
        if ask(other, "lock", handle=theirs, kind="write", start=BYTE):
            return "a lock is lost when another descriptor of the file is closed"
    return ""


def freed_by_death(scene: Scene, victim: Helper) -> str:
    """A process that is killed has no locks any more."""
    name = f"{scene.tag}-lock"
    ask(victim, "lock", handle=ask(victim, "open", name=name), kind="write", start=BYTE)
    handle = ask(scene.one, "open", name=name)
    try:
        if ask(scene.one, "lock", handle=handle, kind="write", start=BYTE):
            return "both have the same byte exclusively"
        victim.kill()
        deadline = time.monotonic() + scene.limit
        while not ask(scene.one, "lock", handle=handle, kind="write", start=BYTE):
            if time.monotonic() > deadline:
                return "the lock of a process that was killed stays"
            time.sleep(_PAUSE)
    finally:
        ask(scene.one, "close", handle=handle)
    return ""


def beside_flock(scene: Scene) -> str:
    """Whether flock is a lock of its own."""
    with _handles(scene) as ((one, mine), (other, theirs)):
        ask(one, "flock", handle=mine)
        if ask(other, "lock", handle=theirs, kind="write", start=BYTE):
            return ""
    return "flock and locks of bytes conflict: one is made of the other"


def link_once(scene: Scene) -> str:
    """Of many who link the same name one wins, and the others are told."""
    source, target = f"{scene.tag}-new", f"{scene.tag}-taken"
    ask(scene.one, "write", name=target, text="first")
    ask(scene.other, "write", name=source, text="second")
    linked = ask(scene.other, "link", source=source, target=target)
    if linked or ask(scene.one, "read", name=target) != "first":
        return "link to a name that is taken does not fail with EEXIST"
    racers = {f"{scene.tag}-a": scene.one, f"{scene.tag}-b": scene.other}
    for who, actor in racers.items():
        actor.start("race", tag=scene.tag, who=who, rivals=2, slots=SLOTS, limit=scene.limit)
    won = {who: set(actor.finish()) for who, actor in racers.items()}
    first, second = won.values()
    if first & second:
        return f"{len(first & second)} of {SLOTS} names were linked by both, and both succeeded"
    if len(first | second) != SLOTS:
        return f"{SLOTS - len(first | second)} of {SLOTS} names were linked by nobody"
    for who, slots in won.items():
        for slot in slots:
            if ask(scene.one, "read", name=f"{scene.tag}-slot-{slot}") != who:
                return f"a name that {who} linked leads to something else"
    return ""


def replaced_whole(scene: Scene) -> str:
    """Who reads a file that is being replaced reads whole ones, newer and newer."""
    name = f"{scene.tag}-file"
    scene.other.start("watch", name=name, count=EDITIONS, limit=scene.limit)
    try:
        ask(scene.one, "replace", name=name, count=EDITIONS)
    finally:
        complaint = str(scene.other.finish())
    return complaint


def seen_when_made(scene: Scene) -> str:
    """A name that was looked for in vain is found as soon as it is there."""
    for number in range(ROUNDS):
        maker, looker = (scene.one, scene.other)[:: 1 if number % 2 else -1]
        name = f"{scene.tag}-name-{number}"
        ask(maker, "write", name=f"{name}.aside", text=name)
        if ask(looker, "read", name=name) is not None:
            return "a name is there that nobody made"
        ask(maker, "link", source=f"{name}.aside", target=name)
        if name not in ask(looker, "names"):
            return "a new name is not listed, although the directory was opened anew"
        if ask(looker, "read", name=name) != name:
            return "a new name is not found, although the directory was opened anew"
    return ""


def synced(scene: Scene) -> str:
    """A directory can be synchronized."""
    ask(scene.one, "sync")
    return ""


def direct(scene: Scene) -> str:
    """Reads and writes can pass the page cache by."""
    return "" if ask(scene.one, "direct", name=f"{scene.tag}-file") else "there is no O_DIRECT"


def hole(scene: Scene) -> str:
    """Whether freed blocks are given back."""
    try:
        ask(scene.one, "hole", name=f"{scene.tag}-file")
    except OSError as error:
        return f"no holes can be made: {error.strerror}; what a guest frees is zeroed instead"
    return ""


Step = Callable[[Scene], str]

LOCAL: Final[tuple[tuple[str, Step], ...]] = (
    ("lock-processes", exclusion),
    ("lock-ranges", ranges),
    ("lock-close", kept_at_close),
    ("link", link_once),
    ("rename", replaced_whole),
    ("revalidation", seen_when_made),
    ("sync", synced),
    ("direct", direct),
)
"""Of two processes of one host, by the name of their finding."""
NOTED: Final[tuple[tuple[str, Step], ...]] = (("flock", beside_flock), ("hole", hole))
"""Likewise; they harm nobody."""
ACROSS: Final[tuple[tuple[str, Step], ...]] = (
    ("lock-hosts", exclusion),
    ("lock-ranges-hosts", ranges),
    ("lock-close-hosts", kept_at_close),
    ("link-hosts", link_once),
    ("rename-hosts", replaced_whole),
    ("revalidation-hosts", seen_when_made),
)
"""Of two hosts, each host once in each part."""
