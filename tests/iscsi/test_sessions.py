"""Who may open a session, whose place it takes, and when one is over."""

from __future__ import annotations

import threading
from typing import Any, cast

import attrs
import pytest

from flockpr.block import Disk
from flockpr.core.model import Nexus
from flockpr.errors import ConfigError
from flockpr.iscsi.login import LoginStatus
from flockpr.iscsi.memory import Usage
from flockpr.iscsi.sessions import Request, Session, SessionRegistry
from flockpr.iscsi.settings import Limits, LunSettings
from flockpr.iscsi.targets import Lun, TargetMap, check_target_name
from flockpr.iscsi.tasks import Ending, Line, Task, TaskSet
from flockpr.store.identity import LunIdentity, target_name

PATIENCE = 60.0
ALICE = "iqn.2026-01.org.example:alice"
BOB = "iqn.2026-01.org.example:bob"


class FakeDisk:
    """Notes who is attached."""

    def __init__(self) -> None:
        self.attached: list[Nexus] = []
        self.full = False

    def attach(self, nexus: Nexus, *, target_name: str) -> Nexus:
        assert target_name.startswith("iqn.")
        if self.full:
            raise RuntimeError("can't start new thread")
        self.attached.append(nexus)
        return nexus

    def detach(self, nexus: Nexus) -> None:
        self.attached.remove(nexus)


class Client:
    """A connection and its tasks: notes that it was broken; executes when it may."""

    def __init__(self) -> None:
        self.broken = threading.Event()
        self.go = threading.Event()
        self.gone = False

    def lost(self) -> bool:
        return self.gone

    def superseded(self) -> None:
        self.broken.set()

    def dropped(self) -> None:
        self.broken.set()

    def execute(self, task: Task) -> None:
        assert self.go.wait(PATIENCE)

    def ended(self, task: Task, ending: Ending) -> None:
        pass


def lun(name: str = "disk", number: int = 0, **settings: Any) -> Lun:
    """A LUN whose disk is a `FakeDisk`."""
    identity = LunIdentity(
        name=name,
        incarnation="0" * 32,
        naa=f"naa.3{number:015x}",
        serial="s",
        lun=number,
        created="",
        image="images/x.img",
        target_ports=(1, 2, 3),
    )
    tasks = TaskSet(name, workers=2, most=16, most_each=16)
    return Lun(identity, LunSettings(**settings), cast("Disk", FakeDisk()), tasks, Usage(1 << 20))


@attrs.frozen
class World:
    """A registry over some LUNs."""

    targets: TargetMap
    registry: SessionRegistry
    luns: tuple[Lun, ...]

    @classmethod
    def of(cls, *luns: Lun, name: str | None = None, **limits: Any) -> World:
        """A world of these LUNs."""
        targets = TargetMap(name)
        for each in luns:
            targets.add(each)
        return cls(targets, SessionRegistry(targets, Limits(**limits)), luns)

    def request(
        self, initiator: str = ALICE, isid: int = 1, tsih: int = 0, tag: int = 2, index: int = 0
    ) -> Request:
        """A login to the target of one LUN."""
        name = next(t.name for t in self.targets if self.luns[index] in t.luns.values())
        return Request(initiator, isid, tsih, name, tag)

    def login(self, client: Client, **request: Any) -> Session | LoginStatus:
        """Log in."""
        return self.registry.open(self.request(**request), client, client)

    def attached(self, index: int = 0) -> list[Nexus]:
        """Who is attached to the disk of one LUN."""
        return cast("FakeDisk", self.luns[index].disk).attached


def opened(found: Session | LoginStatus) -> Session:
    """A session, and no refusal."""
    assert isinstance(found, Session), found
    return found


def test_login_attaches_the_nexus_of_the_portal() -> None:
    """The nexus is the initiator's name and the portal's tag; the ISID is left out."""
    world = World.of(lun())
    opened(world.login(Client(), tag=3))
    (nexus,) = world.attached()
    assert (nexus.initiator_port.text, nexus.target_port) == (ALICE, 3)


def test_login_with_isid_in_the_nexus_is_the_nexus_of_the_standard() -> None:
    """RFC 7143 3.4.1.5: nexus = "name+isid" keeps sessions of one initiator apart."""
    world = World.of(lun(nexus="name+isid"))
    opened(world.login(Client(), isid=0x0123456789AB))
    (nexus,) = world.attached()
    assert nexus.initiator_port.text == f"{ALICE},i,0x0123456789ab"


def test_login_to_unknown_target_is_refused() -> None:
    """RFC 7143 11.13.5: 0203, not found."""
    world = World.of(lun())
    request = attrs.evolve(world.request(), target="iqn.2026-01.org.example:nobody")
    assert world.registry.open(request, Client(), Client()) is LoginStatus.TARGET_NOT_FOUND


