"""What happens to a test whose peer is missing."""

from __future__ import annotations

import pytest

from tests.support.peers import REQUIRED, find, require


def test_require_present_binaries_gives_their_paths() -> None:
    """Also those in the administrator's directories."""
    assert require("sh") == {"sh": find("sh")}


def test_require_missing_binary_skips_visibly(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a laptop: the reason names what to install."""
    monkeypatch.delenv(REQUIRED, raising=False)

    with pytest.raises(pytest.skip.Exception, match="not installed: no-such-peer"):
        require("sh", "no-such-peer")


def test_require_missing_binary_fails_where_peers_are_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In CI a peer that is gone must not look like a test that passed."""
    monkeypatch.setenv(REQUIRED, "1")

    with pytest.raises(pytest.fail.Exception, match="not installed: no-such-peer"):
        require("no-such-peer")
