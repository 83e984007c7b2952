"""The log on standard error: one line per message, and never a reason to wait.

libvirt reads the helper's standard error only until the helper has started, and leaves the
pipe full for the rest of the guest's life. A handler that waits there would stop every guest's
commands after some thousand lines, so a line that cannot be written at once is dropped, and
the number of dropped lines is told when there is room again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import time
from collections.abc import Callable
from typing import Any

LINE_MAX = select.PIPE_BUF
"""A pipe that polls as writable takes this much without waiting (pipe(7))."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LogHandler(logging.Handler):
    """Writes formatted records to a descriptor without ever waiting for its reader.

    Args:
        descriptor: Where to; standard error by default.
    """

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or count it as dropped."""
        try:
            line = self.format(record)
        except (TypeError, ValueError):  # arguments that do not fit the message: a slip of ours
            line = f"level=error msg={json.dumps(str(record.msg))} unformatted=true"
        if self.dropped and self._write(f"{self.dropped} log lines were dropped here"):
            self.dropped = 0
        if not self._write(line):
            self.dropped += 1

    def _write(self, line: str) -> bool:
        data = line.encode("utf-8", "backslashreplace")
        if len(data) >= LINE_MAX:
            data = data[: LINE_MAX - 4] + b"..."
        # A reader that has gone away (EPIPE), a full disk: nobody to tell.
        with contextlib.suppress(OSError):
            if self._poll.poll(0):
                os.write(self._descriptor, data + b"\n")
                return True
        return False


def text_line(record: logging.LogRecord) -> str:
    """Words first, for people; then what the record carries beside them, as key=value."""
    words = [_time(record), record.levelname.lower(), _one_line(record.getMessage())]
    words += [f"{name}={_quoted(value)}" for name, value in _extras(record).items()]
    return " ".join(words) + _trace(record, "\n  ")


def json_line(record: logging.LogRecord) -> str:
    """The same as one JSON object."""
    document: dict[str, Any] = {
        "time": _time(record),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
        **_extras(record),
    }
    if trace := _trace(record, "\n"):
        document["traceback"] = trace.strip()
    return json.dumps(document, default=str, ensure_ascii=False)


class _Formatter(logging.Formatter):
    def __init__(self, line: Callable[[logging.LogRecord], str]) -> None:
        super().__init__()
        self._line = line

    def format(self, record: logging.LogRecord) -> str:
        return self._line(record)


def configure(level: str, form: str = "text", descriptor: int = 2) -> LogHandler:
    """Send every logger of the process to standard error.

    Args:
        level: "debug", "info", "warning" or "error".
        form: "text" or "json".
        descriptor: Where to.

    Returns:
        The handler; it replaces whatever the root logger had.
    """
    logging.raiseExceptions = False  # a broken standard error is not worth a traceback on it
    handler = LogHandler(descriptor)
    handler.setFormatter(_Formatter(json_line if form == "json" else text_line))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    return handler


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _one_line(text: str) -> str:
    """Without anything that could look like another line, or act on a terminal."""
    return text if text.isprintable() else json.dumps(text, ensure_ascii=False)[1:-1]


def _time(record: logging.LogRecord) -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{stamp}.{int(record.msecs):03d}Z"


def _quoted(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and not set(text) & set(" \"'=")
    return text if plain and text else json.dumps(text)


def _trace(record: logging.LogRecord, separator: str) -> str:
    if not record.exc_info:
        return ""
    import traceback

    lines = "".join(traceback.format_exception(*record.exc_info)).rstrip().split("\n")
    return separator + separator.join(lines)
