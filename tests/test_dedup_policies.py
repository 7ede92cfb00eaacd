"""Who stays of a cluster: only a kept file's likes go, sources before sources, none at all; and who is warned of."""

from __future__ import annotations

import json
import random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from starloom.cli import main
from starloom.flows.plan import make_plan
from starloom.flows.recipe import load
from starloom.lineage.errors import ConfigError, InputError
from starloom.tasks.common import clusters as clustering
from starloom.tasks.exact_dedup import ExactDedup, exact_dedup
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.frame.workers import Workers
from starloom.tasks.kernels.duplicates import linking
from starloom.tasks.kernels.duplicates.minhash import shingles, sign_texts
from starloom.tasks.kernels.text.arrow_bytes import string_buffers
from starloom.tasks.near_dedup import NearDedup
from starloom.tasks.schemas import Docs
from tests.corpus import write_recipe
from tests.test_near_dedup import decide, document, dropped


@pytest.fixture
def runtime(tmp_path: Any) -> Runtime:
    return Runtime.alone(tmp_path / "scratch")


def chain(length: int, size: int, shared: int) -> list[dict[str, Any]]:
    """Files of random words, each of which shares the end of the one before."""
    draw = random.Random(5)
    words = [f"w{draw.getrandbits(60):x}" for _ in range(size + (length - 1) * (size - shared))]
    return [document(i, " ".join(words[i * (size - shared) :][:size])) for i in range(length)]


def jaccard(one: str, other: str, ngram: int = 5) -> float:
    left, right = set(shingles(one, ngram)), set(shingles(other, ngram))
    return len(left & right) / len(left | right)


def estimate(one: str, other: str, ngram: int = 5, num_perm: int = 256) -> float:
    left, right = sign_texts(*string_buffers(pa.array([one, other])), num_perm=num_perm, ngram=ngram, seed=42)[0]
    return float((left == right).mean())


@pytest.mark.parametrize("verify", ["estimated", "exact"])
def test_of_a_chain_whoever_resembles_no_kept_file_stays(verify: Any, runtime: Runtime) -> None:
    rows = chain(40, 400, 370)
    assert jaccard(rows[0]["content"], rows[1]["content"]) > 0.7
    assert jaccard(rows[0]["content"], rows[-1]["content"]) == 0
    published, _ = decide([rows], NearDedup(verify=verify), runtime)
    assert min(row["value"] for row in published.read().to_pylist() if not row["keep"]) == 0, "as published"
    verdicts, clusters = decide([rows], NearDedup(verify=verify, clusters="survivors"), runtime)
    texts = {row["doc_id"]: row["content"] for row in rows}
    judged = {row["doc_id"]: row for row in verdicts.read().to_pylist()}
    assert 10 < len(dropped(verdicts)) < 35
    alike = {"estimated": estimate, "exact": jaccard}[verify]
    for row in judged.values():
        if not row["keep"]:
            assert row["value"] == alike(texts[row["doc_id"]], texts[row["detail"]]) >= 0.7
            assert judged[row["detail"]]["keep"]
    members = {member["doc_id"]: member for member in clusters.read().to_pylist()}
    assert {doc_id for doc_id, member in members.items() if member["is_survivor"]} == members.keys() - dropped(verdicts)
    assert len({member["cluster_id"] for member in members.values()}) < 10, "a cluster is a component still"


def place(row: dict[str, Any], cfg: NearDedup) -> tuple[Any, ...]:
    """By what documents are ranked here: spared ones, source A, then the others; stars; doc_id."""
    return (row["source"] in cfg.drop_from, row["source"] != "A", row["stars"] is None, -(row["stars"] or 0), row["doc_id"])


def choose(members: list[dict[str, Any]], cfg: NearDedup, alike: Any) -> dict[str, str]:
    """doc_id → the file for which it goes, itself if it stays, of one cluster."""
    members = sorted(members, key=lambda row: place(row, cfg))
    best, kept, going = members[0], list[dict[str, Any]](), {}
    for row in members:
        is_spared = bool(cfg.drop_from) and row["source"] not in cfg.drop_from
        found = None
        if is_spared:
            pass
        elif cfg.clusters == "survivors":
            found = next(
                (other for least in (1, cfg.threshold) for other in kept if alike(row["content"], other["content"]) >= least), None
            )
        elif row is not best:
            found = best
        elif cfg.keep == "none":
            found = members[1]
        if found is None:
            kept.append(row)
        going[row["doc_id"]] = (found or row)["doc_id"]
    return going


