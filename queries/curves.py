"""The training curve, in as many rows as fit a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from starloom.lineage.store import object_name
from starloom.queries.rows import Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from starloom.lineage.records import StepState
    from starloom.lineage.store import Store

SHOWN_ROWS = 12
PICTURE = "loss.png"
"""The picture that a training shows beside its artifacts."""


def loss_rows(store: Store, step: StepState, num_rows: int = SHOWN_ROWS) -> list[dict[str, Any]]:
    """Return the training curve of a step that wrote Losses, in equal stretches.

    Returns:
        For each stretch its last step, tokens so far, mean loss and gradient norm of the steps that have one, and learning rate; and in
        `held_out` the last loss of each language that was measured in it, or of all text (`all`).
    """
    rows = Rows(store)
    losses = rows.table(step.outputs["Losses"]["artifact"], 0)
    steps, tokens, rates = (losses[name].to_numpy() for name in ("step", "tokens", "learning_rate"))
    measured = rows.table(step.outputs["Validation"]["artifact"], 0).to_pylist() if "Validation" in step.outputs else []
    told = []
    for cut in np.array_split(np.arange(len(steps)), max(1, min(num_rows, len(steps)))) if len(steps) else []:
        first, last = cut[0], cut[-1]
        told.append({
            "step": int(steps[last]),
            "tokens": int(tokens[last]),
            "loss": _mean(losses["loss"].to_numpy()[cut]),
            "learning_rate": float(rates[last]),
            "grad_norm": _mean(losses["grad_norm"].to_numpy()[cut]),
            "held_out": {row["language"] or "all": row["loss"] for row in measured if steps[first] <= row["step"] <= steps[last]},
        })  # fmt: skip
    return told


def picture(store: Store, step: StepState) -> bytes | None:
    """Return the PNG of a training's curves, if it shows one."""
    digest = step.shown.get(PICTURE)
    return store.storage.read(object_name("files", digest)) if digest else None


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean, without NaN; a skipped step may have no loss."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
