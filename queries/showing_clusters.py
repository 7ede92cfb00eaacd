"""The results of the deduplication steps of a run: clusters with the differences of their texts, and licence conflicts.

Whatever writes Clusters is asked, under whichever name the recipe gives it. A licence conflict is a cluster whose members
are of different licence classes: it is reported, or quarantined, which leaves the cluster without a survivor.
"""

from __future__ import annotations

import difflib
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from starloom.lineage.errors import InputError, did_you_mean
from starloom.queries.differences import side_by_side
from starloom.queries.fates import input_of, output_of, producer
from starloom.queries.questions import newest
from starloom.queries.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from starloom.lineage.records import Run, StepState
    from starloom.lineage.store import Store

UNJUDGED = "unjudged"
"""The licence class of documents that no step above judged."""
COMPARED_MEMBERS = 20
COMPARED_LINES = 2000
SHOWN_DIFFERENCES = 40
SHOWN_CHARACTERS = 200
_NUM_EXAMPLES = 5
_MEMBER = pa.schema(
    [(name, pa.string()) for name in ("cluster_id", "doc_id", "repo", "path", "license_class")]
    + [(name, pa.bool_()) for name in ("is_survivor", "has_license_conflict")]
)
_SURVIVOR = ["doc_id", "repo", "path", "license_class"]


def finders(run: Run) -> list[StepState]:
    """Return the deduplication steps of a run, in order."""
    return [step for step in run.steps if "Clusters" in step.outputs]


def class_counts(classes: Iterable[str | None]) -> dict[str, int]:
    """Return licence class → number of documents, the most frequent first."""
    counted = Counter(name or UNJUDGED for name in classes)
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


# One cluster


def show_cluster(store: Store, wanted: str, run_id: str | None, num_compared: int | None = None, also: str | None = None) -> dict[str, Any]:
    """Describe a cluster: its members, why the survivor won, their licences, and how each text differs from the survivor's.

    Args:
        store: to query.
        wanted: the beginning of the cluster's name, or STEP/ and that; without a step, the last one that found it.
        run_id: of which run; None for the newest that is done.
        num_compared: how many texts to compare with the survivor's.
        also: a member whose text is compared too, wherever it stands.

    Raises:
        InputError: if no step of the run found such a cluster.
    """
    rows, run = Rows(store), newest(store) if run_id is None else store.run(run_id)
    named, _, prefix = wanted.rpartition("/")
    steps = [step for step in finders(run) if named in ("", step.name)]
    if named and not steps:
        hint = did_you_mean(named, [step.name for step in finders(run)])
        raise InputError(f"run {run.id} has no deduplication step {named!r}", hint=hint)
    found = {step.name: members for step in steps if (members := _members(rows, step, prefix))}
    if not found:
        raise InputError(
            f"run {run.id} found no cluster {prefix!r}",
            hint=f"a cluster is named by its survivor's doc_id; `starloom trace PATH{rows.store.named}` tells it",
        )
    *others, last = found
    step = next(step for step in steps if step.name == last)
    names = sorted({row["cluster_id"] for row in found[last]})
    if len(names) > 1:
        raise InputError(f"several clusters begin with {prefix!r}", hint="give more digits: " + ", ".join(names[:_NUM_EXAMPLES]))
    found_before = [other for other in others if any(row["cluster_id"] == names[0] for row in found[other])]
    cluster = _cluster(rows, step, found[last], COMPARED_MEMBERS if num_compared is None else num_compared, also)
    return {"kind": "cluster", "run": run.id, "store": store.url, "step": step.name, "also_found_by": found_before, **cluster}


def _members(rows: Rows, step: StepState, prefix: str) -> list[dict[str, Any]]:
    """Return the rows of the clusters whose names have that prefix, each with its part."""
    artifact, found = step.outputs["Clusters"]["artifact"], []
    for part, positions in rows.beginning(artifact, "cluster_id", prefix):
        found += [{**row, "part": part} for row in rows.take(artifact, part, positions).to_pylist()]
    return found


