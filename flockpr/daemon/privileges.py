"""Become somebody else, or at least less.

With a user or group, the process becomes that user for good. This is how a daemon that libvirt
starts as root reaches a lock directory on an export that maps root to nobody.

Root without a user keeps its number and three capabilities that are about files: a root that
serves a directory into which other users' daemons write 0600 documents has to read them
(CAP_DAC_OVERRIDE), and hands out the group and mode of a shared directory (CAP_CHOWN,
CAP_FOWNER). Everything else goes, from the bounding set as well: emulated reservations never
reach a device, so CAP_SYS_RAWIO, which the real helper keeps, is of no use here.

A daemon that passes commands on to devices keeps what that takes, also as another user, and where
it does nothing else it keeps nothing else: not the three, either.
"""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import pwd

import attrs

from flockpr.errors import ConfigError, FlockprError

_log = logging.getLogger("flockpr.daemon")

CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SETPCAP = 0, 1, 3, 8
FILE_CAPABILITIES = 1 << CAP_CHOWN | 1 << CAP_DAC_OVERRIDE | 1 << CAP_FOWNER
CAP_SYS_RAWIO = 17
RAW_IO = 1 << CAP_SYS_RAWIO
"""What SG_IO asks for where a command is PERSISTENT RESERVE."""
CAP_SYS_ADMIN = 21
ADMINISTRATION = 1 << CAP_SYS_ADMIN
"""What the kernel's own calls for reservations ask for."""

_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS = 4, 8
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_MAX_ID = 0xFFFFFFFE  # 2**32 - 1 means "leave it" to setresuid(2)


class PrivilegeError(FlockprError):
    """A privilege could not be given up; going on with it would break a promise."""


@attrs.frozen
class Account:
    """Who to become.

    Attributes:
        uid: User, or None to stay.
        gid: Group, or None to stay.
        groups: Supplementary groups.
    """

    uid: int | None
    gid: int | None
    groups: tuple[int, ...]


def find_account(user: str | None, group: str | None) -> Account | None:
    """Look up who to become; before any socket appears, as the real helper does.

    Args:
        user: Name or number. A name brings its groups along, as a login would, and without
            `group` its own group; a number nobody has is its own group, because a process that
            kept root's group would be squashed as root is.
        group: Name or number.

    Returns:
        The account; None when neither is given.

    Raises:
        ConfigError: Nobody is called that.
    """
    if user is None and group is None:
        return None
    entry = _find_user(user)
    gid = find_group(group) if group is not None else entry.pw_gid if entry else None
    if entry is None:
        return Account(None, gid, ())
    assert gid is not None
    groups = os.getgrouplist(entry.pw_name, gid) if entry.pw_name else [gid]
    return Account(entry.pw_uid, gid, tuple(groups))


def find_user(user: str) -> int:
    """Number of a user.

    Raises:
        ConfigError: Nobody is called that.
    """
    entry = _find_user(user)
    assert entry is not None
    return entry.pw_uid


def find_group(group: str) -> int:
    """Number of a group.

    Raises:
        ConfigError: No group is called that.
    """
    with contextlib.suppress(KeyError):
        return grp.getgrnam(group).gr_gid
    if group.isascii() and group.isdigit() and int(group) <= _MAX_ID:
        return int(group)
    raise ConfigError(f"no group is called {group!r}")


def _find_user(user: str | None) -> pwd.struct_passwd | None:
    if user is None:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(user)
    if user.isascii() and user.isdigit() and int(user) <= _MAX_ID:
        with contextlib.suppress(KeyError):
            return pwd.getpwuid(int(user))
        return pwd.struct_passwd(("", "", int(user), int(user), "", "/", ""))
    raise ConfigError(f"no user is called {user!r}")


def reduce_privileges(
    account: Account | None,
    *,
    devices: int = 0,
    files: int = FILE_CAPABILITIES,
    inherited: int = 0,
) -> None:
    """Become `account` for good; or as root without one, keep some capabilities only.

    To be called while the process has one thread: capabilities are per thread.

    Args:
        account: Who to become.
        devices: Capabilities that passing on takes, one bit each; kept by every account.
        files: Those that root keeps beside them.
        inherited: Of these, those that programs have which root starts.

    Raises:
        PrivilegeError: Not allowed to, or the old privileges could be had back.
    """
    if account is None and os.geteuid() != 0:
        _tell_missing(devices, files)
        return
    # Loaded while the interpreter's files can still be read: the service user may not be
    # allowed to where Python is installed.
    import ctypes  # noqa: F401

    held = capabilities()
    if account is not None:
        _become(account, keep=bool(held & devices))
    if account is None or (account.uid in (None, 0) and os.geteuid() == 0):
        _keep(files | devices, inherited)
    else:
        _prove_gone(account, held & devices)
    _tell_missing(devices, files)


