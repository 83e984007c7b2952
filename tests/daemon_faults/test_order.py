"""The order on the way to the disk and to the client, read from a trace of a running daemon.

fsync(document) < link(document) < fsync(directory) < reply: anything else would acknowledge what
a power cut takes back.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable

import pytest

from flockpr import LogicalUnit, Nexus
from flockpr.spc.codes import Status
from flockpr.store.layout import COMMIT_NAME, COMMITS, commit_name
from tests.support.daemons import (
    LUN,
    READ_FULL_STATUS,
    READ_KEYS,
    READ_RESERVATION,
    Daemon,
    Door,
    Guest,
    Sent,
    chain,
    committed,
    decide,
    out,
    read,
)
from tests.support.scsi import (
    CLEAR,
    PREEMPT,
    PREEMPT_ABORT,
    REGISTER,
    REGISTER_IGNORE,
    RELEASE,
    RESERVE,
    WE,
    nexus,
)
from tests.support.strace import Call, traced

pytestmark = pytest.mark.peer("strace")

_SOCKET = re.compile(r'UNIX-STREAM:\[\d+->\d+,"([^"]*)"')
REPLY_HEADER = 104

EVERY_OUT = (
    out(REGISTER, 0, 1),
    out(RESERVE, 1, type_=WE),
    out(RELEASE, 1, type_=WE),
    out(REGISTER, 1, 2, aptpl=True),
    out(RESERVE, 2, type_=WE),
    out(PREEMPT, 2, 2, type_=WE),
    out(PREEMPT_ABORT, 2, 2, type_=WE),
    out(CLEAR, 2),
    out(REGISTER_IGNORE, 0, 3),
    out(REGISTER, 3, 0),
)
"""Each changes the state, in this order, if nobody else does."""


def _commits_of(directory: str) -> str:
    return os.path.join(directory, "root", LUN, COMMITS)


def _links(calls: list[Call]) -> dict[int, Call]:
    """The links that made a commit, by its number."""
    found = {}
    for call in calls:
        match = COMMIT_NAME.fullmatch(call.names[-1]) if call.names else None
        if match and call.name in ("link", "linkat") and call.done:
            found[int(match[1])] = call
    return found


def _replies(calls: list[Call], path: str) -> list[Call]:
    """What was sent on connections of one socket."""
    found = []
    for call in calls:
        if call.name in ("sendto", "sendmsg", "write"):
            match = _SOCKET.search(call.arguments)
            if match and match[1] == path:
                found.append(call)
    return found


def _document_synced(calls: list[Call], link: Call, folder: str) -> None:
    """The document was written, then synced, and all that before the link."""
    aside = os.path.join(folder, link.names[0])
    on_it = [call for call in calls if call.on(aside)]
    written = [call for call in on_it if call.name in ("write", "pwrite64")]
    synced = [call for call in on_it if call.name in ("fsync", "fdatasync") and call.done]
    assert written, f"{aside} was not written"
    assert synced, f"{aside} was not synced"
    assert max(call.left or 0 for call in written) < synced[-1].entered
    assert (synced[-1].left or link.entered) < link.entered


def _directory_synced(calls: list[Call], after: int, before: int, folder: str) -> bool:
    """Whether the directory was synced between two lines of the trace."""
    return any(
        call.name == "fsync"
        and call.done
        and call.on(folder)
        and call.entered > after
        and call.left is not None
        and call.left < before
        for call in calls
    )


def _run_all(daemon: Daemon, door: Door, sent: tuple[Sent, ...], failures: list[str]) -> None:
    with daemon.guest(door) as guest:
        for one in sent:
            answer = guest.send(one)
            if answer.status != Status.GOOD:
                failures.append(f"{door.guest}: {answer}")


@pytest.mark.parametrize("network", [False, True], ids=["local", "network"])
def test_commit_of_every_service_action_is_durable_before_its_reply(
    directory: str, network: bool
) -> None:
    """fsync(document) < link < fsync(directory) < reply, from the very first command on."""
    door = Door("a")
    with Daemon(directory, "one", [door]) as daemon, daemon.guest() as guest:
        if network:
            daemon.believe_in_a_network(guest)
        with traced(daemon.pid, directory, follow=True) as calls:
            for sent in EVERY_OUT:
                assert guest.send(sent).status == Status.GOOD
    folder = _commits_of(directory)
    links, replies = _links(calls), _replies(calls, daemon.path(door))
    documents = chain(directory)[1:]
    assert len(documents) == len(links) == len(replies) == len(EVERY_OUT)
    for document, reply in zip(documents, replies, strict=True):
        link = links[document.number]
        _document_synced(calls, link, folder)
        assert link.left is not None
        assert link.left < reply.entered
        assert _directory_synced(calls, link.left, reply.entered, folder), document.number


def test_commits_of_concurrent_clients_are_durable_before_their_replies(directory: str) -> None:
    """The same where three clients' commands follow each other without a pause, and some of
    them share a commit.
    """
    doors = [Door(name) for name in "abc"]
    failures: list[str] = []
    with Daemon(directory, "one", doors) as daemon:
        with daemon.guest() as guest:
            assert guest.send(read()).status == Status.GOOD  # open, so that all run at once
        with traced(daemon.pid, directory, follow=True) as calls:
            threads = []
            for number, door in enumerate(doors):
                many = tuple(
                    out(REGISTER_IGNORE, 0, 1 + number * 100 + count) for count in range(12)
                )
                arguments = (daemon, door, many, failures)
                threads.append(threading.Thread(target=_run_all, args=arguments))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert not failures
    folder, links = _commits_of(directory), _links(calls)
    made = [
        (document.number, line) for document in chain(directory)[1:] for line in document.applied
    ]
    assert len(made) == 36
    for door in doors:
        name = door.nexus.initiator_port.text
        own = [number for number, line in made if line.nexus == name]
        # Beside the replies only the greeting of the connection.
        replies = _replies(calls, daemon.path(door))[-len(own) :]
        assert len(replies) == 12
        for number, reply in zip(own, replies, strict=True):
            link = links[number]
            _document_synced(calls, link, folder)
            assert link.left is not None
            assert _directory_synced(calls, link.left, reply.entered, folder), number


def _as_another_daemon(directory: str, who: Nexus, sent: Sent) -> None:
    with LogicalUnit.open(os.path.join(directory, "root", LUN)) as unit:
        status = unit.execute(who, sent.cdb, sent.data_out, report_attentions=False).status
        assert status == Status.GOOD


DEPENDENT: dict[str, Callable[[], Sent]] = {
    "read keys": lambda: read(READ_KEYS),
    "read reservation": lambda: read(READ_RESERVATION),
    "read full status": lambda: read(READ_FULL_STATUS),
    "conflict": lambda: out(RESERVE, 5, type_=WE),
    "reserve again": lambda: out(RESERVE, 1, type_=WE),
    "release of nothing": lambda: out(RELEASE, 1, type_=WE),
}


@pytest.mark.parametrize("network", [False, True], ids=["local", "network"])
def test_reply_that_depends_on_a_foreign_commit_waits_until_that_is_durable(
    directory: str, network: bool
) -> None:
    """The first reader of somebody else's transaction syncs the directory before it answers."""
    door, other = Door("a"), nexus("b")
    folder = _commits_of(directory)

    def send(guest: Guest, sent: Sent) -> None:
        expected = decide(committed(directory), guest.who, sent)
        assert expected[0] == committed(directory), "it was to change nothing"
        assert guest.send(sent) == expected[1]

    with Daemon(directory, "one", [door]) as daemon, daemon.guest() as guest:
        if network:
            daemon.believe_in_a_network(guest)
        assert guest.send(out(REGISTER, 0, 1)).status == Status.GOOD
        worker, _ = daemon.workers(guest)
        for number, (what, sent) in enumerate(DEPENDENT.items()):
            if what == "reserve again":
                assert guest.send(out(RESERVE, 1, type_=WE)).status == Status.GOOD
            elif what == "release of nothing":
                assert guest.send(out(RELEASE, 1, type_=WE)).status == Status.GOOD
            daemon.settle(worker)  # or its upkeep would be the first to read what comes now
            _as_another_daemon(directory, other, out(REGISTER_IGNORE, 0, 100 + number))
            fresh = commit_name(chain(directory)[-1].number)
            with traced(daemon.pid, directory, follow=True) as calls:
                send(guest, sent())
            opened = next(c for c in calls if c.name == "openat" and fresh in c.names and c.done)
            (reply,) = _replies(calls, daemon.path(door))
            assert _directory_synced(calls, opened.entered, reply.entered, folder), what


def test_first_reply_of_a_new_daemon_waits_until_the_head_is_durable(directory: str) -> None:
    """A daemon that starts cannot know whether the one that committed lived to sync."""
    door = Door("a")
    _as_another_daemon(directory, nexus("b"), out(REGISTER_IGNORE, 0, 7))
    folder = _commits_of(directory)
    with (
        Daemon(directory, "one", [door]) as daemon,
        daemon.guest() as guest,
        traced(daemon.pid, directory, follow=True) as calls,
    ):
        assert guest.send(read()).status == Status.GOOD
    head = commit_name(chain(directory)[-1].number)
    opened = next(c for c in calls if c.name == "openat" and head in c.names and c.done)
    (reply,) = _replies(calls, daemon.path(door))
    assert _directory_synced(calls, opened.entered, reply.entered, folder)