def _cluster(rows: Rows, step: StepState, members: list[dict[str, Any]], num_compared: int, also: str | None) -> dict[str, Any]:
    name = members[0]["cluster_id"]
    members.sort(key=lambda row: (row["doc_id"] != name, -row["jaccard"], row["doc_id"]))
    first, survivor = members[0], next((row for row in members if row["is_survivor"]), None)
    parts = sorted({row.pop("part") for row in members})
    evidence, goes_for = _evidence(rows, step, members, parts), _goes_for(rows, step, members, parts)
    for row in members:
        row["license_evidence"] = evidence.get(row["doc_id"])
        row["goes_for"] = goes_for[row["doc_id"]]
        row["differences"] = row["has_more_differences"] = row["compared_with"] = row["aligned"] = None
    rest = [row for row in members[num_compared + 1 :] if row["doc_id"] == also]
    _compare(rows, step, [*members[: num_compared + 1], *rest], parts)
    return {
        "cluster_id": name,
        "survivor": survivor and survivor["doc_id"],
        "reason": first["reason"],
        "threshold": step.config.get("threshold"),
        "is_estimated": step.config.get("verify", "exact") != "exact",
        "license_classes": class_counts(row["license_class"] for row in members),
        "license_conflict": _outcome(step, survivor is not None) if first["has_license_conflict"] else None,
        "num_members": len(members),
        "num_survivors": sum(row["is_survivor"] for row in members),
        "members": members,
    }


def _outcome(step: StepState, has_survivor: bool) -> str:
    return "reported" if has_survivor or step.config.get("keep") == "none" else "quarantined"


def _goes_for(rows: Rows, step: StepState, members: list[dict[str, Any]], parts: Sequence[int]) -> dict[str, str | None]:
    """Return doc_id → the document that it was dropped for, as its verdict names it; None of one that is kept."""
    verdicts, docs = step.outputs["Verdicts"]["artifact"], input_of(step, "Docs")
    assert docs is not None, "verdicts are on documents"
    of_same = rows.same_parts(verdicts, step.outputs["Clusters"]["artifact"], parts)
    found = rows.of_documents(verdicts, pa.array([row["doc_id"] for row in members]), ["doc_id", "detail"], of_same, like=docs["artifact"])
    return dict(zip(found.column("doc_id").to_pylist(), found.column("detail").to_pylist(), strict=True))


def _evidence(rows: Rows, step: StepState, members: list[dict[str, Any]], parts: Sequence[int]) -> dict[str, str | None]:
    """Return doc_id → the evidence for its licence, if a step above recorded any."""
    licenses = input_of(step, "Licenses")
    if licenses is None:
        return {}
    of_same = rows.same_parts(licenses["artifact"], step.outputs["Clusters"]["artifact"], parts)
    ids = pa.array([row["doc_id"] for row in members])
    found = rows.of_documents(licenses["artifact"], ids, ["doc_id", "evidence"], of_same)
    return dict(zip(found.column("doc_id").to_pylist(), found.column("evidence").to_pylist(), strict=True))


def _compare(rows: Rows, step: StepState, members: list[dict[str, Any]], parts: Sequence[int]) -> None:
    """Diff each member but the first with the one that it was dropped for, or else with the first."""
    docs = input_of(step, "Docs")
    assert docs is not None, "clusters are of documents"
    of_same = rows.same_parts(docs["artifact"], step.outputs["Clusters"]["artifact"], parts)
    first = members[0]["doc_id"]
    others = {row["doc_id"]: row["goes_for"] or first for row in members[1:]}
    ids = pa.array(sorted({first, *others, *others.values()}))
    found = rows.of_documents(docs["artifact"], ids, ["doc_id", "content", "repo", "path"], of_same)
    texts = {row["doc_id"]: row for row in found.to_pylist()}
    for row in members[1:]:
        old, new = texts[others[row["doc_id"]]], texts[row["doc_id"]]
        names = (f"{old['repo']}/{old['path']}", f"{new['repo']}/{new['path']}")
        row["differences"], row["has_more_differences"] = differences(old["content"], new["content"], names)
        row["compared_with"] = {name: old[name] for name in ("doc_id", "repo", "path")}
        row["aligned"] = side_by_side(old["content"], new["content"])


def differences(old: str, new: str, names: tuple[str, str]) -> tuple[list[str], bool]:
    """Return the first lines of a unified diff, long ones cut, and whether lines were left out."""
    first, second = old.split("\n"), new.split("\n")  # not splitlines: texts that differ in line ends alone do differ
    has_more = first[COMPARED_LINES:] != second[COMPARED_LINES:]  # difflib takes time in the square of the lines
    lines = difflib.unified_diff(first[:COMPARED_LINES], second[:COMPARED_LINES], *names, n=0, lineterm="")
    shown = [_cut(line) for line in itertools.islice(lines, SHOWN_DIFFERENCES + 1)]
    return shown[:SHOWN_DIFFERENCES], has_more or len(shown) > SHOWN_DIFFERENCES


def _cut(line: str) -> str:
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}… ({len(line):,} characters)"


# Licence conflicts