def _tell_missing(devices: int, files: int) -> None:
    """Devices will refuse what they are asked. Who has only emulated disks does not mind, so it
    is a warning only where nothing is emulated.
    """
    if devices and devices & ~capabilities():
        _log.log(
            logging.INFO if files else logging.WARNING,
            "capabilities %#x are missing, which passing commands on to devices takes (start it as"
            " root; with systemd, see CapabilityBoundingSet=)",
            devices & ~capabilities(),
        )


def _become(account: Account, *, keep: bool) -> None:
    """Supplementary groups, then group, then user: each step needs what the next gives away."""
    try:
        if keep:
            _drop_bounding_set(capabilities())
            _prctl(_PR_SET_KEEPCAPS, 1)
        if os.geteuid() == 0:
            os.setgroups(account.groups)
        if account.gid is not None and {account.gid} != set(os.getresgid()):
            os.setresgid(account.gid, account.gid, account.gid)
        if account.uid is not None and {account.uid} != set(os.getresuid()):
            os.setresuid(account.uid, account.uid, account.uid)
            # A process that changed its user may no longer look into its own /proc/self; that
            # protects secrets of the former user, of which there are none here.
            _prctl(_PR_SET_DUMPABLE, 1)
    except OSError as error:
        raise PrivilegeError(
            f"cannot become user {account.uid} group {account.gid}: {error.strerror}"
            " (start it as root, or as that user without naming one)"
        ) from error


def _prove_gone(account: Account, kept: int) -> None:
    """Keep those capabilities; try to get the old privileges back, and fail if that works."""
    # Where the change of user left any others (securebits, ambient ones).
    _set_capabilities(kept)
    if account.uid is not None:
        if set(os.getresuid()) != {account.uid}:
            raise PrivilegeError(f"still holds users {os.getresuid()} after becoming {account.uid}")
        with contextlib.suppress(PermissionError):
            os.setresuid(0, -1, -1)
            raise PrivilegeError(f"could become root again after becoming user {account.uid}")
    if account.gid is not None and set(os.getresgid()) != {account.gid}:
        raise PrivilegeError(
            f"still holds groups {os.getresgid()} after becoming group {account.gid}"
        )


def _keep(wanted: int, inherited: int) -> None:
    """Drop everything but these capabilities, as far as this root has anything."""
    permitted = capabilities()
    inherited &= permitted
    if inherited:
        _set_capabilities(permitted, inherited)  # what is not in the bounding set cannot be, later
    if permitted & 1 << CAP_SETPCAP:
        _drop_bounding_set(permitted)
        with contextlib.suppress(OSError):
            os.setgroups([])
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _set_capabilities(permitted & wanted, inherited)
    if capabilities() & ~wanted:
        raise PrivilegeError(f"still holds capabilities {capabilities():#x}")


def _drop_bounding_set(permitted: int) -> None:
    """Let no program that is started have anything; as far as it may be changed."""
    capability = 0
    while permitted & 1 << CAP_SETPCAP and _prctl(_PR_CAPBSET_READ, capability) >= 0:
        if _prctl(_PR_CAPBSET_DROP, capability) < 0:
            raise PrivilegeError(f"cannot drop capability {capability} from the bounding set")
        capability += 1


def capabilities() -> int:
    """The permitted capabilities of this thread, one bit each (capget(2))."""
    import ctypes

    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capget(header, data) != 0:
        raise PrivilegeError(f"cannot read the capabilities: {os.strerror(ctypes.get_errno())}")
    return data[1] | data[4] << 32


def _set_capabilities(wanted: int, inherited: int = 0) -> None:
    """Set effective and permitted to `wanted`, inheritable to `inherited`."""
    import ctypes

    low, high = wanted & 0xFFFFFFFF, wanted >> 32
    passed_low, passed_high = inherited & 0xFFFFFFFF, inherited >> 32
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(low, low, passed_low, high, high, passed_high)
    if ctypes.CDLL(None, use_errno=True).capset(header, data) != 0:
        raise PrivilegeError(f"cannot drop capabilities: {os.strerror(ctypes.get_errno())}")


def _prctl(option: int, argument: int) -> int:
    import ctypes

    unsigned = ctypes.c_ulong
    result: int = ctypes.CDLL(None).prctl(option, unsigned(argument), *(unsigned(0),) * 3)
    return result
