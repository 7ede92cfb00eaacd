"""The course of a training: its losses in as many rows as fit a page, held-out losses by language, what the model wrote."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from starloom.lineage.store import object_name
from starloom.queries.rows import Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from starloom.lineage.records import StepState
    from starloom.lineage.store import Store

SHOWN_ROWS = 12
PICTURE = "loss.png"
"""The picture that a training shows beside its artifacts."""
SAMPLES = "samples.parquet"
"""What its model wrote, shown likewise."""


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


def heldout_entries(store: Store, step: StepState) -> list[dict[str, Any]]:
    """Return each measurement of the held-out loss by a training that is done, as a training under way tells it.

    Returns:
        step, and by language (`all` is all text) `losses` and the numbers of `tokens`.
    """
    if "Validation" not in step.outputs:
        return []
    found: dict[int, dict[str, Any]] = {}
    for row in Rows(store).table(step.outputs["Validation"]["artifact"], 0).to_pylist():
        entry = found.setdefault(row["step"], {"step": row["step"], "losses": {}, "tokens": {}})
        entry["losses"][row["language"] or "all"], entry["tokens"][row["language"] or "all"] = row["loss"], row["tokens"]
    return list(found.values())


def sample_entries(store: Store, step: StepState) -> list[dict[str, Any]]:
    """Return what the model wrote at each measurement of a training that is done: step, and `samples` as the trainer showed them."""
    digest = step.shown.get(SAMPLES)
    if digest is None:
        return []
    found: dict[int, list[dict[str, Any]]] = {}
    for row in pq.read_table(io.BytesIO(store.storage.read(object_name("files", digest)))).to_pylist():
        found.setdefault(row["step"], []).append({name: value for name, value in row.items() if name != "step"})
    return [{"step": number, "samples": samples} for number, samples in found.items()]


def picture(store: Store, step: StepState) -> bytes | None:
    """Return the PNG of a training's curves, if it shows one."""
    digest = step.shown.get(PICTURE)
    return store.storage.read(object_name("files", digest)) if digest else None


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean, without NaN; a skipped step may have no loss."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
