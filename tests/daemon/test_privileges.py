"""Who a daemon becomes; the real change is tried in child processes."""

from __future__ import annotations

import os
import pwd
import sys
import textwrap

import pytest

from flockpr.daemon.privileges import Account, find_account, find_group, find_user
from flockpr.errors import ConfigError
from tests.support.daemon_process import run

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def test_account_of_nobody_named_is_none() -> None:
    """Without user and group the process stays who it is."""
    assert find_account(None, None) is None


def test_account_of_a_name_has_its_group_and_groups() -> None:
    """As a login would; an explicit group takes the place of the user's own."""
    entry = pwd.getpwuid(os.getuid())
    account = find_account(entry.pw_name, None)
    assert account is not None
    assert (account.uid, account.gid) == (entry.pw_uid, entry.pw_gid)
    assert set(account.groups) == set(os.getgrouplist(entry.pw_name, entry.pw_gid))
    other = find_account(entry.pw_name, "4242")
    assert other is not None
    assert other.gid == 4242
    assert 4242 in other.groups
    assert entry.pw_gid not in set(other.groups) - set(os.getgrouplist(entry.pw_name, 4242))


def test_account_of_a_number_nobody_has_is_its_own_group() -> None:
    """Keeping root's group would be squashed as root is."""
    assert find_account("4000000000", None) == Account(4000000000, 4000000000, (4000000000,))
    assert find_account("4000000000", "7") == Account(4000000000, 7, (7,))


def test_account_of_a_group_alone_keeps_the_user() -> None:
    """Files of the group only; supplementary groups go."""
    assert find_account(None, "7") == Account(None, 7, ())


@pytest.mark.parametrize("name", ["no-such", "-1", "4294967295", "1.5", "", "٣"])
def test_unknown_user_or_group_is_an_error(name: str) -> None:
    """Numbers count up to 2**32 - 2; 2**32 - 1 would mean "leave it" to the kernel."""
    with pytest.raises(ConfigError, match="no user is called"):
        find_user(name)
    with pytest.raises(ConfigError, match="no group is called"):
        find_group(name)


def tried(code: str) -> str:
    """Run code in another interpreter after importing the module; its output."""
    head = "import ctypes, os\nfrom flockpr.daemon.privileges import *\n"
    done = run([sys.executable, "-c", head + textwrap.dedent(code)])
    assert done.returncode == 0, done.stderr
    return done.stdout


@as_root
def test_process_that_became_a_user_cannot_go_back() -> None:
    """Real, effective and saved ids, groups and capabilities are gone; /proc/self is readable."""
    output = tried("""
        reduce_privileges(Account(12345, 12346, (12346, 12347)))
        print(os.getresuid(), os.getresgid(), sorted(os.getgroups()), capabilities())
        for call in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
            try:
                call()
                print("back")
            except PermissionError:
                pass
        os.listdir("/proc/self/fd")
    """)
    assert output == ("(12345, 12345, 12345) (12346, 12346, 12346) [12346, 12347] 0\n")


@as_root
def test_process_that_could_go_back_refuses_to_serve() -> None:
    """If the kernel let it keep a way back, going on would break the promise."""
    output = tried("""
        real = os.setresuid
        for keep in ((12345, 0, 0), (12345, 12345, 0)):
            if os.fork() == 0:
                os.setresuid = lambda *ids: real(*(keep if ids[0] == 12345 else ids))
                try:
                    reduce_privileges(Account(12345, 12346, ()))
                    print("serves", flush=True)
                except PrivilegeError as error:
                    print("refused:", error, flush=True)
                os._exit(0)
            os.wait()
    """)
    assert output.splitlines() == [
        "refused: still holds users (12345, 0, 0) after becoming 12345",
        "refused: still holds users (12345, 12345, 0) after becoming 12345",
    ]


