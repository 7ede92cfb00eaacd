"""The bench of training: every line runs and trains the same network; and presets are the published networks."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator

from starloom.model.architecture import Architecture
from starloom.model.bench import contenders
from starloom.model.bench import measuring as bench
from starloom.model.bench.contenders import TECHNIQUES, Setting, Variant, variants
from starloom.model.flops import flops_per_token
from starloom.model.presets import load_presets

pytestmark = pytest.mark.slow

HOUSE = Path(__file__).parents[1]
CPU = torch.device("cpu")
TOYS = {
    "gpt_bigcode": Architecture(vocab_size=64, context_tokens=32, num_layers=2, num_heads=2, width=32, dropout=0.1),
    "starcoder2": Architecture(
        family="starcoder2", vocab_size=64, context_tokens=32, num_layers=2, num_heads=4, num_key_value_heads=2, width=32, sliding_window=9
    ),
}
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
EAGER = [name for name in TECHNIQUES if name != "compile" and (name != "peer" or HAS_TRANSFORMERS)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Of which none waits for another on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def options_of(**changed):
    return argparse.Namespace(**{"sequence": None, "batch": 2, "steps": 3, "precision": "fp32", "techniques": EAGER} | changed)


def rows_of(name, **changed):
    return list(bench.measure_preset("toy", TOYS[name], options_of(**changed), CPU, Accelerator(cpu=True)))


@pytest.fixture(scope="module", params=TOYS)
def rows(request):
    return rows_of(request.param)


def test_every_line_has_its_figures(rows):
    assert [row["variant"] for row in rows] == [
        "as trained", "all logits at once", "activations recomputed", "AdamW not fused", "documents apart",
        *(["transformers"] if HAS_TRANSFORMERS else []),
    ]  # fmt: skip
    for row in rows:
        assert row["outcome"] == "ok"
        assert (row["preset"], row["parameters"]) in {("toy", toy.num_parameters) for toy in TOYS.values()}
        assert (row["batch_sequences"], row["sequence_tokens"], len(row["step_seconds_of_each"])) == (2, 32, 3)
        assert row["tokens_per_second"] * row["step_seconds"] == pytest.approx(64)
        assert row["processor_seconds"] > 0
        assert row["mfu"] is row["mfu_without_pairs"] is row["peak_memory_bytes"] is None  # of a CPU they are not known


def test_a_technique_changes_what_a_step_costs_and_not_what_is_learnt(rows):
    losses = {row["variant"]: row["loss"] for row in rows}
    for variant in ("all logits at once", "activations recomputed", "AdamW not fused"):
        assert losses[variant] == pytest.approx(losses["as trained"], rel=1e-4)
    assert losses["documents apart"] != pytest.approx(losses["as trained"], rel=1e-4)


@pytest.mark.parametrize("is_peer", [False, pytest.param(True, marks=pytest.mark.skipif(not HAS_TRANSFORMERS, reason="not installed"))])
def test_a_step_is_a_step_of_learning(is_peer):
    setting = Setting(TOYS["gpt_bigcode"], 32, 2, CPU, "fp32")
    (batch, *_) = contenders.batches(setting)
    step = (contenders.peer if is_peer else contenders.ours)(setting, Variant(name="one"), Accelerator(cpu=True))
    losses = [float(step(batch)) for _ in range(30)]
    assert losses[-1] < losses[0] - 0.1  # the same batch again and again is learnt by heart


def test_mfu_is_reckoned_from_the_tokens_of_a_second(monkeypatch):
    monkeypatch.setattr(bench, "peak_of", lambda device, precision: 1e12)
    (row,) = rows_of("gpt_bigcode", techniques=[])
    assert row["mfu"] == pytest.approx(row["tokens_per_second"] * flops_per_token(TOYS["gpt_bigcode"], 32) / 1e12)
    assert row["mfu_without_pairs"] < row["mfu"]


def test_a_line_that_cannot_run_says_why_and_costs_the_others_nothing():
    setting = Setting(TOYS["gpt_bigcode"], 32, 2, CPU, "fp32")
    lines = [Variant(name="before"), Variant(name="flash", kernel="flash"), Variant(name="after")]
    before, flash, after = bench.measure(setting, lines, 1, Accelerator(cpu=True))
    assert (before["outcome"], after["outcome"]) == ("ok", "ok")
    assert flash["outcome"].startswith("ValueError: the attention kernel flash")
    assert flash["tokens_per_second"] is flash["loss"] is None
    assert "ValueError" in bench.line_of(flash, None)


@pytest.mark.skipif(not HAS_TRANSFORMERS, reason="not installed")
def test_what_was_measured_is_forgotten():
    """Or the memory of one line would be missing for the next."""
    accelerator = Accelerator(cpu=True)
    setting = Setting(TOYS["gpt_bigcode"], 32, 2, CPU, "fp32")
    before = num_parameters_held()
    assert [row["outcome"] for row in bench.measure(setting, [Variant(name="peer", is_peer=True)], 1, accelerator)] == ["ok"]
    assert num_parameters_held() == before


def num_parameters_held():
    gc.collect()
    return sum(type(thing) is torch.nn.Parameter for thing in gc.get_objects())  # isinstance would ask lazy modules who they are


def test_on_a_gpu_each_technique_has_a_line():
    names = [variant.name for variant in variants(TECHNIQUES, torch.device("cuda"))]
    assert names[0] == "as trained"
    assert {"not compiled", "documents apart", "transformers", "transformers, compiled"} < set(names)
    assert len(set(names)) == len(names)
    assert [variant.name for variant in variants([], torch.device("cuda"))] == ["as trained"]


def test_the_command_prints_a_document_or_a_table(capsys):
    words = ["--preset", "tiny", "--steps", "1", "--sequence", "16", "--batch", "1", "--techniques", "loss", "--threads", "1"]
    assert bench.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert bench.main(words) == 0
    assert (told["device"], told["precision"]) == ("CPU", "fp32")
    assert told["versions"]["torch"] == torch.__version__
    assert [row["variant"] for row in told["rows"]] == ["as trained", "all logits at once"]
    table = capsys.readouterr().out
    assert "tiny: 0.9 million parameters" in table
    assert "1 x 16" in table


@pytest.mark.parametrize(
    ("words", "named"),
    [(["--techniques", "magic"], "magic: not among compile"), (["--preset", "huge"], "huge"), (["--batch", "0"], "--batch 0 is below 1")],
)
def test_what_means_nothing_is_refused(words, named, capsys):
    with pytest.raises(SystemExit) as caught:
        bench.main(words)
    assert caught.value.code == 2
    assert named in capsys.readouterr().err


def test_it_needs_nothing_that_a_bare_machine_lacks():
    absent = [
        "pydantic",
        "prefect",
        "rich",
        "numba",
        "fsspec",
        "matplotlib",
        "tensorboard",
        "transformers",
        "peft",
        "starloom.lineage",
        "starloom.tasks",
    ]
    program = "from starloom.model.bench.measuring import load_presets; print(len(load_presets()))"
    code = f"import sys; sys.modules.update(dict.fromkeys({absent!r})); {program}"
    told = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, check=False, timeout=120)
    assert told.stdout.strip() == str(len(load_presets())), told.stderr


# Presets


def test_every_preset_with_a_shape_can_be_measured():
    files = {path.stem: yaml.safe_load(path.read_text())["architecture"] for path in sorted((HOUSE / "conf" / "model").glob("*.yaml"))}
    assert {name for name, shape in files.items() if shape} == set(load_presets())  # one without a shape takes that of a checkpoint


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [
        ("small", 138_556_928),
        ("starcoderbase-1b", 1_137_207_296), ("starcoderbase-3b", 3_043_311_104),
        ("starcoderbase-7b", 7_327_263_232), ("starcoderbase-15b", 15_517_456_384),
        ("starcoder2-3b", 3_030_371_328), ("starcoder2-7b", 7_173_923_840), ("starcoder2-15b", 15_957_889_024),
    ],
)  # fmt: skip
def test_presets_have_the_published_size(name, num_parameters):
    assert load_presets()[name].num_parameters == num_parameters
