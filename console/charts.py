"""Charts as inline SVG: shapes with classes, which the style sheet colours. No script, no inline style."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from starloom.console.formats import amount, share, visible
from starloom.queries.formats import count

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH = 640
_LABEL = 180
_ROW = 26
_PLOT_HEIGHT = 120
_GAP = 2
_LABEL_CHARACTERS = 22


def shortened(text: str, characters: int = _LABEL_CHARACTERS) -> str:
    """Return a label as its column has room for; the whole stands in its title."""
    words = visible(text)
    return words if len(words) <= characters else f"{words[: characters - 1]}…"


def funnel(rows: Sequence[dict[str, Any]]) -> Markup:
    """Draw what each step left of the documents: a bar each, kept beside dropped."""
    most = max((row["documents"] + row["dropped"] for row in rows), default=0)
    if not most:
        return Markup("")
    room = _WIDTH - _LABEL - 90
    drawn = Markup("").join(_stage(number, row, room / most) for number, row in enumerate(rows))
    told = f"Documents left after each of {len(rows)} steps, from {count(most)} to {count(rows[-1]['documents'])}"
    return drawing("chart funnel", _WIDTH, len(rows) * _ROW, told, drawn)


def _stage(number: int, row: dict[str, Any], scale: float) -> Markup:
    kept, top = row["documents"] * scale, number * _ROW
    return Markup(
        '<g><title>{told}</title><text class="label" x="{x}" y="{base}">{name}</text>'
        '<rect class="kept" x="{left}" y="{top}" width="{kept:.1f}" height="{height}" rx="3"/>'
        '<rect class="dropped" x="{after:.1f}" y="{top}" width="{gone:.1f}" height="{height}" rx="3"/>'
        '<text class="value" x="{end:.1f}" y="{base}">{left_over}</text></g>'
    ).format(
        told=f"{row['step']}: {count(row['documents'])} kept, {count(row['dropped'])} dropped",
        x=_LABEL - 10,
        base=top + _ROW / 2 + 4,
        name=shortened(row["step"]),
        left=_LABEL,
        top=top + 4,
        kept=kept,
        height=_ROW - 8,
        after=_LABEL + kept,
        gone=row["dropped"] * scale,
        end=_LABEL + kept + row["dropped"] * scale + 8,
        left_over=count(row["documents"]),
    )


def bars(rows: Sequence[dict[str, Any]], value: str = "tokens", label: str = "name") -> Markup:
    """Draw a bar for each row, with its share of all of them."""
    whole = sum(row[value] or 0 for row in rows)
    most = max((row[value] or 0 for row in rows), default=0)
    if not most:
        return Markup("")
    room = _WIDTH - _LABEL - 70
    drawn = Markup("").join(
        Markup(
            '<g><title>{told}</title><text class="label" x="{x}" y="{base}">{name}</text>'
            '<rect class="bar" x="{left}" y="{top}" width="{width:.1f}" height="{height}" rx="3"/>'
            '<text class="value" x="{end:.1f}" y="{base}">{share}</text></g>'
        ).format(
            told=f"{row[label]}: {count(row[value])} {value}",
            x=_LABEL - 10,
            base=number * _ROW + _ROW / 2 + 4,
            name=shortened(str(row[label])),
            left=_LABEL,
            top=number * _ROW + 5,
            width=max(1, (row[value] or 0) * room / most),
            height=_ROW - 10,
            end=_LABEL + max(1, (row[value] or 0) * room / most) + 8,
            share=share(row[value] or 0, whole),
        )
        for number, row in enumerate(rows)
    )
    return drawing("chart bars", _WIDTH, len(rows) * _ROW, f"{value} by {label}", drawn)


@dataclass(frozen=True, slots=True)
class Bins:
    """Counts of values in equal bins from `low` to `high`."""

    low: float
    high: float
    counts: Sequence[int]
    is_logarithmic: bool = False
    """Whether the borders are equally far apart by their logarithms (of the value and 1)."""

    def place(self, value: float) -> float:
        """Return where a value stands between both ends: 0 to 1."""
        low, high, at = (math.log1p(each) if self.is_logarithmic else each for each in (self.low, self.high, value))
        return min(1.0, max(0.0, (at - low) / (high - low))) if high > low else 0.5


def histogram(bins: Bins, thresholds: Sequence[float], what: str) -> Markup:
    """Draw how often each value occurs, and the thresholds that it was held against. Heights are of the square root."""
    most = max(bins.counts, default=0)
    if not most:
        return Markup("")
    width = _WIDTH / len(bins.counts)
    columns = Markup("").join(
        Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>').format(
            number * width, 14 + _PLOT_HEIGHT * (1 - height), max(1, width - _GAP), _PLOT_HEIGHT * height, count(each)
        )
        for number, each in enumerate(bins.counts)
        if each and (height := math.sqrt(each / most))
    )
    lines = Markup("").join(_threshold(bins.place(threshold) * _WIDTH, threshold) for threshold in thresholds)
    axis = Markup(
        '<line class="axis" x1="0" x2="{width}" y1="{base}" y2="{base}"/><text class="tick" x="0" y="{text}">{low}</text>'
        '<text class="tick end" x="{width}" y="{text}">{high}</text>'
    ).format(width=_WIDTH, base=14 + _PLOT_HEIGHT, text=14 + _PLOT_HEIGHT + 16, low=amount(bins.low), high=amount(bins.high))
    told = f"{what}: {count(sum(bins.counts))} values from {amount(bins.low)} to {amount(bins.high)}"
    return drawing("chart histogram", _WIDTH, _PLOT_HEIGHT + 34, told, columns + lines + axis)


def _threshold(x: float, threshold: float) -> Markup:
    is_right = x > _WIDTH * 0.7
    return Markup(
        '<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="12" y2="{base}"/>'
        '<text class="threshold{side}" x="{at:.1f}" y="10">{text}</text>'
    ).format(
        x=x, base=14 + _PLOT_HEIGHT, side=" end" if is_right else "", at=x - 4 if is_right else x + 4, text=f"threshold {amount(threshold)}"
    )


def drawing(kind: str, width: float, height: float, told: str, inner: Markup) -> Markup:
    """Return a drawing in a box of its own, which scrolls where it is too wide."""
    return Markup(
        '<div class="chart-box" tabindex="0" role="group" aria-label="{told}">'
        '<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{told}">{inner}</svg></div>'
    ).format(kind=kind, width=width, height=height, told=told, inner=inner)
