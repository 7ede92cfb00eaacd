"""A sweep as a picture: the share of documents and of text that is kept, over the knob. One SVG file, without script or font of its own."""

from __future__ import annotations

from html import escape
from typing import Any

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 34, 46
NUM_TICKS = 5
LINES = (("documents_share", "documents", "#3355cc"), ("bytes_share", "text", "#b0552a"))


def draw_sweep(found: dict[str, Any]) -> str:
    """Return the SVG of what `starloom.queries.what_if.sweep` gave."""
    points = found["points"]
    xs = [float(point["value"]) for point in points]
    ys = [point[name] for point in points for name, _, _ in LINES]
    left, right = min(xs), max(xs)
    low, high = min(ys), max(ys)
    room = (high - low) * 0.08 or 0.01
    low, high = max(0.0, low - room), min(1.0, high + room)

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - left) / ((right - left) or 1.0), (y - low) / ((high - low) or 1.0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP)

    parts = [f'<text x="{LEFT}" y="18" font-weight="600">kept by {escape(found["step"])} over {escape(found["knob"])}</text>']
    for number in range(NUM_TICKS + 1):
        x, y = place(left + (right - left) * number / NUM_TICKS, low + (high - low) * number / NUM_TICKS)
        parts += [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>',
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{low + (high - low) * number / NUM_TICKS:.1%}</text>',
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{left + (right - left) * number / NUM_TICKS:g}</text>',
        ]
    for number, (name, label, colour) in enumerate(LINES):
        at = " ".join("{:.1f},{:.1f}".format(*place(x, point[name])) for x, point in zip(xs, points, strict=True))
        parts += [
            f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="2"><title>{label}</title></polyline>',
            f'<text x="{LEFT + 110 * number}" y="{HEIGHT - 8}" fill="{colour}">{label}</text>',
        ]
    told = escape(f"share kept by {found['step']} over {found['knob']}", quote=True)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{told}"'
    return (
        f'{head} font-family="sans-serif" font-size="12" fill="#222"><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
