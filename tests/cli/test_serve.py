"""`flockpr serve`: its options are keys of the configuration."""

from __future__ import annotations

import attrs
import pytest

from flockpr.cli import build_parser, main
from flockpr.cli.serve import flags
from flockpr.daemon import main as daemon
from flockpr.daemon.settings import Serve, Settings


def test_serve_every_key_of_the_table_is_an_option() -> None:
    """Flag, variable and line of a file have one list of names."""
    given = flags(build_parser().parse_args(["serve"]))
    options = set(vars(build_parser().parse_args(["serve"]))) - {"verb", "run", "config"}
    others = {"fencing", "json"}  # of the target, of the command line

    assert given == {}
    assert options - others == {field.name for field in attrs.fields(Serve)}


def test_serve_flags_hold_only_what_was_given() -> None:
    """What was not said must not outrank the environment or a file."""
    argv = ["serve", "--root", "/r", "--socket", "/s", "--unit-attentions", "--log-level", "debug"]

    assert flags(build_parser().parse_args(argv)) == {
        "root": "/r",
        "socket": "/s",
        "unit_attentions": True,
        "log_level": "debug",
    }


def test_serve_contract_options_reach_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve --root --socket --lun --initiator --unit-attentions`, and its exit code."""
    served: list[Settings] = []

    def serve(settings: Settings, told: object) -> int:
        assert told is None
        served.append(settings)
        return 7

    monkeypatch.setattr(daemon, "serve", serve)
    argv = ["serve", "--root", "/r", "--socket", "/s", "--lun", "disk"]
    argv += ["--initiator", "iqn.2026-01.x:a", "--unit-attentions"]

    assert main(argv) == 7
    (settings,) = served
    (socket,) = settings.sockets
    assert settings.root == "/r"
    assert (socket.path, socket.lun, socket.initiator) == ("/s", "disk", "iqn.2026-01.x:a")
    assert socket.unit_attentions


@pytest.mark.parametrize("flag", ["--lun=../x", "--timeout=soon", "--log-level=loud"])
def test_serve_wrong_value_is_a_usage_error(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The configuration refuses it, and names the option."""
    assert main(["serve", flag]) == 2
    assert flag.partition("=")[0] in capsys.readouterr().err
