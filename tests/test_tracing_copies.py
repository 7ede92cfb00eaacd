"""What `trace` says of documents packed in several copies, in contexts of several files, or not at all: against plain loops."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from copy import deepcopy

import pyarrow as pa
import pytest
from tokenizers import Tokenizer

from starloom.cli import main
from starloom.lineage.records import Artifact
from starloom.lineage.store import Store, object_name
from starloom.model.data import Order
from starloom.queries.rows import Rows
from starloom.queries.tracing import trace
from starloom.tasks.kernels.packing.roles import DOCUMENT_ROLES
from tests.corpus import MIT, function, run_recipe, write_recipe
from tests.history import add_training

pytestmark = pytest.mark.slow

STAGES = """\
- train_tokenizer: {vocab_size: 600, special_tokens: starcoder2}
- encode: {template: none}
- pack_fim:
    sequence_length: 64
    heldout_fraction: 0.2
    epochs: 2
    mixture: {by: language, weights: {C: 0.25, JSON: 0, Python: 1.5}}
"""
RUNS = {
    "plain": (),
    "repositories": ("encode.template=starcoder2", "encode.metadata_rate=0.5", "pack_fim.fim_level=context", "pack_fim.fim_rate=1"),
    "best_fit": ("encode.template=starcoder2", "pack_fim.packing=best_fit", "pack_fim.sequence_length=200"),
}


def plant(root):
    """Repositories of a few Python and C files, an empty one, and one in JSON."""
    for r in range(8):
        source = root / f"repo{r}" / "src"
        source.mkdir(parents=True)
        (source.parent / "LICENSE").write_text(MIT)
        for f in range(2):
            (source / f"m{f}.py").write_text(function(f"né{r}x{f}", r * 10 + f)[: 400 + 150 * f])
            (source / f"m{f}.c").write_text(f"int f{r}_{f}(int x) {{ return x + {r * 7 + f}; }}\n")
        (source / "__init__.py").write_text("")
        (source / "data.json").write_text(f'{{"r": {r}}}\n')
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A run for each of RUNS; batches of five epochs and a half, in the order in which a trainer takes them."""
    folder = tmp_path_factory.mktemp("copies")
    recipe = write_recipe(folder / "recipe.yaml", plant(folder / "repositories"), STAGES, part_bytes=3000)
    store = Store.open(str(folder / "store"))
    for name, settings in RUNS.items():
        run = run_recipe(recipe, folder / "store", *settings)
        store.tag(name, run.id)
        train(store, run.id, folder / f"{name}-weights")
    return store


