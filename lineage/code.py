"""Digests of code by syntax tree: what a function is made of, and nothing else.

The digest of a stage covers its function and every project definition that it can reach by name, in its own module and in
the modules it imports (also inside functions). Comments, docstrings, formatting and definitions that it does not reach are
left out, so a touched comment changes nothing and a new function beside it neither. Statements at module level that are
not definitions always count. Reaching a name by `getattr` or `globals()` cannot be seen: stages do not do that.

The frame itself (`lineage`, the underscore modules of `tasks`) is left out; `FORMAT` in `lineage.store` stands for it.
"""

from __future__ import annotations

import ast
import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tasks", "model")
"""Packages whose code shapes outputs."""

Definition = ast.stmt


@dataclass(frozen=True)
class Module:
    """The top level of a source file."""

    name: str
    definitions: dict[str, list[Definition]] = field(default_factory=lambda: defaultdict(list))
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    """Local name → (module, name in it or None for the module itself)."""
    always: list[Definition] = field(default_factory=list)


def digests(module: str, symbol: str, *, runs: tuple[str, ...] = ()) -> dict[str, str]:
    """File → digest of the definitions in it that `module.symbol` reaches.

    Args:
        module: dotted name of the module that declares the function.
        symbol: the function's name.
        runs: modules that are run rather than imported; all of them counts.
    """
    walk = _Walk()
    walk.reach(module, symbol)
    for name in runs:
        walk.reach_all(name)
    return walk.digests()


class _Walk:
    def __init__(self) -> None:
        self._seen: dict[str, set[str]] = defaultdict(set)
        self._todo: list[tuple[str, str]] = []

    def reach(self, module: str, symbol: str) -> None:
        self._todo.append((module, symbol))
        while self._todo:
            self._visit(*self._todo.pop())

    def reach_all(self, module: str) -> None:
        for symbol in parsed(module).definitions:
            self.reach(module, symbol)
        for target, name in parsed(module).imports.values():
            self._follow(target, name)

    def digests(self) -> dict[str, str]:
        found = {}
        for name in sorted(self._seen):
            module = parsed(name)
            spelt = [ast.dump(node) for node in module.always]
            spelt += [ast.dump(node) for symbol in sorted(self._seen[name]) for node in module.definitions[symbol]]
            found[_relative(name)] = hashlib.sha256("\0".join(spelt).encode()).hexdigest()[:16]
        return found

    def _visit(self, name: str, symbol: str) -> None:
        module = parsed(name)
        first = name not in self._seen
        if symbol in self._seen[name]:
            return
        if symbol in module.definitions:
            self._seen[name].add(symbol)
            self._follow_uses(module, module.definitions[symbol])
        elif symbol in module.imports:
            self._follow(*module.imports[symbol])
        if first:
            self._follow_uses(module, module.always)

    def _follow(self, target: str, name: str | None) -> None:
        if not is_ours(target):
            return
        if name is None:
            self._todo += [(target, symbol) for symbol in parsed(target).definitions]
        elif is_ours(f"{target}.{name}") and _file(f"{target}.{name}") is not None:
            self._follow(f"{target}.{name}", None)
        else:
            self._todo.append((target, name))

    def _follow_uses(self, module: Module, nodes: list[Definition]) -> None:
        for node in nodes:
            local = _imports_in(node)
            for owner, attribute in _names_in(node):
                if owner in local or owner in module.imports:
                    target, name = local.get(owner) or module.imports[owner]
                    submodule = target if name is None else f"{target}.{name}"
                    if is_ours(submodule) and attribute is not None and _declares(submodule, attribute):
                        self._follow(submodule, attribute)
                    else:
                        self._follow(target, name)
                elif owner in module.definitions:
                    self._todo.append((module.name, owner))


def _declares(module: str, name: str) -> bool:
    return _file(module) is not None and (name in parsed(module).definitions or name in parsed(module).imports)


def is_ours(module: str) -> bool:
    """Whether a module's code belongs in a digest: ours, and not the frame."""
    head, _, rest = module.partition(".")
    return head in PACKAGES and not rest.startswith("_")


@lru_cache(maxsize=None)
def parsed(name: str) -> Module:
    """The top level of a project module, without importing it."""
    file = _file(name)
    if file is None:
        raise ModuleNotFoundError(f"no project module {name}")
    tree = _WithoutTexts().visit(ast.parse(file.read_bytes()))
    module = Module(name)
    for node in tree.body:
        _sort_in(module, node)
    return module


def _sort_in(module: Module, node: ast.stmt) -> None:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        module.definitions[node.name].append(node)
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        module.imports.update(_imported(node))
    elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]
        for name in names:
            module.definitions[name].append(node)
    elif not _is_for_types(node):
        module.always.append(node)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _imported(node: ast.Import | ast.ImportFrom) -> dict[str, tuple[str, str | None]]:
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name: (node.module or "", alias.name) for alias in node.names}
    return {alias.asname or alias.name.partition(".")[0]: (alias.name, None) for alias in node.names}


def _imports_in(node: ast.AST) -> dict[str, tuple[str, str | None]]:
    found: dict[str, tuple[str, str | None]] = {}
    for inner in ast.walk(node):
        if isinstance(inner, (ast.Import, ast.ImportFrom)):
            found.update(_imported(inner))
    return found


def _names_in(node: ast.AST) -> list[tuple[str, str | None]]:
    """(name, attribute taken of it or None), for every name that the node mentions."""
    found: list[tuple[str, str | None]] = []
    owners: set[ast.AST] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name):
            owners.add(inner.value)
            found.append((inner.value.id, inner.attr))
        elif isinstance(inner, ast.Name) and inner not in owners:
            found.append((inner.id, None))
        elif isinstance(inner, (ast.Import, ast.ImportFrom)):
            found += [(name, None) for name in _imported(inner) if isinstance(inner, ast.ImportFrom)]
    return found


class _WithoutTexts(ast.NodeTransformer):
    """Drops every statement that is only a string: docstrings of modules, classes, functions and fields."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:  # noqa: N802 - the name is ast's
        return None if _is_text(node) else node


def _file(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def _relative(module: str) -> str:
    file = _file(module)
    assert file is not None
    return file.relative_to(ROOT).as_posix()
