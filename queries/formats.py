"""Numbers and hashes as people read them, on a terminal and on a page."""

from __future__ import annotations

SHORT_HASH = 12
_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
_THOUSAND = 1000


def count(number: float | None) -> str:
    """Format a count with thousands separators."""
    return "-" if number is None else f"{number:,}"


def size(num_bytes: float | None) -> str:
    """Format bytes in a readable unit."""
    if num_bytes is None:
        return "-"
    value, unit = float(num_bytes), 0
    while value >= _THOUSAND and unit < len(_UNITS) - 1:
        value, unit = value / _THOUSAND, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def short(name: str | None) -> str:
    """Shorten a hash for display."""
    return "-" if name is None else name[:SHORT_HASH]
