"""Samples and values of what a step judged, against plain loops over all rows."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.lineage.errors import InputError
from starloom.lineage.records import Artifact, Run, StepState
from starloom.lineage.store import Store
from starloom.queries.sampling import LOGARITHMIC_FROM, NUM_BINS, rules, sample, values
from starloom.tasks.schemas import Verdicts
from tests.sizes import examples

RULES = ["max-line-length", "near-duplicate", None]
_VALUE = st.none() | st.floats(-5, 5000)
_ROW = st.tuples(st.sampled_from([True, False, None]), st.sampled_from(RULES), _VALUE, st.sampled_from([None, 0.7, 1000.0]))
PARTS = st.lists(st.lists(_ROW, max_size=12), min_size=1, max_size=4)


def make(folder, parts, signals=None) -> Store:
    """A store with one run, whose step `judge` wrote these verdicts: (keep, rule, value, threshold) a row."""
    store, texts, verdicts, measured, number = Store.open(str(folder)), [], [], [], 0
    for rows in parts:
        ids = [f"{number + i:032x}" for i in range(len(rows))]
        number += len(rows)
        text: dict[str, list[Any]] = {"doc_id": ids, "repo": ["r"] * len(rows), "path": [f"{i}.py" for i in ids]}
        text |= {"language": ["Python"] * len(rows), "size": [2] * len(rows), "content": [f"text of {i}" for i in ids]}
        schema = pa.schema([(name, pa.int64() if name == "size" else pa.string()) for name in text])
        texts.append(store.put_table("Docs", pa.table(text, schema), 4))
        judged = [
            {"doc_id": i, "keep": keep, "rule": rule if keep is not None else None, "value": value, "threshold": threshold, "detail": None}
            for i, (keep, rule, value, threshold) in zip(ids, rows, strict=True)
        ]
        counts: dict[str, Any] = {name: sum(row["keep"] is keep for row in judged) for name, keep in (("kept", True), ("dropped", False))}
        counts["rules"] = dict(Counter(str(row["rule"]) for row in judged if row["keep"] is False))
        verdicts.append(store.put_table("Verdicts", pa.Table.from_pylist(judged, Verdicts.SCHEMA), 5, counts))
        if signals:
            column = pa.array([signals(int(i, 16)) for i in ids], pa.int64())
            measured.append(store.put_table("Signals", pa.table({"doc_id": pa.array(ids, pa.string()), "max_line_length": column}), 5))
    made = {
        kind: store.put_artifact(Artifact(kind, tuple(p))) for kind, p in {"Docs": texts, "Verdicts": verdicts, "Signals": measured}.items()
    }
    inputs = {"docs": {"type": "Docs", "artifact": made["Docs"], "verdicts": None}}
    inputs |= {"signals": {"type": "Signals", "artifact": made["Signals"], "verdicts": None}} if signals else {}
    outputs = {"Verdicts": {"artifact": made["Verdicts"], "counts": {}}}
    steps = [StepState("ingest", "ingest", "k", {}, {}, {}), StepState("judge", "judge", "k", {}, inputs, outputs, status="done")]
    store.write_run(Run("20250101-000000-000-r-0000", "r", "done", "", "", steps=steps))
    return store


def numbered(parts):
    """(part, row, doc_id, keep, rule, value, threshold) of each verdict, in order."""
    number = 0
    for part, rows in enumerate(parts):
        for row, (keep, rule, value, threshold) in enumerate(rows):
            yield part, row, f"{number:032x}", keep, rule if keep is not None else None, value, threshold
            number += 1


@settings(max_examples=examples(60))
@given(PARTS, st.booleans(), st.sampled_from(["max-line-length", "near-duplicate", None, "all"]), st.integers(1, 9), st.integers(0, 99))
def test_a_sample_is_drawn_as_from_one_list_of_all(tmp_path_factory, parts, kept, rule, number, seed):
    store = make(tmp_path_factory.mktemp("s"), parts)
    wanted = None if rule in (None, "all") else rule
    matching = [each for each in numbered(parts) if each[3] is kept and wanted in (None, each[4])]
    if wanted is not None and not matching:
        with pytest.raises(InputError, match="no document by the rule"):
            sample(store, "latest", "judge", kept=kept, rule=wanted, number=number, seed=seed)
        return
    found = sample(store, "latest", "judge", kept=kept, rule=wanted, number=number, seed=seed)
    drawn = sorted(random.Random(seed).sample(range(len(matching)), min(number, len(matching))))
    assert found["num_documents"] == len(matching)
    expected = [matching[i] for i in drawn]
    told = [(d["part"], d["row"], d["doc_id"], kept, d["rule"], d["value"], d["threshold"]) for d in found["documents"]]
    assert told == expected
    assert [d["content"] for d in found["documents"]] == [f"text of {each[2]}" for each in expected]
    assert found == sample(store, "latest", "judge", kept=kept, rule=wanted, number=number, seed=seed)


@settings(max_examples=examples(40))
@given(PARTS)
def test_rules_are_counted_as_the_rows_say(tmp_path_factory, parts):
    store = make(tmp_path_factory.mktemp("s"), parts)
    counted = Counter((each[3], each[4]) for each in numbered(parts) if each[3] is not None)
    assert {(row["kept"], row["rule"]): row["documents"] for row in rules(store, "latest", "judge")} == counted


@settings(max_examples=examples(40))
@given(PARTS)
def test_values_are_counted_as_the_rows_say(tmp_path_factory, parts):
    store = make(tmp_path_factory.mktemp("s"), parts)
    plain = {}
    for *_, rule, value, threshold in numbered(parts):
        if rule is not None and value is not None:
            told = plain.setdefault(rule, ([], set()))
            told[0].append(value)
            told[1].update([] if threshold is None else [threshold])
    found = {row["rule"]: row for row in values(store, "latest", "judge")}
    assert found.keys() == plain.keys()
    for rule, (measured, thresholds) in plain.items():
        row = found[rule]
        assert (row["of"], row["thresholds"]) == ("verdict", sorted(thresholds))
        assert (row["low"], row["high"]) == (min(measured), max(measured))
        assert row["is_logarithmic"] == (min(measured) >= 0 and max(measured) > LOGARITHMIC_FROM)
        scale = math.log1p if row["is_logarithmic"] else float
        low, high = scale(row["low"]), scale(row["high"])
        together = np.histogram([scale(value) for value in measured], NUM_BINS, (low, high if high > low else low + 1))[0]
        assert sum(row["counts"]) == len(measured)
        assert np.abs(np.cumsum(row["counts"]) - np.cumsum(together)).max() <= 1, "a value at a border may fall to either side"


def test_values_are_those_of_all_documents_where_the_step_read_signals(tmp_path):
    rows = [(i < 90, "max-line-length" if i >= 90 else None, float(i) if i >= 90 else None, 90.0 if i >= 90 else None) for i in range(100)]
    store = make(tmp_path, [rows[:40], rows[40:]], signals=lambda number: number)
    (found,) = values(store, "latest", "judge")
    assert (found["rule"], found["of"], found["low"], found["high"], found["thresholds"]) == ("max-line-length", "signal", 0, 99, [90])
    assert sum(found["counts"]) == 100


def test_a_step_that_judged_nothing_has_no_samples(tmp_path):
    store = make(tmp_path, [[(True, None, None, None)]])
    for step, told in {"ingest": "judged no documents", "jduge": "has no step"}.items():
        with pytest.raises(InputError, match=told) as caught:
            sample(store, "latest", step, kept=True, rule=None, number=1, seed=0)
        assert "judge" in caught.value.hint
    assert sample(store, "latest", "judge", kept=False, rule=None, number=3, seed=0)["documents"] == []


def test_a_sample_reads_only_the_parts_that_it_draws_from(tmp_path, monkeypatch):
    store = make(tmp_path, [[(False, "near-duplicate", 0.9, 0.7)] * 3, [(True, None, None, None)] * 9, [(True, None, None, None)] * 9])
    import starloom.queries.rows

    read, real = set(), starloom.queries.rows.Rows.path

    def noted(self, name, part):
        read.add(part)
        return real(self, name, part)

    monkeypatch.setattr(starloom.queries.rows.Rows, "path", noted)
    assert len(sample(store, "latest", "judge", kept=False, rule="near-duplicate", number=9, seed=0)["documents"]) == 3
    assert read == {0}
