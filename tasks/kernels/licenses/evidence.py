"""The evidence of a repository about the licence of each of its files, weighed by a policy.

A repository is what it declares, its licence files and manifests by folder, the stanzas that name files (DEP-5, REUSE), and what
the files themselves say. Guarantee: a pure function of these; every finding names its rule and the evidence that decided.
Cost: one weighing a folder, and a look-up a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from starloom.tasks.kernels.licenses.deb822 import matches
from starloom.tasks.kernels.licenses.names import declared_expression
from starloom.tasks.kernels.licenses.policies import UNKNOWN_REFERENCE
from starloom.tasks.kernels.licenses.policy import NON_PERMISSIVE, PERMISSIVE, UNKNOWN, ids_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from starloom.tasks.kernels.licenses.policy import License, Policy

NO_LICENSE = "no-license"
CONTRADICTING_HEADER = "contradicting-header"
SIBLING_HEADER = "sibling-header"

_MAX_EVIDENCE = 3
_MAX_QUOTED = 100
_SEVERITY = {PERMISSIVE: 0, NO_LICENSE: 1, UNKNOWN: 2, NON_PERMISSIVE: 3}


class Stated(NamedTuple):
    """A statement with its place."""

    expression: str | None
    """SPDX expression; None: terms that nobody identified."""
    path: str | None
    """The file that states it; None: the source's own metadata."""
    line: int | None
    score: float
    rule: str
    words: str
    """Statement and place, as a person reads them."""


class Finding(NamedTuple):
    """Finding that holds for a file."""

    license_class: str
    rule: str
    """The class, or the rule that gave it: contradicting-header, sibling-header."""
    words: str | None
    evidence: Stated | None
    """The statement that decided."""


class Scoped(NamedTuple):
    """A statement about some files of a folder."""

    scope: str
    paths: tuple[str, ...]
    stated: Stated
    overrides: bool


