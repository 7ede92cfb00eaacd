"""SPDX expressions, and the policy that permits licences.

Ids, aliases and categories come from the ScanCode LicenseDB that `license-expression` ships, as The Stack v2's did from
ScanCode. Guarantee: what is no valid expression of known ids is unknown, never permitted. Cost: expressions are parsed once each.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

License = Literal["permissive", "non-permissive", "unknown-license"]

PERMISSIVE: License = "permissive"
NON_PERMISSIVE: License = "non-permissive"
UNKNOWN: License = "unknown-license"

_PERMISSIVE_CATEGORIES = frozenset({"Permissive", "Public Domain"})
_MAX_EXPRESSION = 1000
"""Characters of an expression that is parsed: five times the longest seen, and a longer one costs more than it says."""
_BLUE_OAK = frozenset({"Artistic-1.0", "Artistic-1.0-cl8", "Artistic-1.0-Perl", "Artistic-2.0"})
"""On Blue Oak Council's permissive list, though ScanCode files them under limited copyleft."""


@dataclass(frozen=True)
class Policy:
    """The licences that count as permissive: by category, but for the ids that are allowed or denied by name."""

    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()

    def judge(self, expression: str) -> License:
        """Judge an expression. OR: one permissive licence is enough; AND: all must be; WITH: an exception only loosens its licence."""
        parsed = parse_expression(expression)
        return UNKNOWN if parsed is None else self._judge(parsed)

    def _judge(self, node: Any) -> License:
        if hasattr(node, "license_symbol"):
            return self._judge(node.license_symbol)
        if not getattr(node, "args", ()):
            return self._judge_id(node.key)
        found = {self._judge(child) for child in node.args}
        order = (PERMISSIVE, UNKNOWN, NON_PERMISSIVE) if node.operator.strip() == "OR" else (NON_PERMISSIVE, UNKNOWN, PERMISSIVE)
        return next(verdict for verdict in order if verdict in found)

    def _judge_id(self, spdx_id: str) -> License:
        known = canonical_id(spdx_id)
        if known is None:
            return UNKNOWN
        if known in self.deny:
            return NON_PERMISSIVE
        permissive = known in self.allow or known in _BLUE_OAK or _index()[known.lower()][1] in _PERMISSIVE_CATEGORIES
        return PERMISSIVE if permissive else NON_PERMISSIVE


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
    except (ExpressionError, ParseError):
        return None
