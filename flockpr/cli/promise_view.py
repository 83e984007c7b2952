"""What is promised on the file system of a logical unit, for `status` and `lun create`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flockpr.cli.common import may_be_configured, note
from flockpr.cli.text import printable
from flockpr.errors import ConfigError

if TYPE_CHECKING:
    from flockpr.filesystems import Terms


def configured_terms(verb: str, config: str | None) -> Terms:
    """What the configuration declares and allows.

    Args:
        verb: For the message where it cannot be read.
        config: The value of --config.
    """
    from flockpr.filesystems import Terms

    if not may_be_configured(config):
        return Terms()  # without the price of the loader
    from flockpr.daemon.config import load_settings

    try:
        return load_settings({"config": config}).terms
    except ConfigError as error:
        # Whoever said where the root is can do without the file.
        note(verb, error, "what it declares about fencing is not known")
        return Terms()


def declare_configured(verb: str, config: str | None) -> None:
    """Make what the configuration declares and allows the terms of this process.

    Args:
        verb: For the message where it cannot be read.
        config: The value of --config.
    """
    from flockpr.filesystems import declare

    declare(configured_terms(verb, config))


def promise_document(terms: Terms, root: str, image: str | None) -> dict[str, Any] | None:
    """The object `promise` of a JSON document; None where nothing can be told.

    Args:
        terms: What is declared and allowed.
        root: The root.
        image: The image of the logical unit, relative to the root.
    """
    try:
        promise = terms.promise(root) if image is None else terms.told(root, image)
    except OSError:
        return None
    return promise.to_json()


def promise_lines(document: Mapping[str, Any], *, image: bool) -> list[str]:
    """The same for people.

    Args:
        document: See `promise_document`.
        image: Whether the logical unit has an image; without one no target serves it.
    """
    where = printable(document["filesystem"])
    if not image:
        lost = document["advisory"] == "no"
        what = f"none: reservations cannot be kept on {where}" if lost else f"recorded on {where}"
        return [_line("promise", what), *_lines("because", document["advisory_reasons"])]
    if document["gated"] == "no":
        return [
            _line("promise", f"NONE: reads and writes cannot be gated on {where}"),
            *_lines("because", document["reasons"]),
            *_lines("remedy", document["remedies"]),
        ]
    reach = "any number of hosts" if document["many_hosts"] else "this host"
    what = f"enforced for the targets of {reach}, on {where}"
    return [_line("promise", what), *_lines("only if", document["conditions"])]


def promise_summary(document: Mapping[str, Any], *, image: bool) -> list[str]:
    """The same in as few lines as can be, without what an operator was told before.

    Args:
        document: See `promise_document`.
        image: Whether the logical unit has an image.
    """
    where = printable(document["filesystem"])
    if not image:
        lost = document["advisory"] == "no"
        return [f"  NOTHING IS PROMISED on {where}"] if lost else []
    if document["gated"] == "no":
        why = printable("; ".join(document["reasons"]))
        return [f"  NOTHING IS PROMISED on {where}: {why}"]
    reach = "any number of hosts" if document["many_hosts"] else "this host"
    return [f"  enforced for the targets of {reach}, on {where}"]


def _lines(label: str, texts: Iterable[str]) -> list[str]:
    return [_line(label, printable(text)) for text in texts]


def _line(label: str, text: str) -> str:
    return f"{label + ':':14}{text}"
