"""Output to a terminal: colours where it is one, and never the control characters of a source text."""

from __future__ import annotations

import os
import sys

_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35", "cyan": "36"}


def has_colours() -> bool:
    """Return whether standard output is a terminal and colours are not disabled (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str, colour: str) -> str:
    """Return the text in a colour, if colours are enabled."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if has_colours() else text


def printable(text: str) -> str:
    """Escape control characters except tabs: a source file must not control the reader's terminal."""
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)
