"""Caps on languages: as many documents as fit, in the order of their draws, whatever the parts and however the corpus grows."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from starloom.tasks import cap_languages as module
from starloom.tasks.cap_languages import PRESETS, CapLanguages, cap_languages
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.kernels.languages.linguist import known_languages
from starloom.tasks.kernels.text.draws import draw
from starloom.tasks.schemas import Docs
from tests.sizes import examples


def table(rows: list[tuple[str | None, int]], start: int = 0) -> pa.Table:
    made = [
        {
            "doc_id": hashlib.md5(str(number).encode()).hexdigest(),
            "source": "s",
            "kind": "code",
            "repo": "r",
            "path": str(number),
            "language": language,
            "content": "x" * size,
            "size": size,
            "swhid": "",
            "is_vendor": False,
            "is_generated": False,
            "is_documentation": False,
        }
        for number, (language, size) in enumerate(rows, start)
    ]
    return pa.Table.from_pylist(made, schema=Docs.SCHEMA)


def kept(docs: Docs, tmp_path, **knobs) -> dict[str, bool]:
    verdicts = cap_languages.function(docs, CapLanguages(**knobs), Runtime.alone(tmp_path)).read().to_pylist()
    assert all((row["rule"], row["threshold"]) == (None, None) for row in verdicts if row["keep"])
    assert all(row["rule"] == "language-cap" and row["value"] > row["threshold"] for row in verdicts if not row["keep"])
    return {row["doc_id"]: row["keep"] for row in verdicts}


def plain(whole: pa.Table, caps: dict[str, int], seed: int) -> dict[str, bool]:
    """Every language's documents in the order of their draws, until the cap is passed."""
    draws = draw(whole.column("doc_id"), seed, "cap_languages")[:, 0].tolist()
    found, used = {}, dict.fromkeys(caps, 0)
    for _, row in sorted(zip(draws, whole.select(["doc_id", "language", "size"]).to_pylist(), strict=True), key=lambda pair: pair[0]):
        if row["language"] in caps:
            used[row["language"]] += row["size"]
        found[row["doc_id"]] = row["language"] not in caps or used[row["language"]] <= caps[row["language"]]
    return found


ROWS = st.lists(st.tuples(st.sampled_from(["JSON", "YAML", "Python", None]), st.integers(0, 40)), max_size=40)


@given(ROWS, st.integers(0, 300), st.integers(0, 300), st.integers(0, 3), st.integers(0, 40))
@settings(max_examples=examples(100))
@pytest.mark.parametrize("bits", [1, 16])
def test_the_lowest_draws_stay_however_the_corpus_is_cut(tmp_path_factory, bits, rows, json, yaml, seed, border):
    """With one bit nearly all documents stand in the bucket that is put in order."""
    folder, whole = tmp_path_factory.mktemp("cap"), table(rows)
    caps = {"JSON": json, "YAML": yaml}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BITS", bits)
        for docs in (Docs.of(whole), Docs.of_parts([whole.slice(0, border), whole.slice(border)])):
            assert kept(docs, folder, caps=caps, seed=seed) == plain(whole, caps, seed)


def test_growth_moves_little(tmp_path):
    rows = [("JSON", 10)] * 1000
    before = kept(Docs.of(table(rows)), tmp_path, caps={"JSON": 5000})
    after = kept(Docs.of(table(rows + rows[:100])), tmp_path, caps={"JSON": 5000})
    assert sum(before.values()) == sum(after.values()) == 500
    moved = [name for name, keep in before.items() if keep != after[name]]
    assert len(moved) < 80
    assert all(before[name] for name in moved), "nobody who was dropped is kept because others came"


def test_published_caps_are_of_known_languages_and_in_bytes():
    for caps in PRESETS.values():
        assert set(caps) <= set(known_languages())
    assert CapLanguages().all_caps()["Java"] == 200_000_000_000
    assert CapLanguages(caps="starcoder", more_caps={"JSON": 7, "Go": 8}).all_caps() == {
        "CSS": 3 * 10**9,
        "JSON": 7,
        "YAML": 10**9,
        "Go": 8,
    }


@pytest.mark.parametrize(
    ("caps", "message"),
    [({"Jsn": 1}, "unknown language 'Jsn': did you mean"), ({"JSON": -1}, "-1 bytes: a cap is 0 or more"), ("v3", "caps")],
)
def test_a_cap_that_means_nothing_is_refused(caps, message):
    with pytest.raises(ValidationError, match=message):
        CapLanguages(caps=caps)


def test_no_documents_and_no_capped_ones(tmp_path):
    assert kept(Docs.of(table([])), tmp_path) == {}
    assert kept(Docs.of_parts([]), tmp_path) == {}
    assert all(kept(Docs.of(table([("Python", 5), (None, 9)])), tmp_path, caps={"JSON": 0}).values())
    assert np.sum(list(kept(Docs.of(table([("JSON", 0), ("JSON", 1)])), tmp_path, caps={"JSON": 0}).values())) == 1
