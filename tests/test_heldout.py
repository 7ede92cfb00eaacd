"""What `pack_fim` holds out of a corpus, and who says so: the run, the plan, the record."""

import hashlib

import pyarrow as pa
import pytest
from tokenizers import pre_tokenizers, trainers

from starloom.cli import plan as plan_verb
from starloom.cli.run import describe
from starloom.flows.run import Request, prepare
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.kernels.tokens.byte_level import untrained
from starloom.tasks.kernels.tokens.special_tokens import STARCODER
from starloom.tasks.pack_fim import HoldingOut, PackFim, held_out
from starloom.tasks.schemas import Tokenizer, Tokens
from tests.corpus import make_repositories, run_recipe, write_recipe
from tests.packing import pack_parts

STAGES = """- train_tokenizer: {vocab_size: 300}
- encode
- pack_fim: {sequence_length: 64, heldout_fraction: 0.2}
"""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A vocabulary of bytes: a document of n letters is n bytes."""
    model = untrained()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model.train_from_iterator([], trainers.BpeTrainer(special_tokens=list(STARCODER), initial_alphabet=alphabet, show_progress=False))
    folder = tmp_path_factory.mktemp("tokenizer")
    model.save(str(folder / "tokenizer.json"))
    return Tokenizer.of(folder)


def corpus(*parts, context=None):
    """Parts of Tokens from {repository: sizes of its files}."""
    tables = []
    for part in parts:
        rows = []
        for repo, sizes in part.items():
            for i, size in enumerate(sizes):
                doc_id = hashlib.md5(f"{repo} {i}".encode()).hexdigest()
                rows.append(
                    {"doc_id": doc_id, "source": "s", "repo": repo, "language": "Python", "kind": "code",
                     "context": context or doc_id, "metadata": [], "tokens": [100] * size}
                )  # fmt: skip
        tables.append(pa.Table.from_pylist(rows, schema=Tokens.SCHEMA))
    return Tokens.of_parts(tables)


def chosen(tokens, tokenizer, tmp_path, share, seed=0):
    runtime = Runtime.alone(tmp_path / "scratch")
    heldout = held_out.function(tokens, tokenizer, HoldingOut(heldout_fraction=share, seed=seed), runtime)
    assert len(heldout.parts) == len(tokens.parts)
    return heldout.read().to_pylist(), runtime.notes


def test_ten_repositories_two_giants(tokenizer, tmp_path):
    sizes = {"g1": [400, 30], "g2": [440], "a": [30], "b": [20], "c": [20], "d": [15], "e": [8, 7], "f": [10], "h": [10], "i": [10]}
    for seed in range(5):
        rows, notes = chosen(corpus(dict(list(sizes.items())[:4]), dict(list(sizes.items())[4:])), tokenizer, tmp_path, 0.1, seed)
        facts = notes["held_out"]
        assert not {"g1", "g2"} & {row["repo"] for row in rows}
        assert 0.075 <= facts["share"] <= 0.125
        assert facts["bytes"] == sum(row["num_bytes"] for row in rows) == sum(sum(sizes[name]) for name in facts["names"])
        assert (facts["by"], facts["of_bytes"], facts["repositories"]) == ("repository", 1000, len(facts["names"]))
        assert f"held out: {facts['repositories']} of 10 repositories" in notes["told"]
        assert f"{facts['bytes']} bytes, {facts['share']:.3g} of the text (asked for: 0.1)" in notes["told"]


def test_one_of_two_repositories_where_it_is_small_enough(tokenizer, tmp_path):
    rows, notes = chosen(corpus({"big": [85], "small": [10, 5]}), tokenizer, tmp_path, 0.1)
    assert {row["repo"] for row in rows} == {"small"}
    assert notes["held_out"]["share"] == 0.15


@pytest.mark.parametrize("repositories", [{"only": [10] * 10}, {"one": [10] * 5, "two": [10] * 5}])
def test_files_where_no_repository_is_small_enough(tokenizer, tmp_path, repositories):
    rows, notes = chosen(corpus(repositories), tokenizer, tmp_path, 0.2)
    assert (len(rows), notes["held_out"]["by"], notes["held_out"]["share"]) == (2, "file", 0.2)
    assert notes["told"].startswith("held out: 2 of 10 files")


@pytest.mark.parametrize(
    ("repositories", "share", "why"),
    [
        ({"only": [100]}, 0.5, "it is one file"),
        ({"a": [40, 10], "b": [50]}, 0.02, "the smallest file, 10 bytes, is over twice the share"),
        ({"a": [0], "b": [0]}, 0.5, "there is no text"),
        ({}, 0.5, "there is no text"),
        ({"a": [10], "b": [10]}, 0, "heldout_fraction is 0"),
    ],
)
def test_where_nothing_can_be_held_out_it_says_so(tokenizer, tmp_path, repositories, share, why):
    rows, notes = chosen(corpus(repositories), tokenizer, tmp_path, share)
    assert rows == []
    assert notes["told"].startswith("nothing is held out")
    assert why in notes["told"]


def test_a_context_of_which_files_are_held_out_is_in_both_splits_each_with_its_own(tokenizer, tmp_path):
    runtime = Runtime.alone(tmp_path / "scratch")
    tokens = corpus({"only": [7] * 10}, context="only")
    ((packed, spans),) = pack_parts(tokens, tokenizer, PackFim(sequence_length=16, heldout_fraction=0.3, fim_rate=0), runtime)
    splits = packed.read().column("split").to_pylist()
    table = spans.read().to_pylist()
    found = {s: {span["doc_id"] for span in table if span["doc_id"] and splits[span["sequence"]] == s} for s in ("train", "heldout")}
    assert (len(found["train"]), len(found["heldout"])) == (7, 3)
    assert not found["train"] & found["heldout"]
    ends = [splits[span["sequence"]] for span in table if span["role"] == "eod"]
    assert sorted(ends) == ["heldout", "train"], "each half ends once"


@pytest.mark.slow
def test_a_run_and_the_plan_after_it_say_what_is_held_out(tmp_path):
    repositories = make_repositories(tmp_path / "repositories", num_repos=10, files=1)
    recipe, store = write_recipe(tmp_path / "r.yaml", repositories, STAGES), tmp_path / "s"
    run = run_recipe(recipe, store)
    step = run.step("pack_fim.held_out")
    told = step.notes["told"]
    assert told.startswith("held out: 2 of 10 repositories (repo")
    assert step.notes["held_out"]["share"] == pytest.approx(0.2, abs=0.01)
    assert told in describe(step, None)
    prepared = prepare(Request(str(recipe), store=str(store)))
    assert told in plan_verb.as_text(prepared)
    steps = prepared.to_json()["steps"]
    assert [step["told"] for step in steps if step["step"] == "pack_fim.held_out"] == [told]
    # A new repository packs again only its part and those of which something else is held out.
    new = make_repositories(tmp_path / "more", num_repos=1, files=1)
    (new / "repo0").rename(repositories / "another")
    after = run_recipe(recipe, store)
    packing = after.step("pack_fim")
    assert 1 <= packing.num_actions - packing.num_cached <= 3, "itself, and perhaps one in the place of another"
