"""A checkpoint that is taken, not trained: byte for byte, named by its content, refused if no network of ours could hold it."""

from __future__ import annotations

import http.server
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import tokenizers
import transformers
from pydantic import ValidationError
from tokenizers import pre_tokenizers, trainers

from starloom.cli import main
from starloom.flows.recipe import load
from starloom.flows.run import Request, prepare
from starloom.lineage import keys
from starloom.lineage.errors import ConfigError, InputError
from starloom.lineage.store import Store
from starloom.queries.export import resolve
from starloom.queries.tracing import trace
from starloom.tasks.common import devices
from starloom.tasks.common.checkpoints import first_difference
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.frame.step import Ref
from starloom.tasks.frame.work import opened_ref
from starloom.tasks.import_checkpoint import ImportCheckpoint, import_checkpoint
from starloom.tasks.kernels.tokens.byte_level import untrained
from starloom.tasks.kernels.tokens.special_tokens import STARCODER
from tests.corpus import hashes, make_repositories, run_recipe, write_recipe
from tests.hub import answer_of, serving

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAMED = f"org/name@{COMMIT}"
VOCABULARY = 400
CONFIGS = {
    "gpt_bigcode": transformers.GPTBigCodeConfig(vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=1, n_head=2),
    "starcoder2": transformers.Starcoder2Config(
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        hidden_size=16,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=32,
        tie_word_embeddings=True,
    ),
    "llama": transformers.LlamaConfig(
        vocab_size=10, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1
    ),
}
SHARDED = "8KB"


def write_tokenizer(path: Path, text: str) -> None:
    """A byte-level tokenizer of at most VOCABULARY tokens that learnt from `text`."""
    model, alphabet = untrained(), sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(STARCODER), initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator([text], trainer)
    model.save(str(path))


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict[str, Path]:
    """Name → a folder as transformers saves it: each kind whole, one also in several files."""
    root = tmp_path_factory.mktemp("published")
    for name, config in CONFIGS.items():
        transformers.set_seed(0)
        network = transformers.AutoModelForCausalLM.from_config(config)
        network.save_pretrained(root / name)
        if name == "starcoder2":
            network.save_pretrained(root / "sharded", max_shard_size=SHARDED)
    (root / "sharded" / "pytorch_model.bin").write_bytes(b"can run code")
    write_tokenizer(root / "sharded" / "tokenizer.json", "def value_of(item): return compute(alpha, beta)")
    return {folder.name: folder for folder in root.iterdir()}


def taken(checkpoint, scratch):
    runtime = Runtime.alone(scratch)
    return import_checkpoint.function(ImportCheckpoint(checkpoint=str(checkpoint)), runtime), runtime


def copied(folder: Path, to: Path) -> Path:
    to.mkdir(parents=True)
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


@pytest.mark.parametrize("name", ["gpt_bigcode", "starcoder2", "sharded"])
def test_it_takes_config_weights_and_tokenizer_byte_for_byte_and_nothing_else(published, name, tmp_path):
    checkpoint, runtime = taken(published[name], tmp_path / "s")
    there = [path.name for path in published[name].iterdir()]
    wanted = sorted(file for file in there if file in ("config.json", "tokenizer.json") or ".safetensors" in file)
    assert checkpoint.names() == wanted
    assert len(wanted) < len(there), "generation_config.json is nothing that we read"
    assert (len(wanted) > 3) == (name == "sharded")
    for file in wanted:
        assert (checkpoint.path / file).read_bytes() == (published[name] / file).read_bytes()
    assert (runtime.notes["family"], runtime.notes["parameters"] > 7000) == (name.replace("sharded", "starcoder2"), True)


def test_the_same_files_elsewhere_are_the_same_checkpoint(published, tmp_path):
    folder = published["sharded"]
    identity = ImportCheckpoint(checkpoint=str(folder)).identity()
    files = [path for path in folder.iterdir() if path.name in ("config.json", "tokenizer.json") or ".safetensors" in path.name]
    assert identity == {"checkpoint": {path.name: {"sha256": keys.file_digest(path)} for path in files}}
    copy = copied(folder, tmp_path / "copy")
    (copy / "generation_config.json").unlink()
    relative = ImportCheckpoint.model_validate({"checkpoint": "copy"}, context={"folder": str(tmp_path)})
    assert relative.checkpoint == str(copy), "a recipe's paths start at its folder"
    assert relative.identity() == identity
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert relative.identity() != identity


def test_a_commit_is_an_identity_by_itself():
    assert ImportCheckpoint(checkpoint=NAMED).identity() == {"checkpoint": NAMED}


