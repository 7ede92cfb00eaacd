"""A large store, grown from a small one: each document is copied many times under names of its own.

The same small store gives the same large one, byte for byte. Texts are cut, so that a million documents fit a laptop's disk.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from starloom.lineage import keys
from starloom.lineage.records import Artifact, Run, StepState
from starloom.lineage.store import object_name
from starloom.lineage.views import Tabular
from starloom.queries.rows import Rows
from starloom.tasks.schemas import ARTIFACTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from starloom.lineage.records import Part
    from starloom.lineage.store import Store

COPIES_A_PART = 10
"""Copies of the small corpus in each part of the large one."""
KEPT_CHARACTERS = 400
KEPT_VALUES = 4
"""Of a list, such as the tokens of a document; packed sequences stay whole."""
_IDS = ("doc_id", "cluster_id")
_LISTS = ("tokens", "metadata", "signature")
_NAMED = frozenset({*_IDS, "repo", "sequence"})
"""Columns that make a type one of the corpus: others, such as losses, are copied as they are."""


def grow(small: Store, large: Store, num_documents: int, num_runs: int) -> None:
    """Fill a store with copies of the newest run of another one.

    Args:
        small: with a run that is done.
        large: to fill; empty.
        num_documents: at least that many.
        num_runs: with the same steps, an hour apart.
    """
    run = small.run("latest")
    growth = _Growth(small, large, run, num_documents)
    steps = [growth.step(step) for step in run.steps]
    for number in range(num_runs):
        when = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(hours=number)
        name = f"{when:%Y%m%d-%H%M%S}-000-{run.recipe}-{number:04x}"
        large.write_run(Run(name, run.recipe, "done", when.isoformat(), when.isoformat(), run.result, run.command, {}, steps))


class _Growth:
    def __init__(self, small: Store, large: Store, run: Run, num_documents: int) -> None:
        self.small, self.large, self.rows = small, large, Rows(small)
        counts = [small.artifact(step.outputs["Docs"]["artifact"]).counts["rows"] for step in run.steps if "Docs" in step.outputs]
        self.num_copies = math.ceil(num_documents / max(1, counts[0]))
        self.packed = {
            step.outputs["Spans"]["artifact"]: step.outputs["Packed"]["artifact"] for step in run.steps if "Spans" in step.outputs
        }
        self._grown: dict[str, str] = {}

    def step(self, step: StepState) -> StepState:
        """Return the record of a step with the large artifacts in place of the small ones."""
        inputs = {
            name: {**ref, "artifact": self._artifact(ref["artifact"]), "verdicts": ref.get("verdicts") and self._artifact(ref["verdicts"])}
            for name, ref in step.inputs.items()
        }
        outputs = {}
        for kind, out in step.outputs.items():
            name = self._artifact(out["artifact"])
            outputs[kind] = {"artifact": name, "counts": self.large.artifact(name).counts}
        return StepState(
            step.name, step.stage, step.key, step.components, inputs, outputs, step.config,
            step.status, step.num_actions, step.num_cached, step.seconds, step.notes, {},
        )  # fmt: skip

    def _artifact(self, name: str) -> str:
        if name not in self._grown:
            artifact = self.small.artifact(name)
            kind = ARTIFACTS[artifact.type]
            if not issubclass(kind, Tabular):
                for part in artifact.parts:
                    assert part.name is not None
                    self.large.put_file(self.small.storage.local(object_name("files", part.hash)), part.name)
            elif artifact.type == "Packed" or _NAMED & set(kind.SCHEMA.names):
                artifact = Artifact(artifact.type, self._parts(name, artifact, kind))
            else:
                tables = [self.rows.table(name, number) for number in range(len(artifact.parts))]
                parts = [self.large.put_table(artifact.type, table, kind.ROWS_PER_GROUP) for table in tables]
                told = [replace(part, counts=old.counts, mask=old.mask) for part, old in zip(parts, artifact.parts, strict=True)]
                artifact = Artifact(artifact.type, tuple(told))
            self._grown[name] = self.large.put_artifact(artifact)
        return self._grown[name]

    def _parts(self, name: str, artifact: Artifact, kind: type[Tabular]) -> tuple[Part, ...]:
        whole = [self.rows.table(name, number) for number in range(len(artifact.parts))]
        lengths = [part.num_rows for part in self.small.artifact(self.packed[name]).parts] if name in self.packed else None
        made = []
        for first in range(0, self.num_copies, COPIES_A_PART):
            copies = range(first, min(first + COPIES_A_PART, self.num_copies))
            tables, num_sequences = [], 0
            for copy in copies:
                for number, table in enumerate(whole):
                    tables.append(_copied(table, copy, num_sequences, is_packed=artifact.type == "Packed"))
                    num_sequences += lengths[number] if lengths else 0
            counts: dict[str, Any] = {}
            for part in artifact.parts:
                _add(counts, part.counts, len(copies))
            mask = keys.digest([part.mask for part in artifact.parts]) if any(part.mask for part in artifact.parts) else None
            made.append(self.large.put_table(artifact.type, pa.concat_tables(tables), kind.ROWS_PER_GROUP, counts, mask))
        return tuple(made)


def _add(total: dict[str, Any], counts: dict[str, Any], times: int) -> None:
    for name, value in counts.items():
        if isinstance(value, dict):
            _add(total.setdefault(name, {}), value, times)
        else:
            total[name] = total.get(name, 0) + value * times


def _copied(table: pa.Table, copy: int, num_sequences: int, *, is_packed: bool) -> pa.Table:
    """Return a copy of some rows: other documents of other repositories, texts and lists cut."""

    def renamed(ids: pa.ChunkedArray) -> pa.ChunkedArray:
        joined = pc.binary_join_element_wise(f"{copy:04x}", pc.utf8_slice_codeunits(ids, 4, 32), "")
        return pc.if_else(pc.is_valid(ids), joined, None)

    def survivor(details: pa.ChunkedArray) -> pa.ChunkedArray:
        is_id = pc.fill_null(pc.match_substring_regex(details, "^[0-9a-f]{32}$"), fill_value=False)
        return pc.if_else(is_id, renamed(details), details)

    ways: dict[str, Callable[[pa.ChunkedArray], Any]] = {
        **dict.fromkeys(_IDS, renamed),
        "detail": survivor,
        "repo": lambda names: pc.binary_join_element_wise(names, f"-{copy}", ""),
        "content": lambda texts: pc.utf8_slice_codeunits(texts, 0, KEPT_CHARACTERS),
        "sequence": lambda numbers: pc.cast(pc.add(numbers, num_sequences), numbers.type),
        **({} if is_packed else dict.fromkeys(_LISTS, lambda lists: pc.list_slice(lists, 0, KEPT_VALUES))),
    }
    for name in ways.keys() & set(table.column_names):
        at = table.column_names.index(name)
        if name not in _LISTS or pa.types.is_list(table.schema.field(name).type):
            table = table.set_column(at, name, ways[name](table.column(at)))
    return table
