"""Small faults put into the modules that implement `step`, one at a time, in this process.

A mutant is a change of one node of a module's syntax tree. `built` compiles the module and
all that import it anew and hands out the `Machine` that they make, so that an oracle can
look for the fault; the package that is imported normally stays as it is.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType

import attrs

from flockpr.spc.codes import Attention, ReservationType, Status
from tests.support.twins import Machine

PACKAGE = "flockpr.core"
LEFT_ALONE = {"__init__", "model", "invariants"}
"""Not rules: plain data, and the checks themselves."""

_ENUMS = {"Attention": Attention, "ReservationType": ReservationType, "Status": Status}
_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),  # codespell:ignore notin
    ast.NotIn: (ast.In,),  # codespell:ignore notin
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}


class HangError(Exception):
    """A mutant took too long."""


@attrs.frozen
class Mutant:
    """One change.

    Attributes:
        module: Short name of the module.
        where: Function or class that it is in, or "" for the module.
        what: "before -> after".
        line: Line of the module, for people.
        put: Make the change in the tree.
        undo: Take it back.
    """

    module: str
    where: str
    what: str
    line: int
    put: Callable[[], None]
    undo: Callable[[], None]

    @property
    def name(self) -> tuple[str, str, str]:
        """What stays the same when lines move."""
        return self.module, self.where, self.what


def modules() -> dict[str, ast.Module]:
    """The trees of the modules under test, by short name, each after those it imports."""
    folder = Path(importlib.import_module(PACKAGE).__path__[0])
    trees = {
        path.stem: ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.py"))
        if path.stem not in LEFT_ALONE
    }
    ordered: dict[str, ast.Module] = {}

    def visit(name: str) -> None:
        for other in _imported(trees[name]):
            if other in trees and other not in ordered:
                visit(other)
        ordered.setdefault(name, trees[name])

    for name in trees:
        visit(name)
    return ordered


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == PACKAGE:
                yield from (alias.name for alias in node.names)
            elif node.module.startswith(PACKAGE + "."):
                yield node.module.rpartition(".")[2]


@contextlib.contextmanager
def built(trees: dict[str, ast.Module], changed: str) -> Iterator[Machine]:
    """The machine with `changed`, and all that import it, compiled from `trees`."""
    stale = {changed}
    for name, tree in trees.items():
        if stale & set(_imported(tree)):
            stale.add(name)
    package = importlib.import_module(PACKAGE)
    names = [name for name in trees if name in stale]
    normal = {name: importlib.import_module(f"{PACKAGE}.{name}") for name in trees}
    try:
        for name in names:
            module = ModuleType(f"{PACKAGE}.{name}")
            sys.modules[module.__name__] = module
            setattr(package, name, module)
            code = compile(trees[name], f"<mutant of {name}>", "exec")
            exec(code, module.__dict__)
        current = {name: sys.modules[f"{PACKAGE}.{name}"] for name in trees}
    finally:
        for name, module in normal.items():
            sys.modules[module.__name__] = module
            setattr(package, name, module)
    check = importlib.import_module(f"{PACKAGE}.invariants").check
    yield Machine(
        current["machine"].step,
        current["events"].occur,
        check,
        current["events"],
        current["access"],
    )


@contextlib.contextmanager
def processor_time(seconds: float) -> Iterator[None]:
    """Raise `HangError` in what takes longer than this, counted in this process's own time."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise HangError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def mutants(module: str, tree: ast.Module) -> list[Mutant]:
    """Every mutant of one module."""
    return list(_Finder(module).find(tree, ""))


class _Finder:
    def __init__(self, module: str) -> None:
        self.module = module

    def find(self, node: ast.AST, where: str) -> Iterator[Mutant]:
        """All mutants of a node and of what is below it."""
        for field, value in ast.iter_fields(node):
            if field in {"annotation", "returns", "decorator_list", "bases"}:
                continue
            if isinstance(value, list):
                for index, item in enumerate(value):
                    if isinstance(item, ast.AST) and not _plain(item):
                        yield from self._at(value, index, item, where)
            elif isinstance(value, ast.AST) and not _plain(value):
                yield from self._at(node, field, value, where)

    def _at(
        self, holder: list[ast.AST] | ast.AST, key: int | str, node: ast.AST, where: str
    ) -> Iterator[Mutant]:
        """The mutants of one node, which hangs at `key` of `holder`, and those below it."""
        inside = where
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            inside = f"{where}.{node.name}".lstrip(".")
        for other in _variants(node):
            if ast.dump(other) == ast.dump(node):
                continue
            put, undo = _exchange(holder, key, node, other)
            before = ast.unparse(node).partition("\n")[0]
            after = ast.unparse(other).partition("\n")[0]
            line = getattr(node, "lineno", 0)
            yield Mutant(self.module, where, f"{before} -> {after}", line, put, undo)
        yield from self.find(node, inside)


def _exchange(
    holder: list[ast.AST] | ast.AST, key: int | str, node: ast.AST, other: ast.AST
) -> tuple[Callable[[], None], Callable[[], None]]:
    ast.copy_location(other, node)
    ast.fix_missing_locations(other)

    def place(it: ast.AST) -> None:
        if isinstance(holder, list):
            assert isinstance(key, int)
            holder[key] = it
        else:
            setattr(holder, str(key), it)

    return lambda: place(other), lambda: place(node)


def _plain(node: ast.AST) -> bool:
    """What is not worth a mutant: imports, docstrings, aliases of types, `__all__`."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.expr_context | ast.arguments):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.AnnAssign) and "TypeAlias" in ast.unparse(node.annotation):
        return True
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
        return ast.unparse(node.value).startswith(("Callable[", "tuple["))
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


def _negation(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    """What a node may be mistaken for."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for kind in _COMPARISONS.get(type(node.ops[0]), ()):
            yield ast.Compare(node.left, [kind()], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        for index in range(len(node.values)):
            rest = node.values[:index] + node.values[index + 1 :]
            yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        yield ast.BinOp(node.left, _OPERATORS[type(node.op)](), node.right)
    elif isinstance(node, ast.Constant):
        yield from _other_constants(node)
    elif isinstance(node, ast.Attribute):
        yield from _other_members(node)
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(_negation(node.test), node.body, node.orelse)
    elif isinstance(node, ast.If):
        yield ast.If(_negation(node.test), node.body, node.orelse)
        yield ast.Pass()
    elif isinstance(node, ast.comprehension) and node.ifs:
        yield ast.comprehension(node.target, node.iter, [], node.is_async)
    elif isinstance(node, ast.Return):
        if node.value is not None:
            yield ast.Return(ast.Constant(None))
            yield ast.Pass()
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr | ast.For):
        yield ast.Pass()


def _other_constants(node: ast.Constant) -> Iterator[ast.Constant]:
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, int):
        yield ast.Constant(node.value + 1)
        if node.value > 0:
            yield ast.Constant(node.value - 1)


def _other_members(node: ast.Attribute) -> Iterator[ast.Attribute]:
    """The next member of the same enumeration."""
    if isinstance(node.value, ast.Name) and node.value.id in _ENUMS:
        members = list(_ENUMS[node.value.id].__members__)
        if node.attr in members:
            following = members[(members.index(node.attr) + 1) % len(members)]
            yield ast.Attribute(node.value, following, node.ctx)