def test_login_of_initiator_that_is_not_allowed_is_refused() -> None:
    """RFC 7143 11.13.5: 0202; who may is compared without regard to case."""
    world = World.of(lun(initiators=[ALICE.upper().replace("IQN", "iqn")]))
    opened(world.login(Client(), initiator=ALICE))
    assert world.login(Client(), initiator=BOB) is LoginStatus.AUTHORIZATION_FAILURE


def test_login_through_portal_that_does_not_offer_the_lun_is_refused() -> None:
    """A LUN whose lun.json does not list the portal's tag is not there."""
    world = World.of(lun())
    assert world.login(Client(), tag=9) is LoginStatus.AUTHORIZATION_FAILURE


def test_login_into_existing_session_is_refused() -> None:
    """MaxConnections=1: 0206 for a session of one's own, 020A for any other."""
    world = World.of(lun())
    session = opened(world.login(Client()))
    request = world.request(tsih=session.tsih)
    assert world.registry.check(request) is LoginStatus.TOO_MANY_CONNECTIONS
    request = world.request(tsih=session.tsih, initiator=BOB)
    assert world.registry.check(request) is LoginStatus.SESSION_DOES_NOT_EXIST
    request = world.request(tsih=session.tsih + 1)
    assert world.registry.check(request) is LoginStatus.SESSION_DOES_NOT_EXIST


def test_login_with_same_isid_reinstates_the_session() -> None:
    """RFC 7143 6.3.1: the old session is closed and the new one is another."""
    world = World.of(lun())
    old = Client()
    before = opened(world.login(old))
    after = opened(world.login(Client()))
    assert old.broken.is_set()
    assert before.over.is_set()
    assert after.tsih != before.tsih
    assert world.registry.all == (after,)
    assert len(world.attached()) == 1


def test_login_with_another_isid_or_tag_is_a_second_session() -> None:
    """RFC 7143 6.3.1: only name, ISID and portal group together are one session."""
    world = World.of(lun())
    first = Client()
    opened(world.login(first, isid=1))
    opened(world.login(Client(), isid=2))
    opened(world.login(Client(), isid=1, tag=3))
    assert not first.broken.is_set()
    assert len(world.registry) == 3


def test_login_waits_for_what_the_old_session_executes() -> None:
    """A write of the old session never lands behind the first command of the new one."""
    world = World.of(lun())
    old, found = Client(), []
    opened(world.login(old))
    task = Task(owner=old, line=Line())
    assert world.luns[0].tasks.enter(task)
    world.luns[0].tasks.ready(task)
    thread = threading.Thread(target=lambda: found.append(world.login(Client(), isid=7)))
    world.registry.end(world.registry.all[0])
    thread.start()
    assert not found
    old.go.set()
    thread.join(PATIENCE)
    opened(found[0])
    assert len(world.registry) == 1


def test_login_behind_a_hanging_session_is_refused_in_time() -> None:
    """RFC 7143 11.13.5: 0301, and the initiator tries again; it does not wait for ever."""
    world = World.of(lun(), reinstatement=0.05)
    old = Client()
    opened(world.login(old))
    task = Task(owner=old, line=Line())
    assert world.luns[0].tasks.enter(task)
    world.luns[0].tasks.ready(task)
    assert world.login(Client()) is LoginStatus.SERVICE_UNAVAILABLE
    assert len(world.attached()) == 1, "its nexus is not lost while it may still write"
    old.go.set()


def test_end_of_session_spares_the_tasks_of_others() -> None:
    """Only the tasks of the session that ends are ended."""
    world = World.of(lun())
    alice, bob = Client(), Client()
    session = opened(world.login(alice))
    opened(world.login(bob, initiator=BOB))
    tasks = [Task(owner=alice, line=Line()), Task(owner=bob, line=Line())]
    for task in tasks:
        assert world.luns[0].tasks.enter(task)
    world.registry.end(session)
    assert [task.ending for task in tasks] == [Ending.SILENT, None]
    assert session.over.is_set()
    assert [nexus.initiator_port.name for nexus in world.attached()] == [BOB]


def test_session_that_is_over_lets_no_more_tasks_in() -> None:
    """What its connection had read by then is not executed, and nobody has to wait for it."""
    world = World.of(lun())
    old = Client()
    session = opened(world.login(old))
    early = Task(owner=old, line=session.attachments[0].line)
    late = Task(owner=old, line=session.attachments[0].line)
    assert world.luns[0].tasks.enter(early)
    opened(world.login(Client()))
    assert session.over.is_set()
    assert early.ending is Ending.SILENT
    assert not world.luns[0].tasks.enter(late)
    assert len(world.luns[0].tasks) == 0


