"""Pictures of a run: how the loss fell, what each step kept, and what a token holds.

Guarantee: the same numbers give the same PNG bytes (no clock, no host, no user style) with the same matplotlib. No
state of matplotlib outlives a call. Cost: about 0.3 s a picture.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

DPI = 144
KILO = 1000
INK = "#1f2933"
QUIET = "#7b8794"
GRID = "#e4e7eb"
BLUE = "#2f6fb3"
PALE = "#b7d1ea"
GREEN = "#3a8f6b"
PALE_GREEN = "#bfe0d1"
MANY = ("#d1802f", "#8a5fb0", "#c0504d", "#2a9d9d", "#8c7a3f", "#b0558a", "#5b6f8a", "#6f9e3c")
"""Of curves beside each other; as many of them are drawn."""
SMALLEST_SHARE = 0.0005
"""A smaller one would be printed as 0.0%."""
SMOOTHING_SHARE = 0.03
"""Width of the smoothing window, as a share of the curve."""


def loss_curve(steps: NDArray[np.int64], losses: NDArray[np.float64], path: Path, title: str) -> None:
    """Draw the loss of each step, its running mean, and the last value of that.

    Args:
        steps: step numbers, rising.
        losses: nats per token, one for each step; those that are not finite leave a gap.
        path: the PNG to write.
        title: the line above it.
    """
    with _figure(path, 8.0, 4.5) as figure:
        axes = figure.subplots()
        _loss(axes, steps, losses, title)
        axes.set_xlabel("step", color=QUIET)
        if len(steps):
            axes.legend(frameon=False, labelcolor=INK)


def training_curves(
    steps: NDArray[np.int64],
    losses: NDArray[np.float64],
    learning_rates: NDArray[np.float64],
    heldout: Mapping[str, Sequence[Any]],
    path: Path,
    title: str,
) -> None:
    """Draw the loss of each step, that of held-out text by group, and under them the learning rate.

    Args:
        steps: step numbers, rising.
        losses: nats per token, one for each step.
        learning_rates: one for each step.
        heldout: columns `step`, `language` and `loss`: a row for each time that the held-out text of a language was measured, or all of it
            (None). Drawn in the order in which they come, as many as there are colours.
        path: the PNG to write.
        title: the line above it.
    """
    with _figure(path, 8.0, 6.0) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        _loss(above, steps, losses, title)
        for language, colour in zip(dict.fromkeys(heldout["language"]), MANY, strict=False):
            at = [row for row, name in enumerate(heldout["language"]) if name == language]
            measured, values = [heldout["step"][row] for row in at], [heldout["loss"][row] for row in at]
            label = f"held out: {language or 'all'} {values[-1]:.3f}"
            above.plot(measured, values, "o-", color=colour, linewidth=1.4, markersize=3, label=label)
        below.plot(steps, learning_rates, color=GREEN, linewidth=1.6)
        _plain(below, "")
        below.set_xlabel("step", color=QUIET)
        below.set_ylabel("learning rate", color=QUIET)
        below.set_ylim(bottom=0)
        below.grid(axis="y", color=GRID, linewidth=0.8)
        if len(steps):
            above.legend(frameon=False, labelcolor=INK, fontsize=9)


def _loss(axes: Axes, steps: NDArray[np.int64], losses: NDArray[np.float64], title: str) -> None:
    smooth = running_mean(np.asarray(losses, np.float64))
    axes.plot(steps, losses, color=PALE, linewidth=1.0, label="each step")
    axes.plot(steps, smooth, color=BLUE, linewidth=2.0, label="running mean")
    if len(smooth) and np.isfinite(smooth[-1]):
        axes.plot(steps[-1:], smooth[-1:], "o", color=BLUE, markersize=5)
        last = (steps[-1], smooth[-1])
        behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}  # the noise of the curve passes there
        axes.annotate(f"{smooth[-1]:.3f}", last, (0, 9), textcoords="offset points", ha="right", color=BLUE, weight="bold", bbox=behind)
    _plain(axes, title)
    axes.set_ylabel("loss (nats per token)", color=QUIET)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.margins(x=0.02)


def running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the window of 3 % of the curve that ends at each value; values that are not finite do not count."""
    window = max(1, round(len(values) * SMOOTHING_SHARE))
    is_finite = np.isfinite(values)
    sums = np.cumsum(np.concatenate([[0.0], np.where(is_finite, values, 0.0)]))
    counts = np.cumsum(np.concatenate([[0], is_finite]))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - window, 0)
    total, count = sums[last] - sums[first], counts[last] - counts[first]
    mean = np.full(len(values), np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def funnel(stages: Sequence[str], kept_docs: Sequence[int], kept_bytes: Sequence[int], path: Path) -> None:
    """Draw what is left after each step: documents on the left, bytes on the right, each bar upon the one before.

    Args:
        stages: names of the steps, in order; the first one says what there was.
        kept_docs: documents left after each step.
        kept_bytes: bytes left after each step.
        path: the PNG to write.
    """
    with _figure(path, 10.0, 1.3 + 0.45 * max(1, len(stages))) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        _bars(left, stages, kept_docs, [f"{value:,}" for value in kept_docs], (GREEN, PALE_GREEN))
        _bars(right, stages, kept_bytes, [readable_bytes(value) for value in kept_bytes], (BLUE, PALE))
        _plain(left, "documents kept")
        _plain(right, "text kept")
        left.invert_yaxis()


def fertility(languages: Sequence[str], ours: Sequence[float], reference: Sequence[float] | None, path: Path) -> None:
    """Draw the bytes that a token holds, for each language, and beside it what a token of another tokenizer does.

    Args:
        languages: names, in order from the top.
        ours: bytes per token of each.
        reference: of each, those of the other tokenizer; None if there is none.
        path: the PNG to write.
    """
    rows, height = np.arange(len(languages)), 0.62 if reference is None else 0.36
    most = max([1.0, *ours, *(reference or ())])
    with _figure(path, 8.0, 1.3 + (0.3 if reference is None else 0.42) * max(1, len(languages))) as figure:
        axes = figure.subplots()
        shift = 0 if reference is None else height / 2
        axes.barh(rows - shift, ours, height=height, color=BLUE, label="this tokenizer")
        for row, value in enumerate(ours):
            axes.text(value + most * 0.01, row - shift, f"{value:.2f}", va="center", color=INK, fontsize=9)
        if reference is not None:
            axes.barh(rows + shift, reference, height=height, color=PALE, label="reference")
            for row, (value, theirs) in enumerate(zip(ours, reference, strict=True)):
                axes.text(theirs + most * 0.01, row + shift, f"{theirs:.2f}", va="center", color=QUIET, fontsize=9)
                told = f"{value / theirs - 1:+.1%}" if theirs else "-"
                axes.text(most * 1.18, row, told, va="center", ha="right", color=INK, fontsize=9)
            figure.legend(frameon=False, labelcolor=INK, loc="outside lower left", ncols=2, fontsize=9)
        _plain(axes, "bytes per token")
        axes.set_xlim(0, most * 1.2)
        axes.set_yticks(rows, languages)
        axes.set_xticks([])
        axes.invert_yaxis()


def readable_bytes(num_bytes: int) -> str:
    """Format bytes, e.g. `41.3 MB`; units of 1000."""
    if num_bytes < KILO:
        return f"{num_bytes} B"
    value, units = num_bytes / KILO, ["kB", "MB", "GB", "TB", "PB"]
    while value >= KILO - 0.05 and len(units) > 1:  # 999.96 would be printed as 1000.0
        value, units = value / KILO, units[1:]
    return f"{value:.1f} {units[0]}"


def readable_share(part: int, whole: int) -> str:
    """Format a share, e.g. `4.7%`; a share above zero is never printed as zero."""
    share = part / whole if whole else 0.0
    return "<0.1%" if 0 < share < SMALLEST_SHARE else f"{share:.1%}"


def _bars(axes: Axes, stages: Sequence[str], values: Sequence[int], labels: Sequence[str], colours: tuple[str, str]) -> None:
    rows, before = np.arange(len(values)), [*values[:1], *values[:-1]]
    axes.barh(rows, before, height=0.62, color=colours[1])
    axes.barh(rows, values, height=0.62, color=colours[0])
    most = max([1, *values])
    for row, (value, label, last) in enumerate(zip(values, labels, before, strict=True)):
        lost = f"{readable_share(last - value, last)} less" if last > value else ""
        axes.text(max(value, last) + most * 0.015, row, label, va="center", color=INK, fontsize=9)
        axes.text(most * 1.62, row, lost, va="center", ha="right", color=QUIET, fontsize=9)
    axes.set_xlim(0, most * 1.65)
    axes.set_yticks(rows, stages)
    axes.set_xticks([])


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=12, weight="bold", pad=10)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom" and axes.xaxis.get_ticklocs().size > 0)
        spine.set_color(GRID)


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield a figure in matplotlib's own default style, whatever the user's is; written when the block ends."""
    import matplotlib as mpl  # half a second, and only who draws needs it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(mpl.rcParamsDefault):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
        yield figure
        figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})
