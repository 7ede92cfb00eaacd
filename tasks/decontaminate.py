"""Drop documents in which a problem or a solution of a benchmark stands, so that evaluation measures no memory.

A document leaks a benchmark if one of the benchmark's strings, normalised, stands in its likewise normalised content:
lower-cased (StarCoder), or lower-cased without any whitespace (StarCoder2). Exact: the answer is Python's `in`.

Reads   Docs      doc_id, content
Writes  Verdicts  dropped: rule = benchmark-leak, detail = <benchmark>/<task_id>, value = characters of the longest string
                  found (normalised), threshold = min_length; so a greater min_length needs no second reading

Strings too short or too common to prove anything are left out: those below `min_length`, and those in `exempt`. The
record's notes name them.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from starloom.lineage.errors import InputError
from starloom.tasks.frame.stage import Config, File, Runtime, stage
from starloom.tasks.schemas import Docs, Verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

TRIVIAL_SOLUTIONS = ("return x + y", "return len(string)", "return n**2", "return ''.join(strings)")
"""HumanEval's solutions 53, 23, 41 and 28, which anybody may write (bigcode-dataset: decontamination/benchmark_data.py).

There the fourth is spelt `'return ''.join(strings)'`, which Python reads as `return .join(strings)`: it never exempted
anything. Here it does.
"""


OWN_BENCHMARK = str(Path(__file__).parents[1] / "conf" / "benchmarks" / "starloom_tiny.jsonl")


class Benchmark(Config):
    """A benchmark, one problem a line."""

    name: str = Field(min_length=1)
    """What its leaks are called."""
    path: File
    """JSON lines, plain or gzipped (`.gz`)."""
    format: Literal["humaneval", "fields"] = "humaneval"
    """`humaneval`: the docstring in `prompt`, and `canonical_solution`; `fields`: the fields named in `fields`, whole."""
    fields: tuple[str, ...] = ()
    """Fields whose strings are looked for, with `format: fields`."""
    id_field: str = "task_id"
    """Field that names a problem."""

    @model_validator(mode="after")
    def _fields_fit_format(self) -> Self:
        if (self.format == "fields") != bool(self.fields):
            raise ValueError("name the fields to look for with `format: fields`, and none with `format: humaneval`")
        return self


class Decontaminate(Config):
    """Knobs of decontamination."""

    benchmarks: tuple[Benchmark, ...] = Field(default=({"name": "starloom_tiny", "path": OWN_BENCHMARK},), min_length=1)  # type: ignore[arg-type]
    """What must not be learnt: what `evaluate` asks, at least."""
    normalise: Literal["lower", "lower_no_whitespace"] = "lower_no_whitespace"
    """`lower` as StarCoder did, `lower_no_whitespace` as StarCoder2 did; content and strings alike."""
    min_length: int = Field(default=10, ge=1)
    """Characters, after normalising, below which a string is not looked for."""
    exempt: tuple[str, ...] = TRIVIAL_SOLUTIONS
    """Strings too common to be a leak, compared without space around them."""


class Needle(NamedTuple):
    """A normalised string of a benchmark, and where it comes from."""

    text: str
    source: str
    """<benchmark>/<task_id>."""


@stage()
def decontaminate(docs: Docs, cfg: Decontaminate, runtime: Runtime) -> Verdicts:
    """Drop every live document in which a benchmark's string stands."""
    import numpy as np

    from starloom.tasks.kernels.text.substrings import first_matches, normalised_column, prepare_patterns

    needles, left_out = find_needles(cfg)
    runtime.note(num_strings=len(needles), left_out=left_out)
    patterns = prepare_patterns([needle.text.encode() for needle in needles])
    found, total = [np.zeros(0, np.int64)], docs.num_rows
    for batch in docs.batches(["content"]):
        texts = normalised_column(batch.column("content"), keep_whitespace=cfg.normalise == "lower")
        found.append(first_matches(*texts, patterns))
        runtime.progress(sum(map(len, found)), total, "documents")
    return _verdicts(docs, np.concatenate(found), needles, cfg)


def _verdicts(docs: Docs, found: np.ndarray, needles: list[Needle], cfg: Decontaminate) -> Verdicts:
    leaks = [needles[number] if number >= 0 else None for number in found.tolist()]
    return docs.verdicts(
        keep=found < 0,
        rule=_strings("benchmark-leak" if leak else None for leak in leaks),
        value=[float(len(leak.text)) if leak else None for leak in leaks],
        threshold=[float(cfg.min_length) if leak else None for leak in leaks],
        detail=_strings(leak.source if leak else None for leak in leaks),
    )


def _strings(values: Iterator[str | None]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.string())


def find_needles(cfg: Decontaminate) -> tuple[list[Needle], list[str]]:
    """What to look for, longest first, each string once; and what is left out, as `<benchmark>/<task_id>: string`."""
    from starloom.tasks.kernels.text.substrings import normalised

    needles: dict[str, Needle] = {}
    left_out = []
    for benchmark in cfg.benchmarks:
        for task_id, string in benchmark_strings(benchmark):
            source = f"{benchmark.name}/{task_id}"
            text = normalised(string, keep_whitespace=cfg.normalise == "lower")
            if string in cfg.exempt or len(text) < cfg.min_length:
                left_out.append(f"{source}: {string}")
            else:
                needles.setdefault(text, Needle(text, source))
    return sorted(needles.values(), key=lambda needle: -len(needle.text)), left_out


def benchmark_strings(benchmark: Benchmark) -> Iterator[tuple[str, str]]:
    """(task_id, string) of all strings of a benchmark, without space around them, empty ones left out.

    Raises:
        InputError: for a file that cannot be read, or a problem without the fields asked for.
    """
    for place, problem in _problems(Path(benchmark.path)):
        task_id = _field(problem, benchmark.id_field, place)
        if benchmark.format == "humaneval":
            strings = [docstring(_field(problem, "prompt", place)), _field(problem, "canonical_solution", place)]
        else:
            strings = [_field(problem, name, place) for name in benchmark.fields]
        yield from ((task_id, string.strip()) for string in strings if string.strip())


def docstring(prompt: str) -> str:
    """The last docstring of a prompt, as it is written there: the function's to complete, not its helper's. Empty if none."""
    for quotes in ('"""', "'''"):
        pieces = prompt.split(quotes)
        if len(pieces) >= len(("before", "docstring", "after")):
            return pieces[-2]
    return ""


def _problems(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, problem) for each line."""
    hint = "a benchmark is JSON lines: one object a line, with a task_id; gzipped files end in .gz"
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = data.decode("utf-8").split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"benchmark {path} cannot be read: {error}", hint=hint) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            problem = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{number} is no JSON: {error}", hint=hint) from error
        if not isinstance(problem, dict):
            raise InputError(f"{path}:{number} is a {type(problem).__name__}, not an object", hint=hint)
        yield f"{path}:{number}", problem


def _field(problem: dict[str, Any], name: str, place: str) -> str:
    value = problem.get(name)
    if not isinstance(value, (str, int)):
        raise InputError(f"{place} has no text in {name!r}; it has {sorted(problem)[:12]}", hint="set `format`, `fields` or `id_field`")
    return str(value)
