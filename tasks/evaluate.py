"""Measure a checkpoint: held-out loss, infilling, and programs that pass their tests.

Reads   Checkpoint, Tokenizer
        Packed       split, tokens
        Spans        sequence, token_start, token_end, doc_id, role
        Docs         doc_id, language, content (of held-out documents)
Writes  Completions  what the model wrote: benchmark = infilling (task_id = doc_id#Lline; outcome = exact-match or mismatch)
                     or a benchmark's name (outcome = passed, or why not: see starloom.tasks.kernels.programs.execution)
        Scores       benchmark = heldout: metric = loss, perplexity (count = tokens), bits-per-byte (count = bytes);
                     benchmark = infilling: metric = exact-match (count = lines);
                     a benchmark's name: metric = pass@k (count = problems); language null = over all languages
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from starloom.lineage.errors import ConfigError, InputError
from starloom.tasks.common.checkpoints import known_context_tokens
from starloom.tasks.common.devices import attention_of, check_device, device_of, precision_of
from starloom.tasks.frame.stage import Config, File, Runtime, Wired, stage
from starloom.tasks.schemas import Checkpoint, Completions, Docs, Packed, Scores, Spans, Tokenizer

if TYPE_CHECKING:
    import pyarrow as pa
    import tokenizers

    from starloom.tasks.kernels.programs.infilling import Infill
    from starloom.tasks.kernels.programs.questions import Question

OWN_BENCHMARK = str(Path(__file__).parents[1] / "conf" / "benchmarks" / "starloom_tiny.jsonl")
UNKNOWN = "unknown"
NUM_SENTINELS = 3
"""Tokens that mark prefix, suffix and middle of an infilling."""
ROWS = 512
MAX_EXPONENT = 700.0
"""Cap of a loss before exp: a broken network's would overflow."""


class Benchmark(Config):
    """Problems in HumanEval's format."""

    name: str = Field(min_length=1)
    """Name of the benchmark in Completions and Scores."""
    path: File
    """JSON lines, gzipped or not: task_id, prompt, entry_point, canonical_solution, test."""


class Evaluate(Config):
    """Knobs of `evaluate`."""

    max_sequences: int = Field(256, ge=0)
    """Held-out sequences to measure the loss on, spread evenly over all; 0 measures none."""
    max_infills: int = Field(64, ge=0)
    """Lines to infill for each language, one a held-out document; 0 infills none."""
    infill_max_new_tokens: int = Field(64, gt=0)
    """Largest number of tokens of an infilled line."""
    benchmarks: list[Benchmark] = Field(default_factory=lambda: [{"name": "starloom_tiny", "path": OWN_BENCHMARK}])  # type: ignore[arg-type]
    """Benchmarks to complete and run; by default the project's own."""
    num_samples: int = Field(20, gt=0)
    """Completions of each problem (StarCoder: 200)."""
    k: tuple[int, ...] = Field((1, 10), min_length=1)
    """The k of pass@k; none above num_samples."""
    max_new_tokens: int = Field(256, gt=0)
    """Largest number of tokens of a completion."""
    temperature: float = Field(0.2, ge=0)
    """Sampling temperature of completions; infilling is greedy."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Nucleus sampling of completions: the share of the probability to draw from."""
    cpu_seconds: int = Field(3, gt=0)
    """Processor time that a program may take."""
    memory_bytes: int = Field(512 << 20, ge=64 << 20)
    """Memory that a program may address."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Precision of the network; auto is bf16 on a GPU and fp32 without. In the key as resolved, like the device."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto is a GPU where there is one."""
    threads: int = Field(2, gt=0)
    """CPU threads of the network. Part of the identity: sums depend on it in their last bits."""
    seed: int = Field(0, ge=0)
    """Seed of the choice of lines and of the completions."""

    @model_validator(mode="after")
    def _has_enough_samples(self) -> Self:
        if not 1 <= min(self.k) <= max(self.k) <= self.num_samples:
            raise ValueError(f"k {self.k} asks for pass@{max(self.k)} of {self.num_samples} samples; each k is 1 to num_samples")
        names = [benchmark.name for benchmark in self.benchmarks]
        if len({*names, "heldout", "infilling"}) != len(names) + 2:
            raise ValueError(f"benchmarks {names} need names of their own, other than heldout and infilling")
        return self

    def check_plan(self, wired: Wired) -> None:
        """Refuse answers that leave no room for a question, where the network's context is known."""
        context = known_context_tokens(wired.inputs.get("checkpoint"))
        if context is None:
            return
        for knob, is_too_long in self.too_long(context).items():
            if is_too_long:
                message, hint = _no_room(f"{wired.name}.{knob}", getattr(self, knob), context)
                raise ConfigError(message, hint=hint)

    def too_long(self, context_tokens: int) -> dict[str, bool]:
        """Return whether an answer as long as each knob allows leaves no room for a question that is asked."""
        return {
            "max_new_tokens": bool(self.benchmarks) and self.max_new_tokens >= context_tokens,
            "infill_max_new_tokens": self.max_infills > 0 and context_tokens - self.infill_max_new_tokens <= NUM_SENTINELS,
        }

    def check_here(self, step: str) -> None:
        """Refuse a device that is not here."""
        check_device(self.device, step)

    def place(self) -> dict[str, str]:
        """Device and precision, as they turn out here."""
        device = device_of(self.device)
        return {"device": device, "precision": precision_of(self.precision, device)}

    def identity(self) -> dict[str, Any]:
        """Return the knobs that shape answers and scores, as plain JSON values: `auto` as it is resolved here."""
        place = self.place()
        return {**super().identity(), **place, "attention": attention_of("auto", **place)}


