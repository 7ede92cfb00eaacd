"""Reading of everything that the documents of a part say about licences: licence files, manifests, headers, and what they point to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starloom.tasks.schemas import LicenseStatements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa

    from starloom.tasks.kernels.licenses.statements import Statement

    Scan = Callable[[str], tuple[Statement, ...]]
    Row = tuple[int, dict[str, Any]]

_COLUMNS = ("doc_id", "source", "kind", "repo", "path", "swhid")
_MAX_LEFT_WORDS = 12
"""Words beside the reference texts of a file that is known exactly: a title, names."""


@dataclass
class _Part:
    """The documents of a part, without their texts but for those that are asked."""

    table: pa.Table
    names: dict[str, list[Any]]
    places: dict[tuple[str, str], dict[str, int]]
    """(source, repository) → path → row."""
    by_name: dict[tuple[str, str], dict[str, list[str]]]

    @classmethod
    def of(cls, table: pa.Table) -> _Part:
        names = {name: table.column(name).to_pylist() for name in _COLUMNS}
        places: dict[tuple[str, str], dict[str, int]] = {}
        by_name: dict[tuple[str, str], dict[str, list[str]]] = {}
        for row, (source, repo, path) in enumerate(zip(names["source"], names["repo"], names["path"], strict=True)):
            places.setdefault((source, repo), {})[path] = row
            by_name.setdefault((source, repo), {}).setdefault(path.rpartition("/")[2], []).append(path)
        return cls(table, names, places, by_name)

    def content(self, row: int) -> str:
        return str(self.table.column("content")[row].as_py())

    def target(self, row: int, written: str) -> int | None:
        """Return the row that a file means where it points to another one of its repository."""
        from starloom.tasks.kernels.licenses.evidence import nearest_file

        repository = self.names["source"][row], self.names["repo"][row]
        files = self.places[repository]
        found = nearest_file(self.names["path"][row], written, files, self.by_name[repository])
        return None if found is None else files[found]


def read_statements(table: pa.Table, scan: Scan | None) -> LicenseStatements:
    """Return all statements of a part.

    Args:
        table: of Docs: doc_id, source, kind, repo, path, content, swhid.
        scan: a slower detector for the texts and headers that no exact rule knows; None: these rules alone.
    """
    import pyarrow as pa

    part = _Part.of(table)
    licenses, manifests = _license_rows(part), _manifest_rows(part)
    rows = [*_of_licenses(part, licenses, scan), *_of_manifests(part, manifests)]
    rows += _of_headers(part, {*licenses, *manifests}, scan)
    pointed = {part.places[_repository(part, row)][each["target"]] for row, each in rows if each.get("target")}
    rows += _of_quoted(part, sorted(pointed - set(licenses)), scan)
    found = [{"overrides": False, **each, "doc_id": part.names["doc_id"][row]} for row, each in rows]
    return LicenseStatements.of(pa.Table.from_pylist(found, LicenseStatements.SCHEMA))


def _repository(part: _Part, row: int) -> tuple[str, str]:
    return part.names["source"][row], part.names["repo"][row]


def _license_rows(part: _Part) -> list[int]:
    """Return the rows of licence files: those of that kind, and those that a markup hid."""
    import pyarrow.compute as pc

    from starloom.tasks.kernels.licenses.manifests import is_manifest
    from starloom.tasks.kernels.licenses.roles import MARKUP_LICENSE

    by_kind = pc.equal(part.table.column("kind"), "license")
    rows = pc.indices_nonzero(pc.or_(by_kind, pc.match_substring_regex(part.table.column("path"), MARKUP_LICENSE))).to_pylist()
    return [row for row in rows if not is_manifest(part.names["path"][row]) or not _is_dep5(part, row)]


def _is_dep5(part: _Part, row: int) -> bool:
    """Return whether a file is read as a manifest, stanza by stanza, rather than as one text."""
    from starloom.tasks.kernels.licenses.deb822 import is_dep5

    name = part.names["path"][row].rpartition("/")[2]
    return name not in ("copyright", "dep5") or is_dep5(part.content(row))


def _manifest_rows(part: _Part) -> list[int]:
    from starloom.tasks.kernels.licenses.manifests import is_manifest

    return [row for row, path in enumerate(part.names["path"]) if is_manifest(path) and _is_dep5(part, row)]


def _row(role: str, statement: Statement) -> dict[str, Any]:
    return {"role": role, "line": statement.line, "score": statement.score, "rule": statement.rule, "expression": statement.expression}


def _of_licenses(part: _Part, rows: list[int], scan: Scan | None) -> Iterator[Row]:
    """Yield what licence files state. Each text is read once, however many files repeat it."""
    from starloom.tasks.kernels.licenses.roles import must_state, role_of
    from starloom.tasks.kernels.licenses.statements import Statement
    from starloom.tasks.kernels.sources.languages import license_scope

    beside: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        beside.setdefault((*_repository(part, row), license_scope(part.names["path"][row])), []).append(part.names["path"][row])
    known: dict[tuple[str, str, int], list[Statement]] = {}
    for row in rows:
        path = part.names["path"][row]
        content = part.content(row)
        text = path.rpartition(".")[2].lower(), part.names["swhid"][row], len(content)
        if text not in known:
            known[text] = _read_text(path, content, scan)
        role = role_of(path, content, beside[(*_repository(part, row), license_scope(path))])
        for statement in known[text]:
            yield row, _row(role, statement)
        if not known[text] and (must_state(path) or not content):
            yield row, _row(role, Statement(None, 1, 0.0, "unidentified" if content else "unread"))


def _read_text(path: str, content: str, scan: Scan | None) -> list[Statement]:
    from starloom.tasks.kernels.licenses.statements import read_text, readable_text

    text = readable_text(path, content)
    statements, num_left = read_text(text)
    is_exact = bool(statements) and num_left <= _MAX_LEFT_WORDS and all(each.rule.startswith("text:") for each in statements)
    if scan is None or is_exact:
        return statements
    return list(scan(text)) or statements


def _of_manifests(part: _Part, rows: Iterable[int]) -> Iterator[Row]:
    from starloom.tasks.kernels.licenses.manifests import read_manifest

    for row in rows:
        path = part.names["path"][row]
        for declared in read_manifest(path, part.content(row)):
            target = None if declared.target is None else part.target(row, declared.target)
            yield (
                row,
                {
                    "role": "manifest",
                    "line": declared.line,
                    "score": 0.0 if declared.expression is None else 100.0,
                    "rule": path.rpartition("/")[2],
                    "expression": declared.expression,
                    "quoted": declared.quoted or declared.target,
                    "target": None if target is None else part.names["path"][target],
                    "paths": "\n".join(declared.paths) or None,
                    "overrides": declared.overrides,
                },
            )


def _of_headers(part: _Part, without: set[int], scan: Scan | None) -> Iterator[Row]:
    """Yield what files say of themselves in their first lines, and which file they point to."""
    from starloom.tasks.kernels.licenses.headers import read_headers

    for row, header in read_headers(part.table.column("content")).items():
        if row in without:
            continue
        target = None if header.target is None else part.target(row, header.target)
        if header.expression is not None or target is not None:
            found = {"role": "header", "line": header.line, "score": header.score, "rule": header.rule, "expression": header.expression}
            yield row, {**found, "target": None if target is None else part.names["path"][target]}
        elif scan is not None and header.rule == "unread":
            yield from ((row, each) for each in _of_unread(part, row, scan))


def _of_unread(part: _Part, row: int, scan: Scan) -> Iterator[dict[str, Any]]:
    """Yield what the slower detector finds in the first lines of a file: licences that it knows, and none that it only suspects."""
    from starloom.tasks.kernels.licenses.evidence import all_of
    from starloom.tasks.kernels.licenses.headers import head_of
    from starloom.tasks.kernels.licenses.policy import is_stated

    found = [each for each in scan(head_of(part.content(row).encode())) if each.expression is not None and is_stated(each.expression)]
    if found:
        first = min(found, key=lambda statement: statement.line)
        expression = all_of(sorted(str(each.expression) for each in found))
        yield {
            "role": "header",
            "line": first.line,
            "score": min(each.score for each in found),
            "rule": first.rule,
            "expression": expression,
        }


def _of_quoted(part: _Part, rows: Iterable[int], scan: Scan | None) -> Iterator[Row]:
    """Yield the whole licence texts that source files hold for others to point to; of prose, what it names as well."""
    from starloom.tasks.kernels.licenses.statements import text_statements

    for row in rows:
        content = part.content(row)
        if part.names["kind"][row] == "documentation":
            found = _read_text(part.names["path"][row], content, scan)
        else:
            found = [each for each in text_statements(content) if not each.rule.startswith("phrase:")]
        for statement in found:
            yield row, _row("quoted", statement)