@pytest.mark.parametrize("revision", ["main", COMMIT[:12], ""])
def test_a_revision_that_may_come_to_mean_something_else_is_refused(revision):
    with pytest.raises(ValidationError, match="tags can move"):
        ImportCheckpoint(checkpoint=f"org/name@{revision}")


@pytest.mark.parametrize("name", ["bigcode/starcoder2-3b", "./org/name@main"])
def test_a_path_that_leads_nowhere_says_how_a_checkpoint_of_the_hub_is_named(name, tmp_path):
    with pytest.raises(ValidationError, match="org/name@commit"):
        ImportCheckpoint.model_validate({"checkpoint": name}, context={"folder": str(tmp_path)})


def test_another_kind_of_network_is_refused_by_its_name(published, tmp_path):
    with pytest.raises(InputError, match="model_type is 'llama'; this network can be gpt_bigcode or starcoder2"):
        taken(published["llama"], tmp_path / "s")


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", r"neither model\.safetensors nor .*pytorch_model\.bin"),
        ("model-00002-of-", r"has no model-00002-of-\d+\.safetensors; fetch the whole folder"),
    ],
)
def test_a_folder_that_lacks_something_is_refused_before_anything_runs(published, lost, told, tmp_path):
    folder = copied(published["sharded" if "-" in lost else "starcoder2"], tmp_path / "copy")
    next(path for path in folder.iterdir() if path.name.startswith(lost)).unlink()
    with pytest.raises(ValidationError, match=told):
        ImportCheckpoint(checkpoint=str(folder))


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": 3}', "version https://git-lfs.github.com/spec/v1\n"])
def test_an_index_that_is_none_is_refused(published, content, tmp_path):
    folder = copied(published["sharded"], tmp_path / "copy")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValidationError, match="is not an index of weights"):
        ImportCheckpoint(checkpoint=str(folder))


def test_an_index_leads_to_no_file_outside_of_its_folder(published, tmp_path):
    folder = copied(published["sharded"], tmp_path / "copy")
    (tmp_path / "other.safetensors").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(ValidationError, match="has no ../other.safetensors"):
        ImportCheckpoint(checkpoint=str(folder))


@pytest.mark.parametrize(
    "content", [lambda whole: whole[:-1], lambda whole: b"version https://git-lfs.github.com/spec/v1\n", lambda _: b""]
)
def test_weights_that_are_cut_short_are_refused(published, content, tmp_path):
    folder = copied(published["gpt_bigcode"], tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(content((folder / "model.safetensors").read_bytes()))
    with pytest.raises(InputError, match=r"model\.safetensors is not a complete safetensors file .* Git LFS"):
        taken(folder, tmp_path / "s")


def test_weights_that_are_not_where_the_index_says_are_refused(published, tmp_path):
    folder = copied(published["sharded"], tmp_path / "copy")
    index = folder / "model.safetensors.index.json"
    where = json.loads(index.read_text())
    files = sorted(set(where["weight_map"].values()))
    name = next(name for name, file in where["weight_map"].items() if file == files[0])
    where["weight_map"][name] = files[1]
    index.write_text(json.dumps(where))
    with pytest.raises(InputError, match=f"lists {name} in {files[1]}, but it is not there"):
        taken(folder, tmp_path / "s")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("{", "its config.json is not JSON"),
        ("[1]", "its config.json is not a mapping"),
        ({"n_embd": "16"}, "a value in its config.json is of the wrong type .*'str'"),
        ({"n_embd": None}, "a value in its config.json is of the wrong type .*width"),
    ],
)
def test_a_config_that_is_none_is_refused_in_words(published, config, told, tmp_path):
    folder = copied(published["gpt_bigcode"], tmp_path / "copy")
    path = folder / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(InputError, match=told):
        taken(folder, tmp_path / "s")


@pytest.mark.parametrize("change", [{"n_layer": 2}, {"n_embd": 8}])
def test_weights_of_another_network_than_the_config_s_are_refused(published, change, tmp_path):
    folder = copied(published["gpt_bigcode"], tmp_path / "copy")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"describes [\d,]+ parameters, and its weights are [\d,]+; they belong to two networks"):
        taken(folder, tmp_path / "s")


def test_tensors_that_are_no_parameters_do_not_count(published, tmp_path):
    folder = copied(published["gpt_bigcode"], tmp_path / "copy")
    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    weights |= {"lm_head.weight": weights["transformer.wte.weight"], "transformer.h.0.attn.bias": np.ones((64, 64), np.uint8)}
    safetensors.numpy.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert taken(folder, tmp_path / "s")[1].notes["tensors"] == len(weights)