@stage(over="whole", runs=("starloom.model.evaluate", "starloom.tasks.kernels.programs.candidate"), libraries=("torch", "tokenizers"))
def evaluate(
    checkpoint: Checkpoint, tokenizer: Tokenizer, packed: Packed, spans: Spans, docs: Docs, cfg: Evaluate, runtime: Runtime
) -> tuple[Completions, Scores]:
    """Ask the model everything in one process, then score its answers."""
    from starloom.model.architecture import Architecture
    from starloom.tasks.kernels.tokens.byte_level import load

    model = load(tokenizer.path)
    context_tokens = Architecture.from_checkpoint(checkpoint.path).context_tokens
    heldout = _heldout_documents(packed, spans, docs)
    questions = [*_infill_questions(heldout, docs, model, context_tokens, cfg), *_benchmark_questions(cfg, context_tokens)]
    folder = runtime.scratch / "model"
    folder.mkdir(exist_ok=True)
    places = {"checkpoint": str(checkpoint.path), "tokenizer": str(tokenizer.path / "tokenizer.json"), "out": str(folder)}
    _run_model(places, packed, model, questions, cfg, runtime)
    answers = _answers(folder, questions)
    completions = _judged(questions, [answer["completion"] for answer in answers], cfg, runtime)
    scores = [*_loss_scores(folder, packed, spans, heldout, model), *_infill_scores(completions), *_pass_scores(completions, cfg)]
    cut = sum(answer["num_cut_tokens"] > 0 for answer in answers)  # a score on beginnings that the model never saw says little
    runtime.note(heldout_documents=len(heldout), prompts=len(questions), cut_prompts=cut)
    return Completions.of(completions), Scores.of(_scores_table(scores))


