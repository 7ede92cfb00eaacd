"""SPDX expressions, and the policy that permits licences.

Ids, aliases and categories come from the ScanCode LicenseDB that `license-expression` ships, as The Stack v2's did from
ScanCode. Guarantee: what is no valid expression of known ids is unknown, never permitted. Cost: expressions are parsed once each.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from starloom.tasks.kernels.licenses.policies import NEUTRAL, POLICIES, UNKNOWN_CATEGORIES, UNKNOWN_REFERENCE, PolicyName, PolicyTable

License = Literal["permissive", "non-permissive", "unknown-license"]

PERMISSIVE: License = "permissive"
NON_PERMISSIVE: License = "non-permissive"
UNKNOWN: License = "unknown-license"

_MAX_EXPRESSION = 1000
"""Characters of an expression that is parsed: five times the longest seen, and a longer one costs more than it says."""


@dataclass(frozen=True)
class Policy:
    """The licences that count as permissive: a named table, but for the ids and categories that are allowed or denied by name."""

    name: PolicyName = "permissive-only"
    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()

    @property
    def table(self) -> PolicyTable:
        """The policy in data."""
        return POLICIES[self.name]

    def judge(self, expression: str) -> License:
        """Judge an expression. OR: one permissive licence is enough; AND: all must be; WITH: an exception only loosens its licence."""
        parsed = parse_expression(expression)
        found = UNKNOWN if parsed is None else self._judge(parsed)
        return UNKNOWN if found is None else found

    def _judge(self, node: Any) -> License | None:
        """Judge a node; None: it says nothing about a licence beside it."""
        if hasattr(node, "license_symbol"):
            return self._judge(node.license_symbol)
        if not getattr(node, "args", ()):
            return self.judge_id(node.key)
        found = {self._judge(child) for child in node.args}
        order = (PERMISSIVE, UNKNOWN, NON_PERMISSIVE) if node.operator.strip() == "OR" else (NON_PERMISSIVE, UNKNOWN, PERMISSIVE)
        return next((verdict for verdict in order if verdict in found), None)

    def judge_id(self, spdx_id: str) -> License | None:
        """Judge one licence: by its id before its category, and what is denied before what is allowed; None: a neutral one."""
        known = canonical_id(spdx_id)
        if known is None:
            return None if spdx_id in NEUTRAL else UNKNOWN
        category = _index()[known.lower()][1]
        for names in ({known}, {category}):
            if names & self.deny:
                return NON_PERMISSIVE
            if names & self.allow:
                return PERMISSIVE
        if known in NEUTRAL or known == UNKNOWN_REFERENCE:
            return None
        if known in _canonical(self.name) or category in self.table.categories:
            return PERMISSIVE
        return UNKNOWN if category in UNKNOWN_CATEGORIES else NON_PERMISSIVE


@functools.cache
def _canonical(name: PolicyName) -> frozenset[str]:
    """Return the ids that a policy permits, in their current spelling."""
    return frozenset(canonical_id(spdx_id) or spdx_id for spdx_id in POLICIES[name].ids)


def ids_in(expression: str) -> frozenset[str]:
    """Return the ids of all licences in an expression, as they are spelt there; of an unparsable one, itself."""
    parsed = parse_expression(expression)
    if parsed is None:
        return frozenset({expression})
    return frozenset(canonical_id(symbol.key) or symbol.key for symbol in _parser_of_ids()(parsed))


def is_stated(expression: str) -> bool:
    """Return whether an expression names a licence, rather than that there is one somewhere or that something is disclaimed."""
    ids = ids_in(expression)
    known = [_index()[i.lower()][1] for i in ids if i.lower() in _index() and i not in NEUTRAL]
    return any(category not in UNKNOWN_CATEGORIES for category in known)


@functools.cache
def _parser_of_ids() -> Callable[..., Any]:
    from license_expression import get_spdx_licensing

    find: Callable[..., Any] = get_spdx_licensing().license_symbols
    return functools.partial(find, unique=True, decompose=True, validate=False)


def categories() -> list[str]:
    """Return the categories of licences, sorted."""
    return sorted({category for _, category in _index().values()})


def canonical_id(spdx_id: str) -> str | None:
    """Return the current SPDX id for any spelling or older name of it; None if there is no such licence."""
    entry = _index().get(spdx_id.lower())
    return None if entry is None else entry[0]


def known_ids() -> list[str]:
    """Return all licence ids, sorted."""
    return sorted({canonical for canonical, _ in _index().values()})


@functools.cache
def _index() -> dict[str, tuple[str, str]]:
    """Return SPDX id or alias in lower case → (current id, ScanCode category). Exceptions are no licences of their own."""
    from license_expression import get_license_index

    index = {}
    for entry in get_license_index():
        names = [entry["spdx_license_key"], *entry["other_spdx_license_keys"]]
        if entry["spdx_license_key"] and not entry["is_exception"]:
            index.update({name.lower(): (entry["spdx_license_key"], entry["category"]) for name in reversed(names)})
    return index


@functools.cache
def _parser() -> Callable[..., Any]:
    from license_expression import get_spdx_licensing

    parse: Callable[..., Any] = get_spdx_licensing().parse
    return parse


@functools.lru_cache(maxsize=4096)
def parse_expression(expression: str) -> Any:
    """Parse an SPDX expression whose ids are all known; None for anything else."""
    from license_expression import ExpressionError, ParseError

    if len(expression) > _MAX_EXPRESSION:
        return None
    try:
        return _parser()(expression, validate=True, strict=True)
    except (
        ExpressionError,
        ParseError,
        IndexError,
        AttributeError,
        TypeError,
        RecursionError,
    ):  # its parser trips over some of what is none
        return None
