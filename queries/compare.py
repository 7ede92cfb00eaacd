"""Comparison of two runs: settings, the documents each step kept, documents whose fate differs, scores.

A document's fate is the first step that dropped it, or that it was kept. Verdicts with equal hashes say the same in both
runs and are not read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from starloom.queries.fates import REASON, dropped, funnel, is_linear, judgements, origins, output_of
from starloom.queries.rows import Rows
from starloom.queries.scores import compared_scores

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from starloom.lineage.records import Run
    from starloom.lineage.store import Store

KEPT, ABSENT = "kept", "not there"
_FATE = ["step", *REASON]
_CHANGE = ["before_order", "before_fate", "after_order", "after_fate"]
_DOC_ID = re.compile(r"[0-9a-f]{32}")
_NO_TEXTS = pa.schema([("doc_id", pa.string()), ("swhid", pa.string())])


def compare(store: Store, before_id: str, after_id: str, limit: int | None = None) -> dict[str, Any]:
    """Compare two runs; at most `limit` documents are listed.

    Raises:
        InputError: if there is no such run.
    """
    before, after = store.run(before_id), store.run(after_id)
    rows = Rows(store)
    return {
        "before": _heading(before),
        "after": _heading(after),
        "same_result": before.result is not None and before.result == after.result,
        "settings": settings(before, after),
        "funnel": _funnels(before, after),
        "documents": documents(rows, before, after, limit),
        "scores": compared_scores(rows, before, after),
    }


def _heading(run: Run) -> dict[str, Any]:
    return {"run": run.id, "recipe": run.recipe, "status": run.status, "started": run.started, "result": run.result}


# Settings


def settings(before: Run, after: Run) -> list[dict[str, Any]]:
    """Return the knobs, code files and libraries that differ, step by step."""
    found: list[dict[str, Any]] = []
    for name in _step_names(before, after):
        old, new = before.step(name), after.step(name)
        if old is None or new is None:
            found.append({"step": name, "what": "step", "name": name, "before": old and old.stage, "after": new and new.stage})
            continue
        pairs = [
            ("config", old.config, new.config),
            *((part, old.components[part], new.components[part]) for part in ("code", "libraries")),
        ]
        found += [{"step": name, "what": what, **line} for what, a, b in pairs for line in _differences(a, b)]
    return found


def _step_names(before: Run, after: Run) -> list[str]:
    """Return the names of the steps of both runs, in the order of the newer; steps of the older only keep their place."""
    names = [step.name for step in after.steps]
    for position, step in enumerate(before.steps):
        if step.name not in names:
            above = [earlier.name for earlier in before.steps[:position] if earlier.name in names]
            names.insert(names.index(above[-1]) + 1 if above else 0, step.name)
    return names


def _differences(before: Any, after: Any, name: str = "") -> list[dict[str, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*after, *(key for key in before if key not in after)]
        return [line for key in keys for line in _differences(before.get(key), after.get(key), f"{name}.{key}" if name else key)]
    return [] if before == after else [{"name": name, "before": before, "after": after}]


def _funnels(before: Run, after: Run) -> list[dict[str, Any]]:
    sides = {"before": {row.pop("step"): row for row in funnel(before)}, "after": {row.pop("step"): row for row in funnel(after)}}
    names = [name for name in _step_names(before, after) if any(name in side for side in sides.values())]
    return [{"step": name, **{side: rows.get(name) for side, rows in sides.items()}} for name in names]


# Documents


def documents(rows: Rows, before: Run, after: Run, limit: int | None) -> dict[str, Any]:
    """Return the documents whose fate differs, counted by change and listed with repository, path and reason."""
    same = _same_verdicts(rows, before, after) if is_linear(before) and is_linear(after) else frozenset()
    sides = [dropped(rows, run, known=same) for run in (before, after)]
    old, new = _own_texts(rows, before, after)
    changes = _changes(sides, missing=(_missing_in(new, old), _missing_in(old, new)))
    shown = changes.slice(0, limit)
    return {
        "num_changed": len(changes),
        "changes": _counted(changes),
        "list": _listed(rows, (before, after), shown),
        "num_with_new_content": _num_rewritten(old, new),
    }


def _same_verdicts(rows: Rows, before: Run, after: Run) -> AbstractSet[tuple[str, str]]:
    """Return (step, hash) of the parts of verdicts that both runs have."""
    sides = [{(j.step, part.hash) for j in judgements(run) for part in rows.artifact(j.verdicts).parts} for run in (before, after)]
    return sides[0] & sides[1]


def _own_texts(rows: Rows, before: Run, after: Run) -> list[pa.Table]:
    """Return doc_id and swhid of the documents that each run read, except in parts that both read."""
    texts = [[step.outputs["Docs"]["artifact"] for step in origins(run)] for run in (before, after)]
    hashes = [{part.hash for name in names for part in rows.artifact(name).parts} for names in texts]
    sides = []
    for names, other in zip(texts, reversed(hashes), strict=True):
        tables = [_NO_TEXTS.empty_table()]
        for name in names:
            wanted = [i for i, part in enumerate(rows.artifact(name).parts) if part.hash not in other]
            tables += [table.cast(_NO_TEXTS) for _, table in rows.tables(name, _NO_TEXTS.names, wanted)]
        sides.append(pa.concat_tables(tables).combine_chunks())
    return sides


def _missing_in(side: pa.Table, other: pa.Table) -> pa.ChunkedArray:
    """Return the doc_ids of the one run that the other lacks."""
    ids, others = side.column("doc_id"), other.column("doc_id").combine_chunks()
    return ids.filter(pc.invert(pc.is_in(ids, value_set=others)))


def _num_rewritten(old: pa.Table, new: pa.Table) -> int:
    """Count the documents that both runs have under one name with different bytes."""
    swhid = old.column("swhid").take(pc.index_in(new.column("doc_id"), value_set=old.column("doc_id").combine_chunks()))
    return int(pc.sum(pc.not_equal(swhid, new.column("swhid")), min_count=0).as_py())


def _changes(sides: list[pa.Table], missing: tuple[pa.ChunkedArray, pa.ChunkedArray]) -> pa.Table:
    """Return one row for each document whose fate differs, with both fates, in the order of steps.

    Args:
        sides: what each run dropped.
        missing: doc_ids that each run never read, and the other did.
    """
    chunks = [chunk for column in (*(side.column("doc_id") for side in sides), *missing) for chunk in column.chunks]
    everyone = pc.unique(pa.chunked_array(chunks, pa.string()))
    columns: dict[str, Any] = {"doc_id": everyone}
    for side, drops, absent in zip(("before", "after"), sides, missing, strict=True):
        at = pc.index_in(everyone, value_set=drops.column("doc_id").combine_chunks())
        columns |= {f"{side}_{name}": drops.column(name).take(at) for name in _FATE}
        spelt = pc.binary_join_element_wise(drops.column("step"), pc.fill_null(drops.column("rule"), ""), " ").take(at)
        kept_or_not = pc.if_else(pc.is_in(everyone, value_set=absent.combine_chunks()), ABSENT, KEPT)
        columns[f"{side}_fate"] = pc.coalesce(spelt, kept_or_not)
        columns[f"{side}_order"] = pc.fill_null(drops.column("order").take(at), np.iinfo(np.int64).max)
    table = pa.table(columns)
    table = table.filter(pc.not_equal(table.column("before_fate"), table.column("after_fate")))
    return table.sort_by([(key, "ascending") for key in (*_CHANGE, "doc_id")])


def _counted(changes: pa.Table) -> list[dict[str, Any]]:
    counts = changes.group_by(_CHANGE).aggregate([("doc_id", "count")]).sort_by([(key, "ascending") for key in _CHANGE]).to_pylist()
    return [{"before": row["before_fate"], "after": row["after_fate"], "documents": row["doc_id_count"]} for row in counts]


def _listed(rows: Rows, runs: tuple[Run, Run], shown: pa.Table) -> list[dict[str, Any]]:
    """Return the shown changes, with the names of the documents and of the survivors that they lost to."""
    details = [detail for side in ("before", "after") for detail in shown.column(f"{side}_detail").to_pylist()]
    survivors = [detail for detail in details if detail and _DOC_ID.fullmatch(detail)]
    names = _names(rows, runs, [*shown.column("doc_id").to_pylist(), *survivors])
    skipped = [_skipped(rows, run) if len(shown) else {} for run in runs]
    found = []
    for row in shown.to_pylist():
        who = names[row["doc_id"]]
        sides = {
            side: _fate(row, side, names, missing.get((who["repo"], who["path"])))
            for side, missing in zip(("before", "after"), skipped, strict=True)
        }
        found.append({**who, **sides})
    return found


def _names(rows: Rows, runs: tuple[Run, Run], doc_ids: list[str]) -> dict[str, dict[str, str]]:
    """Return doc_id → doc_id, repo and path, from whichever run has it."""
    names: dict[str, dict[str, str]] = {}
    for step in [*origins(runs[1]), *origins(runs[0])]:
        left = sorted(set(doc_ids) - names.keys())
        if left:
            table = rows.of_documents(step.outputs["Docs"]["artifact"], pa.array(left, pa.string()), ["doc_id", "repo", "path"])
            names |= {row["doc_id"]: row for row in table.select(["doc_id", "repo", "path"]).to_pylist()}
    return names


def _fate(row: dict[str, Any], side: str, names: dict[str, dict[str, str]], skipped: str | None) -> dict[str, Any]:
    fate = row[f"{side}_fate"]
    if fate == ABSENT:
        return {"fate": ABSENT, **({"rule": f"skipped: {skipped}"} if skipped else {})}
    if fate == KEPT:
        return {"fate": KEPT}
    survivor = names.get(row[f"{side}_detail"])
    return {"fate": fate, **{name: row[f"{side}_{name}"] for name in _FATE}, **({"survivor": survivor} if survivor else {})}


def _skipped(rows: Rows, run: Run) -> dict[tuple[str, str], str]:
    """Return (repo, path) → reason, of the files that a run skipped."""
    found: dict[tuple[str, str], str] = {}
    for step in origins(run):
        artifact = output_of(step, "Skipped")
        for _, table in rows.tables(artifact, ["repo", "path", "rule"]) if artifact else ():
            found |= {(row["repo"], row["path"]): row["rule"] for row in table.to_pylist()}
    return found
