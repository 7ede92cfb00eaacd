"""Numbers with their nouns."""

from __future__ import annotations

from starloom.queries.formats import count


def many(number: int, noun: str, plural: str | None = None) -> str:
    """Format a count with its noun: `1 document`, `2,000 documents`."""
    return f"{count(number)} {noun if number == 1 else plural or f'{noun}s'}"
