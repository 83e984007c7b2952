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

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


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
        help="answer GET /metrics there until interrupted; the loopback only",
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
    import http.server

    from flockpr.cli.exposition import render

    host, colon, port = place.rpartition(":")
    host = host.strip("[]")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--listen {place}: not HOST:PORT, such as 127.0.0.1:9750")
    if host not in _LOOPBACK:
        raise ConfigError(
            f"--listen {place}: not on the loopback",
            "listen on 127.0.0.1 and put what authenticates in front of it, or use --output",
        )

    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers with what is the case now."""

        def do_GET(self) -> None:
            """GET /metrics."""
            if self.path not in ("/metrics", "/"):
                self.send_error(404)
                return
            body = render(_samples(root, lun)).encode()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing: who scrapes does so every few seconds."""

    class Server(http.server.ThreadingHTTPServer):
        """One thread for each request: a share that hangs keeps only its own waiting."""

        daemon_threads = True

    server = Server(("127.0.0.1" if host == "localhost" else host, int(port)), Handler)
    with server:
        sys.stdout.write(f"http://{place.rpartition(':')[0]}:{server.server_port}/metrics\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return ExitCode.GOOD
