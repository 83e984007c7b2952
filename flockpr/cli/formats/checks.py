"""What every reader of a foreign file refuses in the same words."""

from __future__ import annotations

from collections.abc import Sequence

from flockpr.errors import ConfigError
from flockpr.spc.codes import ReservationType

MAX_KEY = (1 << 64) - 1
NO_APTPL = "APTPL: it is taken as 1, so that nothing is lost with the power"
NO_GENERATION = "PRGENERATION: that of the logical unit counts on"
ALL_PORTS = "ALL_TG_PT: each registration is for its own target port only"


def wrong(where: str, what: str) -> ConfigError:
    """A file that cannot be read; nothing of it is taken."""
    return ConfigError(f"{where}: {what}", "nothing of it was taken; look at the file")


def text_of(data: bytes) -> str:
    """The file as text.

    Raises:
        ConfigError: It is none.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise wrong(f"byte {error.start}", "no UTF-8") from None


def number(text: str, base: int, most: int, where: str, least: int = 0) -> int:
    """A number of a field.

    Raises:
        ConfigError: It is none, or out of range.
    """
    try:
        found = int(text, base) if text.isascii() and "_" not in text else -1
    except ValueError:
        found = -1
    if not least <= found <= most or text != text.strip() or text[:1] == "+":
        raise wrong(where, f"{text[:40]!r} is no number from {least} to {most}")
    return found


def key_of(text: str, base: int, where: str) -> int:
    """A reservation key; 0 is none.

    Raises:
        ConfigError: It is none.
    """
    return number(text, base, MAX_KEY, where, least=1)


def type_of(value: int, where: str) -> ReservationType:
    """A reservation type by its SCSI number.

    Raises:
        ConfigError: There is no such type.
    """
    try:
        return ReservationType(value)
    except ValueError:
        raise wrong(where, f"{value} is no type of a reservation") from None


def one_holder(kind: ReservationType | None, holders: Sequence[int]) -> int | None:
    """The index of the one holder; None without a reservation or where all registrants hold.

    Args:
        kind: Type of the reservation.
        holders: Those that the file marks.

    Raises:
        ConfigError: Another number than one, where there must be one.
    """
    if kind is None or kind.all_registrants:
        return None
    if len(holders) != 1:
        raise wrong("reservation", f"{len(holders)} holders of {kind.name}, which has one")
    return holders[0]
