"""Collect the files of a release: weights, tokenizer, model card, data card, pictures, and a manifest of hashes.

Reads   Checkpoint  all of it
        Tokenizer
        Fertility   language, corpus_bytes, bytes, bytes_per_token, is_heldout, reference_bytes_per_token; where it was measured
        Losses      step, tokens, loss, skipped
        Validation  step, language, loss, tokens
        Scores      benchmark, metric, language, value, count
        Docs        language, declared_license, repo, size
        Record      what the steps above did
Writes  Release     config.json, model.safetensors or several with an index, adapter/ (if it is an adaptation), tokenizer.json,
                    tokenizer_config.json, special_tokens_map.json, README.md (the model card, with the front matter that model hubs
                    read), DATA_CARD.md, loss_curve.png, funnel.png, fertility.png (if the tokenizer was measured), MANIFEST.json
"""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING, Any

from pydantic import Field

from starloom.lineage.errors import InputError
from starloom.lineage.keys import file_digest
from starloom.tasks.frame.stage import Config, Runtime, stage
from starloom.tasks.schemas import Checkpoint, Docs, Fertility, Losses, Record, Release, Scores, Tokenizer, Validation

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from starloom.model.architecture import Architecture
    from starloom.tasks.reporting.cards import Corpus, Group, HeldoutLosses, Measured, ModelFacts, Step

NEEDED = ("config.json", "trainer_state.json")
GROUPS = ["language", "declared_license", "repo"]
MANIFEST_FORMAT = 1


class ReleaseCards(Config):
    """Knobs of `release`."""

    name: str | None = Field(None, min_length=1)
    """Name of the model; by default the recipe's name."""
    license: str = Field("other", min_length=1)
    """Licence of the weights, as model hubs spell it: an SPDX id in lower case, or other."""
    max_repositories: int = Field(200, ge=0)
    """Repositories that the data card lists, largest first; the rest is one row."""
    max_languages: int = Field(30, ge=0)
    """Languages in the model card's tables of bytes per token and held-out loss, those with most text first."""
    max_licenses: int = Field(40, ge=0)
    """Declared licences that the data card lists, likewise."""


@stage(over="whole", libraries=("matplotlib", "pyyaml"))
def release(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    fertility: Fertility | None,
    losses: Losses,
    validation: Validation,
    scores: Scores,
    docs: Docs,
    record: Record,
    cfg: ReleaseCards,
    runtime: Runtime,
) -> Release:
    """Write the folder; every number in it is read from the inputs."""
    from starloom.tasks.reporting.cards import Step, data_card, funnel_rows, model_card
    from starloom.tasks.reporting.charts import funnel, loss_curve

    folder = runtime.scratch / "release"
    shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
    folder.mkdir(parents=True)
    _copy(checkpoint.path, _published(checkpoint), folder)
    _copy(tokenizer.path, tokenizer.names(), folder)
    name = cfg.name or record.recipe
    steps = [Step(step.name, step.stage, step.config, step.outputs) for step in record.steps]
    corpus = _corpus(docs)
    curve, table = losses.read(["step", "tokens", "loss", "skipped"]), scores.read()
    measured = _fertility(fertility.read(), cfg.max_languages) if fertility else []
    heldout = _heldout_losses(validation.read(), cfg.max_languages)
    facts = _facts(checkpoint.path, record.recipe, steps, curve, table, measured, heldout)
    rows = funnel_rows(steps)
    loss_curve(curve["step"].to_numpy(), curve["loss"].to_numpy(), folder / "loss_curve.png", f"Training loss: {name}")
    funnel([row.step for row in rows], [row.num_docs for row in rows], [row.num_bytes for row in rows], folder / "funnel.png")
    if measured:
        _draw(measured, folder / "fertility.png")
    _write(folder / "README.md", model_card(_front_matter(name, facts, corpus, table, cfg), name, facts, corpus))
    card = data_card(name, corpus, steps, max_repositories=cfg.max_repositories, max_licenses=cfg.max_licenses)
    _write(folder / "DATA_CARD.md", card)
    _write(folder / "MANIFEST.json", json.dumps(_manifest(folder, name, record.recipe, steps), indent=2, sort_keys=True) + "\n")
    return Release.of(folder)


