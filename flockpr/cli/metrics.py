"""`flockpr metrics`: numbers for Prometheus, as text, into a file, or by HTTP."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from flockpr.cli.common import add_json, add_root, emit_json, find_root
from flockpr.cli.exit_codes import ExitCode
from flockpr.errors import ConfigError

if TYPE_CHECKING:
    from flockpr.cli.common import Verbs
    from flockpr.cli.exposition import Sample
    from flockpr.daemon.metrics import Page


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser("metrics", help="numbers for Prometheus")
    parser.add_argument("lun", nargs="?", metavar="LUN", help="one logical unit (default: all)")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="into this file, for the node exporter's textfiles"
    )
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="answer GET /metrics there until interrupted; the loopback only; with the extra "
        "`prometheus` also as OpenMetrics",
    )
    add_root(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the numbers, write them, or serve them."""
    root = find_root(args)
    if args.listen:
        return _serve(root, args.lun, args.listen)
    samples = _samples(root, args.lun)
    if args.json:
        found = [{"name": one.name, "labels": one.labels, "value": one.value} for one in samples]
        emit_json({"root": root, "samples": found})
        return ExitCode.GOOD
    from flockpr.cli.exposition import render

    text = render(samples)
    if args.output:
        _replace(args.output, text)
    else:
        sys.stdout.write(text)
    return ExitCode.GOOD


def _samples(root: str, lun: str | None) -> list[Sample]:
    from flockpr.cli.exposition import collect

    return collect(root, lun)


def _replace(path: str, text: str) -> None:
    """Write a file that is never seen half written."""
    aside = f"{path}.{os.getpid()}.tmp"
    with open(aside, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(aside, path)


def _serve(root: str, lun: str | None, place: str) -> int:
    from flockpr.daemon.metrics import MetricsServer

    try:
        server = MetricsServer(place, _page(root, lun))
    except ConfigError as error:
        raise ConfigError(f"--listen {error}", error.remedy) from None
    sys.stdout.write(f"http://{place.rpartition(':')[0]}:{server.port}/metrics\n")
    sys.stdout.flush()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    finally:
        server.close()
    return ExitCode.GOOD


def _page(root: str, lun: str | None) -> Page:
    """What is served: where prometheus_client is installed also as OpenMetrics."""
    try:
        from flockpr.cli.prometheus import negotiated
    except ImportError:
        from flockpr.cli.exposition import render
        from flockpr.daemon.metrics import plain

        return plain(lambda: render(_samples(root, lun)))
    return negotiated(root, lun)
