"""Output of the command: tables and lines as text, or one JSON document."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from starloom.lineage.errors import StarloomError


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    json.dump(document, sys.stdout, indent=1, default=str)
    print()


def print_error(error: StarloomError, *, as_json: bool) -> None:
    """Print an error and its hint on standard error; with `--json` also a document on standard output."""
    if as_json:
        print_json({"error": error.message, "hint": error.hint, "kind": type(error).__name__})
    print(f"starloom: {error}", file=sys.stderr)


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Align columns by width, numbers to the right. Control characters, which file names may hold, are escaped."""
    cells = [["".join(c if c.isprintable() else repr(c)[1:-1] for c in str(cell)) for cell in row] for row in rows]
    if not cells:
        return ""
    widths = [max(len(header), *(len(row[i]) for row in cells)) for i, header in enumerate(headers)]
    right = [all(_is_number(row[i]) for row in cells) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()

    return "\n".join([line(headers), line(["─" * width for width in widths]), *map(line, cells)])


def _is_number(text: str) -> bool:
    head = text.partition(" ")[0].replace(",", "").replace(".", "").replace("%", "").replace("-", "")
    return head.isdigit() or text in ("", "-")