def _published(checkpoint: Checkpoint) -> list[str]:
    """Return the files of a checkpoint to publish: all except the trainer's own notes."""
    names = checkpoint.names()
    missing = [name for name in NEEDED if name not in names]
    missing += [] if any(name.endswith(".safetensors") for name in names) else ["model.safetensors"]
    if missing:
        raise InputError(
            f"there is no {missing[0]} in {checkpoint.path.name}, which a release needs",
            hint="release the checkpoint of train_model: if another step writes one after it, set `from: {checkpoint: train_model}`",
        )
    return [name for name in names if name != "trainer_state.json"]


def _copy(source: Path, names: list[str], folder: Path) -> None:
    for name in names:
        if (folder / name).exists():
            raise InputError(f"both the checkpoint and the tokenizer have a file {name}", hint="remove it from the tokenizer's folder")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8"))


def _corpus(docs: Docs) -> Corpus:
    """Count the documents by language, licence and repository, one part at a time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from starloom.tasks.reporting.cards import Corpus

    schema = pa.schema([*((name, pa.string()) for name in GROUPS), ("docs", pa.int64()), ("bytes", pa.int64())])
    counted = [schema.empty_table()]
    for part in docs.parts:
        sums = part.read([*GROUPS, "size"]).group_by(GROUPS).aggregate([("size", "count"), ("size", "sum")])
        counted.append(sums.rename_columns({"size_count": "docs", "size_sum": "bytes"}).select(schema.names).cast(schema))
    everything = pa.concat_tables(counted)
    num_docs, num_bytes = (int(pc.sum(everything[column], min_count=0).as_py()) for column in ("docs", "bytes"))
    by = {name: _groups(everything, name) for name in GROUPS}
    return Corpus(num_docs, num_bytes, by["language"], by["declared_license"], by["repo"])


def _groups(everything: pa.Table, name: str) -> list[Group]:
    from starloom.tasks.reporting.cards import Group

    sums = everything.group_by(name).aggregate([("docs", "sum"), ("bytes", "sum")]).to_pylist()
    groups = [Group(row[name] or "", row["docs_sum"], row["bytes_sum"]) for row in sums]
    return sorted(groups, key=lambda group: (-group.num_bytes, group.name))


def _fertility(rows: pa.Table, most: int) -> list[Measured]:
    """Return a row of all languages together, then those with most text in the corpus."""
    from starloom.tasks.reporting.cards import Measured

    ranked = sorted(rows.to_pylist(), key=lambda row: (row["language"] is not None, -row["corpus_bytes"], row["language"]))
    return [
        Measured(
            row["language"] or "all languages",
            row["bytes"],
            row["bytes_per_token"],
            row["reference_bytes_per_token"],
            is_heldout=row["is_heldout"] or row["language"] is None,  # of all together, each says for itself
        )
        for row in ranked[: most + 1]
    ]


def _draw(measured: list[Measured], path: Path) -> None:
    from starloom.tasks.reporting.charts import fertility

    references = [row.reference for row in measured if row.reference is not None]
    beside = references if len(references) == len(measured) else None
    fertility([row.label for row in measured], [row.bytes_per_token for row in measured], beside, path)


def _heldout_losses(rows: pa.Table, most: int) -> HeldoutLosses | None:
    """Return the first and the last measurement during training: of all tokens, then of the languages with most."""
    from starloom.tasks.reporting.cards import HeldoutLosses

    if not len(rows):
        return None
    by_step: dict[int, dict[str | None, dict[str, Any]]] = {}
    for row in rows.to_pylist():
        by_step.setdefault(row["step"], {})[row["language"]] = row
    first, last = by_step[min(by_step)], by_step[max(by_step)]
    ranked = sorted(last, key=lambda name: (name is not None, -last[name]["tokens"], name))
    told = [(name or "all languages", first[name]["loss"], last[name]["loss"], last[name]["tokens"]) for name in ranked[: most + 1]]
    return HeldoutLosses(min(by_step), max(by_step), told)


def _shape(shape: Architecture) -> list[tuple[str, str]]:
    """Describe a network's numbers in words."""
    theta = f"{shape.rope_theta:,.2f}".removesuffix(".00")
    is_rotary = not shape.has_learned_positions
    return [
        ("layers", f"{shape.num_layers:,}"),
        ("width", f"{shape.width:,}"),
        ("query heads", f"{shape.num_heads:,}"),
        ("key and value heads", f"{shape.num_key_value_heads:,}"),
        ("inner width", f"{shape.inner_width:,}"),
        ("context in tokens", f"{shape.context_tokens:,}"),
        ("positions", f"rotary, theta {theta}" if is_rotary else "learned"),
        *([("sliding window in tokens", f"{shape.sliding_window:,}" if shape.sliding_window else "none")] if is_rotary else []),
        ("vocabulary", f"{shape.vocab_size:,}"),
        ("output matrix", "the token embedding" if shape.tied_head else "one of its own"),
        ("parameters", f"{shape.num_parameters:,}"),
    ]


