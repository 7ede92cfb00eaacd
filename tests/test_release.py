"""The release folder: every number from the inputs, every hash right, the same bytes every time."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import struct

import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from starloom.lineage.errors import InputError
from starloom.model.architecture import Architecture
from starloom.tasks.encode import Encode
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.pack_fim import PackFim
from starloom.tasks.release import ReleaseCards, release
from starloom.tasks.reporting.cards import MAX_CELL_CHARS, Group, cell, group_table, table
from starloom.tasks.schemas import Checkpoint, Docs, Fertility, Losses, Record, Scores, StepRecord, Tokenizer, Validation

pytestmark = pytest.mark.slow

ARCHITECTURE = Architecture(vocab_size=512, context_tokens=128, num_layers=2, num_heads=2, width=16)
ROTARY = Architecture(family="starcoder2", vocab_size=512, context_tokens=16384, num_layers=2, num_heads=4, width=16)
HASH = "ab" * 32


def docs_of(*rows):
    """Documents of (repo, language, licence, size)."""
    table = [
        {"doc_id": f"{i:032x}", "source": "s", "kind": "code", "repo": repo, "path": f"{i}.py", "language": language, "content": "x" * size,
         "size": size, "swhid": "swh:1:cnt:0", "declared_license": declared, "is_vendor": False, "is_generated": False,
         "is_documentation": False}
        for i, (repo, language, declared, size) in enumerate(rows)
    ]  # fmt: skip
    return pa.Table.from_pylist(table, schema=Docs.SCHEMA)


PARTS = [
    docs_of(("a", "Python", "MIT", 1000), ("a", "Python", "MIT", 500), ("b", "C", None, 4000)),
    docs_of(("c|<script>", "Python", "Apache-2.0 | evil\n# heading", 250)),
]
RULES = {"line-length": 1, "alphanumeric": 2}
VERDICTS = {"rows": 9, "seen": 9, "kept": 6, "dropped": 3, "seen_bytes": 9000, "kept_bytes": 7000, "rules": RULES}
STEPS = (
    StepRecord(
        "ingest",
        "ingest",
        {"part_bytes": 1},
        {"Docs": {"artifact": HASH, "counts": {"rows": 9, "text_bytes": 9000}}, "Skipped": {"artifact": HASH, "counts": {"rows": 17}}},
    ),
    StepRecord("quality", "quality_filter", {"max_line_length": 1000}, {"Verdicts": {"artifact": HASH, "counts": VERDICTS}}),
    StepRecord(
        "redact_pii",
        "redact_pii",
        {},
        {"Docs": {"artifact": HASH, "counts": {"rows": 6, "text_bytes": 6990}}, "Redactions": {"artifact": HASH, "counts": {"rows": 1234}}},
    ),
    StepRecord(
        "decontaminate",
        "decontaminate",
        {"benchmarks": [{"name": "HumanEval", "path": {"sha256": HASH}}]},
        {"Verdicts": {"artifact": HASH, "counts": {**VERDICTS, "kept": 4, "dropped": 2, "rules": {"benchmark": 2}, "kept_bytes": 5750}}},
    ),
    StepRecord("pack_fim", "pack_fim", {"heldout_fraction": 0.1, "fim_rate": 0.5}, {}),
    StepRecord("train_model", "train_model", {"num_steps": 3}, {"Checkpoint": {"artifact": HASH, "counts": {"rows": 0}}}),
)
SCORES = [
    {"benchmark": "heldout", "metric": "loss", "value": 3.25, "count": 100, "language": None},
    {"benchmark": "heldout", "metric": "loss", "value": 3.5, "count": 60, "language": "Python"},
    {"benchmark": "own", "metric": "pass@1", "value": 0.125, "count": 8, "language": None},
]


def validation_of(*rows):
    """Measurements of (step, language, loss, tokens)."""
    names = ("step", "language", "loss", "tokens")
    return Validation.of(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=Validation.SCHEMA))


@pytest.fixture
def inputs(tmp_path):
    checkpoint, tokenizer = tmp_path / "checkpoint", tmp_path / "tokenizer"
    for folder in (checkpoint, tokenizer):
        folder.mkdir()
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (checkpoint / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    (checkpoint / "config.json").write_text(json.dumps(ARCHITECTURE.to_checkpoint()))
    (checkpoint / "trainer_state.json").write_text(json.dumps({"sequences": 30, "sequence_tokens": 32}))
    (tokenizer / "tokenizer.json").write_text('{"version": "1.0"}')
    (tokenizer / "tokenizer_config.json").write_text("{}")
    losses = {"step": [1, 2, 3], "tokens": [64, 128, 192], "loss": [6.5, 5.0, 4.25], "learning_rate": [0.1] * 3, "grad_norm": [1.0] * 3}
    losses["skipped"] = [False] * 3
    return {
        "checkpoint": Checkpoint.of(checkpoint),
        "tokenizer": Tokenizer.of(tokenizer),
        "fertility": None,
        "losses": Losses.of(pa.table(losses)),
        "validation": validation_of(),
        "scores": Scores.of(pa.Table.from_pylist(SCORES, schema=Scores.SCHEMA)),
        "docs": Docs.of_parts(PARTS),
        "record": Record("demo", STEPS),
    }


def released(inputs, scratch, **knobs):
    return release.function(**inputs, cfg=ReleaseCards(**knobs), runtime=Runtime.alone(scratch)).path


def front_matter(folder):
    _, text, _ = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(text)


def test_holds_what_is_needed_and_no_more(inputs, tmp_path):
    folder = released(inputs, tmp_path / "scratch")
    names = ["DATA_CARD.md", "MANIFEST.json", "README.md", "config.json", "funnel.png", "loss_curve.png", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]  # fmt: skip  # noqa: E501
    assert sorted(path.name for path in folder.iterdir()) == names
    for name, source in (("model.safetensors", "checkpoint"), ("config.json", "checkpoint"), ("tokenizer.json", "tokenizer")):
        assert (folder / name).read_bytes() == (inputs[source].path / name).read_bytes()


def test_manifest_hashes_every_file_and_names_every_artifact(inputs, tmp_path):
    folder = released(inputs, tmp_path / "scratch")
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    others = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "MANIFEST.json"}
    assert manifest["files"] == {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in others.items()}
    assert (manifest["recipe"], manifest["name"]) == ("demo", "demo")
    assert [(step["name"], step["config"], step["outputs"]) for step in manifest["steps"]] == [(s.name, s.config, s.outputs) for s in STEPS]


def test_bytes_do_not_depend_on_place_order_of_parts_or_leftovers(inputs, tmp_path):
    first = released(inputs, tmp_path / "one")
    (tmp_path / "two" / "release").mkdir(parents=True)
    (tmp_path / "two" / "release" / "left").write_text("by a killed run")
    second = released({**inputs, "docs": Docs.of_parts(PARTS[::-1])}, tmp_path / "two")
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}
    for name in ("README.md", "DATA_CARD.md", "MANIFEST.json"):
        assert str(tmp_path) not in (first / name).read_text()


def test_model_card_has_the_numbers_of_the_inputs(inputs, tmp_path):
    folder = released(inputs, tmp_path / "scratch", name="tiny", license="apache-2.0")
    card = (folder / "README.md").read_text()
    assert f"{ARCHITECTURE.num_parameters:,} parameters" in card
    assert "3 steps, 192 tokens: 0.2 epochs of 30 training sequences. The loss went from 6.500 at the first step to 4.250" in card
    assert "0.1 of its text in bytes was asked to be held out, as whole repositories" in card
    assert "fills in the middle" in card
    assert "`heldout` is text" in card
    assert "at least one of k samples" in card
    assert "`infilling`" not in card, "nothing was infilled, so nothing needs to be explained"
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert r'prompt = "<fim_prefix>def add(a, b):\n<fim_suffix>\n<fim_middle>"' in snippet
    compile(snippet, "card", "exec")
    assert "| heldout | loss | Python | 3.5 | 60 |" in card
    assert "| own | pass@1 | all | 0.125 | 8 |" in card
    assert "4 documents" in card
    assert "recipe demo" in card
    front = front_matter(folder)
    assert (front["license"], front["pipeline_tag"]) == ("apache-2.0", "text-generation")
    assert front["programming_language"] == ["C", "Python"]
    (index,) = front["model-index"]
    assert index["name"] == "tiny"
    assert {(r["dataset"]["name"], m["type"], m["value"]) for r in index["results"] for m in r["metrics"]} == {
        ("heldout", "loss", 3.25),
        ("own", "pass@1", 0.125),
    }


def test_every_file_of_the_weights_is_released_and_the_trainers_notes_are_not(inputs, tmp_path):
    folder = inputs["checkpoint"].path
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"x")
    made = released(inputs, tmp_path / "scratch")
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert {"model-00001-of-00001.safetensors", "model.safetensors.index.json", "adapter/adapter_model.safetensors"} <= names
    assert "trainer_state.json" not in names
    assert set(json.loads((made / "MANIFEST.json").read_text())["files"]) == names - {"MANIFEST.json"}


@pytest.mark.parametrize(
    ("architecture", "rows"),
    [
        (
            ARCHITECTURE,
            ["| GPTBigCode |  |", "| key and value heads | 1 |", "| context in tokens | 128 |", "| positions | learned |"],
        ),
        (
            dataclasses.replace(ROTARY, num_key_value_heads=2, rope_theta=999999.4420358813, sliding_window=4096, tied_head=False),
            [
                "| Starcoder2 |  |",
                "| key and value heads | 2 |",
                "| context in tokens | 16,384 |",
                "| positions | rotary, theta 999,999.44 |",
                "| sliding window in tokens | 4,096 |",
                "| output matrix | one of its own |",
            ],
        ),
        (
            ROTARY,
            ["| positions | rotary, theta 100,000 |", "| sliding window in tokens | none |", "| output matrix | the token embedding |"],
        ),
    ],
)
def test_model_card_describes_the_network_of_either_family(inputs, tmp_path, architecture, rows):
    (inputs["checkpoint"].path / "config.json").write_text(json.dumps(architecture.to_checkpoint()))
    folder = released(inputs, tmp_path / "scratch")
    card = (folder / "README.md").read_text()
    assert [row for row in rows if row not in card] == []
    assert ("sliding window" in card) == (architecture.family == "starcoder2")
    assert front_matter(folder)["tags"] == ["code", architecture.family, "starloom"]


def test_model_card_tells_how_held_out_text_was_learnt(inputs, tmp_path):
    def told(place, *rows, **knobs):
        card = (released({**inputs, "validation": validation_of(*rows)}, tmp_path / place, **knobs) / "README.md").read_text()
        return card.partition("loss_curve.png)")[2].partition("## Evaluation")[0].strip().splitlines()

    assert told("none") == []
    rows = [(step, name, 6 / step + i, 10 * i + 10) for step in (1, 2, 3) for i, name in enumerate((None, "C", "Go"))]
    assert told("many", *rows)[2:] == [
        "| held-out text | at step 1 | at step 3 | tokens |",
        "| --- | ---: | ---: | ---: |",
        "| all languages | 6.000 | 2.000 | 10 |",
        "| Go | 8.000 | 4.000 | 30 |",
        "| C | 7.000 | 3.000 | 20 |",
    ]
    assert told("few", *rows, max_languages=1)[-1].startswith("| Go |"), "most tokens first"
    assert told("once", (3, None, 2.0, 10))[2:] == [
        "| held-out text | at step 3 | tokens |", "| --- | ---: | ---: |", "| all languages | 2.000 | 10 |",
    ]  # fmt: skip


def test_model_card_says_with_which_weights_it_began(inputs, tmp_path):
    def card(place, *steps):
        return released({**inputs, "record": Record("demo", (*STEPS[:-1], *steps))}, tmp_path / place)

    wrote = {"Checkpoint": {"artifact": HASH, "counts": {"rows": 0}}}
    taken = StepRecord("import_checkpoint", "import_checkpoint", {"checkpoint": "bigcode/starcoder2-3b@" + "0" * 40}, wrote)
    tuned = StepRecord("tuned", "train_model", {"num_steps": 2000, "lora": {"rank": 8}}, wrote)
    folder = card("hub", taken, STEPS[-1], tuned)
    told = (folder / "README.md").read_text()
    assert f"- `import_checkpoint` took bigcode/starcoder2-3b at commit {'0' * 40}\n- `train_model` trained for 3 steps\n" in told
    assert "`starloom trace checkpoint` names the documents that the trainings above saw, `starloom trace checkpoint:STEP`" in told
    assert "- `tuned` trained a low-rank adaptation (LoRA, rank 8) for 2,000 steps" in told
    assert front_matter(folder)["base_model"] == ["bigcode/starcoder2-3b"]
    local = StepRecord("theirs", "import_checkpoint", {"checkpoint": {"config.json": {"sha256": HASH}}}, wrote)
    folder = card("disk", local, STEPS[-1])
    assert "- `theirs` took a checkpoint made elsewhere, named in MANIFEST.json" in (folder / "README.md").read_text()
    assert "base_model" not in front_matter(folder)
    alone = card("alone", STEPS[-1])
    assert "wrote weights" not in (alone / "README.md").read_text()
    assert "`starloom trace checkpoint` names the documents" in (alone / "README.md").read_text()


def test_model_card_says_how_many_steps_were_left_out(inputs, tmp_path):
    assert "left the weights as they were" not in (released(inputs, tmp_path / "none") / "README.md").read_text()
    table = inputs["losses"].read()
    skipped = Losses.of(table.set_column(table.schema.get_field_index("skipped"), "skipped", pa.array([False, True, False])))
    card = (released({**inputs, "losses": skipped}, tmp_path / "one") / "README.md").read_text()
    assert "1 of the steps left the weights as they were" in card


def test_model_card_claims_nothing_that_packing_did_not_do(inputs, tmp_path):
    steps = (StepRecord("pack_fim", "pack_fim", {"heldout_fraction": 0.0, "fim_rate": 0.0}, {}),)
    card = (released({**inputs, "record": Record("demo", steps)}, tmp_path / "scratch") / "README.md").read_text()
    assert "in the middle" not in card
    assert "fim_prefix" not in card
    assert "held out" not in card


def test_model_card_says_how_documents_became_sequences(inputs, tmp_path):
    def told(place, template, **knobs):
        packed = PackFim(**knobs).identity()
        steps = (StepRecord("encode", "encode", Encode(template=template).identity(), {}), StepRecord("pack", "pack_fim", packed, {}))
        card = (released({**inputs, "record": Record("demo", steps)}, tmp_path / place) / "README.md").read_text()
        return [line for line in card.partition("How documents became sequences:")[2].partition("## Limits")[0].splitlines() if line]

    mixture = {"by": "language", "weights": {"Python": 0.5, "C": 2.25}}
    knobs = {"packing": "best_fit", "epochs": 3, "mixture": mixture, "fim_level": "context", "fim_rate": 0.9, "fim_kinds": ()}
    assert told("many", "starcoder2", **knobs) == [
        "- template: starcoder2, at the published rate",
        "- sequences: 2,048 tokens each, contexts kept whole where they fit (best fit)",
        "- epochs: each document 3 times, each time with other draws; those held out once",
        "- mixture: copies in an epoch by language: C 2.25, Python 0.5; the others 1",
        "- fill-in-the-middle: at a rate of 0.9, of what lies in a sequence, after packing; suffix first (SPM) in 0.5 of them",
        "- of each file, where `<file_sep>` parts them: 0.5",
    ]
    assert told("few", "none", fim_rate=0) == [
        "- template: none",
        "- sequences: 2,048 tokens each, contexts laid end to end and cut",
        "- epochs: each document once",
        "- mixture: no weights: every document as often",
    ]


def fertility_of(*rows):
    """Measurements of (language, corpus bytes, bytes, tokens, held out, tokens of the reference)."""
    names = ("language", "corpus_bytes", "bytes", "tokens", "is_heldout", "reference_tokens")
    table = [dict(zip(names, row, strict=True)) for row in rows]
    for row in table:
        row |= {"documents": 1, "bytes_per_token": row["bytes"] / row["tokens"]}
        row["reference_bytes_per_token"] = row["reference_tokens"] and row["bytes"] / row["reference_tokens"]
    return Fertility.of(pa.Table.from_pylist(table, Fertility.SCHEMA))


def test_model_card_tells_and_draws_what_a_token_holds(inputs, tmp_path):
    rows = [(None, 6000, 3500, 1000, False, 1250), ("Go", 1000, 500, 250, True, 200), ("C", 5000, 3000, 750, False, 1050)]
    folder = released({**inputs, "fertility": fertility_of(*rows)}, tmp_path / "1")
    card = (folder / "README.md").read_text()
    assert "A token holds 3.50 bytes of the corpus" in card
    assert "| all languages | 3.5 kB | 3.500 | 2.800 | +25.0% |" in card
    assert "| Go | 500 B | 2.000 | 2.500 | -20.0% |" in card
    assert card.index("| C (learnt from) |") < card.index("| Go |"), "most text first"
    assert "![bytes per token by language](fertility.png)" in card
    assert (folder / "fertility.png").read_bytes().startswith(b"\x89PNG")
    few = released({**inputs, "fertility": fertility_of(*rows)}, tmp_path / "2", max_languages=1)
    assert "| Go |" not in (few / "README.md").read_text()
    alone = fertility_of(*((*row[:5], None) for row in rows))
    plain = (released({**inputs, "fertility": alone}, tmp_path / "3") / "README.md").read_text()
    assert "| Go | 500 B | 2.000 |\n" in plain
    assert "reference" not in plain


def test_model_card_says_nothing_of_tokens_that_nobody_measured(inputs, tmp_path):
    for fertility in (None, fertility_of()):
        folder = released({**inputs, "fertility": fertility}, tmp_path / str(fertility is None))
        assert "## Tokenizer" not in (folder / "README.md").read_text()
        assert not (folder / "fertility.png").exists()


def test_data_card_has_the_numbers_of_the_inputs(inputs, tmp_path):
    card = (released(inputs, tmp_path / "scratch") / "DATA_CARD.md").read_text()
    assert "4 documents, 5.8 kB of text, from 3 repositories." in card
    for row in (
        "| ingest | 9 | 0 |  | 9.0 kB |  |",
        "| quality | 6 | 3 | 33.3% | 7.0 kB | -2,000 B |",
        "| redact_pii | 6 | 0 |  | 7.0 kB | -10 B |",
        "| quality | alphanumeric | 2 |",
        "| quality | line-length | 1 |",
        "| decontaminate | benchmark | 2 |",
        "| C | 1 | 4.0 kB | 69.6% |",
        "| Python | 3 | 1.8 kB | 30.4% |",
        "| MIT | 2 | 1.5 kB | 26.1% |",
        "| (none) | 1 | 4.0 kB | 69.6% |",
        "| b | 1 | 4.0 kB | 69.6% |",
        "| a | 2 | 1.5 kB | 26.1% |",
    ):
        assert row in card
    assert "17 files" in card
    assert "replaced 1,234 occurrences" in card
    assert "dropped 2 documents that hold a passage of a benchmark (HumanEval)" in card
    assert card.index("| b | 1") < card.index("| a | 2")
    assert "<script>" not in card
    assert "\n# heading" not in card


def test_long_lists_end_in_one_row(inputs, tmp_path):
    card = (released(inputs, tmp_path / "scratch", max_repositories=1, max_licenses=0) / "DATA_CARD.md").read_text()
    assert "| 2 others | 3 | 1.8 kB | 30.4% |" in card
    assert "| 3 others | 4 | 5.8 kB | 100.0% |" in card


def test_of_nothing(inputs, tmp_path):
    nothing = {"docs": Docs.of(Docs.SCHEMA.empty_table()), "losses": Losses.of(Losses.SCHEMA.empty_table()),
               "scores": Scores.of(Scores.SCHEMA.empty_table()), "record": Record("alone", ())}  # fmt: skip
    folder = released({**inputs, **nothing}, tmp_path / "scratch")
    assert "Nothing was measured." in (folder / "README.md").read_text()
    assert not re.search(r"\bnan\b", (folder / "README.md").read_text())
    assert "No step looked for benchmarks." in (folder / "DATA_CARD.md").read_text()
    assert front_matter(folder)["model-index"] == [{"name": "alone", "results": []}]


def test_refuses_a_checkpoint_without_weights(inputs, tmp_path):
    (inputs["checkpoint"].path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors in checkpoint"):
        released(inputs, tmp_path / "scratch")


def test_refuses_a_checkpoint_that_was_not_trained_here(inputs, tmp_path):
    (inputs["checkpoint"].path / "trainer_state.json").unlink()
    with pytest.raises(InputError, match=r"no trainer_state\.json in checkpoint") as told:
        released(inputs, tmp_path / "scratch")
    assert "from: {checkpoint: train_model}" in str(told.value.hint)


def test_refuses_two_files_of_one_name(inputs, tmp_path):
    (inputs["tokenizer"].path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"have a file config\.json"):
        released(inputs, tmp_path / "scratch")


@given(st.text())
def test_a_cell_is_one_line_that_ends_no_cell_and_starts_no_tag(text):
    told = cell(text)
    assert not re.search(r"[\r\n<>]", told)
    assert not re.search(r"(?<!\\)(\\\\)*\|", told)
    assert len(re.sub(r"\\(.)|&\w+;", "x", told)) <= MAX_CELL_CHARS
    assert told.isprintable()


def test_a_cell_of_plain_text_is_itself():
    assert cell("near_dedup 3.1 (MIT)") == "near_dedup 3.1 (MIT)"
    assert cell("__init__ *a*") == r"\_\_init\_\_ \*a\*"


def test_a_table_has_its_columns():
    assert table(("a", "#b"), [("x", 1)]) == "| a | b |\n| --- | ---: |\n| x | 1 |"
    with pytest.raises(AssertionError):
        table(("a", "b"), [("x",)])


def test_group_table_of_all_has_no_rest():
    assert "others" not in group_table("x", [Group("a", 1, 1)], 1, 1)
