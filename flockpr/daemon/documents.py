"""One configuration file: read it, and check it by itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from flockpr.daemon.schema import check_lun_name, check_one_of, type_names
from flockpr.daemon.settings import ARRAYS, PASSING, TABLES
from flockpr.daemon.target_settings import Lun
from flockpr.errors import ConfigError

MAX_FILE = 1 << 20
"""A configuration is never this large; a file that is, is the wrong file."""


def read_document(path: str, *, required: bool) -> dict[str, Any] | None:
    """The document at `path`; None when it is absent and nobody asked for it by name."""
    import tomllib

    try:
        # Non-blocking: a FIFO in the place of the file must not stop the daemon for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if required else os.O_NONBLOCK))
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(MAX_FILE + 1) or b""
    except (FileNotFoundError, NotADirectoryError) as error:
        if required:
            raise ConfigError(f"{path}: no such configuration file") from error
        return None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the configuration file: {error.strerror}"
        ) from error
    if len(data) > MAX_FILE:
        raise ConfigError(f"{path}: larger than {MAX_FILE} bytes: not a configuration file")
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def check_document(document: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Check one file by itself; its values converted, in the same shape."""
    checked: dict[str, Any] = {}
    for table, content in document.items():
        if table == "initiators":
            checked[table] = _check_initiators(_table(content, source, table), source)
        elif table == "devices":
            checked[table] = _check_devices(_table(content, source, table), source)
        elif table not in TABLES:
            raise unknown(source, table, "table", [*TABLES, "initiators", "devices"])
        elif table in ARRAYS:
            checked[table] = _check_array(table, content, source)
        elif table == "lun":
            checked[table] = _check_luns(_table(content, source, table), source)
        else:
            checked[table] = _check_table(
                TABLES[table], _table(content, source, table), source, table
            )
    return checked


def _check_array(table: str, content: Any, source: str) -> list[dict[str, Any]]:
    if not isinstance(content, list):
        raise ConfigError(f"{source}: {table}: must be written [[{table}]], once per {table}")
    entries: list[dict[str, Any]] = []
    for number, entry in enumerate(content, 1):
        where = f"{table}[{number}]"
        values = _check_table(TABLES[table], _table(entry, source, where), source, where)
        keys = ("portal" if table == "portal" else "path", "name")
        if not values.keys() & set(keys):
            raise ConfigError(
                f"{source}: {where}: needs a {keys[0]}, or the name under which systemd passes it"
            )
        for key in keys:
            if key == "portal" and str(values.get(key)).endswith(":0"):
                continue  # any free port is another one each time
            if key in values and any(values[key] == other.get(key) for other in entries):
                raise ConfigError(f"{source}: {where}.{key}: {values[key]!r} is there twice")
        entries.append(values)
    return entries


def _check_luns(content: Mapping[str, Any], source: str) -> dict[str, Any]:
    checked = {}
    for name, entry in content.items():
        where = f"lun.{name}"
        run_check(check_lun_name, name, source, where)
        checked[name] = _check_table(Lun, _table(entry, source, where), source, where)
    return checked


def _check_initiators(content: Mapping[str, Any], source: str) -> dict[str, str]:
    from flockpr.prhelper.identity import rules_from

    checked = {}
    for name, value in content.items():
        where = f"initiators.{name}"
        if not isinstance(value, str):
            raise wrong_type(source, where, str, value)
        run_check(lambda given: rules_from({name: given}), value, source, where)  # noqa: B023
        checked[name] = value
    return checked


def _check_devices(content: Mapping[str, Any], source: str) -> dict[str, str]:
    from flockpr.store.identity import check_wwid

    for name, value in content.items():
        where = f"devices.{name}"
        if not isinstance(value, str):
            raise wrong_type(source, where, str, value)
        run_check(check_wwid, name, source, where)
        run_check(check_one_of(*PASSING), value, source, where)
    return dict(content)


def _check_table(
    schema: type, content: Mapping[str, Any], source: str, where: str
) -> dict[str, Any]:
    fields = {field.name: field for field in attrs.fields(schema)}
    checked = {}
    for name, value in content.items():
        if name not in fields:
            raise unknown(source, f"{where}.{name}", "key", fields)
        checked[name] = check_value(fields[name], value, source, f"{where}.{name}")
    return checked


def check_value(field: Any, value: Any, source: str, where: str) -> Any:
    """The value of one key, checked and converted.

    Args:
        field: Of an attrs class, made by `schema.key`.
        value: As TOML has it.
        source: Where it comes from, for messages.
        where: Which key it is, for messages.

    Raises:
        ConfigError: It is wrong.
    """
    kind: type = field.metadata["kind"]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    right = number if kind is float else type(value) is kind
    if not right:
        raise wrong_type(source, where, kind, value)
    run_check(lambda given: field.validator(None, field, given), value, source, where)
    convert = field.metadata["convert"] or (float if kind is float else None)
    return convert(value) if convert else value


def run_check(check: Callable[[Any], Any], value: Any, source: str, where: str) -> None:
    """Run a check; a ConfigError that names source and key if it raises."""
    try:
        check(value)
    except (ValueError, TypeError, ConfigError) as error:
        raise ConfigError(f"{source}: {where}: {error}") from error


def _table(content: Any, source: str, where: str) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: {where}: must be a table")
    return content


def wrong_type(source: str, where: str, kind: type, value: Any) -> ConfigError:
    """The error for a value of another type than the key has."""
    return ConfigError(f"{source}: {where}: must be {type_names[kind]}, not {value!r}")


def unknown(source: str, where: str, what: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that nothing has; tells the nearest one that there is."""
    import difflib

    name = where.rpartition(".")[2]
    nearest = difflib.get_close_matches(name, list(known), 1, cutoff=0.0)[0]
    return ConfigError(f"{source}: {where}: unknown {what}; the nearest known one is {nearest!r}")
