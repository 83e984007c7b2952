"""Which targets there are, which LUNs they carry, and who sees them."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping

import attrs

from flockpr.block import Disk
from flockpr.errors import ConfigError
from flockpr.iscsi.memory import Usage
from flockpr.iscsi.settings import LunSettings
from flockpr.iscsi.tasks import TaskSet
from flockpr.store.identity import LunIdentity, target_name

log = logging.getLogger(__name__)

_NAME = re.compile(
    r"(iqn\.[0-9]{4}-[0-9]{2}\.[a-z0-9][a-z0-9.-]*(:[a-z0-9.:-]*)?)|(eui|naa)\.[0-9a-f]+"
)
_MOST_BYTES = 223


def check_target_name(name: str) -> str:
    """An iSCSI name in lower case, if it is one (RFC 7143 4.2.7).

    Raises:
        ConfigError: It is not.
    """
    name = name.lower()
    if not _NAME.fullmatch(name) or len(name) > _MOST_BYTES:
        raise ConfigError(
            f"{name!r} is no iSCSI name: iqn.YYYY-MM.reversed.domain:name, lower case letters, "
            f"digits, '.', '-' and ':', up to {_MOST_BYTES} characters"
        )
    return name


@attrs.frozen(eq=False)
class Lun:
    """One logical unit as it is served here.

    Attributes:
        identity: What `lun.json` said at the start.
        settings: Who sees it, and what a nexus is.
        disk: Executes its commands.
        tasks: Its task set.
        memory: How much of the memory for Data-Out its commands use.
    """

    identity: LunIdentity
    settings: LunSettings
    disk: Disk
    tasks: TaskSet
    memory: Usage

    @property
    def number(self) -> int:
        """Its logical unit number, the same in every target that carries it."""
        return self.identity.lun

    def offered(self, initiator: str, tag: int) -> bool:
        """Whether this initiator finds it behind the portals with this tag."""
        allowed = self.settings.initiators
        return tag in self.identity.target_ports and (allowed is None or initiator in allowed)


@attrs.frozen(eq=False)
class Target:
    """An iSCSI target: a name and the LUNs behind it."""

    name: str
    luns: Mapping[int, Lun]

    def visible(self, initiator: str, tag: int) -> dict[int, Lun]:
        """The LUNs that this initiator finds behind the portals with this tag, by number."""
        return {number: lun for number, lun in self.luns.items() if lun.offered(initiator, tag)}


class TargetMap:
    """All targets of a server. Thread-safe.

    Args:
        name: One target of this name carries all LUNs; None: each LUN has a target of its
            own, which has the same name on every host.
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = None if name is None else check_target_name(name)
        self._lock = threading.Lock()
        self._targets: dict[str, Target] = {}

    def add(self, lun: Lun) -> Target:
        """Let a target carry this LUN.

        Raises:
            ConfigError: Its number is taken there: `lun.json` was edited.
        """
        name = self._name or target_name(lun.identity)
        with self._lock:
            before = self._targets.get(name)
            luns = {} if before is None else dict(before.luns)
            if lun.number in luns:
                other = luns[lun.number].identity.name
                raise ConfigError(f"{lun.identity.name} and {other} both are LUN {lun.number}")
            luns[lun.number] = lun
            target = Target(name, luns)
            self._targets = {**self._targets, name: target}
            return target

    def remove(self, lun: Lun) -> None:
        """Let no target carry this LUN any more; one that has no other is gone."""
        with self._lock:
            targets: dict[str, Target] = {}
            for name, target in self._targets.items():
                luns = {number: each for number, each in target.luns.items() if each is not lun}
                if luns:
                    targets[name] = target if len(luns) == len(target.luns) else Target(name, luns)
            self._targets = targets

    def find(self, name: str) -> Target | None:
        """The target of this iSCSI name, in whatever case."""
        return self._targets.get(name.lower())

    def __iter__(self) -> Iterator[Target]:
        return iter(tuple(self._targets.values()))

    @property
    def luns(self) -> tuple[Lun, ...]:
        """Every LUN, once."""
        return tuple(lun for target in self._targets.values() for lun in target.luns.values())

    def carrier(self, name: str) -> Target | None:
        """The target that carries the LUN of this name."""
        for target in self._targets.values():
            if any(lun.identity.name == name for lun in target.luns.values()):
                return target
        return None

    def listed(self, initiator: str, tags: Iterable[int]) -> list[tuple[str, list[int]]]:
        """What SendTargets may tell this initiator: names, and the tags each is found behind.

        A target none of whose LUNs the initiator may see is not named: to be logged in to
        a target without LUNs helps nobody.
        """
        known = tuple(tags)
        found = (
            (target.name, [tag for tag in known if target.visible(initiator, tag)])
            for target in self._targets.values()
        )
        return [(name, behind) for name, behind in found if behind]
