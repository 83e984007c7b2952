"""How a logical unit looks: the document of `--json` (docs/cli.md), and lines for people."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flockpr.cli.common import may_be_configured, note
from flockpr.cli.text import printable, size_text
from flockpr.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from flockpr.filesystems import Terms
    from flockpr.store.identity import LunIdentity

HEADINGS = ("LUN", "NAME", "NAA", "SIZE", "IMAGE")
"""Of the table that `row` makes lines for."""


class Viewer:
    """Makes documents of the logical units of one root.

    Args:
        args: With `config`, where a target may have been given a name.
        root: The root.

    Attributes:
        terms: What is declared and allowed about file systems.
    """

    def __init__(self, args: argparse.Namespace, root: str) -> None:
        self._root = root
        self._verb = f"{args.verb} {args.action}"
        from flockpr.filesystems import Terms

        self._target: str | None = None
        self.terms: Terms = Terms()
        self._configure(args.config)

    def _configure(self, config: str | None) -> None:
        """What the configuration says: the name of one target of all, and about fencing."""
        if not may_be_configured(config):
            return  # without the price of the loader
        from flockpr.daemon.config import load_settings

        try:
            settings = load_settings({"config": config})
        except ConfigError as error:
            # Whoever said where the root is can do without the file.
            note(self._verb, error, "iqn is the one without a configuration")
            return
        self._target = None if settings.target is None else settings.target.name
        self.terms = settings.terms

    def document(self, identity: LunIdentity) -> dict[str, Any]:
        """The object that stands for a logical unit."""
        from flockpr.store.identity import target_name
        from flockpr.store.kinds import store_of

        return {
            "name": identity.name,
            "incarnation": identity.incarnation,
            "naa": identity.naa,
            "serial": identity.serial,
            "wwids": list(identity.wwids),
            "lun": identity.lun,
            "iqn": self._target or target_name(identity),
            "image": identity.image,
            "size": self._size(identity),
            "target_ports": list(identity.target_ports),
            "created": identity.created,
            "store": store_of(os.path.join(self._root, identity.name)),
            "store_format": identity.format,
            "passed": identity.passed,
        }

    def _size(self, identity: LunIdentity) -> int | None:
        from flockpr.store.images import image_size

        if identity.image is None:
            return None
        try:
            return image_size(self._root, identity)
        except StoreError as error:
            note(self._verb, error, "its size is not known")
            return None


def row(document: Mapping[str, Any]) -> tuple[str, ...]:
    """A line of the table of all logical units."""
    size = document["size"]
    return (
        str(document["lun"]),
        str(document["name"]),
        str(document["naa"]),
        "" if size is None else size_text(size),
        str(document["image"] or ("passed on" if document["passed"] else "")),
    )


def lines(root: str, document: Mapping[str, Any], keys: Sequence[str] = ()) -> list[str]:
    """Lines about one logical unit: those of these keys, or all."""
    size = document["size"]
    rows = {
        "name": document["name"],
        "directory": os.path.join(root, document["name"]),
        "naa": document["naa"],
        "serial": document["serial"],
        "lun": str(document["lun"]),
        "iqn": document["iqn"],
        "wwids": " ".join(document["wwids"]) or "none",
        "image": document["image"] or "none",
        "size": "unknown" if size is None else size_text(size),
        "target_ports": " ".join(str(port) for port in document["target_ports"]),
        "created": document["created"],
        "incarnation": document["incarnation"],
        "store": document["store"],
        "format": str(document["store_format"]),
    }
    if document["passed"]:
        rows["passed"] = "on to the device, on every host"
    if document["image"] is None:
        rows = {key: value for key, value in rows.items() if key not in ("iqn", "size")}
    shown = [key for key in rows if not keys or key in keys]
    return [f"{_LABELS.get(key, key) + ':':14}{printable(rows[key])}" for key in shown]


_LABELS = {"naa": "NAA", "lun": "LUN", "iqn": "IQN", "target_ports": "target ports"}