def test_what_a_killed_run_left_is_no_part_of_it(published, tmp_path):
    (tmp_path / "s" / "checkpoint").mkdir(parents=True)
    (tmp_path / "s" / "checkpoint" / "model-00001-of-00009.safetensors").write_text("old")
    checkpoint, _ = taken(published["starcoder2"], tmp_path / "s")
    assert checkpoint.names() == ["config.json", "model.safetensors"]


# The Hub: the real client, in a process of its own (it reads the environment when it is imported), against a server of this test.

SCRIPT = f"""
import sys
from pathlib import Path
from starloom.lineage.errors import InputError
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.import_checkpoint import ImportCheckpoint, import_checkpoint
try:
    checkpoint = import_checkpoint.function(ImportCheckpoint(checkpoint="{NAMED}"), Runtime.alone(Path(sys.argv[1])))
    print(checkpoint.path)
except InputError as error:
    print("refused:", error)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as a download asks for: the files of one folder."""

    folder = Path()

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        start, _, name = self.path.rpartition("/")
        file = self.folder / name
        is_there = start == f"/org/name/resolve/{COMMIT}" and file.is_file()
        content = file.read_bytes() if is_there else b""
        told = {"ETag": f'"{keys.digest(name)[:32]}"'} if is_there else {"X-Error-Code": "EntryNotFound"}
        self.send_response(200 if is_there else 404)
        for header, value in {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT, **told}.items():
            self.send_header(header, value)
        self.end_headers()
        return content

    def log_message(self, *words): ...


@pytest.fixture
def hub():
    with serving(Hub) as server:
        yield server


def asked(tmp_path, endpoint: str, **more: str) -> str:
    return answer_of(SCRIPT, tmp_path, endpoint, **more)


