"""`flockpr libvirt xml`: the `<disk>` that gives a guest of libvirt a logical unit."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from flockpr.cli.common import add_json, add_root, emit, emit_json, find_root, may_be_configured
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.text import printable
from flockpr.errors import ConfigError

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs
    from flockpr.store.identity import LunIdentity

GUEST = "iqn.2026-11.org.flockpr:guest."
"""Begins the initiator name of a guest to which nobody gave one."""
SOCKETS = "/run/flockpr"
"""Where `flockpr@.service` has a guest's socket."""
_LOCAL = ("127.0.0.1", 3260)
_EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,100}")
_ISCSI_NAME = re.compile(r"(iqn|eui|naa)\.[a-z0-9.:-]+")
_TARGET = re.compile(r"[a-z]{2,8}")


def add(verbs: Verbs) -> None:
    """Describe the verb and its own verb."""
    parser = verbs.add_parser("libvirt", help="what libvirt has to be told")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    xml = actions.add_parser("xml", help="print the <disk> of a guest for either door")
    xml.add_argument("vm", metavar="VM", help="name of the guest")
    xml.add_argument("lun", metavar="LUN")
    xml.add_argument(
        "--door",
        choices=("target", "helper"),
        help="target enforces, helper records (default: target, where there is an image)",
    )
    xml.add_argument(
        "--dev", default="sda", metavar="NAME", help="what the disk is called in the guest (sda)"
    )
    xml.add_argument(
        "--initiator", metavar="IQN", help=f"target: name of the guest (default: {GUEST}VM)"
    )
    xml.add_argument(
        "--portal",
        metavar="HOST:PORT",
        help="target: where it listens (default: the first portal of the configuration)",
    )
    xml.add_argument(
        "--user", metavar="NAME", help="target: CHAP, with the secret flockpr-VM of libvirt"
    )
    xml.add_argument(
        "--device", metavar="PATH", help="helper: the host's device (default: by the LUN's --wwid)"
    )
    xml.add_argument(
        "--unmanaged",
        action="store_true",
        help="helper: it runs already, as flockpr@VM.service (default: libvirt starts it)",
    )
    xml.add_argument(
        "--socket", metavar="PATH", help=f"helper, unmanaged: its socket ({SOCKETS}/VM.sock)"
    )
    add_root(xml)
    add_json(xml)
    xml.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print it, and on standard error nothing: it can go into `virsh attach-device`."""
    from flockpr.store.listing import read_identity

    root = find_root(args)
    identity = read_identity(root, args.lun)
    if not _TARGET.fullmatch(args.dev):
        raise ConfigError(f"--dev {args.dev}: not of the form sda")
    door = args.door or ("helper" if identity.image is None else "target")
    make = _of_target if door == "target" else _of_helper
    _check_options(args, door)
    lines, said = make(args, identity)
    document = {"root": root, "name": identity.name, "vm": args.vm, "door": door, **said}
    if args.json:
        emit_json({**document, "xml": "\n".join(lines)})
    else:
        emit([printable(line) for line in lines])
    return ExitCode.GOOD


def _check_options(args: argparse.Namespace, door: str) -> None:
    """Refuse what would be passed over in silence."""
    other = {"target": ("device", "unmanaged", "socket"), "helper": ("initiator", "portal", "user")}
    for name in other[door]:
        if getattr(args, name):
            raise ConfigError(f"--{name} is of the other door than {door}", "see --door")
    if args.socket and not args.unmanaged:
        raise ConfigError("--socket: libvirt chooses the socket of a helper that it starts itself")


# ------------------------------------------------------------------ the target door


def _of_target(args: argparse.Namespace, identity: LunIdentity) -> tuple[list[str], dict[str, Any]]:
    if identity.image is None:
        raise ConfigError(
            f"{identity.name} has no image, so no target serves it", "use --door helper"
        )
    initiator = (args.initiator or _guest(args.vm)).lower()
    if not _ISCSI_NAME.fullmatch(initiator):
        raise ConfigError(f"--initiator {initiator}: no iSCSI name, such as {GUEST}db1")
    name, (host, port) = _configured(args, identity)
    lines = ["<disk type='network' device='lun'>", *_driver()]
    lines.append(f"  <source protocol='iscsi' name={_quoted(f'{name}/{identity.lun}')}>")
    lines.append(f"    <host name={_quoted(host)} port='{port}'/>")
    if args.user:
        lines.append(f"    <auth username={_quoted(args.user)}>")
        lines.append(f"      <secret type='iscsi' usage={_quoted(f'flockpr-{args.vm}')}/>")
        lines.append("    </auth>")
    lines += ["    <initiator>", f"      <iqn name={_quoted(initiator)}/>", "    </initiator>"]
    said = {
        "initiator": initiator,
        "target": name,
        "lun": identity.lun,
        "portal": f"{host}:{port}",
        **dict.fromkeys(("device", "managed", "socket")),
    }
    return [*lines, "  </source>", *_end(args.dev)], said


def _guest(vm: str) -> str:
    if not _NAME.fullmatch(vm):
        raise ConfigError(
            f"{vm}: cannot stand in an iSCSI name, which has small letters, digits, '-' and '.'",
            "give the guest a name with --initiator IQN",
        )
    return GUEST + vm


def _configured(args: argparse.Namespace, identity: LunIdentity) -> tuple[str, tuple[str, int]]:
    """The name of the target, and where it listens."""
    from flockpr.store.identity import target_name

    stated = _place(args.portal) if args.portal else None
    if not may_be_configured(args.config):
        return target_name(identity), stated or _LOCAL
    from flockpr.daemon.config import load_settings

    settings = load_settings({"config": args.config})
    name = None if settings.target is None else settings.target.name
    fitting = [
        one.address  # one that systemd passes does not say where it is
        for one in settings.portals
        if one.tag in identity.target_ports and one.portal is not None
    ]
    if settings.portals and not fitting and stated is None:
        raise ConfigError(
            f"no portal of the configuration has an address and a tag of {identity.name}",
            "say where it listens with --portal HOST:PORT",
        )
    places = [(_LOCAL[0] if host in _EVERYWHERE else host, port) for host, port in fitting]
    return name or target_name(identity), stated or (places or [_LOCAL])[0]


def _place(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"--portal {text}: not HOST:PORT, such as 192.0.2.1:3260")
    return host.strip("[]"), int(port)


# ------------------------------------------------------------------ the helper door


def _of_helper(args: argparse.Namespace, identity: LunIdentity) -> tuple[list[str], dict[str, Any]]:
    device = args.device or _device(identity)
    path = None
    lines = ["<disk type='block' device='lun'>", *_driver(), f"  <source dev={_quoted(device)}>"]
    if args.unmanaged:
        path = args.socket or f"{SOCKETS}/{args.vm}.sock"
        lines.append("    <reservations managed='no'>")
        lines.append(f"      <source type='unix' path={_quoted(path)} mode='client'/>")
        lines.append("    </reservations>")
    else:
        lines.append("    <reservations managed='yes'/>")
    said = {
        **dict.fromkeys(("initiator", "target", "lun", "portal")),
        "device": device,
        "managed": not args.unmanaged,
        "socket": path,
    }
    return [*lines, "  </source>", *_end(args.dev)], said


def _device(identity: LunIdentity) -> str:
    """A name that the device has on every host."""
    for wwid in identity.wwids:
        kind, _, digits = wwid.partition(".")
        if kind in ("naa", "eui") and re.fullmatch(r"[0-9a-fA-F]+", digits):
            return f"/dev/disk/by-id/wwn-0x{digits.lower()}"
    raise ConfigError(
        f"{identity.name}: it is not known which device of the host it is",
        "name the device with --device PATH",
    )


# ------------------------------------------------------------------ both


def _driver() -> list[str]:
    # Without a cache, or one host would read what another wrote before.
    return ["  <driver name='qemu' type='raw' cache='none'/>"]


def _end(dev: str) -> list[str]:
    return [f"  <target dev={_quoted(dev)} bus='scsi'/>", "  <shareable/>", "</disk>"]


def _quoted(text: str) -> str:
    from xml.sax.saxutils import escape

    return "'" + escape(text, {"'": "&apos;"}) + "'"
