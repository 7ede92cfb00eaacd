"""Decontamination on one core against 164 problems of HumanEval's size, by every way to find strings in a text."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from starloom.bench._tool import Corpus, Tool

if TYPE_CHECKING:
    from starloom.tasks.kernels.text.substrings import Patterns

TITLE = "benchmark strings in documents, whitespace removed, one core"

NUM_PROBLEMS = 164
DOCSTRING_CHARS, SOLUTION_CHARS = 350, 160
"""Medians of HumanEval, whose own strings are not shipped."""


@cache
def _strings() -> tuple[str, ...]:
    """Cut slices of files of the standard library, with a letter changed: as common as real code, and found nowhere."""
    import sysconfig
    from pathlib import Path

    from starloom.tasks.kernels.text.substrings import normalised

    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [normalised(path.read_text("utf-8"), keep_whitespace=False) for path in files]
    long = [text for text in texts if len(text) > DOCSTRING_CHARS * 4][:NUM_PROBLEMS]
    docstrings = [text[DOCSTRING_CHARS : 2 * DOCSTRING_CHARS] + "¤" for text in long]
    return (*docstrings, *(text[-SOLUTION_CHARS:] + "¤" for text in long))


def _patterns() -> Patterns:
    from starloom.tasks.kernels.text.substrings import prepare_patterns

    return prepare_patterns([string.encode() for string in _strings()])


def _ours(corpus: Corpus) -> object:
    """Normalise and search a column."""
    from starloom.tasks.kernels.text.substrings import first_matches, normalised_column

    patterns = _patterns()
    batches = corpus.table.select(["content"]).to_batches(max_chunksize=4096)
    return [first_matches(*normalised_column(batch.column(0), keep_whitespace=False), patterns) for batch in batches]


def _bigcode(corpus: Corpus) -> object:
    """Run the loop of bigcode-dataset, decontamination/find_substrings.py, with StarCoder2's normalisation."""
    strings = _strings()
    return [any(string in content for string in strings) for content in ("".join(text.lower().split()) for text in corpus.texts)]


def _aho_corasick(corpus: Corpus) -> object:
    """Search with an automaton of all strings, in the fastest of its three builds; normalisation is ours."""
    import ahocorasick_rs

    from starloom.tasks.kernels.text.substrings import normalised_column

    automaton = ahocorasick_rs.BytesAhoCorasick([s.encode() for s in _strings()], implementation=ahocorasick_rs.Implementation.DFA)
    batches = corpus.table.select(["content"]).to_batches(max_chunksize=4096)
    columns = (normalised_column(batch.column(0), keep_whitespace=False) for batch in batches)
    return [automaton.find_matches_as_indexes(data.tobytes(), overlapping=True) for _, data in columns]


TOOLS = (
    Tool("starloom", _ours, is_ours=True),
    Tool("bigcode-dataset, `in`", _bigcode),
    Tool("ahocorasick-rs, DFA", _aho_corasick, requires=("ahocorasick-rs",)),
)
