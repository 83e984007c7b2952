"""CHAP as iSCSI carries it (RFC 7143 12.1.3, RFC 1994), the target's part.

The initiator offers algorithms, gets an identifier and a challenge, and answers with a name
and a response; it may send a challenge of its own, which the target then answers. Nothing
here tells which of name and secret was wrong, neither by words nor by time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from flockpr.iscsi.keys import Pair, parse_number

MD5: Final = 5
SHA1: Final = 6
SHA256: Final = 7
SHA3_256: Final = 8
"""CHAP_A: PPP authentication algorithms; 6 to 8 were registered for iSCSI later."""

_HASHES: Final = {MD5: "md5", SHA1: "sha1", SHA256: "sha256", SHA3_256: "sha3_256"}
DEFAULT_ALGORITHMS: Final = (SHA256, SHA3_256, MD5)
"""MD5 is the one that every initiator must have; the initiator's order decides."""

_MAX_BINARY: Final = 1024
"""Bytes of a challenge or a response: RFC 1994 allows far less than the text can hold."""
KEYS: Final = frozenset({"CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"})


def decode_binary(value: str) -> bytes | None:
    """A binary value in hexadecimal (0x) or base64 (0b), or None (RFC 7143 6.1)."""
    kind, digits = value[:2].lower(), value[2:]
    if not digits or len(digits) > 2 * _MAX_BINARY:
        return None
    try:
        if kind == "0x":
            # An odd number of digits stands for the number without its leading zero.
            return binascii.unhexlify(digits if len(digits) % 2 == 0 else "0" + digits)
        if kind == "0b":
            return base64.b64decode(digits, validate=True)
    except ValueError:
        return None
    return None


def encode_binary(value: bytes) -> str:
    """A binary value in hexadecimal; some initiators read nothing else."""
    return "0x" + value.hex()


def digest_length(algorithm: int) -> int:
    """Bytes of a response."""
    return hashlib.new(_HASHES[algorithm], usedforsecurity=False).digest_size


def response(algorithm: int, identifier: int, secret: bytes, challenge: bytes) -> bytes:
    """What proves that one has the secret (RFC 1994 4.1)."""
    text = bytes([identifier]) + secret + challenge
    return hashlib.new(_HASHES[algorithm], text, usedforsecurity=False).digest()


class ChapTarget:
    """One authentication.

    Args:
        accounts: Secrets by user name.
        mutual: Name and secret with which the target answers a challenge, if it can.
        random: Gives unpredictable bytes.
        algorithms: Which are acceptable.

    Attributes:
        done: The initiator has proven a secret.
        user: Which one.
        claimed: The name that it gave, proven or not; whatever a peer sent.
    """

    def __init__(
        self,
        accounts: Mapping[str, bytes],
        mutual: tuple[str, bytes] | None,
        random: Callable[[int], bytes],
        algorithms: Sequence[int] = DEFAULT_ALGORITHMS,
    ) -> None:
        self._accounts = accounts
        self._mutual = mutual
        self._random = random
        self._algorithms = algorithms
        self._algorithm = 0
        self._identifier = 0
        self._challenge = b""
        self.done = False
        self.user = ""
        self.claimed = ""

    def answer(self, keys: Mapping[str, str]) -> list[Pair] | None:
        """Takes the CHAP keys of one login request.

        Args:
            keys: They and their values; none of them twice.

        Returns:
            The keys of the login response, or None: authentication has failed.
        """
        if not keys:
            return []
        if self.done:
            return None
        if not self._challenge:
            return self._ask(keys)
        return self._check(keys)

    def _ask(self, keys: Mapping[str, str]) -> list[Pair] | None:
        if set(keys) != {"CHAP_A"}:
            return None
        for choice in keys["CHAP_A"].split(","):
            number = parse_number(choice)
            if number in self._algorithms and number in _HASHES:
                self._algorithm = number
                break
        else:
            return None
        drawn = self._random(1 + max(16, digest_length(self._algorithm)))
        self._identifier, self._challenge = drawn[0], drawn[1:]
        return [
            ("CHAP_A", str(self._algorithm)),
            ("CHAP_I", str(self._identifier)),
            ("CHAP_C", encode_binary(self._challenge)),
        ]

    def _check(self, keys: Mapping[str, str]) -> list[Pair] | None:
        if not {"CHAP_N", "CHAP_R"} <= set(keys) or "CHAP_A" in keys:
            return None
        name = self.claimed = keys["CHAP_N"]
        # An unknown name is compared as well, with a secret that nobody has, so that the
        # time of the answer does not tell which names there are.
        secret = self._accounts.get(name)
        expected = response(
            self._algorithm,
            self._identifier,
            secret if secret is not None else self._random(32),
            self._challenge,
        )
        given = decode_binary(keys["CHAP_R"])
        if given is None or not hmac.compare_digest(expected, given) or secret is None:
            return None
        answer = self._prove(keys)
        if answer is not None:
            self.done = True
            self.user = name
        return answer

    def _prove(self, keys: Mapping[str, str]) -> list[Pair] | None:
        """Answers the initiator's challenge, when it sent one."""
        if "CHAP_I" not in keys and "CHAP_C" not in keys:
            return []
        identifier = parse_number(keys.get("CHAP_I", ""))
        challenge = decode_binary(keys.get("CHAP_C", ""))
        if identifier is None or identifier > 255 or challenge is None or self._mutual is None:
            return None
        if challenge == self._challenge:
            # 12.1.3: our own challenge reflected would make us compute what we asked for.
            return None
        user, secret = self._mutual
        proof = response(self._algorithm, identifier, secret, challenge)
        return [("CHAP_N", user), ("CHAP_R", encode_binary(proof))]
