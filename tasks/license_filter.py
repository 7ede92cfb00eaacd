"""Keep files whose licence permits training, and say by which evidence.

Reads   Docs      doc_id, source, kind, repo, path, content, swhid, declared_license; a repository never straddles parts
Writes  Verdicts  rule = permissive, no-license, non-permissive, unknown-license, license-text; detail = the evidence, such
                  as "MIT (declared)", "GPL-3.0-or-later (header, line 2)", "Apache-2.0 (vendor/x/LICENSE)"
        Licenses  doc_id, license_class, evidence: the same of every document but licence files, kept or dropped

Evidence, strongest first:
1. What a file states in its own first lines (SPDX tag; the GNU and Mozilla notices) decides for that file alone; a
   choice between a GNU and a permissive licence ("dual licensed") settles nothing there.
2. The repository's declared licence and every licence file of a folder above the file, but the root's: all must permit.
   The root's licence files are not asked where the licence is declared: they often add the terms of bundled binaries.
   But where they say nothing permissive at all, they contradict a permissive declaration, and count.
3. Without a declared licence, the licence files of the root and of all folders above the file: all must permit.
As in The Stack v2, but for licence files in folders, which there cannot overrule a permissive declaration.
Licence files themselves are evidence, not training text, and are dropped.

Copies of a file under another licence are seen by deduplication only if they get that far: let all four classes through
here, and put license_gate behind the deduplication to drop what may not stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from starloom.lineage.errors import did_you_mean
from starloom.tasks.frame.stage import Config, Runtime, stage
from starloom.tasks.schemas import Docs, LicenseClass, Licenses, Verdicts

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

    from starloom.tasks.kernels.licenses.policy import Policy

Finding = tuple[LicenseClass, str | None]
"""The class of a file's licence and the evidence for it."""

_MAX_EVIDENCE = 3
_MAX_QUOTED = 100


class LicenseFilter(Config):
    """Knobs of license_filter."""

    allow_classes: list[LicenseClass] = Field(default=["permissive"], min_length=1)
    """Classes to keep. StarCoder kept permissive; StarCoder2 permissive and no-license. All four: judge here, drop with license_gate."""
    allow: list[str] = Field(default=[])
    """SPDX ids to count as permissive whatever their category, such as MPL-2.0."""
    deny: list[str] = Field(default=[])
    """SPDX ids to count as non-permissive whatever their category."""

    @field_validator("allow", "deny")
    @classmethod
    def _known_ids(cls, ids: list[str]) -> list[str]:
        from starloom.tasks.kernels.licenses.policy import canonical_id, known_ids

        known = [(spdx_id, canonical_id(spdx_id)) for spdx_id in ids]
        for spdx_id, canonical in known:
            if canonical is None:
                raise ValueError(f"{spdx_id!r} is not an SPDX id: {did_you_mean(spdx_id, known_ids())}")
        return sorted(str(canonical) for _, canonical in known)


@dataclass
class _Repository:
    """The statements of a repository about its licence."""

    declared: str | None
    by_folder: dict[str, list[tuple[str, tuple[str, ...]]]] = field(default_factory=dict)
    """Folder ("" or "a/b/") → its licence files, each with the SPDX ids found in it."""
    findings: dict[str, Finding] = field(default_factory=dict)
    """Folder → what holds for files in it that do not speak for themselves."""


