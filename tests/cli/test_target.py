"""`flockpr target`: its options are keys of the configuration."""

from __future__ import annotations

import os

import attrs
import pytest

from flockpr.cli import build_parser, main
from flockpr.cli.target import flags
from flockpr.daemon import main as daemon
from flockpr.daemon.settings import Serve, Settings
from flockpr.daemon.target_settings import Target


def test_target_options_are_keys_of_serve_and_its_own() -> None:
    """No option that the configuration does not know."""
    args = build_parser().parse_args(["target"])
    own = {"portal", "lun", "name", "chap", "allow_unauthenticated", "fencing", "json"}
    assert flags(args) == {}
    options = set(vars(args)) - {"verb", "run", "config"} - own
    assert options <= {field.name for field in attrs.fields(Serve)}


def test_target_options_reach_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its exit code comes back."""
    served: list[Settings] = []

    def serve(settings: Settings, told: object) -> int:
        assert told is None
        served.append(settings)
        return 7

    monkeypatch.setattr(daemon, "serve_target", serve)
    argv = ["target", "--root", "/r", "--portal", "127.0.0.1:0", "--portal", "[::1]:3261,3"]
    argv += ["--lun", "a", "--lun", "b", "--chap", "c.toml", "--name", "iqn.2026-01.x:t"]
    argv += ["--allow-unauthenticated", "--timeout", "5", "--log-level", "debug"]

    assert main(argv) == 7
    (settings,) = served
    assert settings.target == Target(
        name="iqn.2026-01.x:t",
        luns=("a", "b"),
        chap=os.path.abspath("c.toml"),
        allow_unauthenticated=True,
    )
    assert [(each.portal, each.tag) for each in settings.portals] == [
        ("127.0.0.1:0", 2),
        ("[::1]:3261", 3),
    ]
    assert (settings.root, settings.serve.timeout) == ("/r", 5.0)
    assert settings.serve.log_level == "debug"


@pytest.mark.parametrize(
    "flag", ["--lun=../x", "--portal=here", "--portal=a:1,1", "--name=a b", "--timeout=soon"]
)
def test_target_wrong_value_is_a_usage_error(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The configuration refuses it, and says that it was the command line."""
    assert main(["target", flag]) == 2
    assert "the command line" in capsys.readouterr().err