TEXTS = st.lists(
    st.lists(st.integers(0, 5), min_size=1, max_size=7).map(lambda words: " ".join(f"w{word}" for word in words)), min_size=1, max_size=14
)
KNOBS = [
    {"clusters": "survivors"},
    {"clusters": "survivors", "drop_from": ["B"]},
    {"drop_from": ["B", "C"]},
    {"keep": "none"},
    {"keep": "none", "drop_from": ["B"]},
]


@pytest.mark.slow
@pytest.mark.parametrize("knobs", KNOBS, ids=str)
@given(texts=TEXTS, threshold=st.sampled_from([0.2, 0.34, 0.5, 0.75]), verify=st.sampled_from(["estimated", "exact"]), draw=st.randoms())
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_who_stays_is_a_plain_choice(
    knobs: dict[str, Any], texts: list[str], threshold: float, verify: Any, draw: Any, runtime: Runtime
) -> None:
    rows = [{**document(i, text, stars=draw.choice([None, 0, 3])), "source": draw.choice("ABC")} for i, text in enumerate(texts)]
    policy: Any = [{"source": ["A"]}, "stars desc"]
    cfg = NearDedup(survivor=policy, ngram=1, num_perm=24, bands=24, rows=1, threshold=threshold, verify=verify, **knobs)
    draw.shuffle(rows)
    cut = draw.randrange(len(rows) + 1)
    verdicts, clusters = decide([rows[:cut], rows[cut:]], cfg, runtime)
    members = {row["doc_id"]: row for row in clusters.read().to_pylist()}
    alike = {"estimated": lambda a, b: estimate(a, b, 1, 24), "exact": lambda a, b: jaccard(a, b, 1)}[verify]
    expected = {row["doc_id"]: row["doc_id"] for row in rows}
    for name in {member["cluster_id"] for member in members.values()}:
        expected |= choose([row for row in rows if members.get(row["doc_id"], {}).get("cluster_id") == name], cfg, alike)
    content, judged = {row["doc_id"]: row["content"] for row in rows}, verdicts.read().to_pylist()
    assert {row["doc_id"]: row["detail"] or row["doc_id"] for row in judged} == expected
    for row in judged:
        stays = expected[row["doc_id"]] == row["doc_id"]
        assert row["keep"] == stays
        assert row["rule"] == ("near-duplicate" if not stays else "survivor" if row["doc_id"] in members else None)
        assert row["value"] == (None if stays else alike(content[row["doc_id"]], content[row["detail"]]))
        assert row["doc_id"] not in members or members[row["doc_id"]]["is_survivor"] == stays
    assert runtime.notes["duplicates"] == len(dropped(verdicts))


def of_sources(*sources: str) -> list[dict[str, Any]]:
    """A copy of one text in each."""
    rows = chain(1, 60, 0) * len(sources)
    return [{**document(i, row["content"], stars=i), "source": source} for i, (row, source) in enumerate(zip(rows, sources, strict=True))]


