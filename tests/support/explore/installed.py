"""The package as the processes of several hosts: with simulated time and threads, and with what
a process keeps in globals kept for each simulated host.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading as real_threading
from collections.abc import Iterator
from typing import Any, ClassVar
from unittest import mock

from flockpr import events
from flockpr.gate import aside, hosts, roster
from flockpr.store import chain, commits
from flockpr.store.document import decode
from tests.support import simworld
from tests.support.explore import stand_ins
from tests.support.explore.stand_ins import Lock
from tests.support.explore.tasks import me, simulated, taking_part


class OfHost(dict[Any, Any]):
    """What a module keeps for its process, as a dict: another one for each simulated host."""

    parts: ClassVar[list[OfHost]] = []

    def __init__(self) -> None:
        super().__init__()
        self._of: dict[str, dict[Any, Any]] = {}
        self.parts.append(self)

    def _mine(self) -> dict[Any, Any]:
        mine = me()
        outside = _acting[-1] if simulated() else "(another thread)"
        return self._of.setdefault(mine[1].host if mine is not None else outside, {})

    def forget(self) -> None:
        """All hosts have begun anew."""
        self._of.clear()

    def __getitem__(self, key: Any) -> Any:
        return self._mine()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._mine()[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._mine()[key]

    def __contains__(self, key: Any) -> bool:
        return key in self._mine()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._mine())

    def __len__(self) -> int:
        return len(self._mine())

    def get(self, key: Any, default: Any = None) -> Any:
        """As of dict."""
        return self._mine().get(key, default)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """As of dict."""
        return self._mine().setdefault(key, default)

    def pop(self, key: Any, *default: Any) -> Any:
        """As of dict."""
        return self._mine().pop(key, *default)

    def keys(self) -> Any:
        """As of dict."""
        return self._mine().keys()

    def values(self) -> Any:
        """As of dict."""
        return self._mine().values()

    def items(self) -> Any:
        """As of dict."""
        return self._mine().items()

    def clear(self) -> None:
        """As of dict."""
        self._mine().clear()

    # As a set:

    def add(self, key: Any) -> None:
        """As of set."""
        self._mine()[key] = True

    def discard(self, key: Any) -> None:
        """As of set."""
        self._mine().pop(key, None)


_acting = [""]


@contextlib.contextmanager
def acting(host: str) -> Iterator[None]:
    """What is done outside of a schedule is done by this host."""
    _acting.append(host)
    try:
        yield
    finally:
        _acting.pop()


_LOCKS = (type(real_threading.Lock()), type(real_threading.RLock()))


def _instead(name: str, value: object) -> object | None:
    """What a module of a simulated process sees in the place of a global, if anything else."""
    if name in stand_ins.INSTEAD and value is sys.modules.get(name):
        return stand_ins.INSTEAD[name]
    if isinstance(value, _LOCKS):
        return Lock()
    if name.startswith("_") and name.islower() and type(value) in (dict, set):
        return OfHost()
    return None


def _nothing(*_: object, **__: object) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


_TOLD: tuple[tuple[Any, str, Any], ...] = (
    (events, "_happened", lambda *_: None),
    (roster, "announce", lambda *_, **__: False),
    (roster, "waiting", _nothing),
    (roster, "name_of", lambda *_: "a host"),
    (hosts, "BOOT_ID", "/nonexistent/boot_id"),
    # The thread that takes a permit makes its calls in the place of who waits for it.
    (aside, "within", lambda work, _: work()),
)


@contextlib.contextmanager
def installed(packages: tuple[str, ...]) -> Iterator[None]:
    """The modules of these packages see this time and these threads, and what they keep for
    their process they keep for each simulated host.
    """
    with contextlib.ExitStack() as stack:
        for name, module in sorted(sys.modules.items()):
            if not name.startswith(packages) or module is None:
                continue
            for attribute, value in list(vars(module).items()):
                instead = None if attribute.startswith("__") else _instead(attribute, value)
                if instead is not None:
                    stack.enter_context(mock.patch.object(module, attribute, instead))
        stack.callback(OfHost.parts.clear)
        # What is only told to people, and a boot id, which orders hosts by chance.
        for owner, name, instead in _TOLD:
            stack.enter_context(mock.patch.object(owner, name, instead))
        for module in (chain, commits, simworld):  # documents never change, and are few
            cached = functools.lru_cache(maxsize=4096)(decode)
            stack.enter_context(mock.patch.object(module, "decode", cached))
        stack.enter_context(taking_part())
        yield


def fresh() -> None:
    """All hosts begin anew, as in every schedule."""
    stand_ins.begin_anew()
    for part in OfHost.parts:
        part.forget()
