"""The pages and the unit files say what the code does."""

from __future__ import annotations

import configparser
import pathlib
import re
import tomllib

import attrs
import pytest

from flockpr.cli import build_parser
from flockpr.daemon.chap_file import read_secrets
from flockpr.daemon.config import ENVIRONMENT, default_root, default_socket, load_settings
from flockpr.daemon.pr_helper import main
from flockpr.daemon.settings import TABLES, Create, Serve, Socket
from flockpr.daemon.target_settings import Lun, Portal, Target
from flockpr.prhelper.identity import CRITERIA
from tests.support.docs import ROOT, read, rows, section

PAGE = "docs/configuration.md"
UNITS = ROOT / "flockpr" / "data" / "systemd"


def keys_of(schema: type) -> list[str]:
    """The keys of a table, in order."""
    return [field.name for field in attrs.fields(schema)]


@pytest.mark.parametrize(
    ("heading", "schema"),
    [
        ("## [serve]", Serve),
        ("## [[socket]]", Socket),
        ("## [lun.NAME]", Lun),
        ("## [[portal]]", Portal),
        ("## [create]", Create),
    ],
)
def test_page_lists_every_key_of_a_table_and_no_other(heading: str, schema: type) -> None:
    """In the order of the code."""
    listed = [cells[0].strip("`") for cells in rows(section(read(PAGE), heading))]
    assert listed == keys_of(schema)


def test_page_lists_every_key_of_the_target() -> None:
    """Its section has two tables; the first is that of the keys."""
    listed = [cells for cells in rows(section(read(PAGE), "## [target]")) if len(cells) == 4]
    assert [cells[0].strip("`") for cells in listed] == keys_of(Target)


def test_page_shows_a_file_of_secrets_that_is_accepted(tmp_path: pathlib.Path) -> None:
    """The block is a file of secrets, and the table beside it lists its keys."""
    text = section(read(PAGE), "## [target]")
    block = next(block for block in _toml(text) if "[[chap]]" in block)
    file = tmp_path / "chap.toml"
    file.touch(0o600)
    file.write_text(block)

    secrets = read_secrets(str(file))

    assert len(secrets.initiators) == 2
    assert secrets.target is not None
    listed = {(cells[0], cells[1].strip("`")) for cells in rows(text) if len(cells) == 3}
    shown = tomllib.loads(block)
    assert listed == {("`[[chap]]`", key) for key in shown["chap"][0]} | {
        ("`[mutual]`", key) for key in shown["mutual"]
    }


def _toml(text: str) -> list[str]:
    return re.findall(r"^ *```toml\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)


def test_page_has_a_section_for_every_table() -> None:
    """Nothing can be configured that the page is silent about."""
    headings = " ".join(re.findall(r"^## .*$", read(PAGE), re.MULTILINE))
    for table in [*TABLES, "initiators"]:
        assert re.search(rf"\[{table}[\].]", headings), table


def test_page_lists_what_a_connection_can_be_told_by() -> None:
    """In the order in which it counts."""
    listed = [
        cells[0].strip('`"').partition(":")[0]
        for cells in rows(section(read(PAGE), "## [initiators]"))
    ]
    assert listed == list(CRITERIA)


def test_page_tells_the_defaults_of_the_code() -> None:
    """Numbers and words in the table, and the paths below it."""
    text = section(read(PAGE), "## [serve]")
    defaults = {cells[0].strip("`"): cells[2].strip("`") for cells in rows(text)}
    serve = Serve()
    for name in ("timeout", "drain"):
        assert float(defaults[name]) == getattr(serve, name)
    for name in ("log_level", "log_format"):
        assert defaults[name] == getattr(serve, name)
    assert defaults["unit_attentions"] == str(serve.unit_attentions).lower()
    assert default_root({}, 0) in text
    assert default_socket({}, 0) in text
    assert default_socket({}, 4242).replace("4242", "UID") in text


@pytest.mark.parametrize("page", [PAGE, "docs/libvirt-kubevirt.md"])
def test_page_examples_load(page: str, tmp_path: pathlib.Path) -> None:
    """Every TOML block is a configuration that is accepted."""
    blocks = [block for block in _toml(read(page)) if "[[chap]]" not in block]
    assert blocks
    for number, block in enumerate(blocks):
        file = tmp_path / f"{number}.toml"
        file.write_text(block)
        settings = load_settings({"config": str(file)}, {"HOME": "/h"}, system_file="/none")
        assert settings.root == "/srv/reservations"
        assert tomllib.loads(block)


def test_every_key_of_serve_is_an_option_of_the_command_line() -> None:
    """The page says so."""
    options = build_parser().parse_args(["serve"])
    assert set(ENVIRONMENT.values()) <= set(vars(options))


# Unit files.


def unit(name: str) -> configparser.RawConfigParser:
    """A unit file, parsed as far as needed."""
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((UNITS / name).read_text())
    return parser


def test_service_unit_fits_the_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    """A verb that exists, notification, and time enough for the drain."""
    service = unit("flockpr.service")["Service"]
    assert service["Type"] == "notify"
    program, *arguments = service["ExecStart"].split()
    assert pathlib.Path(program).name == "flockpr"
    build_parser().parse_args(arguments)
    assert float(service["TimeoutStopSec"]) > Serve().drain
    assert default_socket({}, 0).startswith(f"/run/{service['RuntimeDirectory']}/")
    assert default_root({}, 0) == f"/var/lib/{service['StateDirectory']}"
    # Or the socket of a socket unit would vanish with the service.
    assert service["RuntimeDirectoryPreserve"] == "yes"


def test_target_unit_fits_the_daemon() -> None:
    """A verb that exists, notification, time for the drain, and the same safeguards."""
    service, other = unit("flockpr-target.service")["Service"], unit("flockpr.service")["Service"]
    assert service["Type"] == "notify"
    program, *arguments = service["ExecStart"].split()
    assert pathlib.Path(program).name == "flockpr"
    assert build_parser().parse_args(arguments).verb == "target"
    assert float(service["TimeoutStopSec"]) > Serve().drain
    assert default_root({}, 0) == f"/var/lib/{service['StateDirectory']}"
    assert {"AF_INET", "AF_INET6", "AF_UNIX"} == set(service["RestrictAddressFamilies"].split())
    guards = [name for name in other if name.startswith(("Protect", "Restrict", "Lock", "NoNew"))]
    assert all(name in service for name in guards)


def test_socket_unit_fits_the_daemon() -> None:
    """The default socket, and a service of the same name."""
    assert unit("flockpr.socket")["Socket"]["ListenStream"] == default_socket({}, 0)
    assert (UNITS / "flockpr.service").exists()


def test_libvirt_page_names_every_option_that_differs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Options in its table of differences are options of the program."""
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    table = section(read("docs/libvirt-kubevirt.md"), "## Differences from qemu-pr-helper")
    options = set(re.findall(r"`(-[a-z])\b", table, re.IGNORECASE))
    assert options
    assert all(f"  {option}, --" in text for option in options)
