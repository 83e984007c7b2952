"""Log lines for people and programs, and a standard error that nobody reads."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator

import pytest

from flockpr.daemon import logs


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger, with the root logger put back afterwards."""
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    yield logging.getLogger("flockpr.test")
    root.handlers[:], logging.raiseExceptions = handlers, raising
    root.setLevel(level)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe in the place of standard error."""
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            continue


def test_text_line_has_time_level_words_and_pairs(
    logger: logging.Logger, pipe: tuple[int, int]
) -> None:
    """One line, whatever is in the values."""
    logs.configure("info", "text", pipe[1])
    logger.info("hello %s", "there", extra={"lun": "disk", "who": 'a "b"\n', "n": 3})
    logger.debug("not this")
    line = os.read(pipe[0], 4096).decode()
    stamp, rest = line.split(" ", 1)
    assert stamp.endswith("Z")
    assert rest == 'info hello there lun=disk who="a \\"b\\"\\n" n=3\n'


def test_json_line_is_one_object(logger: logging.Logger, pipe: tuple[int, int]) -> None:
    """The same, for programs; a traceback stays inside."""
    logs.configure("debug", "json", pipe[1])
    try:
        raise ValueError("x")
    except ValueError:
        logger.exception("failed", extra={"lun": "disk"})
    text = os.read(pipe[0], 4096)
    assert text.count(b"\n") == 1
    document = json.loads(text)
    assert document["level"] == "error"
    assert document["logger"] == "flockpr.test"
    assert (document["message"], document["lun"]) == ("failed", "disk")
    assert "ValueError: x" in document["traceback"]


def test_line_breaks_in_a_message_cannot_forge_a_line(
    logger: logging.Logger, pipe: tuple[int, int]
) -> None:
    """What a client sent may be in a message."""
    logs.configure("info", "text", pipe[1])
    logger.info("name\n2026-01-01T00:00:00Z info all is well\r\x1b[2J")
    text = os.read(pipe[0], 4096)
    assert text.count(b"\n") == 1
    assert b"\r" not in text
    assert b"\x1b" not in text


def test_full_pipe_drops_lines_and_says_so_later(
    logger: logging.Logger, pipe: tuple[int, int]
) -> None:
    """Libvirt stops reading after the start: the daemon must go on, and does."""
    handler = logs.configure("info", "text", pipe[1])
    for _ in range(1000):
        logger.info("x" * 1000)
    dropped = handler.dropped
    assert dropped > 0
    while len(os.read(pipe[0], 65536)) == 65536:
        pass
    logger.info("again")
    assert os.read(pipe[0], 65536).decode().splitlines()[0] == (
        f"{dropped} log lines were dropped here"
    )
    assert handler.dropped == 0


def test_reader_that_has_gone_is_no_error(logger: logging.Logger, pipe: tuple[int, int]) -> None:
    """A closed pipe costs the lines and nothing else."""
    handler = logs.configure("info", "text", pipe[1])
    os.close(pipe[0])
    logger.info("anybody?")
    assert handler.dropped == 1


def test_very_long_line_is_cut(logger: logging.Logger, pipe: tuple[int, int]) -> None:
    """More than a pipe takes at once could block."""
    logs.configure("info", "text", pipe[1])
    logger.info("x" * 100_000)
    line = os.read(pipe[0], 65536)
    assert len(line) <= logs.LINE_MAX
    assert line.endswith(b"...\n")


def test_message_that_does_not_fit_its_arguments_is_logged_unformatted(
    logger: logging.Logger, pipe: tuple[int, int]
) -> None:
    """A slip in a log call must not end a thread."""
    logs.configure("info", "text", pipe[1])
    logger.info("%d", "x")
    assert b'"%d"' in os.read(pipe[0], 4096)
