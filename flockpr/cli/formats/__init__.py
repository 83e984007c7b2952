"""How other targets write down registrations and reservations: one module per format.

Each has `TITLE`, for people; `read(data)`, which is total but for `ConfigError`; `write(source,
wanted)`; and `recognise(data)`. What a format cannot say is reported in both directions and never
made up silently. The formats, and the versions whose sources they were checked against, are in
docs/formats.md.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from flockpr.errors import ConfigError

NAMES = ("lio", "scst", "scst-file", "spdk", "sg_persist")


def find(name: str) -> ModuleType:
    """The module of a format; one of `NAMES`."""
    return importlib.import_module(f"flockpr.cli.formats.{name.replace('-', '_')}")


def detect(data: bytes, path: str) -> str:
    """The name of the format that a file has.

    Raises:
        ConfigError: None, as far as it can be told.
    """
    for name in NAMES:
        if find(name).recognise(data):
            return name
    raise ConfigError(f"{path}: none of the formats {', '.join(NAMES)}", "name it with --format")