@pytest.mark.parametrize("name", ["gpt_bigcode", "sharded"])
def test_it_comes_from_the_hub_once_and_then_without_it(published, name, tmp_path, hub):
    hub.RequestHandlerClass.folder = published[name]
    first = Path(asked(tmp_path, f"http://127.0.0.1:{hub.server_port}"))
    taken_files = {path.name: path.read_bytes() for path in first.iterdir()}
    assert taken_files == {file: (published[name] / file).read_bytes() for file in taken_files}
    assert "config.json" in taken_files
    assert "pytorch_model.bin" not in taken_files
    assert asked(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1") == str(first), "what the commit has, and has not, is remembered"


def test_a_repository_without_safetensors_is_refused_with_what_to_do(published, tmp_path, hub):
    hub.RequestHandlerClass.folder = tmp_path / "theirs"
    hub.RequestHandlerClass.folder.mkdir()
    (tmp_path / "theirs" / "config.json").write_bytes((published["gpt_bigcode"] / "config.json").read_bytes())
    told = asked(tmp_path, f"http://127.0.0.1:{hub.server_port}")
    assert told.startswith("refused:")
    assert "neither model.safetensors nor" in told
    assert "save_pretrained" in told


def test_a_hub_out_of_reach_is_said_with_what_to_do(tmp_path):
    told = asked(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert "cannot be reached" in told
    assert "give that folder as import_checkpoint.checkpoint" in told


def test_the_stage_alone_reads_nothing(published, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["stage", "import_checkpoint", str(out), "--checkpoint", str(published["gpt_bigcode"]), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["files"]) == {"checkpoint/config.json", "checkpoint/model.safetensors"}
    assert not (out / "checkpoint" / "model.safetensors").is_symlink()


# In a recipe

STAGES = """
- train_tokenizer: {existing: WHERE}
- encode
- pack_fim: {sequence_length: 64, heldout_fraction: 0.3}
- import_checkpoint: {checkpoint: WHERE}
- train_model: {preset: finetune, num_steps: 3, batch_sequences: 2, warmup_steps: 1, threads: 1, validate_every_steps: 3}
- train_model: {preset: finetune, num_steps: 2, batch_sequences: 2, warmup_steps: 1, threads: 1}
  as: annealed
- evaluate: {benchmarks: [], threads: 1, max_sequences: 4, max_infills: 1, infill_max_new_tokens: 4}
- evaluate: {benchmarks: [], threads: 1, max_sequences: 4, max_infills: 0}
  as: before
  from: {checkpoint: import_checkpoint}
- release: {max_repositories: 3}
  from: {scores: evaluate}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory, published):
    """A run that begins with a checkpoint of the disk."""
    folder = tmp_path_factory.mktemp("run")
    stages = STAGES.replace("WHERE", str(published["sharded"]))
    recipe = write_recipe(folder / "r.yaml", make_repositories(folder / "repositories"), stages)
    return run_recipe(recipe, folder / "s"), recipe, Store.open(str(folder / "s"))


def test_a_training_goes_on_from_it_and_the_next_from_that_one(done):
    run, _, _ = done
    made = {name: outputs.get("Checkpoint") for name, outputs in hashes(run).items()}
    assert len({made["import_checkpoint"], made["train_model"], made["annealed"]}) == 3
    took = {name: run.step(name).inputs["initial"]["artifact"] for name in ("train_model", "annealed")}
    assert took == {"train_model": made["import_checkpoint"], "annealed": made["train_model"]}
    assert run.step("before").inputs["checkpoint"]["artifact"] == made["import_checkpoint"]


def test_of_what_a_training_left_the_checkpoint_comes_first(done):
    run, _, store = done
    assert resolve(store, f"{run.id}/train_model").artifact == run.step("train_model").outputs["Checkpoint"]["artifact"]
    assert resolve(store, f"{run.id}/train_model/losses").type == "Losses"


def written(store, step, kind) -> Any:
    return opened_ref(store, Ref(kind, step.outputs[kind]["artifact"]))


def test_what_was_learnt_shows_in_what_is_measured(done):
    run, _, store = done
    losses = {}
    for name in ("before", "evaluate"):
        view = written(store, run.step(name), "Scores")
        rows = view.read().to_pylist()
        losses[name] = next(row["value"] for row in rows if (row["metric"], row["language"]) == ("loss", None))
    assert losses["evaluate"] < losses["before"]
    validation = written(store, run.step("train_model"), "Validation").read()
    assert {(row["step"], row["language"]) for row in validation.to_pylist()} == {(3, None), (3, "Python"), (3, "Text")}


def test_the_release_says_where_its_weights_began(done, published):
    run, _, store = done
    folder = store.folder(store.artifact(run.step("release").outputs["Release"]["artifact"]))
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    (step,) = [step for step in manifest["steps"] if step["stage"] == "import_checkpoint"]
    assert step["outputs"]["Checkpoint"]["artifact"] == hashes(run)["import_checkpoint"]["Checkpoint"]
    assert step["config"]["checkpoint"]["config.json"] == {"sha256": keys.file_digest(published["sharded"] / "config.json")}
    card = (folder / "README.md").read_text()
    assert "- `import_checkpoint` took a checkpoint made elsewhere" in card
    assert "- `train_model` trained for 3 steps" in card
    assert str(published["sharded"]) not in card + (folder / "MANIFEST.json").read_text()


def test_a_trace_says_what_a_checkpoint_went_on_from(done, capsys):
    run, _, store = done
    folder = str(store.url).removeprefix("file://")
    made = {name: outputs.get("Checkpoint", "") for name, outputs in hashes(run).items()}
    for name, before, told in (
        ("annealed", "train_model", " of train_model, 3 steps: what that saw is counted here too"),
        ("annealed", "import_checkpoint", ", made elsewhere: its training data is unknown here"),
        ("train_model", "import_checkpoint", ", made elsewhere: its training data is unknown here"),
    ):
        assert main(["trace", f"checkpoint:{name}", "--store", folder]) == 0
        assert f"continued from {made[before][:12]}{told}" in capsys.readouterr().out


def test_a_trace_adds_up_the_trainings_that_a_checkpoint_went_through(done):
    run, _, store = done
    batches = {name: written(store, run.step(name), "Batches").read().to_pylist() for name in ("train_model", "annealed")}
    spans = [part.read().to_pylist() for part in written(store, run.step("pack_fim"), "Spans").parts]
    expected = {}
    for training in ("train_model", "annealed"):
        for batch in batches[training]:
            for span in spans[batch["part"]]:
                if span["sequence"] == batch["row"] and span["byte_start"] is not None:
                    seen = expected.setdefault(span["doc_id"], {"tokens_seen": 0, "at": [], "sequences": set()})
                    seen["tokens_seen"] += span["token_end"] - span["token_start"]
                    seen["at"].append((training, batch["step"]))
                    seen["sequences"].add((batch["part"], batch["row"]))
    found = trace(store, "checkpoint")
    assert [each["step"] for each in found["checkpoint"]["trainings"]] == ["train_model", "annealed"]
    assert {row["doc_id"] for row in found["documents"]} == set(expected)
    for row in found["documents"]:
        seen = expected[row["doc_id"]]
        assert (row["tokens_seen"], row["sequences"]) == (seen["tokens_seen"], len(seen["sequences"]))
        assert (row["first_training"], row["first_step"]) == seen["at"][0]
        assert (row["last_training"], row["last_step"]) == seen["at"][-1]
    first = trace(store, "checkpoint:train_model")
    assert first["tokens_seen"] < found["tokens_seen"]
    assert found["num_sequences"] == len({(each["part"], each["row"]) for name in batches for each in batches[name]})
    assert [each["step"] for each in first["checkpoint"]["trainings"]] == ["train_model"]
    until = trace(store, "checkpoint:annealed", until_step=0)
    assert until["tokens_seen"] == first["tokens_seen"], "none of its own yet, and all of the first"


def test_the_same_again_runs_nothing_wherever_the_checkpoint_lies(done, published, tmp_path):
    _, recipe, store = done
    moved = copied(published["sharded"], tmp_path / "moved")
    assert prepare(Request(str(recipe), (f"import_checkpoint.checkpoint={moved}",), store.url)).is_cached
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    assert not prepare(Request(str(recipe), (f"import_checkpoint.checkpoint={moved}",), store.url)).is_cached


def test_a_tokenizer_of_its_own_beside_a_checkpoint_is_refused_in_the_plan(done, tmp_path):
    _, recipe, store = done
    with pytest.raises(
        ConfigError, match=r"train_model goes on from the checkpoint of import_checkpoint, and train_tokenizer trains"
    ) as caught:
        prepare(Request(str(recipe), ("train_tokenizer.existing=null",), store.url))
    assert "set train_tokenizer.existing to the checkpoint's tokenizer" in caught.value.hint
    assert prepare(Request(str(recipe), ("train_tokenizer.existing=null",), store.url, until="import_checkpoint")).plan.steps


def test_another_tokenizer_of_the_same_size_is_refused_before_training_begins(published, tmp_path):
    checkpoint, _ = taken(published["sharded"], tmp_path / "scratch")
    (tmp_path / "other").mkdir()
    write_tokenizer(tmp_path / "other" / "tokenizer.json", "zq jx wv kp " * 9)
    for folder, told in ((published["sharded"], None), (tmp_path / "other", "tokens differ, the first is number")):
        model = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        found = first_difference(model.get_vocab(with_added_tokens=True), checkpoint.path)
        assert (found is None) if told is None else (told in found)
    model = tokenizers.Tokenizer.from_file(str(published["sharded"] / "tokenizer.json"))
    model.add_tokens(["<mine>"])
    assert first_difference(model.get_vocab(with_added_tokens=True), checkpoint.path) is None, "more of them are no others"


def test_a_checkpoint_without_its_tokenizer_says_that_it_cannot_tell(published, tmp_path):
    _, runtime = taken(published["gpt_bigcode"], tmp_path / "scratch")
    assert "no tokenizer.json beside the weights" in runtime.notes["told"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "evaluate.infill_max_new_tokens=61",
            "evaluate.infill_max_new_tokens is 61, which leaves no room for a prompt in the model's context of 64",
        ),
        ("pack_fim.sequence_length=65", "packed sequences have 65 tokens, and this network reads 2 to 64 (train_model.context_tokens)"),
        ("annealed.attention=flash", "annealed.attention is flash, and flash-attn is not installed"),
        ("annealed.attention=cudnn", "annealed.attention is cudnn, which needs bf16 on a GPU, not fp32 on cpu"),
        ("annealed.device=cuda", "annealed.device is cuda, and torch finds no GPU here"),
        ("evaluate.device=cuda", "evaluate.device is cuda, and torch finds no GPU here"),
    ],
)
def test_what_cannot_run_is_refused_in_the_plan_by_its_knob(done, monkeypatch, setting, message):
    _, recipe, store = done
    monkeypatch.setattr(devices, "has_gpu", lambda: False)
    monkeypatch.setattr(devices, "has_flash", lambda: False)
    monkeypatch.setattr(devices, "has_bf16_matrices", lambda: False)
    with pytest.raises(ConfigError, match=re.escape(message)):
        prepare(Request(str(recipe), (setting,), store.url))


def test_a_recipe_that_names_none_is_refused_by_the_knob(tmp_path):
    (tmp_path / "r.yaml").write_text("stages:\n- import_checkpoint\n")
    with pytest.raises(ConfigError, match=r"import_checkpoint\.checkpoint.*Field required"):
        load(tmp_path / "r.yaml")