def _facts(
    folder: Path,
    recipe: str,
    steps: list[Step],
    curve: pa.Table,
    scores: pa.Table,
    fertility: list[Measured],
    heldout: HeldoutLosses | None,
) -> ModelFacts:
    import pyarrow.compute as pc

    from starloom.model.architecture import Architecture
    from starloom.tasks.reporting.cards import ModelFacts, base_models, preparation, weights
    from starloom.tasks.reporting.charts import running_mean

    shape = Architecture.from_checkpoint(folder)
    smooth = running_mean(curve["loss"].to_numpy())
    first, last = (float(smooth[0]), float(smooth[-1])) if len(smooth) else (math.nan, math.nan)
    rows = scores.to_pylist()
    measured = [(row["benchmark"], row["metric"], row["language"] or "all", f"{row['value']:.4g}", f"{row['count']:,}") for row in rows]
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    packing: dict[str, Any] = next((step.config for step in reversed(steps) if step.stage == "pack_fim"), {})
    tokens = curve["tokens"][-1].as_py() if len(curve) else 0
    return ModelFacts(
        recipe=recipe,
        family=shape.family,
        network=shape.to_checkpoint()["architectures"][0].removesuffix("ForCausalLM"),
        num_parameters=shape.num_parameters,
        architecture=_shape(shape),
        weights=weights(steps),
        base_models=base_models(steps),
        num_steps=len(curve),
        num_skipped=int(pc.sum(curve["skipped"], min_count=0).as_py()),
        num_tokens=tokens,
        num_sequences=state["sequences"],
        num_epochs=tokens / (state["sequences"] * state["sequence_tokens"]),
        heldout_fraction=packing.get("heldout_fraction", 0.0),
        fim_rate=packing.get("fim_rate", 0.0),
        preparation=preparation(steps),
        first_loss=first,
        last_loss=last,
        heldout=heldout,
        scores=measured,
        fertility=fertility,
    )


def _front_matter(name: str, facts: ModelFacts, corpus: Corpus, scores: pa.Table, cfg: ReleaseCards) -> str:
    """Return YAML for model hubs; only the scores over all languages."""
    import yaml

    benchmarks: dict[str, list[dict[str, Any]]] = {}
    for row in scores.to_pylist():
        if row["language"] is None:
            benchmarks.setdefault(row["benchmark"], []).append({"type": row["metric"], "name": row["metric"], "value": row["value"]})
    results = [
        {"task": {"type": "text-generation"}, "dataset": {"type": benchmark, "name": benchmark}, "metrics": metrics}
        for benchmark, metrics in benchmarks.items()
    ]
    fields = {
        "license": cfg.license,
        "language": ["code"],
        "programming_language": [group.name for group in corpus.languages if group.name],
        **({"base_model": facts.base_models} if facts.base_models else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["code", facts.family, "starloom"],
        "model-index": [{"name": name, "results": results}],
    }
    text: str = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000)
    return text


def _manifest(folder: Path, name: str, recipe: str, steps: list[Step]) -> dict[str, Any]:
    """Return every file of the folder, and every step with its knobs and outputs."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {
        "format": MANIFEST_FORMAT,
        "name": name,
        "recipe": recipe,
        "files": {file: {"sha256": file_digest(folder / file), "bytes": (folder / file).stat().st_size} for file in names},
        "steps": [{"name": step.name, "stage": step.stage, "config": step.config, "outputs": step.outputs} for step in steps],
    }
