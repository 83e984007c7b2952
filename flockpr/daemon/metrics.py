"""A daemon's own numbers for Prometheus: how long commits and waits take, and its events.

What is on the share is shown by `flockpr metrics`, for all daemons; these numbers are known to
the process alone.
"""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Callable, Iterator, Mapping

from flockpr import events, timings
from flockpr.daemon.schema import LOOPBACK
from flockpr.errors import ConfigError, FlockprError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

HISTOGRAMS: Mapping[timings.Kind, tuple[str, str]] = {
    timings.Kind.COMMIT: ("flockpr_commit_seconds", "How long commits of this daemon took."),
    timings.Kind.LOCK_WAIT: (
        "flockpr_lock_wait_seconds",
        "How long this daemon waited for its turn to commit.",
    ),
    timings.Kind.GATE_WAIT: (
        "flockpr_gate_wait_seconds",
        "How long commands that take access away waited for reads and writes to end.",
    ),
}
"""By kind, the metric and what it says."""
EVENTS = ("flockpr_daemon_events_total", "Events of this daemon since it began.")


def render() -> str:
    """The numbers now, in the text format 0.0.4."""
    return "".join(f"{line}\n" for line in _lines())


def _lines() -> Iterator[str]:
    seen = timings.histograms()
    for kind, (name, text) in HISTOGRAMS.items():
        yield f"# HELP {name} {text}"
        yield f"# TYPE {name} histogram"
        for (one, where), histogram in sorted(seen.items()):
            if one is kind:
                yield from _histogram(name, os.path.basename(where.rstrip("/")), histogram)
    name, text = EVENTS
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} counter"
    for event, count in events.totals().items():
        yield f'{name}{{event="{event}"}} {count}'


def _histogram(name: str, lun: str, histogram: timings.Histogram) -> Iterator[str]:
    """The name of a logical unit has no character that has to be escaped."""
    count = 0
    for bound, more in zip(timings.BUCKETS, histogram.buckets, strict=True):
        count += more
        yield f'{name}_bucket{{lun="{lun}",le="{bound:g}"}} {count}'
    yield f'{name}_bucket{{lun="{lun}",le="+Inf"}} {histogram.count}'
    yield f'{name}_sum{{lun="{lun}"}} {histogram.total:.6f}'
    yield f'{name}_count{{lun="{lun}"}} {histogram.count}'


def split_place(text: str) -> tuple[str, int]:
    """An address of the loopback, and a port.

    Raises:
        ConfigError: It is none: there is nothing that would authenticate.
    """
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{text}: not HOST:PORT, such as 127.0.0.1:9750")
    if host not in LOOPBACK:
        raise ConfigError(
            f"{text}: not on the loopback",
            "listen on 127.0.0.1 and put what authenticates in front of it, or use a text file",
        )
    return "127.0.0.1" if host == "localhost" else host, int(port)


Page = Callable[[str], tuple[str, bytes]]
"""Given what the reader accepts, a Content-Type and the numbers in that format."""


def plain(body: Callable[[], str]) -> Page:
    """A page in the text format 0.0.4, which every reader takes."""
    return lambda _: (CONTENT_TYPE, body().encode())


class MetricsServer:
    """Answers GET /metrics.

    Args:
        place: HOST:PORT on the loopback.
        page: What to answer with, now.

    Attributes:
        port: The port that it has.

    Raises:
        ConfigError: It cannot listen there.
    """

    def __init__(self, place: str, page: Page) -> None:
        host, port = split_place(place)
        try:
            self._server = _Server((host, port), _handler(page))
        except OSError as error:
            raise ConfigError(f"{place}: {error.strerror}", "choose another port") from None
        self.port: int = self._server.server_port

    def serve_forever(self) -> None:
        """Answer in this thread until `stop`."""
        self._server.serve_forever()

    def start(self) -> None:
        """Answer in a thread of its own."""
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()

    def stop(self) -> None:
        """Answer no more; after `start`."""
        self._server.shutdown()
        self._server.server_close()

    def close(self) -> None:
        """Let go of the port; where nobody answers."""
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    """One thread for each request: a share that hangs keeps only its own waiting."""

    daemon_threads = True


def _handler(page: Page) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers with what is the case now."""

        timeout = 10

        def do_GET(self) -> None:
            """GET /metrics."""
            if self.path not in ("/metrics", "/"):
                self.send_error(404)
                return
            try:
                kind, data = page(self.headers.get("Accept", ""))
            except FlockprError as error:  # a share that is gone for a moment
                self.send_error(503, explain=str(error))
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing: who scrapes does so every few seconds."""

    return Handler
