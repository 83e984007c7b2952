"""Hosts that an operator declared fenced: commands that narrow access wait for them no more.

The operator is the fence here, so it is written down who said so, when, and what the proof is.
A host's number contains the id of its boot, so a record ends by itself: what comes back after
a reboot is another host. One that finds its own number declared does not serve.

Whoever cannot read a record leaves nobody out (and waits), and whoever cannot tell whether it
is itself declared does not serve.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket

import attrs

from flockpr.errors import ConfigError, HostFenced, StoreError
from flockpr.gate import records
from flockpr.gate.image import SYSCALLS
from flockpr.store import files
from flockpr.store.clock import utc_now
from flockpr.store.layout import ASIDE_PREFIX
from flockpr.store.strict import Malformed, Reader
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)

MOST_PROOF = 2000
"""Characters."""
_told: set[str] = set()


@attrs.frozen
class Declaration:
    """What an operator declared.

    Attributes:
        number: The host's number.
        host: Its name, as far as it was known.
        time: When, UTC, by the clock of the host that it was declared on.
        user: Who.
        declared_on: Name of the host that it was declared on.
        proof: Why that host cannot write any more, in the operator's words.
        lun: The logical unit that waited for it; empty for all.
    """

    number: int
    host: str
    time: str
    user: str
    declared_on: str
    proof: str
    lun: str

    def encode(self) -> bytes:
        """The record: one line of JSON."""
        value = attrs.asdict(self)
        value["number"] = f"{self.number:0{records.DIGITS}x}"
        return (json.dumps({"format": records.FORMAT, **value}) + "\n").encode()


def numbers(root: str, syscalls: Syscalls | None = None) -> frozenset[int]:
    """The hosts that need not be waited for. Never raises: what cannot be read is not in it."""
    return frozenset(read(root, syscalls))


def read(root: str, syscalls: Syscalls | None = None) -> dict[int, Declaration]:
    """All declarations that can be read, by host number; the others are logged. Never raises."""
    sys_ = syscalls or SYSCALLS
    found: dict[int, Declaration] = {}
    try:
        fd = records.open_records(sys_, root)
    except (OSError, StoreError) as error:
        _tell(f"{records.path_of(root)}: {error}; nobody is taken for fenced")
        return found
    if fd is None:
        return found
    try:
        for name in sorted(sys_.listdir(fd)):
            number = records.fenced_number(name)
            if number is None:
                continue
            try:
                found[number] = _load(sys_, fd, name, number)
            except (OSError, StoreError, Malformed) as error:
                _tell(f"{records.failure(error, root, name)}; that host is waited for")
    except OSError as error:
        _tell(f"{records.failure(error, root)}; not all hosts that are fenced are known")
    finally:
        files.close_quietly(sys_, fd)
    return found


def check(root: str, number: int, syscalls: Syscalls | None = None) -> None:
    """See that a host, this one, is not declared fenced. To be asked by a target that has its
    permit, before the first read or write, and now and then while it has it.

    In this order: whoever declares first and takes the permit then does not find it held, or
    is found here.

    Raises:
        HostFenced: It is, or a record of that name says what cannot be read.
        StoreError: It cannot be told.
    """
    sys_ = syscalls or SYSCALLS
    name = records.fenced_name(number)
    try:
        fd = records.open_records(sys_, root)
    except OSError as error:
        raise records.failure(error, root) from error
    if fd is None:
        return
    try:
        declared = _load(sys_, fd, name, number)
        why = f"by {declared.user} on {declared.declared_on} at {declared.time}: {declared.proof}"
    except FileNotFoundError:
        return
    except OSError as error:
        raise records.failure(error, root, name) from error
    except (StoreError, Malformed) as error:
        why = f"by a record that cannot be read ({error})"
    finally:
        files.close_quietly(sys_, fd)
    raise HostFenced(
        f"this host was declared fenced {why}",
        records.path_of(root, name),
        "others have gone on without it: reboot this host, then start the target",
    )


def declare(
    root: str,
    number: int,
    syscalls: Syscalls | None = None,
    *,
    proof: str,
    host: str = "",
    lun: str = "",
) -> Declaration:
    """Declare a host fenced, durably. The first declaration stands.

    Args:
        root: The root directory.
        number: The host's.
        syscalls: Where the calls go.
        proof: Why it cannot write any more.
        host: Its name, where it is known.
        lun: The logical unit that waits for it.

    Returns:
        What is in force: of two operators the first one's.

    Raises:
        ConfigError: There is no proof, or too much of it.
        StoreError: It cannot be written, or what is there cannot be read.
    """
    sys_ = syscalls or SYSCALLS
    declaration = Declaration(
        number=number,
        host=host[:256],
        time=utc_now(),
        user=_user(),
        declared_on=socket.gethostname(),
        proof=check_proof(proof),
        lun=lun,
    )
    name = records.fenced_name(number)
    try:
        directory = records.provide(sys_, root)
        try:
            return _publish(sys_, directory, name, declaration)
        finally:
            files.close_quietly(sys_, directory.fd)
    except (OSError, StoreError, Malformed) as error:
        raise records.failure(error, root, name) from error


def forget(root: str, number: int, syscalls: Syscalls | None = None) -> None:
    """Remove a declaration, durably; the boot of the host that it was for is over.

    Raises:
        StoreError: It cannot be removed.
    """
    sys_ = syscalls or SYSCALLS
    name = records.fenced_name(number)
    try:
        fd = records.open_records(sys_, root)
        if fd is None:
            return
        try:
            with contextlib.suppress(FileNotFoundError):
                sys_.unlink(name, dir_fd=fd)
            sys_.fsync(fd)
        finally:
            files.close_quietly(sys_, fd)
    except OSError as error:
        raise records.failure(error, root, name) from error


def check_proof(text: str) -> str:
    """The proof, without blanks around it.

    Raises:
        ConfigError: There is none, or too much.
    """
    proof = text.strip()
    if not proof:
        raise ConfigError("a proof is needed: how it is known that the host cannot write any more")
    if len(proof) > MOST_PROOF:
        raise ConfigError(f"the proof is longer than {MOST_PROOF} characters")
    return proof


def _publish(
    sys_: Syscalls, directory: records.Directory, name: str, declaration: Declaration
) -> Declaration:
    """Written aside and linked: of two who declare at once one wins, and a record is never seen
    in part.
    """
    fd, aside = directory.fd, f"{ASIDE_PREFIX}{secrets.token_hex(8)}"
    directory.write(sys_, aside, declaration.encode(), sync=True)
    try:
        # It exists: another operator's, or ours, because NFS repeats a LINK.
        with contextlib.suppress(FileExistsError):
            sys_.link(aside, name, dir_fd=fd)
    finally:
        files.discard(sys_, aside, dir_fd=fd)
    sys_.fsync(fd)
    return _load(sys_, fd, name, declaration.number)


def _load(sys_: Syscalls, fd: int, name: str, number: int) -> Declaration:
    reader: Reader = records.load(sys_, name, dir_fd=fd, number=number)
    declaration = Declaration(
        number=number,
        host=reader.string("host"),
        time=reader.string("time"),
        user=reader.string("user"),
        declared_on=reader.string("declared_on"),
        proof=reader.string("proof", most=MOST_PROOF),
        lun=reader.string("lun"),
    )
    reader.done()
    if not declaration.proof:
        raise Malformed("record.proof is empty")
    return declaration


def _user() -> str:
    import getpass  # only the verb that declares asks

    try:
        who = getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        who = str(os.getuid())
    return f"{who} (by sudo: {sudo})" if (sudo := os.environ.get("SUDO_USER")) else who


def _tell(text: str) -> None:
    """Once: a command that waits asks many times."""
    if text not in _told:
        if len(_told) > 100:
            _told.clear()
        _told.add(text)
        log.error("%s", text)
