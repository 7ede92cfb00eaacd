"""Statements of a part put where they count: to each repository its evidence by folder, to each file its own words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from starloom.tasks.kernels.licenses.evidence import Repository, Scoped, Stated

Key = tuple[str, str]
"""(source, repository)."""
Said = list[tuple[int, dict[str, Any]]]
"""Statements, each with the row of the document that makes it, by path."""

_MAX_QUOTED = 100


class Evidence:
    """The evidence of a part.

    Args:
        table: of Docs: doc_id, source, repo, path, declared_license, is_vendor.
        stated: LicenseStatements of the same documents.
    """

    def __init__(self, table: pa.Table, stated: pa.Table) -> None:
        self.paths: list[str] = table.column("path").to_pylist()
        self.keys: list[Key] = list(zip(table.column("source").to_pylist(), table.column("repo").to_pylist(), strict=True))
        self.repositories = _repositories(self.keys, table.column("declared_license").to_pylist())
        self.headers: dict[int, Stated] = {}
        """Row → what the file says of itself."""
        rows = {doc_id: row for row, doc_id in enumerate(table.column("doc_id").to_pylist())}
        said = sorted(((rows[each["doc_id"]], each) for each in stated.to_pylist()), key=lambda pair: self.paths[pair[0]])
        whole = _by_file([pair for pair in said if pair[1]["role"] in ("text", "notice")], self.paths)
        quoted = whole | _by_file([pair for pair in said if pair[1]["role"] == "quoted"], self.paths)
        self._pointed = {(self.keys[row], self.paths[row]): each for row, each in quoted.items()}
        self._licenses = {(self.keys[row], self.paths[row]) for row in whole}
        self._add_texts(whole, {row: each["role"] for row, each in said if each["role"] in ("text", "notice")})
        self._add_manifests([pair for pair in said if pair[1]["role"] == "manifest"])
        self._add_headers([pair for pair in said if pair[1]["role"] == "header"], table.column("is_vendor").to_pylist())

    def _add_texts(self, whole: dict[int, Stated], roles: dict[int, str]) -> None:
        from starloom.tasks.kernels.sources.languages import license_scope

        for row, stated in whole.items():
            repository = self.repositories[self.keys[row]]
            folders = repository.texts if roles[row] == "text" else repository.notices
            folders.setdefault(license_scope(self.paths[row]), []).append(stated)

    def _add_manifests(self, said: Said) -> None:
        from starloom.tasks.kernels.licenses.evidence import Scoped
        from starloom.tasks.kernels.licenses.manifests import manifest_scope
        from starloom.tasks.kernels.sources.languages import license_scope

        scoped: list[tuple[Key, Scoped]] = []
        for row, each in said:
            key, scope = self.keys[row], manifest_scope(self.paths[row])
            stated = _of_manifest(each, self.paths[row], self._pointed.get((key, each["target"])))
            if each["paths"]:
                scoped.append((key, Scoped(scope, tuple(each["paths"].split("\n")), stated, each["overrides"])))
            elif (key, each["target"]) not in self._licenses or license_scope(each["target"]) != scope:  # else that text counts anyway
                self.repositories[key].manifests.setdefault(scope, []).append(stated)
        for key, statement in sorted(scoped, key=lambda pair: len(pair[1].scope)):
            self.repositories[key].scoped.append(statement)

    def _add_headers(self, said: Said, vendored: list[bool]) -> None:
        from starloom.tasks.kernels.sources.languages import license_scope

        for row, each in said:
            key, target = self.keys[row], each["target"]
            if (key, target) in self._licenses and self.paths[row].startswith(license_scope(target)) and each["expression"] is None:
                continue  # it points to a licence file that holds for it anyway
            own = _of_header(each, self.paths[row], self._pointed.get((key, target)))
            if own is not None:
                self.headers[row] = own[0]
                if not vendored[row]:
                    self.repositories[key].headers.append(own[1])


def _repositories(keys: list[Key], licenses: list[str | None]) -> dict[Key, Repository]:
    from starloom.tasks.kernels.licenses.evidence import Repository

    declared: dict[Key, str | None] = {}
    for key, each in zip(keys, licenses, strict=True):
        known = declared.get(key)
        declared[key] = each if known is None else known if each is None else max(known, each)
    return {key: Repository(each) for key, each in declared.items()}


def _by_file(said: Said, paths: list[str]) -> dict[int, Stated]:
    """Return one statement for each file: all that it states together, at the first place."""
    from starloom.tasks.kernels.licenses.evidence import Stated, all_of

    each: dict[int, list[dict[str, Any]]] = {}
    for row, statement in said:
        each.setdefault(row, []).append(statement)
    found = {}
    for row, listed in each.items():
        expression = all_of(str(s["expression"]) for s in listed if s["expression"] is not None)
        first = min(listed, key=lambda s: (s["line"], s["rule"]))
        words = (
            f"{expression or ('unread file' if first['rule'] == 'unread' else 'unidentified text')} ({paths[row]}, line {first['line']})"
        )
        found[row] = Stated(expression, paths[row], first["line"], min(s["score"] for s in listed), first["rule"], words)
    return found


def _of_manifest(each: dict[str, Any], path: str, pointed: Stated | None) -> Stated:
    """Return what a manifest declares, by itself or by the file that it points to."""
    from starloom.tasks.kernels.licenses.evidence import Stated

    expression = each["expression"] or (pointed and pointed.expression)
    words = expression or repr((each["quoted"] or "")[:_MAX_QUOTED])
    return Stated(
        expression,
        path,
        each["line"],
        each["score"] if pointed is None else pointed.score,
        each["rule"],
        f"{words} ({path}, line {each['line']})",
    )


def _of_header(each: dict[str, Any], path: str, pointed: Stated | None) -> tuple[Stated, Stated] | None:
    """Return what a file says of itself, in words for itself and for its siblings; None if it points to what says nothing."""
    from starloom.tasks.kernels.licenses.evidence import Stated

    place = "header" if each["rule"] in ("tag", "field") else "header notice"
    if each["expression"] is not None:
        own = Stated(
            each["expression"], path, each["line"], each["score"], each["rule"], f"{each['expression']} ({place}, line {each['line']})"
        )
        return own, own._replace(words=f"{own.expression} ({path}, line {own.line})")
    if pointed is None or pointed.expression is None:
        return None
    own = pointed._replace(words=f"{pointed.words} by the header, line {each['line']}")
    return own, pointed
