"""A second model of persistent reservations, deliberately dumb.

It takes the bytes of a CDB and of its data-out buffer and says what a logical unit
answers, with plain dicts and lists and one long decision procedure, written from the
standard's tables alone. It shares no code with the package: where the two disagree, one
of them has misread a table. Every decision carries the ids of the table rows that it
took (`ROWS` lists them all), so that a run can count which rows it has seen.
"""

from __future__ import annotations

from tests.support.model2_bytes import (
    ALL_REGISTRANTS_TYPES,
    CLEAR,
    MOVE,
    PREEMPT,
    PREEMPT_ABORT,
    REGISTER,
    REGISTER_IGNORE,
    RELEASE,
    RESERVE,
    SA_NAMES,
    SHARED_TYPES,
    TYPES,
    Answer,
    Nexus2,
    Pointer,
    Port,
    conflict,
    number,
    refuse,
    transport_id,
)
from tests.support.model2_rows import TYPE_NAMES
from tests.support.model2_unit import Unit2


class Model2(Unit2):
    """The logical unit with PERSISTENT RESERVE OUT."""

    # ------------------------------------------------------------------ PERSISTENT RESERVE OUT

    def reserve_out(self, nexus: Nexus2, cdb: bytes, data_out: bytes, long_length: bool) -> Answer:
        """The order of checks, then the decision tables."""
        action, scope, type_ = cdb[1] & 0x1F, cdb[2] >> 4, cdb[2] & 0x0F
        declared = number(cdb, 5, 9) if long_length else number(cdb, 7, 9)
        data = data_out[:declared]
        complete = len(data) == declared
        key, held = self.keys.get(nexus), self.type != 0
        shared = self.type in ALL_REGISTRANTS_TYPES
        holds = nexus in self.holders()

        # Free of SPC-2 reservations? Registered? These need no parameter list.
        name = SA_NAMES[action]
        if self.spc2 is not None:
            return conflict("out.spc2")
        if key is None and action not in {REGISTER, REGISTER_IGNORE}:
            return conflict(f"out.unregistered.{name}.{'held' if held else 'none'}")
        if action == RESERVE and held and not holds:
            return conflict("reserve.non-holder")
        if action == MOVE and shared:
            return conflict("move.all-registrants")
        if action == MOVE and held and not holds:
            return conflict("move.non-holder")

        # Conflicts that are seen in the list outrank every fault of the list.
        if len(data) < 8:
            return refuse("list.without-key", 0x1A, 0x00)
        given = number(data, 0, 8)
        wanted = number(data, 8, 16) if len(data) >= 16 else None
        matching = [other for other, theirs in self.keys.items() if theirs == wanted]
        if action == REGISTER and key is None and given != 0:
            return conflict("register.unregistered.key")
        if action != REGISTER_IGNORE and key is not None and given != key:
            return conflict(f"key.{name}")
        if action == RESERVE and held and type_ != self.type:
            return conflict("reserve.different")
        if action == RESERVE and held and scope != 0:
            return conflict("reserve.different.scope")
        preempt = action in {PREEMPT, PREEMPT_ABORT}
        takes_over = False
        if preempt and wanted is not None:
            if wanted != 0 and not matching:
                return conflict(f"{name}.unknown-key")
            if wanted == 0 and not held:
                return conflict(f"{name}.none.zero")
            takes_over = held and (wanted == 0 if shared else self.holder in matching)

        # The CDB. Scope and type count where the service action uses them.
        if action == MOVE and not held:
            return refuse("move.none", 0x24, 0x00)
        if action in {RESERVE, RELEASE} or takes_over:
            if scope != 0:
                return refuse(f"{name}.scope", 0x24, 0x00, ("cdb", 2, 7))
            if type_ not in TYPES:
                return refuse(f"{name}.type", 0x24, 0x00, ("cdb", 2, 3))

        # The length of the list, and SPEC_I_PT where it has no business.
        if action == MOVE:
            if len(data) < 24 or not complete:
                return refuse("move.length", 0x1A, 0x00)
            return self.move(nexus, data)
        listed = len(data) > 20 and bool(data[20] & 0x08)
        if listed and action != REGISTER:
            return refuse(f"spec.{name}", 0x26, 0x00, ("list", 20, 3))
        if not complete or (len(data) < 28 if listed else len(data) != 24):
            # With nothing to register SPEC_I_PT is ignored, and so is what belongs to it.
            nothing = action == REGISTER and key is None and wanted == 0
            if not (nothing and listed and complete and len(data) >= 24):
                return refuse(f"length.{name}", 0x1A, 0x00)
        assert wanted is not None

        # What is left is right in form: the tables.
        if action == REGISTER:
            return self.register(nexus, data, wanted, listed)
        if action == REGISTER_IGNORE:
            return self.ignore(nexus, data, wanted)
        if action == RESERVE:
            return self.reserve(nexus, type_)
        if action == RELEASE:
            return self.release(nexus, type_)
        if action == CLEAR:
            return self.clear(nexus)
        return self.preempt(nexus, name, wanted, matching, type_ if takes_over else 0)

    def ports(self, nexus: Nexus2, data: bytes) -> list[int]:
        """The target ports that a registration covers: with ALL_TG_PT every one."""
        if not data[20] & 0x04:
            return [nexus[2]]
        return [nexus[2], *(port for port in self.target_ports if port != nexus[2])]

    def register(self, nexus: Nexus2, data: bytes, wanted: int, listed: bool) -> Answer:
        """REGISTER with a key that fits."""
        if nexus in self.keys:
            if listed:
                return refuse("register.registered.list", 0x26, 0x00, ("list", 20, 3))
            return self.rekey(nexus, data, wanted, "register.registered")
        if wanted == 0:
            return Answer(
                ("register.unregistered.nothing",), effect=lambda _: self.count(data[20] & 1)
            )
        ports = self.ports(nexus, data)
        own = [(nexus[0], nexus[1], port) for port in ports]
        if not listed:
            return self.enrol(nexus, own, data, wanted, "register.unregistered.new")
        size = number(data, 24, 28)
        if 28 + size > len(data):
            return refuse("register.list.length", 0x26, 0x00, ("list", 24, None))
        nexuses = list(own)
        at = 28
        while at < 28 + size:
            found = transport_id(data[: 28 + size], at)
            if isinstance(found, str):
                row = "foreign" if found == "foreign" else "malformed"
                return refuse(f"register.list.{row}", 0x26, 0x00, ("list", at, None))
            port, length = found
            named = [(*port, target) for target in ports if port != nexus[:2]]
            if any(other in self.keys for other in named):
                return refuse("register.list.registered", 0x26, 0x00, ("list", at, None))
            nexuses += [other for other in named if other not in nexuses]
            at += length
        return self.enrol(nexus, nexuses, data, wanted, "register.unregistered.list")

    def ignore(self, nexus: Nexus2, data: bytes, wanted: int) -> Answer:
        """REGISTER AND IGNORE EXISTING KEY."""
        if nexus in self.keys:
            return self.rekey(nexus, data, wanted, "ignore.registered")
        if wanted == 0:
            return Answer(
                ("ignore.unregistered.nothing",), effect=lambda _: self.count(data[20] & 1)
            )
        own = [(nexus[0], nexus[1], port) for port in self.ports(nexus, data)]
        return self.enrol(nexus, own, data, wanted, "ignore.unregistered.new")

    def rekey(self, nexus: Nexus2, data: bytes, wanted: int, row: str) -> Answer:
        """A registered nexus changes its key or gives it up, on all ports with ALL_TG_PT."""
        own = [(nexus[0], nexus[1], port) for port in self.ports(nexus, data)]
        if wanted != 0:
            return self.enrol(nexus, own, data, wanted, f"{row}.change")
        going = [other for other in own if other in self.keys]
        return self.unregister(nexus, going, data[20] & 1, f"{row}.leave")

    def enrol(
        self, nexus: Nexus2, nexuses: list[Nexus2], data: bytes, wanted: int, row: str
    ) -> Answer:
        """Register them all with this key, or none of them."""
        fresh = [other for other in nexuses if other not in self.keys]
        if fresh and len(self.keys) + len(fresh) > self.limit:
            return refuse("register.full", 0x55, 0x04)

        def effect(_: Answer) -> None:
            for other in nexuses:
                self.keys[other] = wanted
                if data[20] & 0x04:
                    self.everywhere.add(other)
            self.count(data[20] & 1)

        rows = (row, "register.all-ports") if data[20] & 0x04 else (row,)
        return Answer(rows, effect=effect)

    def unregister(self, nexus: Nexus2, going: list[Nexus2], aptpl: int, row: str) -> Answer:
        """What leaving does to the reservation."""
        staying = [other for other in self.keys if other not in going]
        released = self.holder in going or (self.type in ALL_REGISTRANTS_TYPES and not staying)
        if not self.type:
            effect_row = "leave.none"
        elif self.type in ALL_REGISTRANTS_TYPES:
            effect_row = "leave.all.last" if released else "leave.all.stays"
        elif not released:
            effect_row = "leave.non-holder"
        else:
            effect_row = f"leave.holder.{TYPE_NAMES[self.type]}"
        raised = {(other, 0x2A04) for other in staying if released and self.type in {5, 6}}

        def effect(_: Answer) -> None:
            self.forget(going)
            if released:
                self.type, self.holder = 0, None
            self.count(aptpl)

        return Answer((row, effect_row), raised=raised, effect=effect)

    def reserve(self, nexus: Nexus2, type_: int) -> Answer:
        """RESERVE; whoever gets here with a reservation holds it already."""
        if self.type:
            return Answer(("reserve.same.all" if self.holder is None else "reserve.same",))

        def effect(_: Answer) -> None:
            self.type = type_
            self.holder = None if type_ in ALL_REGISTRANTS_TYPES else nexus

        return Answer((f"reserve.new.{TYPE_NAMES[type_]}",), effect=effect)

    def release(self, nexus: Nexus2, type_: int) -> Answer:
        """RELEASE."""
        if not self.type:
            return Answer(("release.none",))
        if nexus not in self.holders():
            return Answer(("release.non-holder",))
        if type_ != self.type:
            return refuse("release.different", 0x26, 0x04)
        tell = self.type in SHARED_TYPES

        def effect(_: Answer) -> None:
            self.type, self.holder = 0, None

        raised = {(other, 0x2A04) for other in self.keys if tell and other != nexus}
        return Answer((f"release.{TYPE_NAMES[self.type]}",), raised=raised, effect=effect)

    def clear(self, nexus: Nexus2) -> Answer:
        """CLEAR."""
        row = "none" if not self.type else "holder" if nexus in self.holders() else "non-holder"

        def effect(_: Answer) -> None:
            self.forget(list(self.keys))
            self.type, self.holder = 0, None
            self.count()

        raised = {(other, 0x2A03) for other in self.keys if other != nexus}
        return Answer((f"clear.{row}",), raised=raised, effect=effect)

    def preempt(
        self, nexus: Nexus2, name: str, wanted: int, matching: list[Nexus2], new_type: int
    ) -> Answer:
        """PREEMPT and PREEMPT AND ABORT; a new type says that the reservation is taken over."""
        shared = self.type in ALL_REGISTRANTS_TYPES
        targets = list(self.keys) if shared and wanted == 0 else matching
        if self.type and not shared and wanted == 0:
            return refuse(f"{name}.one.zero", 0x26, 0x00, ("list", 8, 7))
        if new_type:
            going = [other for other in targets if other != nexus]
            whose = "all.zero" if shared else "own" if self.holder == nexus else "holder"
            rows = [f"{name}.{whose if shared else 'one.' + whose}"]
        else:
            going = targets
            rows = [f"{name}.{'all' if shared else 'one' if self.type else 'none'}.others"]
            if nexus in going:
                rows[0] = rows[0].replace("others", "self")
        staying = [other for other in self.keys if other not in going]
        raised = {(other, 0x2A05) for other in going if other != nexus}
        changed = bool(new_type) and new_type != self.type
        if changed:
            raised |= {(other, 0x2A04) for other in staying if other != nexus}
            rows.append(f"{name}.changed")
        if shared and not staying:
            rows.append(f"{name}.all.nobody-left")

        def effect(_: Answer) -> None:
            self.forget(going)
            if new_type:
                self.type = new_type
                self.holder = None if new_type in ALL_REGISTRANTS_TYPES else nexus
            elif shared and not staying:
                self.type = 0
            self.count()

        aborted = set(targets) if name == "abort" else set()
        return Answer(tuple(rows), raised=raised, aborted=aborted, effect=effect)

    def move(self, nexus: Nexus2, data: bytes) -> Answer:
        """REGISTER AND MOVE by the holder of a reservation that can be moved."""
        wanted, unreg, port = number(data, 8, 16), bool(data[17] & 2), number(data, 18, 20)
        length = number(data, 20, 24)
        # Which of several faulty fields is pointed at is free.
        faults: list[tuple[str, Pointer]] = []
        if wanted == 0:
            faults.append(("move.zero", ("list", 8, 7)))
        if port not in self.target_ports:
            faults.append(("move.target-port", ("list", 18, None)))
        found: tuple[Port, int] | str = "short"
        if length < 24 or length % 4 or 24 + length > len(data):
            faults.append(("move.id-length", ("list", 20, None)))
        else:
            found = transport_id(data[: 24 + length], 24)
            if found == "short":
                # Cut short by TRANSPORTID LENGTH: that field may be named as well.
                faults.append(("move.id", ("list", 20, None)))
            if isinstance(found, str):
                faults.append(("move.id", ("list", 24, None)))
            elif found[0] == nexus[:2]:
                faults.append(("move.own-port", ("list", 24, None)))
        if faults or isinstance(found, str):
            return refuse(faults[0][0], 0x26, 0x00, *(pointer for _, pointer in faults))
        destination = (*found[0], port)
        fresh = destination not in self.keys
        if fresh and len(self.keys) + 1 > self.limit:
            return refuse("move.full", 0x55, 0x04)

        def effect(_: Answer) -> None:
            self.keys[destination] = wanted
            self.holder = destination
            if unreg:
                self.forget([nexus])
            self.count(data[17] & 1)

        row = f"move.{'new' if fresh else 'known'}.{'leave' if unreg else 'stay'}"
        return Answer((row,), effect=effect)

    def forget(self, nexuses: list[Nexus2]) -> None:
        """Remove registrations."""
        for nexus in nexuses:
            del self.keys[nexus]
            self.everywhere.discard(nexus)

    def count(self, aptpl: int | None = None) -> None:
        """One more PRGENERATION; the registering service actions bring an APTPL bit."""
        self.generation = (self.generation + 1) % 2**32
        if aptpl is not None:
            self.aptpl = bool(aptpl)
