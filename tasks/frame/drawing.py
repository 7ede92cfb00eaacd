"""Charts that a stage may ask for by name: how they are drawn is in no stage's key, for a better picture needs no new training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starloom.tasks.reporting.charts import training_curves

if TYPE_CHECKING:
    from collections.abc import Callable

CHARTS: dict[str, Callable[..., None]] = {"training_curves": training_curves}