@dataclass
class Repository:
    """The statements of a repository about its licence."""

    declared: str | None
    """As its source declares it."""
    texts: dict[str, list[Stated]] = field(default_factory=dict)
    """Folder ("" or "a/b/") → what its licence files state, one statement a file."""
    notices: dict[str, list[Stated]] = field(default_factory=dict)
    """Folder → what its third-party notices state, and the licences of parts beside a whole one."""
    manifests: dict[str, list[Stated]] = field(default_factory=dict)
    """Folder → what its manifests declare."""
    scoped: list[Scoped] = field(default_factory=list)
    """In the order in which later ones overrule earlier ones."""
    headers: list[Stated] = field(default_factory=list)
    """What files that are not vendored say of themselves, by path."""
    findings: dict[str, Finding] = field(default_factory=dict)
    """Folder → what holds for files in it that do not speak for themselves."""
    siblings: Finding | None = None

    def judge(self, path: str, header: Stated | None, policy: Policy) -> Finding:
        """Judge a file by its own words, else by the evidence nearest to it."""
        scoped = next((s for s in reversed(self.scoped) if path.startswith(s.scope) and matches(path[len(s.scope) :], s.paths)), None)
        around = self._in_folder(path.rpartition("/")[0], policy) if scoped is None else self._scoped(path, scoped, policy)
        if header is not None and header.expression is not None and not (scoped is not None and scoped.overrides):
            return _of_header(header, around, policy)
        return self._of_siblings(policy) if around.license_class == NO_LICENSE and policy.table.siblings else around

    def _in_folder(self, folder: str, policy: Policy) -> Finding:
        if folder not in self.findings:
            weigh = {"nearest": self._nearest, "repository": self._everywhere, "union": self._union}[policy.table.weighs]
            self.findings[folder] = weigh(folder, policy)
        return self.findings[folder]

    def _scoped(self, path: str, scoped: Scoped, policy: Policy) -> Finding:
        """Weigh a statement that names the file with those of the folders between: it stands for those of its own scope and above."""
        below = [folder for folder in _above(path.rpartition("/")[0]) if len(folder) > len(scoped.scope)]
        stated = [scoped.stated, *(s for folder in below for s in [*self.manifests.get(folder, ()), *self.texts.get(folder, ())])]
        return _weigh(stated, policy)

    def _nearest(self, folder: str, policy: Policy) -> Finding:
        """Weigh the root's declarations, its licence files where nothing is declared or they contradict, and all of the folders below."""
        roots = self._root_declarations()
        understood = [s for s in roots if s.expression is not None]
        asks_root = not understood or _contradicts(self.texts.get("", ()), policy)
        stated = [*roots, *(self.texts.get("", ()) if asks_root else ())]
        for scope in _above(folder)[1:]:
            beside = self.texts.get(scope, ())
            stated += [*self.manifests.get(scope, ()), *(beside or self.notices.get(scope, ()))]
        return _weigh(stated, policy) if stated else self._of_notices(self.notices.get("", ()), policy)

    def _everywhere(self, folder: str, policy: Policy) -> Finding:  # noqa: ARG002 - one finding for all folders
        """Weigh all licence files of the repository and its declarations, as The Stack v1 did: each must permit."""
        stated = [*self._root_declarations(), *(s for scope in sorted(self.texts) for s in self.texts[scope])]
        return _weigh(stated, policy) if stated else self._of_notices(self.notices.get("", ()), policy)

    def _union(self, folder: str, policy: Policy) -> Finding:
        """Judge by The Stack v2's table: the declaration alone, else the ids of all licence files of the folders above."""
        roots = self._root_declarations()
        if understood := [s for s in roots if s.expression is not None]:
            return _weigh(understood, policy)
        above = [s for scope in _above(folder) for s in [*(self.manifests.get(scope, ()) if scope else ()), *self.texts.get(scope, ())]]
        if roots and not any(s.expression for s in above):
            return _finding(UNKNOWN, roots)
        ids = {spdx_id: s for s in above if s.expression is not None for spdx_id in sorted(ids_in(s.expression))}
        judged = {spdx_id: policy.judge_id(spdx_id) for spdx_id in ids}
        permits = [ids[spdx_id] for spdx_id, found in judged.items() if found == PERMISSIVE]
        others = [ids[i] for i, found in judged.items() if found in (NON_PERMISSIVE, UNKNOWN) or (i == UNKNOWN_REFERENCE and not permits)]
        if others:
            return _finding(NON_PERMISSIVE, others)
        if permits:
            return _finding(PERMISSIVE, permits)
        unread = [s for s in above if s.expression is None]
        return _finding(UNKNOWN, unread) if unread else self._of_notices(self.notices.get("", ()), policy)

    def _root_declarations(self) -> list[Stated]:
        declared = [] if self.declared is None else [_of_source(self.declared)]
        return [*declared, *self.manifests.get("", ())]

    def _of_notices(self, notices: Iterable[Stated], policy: Policy) -> Finding:
        """Weigh third-party notices where nothing else is known: they are about parts, so that what they say is unknown of the whole."""
        worse = [s for s in notices if s.expression is not None and policy.judge(s.expression) != PERMISSIVE]
        return _finding(UNKNOWN, worse) if worse else Finding(NO_LICENSE, NO_LICENSE, None, None)

    def _of_siblings(self, policy: Policy) -> Finding:
        """Judge a file of a repository that says nothing by what other files there say of themselves."""
        if self.siblings is None:
            by_class: dict[str, list[Stated]] = {}
            for stated in self.headers:
                by_class.setdefault(policy.judge(str(stated.expression)), []).append(stated)
            worst = next((found for found in (NON_PERMISSIVE, UNKNOWN) if found in by_class), None)
            if worst is not None:
                self.siblings = _finding(worst, by_class[worst])._replace(rule=SIBLING_HEADER)
            else:
                permitted = by_class.get(PERMISSIVE, [])
                words = f"other files: {_listed(permitted)}" if permitted else None
                self.siblings = Finding(NO_LICENSE, NO_LICENSE, words, permitted[0] if permitted else None)
        return self.siblings


