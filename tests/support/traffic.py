"""Random commands for the twins, led towards rows of the tables that were seen little.

`Traffic.run` plays episodes: each has a fresh unit with limits of its own. Every command is
the one of a few candidates whose decision was seen least so far, which the second model can
tell without carrying it out.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

from flockpr.core.model import UnitConfig
from tests.support.access_rows import ACCESS_ROWS, cdb_of
from tests.support.model2 import Model2
from tests.support.model2_bytes import Answer, Nexus2
from tests.support.scsi import (
    CLEAR,
    INQUIRY,
    MOVE,
    PREEMPT,
    PREEMPT_ABORT,
    REGISTER,
    REGISTER_IGNORE,
    RELEASE,
    RELEASE_6,
    RELEASE_10,
    REPORT_LUNS,
    RESERVE,
    RESERVE_6,
    RESERVE_10,
    TYPES,
    basic_list,
    in_cdb,
    iscsi_id,
    move_list,
    out_cdb,
)
from tests.support.twins import Machine, Sent, Twins

_NAMES: tuple[tuple[str, int | None], ...] = (
    ("iqn.2026-01.org.example:a", None),
    ("iqn.2026-01.org.example:b", 0x400001370000),
    ("iqn.2026-01.org.example:b", 0x400001370001),
    ("c", None),
    ("iqn.2026-01.org.example:" + "d" * 60, None),
)
_KEYS = (0x1, 0x2, 0x2, 0xFFFFFFFFFFFFFFFF)
_ACTIONS = (
    *(REGISTER,) * 6,
    *(RESERVE,) * 5,
    *(RELEASE,) * 3,
    CLEAR,
    *(PREEMPT,) * 3,
    *(PREEMPT_ABORT,) * 3,
    *(REGISTER_IGNORE,) * 4,
    *(MOVE,) * 5,
)
_FOREIGN_IDS = tuple(
    bytes((first,)) + bytes(23) for first in (0x00, 0x01, 0x03, 0x04, 0x06, 0x0A, 0x4A, 0x85, 0xC5)
)


Script = list[tuple[UnitConfig, int, int, list[Sent | tuple[str, Nexus2]]]]
"""Episodes as they were played: limits, PRGENERATION, first slot, commands and events."""


def replay(machine: Machine, script: Script) -> Iterator[None]:
    """Play the episodes again, with another machine; yields after each.

    Raises:
        DisagreementError: The twins differ.
    """
    for config, generation, next_slot, happenings in script:
        twins = Twins(machine, config, generation, next_slot)
        for happening in happenings:
            if isinstance(happening, Sent):
                twins.send(happening)
            else:
                twins.happen(*happening)
        yield


class Traffic:
    """A source of commands.

    Args:
        machine: What is under test.
        seed: Of the random numbers.
        rows: How often each row was seen; shared between calls of `run`.
    """

    def __init__(self, machine: Machine, seed: int, rows: Counter[str] | None = None) -> None:
        self.machine = machine
        self.random = random.Random(seed)
        self.rows: Counter[str] = Counter() if rows is None else rows
        self.commands = 0
        self.script: Script = []

    def run(self, commands: int) -> None:
        """Send at least that many commands.

        Raises:
            DisagreementError: The twins differ.
        """
        end = self.commands + commands
        while self.commands < end:
            self.episode(self.random.choice((20, 60, 150)))

    def episode(self, commands: int) -> None:
        """One unit from its creation on."""
        rng = self.random
        config = UnitConfig(
            rng.choice(((1,), (1, 2), (1, 2, 7))),
            rng.choice((1024, 1024, 2, 4, 6)),
            rng.choice((1024, 1024, 1024, 2)),
        )
        generation, next_slot = rng.choice((0, 0, 2**32 - 3)), rng.choice((0, 0, 65534))
        twins = self.begin(config, generation, next_slot)
        names = rng.sample(_NAMES, rng.choice((2, 3, 3)))
        nexuses = [(*name, port) for name in names for port in config.target_ports][:6]
        report = rng.random()
        for _ in range(commands):
            nexus = rng.choice(nexuses)
            if rng.random() < 0.02:
                self.happen(twins, rng.choice(("power", "reset", "loss", "loss")), nexus)
            if rng.random() < 0.05:
                self.populate(twins, nexuses)
            self.send(twins, self.choose(twins.model, nexuses, report))

    def begin(self, config: UnitConfig, generation: int, next_slot: int) -> Twins:
        """A fresh unit."""
        self.script.append((config, generation, next_slot, []))
        return Twins(self.machine, config, generation, next_slot)

    def happen(self, twins: Twins, event: str, nexus: Nexus2) -> None:
        """Let an event happen to both."""
        self.script[-1][3].append((event, nexus))
        twins.happen(event, nexus)

    def send(self, twins: Twins, sent: Sent) -> None:
        """Send it to both and count what it hit."""
        self.script[-1][3].append(sent)
        self.rows.update(twins.send(sent).rows)
        self.commands += 1

    def populate(self, twins: Twins, nexuses: list[Nexus2]) -> None:
        """Most nexuses register and one reserves: the rich states that chance seldom reaches."""
        rng = self.random
        for nexus in nexuses:
            if rng.random() < 0.8:
                data = basic_list(0, rng.choice(_KEYS))
                self.send(twins, Sent(nexus, out_cdb(REGISTER_IGNORE), data, report=False))
        nexus = rng.choice(nexuses)
        cdb = out_cdb(RESERVE, type_=rng.choice(TYPES))
        data = basic_list(twins.model.keys.get(nexus, 0))
        self.send(twins, Sent(nexus, cdb, data, report=False))

    def choose(self, model: Model2, nexuses: list[Nexus2], report: float) -> Sent:
        """The one of a few candidates whose rows were seen least."""
        candidates = [
            self.candidate(model, nexuses, report) for _ in range(self.random.choice((1, 6, 16)))
        ]
        return min(candidates, key=lambda sent: self.seen(preview(model, sent)))

    def seen(self, answer: Answer) -> int:
        """How often the rarest of its rows was taken."""
        return min(self.rows[row] for row in answer.rows)

    def candidate(self, model: Model2, nexuses: list[Nexus2], report: float) -> Sent:
        """Any command."""
        rng = self.random
        nexus = rng.choice(nexuses)
        kind = rng.random()
        data, long_length = b"", rng.random() < 0.7
        if kind < 0.55:
            cdb, data = self.reserve_out(model, nexus, nexuses)
        elif kind < 0.67:
            lengths = (8192, 8192, 0, 4, 7, 8, 16, 23, 24, 65535)
            cdb = in_cdb(rng.choice((0, 1, 2, 3, 3)), rng.choice(lengths))
        elif kind < 0.75:
            cdb = rng.choice((RESERVE_6, RELEASE_6, RESERVE_10, RELEASE_10))
            if rng.random() < 0.2:
                cdb = bytes((cdb[0], rng.choice((0x01, 0x10, 0x02, 0xE0)))) + cdb[2:]
        elif kind < 0.95:
            cdb = self.other()
        else:
            cdb = self.broken()
        return Sent(nexus, cdb, data, rng.random() < report, rng.random() < 0.05, long_length)

    def other(self) -> bytes:
        """Anything but reservations."""
        rng = self.random
        if rng.random() < 0.2:
            return bytes((0x03, rng.choice((0, 1)), 0, 0, rng.choice((252, 18, 8, 4, 0, 0)), 0))
        if rng.random() < 0.1:
            return rng.choice((INQUIRY, REPORT_LUNS))
        return cdb_of(rng.choice(ACCESS_ROWS)[1])

    def broken(self) -> bytes:
        """What no logical unit can make sense of, or has to refuse."""
        rng = self.random
        match rng.randrange(5):
            case 0:
                return b""
            case 1:
                return bytes((rng.choice((0x5E, 0x5F, 0x16, 0x57, 0x28, 0x88, 0xA0, 0x7F)), 0, 0))
            case 2:
                return in_cdb(rng.randrange(4, 32))
            case 3:
                return out_cdb(rng.randrange(8, 32))
            case _:
                cdb = bytearray(
                    rng.choice((in_cdb(0), out_cdb(0), RESERVE_6, RELEASE_10, b"\0" * 6))
                )
                cdb[-1] = 0x04
                return bytes(cdb)

    def reserve_out(
        self, model: Model2, nexus: Nexus2, nexuses: list[Nexus2]
    ) -> tuple[bytes, bytes]:
        """PERSISTENT RESERVE OUT, mostly sensible."""
        rng = self.random
        action = rng.choice(_ACTIONS)
        key = model.keys.get(nexus, 0)
        if rng.random() < 0.15:
            key = rng.choice((0, *_KEYS))
        known = list(model.keys.values())
        sark = rng.choice((0, *_KEYS, *known))
        type_ = rng.choice((model.type or 5, rng.choice(TYPES), rng.choice(TYPES)))
        scope = 0
        if rng.random() < 0.1:
            type_ = rng.choice((0, 2, 4, 9, 15))
        if rng.random() < 0.05:
            scope = rng.choice((1, 2, 15))
        if action == MOVE:
            data = self.move_list(key, sark, nexus, nexuses, model)
        else:
            spec = rng.random() < (0.25 if action == REGISTER else 0.06)
            data = basic_list(
                key,
                sark,
                aptpl=rng.random() < 0.4,
                all_ports=rng.random() < 0.2,
                spec=spec,
                ids=self.listed(nexuses) if spec and rng.random() < 0.9 else None,
            )
            data = self.damage(data, spec)
        length = len(data)
        if rng.random() < 0.08:
            cut = rng.choice((0, 4, 8, 12, 16, 20, 21, 23, 25, 27, 28, 30, len(data) - 1))
            if rng.random() < 0.5:
                data = data[:cut].ljust(cut, b"\0")
                length = cut
            elif rng.random() < 0.7:
                length = cut
            else:
                data = data[:cut]
        cdb = bytearray(out_cdb(action, length, type_=type_, scope=scope))
        if rng.random() < 0.1:
            cdb[1] |= rng.choice((0x20, 0x80))
            cdb[3] = rng.randrange(256)
        return bytes(cdb), data

    def damage(self, data: bytes, spec: bool) -> bytes:
        """Reserved and obsolete bytes, a list that claims the wrong length, bytes after it."""
        rng = self.random
        raw = bytearray(data)
        if rng.random() < 0.15:
            raw[rng.choice((16, 19, 21, 22, 23))] = rng.randrange(256)
            raw[20] |= rng.choice((0x00, 0x02, 0xF0))
        if spec and len(raw) >= 28 and rng.random() < 0.25:
            claimed = int.from_bytes(raw[24:28], "big") + rng.choice((-24, -4, -1, 1, 4, 1 << 20))
            raw[24:28] = max(0, claimed).to_bytes(4, "big")
            raw += bytes(rng.choice((0, 0, 1, 4)))
        return bytes(raw)

    def identifier(self, nexuses: list[Nexus2]) -> bytes:
        """A TransportID, mostly of somebody real."""
        rng = self.random
        name, isid, _ = rng.choice(nexuses)
        choice = rng.random()
        if choice < 0.15:
            name, isid = rng.choice(_NAMES)
        text = name if isid is None else f"{name},i,0x{isid:012x}"
        if choice > 0.85:
            return rng.choice((*_FOREIGN_IDS, *self.malformed(text)))
        if choice > 0.75:
            text = text.upper().replace(",I,0X", ",i,0x")
        return iscsi_id(text)

    def malformed(self, text: str) -> list[bytes]:
        """TransportIDs that break one rule each."""
        good = iscsi_id(text)
        return [
            good[:-1],
            good[:20],
            bytes((good[0], 0, 0, 16)) + good[4:20],
            bytes((good[0], 0, 0, 19)) + good[4:],
            bytes((good[0], 0, 0, 22)) + good[4:26].ljust(22, b"\0"),
            good[:4] + b"x" * (len(good) - 4),
            good[:4] + bytes(len(good) - 4),
            good[:2] + (len(good) + 4).to_bytes(2, "big") + good[4:],
            bytes((0x45,)) + iscsi_id("no-separator")[1:],
            bytes((0x45,)) + iscsi_id("name,i,0x12345678901")[1:],
            bytes((0x45,)) + iscsi_id("name,i,0x1234567890123")[1:],
            bytes((0x45,)) + iscsi_id("name,i,0x12345678901g")[1:],
            bytes((0x45,)) + iscsi_id(",i,0x123456789012")[1:],
            bytes((0x05,)) + iscsi_id("name,i,0x123456789012")[1:],
            bytes((0x45,)) + iscsi_id("name\0,i,0x123456789012")[1:],
            iscsi_id("two words"),
            iscsi_id("n" * 224),
            bytes((0x05, 0, 0, 20)) + b"\xff\xfe".ljust(20, b"\0"),
        ]

    def listed(self, nexuses: list[Nexus2]) -> list[bytes]:
        """A list of TransportIDs."""
        return [self.identifier(nexuses) for _ in range(self.random.choice((0, 1, 1, 2, 3)))]

    def move_list(
        self, key: int, sark: int, nexus: Nexus2, nexuses: list[Nexus2], model: Model2
    ) -> bytes:
        """The list of REGISTER AND MOVE."""
        rng = self.random
        others = [other for other in nexuses if other[:2] != nexus[:2]] or nexuses
        identifier = self.identifier(nexuses if rng.random() < 0.15 else others)
        port = rng.choice(model.target_ports)
        length = len(identifier)
        if rng.random() < 0.1:
            port = rng.choice((0, 3, 65535))
        if rng.random() < 0.15:
            length += rng.choice((-24, -4, -1, 4, 8))
        if rng.random() < 0.1:
            identifier += bytes(8)
        return move_list(
            key,
            sark,
            identifier,
            port=port,
            unreg=rng.random() < 0.4,
            aptpl=rng.random() < 0.4,
            length=max(0, length),
        )


def preview(model: Model2, sent: Sent) -> Answer:
    """What the second model would decide, attentions aside."""
    return model.decide(sent.nexus, sent.cdb, sent.data, sent.long_length)
