"""Numbers, names and hostile characters, as pages show them."""

from __future__ import annotations

import html
import json
import unicodedata
from typing import Any

from markupsafe import Markup

from starloom.queries.formats import count

_MINUTE, _HOUR = 60, 3600
_PLAIN = frozenset("\n\t ")


def is_plain(text: str) -> bool:
    """Return whether a text shows as it is: it holds no control, format or invisible character but tabs and line feeds."""
    return text.isprintable() or all(c.isprintable() or c in _PLAIN for c in text)


def visible(text: str) -> str:
    """Return a text with every control, format and invisible character spelt: ⟨U+202E⟩. It is still to be escaped."""
    return text if is_plain(text) else "".join(c if c.isprintable() or c in _PLAIN else f"⟨U+{ord(c):04X}⟩" for c in text)


def chips(text: Any) -> Markup:
    """Escape a text, with every control, format and invisible character as a labelled chip."""
    words = str(text)
    return Markup(html.escape(words) if is_plain(words) else "".join(_shown(c) for c in words))  # noqa: S704 - each character is escaped


def _shown(character: str) -> str:
    if character.isprintable() or character in _PLAIN:
        return html.escape(character)
    name = unicodedata.name(character, "control character").lower()
    return f'<span class="chip" title="{html.escape(name)}">U+{ord(character):04X}</span>'


def token_text(text: str, *, is_special: bool = False, is_partial: bool = False) -> Markup:
    """Escape the text of a token: a line end as ⏎ and a break, a special token and bytes within a character as a chip."""
    if is_special:
        return Markup('<span class="chip special">{}</span>').format(chips(text))
    if is_partial:
        return Markup('<span class="chip" title="bytes within a character">{}</span>').format(chips(text))
    return Markup('<span class="line-end">⏎</span>\n').join(chips(piece) for piece in text.split("\n"))


def amount(value: float | None) -> str:
    """Format a measured value: four significant digits, a whole number in full."""
    if value is None:
        return "-"
    return f"{int(value):,}" if float(value).is_integer() else f"{value:.4g}"


def seconds(value: float | None) -> str:
    """Format a duration."""
    if value is None:
        return "-"
    if value < _MINUTE:
        return f"{value:.1f} s"
    whole = round(value)
    return f"{whole // _MINUTE} min {whole % _MINUTE} s" if whole < _HOUR else f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"


def moment(text: str | None) -> str:
    """Format a time of a record, which is UTC, to the second."""
    return "-" if not text else text[:19].replace("T", " ")


def share(part: float, whole: float) -> str:
    """Format a share in percent."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def many(number: int, noun: str, plural: str | None = None) -> str:
    """Format a count with its noun: `1 document`, `2,000 documents`."""
    return f"{count(number)} {noun if number == 1 else plural or f'{noun}s'}"


def plain(value: Any) -> str:
    """Format a knob or a note: text as it is, everything else as JSON."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