def test_login_ends_a_session_whose_initiator_has_closed_it() -> None:
    """Under whatever ISID: what a dead QEMU has sent must not land after what the next sends."""
    world = World.of(lun())
    dead, alive, stranger = Client(), Client(), Client()
    session = opened(world.login(dead))
    others = [opened(world.login(alive, isid=2)), opened(world.login(stranger, initiator=BOB))]
    dead.gone = stranger.gone = True
    opened(world.login(Client(), isid=3))
    assert session.over.is_set()
    assert dead.broken.is_set()
    assert not any(other.ending for other in others)


def test_login_that_cannot_be_attached_leaves_nothing_behind() -> None:
    """RFC 7143 11.13.5: 0302, when no thread can be started, say; then it is as if never asked."""
    world = World.of(lun("one"), lun("two", 1), name="iqn.2026-01.org.example:all")
    broken = cast("FakeDisk", world.luns[1].disk)
    broken.full = True
    assert world.login(Client()) is LoginStatus.OUT_OF_RESOURCES
    assert not world.registry.all
    assert world.attached(0) == world.attached(1) == []
    broken.full = False
    assert len(opened(world.login(Client())).attachments) == 2


def test_session_that_cannot_be_attached_to_a_new_lun_is_dropped() -> None:
    """It logs in again and sees it then; the others hear of it now."""
    world = World.of(lun("one"), name="iqn.2026-01.org.example:all")
    clients = Client(), Client()
    sessions = [opened(world.login(clients[0])), opened(world.login(clients[1], isid=2))]
    new = lun("two", 1)
    new.disk.attach = _failing_once(new.disk.attach)  # type: ignore[method-assign]
    world.targets.add(new)
    world.registry.refresh()
    assert clients[0].broken.is_set()
    assert sessions[0].over.is_set()
    assert len(sessions[1].attachments) == 2


def _failing_once(call: Any) -> Any:
    left = [RuntimeError("can't start new thread")]

    def failing(*arguments: Any, **options: Any) -> Any:
        if left:
            raise left.pop()
        return call(*arguments, **options)

    return failing


def test_sessions_of_one_initiator_are_bounded() -> None:
    """RFC 7143 11.13.5: 0302; other initiators still get in."""
    world = World.of(lun(), per_initiator=2)
    for isid in (1, 2):
        opened(world.login(Client(), isid=isid))
    assert world.login(Client(), isid=3) is LoginStatus.OUT_OF_RESOURCES
    opened(world.login(Client(), initiator=BOB))


def test_targets_of_one_name_carry_all_luns() -> None:
    """With a name for the target, every LUN is behind it, each under its own number."""
    name = "iqn.2026-01.org.example:all"
    world = World.of(lun("a", 0), lun("b", 5, initiators=[BOB]), name=name)
    (target,) = world.targets
    assert target.name == name
    assert set(target.visible(ALICE, 2)) == {0}
    assert set(target.visible(BOB, 2)) == {0, 5}
    carrier = world.targets.carrier("b")
    assert carrier is target


def test_targets_listed_are_those_with_something_to_see() -> None:
    """SendTargets names a target only to who finds a LUN behind it, and where."""
    world = World.of(lun("a", 0), lun("b", 1, initiators=[BOB]))
    names = [target_name(each.identity) for each in world.luns]
    assert world.targets.listed(ALICE, [2, 3, 4]) == [(names[0], [2, 3])]
    assert [name for name, _ in world.targets.listed(BOB, [2])] == names
    assert world.targets.listed(BOB, [4]) == []


def test_targets_two_luns_of_one_number_are_an_error() -> None:
    """Behind one name a number means one LUN."""
    with pytest.raises(ConfigError, match="both are LUN 3"):
        World.of(lun("a", 3), lun("b", 3), name="iqn.2026-01.org.example:all")


@pytest.mark.parametrize(
    "name",
    ["disk", "iqn.2026-1.org:x", "iqn.2026-01.org.example:a b", "iqn.2026-01.o:" + 220 * "x"],
)
def test_check_target_name_of_no_iscsi_name_is_an_error(name: str) -> None:
    """RFC 7143 4.2.7: form, characters and length."""
    with pytest.raises(ConfigError):
        check_target_name(name)


def test_check_target_name_is_lower_case() -> None:
    """RFC 7143 4.2.7.2: names are compared in lower case."""
    assert check_target_name("IQN.2026-01.org.Example:A") == "iqn.2026-01.org.example:a"
