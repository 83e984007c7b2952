"""The rows of the decision tables, as the second model numbers them.

An id names the table and the row: `preempt.one.holder` is PREEMPT, a reservation of one
holder is present, the key is the holder's. The sweep counts how often each was taken.
"""

from __future__ import annotations

TYPE_NAMES = {1: "WE", 3: "EA", 5: "WERO", 6: "EARO", 7: "WEAR", 8: "EAAR"}

_CDB = (
    *("cdb.empty", "cdb.short", "cdb.naca", "spc2.third-party"),
    *("in.unknown", "out.unknown", "in.spc2", "out.spc2", "list.without-key"),
)
_ATTENTION = (
    *("attention.reset", "attention.epoch", "attention.other", "attention.request-sense"),
    *("attention.no-room", "attention.exempt", "attention.kept-by-conflict"),
)
_ACCESS = (
    *("access.spc2.holder", "access.spc2.passes", "access.spc2.stopped"),
    *(
        f"access.{who}.{kind}"
        for who in (
            *("free", "holder", "registrant"),
            *("write-exclusive", "access-exclusive", "write-shared", "access-shared"),
        )
        for kind in "ARW"
    ),
)
_SPC2 = tuple(
    f"spc2.{verb}.{row}"
    for verb in ("reserve", "release")
    for row in ("privileged", "held", "keys", "free", "mine", "other")
)
_IN = (
    *("in.keys", "in.capabilities", "in.cut"),
    *(f"in.reservation.{kind}" for kind in ("none", "one", "shared")),
    *(f"in.full.{kind}" for kind in ("none", "one", "shared", "all-ports", "apart")),
)
_UNREGISTERED = tuple(
    f"out.unregistered.{name}.{held}"
    for name in ("reserve", "release", "clear", "preempt", "abort", "move")
    for held in ("none", "held")
)
_FORM = (
    *(
        f"key.{name}"
        for name in ("register", "reserve", "release", "clear", "preempt", "abort", "move")
    ),
    *(f"spec.{name}" for name in ("reserve", "release", "clear", "preempt", "abort", "ignore")),
    *(
        f"length.{name}"
        for name in ("register", "reserve", "release", "clear", "preempt", "abort", "ignore")
    ),
    *(
        f"{name}.{field}"
        for name in ("reserve", "release", "preempt", "abort")
        for field in ("scope", "type")
    ),
)
_REGISTER = (
    *("register.unregistered.nothing", "register.unregistered.new", "register.unregistered.list"),
    *("register.unregistered.key", "register.registered.list"),
    *("register.registered.change", "register.registered.leave"),
    *("register.list.length", "register.list.malformed", "register.list.foreign"),
    *("register.list.registered", "register.full", "register.all-ports"),
    *("ignore.unregistered.nothing", "ignore.unregistered.new"),
    *("ignore.registered.change", "ignore.registered.leave"),
    *("leave.none", "leave.non-holder", "leave.all.stays", "leave.all.last"),
    *(f"leave.holder.{name}" for name in ("WE", "EA", "WERO", "EARO")),
)
_RESERVE = (
    *(
        "reserve.non-holder",
        "reserve.different",
        "reserve.different.scope",
        "reserve.same",
        "reserve.same.all",
    ),
    *(f"reserve.new.{name}" for name in TYPE_NAMES.values()),
    *("release.none", "release.non-holder", "release.different"),
    *(f"release.{name}" for name in TYPE_NAMES.values()),
    *("clear.none", "clear.holder", "clear.non-holder"),
)
_PREEMPT = tuple(
    f"{name}.{row}"
    for name in ("preempt", "abort")
    for row in (
        *("unknown-key", "none.zero", "none.others", "none.self"),
        *("one.zero", "one.holder", "one.own", "one.others", "one.self"),
        *("all.zero", "all.others", "all.self", "all.nobody-left", "changed"),
    )
)
_MOVE = (
    *("move.none", "move.all-registrants", "move.non-holder", "move.length", "move.zero"),
    *("move.id-length", "move.id", "move.own-port", "move.target-port", "move.full"),
    *("move.new.stay", "move.new.leave", "move.known.stay", "move.known.leave"),
)

ROWS: tuple[str, ...] = (
    *_CDB,
    *_ATTENTION,
    *_ACCESS,
    *_SPC2,
    *_IN,
    *_UNREGISTERED,
    *_FORM,
    *_REGISTER,
    *_RESERVE,
    *_PREEMPT,
    *_MOVE,
)
