"""Drop files that are data, minified or generated, judged by measured signals.

Reads   Docs      doc_id, content, language, is_generated
        Signals   doc_id, num_chars, num_lines, max_line_length, avg_line_length, alnum_fraction, alpha_fraction, has_xml_declaration,
                  is_generated: measured once; the thresholds below are applied without reading text again
Writes  Verdicts  rule = the signal of the first rule that fails (max-line-length, alnum-fraction …), value = the signal,
                  threshold = the limit that it crossed
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from starloom.tasks.frame.languages import LanguageList
from starloom.tasks.frame.stage import Config, Runtime, prepare, stage
from starloom.tasks.schemas import Docs, Signals, Verdicts

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

SignalName = Literal[
    "num_chars",
    "num_lines",
    "max_line_length",
    "avg_line_length",
    "alnum_fraction",
    "alpha_fraction",
    "has_xml_declaration",
    "is_generated",
]


LARGEST = {"alnum_fraction": 1, "alpha_fraction": 1, "has_xml_declaration": 1, "is_generated": 1}
"""The most that a signal can be, where there is such a thing; the least is 0."""


class Rule(Config):
    """A limit on one signal; true counts as 1, false as 0."""

    signal: SignalName
    """The signal that is limited."""
    min: float | None = None
    """Drop below this threshold."""
    max: float | None = None
    """Drop above this threshold."""
    languages: LanguageList = Field(default=[])
    """Languages to judge, by name or by list (starcoder-86, starcoder2-17, starcoder2-605); by default all."""
    except_languages: LanguageList = Field(default=[])
    """Languages not to judge, likewise."""

    @model_validator(mode="after")
    def _limits_something(self) -> Rule:
        if self.min is None and self.max is None:
            raise ValueError(f"the rule on {self.signal} has neither min nor max, so it would never drop anything")
        low, high = (-inf if self.min is None else self.min), (inf if self.max is None else self.max)
        if low > high or low > LARGEST.get(self.signal, inf) or high < 0:
            limits = " and ".join(f"{name} {limit:g}" for name, limit in (("min", self.min), ("max", self.max)) if limit is not None)
            reach = f"0 to {LARGEST[self.signal]}" if self.signal in LARGEST else "0 or more"
            raise ValueError(f"the rule on {self.signal} ({limits}) would drop every file: it is {reach}, and min may not be above max")
        return self


_V1_ANY_LINES = ["Bluespec", "BibTeX", "CMake", "Markdown", "MATLAB", "R", "RMarkdown", "reStructuredText", "SQL", "Stata", "TeX"]
_V1_ANY_LINES += ["Wolfram Language"]
_V2_ANY_LINES = ["HTML", "JSON", "Markdown", "Roff", "SMT", "TeX", "Text", "XML"]
_V2_SHORT = ["Graphviz (DOT)", "JSON", "Text", "Web Ontology Language", "YAML"]

PRESETS: dict[str, tuple[dict[str, object], ...]] = {
    # bigcode-dataset preprocessing/filtering.py and visual_inspection.csv ("Mathematica" there is Linguist's Wolfram Language).
    "starcoder": (
        {"signal": "max_line_length", "max": 1000, "except_languages": _V1_ANY_LINES},
        {"signal": "avg_line_length", "max": 100, "except_languages": _V1_ANY_LINES},
        {"signal": "alnum_fraction", "min": 0.25},
        {"signal": "alpha_fraction", "min": 0.5, "languages": ["JSON", "YAML"]},
        {"signal": "num_chars", "min": 50, "max": 5000, "languages": ["JSON", "YAML"]},
        {"signal": "has_xml_declaration", "max": 0, "except_languages": ["XSLT"]},
    ),
    # arXiv 2402.19173 §2.1, without its rules on encoded data, visible HTML text and names of Text files.
    "starcoder2": (
        {"signal": "num_lines", "max": 100_000},
        {"signal": "max_line_length", "max": 100_000},
        {"signal": "max_line_length", "max": 1000, "except_languages": _V2_ANY_LINES},
        {"signal": "avg_line_length", "max": 100, "except_languages": _V2_ANY_LINES},
        {"signal": "is_generated", "max": 0},
        {"signal": "alpha_fraction", "min": 0.25, "except_languages": ["WebAssembly"]},
        {"signal": "alnum_fraction", "min": 0.25, "languages": ["WebAssembly"]},
        {"signal": "num_lines", "max": 512, "languages": _V2_SHORT},
    ),
}


class TextSignals(Config):
    """Knobs of `signals`; there are none."""


class QualityFilter(TextSignals):
    """Knobs of quality_filter."""

    rules: Literal["starcoder", "starcoder2"] | list[Rule] = "starcoder"
    """The published rules of a model, or a list of rules; the verdict names the first that fails."""
    more_rules: list[Rule] = Field(default=[])
    """Judged after `rules`."""

    def all_rules(self) -> list[Rule]:
        """Return the rules in the order in which they are judged."""
        named = [Rule.model_validate(rule) for rule in PRESETS[self.rules]] if isinstance(self.rules, str) else self.rules
        return [*named, *self.more_rules]


@prepare()
def signals(docs: Docs, cfg: TextSignals, runtime: Runtime) -> Signals:  # noqa: ARG001 - no knobs, and no progress at 500 MB/s
    """Measure every text once."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from starloom.tasks.kernels.text.text_signals import text_signals

    table = docs.read(["doc_id", "content", "is_generated"])
    measured = text_signals(table.column("content"))
    is_generated = pc.or_(table.column("is_generated").combine_chunks(), measured.pop("has_generated_phrase"))
    return Signals.of(pa.table({"doc_id": table.column("doc_id"), **measured, "is_generated": is_generated}))


