"""`flockpr serve`: the daemon (being written; the names are final)."""

from __future__ import annotations

from flockpr.daemon.settings import Settings


def serve(settings: Settings) -> int:
    """Serve until told to stop; the process's exit code."""
    raise NotImplementedError(settings.root)
