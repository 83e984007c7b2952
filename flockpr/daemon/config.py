"""Find, merge and check the configuration.

Precedence, strongest first, key by key: the command line, the environment (FLOCKPR_ROOT
and so on, one variable per key of [serve]), the file named by --config or FLOCKPR_CONFIG,
the user's file, /etc/flockpr.toml. An array of tables counts as one key.

Every source is checked by itself before anything is merged, so a mistake is reported with
the file that contains it even where a stronger source would have hidden it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from flockpr.daemon.documents import (
    check_document,
    check_value,
    read_document,
    run_check,
    unknown,
    wrong_type,
)
from flockpr.daemon.schema import check_socket_path
from flockpr.daemon.settings import (
    ARRAYS,
    AUTO,
    FILE_LOCK,
    PASSING,
    TABLES,
    Create,
    Serve,
    ServedSocket,
    Settings,
    Socket,
)
from flockpr.daemon.target_settings import DEFAULT_PORTAL, Lun, Portal, Target
from flockpr.errors import ConfigError

SYSTEM_FILE = "/etc/flockpr.toml"
USER_FILE = "flockpr.toml"

ENVIRONMENT = {f"FLOCKPR_{field.name.upper()}": field.name for field in attrs.fields(Serve)}
"""Environment variable to the key of [serve] that it sets."""
CONFIG_VARIABLE = "FLOCKPR_CONFIG"

REMEDY = "docs/configuration.md describes every key, and where its value can come from"
"""What to do about a configuration that is wrong."""

_PATH_KEYS = ("root", "socket", "pidfile")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@contextlib.contextmanager
def _pointing_to_the_page() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        error.remedy = error.remedy or REMEDY
        raise


@_pointing_to_the_page()
def load_settings(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    target: Mapping[str, object] | None = None,
    fencing: str | None = None,
    system_file: str = SYSTEM_FILE,
    user_file: bool = True,
    uid: int | None = None,
    manager: str = FILE_LOCK,
) -> Settings:
    """Read every source and merge them.

    Args:
        flags: What the command line says: keys of [serve] (`root`, `socket`, `lun`,
            `unit_attentions`, ...) and `config`, a path. None means "not given". Values are
            of the key's own type, or text. Relative paths count from the working directory.
        environ: The environment; the process's own by default.
        target: What the command line says about the target door: keys of [target], and
            `portals`, texts of ADDRESS:PORT or ADDRESS:PORT,TAG. With it, even when it is
            empty, there is a target door, whatever the files say.
        fencing: What the command line says about `fencing` in [target], of a daemon that may
            have no target door.
        system_file: The weakest file; may be absent.
        user_file: Whether the user's own file counts.
        uid: Whose defaults to use; the effective user's by default.
        manager: Who answers where nobody says so.

    Returns:
        The settings; the root may not exist and no socket has been touched.

    Raises:
        ConfigError: Something is wrong; names the source, the key, and for an unknown key the
            nearest known name.
    """
    environ = os.environ if environ is None else environ
    uid = os.geteuid() if uid is None else uid
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    named = given.pop("config", None) or environ.get(CONFIG_VARIABLE)

    files: list[tuple[str, bool]] = [(system_file, False)]
    if user_file and (own := _user_file(environ)):
        files.append((own, False))
    if named:
        files.append((os.path.abspath(str(named)), True))

    merged: dict[str, Any] = {}
    read: list[str] = []
    for path, required in files:
        document = read_document(path, required=required)
        if document is not None:
            read.append(path)
            _merge(merged, check_document(document, path))
    forced = _from_environment(environ) | _from_flags(given)
    from_files = {"manager": manager, **merged.get("serve", {})}
    _merge(merged, {"serve": forced})
    if target is not None:
        _merge(merged, _from_target_flags(target))
    if fencing is not None:
        told = _from_target_flags({"fencing": fencing})
        merged = merged | {"fencing": fencing}
        if _has_target(merged):
            _merge(merged, told)
    return _settle(merged, from_files, forced, files=tuple(read), environ=environ, uid=uid)


def default_root(environ: Mapping[str, str], uid: int) -> str:
    """The root of somebody who named none: absolute, may not exist."""
    if uid == 0:
        return "/var/lib/flockpr"
    base = _absolute(environ.get("XDG_DATA_HOME")) or os.path.join(_home(environ), ".local/share")
    return os.path.join(base, "flockpr")


def default_socket(environ: Mapping[str, str], uid: int) -> str:
    """The socket of somebody who named none: absolute, its directory may not exist."""
    if uid == 0:
        return "/run/flockpr/pr.sock"
    base = _absolute(environ.get("XDG_RUNTIME_DIR"))
    # Without a session manager there is no runtime directory. The fallback lies in a directory
    # that anybody may write to, so the daemon insists that it owns it before it binds there.
    return os.path.join(base, "flockpr", "pr.sock") if base else f"/tmp/flockpr-{uid}/pr.sock"  # noqa: S108


def known_keys() -> list[str]:
    """Every key as the documentation writes it: `serve.root`, `socket[].path`, `lun.NAME.wwids`."""
    names = []
    for table, schema in TABLES.items():
        prefix = {"lun": "lun.NAME"}.get(table, f"{table}[]" if table in ARRAYS else table)
        names += [f"{prefix}.{field.name}" for field in attrs.fields(schema)]
    return [*names, "initiators.NAME", "devices.NAME"]


# The environment and the command line.


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for variable in sorted(environ):
        if variable in ENVIRONMENT:
            if environ[variable]:  # set but empty is how a shell unsets for one command
                values[ENVIRONMENT[variable]] = _from_text(
                    ENVIRONMENT[variable], environ[variable], "the environment", variable
                )
        elif variable.startswith("FLOCKPR_") and variable != CONFIG_VARIABLE:
            # Others may use the prefix, but a slip of a key must not pass in silence: the daemon
            # would serve the default root instead of the shared one.
            import difflib

            near = difflib.get_close_matches(variable, [*ENVIRONMENT, CONFIG_VARIABLE], 1, 0.9)
            if near:
                raise ConfigError(
                    f"the environment: {variable}: unknown variable; did you mean {near[0]}?"
                )
    return values


def _from_flags(flags: Mapping[str, object]) -> dict[str, Any]:
    values = {}
    names = [field.name for field in attrs.fields(Serve)]
    for name, value in flags.items():
        option = "--" + name.replace("_", "-")
        if name not in names:
            raise unknown("the command line", option, "option", names)
        values[name] = _from_text(name, value, "the command line", option)
    return values


def _from_target_flags(flags: Mapping[str, object]) -> dict[str, Any]:
    """Tables [target] and [[portal]] from the command line."""
    given = {name: value for name, value in flags.items() if value is not None}
    portals = given.pop("portals", None)
    if "chap" in given:
        given["chap"] = os.path.abspath(str(given["chap"]))
    tables: dict[str, Any] = {"target": given}
    if portals:
        tables["portal"] = [_portal(text) for text in portals]  # type: ignore[attr-defined]
    return check_document(tables, "the command line")


def _portal(text: str) -> dict[str, Any]:
    """ADDRESS:PORT or ADDRESS:PORT,TAG as a table [[portal]]."""
    address, comma, tag = text.partition(",")
    if not comma:
        return {"portal": address}
    if not tag.isascii() or not tag.isdigit() or len(tag) > 5:
        raise ConfigError(f"the command line: --portal: {tag!r} is no tag: a number from 2 on")
    return {"portal": address, "tag": int(tag)}


def _from_text(name: str, value: object, source: str, where: str) -> Any:
    """A checked value of [serve] from text, or from a value of the right type already."""
    field = getattr(attrs.fields(Serve), name)
    kind: type = field.metadata["kind"]
    if name in _PATH_KEYS and isinstance(value, (str, os.PathLike)):
        value = os.path.abspath(os.fspath(value))
    elif isinstance(value, str) and kind is bool:
        lowered = value.lower()
        if lowered not in _TRUE + _FALSE:
            raise wrong_type(source, where, kind, value)
        value = lowered in _TRUE
    elif isinstance(value, str) and kind is float:
        try:
            value = float(value)
        except ValueError as error:
            raise wrong_type(source, where, kind, value) from error
    return check_value(field, value, source, where)


# Merging.


def _merge(merged: dict[str, Any], stronger: Mapping[str, Any]) -> None:
    """Lay `stronger` over `merged`, key by key; arrays and [lun.NAME] entries per key, too."""
    for table, content in stronger.items():
        if isinstance(content, dict):
            _merge(merged.setdefault(table, {}), content)
        else:
            merged[table] = content


def _settle(
    merged: Mapping[str, Any],
    from_files: Mapping[str, Any],
    forced: Mapping[str, Any],
    *,
    files: tuple[str, ...],
    environ: Mapping[str, str],
    uid: int,
) -> Settings:
    serve = Serve(**merged.get("serve", {}))
    rooted = serve.root is not None
    tables = [Socket(**entry) for entry in merged.get("socket", [])]
    if "socket" in forced:
        path = forced["socket"]
        tables = [entry for entry in tables if entry.path == path] or [Socket(path=path)]
    elif serve.socket and serve.socket not in [entry.path for entry in tables]:
        tables.append(Socket(path=serve.socket))
    sockets = [_inherit(entry, from_files, forced, rooted=rooted) for entry in tables]
    if not sockets:
        path = default_socket(environ, uid)
        run_check(check_socket_path, path, "the default socket", "give another with --socket")
        sockets = [
            attrs.evolve(
                _inherit(Socket(path=path), from_files, forced, rooted=rooted), is_default=True
            )
        ]
    target = Target(**merged.get("target", {})) if _has_target(merged) else None
    return Settings(
        root=serve.root or default_root(environ, uid),
        root_is_default=serve.root is None,
        sockets=tuple(sockets),
        unnamed_socket=_inherit(Socket(), from_files, forced, rooted=rooted),
        sockets_from_flag="socket" in forced,
        serve=serve,
        create=Create(**merged.get("create", {})),
        luns={name: Lun(**entry) for name, entry in merged.get("lun", {}).items()},
        initiators=merged.get("initiators", {}),
        devices=_devices(merged),
        target=target,
        portals=_portals(merged) if _has_target(merged) else (),
        fencing=merged.get("fencing") or ("none" if target is None else target.fencing),
        files=files,
    )


def _devices(merged: Mapping[str, Any]) -> Mapping[str, str]:
    """Table [devices]; none of them is a logical unit's by [lun.NAME]."""
    devices: Mapping[str, str] = merged.get("devices", {})
    passed = {name.lower(): name for name in devices}
    for lun, entry in merged.get("lun", {}).items():
        for wwid in entry.get("wwids") or ():
            if wwid.lower() in passed:
                raise ConfigError(
                    f"devices.{passed[wwid.lower()]}: is the logical unit {lun} by lun.{lun}.wwids:"
                    " a disk is emulated or passed on, and never both"
                )
    return devices