@stage(prepare=signals)
def quality_filter(docs: Docs, signals: Signals, cfg: QualityFilter, runtime: Runtime) -> Verdicts:  # noqa: ARG001 - quick
    """Judge the signals."""
    table = docs.read(["doc_id", "language"])
    measured = signals.read()
    assert measured.column("doc_id").equals(table.column("doc_id")), "signals and documents have different rows"
    return docs.verdicts(*_judge(measured, table.column("language"), cfg.all_rules()))


def _judge(measured: pa.Table, languages: pa.ChunkedArray, rules: list[Rule]) -> tuple[NDArray[np.bool_], pa.Array, pa.Array, pa.Array]:
    """Return (keep, rule, value, threshold) by the first rule that fails."""
    import numpy as np
    import pyarrow as pa

    first = np.full(measured.num_rows, -1)
    value, threshold = np.zeros(measured.num_rows), np.zeros(measured.num_rows)
    for number, rule in enumerate(rules):
        found = measured.column(rule.signal).to_numpy().astype(np.float64)
        over = found > (np.inf if rule.max is None else rule.max)
        under = found < (-np.inf if rule.min is None else rule.min)
        fails = (over | under) & (first < 0) & _concerns(rule, languages)
        first[fails] = number
        value[fails] = found[fails]
        threshold[fails] = np.where(over, rule.max or 0, rule.min or 0)[fails]
    keep = first < 0
    names = pa.array([rule.signal.replace("_", "-") for rule in rules], pa.string())
    return keep, names.take(pa.array(first, mask=keep)), pa.array(value, mask=keep), pa.array(threshold, mask=keep)


def _concerns(rule: Rule, languages: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Return the rows that a rule applies to. A file of no known language is in no list."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    spoken: NDArray[np.bool_] = np.ones(len(languages), bool)
    if rule.languages:
        spoken = pc.is_in(languages, pa.array(rule.languages, pa.string())).to_numpy()
    if rule.except_languages:
        spoken = spoken & ~pc.is_in(languages, pa.array(rule.except_languages, pa.string())).to_numpy()
    return spoken
