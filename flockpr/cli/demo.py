"""`flockpr demo`: two hosts and two guests contest a disk, on this machine, in a screen."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from flockpr.cli.common import add_json, emit_json

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "demo",
        help="two hosts, two guests, one disk: register, reserve, conflict, preempt, kill -9",
        description="Starts two daemons over one temporary lock directory, plays two guests "
        "against them over real sockets, and removes everything again. Exits with 0 only if "
        "every step was answered as it must be.",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Play the story."""
    import signal
    import tempfile
    import threading

    from flockpr.cli.demo_story import Story

    if threading.current_thread() is threading.main_thread():
        # Whoever ends the demo ends its daemons with it.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="flockpr-demo-") as root:
        with Story(root, quiet=args.json) as story:
            code = story.play()
        if args.json:
            emit_json(story.document())
        return code
