"""Two hosts that work together by files in the directory under test, and by nothing else.

The first host writes `ask-N`, the second does it and writes `answer-N`. Both look at the
listing of a room of their own for it, so that nothing here refreshes what the steps test.
"""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Mapping
from typing import Any, Final

from flockpr.probe.helpers import Helper, NoAnswer, ask
from flockpr.probe.operations import REMOTE
from flockpr.probe.place import MAIL

_PAUSE: Final = 0.05
_STIR: Final = 1.0
"""Seconds after which this host changes the room itself: an NFS client that cached the
listing in the very tick of a change would go on showing it for its own time.
"""
END: Final = "end"


def receive(postman: Helper, name: str, patience: float) -> dict[str, Any]:
    """Wait for a letter.

    Raises:
        NoAnswer: None came in time.
    """
    deadline = time.monotonic() + patience
    stir = time.monotonic() + _STIR
    while name not in ask(postman, "names", room=MAIL):
        now = time.monotonic()
        if now > deadline:
            raise NoAnswer(f"nothing from the other host within {patience:g} s")
        if now > stir:
            ask(postman, "stir")
            stir = now + _STIR
        time.sleep(_PAUSE)
    text = ask(postman, "read", name=name, room=MAIL)
    letter = json.loads(text) if text else None
    if not isinstance(letter, dict):
        raise NoAnswer("what the other host wrote cannot be read")
    return letter


def send(postman: Helper, name: str, letter: Mapping[str, Any]) -> None:
    """Put a letter there, whole."""
    ask(postman, "publish", name=name, text=json.dumps(dict(letter)), room=MAIL)


class Peer:
    """The second host, as the first one sees it: an actor.

    Args:
        postman: A helper for the letters alone.
        patience: Seconds to wait for an answer.
    """

    def __init__(self, postman: Helper, patience: float) -> None:
        self._postman = postman
        self._patience = patience
        self._number = 0

    def start(self, what: str, **arguments: Any) -> None:
        """Ask for an operation."""
        self._number += 1
        send(self._postman, f"ask-{self._number}", {"do": what, "with": arguments})

    def finish(self) -> Any:
        """Wait for the answer."""
        letter = receive(self._postman, f"answer-{self._number}", self._patience)
        if "errno" in letter:
            raise OSError(int(letter["errno"]), f"the other host: {letter.get('text')}")
        return letter.get("value")


def follow(postman: Helper, hands: Helper, patience: float) -> dict[str, Any]:
    """Be the second host: do what the first asks, until it ends.

    Args:
        postman: A helper for the letters alone.
        hands: The helper that does it.
        patience: Seconds to wait for the next letter.

    Returns:
        What the first host found.

    Raises:
        NoAnswer: The first host, or the directory, went silent.
    """
    number = 0
    while True:
        number += 1
        letter = receive(postman, f"ask-{number}", patience)
        if letter.get("do") == END:
            send(postman, f"answer-{number}", {"value": None})
            return dict(letter["with"])
        send(postman, f"answer-{number}", _done(hands, letter))


def _done(hands: Helper, letter: Mapping[str, Any]) -> dict[str, Any]:
    if letter.get("do") not in REMOTE:
        return {"errno": errno.ENOSYS, "text": "not for another host"}
    try:
        return {"value": ask(hands, letter["do"], **letter.get("with", {}))}
    except OSError as error:
        return {"errno": error.errno, "text": error.strerror}
    except NoAnswer as error:
        hands.kill()  # a late answer would be taken for that to the next question
        return {"errno": errno.ETIMEDOUT, "text": str(error)}