def train(store, run_id, weights, batch=3):
    """The step of a trainer: its batches follow from `Order`, and steps count from 1."""
    add_training(store, run_id, weights)
    run = store.run(run_id)
    train_rows = [(r["part"], r["row"]) for r in rows_of(store, run_id, "pack_fim", "Packed") if r["split"] == "train"]
    num_steps = 11 * len(train_rows) // (2 * batch)
    seen = [train_rows[place] for place in Order(len(train_rows), 7).places(0, num_steps * batch)]
    table = pa.table(
        {
            "step": pa.array([1 + i // batch for i in range(len(seen))], pa.int64()),
            "part": pa.array([part for part, _ in seen], pa.int32()),
            "row": pa.array([row for _, row in seen], pa.int32()),
        }
    )
    batches = Artifact("Batches", (store.put_table("Batches", table, 65_536),))
    run.steps[-1].outputs["Batches"] = {"artifact": store.put_artifact(batches), "counts": batches.counts}
    store.write_run(run)


def rows_of(store, run, step, kind):
    reader, artifact = Rows(store), store.run(run).step(step).outputs[kind]["artifact"]
    return [{"part": part, "row": at, **row} for part, table in reader.tables(artifact, None) for at, row in enumerate(table.to_pylist())]


def event(story, name):
    (found,) = [e for e in story["events"] if e["event"] == name]
    return found


def tokenizer_of(store, run):
    (file,) = (
        p
        for p in store.artifact(store.run(run).step("train_tokenizer").outputs["Tokenizer"]["artifact"]).parts
        if p.name == "tokenizer.json"
    )
    return Tokenizer.from_file(str(store.storage.local(object_name("files", file.hash))))


def sizes_of(store):
    return {d["doc_id"]: len(d["content"].encode()) for d in rows_of(store, "plain", "ingest", "Docs")}


# Sequences


@pytest.mark.parametrize("run", RUNS)
def test_a_sequence_tells_its_contexts_and_its_documents_apart(store, run):
    contexts = {row["doc_id"]: row["context"] for row in rows_of(store, run, "encode", "Tokens")}
    model, most = tokenizer_of(store, run), Counter()
    for packed in rows_of(store, run, "pack_fim", "Packed"):
        found = trace(store, f"{packed['part']}:{packed['row']}", run_id=run)
        who, spans = found["sequence"], found["spans"]
        assert (who["starts"], who["token_type"], who["num_tokens"]) == (packed["starts"], "uint16", len(packed["tokens"]))
        begun, numbers = 0, []
        for span in spans:
            begun += span["token_start"] in packed["starts"]
            assert span["context"] == (None if span["role"] == "pad" else begun)
            assert (span["document"] is None) == (span["role"] == "pad")
            ids = packed["tokens"][span["token_start"] : span["token_end"]]
            if span["byte_start"] is None:
                assert span["text"] == model.decode(ids, skip_special_tokens=False)
                assert span["role"] != "sentinel" or re.fullmatch(r"(<fim_(prefix|middle|suffix)>)+", span["text"])
            if span["document"]:
                numbers.append((span["document"], (span["doc_id"], span["context"])))
        assert len({number for number, _ in numbers}) == len(set(numbers)) == who["num_documents"]
        assert len({document for _, document in numbers}) == who["num_documents"], "what is numbered is a document in a context"
        assert [number for number, _ in numbers] == sorted(number for number, _ in numbers)
        by_context = {(s["context"], contexts[s["doc_id"]]) for s in spans if s["doc_id"]}
        assert len(by_context) == len({context for context, _ in by_context}) == who["num_contexts"], "a context is one repository or file"
        most["documents of a context"] = max(
            most["documents of a context"], *Counter(context for _, (_, context) in set(numbers)).values(), 0
        )
        most["contexts"] = max(most["contexts"], who["num_contexts"])
    assert most["contexts"] > 1
    assert most["documents of a context"] > 1 or run == "plain"


def as_if_packed_otherwise(store, change):
    """The id of a run like `plain` whose sequences were changed."""
    old, parts = store.run("plain"), []
    for _, table in Rows(store).tables(old.step("pack_fim").outputs["Packed"]["artifact"], None):
        parts.append(store.put_table("Packed", change(table), 1024))
    run = deepcopy(old)
    run.id = f"{old.id[:-1]}{'b' if old.id[-1] == 'a' else 'a'}"
    run.step("pack_fim").outputs["Packed"]["artifact"] = store.put_artifact(Artifact("Packed", tuple(parts)))
    run.step("train_model").inputs["packed"]["artifact"] = run.step("pack_fim").outputs["Packed"]["artifact"]
    store.write_run(run)
    return run.id


@pytest.fixture
def aside(store, tmp_path):
    """The store again, to write into."""
    shutil.copytree(store.url, tmp_path / "store", symlinks=True)
    return Store.open(str(tmp_path / "store"))


def test_wide_tokens_are_told_like_narrow_ones(store, aside):
    def widened(table):
        wide = table.column("tokens").cast(pa.list_(pa.uint32()))
        return table.set_column(table.column_names.index("tokens"), "tokens", wide)

    wide = trace(aside, "seq:0:0", run_id=as_if_packed_otherwise(aside, widened))
    narrow = trace(store, "seq:0:0", run_id="plain")
    assert wide["sequence"].pop("token_type") == "uint32" != narrow["sequence"].pop("token_type")
    assert (wide["spans"], wide["sequence"], wide["seen"]) == (narrow["spans"], narrow["sequence"], narrow["seen"])


def say(words, capsys):
    assert main(words) == 0
    return capsys.readouterr().out


def test_a_sequence_is_told_by_word_and_on_a_terminal_by_colour(store, capsys, monkeypatch):
    by_roles = {}
    for packed in rows_of(store, "repositories", "pack_fim", "Packed"):
        spans = trace(store, f"{packed['part']}:{packed['row']}", run_id="repositories")["spans"]
        by_roles[f"{packed['part']}:{packed['row']}"] = [span["role"] for span in spans]
    name = max(by_roles, key=lambda name: len(set(by_roles[name])))
    assert {"prefix", "middle", "suffix", "metadata", "sentinel"} <= set(by_roles[name])
    words = ["trace", f"seq:{name}", "--run", "repositories", "--store", store.url]
    plain = say(words, capsys)
    assert "\x1b" not in plain
    document = json.loads(say([*words, "--json"], capsys))
    lines = [line for line in plain.splitlines() if re.match(r" *\d+-\d+ ", line)]
    assert [re.split(r" {2,}", line.strip())[2] for line in lines] == [s["role"] for s in document["spans"]] == by_roles[name]
    for context, start in enumerate(document["sequence"]["starts"], 1):
        if context <= document["sequence"]["num_contexts"]:
            assert f"── context {context}, from token {start}\n" in plain
    assert f"holds     {document['sequence']['num_documents']} document" in plain
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert say(words, capsys) == plain
    monkeypatch.delenv("NO_COLOR")
    coloured = say(words, capsys)
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    codes = {}
    for line in coloured.splitlines():
        text = re.sub(r"\x1b\[\d+m", "", line)
        if text in lines:
            codes.setdefault(by_roles[name][lines.index(text)], set()).add((re.findall(r"^\x1b\[(\d+)m", line) or [""])[0])
    assert all(len(told) == 1 for told in codes.values())
    assert len({code for told in codes.values() for code in told}) == len(codes), "each role has a colour of its own"


# Documents


@pytest.mark.parametrize("run", RUNS)
def test_every_document_is_told_with_all_its_copies_or_why_it_has_none(store, run):
    spans, sizes, heldout = rows_of(store, run, "pack_fim", "Spans"), sizes_of(store), set()
    weights = {"C": 0.5, "JSON": 0, "Python": 3}
    splits = {(r["part"], r["row"]): r["split"] for r in rows_of(store, run, "pack_fim", "Packed")}
    languages = {d["doc_id"]: d["language"] for d in rows_of(store, run, "ingest", "Docs")}
    fates = Counter()
    for doc_id, size in sizes.items():
        mine = [s for s in spans if s["doc_id"] == doc_id]
        story = trace(store, doc_id, run_id=run)
        assert story["fate"]["kept"]
        if not mine:
            why = story["fate"]["not_packed"]
            assert (why["step"], why["rule"], why["value"]) == ("pack_fim", "mixture", weights[languages[doc_id]])
            assert languages[doc_id] in why["detail"]
            assert not [e for e in story["events"] if e["event"] == "packed"]
            fates[f"left out {languages[doc_id]}"] += 1
            continue
        assert "not_packed" not in story["fate"]
        told = event(story, "packed")
        copies = {s["copy"] for s in mine}
        is_heldout = {splits[s["part"], s["sequence"]] for s in mine} == {"heldout"}
        heldout |= {doc_id} if is_heldout else set()
        weight = weights.get(languages[doc_id], 2)
        assert told["num_copies"] == len(copies) in ({1} if is_heldout else {int(weight), int(weight + 0.5)})
        assert copies == set(range(len(copies)))
        assert told["tokens"] == sum(s["token_end"] - s["token_start"] for s in mine if s["role"] in DOCUMENT_ROLES)
        assert {s["sequence"] for s in told["sequences"]} == {f"{s['part']}:{s['sequence']}" for s in mine}
        by_copy = {}
        for sequence in told["sequences"]:
            at = tuple(map(int, sequence["sequence"].split(":")))
            assert sequence["copies"] == sorted({s["copy"] for s in mine if (s["part"], s["sequence"]) == at})
            for span in sequence["spans"]:
                if span["role"] in DOCUMENT_ROLES:
                    by_copy.setdefault(span["copy"], Counter()).update(range(span["byte_start"], span["byte_end"]))
        assert all(set(held.values()) == {1} for held in by_copy.values()), "no copy holds a byte twice"
        if run != "repositories":  # where packing after packing drops what has no room
            assert all(len(held) == size for held in by_copy.values()), "each copy is whole"
        fates[f"{told['num_copies']} of {languages[doc_id]}"] += 1
    assert heldout
    assert fates["left out JSON"]
    assert fates["left out C"], "a fraction that was not drawn"
    assert fates["1 of C"]
    assert fates["3 of Python"]


def test_copies_are_those_that_packing_took_where_documents_lie_end_to_end(store):
    ended, number = Counter(), {}
    spans = rows_of(store, "plain", "pack_fim", "Spans")
    for at, span in enumerate(spans):
        number[span["part"], span["sequence"], span["token_start"]] = ended[span["doc_id"]]
        ended[span["doc_id"]] += span["role"] == "eod"
        assert at == 0 or (spans[at - 1]["part"], spans[at - 1]["sequence"]) <= (span["part"], span["sequence"])
    for doc_id in {span["doc_id"] for span in spans if span["role"] in DOCUMENT_ROLES}:
        told = event(trace(store, doc_id, run_id="plain"), "packed")
        assert told["num_copies"] == ended[doc_id] > 0
        for sequence in told["sequences"]:
            part, row = map(int, sequence["sequence"].split(":"))
            assert all(span["copy"] == number[part, row, span["token_start"]] for span in sequence["spans"])


def test_words_say_what_is_counted_and_what_was_left_out(store, capsys):
    at = ["--run", "plain", "--store", store.url]
    packed = {span["doc_id"] for span in rows_of(store, "plain", "pack_fim", "Spans")}
    json_file = min(d["doc_id"] for d in rows_of(store, "plain", "ingest", "Docs") if d["language"] == "JSON" and d["doc_id"] not in packed)
    assert "but in no sequence of pack_fim: mixture, not taken: language JSON has weight 0" in say(["trace", json_file, *at], capsys)
    copied = next(
        d
        for d in sorted(sizes_of(store))
        if [e for e in trace(store, d, run_id="plain")["events"] if e.get("num_copies", 0) > 1 and e["tokens"]]
    )
    text = say(["trace", copied, *at], capsys)
    assert re.search(r"tokens? of its text, 3 copies, each counted", text)
    assert "copy 2, " in text, "they count from 0"
    assert "copy 3, " not in text
    assert re.search(r"of their text in [\d,]+ copies, each counted", say(["trace", "checkpoint", *at], capsys))
    assert "in no sequence: trace one" in say(["trace", trace(store, json_file, run_id="plain")["document"]["repo"], *at], capsys)


@pytest.mark.parametrize("run", RUNS)
def test_a_repository_counts_every_copy_and_what_was_left_out(store, run):
    docs, spans = rows_of(store, run, "ingest", "Docs"), rows_of(store, run, "pack_fim", "Spans")
    for repo in sorted({doc["repo"] for doc in docs}):
        mine = {doc["doc_id"] for doc in docs if doc["repo"] == repo}
        (packing,) = trace(store, repo, run_id=run)["training"]
        assert packing["not_packed"] == len(mine - {span["doc_id"] for span in spans})
        assert packing["tokens"] == sum(
            s["token_end"] - s["token_start"] for s in spans if s["doc_id"] in mine and s["role"] in DOCUMENT_ROLES
        )


# Training


@pytest.mark.parametrize("run", RUNS)
def test_what_had_been_seen_by_step_n_is_what_the_first_n_batches_hold(store, run):
    spans, batches = rows_of(store, run, "pack_fim", "Spans"), rows_of(store, run, "train_model", "Batches")
    last, earlier = batches[-1]["step"], set()
    passes = Counter((b["part"], b["row"]) for b in batches)
    assert min(passes.values()) >= 5 < max(passes.values()), "more than five epochs"
    at = {key: Counter(b["step"] for b in batches if (b["part"], b["row"]) == key) for key in passes}
    for n in [*range(6), last // 2, last, last + 10]:
        times = Counter({key: sum(num for step, num in steps.items() if step <= n) for key, steps in at.items()})
        expected = {}
        for span in spans:
            num = times[span["part"], span["sequence"]]
            if num and span["role"] in DOCUMENT_ROLES:
                entry = expected.setdefault(span["doc_id"], {"tokens": 0, "tokens_seen": 0, "copies": set()})
                tokens = span["token_end"] - span["token_start"]
                entry["tokens"] += tokens
                entry["tokens_seen"] += tokens * num
                entry["copies"].add(span["copy"])
        found = trace(store, "checkpoint", run_id=run, until_step=n)
        told = {d["doc_id"]: (d["tokens"], d["tokens_seen"], d["copies"]) for d in found["documents"]}
        assert told == {d: (e["tokens"], e["tokens_seen"], len(e["copies"])) for d, e in expected.items()}
        assert found["num_copies"] == sum(copies for *_, copies in told.values())
        assert earlier <= told.keys(), "what had been seen stays seen"
        earlier = set(told)
    left_out = {d["doc_id"] for d in rows_of(store, run, "ingest", "Docs")} - {span["doc_id"] for span in spans}
    assert left_out
    assert not left_out & earlier


# Splits


def plant_twins(root):
    """Every file of a repository resembles one of the next repository."""
    for r in range(12):
        source = root / f"repo{r}" / "src"
        source.mkdir(parents=True)
        (source.parent / "LICENSE").write_text(MIT)
        for own in (r, (r + 1) % 12):
            (source / f"m{own}.py").write_text(function(f"work{own}", own) + f"\n# of repository {r}\n")
    return root


def splits_of_clusters(store, clustered, run):
    """Of each cluster that `clustered` found, the splits in which `run` packed its members."""
    splits = {(r["part"], r["row"]): r["split"] for r in rows_of(store, run, "pack_fim", "Packed")}
    of_document = {}
    for span in rows_of(store, run, "pack_fim", "Spans"):
        of_document.setdefault(span["doc_id"], set()).add(splits[span["part"], span["sequence"]])
    found = {}
    for member in rows_of(store, clustered, "near_dedup", "Clusters"):
        found.setdefault(member["cluster_id"], set()).update(of_document.get(member["doc_id"], ()))
    return found


def test_no_cluster_of_near_duplicates_straddles_the_splits(tmp_path):
    packing = "{sequence_length: 64, heldout_fraction: 0.5, epochs: 2}"
    stages = f"- near_dedup\n- train_tokenizer: {{vocab_size: 400}}\n- encode\n- pack_fim: {packing}\n"
    recipe = write_recipe(tmp_path / "recipe.yaml", plant_twins(tmp_path / "repositories"), stages)
    store = Store.open(str(tmp_path / "store"))
    store.tag("deduplicated", run_recipe(recipe, tmp_path / "store").id)
    store.tag("as-it-was", run_recipe(recipe, tmp_path / "store", "near_dedup.threshold=1.0").id)
    found = splits_of_clusters(store, "deduplicated", "deduplicated")
    assert len(found) >= 12, "each pair of twins, and perhaps the licences"
    assert all(len(splits) == 1 for splits in found.values())
    assert set().union(*found.values()) == {"train", "heldout"}
    straddling = splits_of_clusters(store, "deduplicated", "as-it-was").values()
    assert any(len(splits) == 2 for splits in straddling), "without near_dedup they would, or this test could not fail"