STAGES = {
    "exact": lambda rows, runtime, **knobs: exact_dedup.function(
        Docs.of(pa.Table.from_pylist(rows, schema=Docs.SCHEMA)), None, ExactDedup(**knobs), runtime
    ),
    "near": lambda rows, runtime, **knobs: decide([rows], NearDedup(**knobs), runtime),
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_old_corpus_is_preferred_to_a_new_one(stage: str, runtime: Runtime) -> None:
    rows = of_sources("C", "B", "A", "A")
    told = {}
    policies: dict[str, dict[str, Any]] = {
        "prefer": {"survivor": [{"source": ["A", "B"]}, "stars asc"]},
        "drop from B": {"drop_from": "B"},
        "drop all": {"keep": "none"},
        "all of B": {"keep": "none", "drop_from": ["B"]},
    }
    for name, knobs in policies.items():
        verdicts, clusters = STAGES[stage](rows, runtime, **knobs)
        told[name] = verdicts.read().column("keep").to_pylist(), clusters.read().column("reason").to_pylist()
    assert told["prefer"] == (
        [False, False, True, False],
        ["source A before another", "source A before B", "stars 2 < 3", "stars 2 < 3"],
    )
    spared = "its source is not in drop_from"
    only_b = "of sources B alone documents are dropped"
    assert told["drop from B"] == ([True, False, True, True], [spared, only_b, spared, only_b])
    assert told["drop all"] == ([False] * 4, ["none stays: keep is none"] * 4)
    assert told["all of B"] == told["drop from B"]


def test_none_stays_of_copies_and_each_verdict_names_another(runtime: Runtime) -> None:
    for verify in ("none", "estimated", "exact"):
        verdicts, _ = decide([of_sources("A", "A"), of_sources("A")[:0]], NearDedup(keep="none", verify=verify), runtime)
        ids = verdicts.read().column("doc_id").to_pylist()
        assert verdicts.read().column("detail").to_pylist() == ids[::-1]
        assert verdicts.read().column("value").to_pylist() == [1.0, 1.0]


def test_licence_conflicts_spare_what_may_not_be_dropped(runtime: Runtime) -> None:
    rows = of_sources("A", "B", "B")
    classes = {row["doc_id"]: name for row, name in zip(rows, ["non-permissive", "permissive", "permissive"], strict=True)}
    verdicts, _ = decide([rows], NearDedup(drop_from=("B",), license_conflicts="strictest"), runtime, classes)
    assert verdicts.read().column("rule").to_pylist() == ["survivor", "license-conflict", "license-conflict"]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"survivor": [{"source": ["A", "A"]}]}, "'A' is named twice"),
        ({"survivor": [{"source": []}]}, "at least 1 item"),
        ({"drop_from": ["B", "B"]}, "'B' is named twice"),
        ({"clusters": "survivors"}, "set verify to estimated or exact"),
        ({"clusters": "survivors", "verify": "exact", "keep": "none"}, "leave one of the two out"),
    ],
)
def test_knobs_that_mean_nothing_are_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        NearDedup(**knobs)


@pytest.mark.parametrize("step", ["exact_dedup: {survivor: [source: [local, lokal]]}", "near_dedup: {drop_from: [lokal]}"])
def test_a_plan_refuses_a_source_that_no_step_reads(step: str, tmp_path: Any) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", tmp_path, f"- {step}\n")
    with pytest.raises(ConfigError, match="names the source 'lokal'") as caught:
        make_plan(load(recipe))
    assert caught.value.hint == "did you mean 'local'?"
    right = write_recipe(tmp_path / "r.yaml", tmp_path, f"- {step}\n".replace("local, lokal", "local").replace("lokal", "local"))
    assert make_plan(load(right)).steps


def test_two_documents_of_one_id_are_refused_by_name(runtime: Runtime) -> None:
    rows = of_sources("A", "A", "B")
    rows[2]["doc_id"] = rows[0]["doc_id"]
    for stage in STAGES.values():
        with pytest.raises(InputError, match=rows[0]["doc_id"]):
            stage(rows, runtime)


def test_who_loses_more_than_half_is_warned_of(runtime: Runtime) -> None:
    """Of source B all go, of source C half; of source A none."""
    rows = [{**document(i, text), "source": source, "repo": f"r{i % 2}"} for i, (text, source) in enumerate(TEXTS_OF_SOURCES)]
    rows[-1]["language"] = None
    for stage in STAGES.values():
        runtime.notes.clear()
        for row in rows:
            row["swhid"] = "swh:1:cnt:" + f"{abs(hash(row['content'])):040x}"[-40:]
        stage(rows, runtime, survivor=[{"source": ["A"]}])
        assert runtime.notes["warnings"] == [
            "a source loses more than half of the documents: B (2 of 2)",
            "3 repositories lose more than half of the documents: B/r0 (1 of 1), B/r1 (1 of 1), C/r0 (1 of 1)",
        ]
    runtime.notes.clear()
    decide([rows], NearDedup.model_validate({"survivor": [{"source": ["Z"]}], "large_cluster": 2}), runtime)
    assert runtime.notes["warnings"][0] == "no document has the source 'Z', which survivor or drop_from names"
    assert runtime.notes["warnings"][1].startswith("a cluster has more than 2 documents; the largest, 0000")
    assert runtime.notes["warnings"][1].endswith(", has 3")