def _heldout_documents(packed: Packed, spans: Spans, docs: Docs) -> pa.Table:
    """Return documents with text in held-out sequences: doc_id, language, and the part of Docs that holds each."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from starloom.tasks.kernels.packing.roles import DOCUMENT_ROLES

    found = []
    for packed_part, spans_part in zip(packed.parts, spans.parts, strict=True):
        sequences = pc.indices_nonzero(pc.equal(packed_part.read(["split"])["split"], "heldout")).cast(pa.int64())
        table = spans_part.read(["sequence", "doc_id", "role"])
        wanted = pc.and_(pc.is_in(table["sequence"], sequences), pc.is_in(table["role"], pa.array(DOCUMENT_ROLES)))
        found.append(table["doc_id"].filter(wanted).unique())
    ids = pa.chunked_array(found, pa.string()).unique()
    tables = [pa.table({"doc_id": pa.array([], pa.string()), "language": pa.array([], pa.string()), "part": pa.array([], pa.int64())})]
    for number, part in enumerate(docs.parts):
        table = part.read(["doc_id", "language"])
        table = table.filter(pc.is_in(table["doc_id"], ids))
        columns = {"doc_id": table["doc_id"], "language": pc.fill_null(table["language"], UNKNOWN)}
        tables.append(pa.table({**columns, "part": pa.repeat(pa.scalar(number, pa.int64()), len(table))}))
    return pa.concat_tables(tables)


def _infill_questions(heldout: pa.Table, docs: Docs, model: tokenizers.Tokenizer, context_tokens: int, cfg: Evaluate) -> list[Question]:
    """Return a question for one line of each chosen document, answered greedily."""
    from starloom.tasks.kernels.programs.questions import Decoding, Sentinels, infill_question
    from starloom.tasks.kernels.tokens import special_tokens

    if not cfg.max_infills or not len(heldout):
        return []
    names = (special_tokens.FIM_PREFIX, special_tokens.FIM_SUFFIX, special_tokens.FIM_MIDDLE)
    room_tokens = context_tokens - cfg.infill_max_new_tokens
    if cfg.too_long(context_tokens)["infill_max_new_tokens"]:
        raise _too_long("infill_max_new_tokens", cfg.infill_max_new_tokens, context_tokens)
    marks = Sentinels(*(_special(model, name) for name in names))
    how = Decoding(cfg.infill_max_new_tokens, 0.0, 1.0, cfg.seed)
    return [infill_question(*cut, model, marks, room_tokens, how) for cut in _infills(heldout, docs, cfg)]


def _infills(heldout: pa.Table, docs: Docs, cfg: Evaluate) -> list[tuple[str, str, Infill]]:
    """Return the first documents of each language, in the order of their draws, that have a line to cut out."""
    from starloom.tasks.kernels.programs.infilling import cut_line
    from starloom.tasks.kernels.text.draws import draw

    draws = draw(heldout["doc_id"], cfg.seed, "infilling", 2)
    languages, doc_ids = heldout["language"].to_pylist(), heldout["doc_id"].to_pylist()
    order, counts = sorted(zip(languages, draws[:, 0].tolist(), range(len(languages)), strict=True)), dict.fromkeys(languages, 0)
    chosen = []
    for language, _, row in order:
        counts[language] += 1
        if counts[language] <= 2 * cfg.max_infills:  # twice as many as wanted, since some have no line to cut out
            chosen.append(row)
    texts, counts, found = _texts(heldout.take(chosen), docs), dict.fromkeys(languages, 0), []
    for row in chosen:
        infill = cut_line(texts[doc_ids[row]], draws[row, 1])
        if infill is not None and counts[languages[row]] < cfg.max_infills:
            counts[languages[row]] += 1
            found.append((doc_ids[row], languages[row], infill))
    return found


def _texts(chosen: pa.Table, docs: Docs) -> dict[str, str]:
    """Return doc_id → content, reading only the parts that hold one."""
    import pyarrow.compute as pc

    texts: dict[str, str] = {}
    for number in sorted(set(chosen["part"].to_pylist())):
        for batch in docs.parts[number].batches(["doc_id", "content"], rows=ROWS):
            wanted = batch.filter(pc.is_in(batch["doc_id"], chosen["doc_id"].combine_chunks()))
            texts.update(zip(wanted["doc_id"].to_pylist(), wanted["content"].to_pylist(), strict=True))
    return texts


def _benchmark_questions(cfg: Evaluate, context_tokens: int) -> list[Question]:
    """Return every sample of every problem."""
    from starloom.tasks.kernels.programs.human_eval import FIELDS, read_problems
    from starloom.tasks.kernels.programs.questions import Decoding, problem_questions

    if cfg.too_long(context_tokens)["max_new_tokens"]:
        raise _too_long("max_new_tokens", cfg.max_new_tokens, context_tokens)
    how, questions = Decoding(cfg.max_new_tokens, cfg.temperature, cfg.top_p, cfg.seed), []
    for benchmark in cfg.benchmarks:
        try:
            problems = read_problems(Path(benchmark.path))
        except ValueError as error:
            raise InputError(
                f"the benchmark {benchmark.name} cannot be used: {error}", hint=f"give JSON lines with {', '.join(FIELDS)}"
            ) from error
        for problem in problems:
            questions += problem_questions(benchmark.name, problem, cfg.num_samples, how)
    return questions


def _too_long(knob: str, value: int, context_tokens: int) -> InputError:
    message, hint = _no_room(f"evaluate.{knob}", value, context_tokens)
    return InputError(message, hint=hint)


def _no_room(knob: str, value: int, context_tokens: int) -> tuple[str, str]:
    """Describe what is wrong with the length of an answer, and what to do."""
    return (
        f"{knob} is {value}, which leaves no room for a prompt in the model's context of {context_tokens} tokens",
        f"set {knob} to {context_tokens // 2} or less",
    )


def _special(model: tokenizers.Tokenizer, name: str) -> int:
    index = model.token_to_id(name)
    if index is None:
        hint = "set evaluate.max_infills to 0, or use StarCoder's special tokens"
        raise InputError(f"the tokenizer has no {name}, which infilling needs", hint=hint)
    return int(index)


def _run_model(
    places: dict[str, str], packed: Packed, model: tokenizers.Tokenizer, questions: list[Question], cfg: Evaluate, runtime: Runtime
) -> None:
    """Let `starloom.model.evaluate` measure the losses and answer the questions."""
    import json
    import sys

    from starloom.tasks.kernels.tokens.special_tokens import END_OF_TEXT, FIM_PAD

    def show(line: str) -> None:
        if line.startswith("{"):
            said = json.loads(line)
            runtime.progress(said["done"], said["total"], said["unit"])

    folder = Path(places["out"])
    job = {
        **places,
        "packed": [str(path) for path in packed.local_paths(folder)],
        "tasks": {
            "heldout": {"max_sequences": cfg.max_sequences, "attend_across_documents": _attended_across(places)}
            if cfg.max_sequences
            else None,
            "completions": {"prompts": str(folder / "prompts.jsonl")} if questions else None,
        },
        "pad_token": model.token_to_id(FIM_PAD),
        "eod_token": model.token_to_id(END_OF_TEXT),
        **cfg.place(),
        "threads": cfg.threads,
    }
    (folder / "prompts.jsonl").write_text("".join(json.dumps(question.request) + "\n" for question in questions), encoding="utf-8")
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    if cfg.max_sequences or questions:
        # On busy cores, threads that spin while they wait for each other make this four times slower.
        patient = {"OMP_WAIT_POLICY": "PASSIVE"}
        runtime.subprocess([sys.executable, "-m", "starloom.model.evaluate", str(folder / "job.json")], on_line=show, env=patient)


def _attended_across(places: dict[str, str]) -> bool:
    """Return whether the network was trained with attention across documents; true if the checkpoint does not say."""
    import json

    state = Path(places["checkpoint"], "trainer_state.json")
    return not state.exists() or bool(json.loads(state.read_text(encoding="utf-8")).get("attend_across_documents", True))


def _answers(folder: Path, questions: list[Question]) -> list[dict[str, Any]]:
    """Return the completions as `starloom.model.evaluate` wrote them, in the order of the questions."""
    import json

    if not questions:
        return []
    with (folder / "completions.jsonl").open(encoding="utf-8") as file:
        answers: list[dict[str, Any]] = [json.loads(line) for line in file]
    assert [(a["task_id"], a["sample"]) for a in answers] == [(q.task_id, q.sample) for q in questions], "the model answered something else"
    return answers


def _judged(questions: list[Question], answers: list[str], cfg: Evaluate, runtime: Runtime) -> pa.Table:
    """Return the rows of Completions."""
    import pyarrow as pa

    from starloom.tasks.kernels.programs.execution import Limits
    from starloom.tasks.kernels.programs.questions import EXACT_MATCH, PASSED, judge

    outcomes = judge(questions, answers, Limits(cpu_seconds=cfg.cpu_seconds, memory_bytes=cfg.memory_bytes), runtime.workers)
    names = ("benchmark", "task_id", "sample", "language", "prompt", "reference")
    columns = {name: [getattr(question, name) for question in questions] for name in names}
    passed = [outcome in (EXACT_MATCH, PASSED) for outcome in outcomes]
    return Completions.conform(pa.table({**columns, "completion": answers, "outcome": outcomes, "passed": passed}))


class _Score(NamedTuple):
    """A row of Scores."""

    benchmark: str
    metric: str
    language: str | None
    value: float
    num_measured: int


def _loss_scores(folder: Path, packed: Packed, spans: Spans, heldout: pa.Table, model: tokenizers.Tokenizer) -> list[_Score]:
    """Return loss, perplexity and bits per byte: overall, then by language."""
    import numpy as np
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from starloom.tasks.kernels.packing.heldout import by_group, span_losses
    from starloom.tasks.kernels.tokens.byte_level import token_bytes

    if not (folder / "heldout_losses.parquet").exists():
        return []
    measured, lengths = pq.read_table(folder / "heldout_losses.parquet"), token_bytes(model).lengths
    parts = []
    for number in pc.unique(measured["part"]).to_pylist():
        table = measured.filter(pc.equal(measured["part"], number))
        rows = np.asarray(table["row"]).astype(np.int64)
        tokens = packed.parts[number].read(["tokens"])["tokens"].take(rows)
        try:
            parts.append(span_losses(rows, table["losses"], tokens, spans.parts[number].read(), lengths))
        except ValueError as error:
            hint = "give evaluate the Packed and Spans of one step, and its tokenizer"
            raise InputError(f"packed sequences, spans and tokenizer do not match: {error}", hint=hint) from error
    languages = dict(zip(heldout["doc_id"].to_pylist(), heldout["language"].to_pylist(), strict=True))
    scores = []
    for language, group in by_group(parts, languages, UNKNOWN).items():
        scores.append(_Score("heldout", "loss", language, group.loss, group.num_tokens))
        scores.append(_Score("heldout", "perplexity", language, float(np.exp(min(group.loss, MAX_EXPONENT))), group.num_tokens))
        scores.append(_Score("heldout", "bits-per-byte", language, group.bits_per_byte, group.num_bytes))
    return scores


def _infill_scores(completions: pa.Table) -> list[_Score]:
    """Return the share of lines infilled exactly: overall, then by language."""
    import pyarrow.compute as pc

    table = completions.filter(pc.equal(completions["benchmark"], "infilling"))
    if not len(table):
        return []
    by_language = table.group_by("language").aggregate([("passed", "mean"), ("passed", "count")]).sort_by("language").to_pylist()
    overall = _Score("infilling", "exact-match", None, pc.mean(table["passed"]).as_py(), len(table))
    return [overall, *(_Score("infilling", "exact-match", row["language"], row["passed_mean"], row["passed_count"]) for row in by_language)]


def _pass_scores(completions: pa.Table, cfg: Evaluate) -> list[_Score]:
    """Return the mean of pass@k over the problems of each benchmark."""
    import pyarrow.compute as pc

    from starloom.tasks.kernels.programs.pass_at_k import pass_at_k

    scores = []
    for benchmark in cfg.benchmarks:
        table = completions.filter(pc.equal(completions["benchmark"], benchmark.name))
        right = table.group_by("task_id", use_threads=False).aggregate([("passed", "sum")])["passed_sum"].to_pylist()
        for k in cfg.k:
            estimates = [pass_at_k(cfg.num_samples, num_correct, k) for num_correct in right]
            scores.append(_Score(benchmark.name, f"pass@{k}", None, sum(estimates) / len(estimates), len(estimates)))
    return scores


def _scores_table(scores: list[_Score]) -> pa.Table:
    import pyarrow as pa

    names = ("benchmark", "metric", "language", "value", "count")
    return Scores.conform(pa.table([list(column) for column in zip(*scores, strict=True)] or [[]] * len(names), names=names))
