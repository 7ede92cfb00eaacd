"""Places in a text that show why a rule dropped it, where the rule can be pointed at."""

from __future__ import annotations

import re

from starloom.console.listing import Mark, line_starts

_SPDX = re.compile(r"SPDX-License-Identifier:[^\n]*")
_LICENCE = re.compile(r"[^\n]*\blicen[cs]ed?\b[^\n]*", re.IGNORECASE)
_XML = re.compile(r"<\?xml[^\n]*")
_SEARCHED = 20_000
"""Characters at the beginning of a text in which a licence is looked for, as headers stand there."""
_SHOWN_LICENCES = 3


def offences(text: str, rule: str | None, value: float | None, detail: str | None) -> list[Mark]:
    """Return the places that a verdict is about; none for a rule that is about the text as a whole.

    Args:
        text: of the document.
        rule: of the verdict.
        value: that was measured, and
        detail: of the verdict, which labels say.
    """
    if rule == "max-line-length":
        start, end = longest_line(text)
        length = end - start if value is None else int(value)
        return [Mark(start, end, "offence", f"longest line, {length:,} characters")]
    if rule == "has-xml-declaration":
        found = _XML.search(text)
        return [Mark(found.start(), found.end(), "offence", "XML declaration")] if found else []
    if rule in ("non-permissive", "unknown-license"):
        places = [*_SPDX.finditer(text, 0, _SEARCHED), *_LICENCE.finditer(text, 0, _SEARCHED)][:_SHOWN_LICENCES]
        places = places[:1] if places and places[0].re is _SPDX else places
        return [Mark(place.start(), place.end(), "offence", detail or rule) for place in places]
    return []


def longest_line(text: str) -> tuple[int, int]:
    """Return where the longest line of a text begins and ends; the first of equals."""
    starts = line_starts(text)
    ends = [*(start - 1 for start in starts[1:]), len(text.removesuffix("\n"))]
    at = max(range(len(starts)), key=lambda line: ends[line] - starts[line])
    return starts[at], max(ends[at], starts[at])