@as_root
def test_root_that_stays_keeps_file_capabilities_for_good() -> None:
    """A program that it would start gets no more, either."""
    output = tried("""
        reduce_privileges(None)
        print(bin(capabilities()))
        import subprocess
        print(subprocess.run(["grep", "CapEff", "/proc/self/status"], capture_output=True).stdout)
        try:
            os.setuid(12345)
            print("setuid")
        except PermissionError:
            pass
    """)
    assert output.splitlines()[0] == "0b1011"
    assert "CapEff:\\t0000000000000000" in output
    assert "setuid" not in output


@as_root
def test_group_alone_leaves_root_with_that_group() -> None:
    """User 0, the group, no other groups, three capabilities."""
    output = tried("""
        reduce_privileges(find_account(None, "12346"))
        print(os.getresuid(), os.getresgid(), os.getgroups(), bin(capabilities()))
    """)
    assert output == "(0, 0, 0) (12346, 12346, 12346) [] 0b1011\n"


@as_root
def test_somebody_else_may_not_become_another_user() -> None:
    """Started by the wrong user: an error that says what to do."""
    output = tried("""
        os.setresuid(12345, 12345, 12345)
        for account in (Account(12345, None, ()), Account(12346, None, ())):
            try:
                reduce_privileges(account)
                print("became")
            except PrivilegeError as error:
                print(error)
    """)
    assert output.splitlines()[0] == "became"
    assert "start it as root, or as that user" in output.splitlines()[1]


def test_process_without_privileges_and_account_is_left_alone() -> None:
    """An ordinary user's daemon has nothing to give up."""
    output = tried("""
        if os.geteuid() == 0:
            os.setresuid(12345, 12345, 12345)
        before = os.getresuid(), os.getresgid(), os.getgroups()
        reduce_privileges(None)
        print(before == (os.getresuid(), os.getresgid(), os.getgroups()))
    """)
    assert output == "True\n"


@as_root
def test_what_passing_on_takes_is_kept_by_another_user_too() -> None:
    """And nothing else; it cannot be had back or handed to a program."""
    output = tried("""
        import subprocess
        reduce_privileges(Account(12345, 12346, ()), devices=RAW_IO)
        print(os.getresuid(), hex(capabilities()))
        print(subprocess.run(["grep", "CapPrm", "/proc/self/status"], capture_output=True).stdout)
        try:
            os.setuid(0)
            print("back")
        except PermissionError:
            pass
    """)
    assert output.splitlines()[0] == "(12345, 12345, 12345) 0x20000"
    assert "CapPrm:\\t0000000000000000" in output
    assert "back" not in output


@as_root
def test_root_that_only_passes_on_keeps_nothing_for_files() -> None:
    """As the real helper."""
    assert (
        tried("""
        reduce_privileges(None, devices=RAW_IO, files=0)
        print(hex(capabilities()))
    """)
        == "0x20000\n"
    )


@as_root
def test_programs_have_what_is_inherited_and_no_more() -> None:
    """mpathpersist, started by a daemon that has given up the rest."""
    output = tried("""
        import subprocess
        kept = RAW_IO | ADMINISTRATION
        reduce_privileges(None, devices=kept, files=0, inherited=kept)
        print(hex(capabilities()))
        print(subprocess.run(["grep", "Cap", "/proc/self/status"], capture_output=True).stdout)
    """)
    assert output.splitlines()[0] == "0x220000"
    for name in ("CapPrm", "CapEff", "CapInh"):
        assert f"{name}:\\t0000000000220000" in output
    for name in ("CapBnd", "CapAmb"):
        assert f"{name}:\\t0000000000000000" in output


@as_root
def test_missing_capability_is_told() -> None:
    """Where nothing is emulated as a warning."""
    output = tried("""
        import logging
        logging.basicConfig(level=logging.INFO, stream=__import__("sys").stdout)
        os.setresuid(12345, 12345, 12345)
        reduce_privileges(None, devices=RAW_IO, files=0)
        reduce_privileges(None, devices=RAW_IO)
        reduce_privileges(None)
    """)
    assert [line[:4] for line in output.splitlines()] == ["WARN", "INFO"]
    assert "0x20000 are missing" in output
