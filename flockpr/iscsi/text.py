"""Text requests of the full feature phase (RFC 7143 11.10, 11.11, Appendix C).

One exchange at a time: a request with the reserved target transfer tag begins a new one and
drops the old one. A text that is too long for one PDU goes on in further ones, with the C bit
and a tag of ours, in either direction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import Final

import attrs

from flockpr.iscsi import keys
from flockpr.iscsi.events import Identification, TargetsRequested
from flockpr.iscsi.keys import Pair
from flockpr.iscsi.pdu import CONTINUE, FINAL, NO_TAG, RejectReason

_REQUEST: Final = Struct(">xB14xII24x")
"""Byte 1, initiator task tag, target transfer tag."""


@attrs.frozen
class TextReply:
    """One Text Response.

    Attributes:
        itt: Initiator task tag.
        flags: F and C.
        tag: Target transfer tag, `NO_TAG` in the last response.
        text: Data segment.
    """

    itt: int
    flags: int
    tag: int
    text: bytes


TextOutcome = TextReply | TargetsRequested | RejectReason


class TextExchange:
    """The target's part.

    Args:
        identification: Whose session it is.
        send_limit: Gives the initiator's MaxRecvDataSegmentLength.
        declare: Called when the initiator declares another one.
        tags: Gives target transfer tags.
    """

    def __init__(
        self,
        identification: Identification,
        *,
        send_limit: Callable[[], int],
        declare: Callable[[int], None],
        tags: Callable[[], int],
    ) -> None:
        self._who = identification
        self._send_limit = send_limit
        self._declare = declare
        self._tags = tags
        self._itt = NO_TAG
        self._tag = NO_TAG
        self._text = b""
        self._unsent = b""
        self._final = False

    def feed(self, bhs: bytes, text: bytes) -> TextOutcome:
        """Takes one Text Request."""
        flags, itt, tag = _REQUEST.unpack(bhs)
        if itt == NO_TAG or (flags & FINAL and flags & CONTINUE):
            return RejectReason.PROTOCOL_ERROR
        if tag == NO_TAG:
            self._begin(itt)
        elif tag != self._tag or itt != self._itt:
            return RejectReason.INVALID_PDU_FIELD
        self._final = bool(flags & FINAL)
        if self._unsent:
            if text:
                return RejectReason.PROTOCOL_ERROR
            return self._send()
        self._text += text
        if len(self._text) > keys.MAX_TEXT_LENGTH:
            self._begin(NO_TAG)
            return RejectReason.OUT_OF_RESOURCES
        if flags & CONTINUE:
            return self._reply(0, b"")
        pairs = keys.parse_text(self._text)
        self._text = b""
        if pairs is None:
            return RejectReason.PROTOCOL_ERROR
        return self._answer(pairs)

    def targets(
        self, request: TargetsRequested, targets: Iterable[tuple[str, Sequence[str]]]
    ) -> TextReply | None:
        """The answer to `TargetsRequested`, or None when that exchange was dropped since.

        Args:
            request: What was asked.
            targets: Names, each with its addresses as `host:port,tag`.
        """
        if request.itt != self._itt:
            return None
        pairs = list(request.others)
        for name, addresses in targets:
            pairs.append(("TargetName", name))
            pairs.extend(("TargetAddress", address) for address in addresses)
        self._unsent = keys.format_text(pairs)
        return self._send()

    def _begin(self, itt: int) -> None:
        self._itt = itt
        self._tag = NO_TAG
        self._text = b""
        self._unsent = b""

    def _answer(self, pairs: Sequence[Pair]) -> TextOutcome:
        which: str | None = None
        asked = False
        others: list[Pair] = []
        for key, value in pairs:
            if key != "SendTargets":
                others += self._other(key, value)
            elif asked or not self._may_ask(value):
                others.append((key, keys.REJECT))
            else:
                asked = True
                which = None if value == "All" else value.lower()
                if not self._who.discovery:
                    which = self._who.target_name
        if asked:
            return TargetsRequested(which, self._itt, tuple(others))
        self._unsent = keys.format_text(others)
        return self._send()

    def _may_ask(self, value: str) -> bool:
        """Appendix C: All in discovery sessions, nothing in normal ones, a name in both.

        Initiators ask for All in normal sessions, too; they are told of the one target that
        they are logged in to, as for an empty value.
        """
        if value == "All":
            return True
        if not value:
            return not self._who.discovery
        if self._who.discovery:
            return value[:4].lower() in {"iqn.", "eui.", "naa."}
        return value.lower() == self._who.target_name

    def _other(self, key: str, value: str) -> list[Pair]:
        if value in {keys.NOT_UNDERSTOOD, keys.REJECT, keys.IRRELEVANT}:
            return []
        if key == "MaxRecvDataSegmentLength":
            # The one operational key that may change in this phase (13.12).
            length = keys.parse_number(value)
            if length is None or not 512 <= length < 1 << 24:
                return [(key, keys.REJECT)]
            self._declare(length)
            return []
        if key == "InitiatorAlias":
            return []
        return [(key, keys.REJECT if key in keys.RULES else keys.NOT_UNDERSTOOD)]

    def _send(self) -> TextReply:
        limit = self._send_limit()
        part, self._unsent = self._unsent[:limit], self._unsent[limit:]
        if self._unsent:
            return self._reply(CONTINUE, part)
        if not self._final:
            return self._reply(0, part)
        itt = self._itt
        self._begin(NO_TAG)
        return TextReply(itt, FINAL, NO_TAG, part)

    def _reply(self, flags: int, text: bytes) -> TextReply:
        self._tag = self._tags()
        return TextReply(self._itt, flags, self._tag, text)