def show_conflicts(store: Store, run_id: str | None, limit: int | None = None) -> dict[str, Any]:
    """Return every cluster of a run whose members' licence classes differ, step by step.

    Raises:
        InputError: if the run has no deduplication step.
    """
    rows, run = Rows(store), newest(store) if run_id is None else store.run(run_id)
    steps = [{"step": step.name, **conflicts(rows, run, step, limit)} for step in finders(run)]
    if not steps:
        hint = f"ask a run with exact_dedup or near_dedup: --run; `starloom runs{store.named}` lists them"
        raise InputError(f"run {run.id} has no deduplication step", hint=hint)
    num = sum(step["num_conflicts"] for step in steps)
    return {"kind": "conflicts", "run": run.id, "recipe": run.recipe, "store": store.url, "num_conflicts": num, "steps": steps}


def conflicts(rows: Rows, run: Run, step: StepState, limit: int | None) -> dict[str, Any]:
    """Return the licence conflicts of one step: counts by the classes that meet, and the clusters, the largest first.

    `judged_by` is the step that told the licence classes. Of what `dropped_before` says no copy was compared: a conflict with
    it is not among these, though a step before may have found it.
    """
    members = _in_conflict(rows, step)
    counted = members.group_by(["cluster_id", "license_class"]).aggregate([([], "count_all")])
    classes: dict[str, Counter[str]] = {}
    for row in counted.to_pylist():
        classes.setdefault(row["cluster_id"], Counter())[row["license_class"] or UNJUDGED] = row["count_all"]
    survivors = members.filter(members.column("is_survivor"))
    stays = set(survivors.column("cluster_id").to_pylist())
    names = sorted(classes, key=lambda name: (-classes[name].total(), name))[:limit]
    shown = survivors.filter(pc.is_in(survivors.column("cluster_id"), value_set=pa.array(names, pa.string())))
    the_best_last = sorted(shown.to_pylist(), key=lambda row: row["doc_id"] == row["cluster_id"])
    survivor_of = {row["cluster_id"]: {name: row[name] for name in _SURVIVOR} for row in the_best_last}
    return {
        "judged_by": _judged_by(run, step),
        "dropped_before": _dropped_before(run, step),
        "num_clusters": step.notes.get("clusters"),
        "num_conflicts": len(classes),
        "num_documents": len(members),
        "by_classes": _by_classes(classes, set(classes) if step.config.get("keep") == "none" else stays),
        "conflicts": [
            {
                "cluster_id": name,
                "outcome": _outcome(step, name in stays),
                "num_members": classes[name].total(),
                "license_classes": class_counts(classes[name].elements()),
                "survivor": survivor_of.get(name),
            }
            for name in names
        ],
    }


def _in_conflict(rows: Rows, step: StepState) -> pa.Table:
    found = [_MEMBER.empty_table()]
    for _, table in rows.tables(step.outputs["Clusters"]["artifact"], _MEMBER.names):
        found.append(table.filter(table.column("has_license_conflict")).cast(_MEMBER))
    return pa.concat_tables(found)


def _by_classes(classes: dict[str, Counter[str]], stays: set[str]) -> list[dict[str, Any]]:
    """Count conflicts by the classes that meet, the most frequent first."""
    totals: dict[tuple[str, ...], Counter[str]] = {}
    for name, counts in classes.items():
        total = totals.setdefault(tuple(sorted(counts)), Counter())
        total.update(clusters=1, documents=counts.total(), quarantined=name not in stays)
    ordered = sorted(totals.items(), key=lambda item: (-item[1]["clusters"], item[0]))
    return [{"license_classes": list(key), **total} for key, total in ordered]


def _judged_by(run: Run, step: StepState) -> str | None:
    """Return the step that wrote the licence classes: the nearest above."""
    licenses = input_of(step, "Licenses")
    if licenses is None:
        return None
    above = itertools.takewhile(lambda other: other.name != step.name, run.steps)
    return next(other.name for other in reversed(list(above)) if output_of(other, "Licenses") == licenses["artifact"])


def _dropped_before(run: Run, step: StepState) -> list[dict[str, Any]]:
    """Return the filters above a step that dropped documents which it therefore never read."""
    found, docs = [], input_of(step, "Docs")
    while docs is not None and docs["verdicts"] is not None:
        judge = producer(run, docs["verdicts"])
        assert judge is not None, "a run records who wrote what its steps read"
        counts = judge.outputs["Verdicts"]["counts"]
        if counts["dropped"]:
            found.append({"step": judge.name, "dropped": counts["dropped"], "rules": counts["rules"]})
        docs = input_of(judge, "Docs")
    return found[::-1]
