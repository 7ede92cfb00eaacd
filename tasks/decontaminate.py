"""Drop documents that contain a problem or a solution of a benchmark, so that evaluation does not measure memorisation.

A document leaks a benchmark if one of the benchmark's strings, normalised, stands in its likewise normalised content:
lower-cased (StarCoder), or lower-cased without any whitespace (StarCoder2). Exact: the answer is Python's `in`.

Reads   Docs      doc_id, content
Writes  Verdicts  dropped: rule = benchmark-leak, detail = <benchmark>/<task_id>, value = characters of the longest string
                  found (normalised), threshold = min_length; so a greater min_length needs no second reading

Of a problem in HumanEval's format that is its docstring and its solution; without a docstring its whole prompt, unless that is
one line, a signature. Strings too short or too common to prove anything are left out: those below `min_length`, and those in
`exempt`. The record's notes name them, and the problems without any string to search for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from starloom.lineage.errors import InputError
from starloom.tasks.frame.stage import Config, File, Runtime, stage
from starloom.tasks.schemas import Docs, Verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

TRIVIAL_SOLUTIONS = ("return x + y", "return len(string)", "return n**2", "return ''.join(strings)")
"""HumanEval's solutions 53, 23, 41 and 28, which anybody may write (bigcode-dataset: decontamination/benchmark_data.py).

There the fourth is spelt `'return ''.join(strings)'`, which Python reads as `return .join(strings)`: it never exempted
anything. Here it does.
"""


OWN_BENCHMARK = str(Path(__file__).parents[1] / "conf" / "benchmarks" / "starloom_tiny.jsonl")


class Benchmark(Config):
    """A benchmark, one problem a line."""

    name: str = Field(min_length=1)
    """Name of the benchmark in verdicts."""
    path: File
    """JSON lines, plain or gzipped."""
    format: Literal["humaneval", "fields"] = "humaneval"
    """`humaneval`: the docstring in `prompt`, else all of it, and `canonical_solution`; `fields`: the fields named in `fields`, whole."""
    fields: tuple[str, ...] = ()
    """Fields whose strings are searched for, with `format: fields`."""
    id_field: str = "task_id"
    """Field that holds a problem's id."""

    @model_validator(mode="after")
    def _fields_fit_format(self) -> Self:
        if (self.format == "fields") != bool(self.fields):
            raise ValueError("name the fields to search for with `format: fields`, and none with `format: humaneval`")
        return self


class Decontaminate(Config):
    """Knobs of decontamination."""

    benchmarks: tuple[Benchmark, ...] = Field(default=({"name": "starloom_tiny", "path": OWN_BENCHMARK},), min_length=1)  # type: ignore[arg-type]
    """Benchmarks to remove from the corpus: at least those that `evaluate` runs."""
    normalise: Literal["lower", "lower_no_whitespace"] = "lower_no_whitespace"
    """`lower` as StarCoder did, `lower_no_whitespace` as StarCoder2 did; content and strings alike."""
    min_length: int = Field(default=10, ge=1)
    """Least number of characters, after normalising, of a string to search for."""
    exempt: tuple[str, ...] = TRIVIAL_SOLUTIONS
    """Strings too common to be a leak, compared without space around them."""


class Needle(NamedTuple):
    """A normalised string of a benchmark, and its source."""

    text: str
    source: str
    """<benchmark>/<task_id>."""


@stage()
def decontaminate(docs: Docs, cfg: Decontaminate, runtime: Runtime) -> Verdicts:
    """Drop every live document that contains a benchmark's string."""
    import numpy as np

    from starloom.tasks.kernels.text.substrings import first_matches, normalised_column, prepare_patterns

    needles, left_out, unsought = find_needles(cfg)
    runtime.note(num_strings=len(needles), left_out=left_out, unsought=unsought)
    patterns = prepare_patterns([needle.text.encode() for needle in needles])
    found, total = [np.zeros(0, np.int64)], docs.num_rows
    for batch in docs.batches(["content"]):
        texts = normalised_column(batch.column("content"), keep_whitespace=cfg.normalise == "lower")
        found.append(first_matches(*texts, patterns))
        runtime.progress(sum(map(len, found)), total, "documents")
    return _verdicts(docs, np.concatenate(found), needles, cfg)


def _verdicts(docs: Docs, found: NDArray[np.int64], needles: list[Needle], cfg: Decontaminate) -> Verdicts:
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


class Search(NamedTuple):
    """The strings to search for, and those to ignore."""

    needles: list[Needle]
    """Longest first, each string once."""
    left_out: list[str]
    """Strings too short or exempt: `<benchmark>/<task_id>: string`."""
    unsought: list[str]
    """Problems without any string to search for: <benchmark>/<task_id>."""


def find_needles(cfg: Decontaminate) -> Search:
    """Collect the strings to search for.

    Raises:
        InputError: for a benchmark that cannot be read, holds no problem, or has one without the fields asked for.
    """
    from starloom.tasks.kernels.text.substrings import normalised

    needles: dict[str, Needle] = {}
    left_out, unsought = [], []
    for benchmark in cfg.benchmarks:
        for task_id, strings in benchmark_strings(benchmark):
            source, is_sought = f"{benchmark.name}/{task_id}", False
            for string in strings:
                text = normalised(string, keep_whitespace=cfg.normalise == "lower")
                if string in cfg.exempt or len(text) < cfg.min_length:
                    left_out.append(f"{source}: {string}")
                else:
                    needles.setdefault(text, Needle(text, source))
                    is_sought = True
            if not is_sought:
                unsought.append(source)
    return Search(sorted(needles.values(), key=lambda needle: -len(needle.text)), left_out, unsought)


def benchmark_strings(benchmark: Benchmark) -> list[tuple[str, list[str]]]:
    """Return (task_id, strings) of all problems of a benchmark; strings are stripped, empty ones left out.

    Raises:
        InputError: for a file that cannot be read or holds no problem, or a problem without the fields asked for.
    """
    from starloom.tasks.kernels.programs.benchmark_files import read_lines

    try:
        problems = read_lines(Path(benchmark.path))
        found = [_strings_of(problem, benchmark, where) for where, problem in problems]
    except ValueError as error:
        hint = "a benchmark is JSON lines, gzipped or not, with a task_id; for other fields set `format`, `fields` or `id_field`"
        raise InputError(f"the benchmark {benchmark.name} cannot be used: {error}", hint=hint) from error
    return [(task_id, [string.strip() for string in strings if string.strip()]) for task_id, strings in found]


def _strings_of(problem: dict[str, Any], benchmark: Benchmark, where: str) -> tuple[str, list[str]]:
    from starloom.tasks.kernels.programs.benchmark_files import text_of

    task_id = text_of(problem, benchmark.id_field, where, or_number=True)
    if benchmark.format == "fields":
        return task_id, [text_of(problem, name, where) for name in benchmark.fields]
    prompt = text_of(problem, "prompt", where)
    return task_id, [docstring(prompt) or described(prompt), text_of(problem, "canonical_solution", where)]


def docstring(prompt: str) -> str:
    """Return the last docstring of a prompt, as written: that of the function to complete, not its helper's. Empty if none."""
    for quotes in ('"""', "'''"):
        pieces = prompt.split(quotes)
        if len(pieces) >= len(("before", "docstring", "after")):
            return pieces[-2].strip()
    return ""


def described(prompt: str) -> str:
    """Return a prompt without a docstring if it says more than a signature, which is common: a comment, or another language's."""
    return prompt if len([line for line in prompt.split("\n") if line.strip()]) > 1 else ""
