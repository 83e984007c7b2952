"""Which manager a socket gets, and what the daemon keeps for it."""

from __future__ import annotations

import os
import pathlib

import attrs
import pytest

from flockpr.daemon.managers import check_account, kinds_of, manager_of, needed_for
from flockpr.daemon.privileges import ADMINISTRATION, FILE_CAPABILITIES, RAW_IO, Account
from flockpr.daemon.settings import PASSING, ServedSocket, Settings
from flockpr.daemon.sockets import Door
from flockpr.errors import ConfigError
from flockpr.manager.ioc_pr import IocPrManager
from flockpr.manager.mpath import MpathManager
from flockpr.manager.routing import AutoManager
from flockpr.manager.sgio import SgioManager
from flockpr.prhelper.client import HelperClient
from flockpr.prhelper.listener import Listener
from flockpr.store.provision import create_lun
from flockpr.units import Units
from tests.support.daemon_process import (
    PATIENCE,
    PR_HELPER,
    READ_KEYS,
    environment,
    short_directory,
    start,
)
from tests.support.helper import DEADLINE, sense_code

MAPPED = {"naa.6aa": "ioc-pr"}


def door(kind: str, folder: pathlib.Path) -> Door:
    """A socket of that manager."""
    path = str(folder / kind)
    return Door(Listener.bind(path), ServedSocket(path=path, manager=kind))


@pytest.mark.parametrize(
    ("kinds", "devices", "with_target", "expected"),
    [
        (["file-lock"], MAPPED, False, (0, FILE_CAPABILITIES)),
        (["sgio"], {}, False, (RAW_IO, 0)),
        (["ioc-pr"], {}, False, (ADMINISTRATION, 0)),
        (["sgio"], {}, True, (RAW_IO, FILE_CAPABILITIES)),
        (["sgio", "file-lock"], {}, False, (RAW_IO, FILE_CAPABILITIES)),
        (["auto"], {}, False, (RAW_IO, FILE_CAPABILITIES)),
        (["auto"], MAPPED, False, (RAW_IO | ADMINISTRATION, FILE_CAPABILITIES)),
        (["mpath"], {}, False, (RAW_IO | ADMINISTRATION, 0)),
        (["auto"], {"naa.6bb": "mpath"}, False, (RAW_IO | ADMINISTRATION, FILE_CAPABILITIES)),
        ([], {}, True, (0, FILE_CAPABILITIES)),
    ],
)
def test_daemon_keeps_what_its_sockets_take(
    kinds: list[str], devices: dict[str, str], with_target: bool, expected: tuple[int, int]
) -> None:
    """And nothing that none of them has use for."""
    with short_directory() as folder:
        doors = [door(kind, folder) for kind in kinds]
        used = kinds_of(doors, Settings(root="/r", devices=devices))
        for one in doors:
            one.listener.close()
    needed = needed_for(used, with_target=with_target)
    assert (needed.devices, needed.files) == expected
    programs = "mpath" in (*kinds, *devices.values())
    assert needed.inherited == (RAW_IO | ADMINISTRATION if programs else 0)


def test_maps_of_multipath_take_root() -> None:
    """Nobody else is answered by multipathd; a user that is root, or a group alone, is none."""
    check_account({"mpath"}, None)
    check_account({"mpath"}, Account(None, 5, ()))
    check_account({"mpath"}, Account(0, 0, ()))
    check_account({"sgio"}, Account(65534, 65534, ()))
    with pytest.raises(ConfigError, match="multipathd answers only to root"):
        check_account({"mpath", "sgio"}, Account(65534, 65534, ()))


def test_socket_gets_its_manager(tmp_path: pathlib.Path) -> None:
    """One that chooses has those that the configuration names; one that passes on asks the root."""
    root = str(tmp_path / "root")
    create_lun(root, "another")
    units = Units(root, timeout=DEADLINE)
    settings = Settings(root=root, devices=MAPPED)
    served = ServedSocket(path="/s", manager="auto")
    auto = manager_of(served, settings, units)
    assert isinstance(auto, AutoManager)
    assert {kind: type(one) for kind, one in auto.passing.items()} == {
        "sgio": SgioManager,
        "ioc-pr": IocPrManager,
    }
    assert auto.chosen == MAPPED
    for kind in PASSING:
        manager = manager_of(attrs.evolve(served, manager=kind), settings, units)
        assert manager.kind == kind
        assert isinstance(manager, SgioManager | IocPrManager | MpathManager)
        assert manager.check is not None
    units.close()


def test_helper_chooses_where_a_root_is_named() -> None:
    """A disk of no logical unit that is none of SCSI is refused, with the reason in the log."""
    with short_directory() as folder:
        create_lun(str(folder / "root"), "disk", wwids=["naa.6aa"])
        socket = folder / "s"
        environ = environment(FLOCKPR_ROOT=str(folder / "root"))
        with start([*PR_HELPER, "-k", str(socket)], folder / "log", environ=environ) as helper:
            helper.ready(socket)
            with (
                HelperClient(str(socket), timeout=PATIENCE) as client,
                open(os.devnull, "r+b") as device,
            ):
                reply = client.execute(device.fileno(), READ_KEYS)
            assert (reply.status, sense_code(reply.sense)) == (2, (5, 0x25, 0))
            assert "it has no identity that other hosts share, so it may be any LUN" in helper.text
            assert helper.end() == 0