@stage(libraries=("identify", "license-expression"))
def license_filter(docs: Docs, cfg: LicenseFilter, runtime: Runtime) -> tuple[Verdicts, Licenses]:  # noqa: ARG001 - quick enough to need no progress
    """Judge every file by the evidence nearest to it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from starloom.tasks.kernels.licenses.policy import Policy

    table = docs.read(["doc_id", "source", "kind", "repo", "path", "content", "swhid", "declared_license"])
    policy = Policy(allow=frozenset(cfg.allow), deny=frozenset(cfg.deny))
    classes, details = _judge(table, policy)
    keep = [found in cfg.allow_classes for found in classes]
    judged = pa.table({"doc_id": table.column("doc_id"), "license_class": classes, "evidence": pa.array(details, pa.string())})
    is_license = pc.equal(table.column("kind"), "license")
    return docs.verdicts(keep, rule=classes, detail=details), Licenses.of(judged.filter(pc.invert(is_license)))


def _judge(table: pa.Table, policy: Policy) -> tuple[list[str], list[str | None]]:
    """Return the rule and the evidence for each row."""
    from starloom.tasks.kernels.licenses.statements import header_licenses

    repositories = _repositories(table)
    headers = header_licenses(table.column("content"))
    keys = zip(table.column("source").to_pylist(), table.column("repo").to_pylist(), strict=True)
    classes: list[str] = []
    details: list[str | None] = []
    for row, (key, kind, path) in enumerate(zip(keys, table.column("kind").to_pylist(), table.column("path").to_pylist(), strict=True)):
        if kind == "license":
            found: tuple[str, str | None] = ("license-text", "evidence, not training text")
        elif row in headers:
            expression, line, where = headers[row]
            found = policy.judge(expression), f"{expression} ({where}, line {line})"
        else:
            found = _in_folder(repositories[key], path.rpartition("/")[0], policy)
        classes.append(found[0])
        details.append(found[1])
    return classes, details


def _repositories(table: pa.Table) -> dict[tuple[str, str], _Repository]:
    """Collect evidence by (source, repository). Each licence text is read once, however many files repeat it."""
    import pyarrow.compute as pc

    from starloom.tasks.kernels.licenses.statements import text_licenses
    from starloom.tasks.kernels.sources.languages import license_scope

    names = table.select(["source", "repo", "declared_license"]).group_by(["source", "repo"]).aggregate([("declared_license", "max")])
    found = {(row["source"], row["repo"]): _Repository(row["declared_license_max"]) for row in names.to_pylist()}
    identified: dict[str, tuple[str, ...]] = {}
    licenses = table.filter(pc.equal(table.column("kind"), "license")).select(["source", "repo", "path", "swhid", "content"])
    for row in sorted(licenses.to_pylist(), key=lambda row: row["path"]):
        if row["swhid"] not in identified:
            identified[row["swhid"]] = text_licenses(row["content"])
        folders = found[row["source"], row["repo"]].by_folder
        folders.setdefault(license_scope(row["path"]), []).append((row["path"], identified[row["swhid"]]))
    return found


def _in_folder(repository: _Repository, folder: str, policy: Policy) -> Finding:
    if folder not in repository.findings:
        repository.findings[folder] = _weigh(_statements(repository, folder, policy), policy)
    return repository.findings[folder]


def _statements(repository: _Repository, folder: str, policy: Policy) -> list[tuple[str | None, str]]:
    """Return the statements about files in a folder: (SPDX expression or None, the words with their place)."""
    from starloom.tasks.kernels.licenses.statements import declared_expression

    declared = None if repository.declared is None else declared_expression(repository.declared)
    stated: list[tuple[str | None, str]] = []
    if repository.declared is not None:
        stated.append((declared, f"{declared or repr(repository.declared[:_MAX_QUOTED])} (declared)"))
    parts = folder.split("/") if folder else []
    above = ["/".join(parts[:depth]) + "/" for depth in range(1, len(parts) + 1)]
    asks_root = declared is None or _contradicts(repository.by_folder.get("", ()), policy)
    for scope in ["", *above] if asks_root else above:
        for path, ids in repository.by_folder.get(scope, ()):
            expression = " AND ".join(f"({spdx_id})" if " " in spdx_id else spdx_id for spdx_id in ids)
            if ids or _names_license(path):
                stated.append((expression or None, f"{expression or 'unidentified text'} ({path})"))
    return stated


def _contradicts(licenses: Iterable[tuple[str, tuple[str, ...]]], policy: Policy) -> bool:
    """Return whether the root's licence files state licences, and none that permits."""
    stated = [policy.judge(spdx_id) for path, ids in licenses if _names_license(path) for spdx_id in ids]
    return bool(stated) and all(found == "non-permissive" for found in stated)


def _names_license(path: str) -> bool:
    """Return whether a file whose text says nothing known must still hold terms: a NOTICE need not, a LICENSE must."""
    name = path.rpartition("/")[2].lower()
    return any(word in name for word in ("license", "licence", "copying"))


def _weigh(stated: list[tuple[str | None, str]], policy: Policy) -> Finding:
    """Weigh the statements: all known ones must permit; unknown ones count only where nothing is known."""
    judged = [("unknown-license" if expression is None else policy.judge(expression), words) for expression, words in stated]
    if not judged:
        return "no-license", None
    for outcome in ("non-permissive", "permissive", "unknown-license"):
        evidence = [words for found, words in judged if found == outcome]
        if evidence:
            return outcome, _listed(evidence)
    raise AssertionError(f"no outcome for {judged}")


def _listed(evidence: Iterable[str]) -> str:
    ordered = list(dict.fromkeys(evidence))
    more = len(ordered) - _MAX_EVIDENCE
    return "; ".join(ordered[:_MAX_EVIDENCE]) + (f"; and {more} more" if more > 0 else "")
