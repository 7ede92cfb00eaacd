"""Digests of code by syntax tree: the definitions that a function reaches, and nothing else.

The digest of a stage covers its function and every project definition that it can reach by name, in its own module and in
the modules it imports (also inside functions). Comments, docstrings, formatting and definitions that it does not reach are
left out, so a touched comment changes nothing and a new function beside it neither. Statements at module level that are
not definitions always count, and so do definitions under a decorator that is not in `WRAPPERS`: it may register them
somewhere. Reaching a name by `getattr` or `globals()` cannot be seen: stages do not do that.

The frame itself (`lineage`, `tasks.frame`) is left out; `FORMAT` in `starloom.lineage.store` stands for it. So are the
modules in `ONLOOKERS`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

NAME = "starloom"
ROOT = Path(__file__).absolute().parents[1]
"""The folder of the packages."""

PACKAGES = ("starloom.tasks", "starloom.model")
"""Packages whose code shapes outputs."""

FRAME = "starloom.tasks.frame"
"""The package that runs stages."""

ONLOOKERS = frozenset(("starloom.model.samples", "starloom.model.watching", "starloom.tasks.kernels.compiled"))
"""Modules that only show how it goes and shape no output: another line on a screen causes no new training."""

WRAPPERS = frozenset(
    ("cache", "contextmanager", "dataclass", "final", "jit", "lru_cache", "njit", "no_grad", "prepare", "stage", "total_ordering")
)
"""Decorators that return their function wrapped, and register it nowhere: a definition under them is reached only by its name."""

Summary = dict[str, Any]
"""Of a definition: its digest, the (name, attribute) pairs that it mentions, and what it imports inside itself.
Of a module: its definitions by name, its imports by local name as [module, name or null], and its other statements.
Plain JSON values, so that it can be kept: most of the time is in parsing."""


class Reader:
    """A reader of project modules, from their source, without importing them.

    Args:
        memory: summaries by the hash of the source text, of this module and of Python's version; brought up to date.
            Keep it for the next time.
    """

    def __init__(self, memory: dict[str, Summary] | None = None) -> None:
        self.memory = {} if memory is None else memory
        self.grew = False
        self._salt = b"%d.%d\0" % sys.version_info[:2] + Path(__file__).read_bytes()
        self._modules: dict[str, Summary] = {}

    def module(self, name: str) -> Summary:
        """Return the summary of a project module.

        Raises:
            ModuleNotFoundError: if there is none.
        """
        if name not in self._modules:
            file = _file(name)
            if file is None:
                raise ModuleNotFoundError(f"no project module {name}")
            text = file.read_bytes()
            key = hashlib.sha256(self._salt + b"\0" + text).hexdigest()
            if key not in self.memory:
                self.memory[key], self.grew = _summary_of_module(text), True
            self._modules[name] = self.memory[key]
        return self._modules[name]

    def declares(self, module: str, name: str) -> bool:
        """Return whether a name is defined or imported at the top of a module."""
        return _file(module) is not None and (name in self.module(module)["definitions"] or name in self.module(module)["imports"])


def digests(module: str, symbol: str, *, runs: tuple[str, ...] = (), reader: Reader | None = None) -> dict[str, str]:
    """Return file → digest of the definitions in it that `module.symbol` reaches.

    Args:
        module: dotted name of the module that declares the function.
        symbol: the function's name.
        runs: modules that are run rather than imported; all of them counts.
        reader: remembers what it has parsed.
    """
    walk = _Walk(reader or Reader())
    walk.reach(module, symbol)
    for name in runs:
        walk.reach_all(name)
    return walk.digests()


class _Walk:
    def __init__(self, reader: Reader) -> None:
        self._read = reader.module
        self._declares = reader.declares
        self._seen: dict[str, set[str]] = {}
        self._reexported: dict[str, set[str]] = defaultdict(set)
        self._todo: list[tuple[str, str]] = []

    def reach(self, module: str, symbol: str) -> None:
        self._todo.append((module, symbol))
        while self._todo:
            self._visit(*self._todo.pop())

    def reach_all(self, module: str) -> None:
        self._follow(module, None)
        self.reach(module, "")

    def digests(self) -> dict[str, str]:
        found = {}
        for name in sorted(self._seen):
            module = self._read(name)
            spelt = [part["digest"] for part in module["always"]]
            spelt += [part["digest"] for symbol in sorted(self._seen[name]) for part in module["definitions"][symbol]]
            if spelt:
                found[_relative(name)] = hashlib.sha256("\0".join(spelt).encode()).hexdigest()[:16]
        return found

    def _visit(self, name: str, symbol: str) -> None:
        """Visit a definition of a module; at "", only what the module does when it is imported."""
        module = self._read(name)
        if name not in self._seen:
            self._seen[name] = set()
            self._follow_uses(name, module, module["always"])
            package = name.rpartition(".")[0]
            self._todo += [(package, "")] if is_ours(package) and _file(package) else []
        if symbol in module["definitions"] and symbol not in self._seen[name]:
            self._seen[name].add(symbol)
            self._follow_uses(name, module, module["definitions"][symbol])
        if symbol in module["imports"]:
            self._follow(*_absolute(name, *module["imports"][symbol]))

    def _follow(self, target: str, name: str | None) -> None:
        """Continue at a name of a module; at all of the module if the name is None or a star."""
        if not is_ours(target):
            return
        if name in (None, "*"):
            module = self._read(target)
            self._todo += [(target, symbol) for symbol in ("", *module["definitions"])]
            self._todo += [(target, symbol) for symbol in module["imports"] if symbol not in self._reexported[target]]
            self._reexported[target] |= set(module["imports"])
        elif is_ours(f"{target}.{name}") and _file(f"{target}.{name}") is not None:
            self._follow(f"{target}.{name}", None)
        else:
            self._todo.append((target, str(name)))

    def _follow_uses(self, name: str, module: Summary, parts: list[Summary]) -> None:
        for part in parts:
            known = {**module["imports"], **part["imports"]}
            for owner, attribute in part["names"]:
                if owner in known:
                    target, imported = _absolute(name, *known[owner])
                    submodule = target if imported is None else f"{target}.{imported}"
                    if is_ours(submodule) and attribute is not None and self._declares(submodule, attribute):
                        self._follow(submodule, attribute)
                    else:
                        self._follow(target, imported)
                if owner in module["definitions"]:  # also where it is imported: what is imported may be changed afterwards
                    self._todo.append((name, owner))


def is_ours(module: str) -> bool:
    """Return whether a module's code belongs in a digest: ours, not the frame's, and not merely for display."""
    return _lies_in(module, *PACKAGES) and not _lies_in(module, FRAME) and module not in ONLOOKERS


def _lies_in(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _absolute(importer: str, target: str, name: str | None) -> tuple[str, str | None]:
    """Return the absolute module name of an import, which may be relative."""
    if not target.startswith("."):
        return target, name
    file = _file(importer)
    package = importer if file is not None and file.name == "__init__.py" else importer.rpartition(".")[0]
    return importlib.util.resolve_name(target, package), name


def _summary_of_module(text: bytes) -> Summary:
    module: Summary = {"definitions": {}, "imports": {}, "always": []}
    for node in _WithoutTexts().visit(ast.parse(text)).body:
        _sort_in(module, node)
    return module


def _sort_in(module: Summary, node: ast.stmt) -> None:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        summary = _summary(node)
        module["definitions"].setdefault(node.name, []).append(summary)
        if not all(_last_name(decorator) in WRAPPERS for decorator in node.decorator_list):
            module["always"].append(summary)
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        module["imports"].update(_imported(node))
        if not _is_named(node):
            module["always"].append(_summary(node))
    elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        summary = _summary(node)
        names = {leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)}
        for name in names:
            module["definitions"].setdefault(name, []).append(summary)
        if names & module["imports"].keys():  # it changes something of another module, whose users cannot know
            module["always"].append(summary)
    elif not _is_for_types(node):
        module["always"].append(_summary(node))


def _summary(node: ast.stmt) -> Summary:
    """Return digest, names and inner imports of one statement."""
    names: set[tuple[str, str | None]] = set()
    imports: dict[str, list[str | None]] = {}
    owners: set[ast.AST] = set()
    is_block = not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    for inner in ast.walk(node):  # breadth first: an attribute comes before the name that it is taken of
        if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name):
            owners.add(inner.value)
            names.add((inner.value.id, inner.attr))
        elif isinstance(inner, ast.Name) and inner not in owners:
            names.add((inner.id, None))
        elif isinstance(inner, (ast.Import, ast.ImportFrom)):
            imports.update(_imported(inner))
            if is_block or isinstance(inner, ast.ImportFrom) or not _is_named(inner):
                names |= {(name, None) for name in _imported(inner)}
    ordered = sorted(([owner, attribute] for owner, attribute in names), key=str)
    return {"digest": hashlib.sha256(ast.dump(node).encode()).hexdigest()[:16], "names": ordered, "imports": imports}


def _last_name(decorator: ast.expr) -> str:
    """Return the last name of a decorator: `cache` of `@cache`, `@functools.cache` and `@functools.cache()`."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _imported(node: ast.Import | ast.ImportFrom) -> dict[str, list[str | None]]:
    """Return local name → [module, name in it or None for the module itself]; a relative module keeps its dots.

    `import a.b` stands under the whole of `a.b`, so that a second one beside it is not lost.
    """
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name: ["." * node.level + (node.module or ""), alias.name] for alias in node.names}
    return {alias.asname or alias.name: [alias.name, None] for alias in node.names}


def _is_named(node: ast.Import | ast.ImportFrom) -> bool:
    """Return whether each of our imported names has one local name by which its uses are found: not for `*` and `import a.b`."""
    if isinstance(node, ast.ImportFrom):
        return node.names[0].name != "*"
    return all(alias.asname or "." not in alias.name or not is_ours(alias.name) for alias in node.names)


class _WithoutTexts(ast.NodeTransformer):
    """A transformer that drops every statement that is only a string: docstrings of modules, classes, functions and fields."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if _is_text(node) else node


def _file(module: str) -> Path | None:
    path = ROOT.joinpath(*module.removeprefix(f"{NAME}.").split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def _relative(module: str) -> str:
    file = _file(module)
    assert file is not None
    return file.relative_to(ROOT).as_posix()
