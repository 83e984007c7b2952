"""What a QEMU command line says about the machine: its UUID and its name."""

from __future__ import annotations

import itertools
import os
import re
import uuid
from collections.abc import Sequence

import attrs


@attrs.frozen
class MachineLabels:
    """The machine's labels; None for what the arguments do not tell.

    Attributes:
        uuid: In canonical form; never the nil UUID.
        name: As given, not empty.
    """

    uuid: str | None = None
    name: str | None = None


def machine_labels(arguments: Sequence[bytes]) -> MachineLabels:
    """Read the labels from a process's arguments, the program's name first.

    `-uuid` wins over the UUID of `-smbios type=1` (which Proxmox uses); of an option that
    is given twice the last one counts, as in QEMU.
    """
    own = firmware = name = None
    words = [os.fsdecode(word) for word in arguments[1:]]
    for option, value in itertools.pairwise(words):
        match option[1:] if option.startswith("--") else option:
            case "-uuid":
                own = canonical_uuid(value)
            case "-smbios":
                options = _options(value, "")
                if options.get("type") == "1" and "uuid" in options:
                    firmware = canonical_uuid(options["uuid"])
            case "-name":
                name = _options(value, "guest").get("guest")
    return MachineLabels(own or firmware, name or None)


def canonical_uuid(text: str) -> str | None:
    """Return a UUID in its usual form, or None for anything else and for the nil UUID.

    QEMU reports the nil UUID for a machine that was given none; it tells nobody apart.
    """
    try:
        found = uuid.UUID(text)
    except ValueError:
        return None
    return str(found) if found.int else None


def _options(text: str, implied: str) -> dict[str, str]:
    """Read `key=value,key=value`; a first word without key has the `implied` one.

    A comma inside a value is written twice.
    """
    found = {}
    for number, part in enumerate(_split(text)):
        key, equals, value = part.partition("=")
        if equals:
            found[key] = value
        elif number == 0 and implied:
            found[implied] = part
    return found


def _split(text: str) -> list[str]:
    parts = re.findall(r"(?:[^,]|,,)+", text)
    return [part.replace(",,", ",") for part in parts]