def _has_target(merged: Mapping[str, Any]) -> bool:
    """Whether there is a target door: somebody wrote a table of it."""
    return "target" in merged or bool(merged.get("portal"))


def _portals(merged: Mapping[str, Any]) -> tuple[Portal, ...]:
    entries = merged.get("portal") or [{"portal": DEFAULT_PORTAL}]
    return tuple(Portal(**entry) for entry in entries)


def _inherit(
    entry: Socket, from_files: Mapping[str, Any], forced: Mapping[str, Any], *, rooted: bool
) -> ServedSocket:
    """Fill in what a socket leaves open: its own table, then [serve]; flags beat both."""

    def pick(serve_key: str, own: Any) -> Any:
        if serve_key in forced:
            return forced[serve_key]
        return from_files.get(serve_key) if own is None else own

    manager, lun = pick("manager", entry.manager) or FILE_LOCK, pick("lun", entry.lun)
    if entry.manager in PASSING and entry.lun is None and "lun" not in forced:
        lun = None  # what [serve] says is for the sockets that are emulated
    if lun is not None and manager in PASSING:
        raise ConfigError(
            f"{entry.path or entry.name or 'every socket'}: manager {manager!r} passes commands on"
            f" to the device, and lun {lun!r} is emulated: only one of the two"
        )
    if lun is not None or (manager == AUTO and not rooted):
        # Every descriptor is that logical unit. And with a root that nobody named it is not known
        # which disks other hosts emulate, so none is passed on.
        manager = FILE_LOCK
    return ServedSocket(
        path=entry.path or "",
        name=entry.name,
        manager=manager,
        lun=lun,
        initiator=pick("initiator", entry.initiator),
        unit_attentions=bool(pick("unit_attentions", entry.unit_attentions)),
        mode=pick("socket_mode", entry.mode),
        owner=pick("socket_owner", entry.owner),
        group=pick("socket_group", entry.group),
    )


def _user_file(environ: Mapping[str, str]) -> str | None:
    base = _absolute(environ.get("XDG_CONFIG_HOME"))
    return os.path.join(base or os.path.join(_home(environ), ".config"), USER_FILE)


def _home(environ: Mapping[str, str]) -> str:
    """The user's home directory; `/` for a user who has none."""
    if home := _absolute(environ.get("HOME")):
        return home
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/"


def _absolute(path: str | None) -> str | None:
    """`path` if it is absolute: relative XDG directories are invalid and to be ignored."""
    return path if path and path.startswith("/") else None
