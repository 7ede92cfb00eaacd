"""Scores with their intervals, as tables and drawings of several pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starloom.console import dots
from starloom.console.tables import Column, Row, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

KEYS = ("step", "benchmark", "metric", "language")


def scores_table(rows: Sequence[Row]) -> Table:
    """Return the table of scores with the ends of their intervals; of several runs, with a `run` in each row."""
    of_runs = bool(rows) and "run" in rows[0]
    columns = (
        *(Column(key, key) for key in (*KEYS, *(["run"] if of_runs else []))),
        Column("value", "score", "amount"),
        Column("low", "from", "amount"),
        Column("high", "to (95 %)", "amount"),
        *(() if of_runs else (Column("count", "of", "number"), Column("method", "method"))),
    )
    return Table("scores", columns, rows)


def drawn_scores(rows: Sequence[Row], names: Sequence[str] = ()) -> Markup:
    """Draw the scores that have intervals, all of which are shares; those of several runs, `names`, under each other."""
    groups: dict[str, list[dots.Dot]] = {}
    several = len({row.get("step") for row in rows}) > 1
    for row in rows:
        if row["low"] is not None:
            words = (row["step"] if several else None, row["benchmark"], row["metric"], row["language"])
            run = row.get("run", "")
            dot = dots.Dot(run, names.index(run) if names else 0, row["value"], row["low"], row["high"])
            groups.setdefault(" ".join(word for word in words if word), []).append(dot)
    return dots.intervals(groups)
