"""The second model's logical unit: state, events, attentions, access, SPC-2, PR IN."""

from __future__ import annotations

from typing import NamedTuple

from tests.support.model2_bytes import (
    ALL_REGISTRANTS_TYPES,
    CHECK,
    CONFLICT,
    SHARED_TYPES,
    WRITE_EXCLUSIVE_TYPES,
    Answer,
    Nexus2,
    access_class,
    cdb_length,
    conflict,
    control_byte,
    number,
    passes_spc2,
    refuse,
    sense_bytes,
)

_PARAMETERS = (5, 0x26, 0)


class Moved(NamedTuple):
    """What another target had: nexus, key and ALL_TG_PT of each, and what they held."""

    registrations: tuple[tuple[Nexus2, int, bool], ...]
    type: int = 0
    holder: Nexus2 | None = None
    aptpl: bool = False
    generation: int | None = None


class Unit2:
    """One logical unit.

    Args:
        target_ports: The relative target ports that exist.
        limit: How many registrations there may be.
        pending_limit: How many nexuses may have unit attentions pending.
    """

    def __init__(
        self, target_ports: tuple[int, ...] = (1,), limit: int = 1024, pending_limit: int = 1024
    ) -> None:
        self.target_ports = target_ports
        self.limit = limit
        self.pending_limit = pending_limit
        self.generation = 0
        self.aptpl = False
        self.keys: dict[Nexus2, int] = {}
        self.everywhere: set[Nexus2] = set()
        """Registered with ALL_TG_PT=1."""
        self.type = 0
        """Type of the reservation, 0 for none."""
        self.holder: Nexus2 | None = None
        """Who holds it; None for the All Registrants types."""
        self.spc2: Nexus2 | None = None
        self.pending: dict[Nexus2, list[int]] = {}
        self.epoch = 0
        self.overflowed = False
        self.power_cycles = 0

    # ------------------------------------------------------------------ events

    def known(self) -> list[Nexus2]:
        """Every nexus that the unit has to do with; doors know those that only logged in."""
        known = {*self.keys, *self.pending} | ({self.spc2} if self.spc2 else set())
        return sorted(known, key=repr)

    def power_cycle(self) -> set[tuple[Nexus2, int]]:
        """APTPL decides what stays; the generation starts again; everybody known finds 29/00."""
        known = self.known()
        if not self.aptpl:
            self.keys, self.everywhere, self.type, self.holder = {}, set(), 0, None
        self.generation, self.spc2, self.overflowed = 0, None, False
        self.epoch += 1
        self.power_cycles += 1
        self.pending = {}
        for nexus in known:
            self.attend(nexus, 0x2900)
        return {(nexus, 0x2900) for nexus in known}

    def lose(self, nexus: Nexus2) -> set[tuple[Nexus2, int]]:
        """I_T nexus loss frees an SPC-2 reservation and nothing else."""
        if self.spc2 == nexus:
            self.spc2 = None
        return set()

    def reset(self) -> set[tuple[Nexus2, int]]:
        """So does a reset, whoever holds it; everybody known finds 29/03."""
        known = self.known()
        self.spc2 = None
        for nexus in known:
            self.attend(nexus, 0x2903)
        return {(nexus, 0x2903) for nexus in known}

    def adopt(self, moved: Moved) -> Answer:
        """All of another target's registrations come in where there is nothing, or none does."""
        if self.keys or self.type or self.spc2:
            return conflict()
        nexuses: set[Nexus2] = set()
        for nexus, _, _ in moved.registrations:
            if nexus in nexuses or nexus[2] not in self.target_ports:
                return Answer((), CHECK, _PARAMETERS)
            if len(nexuses) == self.limit:
                return Answer((), CHECK, (5, 0x55, 4))
            nexuses.add(nexus)
        known = moved.generation
        sound = bool(nexuses) and all(key > 0 for _, key, _ in moved.registrations)
        if moved.type in ALL_REGISTRANTS_TYPES:
            sound = sound and moved.holder is None
        elif moved.type:
            sound = sound and moved.holder in nexuses
        if not sound or (known is not None and known > 0xFFFF_FFFF):
            return Answer((), CHECK, _PARAMETERS)
        self.keys = {nexus: key for nexus, key, _ in moved.registrations}
        self.everywhere = {nexus for nexus, _, everywhere in moved.registrations if everywhere}
        self.type, self.holder, self.aptpl = moved.type, moved.holder, moved.aptpl
        higher = known is not None and known > self.generation
        self.generation = known if higher and known else (self.generation + 1) % 2**32
        return Answer(())

    # ------------------------------------------------------------------ one command

    def command(
        self,
        nexus: Nexus2,
        cdb: bytes,
        data_out: bytes = b"",
        *,
        report: bool = True,
        seen_epoch: int | None = None,
        long_length: bool = True,
    ) -> Answer:
        """One command, with the account of attention epochs."""
        behind = self.behind(seen_epoch)
        answer = self.decide(nexus, cdb, data_out, long_length)
        if not answer.step_one:
            answer = self.run(nexus, cdb, answer, self.waiting(nexus, seen_epoch) if report else [])
        answer.behind = behind
        answer.caught_up = behind and answer.told == 0x2900
        return answer

    def run(self, nexus: Nexus2, cdb: bytes, answer: Answer, waiting: list[int]) -> Answer:
        """Let attentions that wait have their place in the order, then do it."""
        if waiting and cdb[0] not in {0x12, 0xA0}:
            first = waiting[0]
            if cdb[0] == 0x03:
                if cdb[4] == 0:
                    # Nothing can be told, so nothing was told: it stays pending.
                    return Answer(("attention.no-room",))
                self.deliver(nexus, first)
                data = sense_bytes(first, bool(cdb[1] & 1))[: cdb[4]]
                return Answer(("attention.request-sense",), data=data, told=first)
            reset_class = first >> 8 == 0x29
            if reset_class or answer.status != CONFLICT:
                stored = first in self.pending.get(nexus, [])
                row = ("reset" if stored else "epoch") if reset_class else "other"
                self.deliver(nexus, first)
                sense = (6, first >> 8, first & 0xFF)
                return Answer((f"attention.{row}",), CHECK, sense, told=first)
            answer.rows += ("attention.kept-by-conflict",)
        elif waiting:
            answer.rows += ("attention.exempt",)
        if answer.effect:
            answer.effect(answer)
        for victim, code in sorted(answer.raised, key=repr):
            self.attend(victim, code)
        return answer

    def behind(self, seen_epoch: int | None) -> bool:
        """Whether a nexus has not been told that attentions were dropped or power was lost."""
        return self.overflowed if seen_epoch is None else seen_epoch != self.epoch

    def waiting(self, nexus: Nexus2, seen_epoch: int | None) -> list[int]:
        """The attentions that this nexus would be shown, the most important first."""
        codes = list(self.pending.get(nexus, []))
        if self.behind(seen_epoch) and 0x2900 not in codes:
            codes.append(0x2900)
        ranks = {0x2900: 0, 0x2901: 0, 0x2904: 0, 0x2902: 1, 0x2903: 2, 0x2907: 3}
        return sorted(codes, key=lambda code: ranks.get(code, 9))

    def deliver(self, nexus: Nexus2, code: int) -> None:
        """Shown once, then gone."""
        left = [other for other in self.pending.get(nexus, []) if other != code]
        self.pending.pop(nexus, None)
        if left:
            self.pending[nexus] = left

    def attend(self, nexus: Nexus2, code: int) -> None:
        """Queue an attention: none twice; too many nexuses become an epoch."""
        if nexus not in self.pending and len(self.pending) >= self.pending_limit:
            self.overflowed = True
            self.epoch += 1
        elif code not in self.pending.get(nexus, []):
            self.pending.setdefault(nexus, []).append(code)

    def holders(self) -> set[Nexus2]:
        """Who holds the reservation: every registrant for the All Registrants types."""
        if self.type in ALL_REGISTRANTS_TYPES:
            return set(self.keys)
        return {self.holder} if self.holder else set()

    def privileged(self, nexus: Nexus2) -> bool:
        """Holder, or registered under a Registrants Only or All Registrants reservation."""
        return nexus in self.holders() or (self.type in SHARED_TYPES and nexus in self.keys)

    def reserve_out(self, nexus: Nexus2, cdb: bytes, data_out: bytes, long_length: bool) -> Answer:
        """PERSISTENT RESERVE OUT: see `model2`."""
        raise NotImplementedError

    def decide(self, nexus: Nexus2, cdb: bytes, data_out: bytes, long_length: bool) -> Answer:
        """What the command would get if no attention were pending."""
        if not cdb:
            return refuse("cdb.empty", 0x20, 0x00, step_one=True)
        opcode = cdb[0]
        if len(cdb) < cdb_length(cdb):
            return refuse("cdb.short", 0x24, 0x00, step_one=True)
        if opcode == 0x5E and cdb[1] & 0x1F > 3:
            return refuse("in.unknown", 0x24, 0x00, ("cdb", 1, 4), step_one=True)
        if opcode == 0x5F and cdb[1] & 0x1F > 7:
            return refuse("out.unknown", 0x24, 0x00, ("cdb", 1, 4), step_one=True)
        control = control_byte(opcode)
        if control is not None and cdb[control] & 0x04:
            return refuse("cdb.naca", 0x24, 0x00, ("cdb", control, 2), step_one=True)
        if opcode in {0x16, 0x17, 0x56, 0x57}:
            if cdb[1] & 0x11:
                return refuse("spc2.third-party", 0x24, 0x00, step_one=True)
            return self.spc2_command(nexus, reserve=opcode in {0x16, 0x56})
        if opcode == 0x5E:
            return self.reserve_in(cdb)
        if opcode == 0x5F:
            return self.reserve_out(nexus, cdb, data_out, long_length)
        return self.other(nexus, cdb)

    # ------------------------------------------------------------------ access, SPC-2, PR IN

    def other(self, nexus: Nexus2, cdb: bytes) -> Answer:
        """The access table."""
        if self.spc2 is not None:
            if nexus == self.spc2:
                return Answer(("access.spc2.holder",))
            if passes_spc2(cdb):
                return Answer(("access.spc2.passes",))
            return conflict("access.spc2.stopped")
        kind = access_class(cdb)
        if not self.type:
            return Answer((f"access.free.{kind}",))
        if nexus in self.holders():
            return Answer((f"access.holder.{kind}",))
        if self.privileged(nexus):
            return Answer((f"access.registrant.{kind}",))
        who = "shared" if self.type in SHARED_TYPES else "exclusive"
        what = "write" if self.type in WRITE_EXCLUSIVE_TYPES else "access"
        row = f"access.{what}-{who}.{kind}"
        if kind == "A" or (kind == "R" and what == "write"):
            return Answer((row,))
        return conflict(row)

    def spc2_command(self, nexus: Nexus2, reserve: bool) -> Answer:
        """RESERVE and RELEASE beside persistent reservations."""
        verb = "reserve" if reserve else "release"
        if self.type and self.privileged(nexus):
            return Answer((f"spc2.{verb}.privileged",))
        if self.keys:
            held = "held" if self.type else "keys"
            return conflict(f"spc2.{verb}.{held}")
        if self.spc2 is None:

            def take(_: Answer) -> None:
                self.spc2 = nexus

            return Answer((f"spc2.{verb}.free",), effect=take if reserve else None)
        if self.spc2 == nexus:

            def free(_: Answer) -> None:
                self.spc2 = None

            return Answer((f"spc2.{verb}.mine",), effect=None if reserve else free)
        return conflict("spc2.reserve.other") if reserve else Answer(("spc2.release.other",))

    def reserve_in(self, cdb: bytes) -> Answer:
        """PERSISTENT RESERVE IN."""
        action = cdb[1] & 0x1F
        if self.spc2 is not None:
            return conflict("in.spc2")
        kind = "shared" if self.type in ALL_REGISTRANTS_TYPES else "one" if self.type else "none"
        header = self.generation.to_bytes(4, "big")
        if action == 0:
            row = "in.keys"
            body = b"".join(key.to_bytes(8, "big") for key in self.keys.values())
        elif action == 1:
            row = f"in.reservation.{kind}"
            key = self.keys[self.holder] if self.holder else 0
            body = key.to_bytes(8, "big") + bytes([0, 0, 0, 0, 0, self.type, 0, 0])
            body = body if self.type else b""
        elif action == 2:
            row = "in.capabilities"
            data = bytes([0, 8, 0x1D, 0xC1 if self.aptpl else 0xC0, 0xEA, 0x01, 0, 0])
        else:
            alike = {nexus: self.alike(nexus) for nexus in self.keys}
            apart = any(nexus in self.everywhere and not alike[nexus] for nexus in self.keys)
            row = "all-ports" if any(alike.values()) else "apart" if apart else kind
            row = f"in.full.{row}"
            body = b"".join(self.descriptor(nexus) for nexus in self.keys)
        if action != 2:
            data = header + len(body).to_bytes(4, "big") + body
        length = number(cdb, 7, 9)
        rows = (row, "in.cut") if length < len(data) else (row,)
        return Answer(rows, data=data[:length])

    def alike(self, nexus: Nexus2) -> bool:
        """Whether what is true of this nexus is true of its initiator at every target port."""
        siblings = [(nexus[0], nexus[1], other) for other in self.target_ports]
        return nexus in siblings and all(
            sibling in self.everywhere
            and self.keys[sibling] == self.keys[nexus]
            and (sibling in self.holders()) == (nexus in self.holders())
            for sibling in siblings
        )

    def descriptor(self, nexus: Nexus2) -> bytes:
        """One registration in READ FULL STATUS, or one for all target ports that are alike."""
        name, isid, port = nexus
        alike = self.alike(nexus)
        siblings = [(name, isid, other) for other in self.target_ports]
        if alike and next(other for other in self.keys if other in siblings) != nexus:
            return b""
        text = name.encode() + (b"" if isid is None else b",i,0x%012x" % isid) + b"\0"
        text = text.ljust(max(20, (len(text) + 3) // 4 * 4), b"\0")
        identifier = bytes([0x05 if isid is None else 0x45, 0]) + len(text).to_bytes(2, "big")
        identifier += text
        holds = nexus in self.holders()
        flags = (2 if alike else 0) | (1 if holds else 0)
        shown_port = 0 if alike else port
        return (
            self.keys[nexus].to_bytes(8, "big")
            + bytes([0, 0, 0, 0, flags, self.type if holds else 0, 0, 0, 0, 0])
            + shown_port.to_bytes(2, "big")
            + len(identifier).to_bytes(4, "big")
            + identifier
        )
