"""Quality signals and StarCoder's rules, against the plain Python of bigcode-dataset."""

from __future__ import annotations

from pathlib import Path

from starloom.bench._tool import Corpus, Tool

TITLE = "quality signals and rules"


def _ours(corpus: Corpus) -> object:
    """Run the stage, both halves: signals, then verdicts."""
    from starloom.tasks.frame.stage import Runtime
    from starloom.tasks.quality_filter import QualityFilter, TextSignals, quality_filter, signals
    from starloom.tasks.schemas import Docs

    docs, runtime = Docs.of(corpus.table), Runtime(Path())
    return quality_filter.function(docs, signals.function(docs, TextSignals(), runtime), QualityFilter(), runtime)


def _our_kernel(corpus: Corpus) -> object:
    from starloom.tasks.kernels.text.text_signals import text_signals

    return text_signals(corpus.table.column("content"))


def _bigcode(corpus: Corpus) -> list[bool]:
    """Measure and judge as preprocessing/filtering.py does: line lengths, their mean, share of letters and digits."""
    keep = []
    for text in corpus.texts:
        lengths = [len(line) for line in text.splitlines()]
        alnum = sum(map(str.isalnum, text)) / max(len(text), 1)
        keep.append(max(lengths, default=0) <= 1000 and sum(lengths) / max(len(lengths), 1) <= 100 and alnum >= 0.25)
    return keep


def _arrow(corpus: Corpus) -> object:
    """Measure what pyarrow's own functions can: lengths, number of lines, ASCII letters."""
    import pyarrow.compute as pc

    column = corpus.table.column("content")
    letters = pc.utf8_length(pc.replace_substring_regex(column, r"[^0-9A-Za-z]+", ""))
    return pc.utf8_length(column), pc.count_substring(column, "\n"), letters


TOOLS = [
    Tool("starloom", _ours, is_ours=True),
    Tool("starloom, signals only", _our_kernel),
    Tool("bigcode-dataset, plain Python", _bigcode),
    Tool("pyarrow, ASCII only, no line lengths", _arrow),
]
