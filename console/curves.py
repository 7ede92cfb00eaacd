"""Drawings of what changes while one looks: the graph of a run, and curves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from starloom.console.formats import visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROW = 40
"""Height of a step's row, in pixels: the style sheet has the same."""
LANES = 84
SPINE = 66
NUM_COLOURS = 10
WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 34
NUM_TICKS = 5
MAX_STROKE = 9.0


def graph(steps: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw the graph of a run beside its rows: a dot a step, a line to each step that it reads, as thick as what flows is many."""
    places = {step["name"]: number for number, step in enumerate(steps)}
    most = max((step["documents"] or 0 for step in steps), default=0) or 1
    lines, dots = [], []
    for number, step in enumerate(steps):
        lines += [_line(places[source], number, steps[places[source]], most) for source in step["reads"] if source in places]
        dots.append(
            Markup('<circle class="dot {status}" cx="{x}" cy="{y}" r="{r}"><title>{told}</title></circle>').format(
                status=step["status"],
                x=SPINE,
                y=_middle(number),
                r=7 if step["status"] == "running" else 6,
                told=f"{step['name']}: {step['status']}",
            )
        )
    drawn = Markup("").join([*lines, *dots])
    return Markup('<svg class="graph" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img" aria-label="{told}">{drawn}</svg>').format(
        w=LANES, h=len(steps) * ROW, told=f"Graph of {len(steps)} steps", drawn=drawn
    )


def _line(start: int, end: int, source: Mapping[str, Any], most: int) -> Markup:
    widest = MAX_STROKE if end - start == 1 else MAX_STROKE / 3  # what a step reads from far above would hide the rest
    stroke = 1.5 + (widest - 1.5) * (source["documents"] or 0) / most
    reach = min(SPINE - 8, 14 + 7 * math.sqrt(end - start)) if end - start > 1 else 0
    y, z = _middle(start), _middle(end)
    flows = "flows" if source["status"] in ("done", "cached") else "waits"
    return Markup(
        '<path class="edge {kind}" d="M{x} {y} C{a} {y} {a} {z} {x} {z}" stroke-width="{w:.1f}"><title>{told}</title></path>'
    ).format(kind=flows, x=SPINE, y=y, z=z, a=SPINE - reach * 1.33, w=stroke, told=source["name"])


def _middle(number: int) -> int:
    return number * ROW + ROW // 2


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], *, across: str, up: str) -> Markup:
    """Draw lines over each other, with axes and a key; points that are not finite are left out."""
    kept = {name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in lines.items()}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return Markup("")
    xs = [x for points in kept.values() for x, _ in points]
    ys = [y for points in kept.values() for _, y in points]
    bottom, top = _padded(min(ys), max(ys))
    left, right = min(0.0, *xs), max(xs) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across_part = (x - left) / ((right - left) or 1)
        up_part = (y - bottom) / ((top - bottom) or 1)
        return LEFT + across_part * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up_part * (HEIGHT - BOTTOM - TOP)

    drawn = [_axis(place, bottom, top, left, right, across)]
    for number, (name, points) in enumerate(kept.items()):
        at = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        drawn.append(
            Markup('<polyline class="curve c{n}" points="{at}"><title>{name}</title></polyline>').format(
                n=number % NUM_COLOURS, at=at, name=visible(name)
            )
        )
        x, y = place(*points[-1])
        drawn.append(Markup('<circle class="point c{n}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>').format(n=number % NUM_COLOURS, x=x, y=y))
    key = Markup("").join(
        Markup('<li><span class="swatch c{n}"></span>{name} <b>{last:.3f}</b></li>').format(
            n=number % NUM_COLOURS, name=visible(name), last=points[-1][1]
        )
        for number, (name, points) in enumerate(kept.items())
    )
    return Markup(
        '<svg class="chart curves" viewBox="0 0 {w} {h}" role="img" aria-label="{told}">{drawn}</svg><ul class="key-list">{key}</ul>'
    ).format(w=WIDTH, h=HEIGHT, told=f"{up} by {across}", drawn=Markup("").join(drawn), key=key)


def _padded(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * 0.06 or abs(high) * 0.06 or 1.0
    return low - room, high + room


def _axis(place: Any, bottom: float, top: float, left: float, right: float, across: str) -> Markup:
    ticks = []
    for value in _ticks(bottom, top):
        x, y = place(left, value)
        ticks.append(
            Markup(
                '<line class="grid" x1="{x:.1f}" y1="{y:.1f}" x2="{z}" y2="{y:.1f}"/><text class="end" x="{t:.1f}" y="{b:.1f}">{v:g}</text>'
            ).format(x=x, y=y, z=WIDTH - RIGHT, t=x - 8, b=y + 4, v=value)
        )
    for value in _ticks(left, right):
        x, y = place(value, bottom)
        ticks.append(Markup('<text class="middle" x="{x:.1f}" y="{y:.1f}">{v:g}</text>').format(x=x, y=y + 16, v=value))
    name = Markup('<text class="end" x="{x}" y="{y}">{name}</text>').format(x=WIDTH - RIGHT, y=HEIGHT - 3, name=across)
    return Markup("").join([*ticks, name])


def _ticks(low: float, high: float) -> list[float]:
    """Return round values between two others, about five."""
    span = high - low
    if span <= 0:
        return [low]
    rough = span / NUM_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]
