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


def _our_signals(corpus: Corpus) -> object:
    """Measure all signals but those on request."""
    from starloom.tasks.frame.stage import Runtime
    from starloom.tasks.quality_filter import TextSignals, signals
    from starloom.tasks.schemas import Docs

    return signals.function(Docs.of(corpus.table), TextSignals(), Runtime(Path()))


def _our_dear_signals(corpus: Corpus) -> object:
    """Measure them all."""
    from starloom.tasks.frame.stage import Runtime
    from starloom.tasks.quality_filter import TextSignals, signals
    from starloom.tasks.schemas import Docs

    return signals.function(Docs.of(corpus.table), TextSignals(measure=["comments", "ngrams"]), Runtime(Path()))


def _re_encoded(corpus: Corpus) -> list[tuple[int, int]]:
    """Look for encoded data as opc_data_filtering does, by the published expressions."""
    import re

    from starloom.tasks.kernels.text.encoded_data import PATTERNS

    compiled = [re.compile(pattern) for pattern in PATTERNS.values()]
    found = [[len(match.group()) for pattern in compiled for match in pattern.finditer(text)] for text in corpus.texts]
    return [(max(lengths, default=0), sum(lengths)) for lengths in found]


def _our_encoded(corpus: Corpus) -> object:
    from starloom.tasks.kernels.text.encoded_data import encoded_data

    return encoded_data(corpus.table.column("content"))


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
    Tool("starloom, signals only", _our_signals),
    Tool("starloom, with comments and n-grams", _our_dear_signals),
    Tool("starloom, encoded data only", _our_encoded),
    Tool("the published expressions by re, encoded data only", _re_encoded),
    Tool("bigcode-dataset, plain Python", _bigcode),
    Tool("pyarrow, ASCII only, no line lengths", _arrow),
]