def _above(folder: str) -> list[str]:
    """Return a folder and those above it, the root ("") first, each but the root with a slash at its end."""
    parts = folder.split("/") if folder else []
    return ["", *("/".join(parts[:depth]) + "/" for depth in range(1, len(parts) + 1))]


def _of_source(declared: str) -> Stated:
    expression = declared_expression(declared)
    return Stated(expression, None, None, 100.0, "declared", f"{expression or repr(declared[:_MAX_QUOTED])} (declared)")


def _of_header(header: Stated, around: Finding, policy: Policy) -> Finding:
    """Judge by what the file says of itself, against what its repository says."""
    own = policy.judge(str(header.expression))
    contradicts = (
        around.license_class in (PERMISSIVE, NON_PERMISSIVE) and own in (PERMISSIVE, NON_PERMISSIVE) and own != around.license_class
    )
    if policy.table.headers == "strictest" and _SEVERITY[own] < _SEVERITY[around.license_class] and around.license_class != NO_LICENSE:
        return around._replace(rule=CONTRADICTING_HEADER, words=f"{around.words}; {header.words}") if contradicts else around
    if contradicts:
        return Finding(own, CONTRADICTING_HEADER, f"{header.words}; {around.words}", header)
    return Finding(own, own, header.words, header)


def _contradicts(texts: Iterable[Stated], policy: Policy) -> bool:
    """Return whether the root's licence files state licences, and none that permits."""
    found = [policy.judge(part) for s in texts if s.expression is not None for part in s.expression.split(" AND ")]
    return bool(found) and all(each == NON_PERMISSIVE for each in found)


def _weigh(stated: Iterable[Stated], policy: Policy) -> Finding:
    """Weigh statements: all known ones must permit; unknown ones count only where nothing is known."""
    judged: list[tuple[License, Stated]] = [(UNKNOWN if s.expression is None else policy.judge(s.expression), s) for s in stated]
    for outcome in (NON_PERMISSIVE, PERMISSIVE, UNKNOWN):
        if evidence := [s for found, s in judged if found == outcome]:
            return _finding(outcome, evidence)
    return Finding(NO_LICENSE, NO_LICENSE, None, None)


def _finding(outcome: str, evidence: list[Stated]) -> Finding:
    return Finding(outcome, outcome, _listed(evidence), evidence[0])


def _listed(evidence: Iterable[Stated]) -> str:
    ordered = list(dict.fromkeys(s.words for s in evidence))
    more = len(ordered) - _MAX_EVIDENCE
    return "; ".join(ordered[:_MAX_EVIDENCE]) + (f"; and {more} more" if more > 0 else "")


def all_of(expressions: Iterable[str]) -> str | None:
    """Return the expression of which all hold; None for none."""
    return " AND ".join(f"({each})" if " " in each else each for each in expressions) or None


def nearest_file(path: str, target: str, files: dict[str, int], by_name: dict[str, list[str]]) -> str | None:
    """Return the file that a reference means: from the folder of `path` upwards, else the only one of that name in the repository.

    Args:
        path: of the file that points.
        target: what it points to, as it is written.
        files: all paths of the repository.
        by_name: file name → paths.
    """
    target = target.strip().removeprefix("./").lstrip("/")
    while target.startswith("../"):
        target = target[3:]
    for folder in reversed(_above(path.rpartition("/")[0])):
        if folder + target in files and folder + target != path:
            return folder + target
    named = [found for found in by_name.get(target.rpartition("/")[2], ()) if found != path]
    return named[0] if len(named) == 1 else None


def stated_rows(rows: Iterable[tuple[str | None, str, int, float, str]]) -> Iterator[Stated]:
    """Yield statements from (expression, path, line, score, rule)."""
    for expression, path, line, score, rule in rows:
        yield Stated(expression, path, line, score, rule, f"{expression or 'unidentified text'} ({path}, line {line})")