TEXTS_OF_SOURCES = [
    (" ".join(f"{name}{i}" for i in range(30)), source)
    for name, source in [("a", "A"), ("b", "A"), ("c", "A"), ("d", "A"), ("a", "B"), ("b", "B"), ("a", "C"), ("z", "C")]
]


@pytest.mark.slow
@pytest.mark.parametrize("verify", ["estimated", "exact"])
def test_a_cluster_too_large_to_compare_is_searched_by_bands(verify: Any, runtime: Runtime, monkeypatch: Any, tmp_path: Any) -> None:
    """Fewer comparisons than files that stay: what goes resembles what stays, and the result depends on no order and no worker."""
    monkeypatch.setattr(linking, "MOST_COMPARISONS", 5)
    rows = chain(60, 100, 92)
    cfg = NearDedup(verify=verify, clusters="survivors", ngram=1, bands=64, rows=4)
    verdicts, _ = decide([rows], cfg, runtime)
    texts = {row["doc_id"]: row["content"] for row in rows}
    judged = {row["doc_id"]: row for row in verdicts.read().to_pylist()}
    assert 20 < len(dropped(verdicts)) < 50
    for row in judged.values():
        assert row["keep"] or (row["value"] >= 0.7 and judged[row["detail"]]["keep"])
    kept = [texts[doc_id] for doc_id, row in judged.items() if row["keep"]]
    alike = {"estimated": estimate, "exact": jaccard}[verify]
    assert max(alike(one, other, 1) for i, one in enumerate(kept) for other in kept[:i]) < 0.7
    random.Random(1).shuffle(rows)
    with Workers(1) as pool:
        monkeypatch.setattr(clustering, "FEW_DOCUMENTS", 0)
        again, _ = decide([rows[:9], rows[9:]], cfg, Runtime(runtime.scratch, workers=1, mapper=pool.map))
    assert {row["doc_id"]: row for row in again.read().to_pylist()} == judged


@pytest.mark.slow
def test_a_run_and_its_record_say_what_it_warns_of_and_who_went_for_whom(tmp_path: Any, capsys: Any) -> None:
    folder = tmp_path / "repositories" / "chained" / "src"
    folder.mkdir(parents=True)
    for i, row in enumerate(chain(9, 300, 290)):
        (folder / f"{i}.py").write_text(row["content"].replace(" ", "\n"))
    knobs = "{verify: exact, clusters: survivors, large_cluster: 8}"
    recipe, store = write_recipe(tmp_path / "r.yaml", tmp_path / "repositories", f"- near_dedup: {knobs}\n"), str(tmp_path / "s")

    def say(*words: str) -> str:
        assert main([*words, "--store", store]) == 0
        return str(capsys.readouterr().out)

    warnings = json.loads(say("run", str(recipe), "--no-prefect", "--workers", "1", "--json"))["steps"][-1]["warnings"]
    assert [text.partition(" more than")[0] for text in warnings] == [
        "a cluster has",
        "a source loses",
        "a repository loses",
        "a language loses",
    ]
    assert say("run", str(recipe), "--force", "near_dedup", "--no-prefect", "--workers", "1").count("warning: a ") == 4
    shown = json.loads(say("show", "latest", "--json"))
    assert shown["warnings"] == {"near_dedup": warnings}
    for what in ("latest", "latest/near_dedup"):
        assert f"near_dedup warns\n  {warnings[0]}\n" in say("show", what)
    name = warnings[0].partition("the largest, ")[2].partition(",")[0]
    cluster = json.loads(say("show", f"cluster:{name}", "--json"))
    kept = {member["doc_id"] for member in cluster["members"] if member["is_survivor"]}
    assert len(kept) == cluster["num_survivors"] > 1
    assert {member["goes_for"] for member in cluster["members"]} <= {*kept, None}
    text = say("show", f"cluster:{name}")
    assert f"9 documents, {len(kept)} stay" in text
    assert "to the one it is dropped for, exact, threshold 0.7" in text
    assert all(f"dropped for {member['goes_for'][:12]}" in text for member in cluster["members"] if member["goes_for"])
