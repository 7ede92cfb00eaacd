"""Scores drawn as dots with their intervals as bars. Inline SVG with classes: no script, no inline style."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from starloom.console.charts import drawing, shortened
from starloom.console.formats import amount

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LEFT, _PLOT, _RIGHT = 270, 370, 60
_LABEL_CHARACTERS = 34
_ROW, _GAP, _AXIS = 20, 14, 24
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Dot:
    """A share with its interval."""

    name: str
    """Said beside it; empty where there is one only."""
    colour: int
    value: float
    low: float
    high: float


def intervals(groups: Mapping[str, Sequence[Dot]]) -> Markup:
    """Draw groups of shares, label → dots under each other, all from 0 to 1."""
    if not groups:
        return Markup("")
    pieces, top = [], 4
    for label, dots in groups.items():
        head = Markup('<text class="label" x="{}" y="{}">{}<title>{}</title></text>')
        pieces.append(head.format(_LEFT - 26, top + _ROW * len(dots) / 2 + 4, shortened(label, _LABEL_CHARACTERS), label))
        pieces += [_dot(label, dot, top + _ROW * (number + 0.5)) for number, dot in enumerate(dots)]
        top += _ROW * len(dots) + _GAP
    axis = Markup("").join(
        Markup(
            '<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{y}"/><text class="tick middle" x="{x:.1f}" y="{at}">{text}</text>'
        ).format(x=_x(tick), y=top, at=top + 14, text=amount(tick))
        for tick in _TICKS
    )
    told = f"{sum(map(len, groups.values()))} scores with their 95 % intervals"
    return drawing("chart dots", _LEFT + _PLOT + _RIGHT, top + _AXIS, told, axis + Markup("").join(pieces))


def _dot(label: str, dot: Dot, y: float) -> Markup:
    return Markup(
        '<g><title>{told}</title><text class="end" x="{name_x}" y="{base}">{name}</text>'
        '<path class="whisker c{colour}" d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {up}v8M{high:.1f} {up}v8"/>'
        '<circle class="dot c{colour}" cx="{x:.1f}" cy="{y}" r="4.5"/><text class="value" x="{end:.1f}" y="{base}">{value}</text></g>'
    ).format(
        told=f"{dot.name} {label}: {amount(dot.value)}, 95 % from {amount(dot.low)} to {amount(dot.high)}".strip(),
        name=dot.name,
        name_x=_LEFT - 10,
        colour=dot.colour,
        low=_x(dot.low),
        high=_x(dot.high),
        up=y - 4,
        x=_x(dot.value),
        y=y,
        base=y + 4,
        end=_x(dot.high) + 8,
        value=amount(dot.value),
    )


def _x(share: float) -> float:
    return _LEFT + _PLOT * share
