"""Exact deduplication against a dictionary, whatever the cut and the order."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from starloom.lineage.errors import InputError
from starloom.tasks.exact_dedup import ExactDedup, exact_dedup
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.schemas import Docs, Verdicts

DAYS = [dt.datetime(2022, 1, day, tzinfo=dt.UTC) for day in (1, 2)]


def document(number: int, content: str, stars: int | None, forks: int | None, committed_at: dt.datetime | None) -> dict[str, Any]:
    return {
        "doc_id": f"{number * 7919 % 10007:032x}",  # not in the order of rows
        "source": "test",
        "kind": "code",
        "repo": f"repo-{number % 3}",
        "path": f"{number}.py",
        "content": content,
        "size": len(content.encode()),
        "swhid": "swh:1:cnt:" + hashlib.sha1(b"blob %d\0" % len(content.encode()) + content.encode()).hexdigest(),
        "stars": stars,
        "forks": forks,
        "committed_at": committed_at,
        "is_vendor": False,
        "is_generated": False,
        "is_documentation": False,
    }


def docs(parts: list[list[dict[str, Any]]]) -> Docs:
    return Docs.of_parts([pa.Table.from_pylist(part, schema=Docs.SCHEMA) for part in parts])


def rank(row: dict[str, Any]) -> tuple[Any, ...]:
    """The default policy, plainly: more first, missing last, then the identifier."""
    numbers = [row["stars"], row["forks"], row["committed_at"] and row["committed_at"].timestamp()]
    return (*((number is None, -(number or 0)) for number in numbers), row["doc_id"])


@pytest.fixture
def runtime(tmp_path: Any) -> Runtime:
    return Runtime.alone(tmp_path / "scratch")


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["", "a", "b", "\0", "é\r\n"]),
        st.sampled_from([None, 0, 5]),
        st.sampled_from([None, 1]),
        st.sampled_from([None, *DAYS]),
    ),
    max_size=12,
).map(lambda rows: [document(i, *row) for i, row in enumerate(rows)])


@pytest.mark.slow
@given(rows=ROWS, cut=st.integers(0, 12), order=st.randoms(use_true_random=False))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_of_each_content_stays_whatever_the_cut_and_order(rows: list[dict[str, Any]], cut: int, order: Any, runtime: Runtime) -> None:
    order.shuffle(rows)
    parts = [rows[:cut], rows[cut:]]
    best = {row["content"]: min((r for r in rows if r["content"] == row["content"]), key=rank)["doc_id"] for row in rows}
    count = Counter(row["content"] for row in rows)
    verdicts, clusters = exact_dedup.function(docs(parts), None, ExactDedup(), runtime)
    assert [v.num_rows for v in verdicts.parts] == [len(part) for part in parts]
    for row, verdict in zip(rows, verdicts.read().to_pylist(), strict=True):
        is_kept = best[row["content"]] == row["doc_id"]
        assert verdict == {
            "doc_id": row["doc_id"],
            "keep": is_kept,
            "rule": "exact-duplicate" if not is_kept else "survivor" if count[row["content"]] > 1 else None,
            "value": None,
            "threshold": None,
            "detail": None if is_kept else best[row["content"]],
        }
    members = {member["doc_id"]: (member["cluster_id"], member["is_survivor"], member["jaccard"]) for member in clusters.read().to_pylist()}
    assert members == {
        row["doc_id"]: (best[row["content"]], best[row["content"]] == row["doc_id"], 1.0) for row in rows if count[row["content"]] > 1
    }


def test_contents_are_compared_by_their_whole_hash(runtime: Runtime) -> None:
    rows = [document(i, "a", None, None, None) for i in range(4)]
    for row, end in zip(rows, ["00", "01", "00", "02"], strict=True):
        row["swhid"] = "swh:1:cnt:" + "7" * 38 + end
    verdicts, _ = exact_dedup.function(docs([rows[:2], rows[2:]]), None, ExactDedup(), runtime)
    assert verdicts.read().column("keep").to_pylist() == [True, True, False, True]


def test_a_hash_of_another_kind_is_refused(runtime: Runtime) -> None:
    row = {**document(1, "a", None, None, None), "swhid": "sha256:0"}
    with pytest.raises(InputError, match="'sha256:0'"):
        exact_dedup.function(docs([[row]]), None, ExactDedup(), runtime)


def test_a_policy_of_ones_own_decides(runtime: Runtime) -> None:
    rows = [document(1, "a", 100, None, DAYS[1]), document(2, "a", 1, None, DAYS[0])]
    for policy, survivor in (["stars desc"], 0), (["committed_at asc", "stars desc"], 1), (["forks desc", "stars asc"], 1):
        verdicts, _ = exact_dedup.function(docs([rows]), None, ExactDedup.model_validate({"survivor": policy}), runtime)
        assert verdicts.read().column("keep").to_pylist() == [survivor == 0, survivor == 1]


def test_documents_dropped_before_are_no_survivors(runtime: Runtime) -> None:
    rows = [document(1, "a", 100, None, None), document(2, "a", 1, None, None), document(3, "a", 2, None, None)]
    before = docs([rows])
    live = Docs([type(s)(s.data, before.parts[0].verdicts([False, True, True]).read()) for s in before.sources])
    verdicts = exact_dedup.function(live, None, ExactDedup(), runtime)[0].read()
    assert verdicts.column("keep").to_pylist() == [None, False, True]
    assert verdicts.column("detail").to_pylist() == [None, rows[2]["doc_id"], None]


@pytest.mark.parametrize("parts", [[], [[]], [[], []]])
def test_an_empty_corpus_gives_empty_verdicts(parts: list[Any], runtime: Runtime) -> None:
    verdicts, clusters = exact_dedup.function(docs(parts), None, ExactDedup(), runtime)
    assert clusters.num_rows == 0
    assert len(clusters.parts) == len(parts)
    assert len(verdicts.parts) == len(parts)
    assert verdicts.read().equals(Verdicts.SCHEMA.empty_table())


def test_an_unknown_preference_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="survivor"):
        ExactDedup.model_validate({"survivor": ["beauty desc"]})
