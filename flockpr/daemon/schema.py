"""What a key of the configuration is made of: its type, and checks of its value.

A check raises ValueError or TypeError with one clause about the value; the loader adds where
the value came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs

SOCKET_PATH_MAX = 107
"""Longest path that fits sun_path with its final NUL (unix(7))."""

_PORTAL = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):([0-9]{1,5})")

type_names: dict[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    list: "an array of strings",
}

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def key(
    kind: type,
    *checks: Callable[[Any], None],
    default: Any = None,
    convert: Callable[[Any], Any] | None = None,
) -> Any:
    """A key of a table.

    Args:
        kind: The TOML type that is accepted; an integer passes for a float.
        checks: Called with the value; raise ValueError with what is wrong with it.
        default: The value when nobody sets the key; None means "not set".
        convert: Applied after the checks by the loader.

    Returns:
        An attrs field that carries `kind` and `convert` for the loader.
    """

    def validate(_instance: Any, _attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is not None:
            for check in checks:
                check(value)

    return attrs.field(
        default=default,
        validator=validate,
        metadata={"kind": kind, "convert": convert},
    )


def check_absolute(value: str) -> None:
    """Raise ValueError unless `value` is an absolute path without NUL."""
    if not value.startswith("/") or "\0" in value:
        raise ValueError(f"must be an absolute path, not {value!r}")


def check_socket_path(value: str) -> None:
    """Raise ValueError unless a Unix socket can have this path."""
    check_absolute(value)
    if len(value.encode("utf-8", "surrogateescape")) > SOCKET_PATH_MAX:
        raise ValueError(
            f"is too long for a Unix socket (at most {SOCKET_PATH_MAX} bytes): {value!r}"
        )


def check_lun_name(value: str) -> None:
    """Raise ValueError unless `value` can be the name of a logical unit."""
    from flockpr.store.layout import LUN_NAME

    if not LUN_NAME.fullmatch(value):
        raise ValueError(
            "must be 1 to 64 letters, digits, '.', '_', '+' or '-' and start with a letter or"
            f" digit, not {value!r}"
        )


def check_initiator(value: str) -> None:
    """Raise ValueError unless `value` names an initiator port (SPC-4 7.6.4.6)."""
    from flockpr.spc.transport_id import InitiatorPort

    InitiatorPort.from_text(value)


def check_iscsi_name(value: str) -> None:
    """Raise ValueError unless `value` is an iSCSI name without a session identifier."""
    from flockpr.spc.transport_id import InitiatorPort

    InitiatorPort(value)


def check_one_of(*choices: str | int) -> Callable[[Any], None]:
    """A check that the value is one of `choices`."""

    def check(value: str | int) -> None:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(map(str, choices))}, not {value!r}")

    return check


def check_between(low: float, high: float) -> Callable[[float], None]:
    """A check that low <= value <= high."""

    def check(value: float) -> None:
        if not low <= value <= high:
            raise ValueError(f"must be from {low:g} to {high:g}, not {value!r}")

    return check


def check_filled(value: str) -> None:
    """Raise ValueError for an empty string or one with control characters."""
    if not value or not value.isprintable():
        raise ValueError(f"must be printable and not empty, not {value!r}")


def check_mode(value: str) -> None:
    """Raise ValueError unless `value` is a file mode in octal digits, as in chmod(1)."""
    if not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError(f'must be a mode in octal digits such as "0660", not {value!r}')


LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Where nobody of another host can connect."""


def check_portal(value: str) -> None:
    """Raise ValueError unless `value` is ADDRESS:PORT or [IPV6]:PORT."""
    match = _PORTAL.fullmatch(value)
    if not match or int(match[2]) > 65535:
        raise ValueError(
            f'must be ADDRESS:PORT, such as "192.0.2.1:3260" or "[2001:db8::1]:3260", not {value!r}'
        )


def check_metrics(value: str) -> None:
    """Raise ValueError unless `value` is HOST:PORT on the loopback."""
    check_portal(value)
    if value.rpartition(":")[0].strip("[]") not in LOOPBACK:
        raise ValueError(f"must be on the loopback, such as 127.0.0.1:9751, not {value!r}")


def split_portal(value: str) -> tuple[str, int]:
    """Address and port of a portal that `check_portal` takes; port 0 is any free one."""
    host, _, port = value.rpartition(":")
    return host.strip("[]"), int(port)


def check_each(check: Callable[[str], None]) -> Callable[[list[Any]], None]:
    """A check that every string of a list passes a check."""

    def check_all(value: list[Any]) -> None:
        check_strings(value)
        for entry in value:
            check(entry)

    return check_all


def check_strings(value: list[Any]) -> None:
    """Raise ValueError unless `value` is a list of strings that are not empty."""
    for entry in value:
        if not isinstance(entry, str) or not entry.strip():
            raise ValueError(f"must hold strings that are not empty, not {entry!r}")
