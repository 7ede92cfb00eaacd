"""Drop files that are data, minified, generated or repetitive, judged by measured signals.

Reads   Docs      doc_id, content, language, is_generated; path and stars where a rule is on them
        Signals   doc_id, num_chars, num_lines, max_line_length, avg_line_length, alnum_fraction, alpha_fraction, has_xml_declaration,
                  is_generated, duplicate_line_fraction, duplicate_line_char_fraction, max_base64_length, max_hex_length,
                  max_unicode_escape_length, encoded_fraction, of HTML visible_chars and visible_fraction, and what `measure` adds:
                  measured once; the thresholds below are applied without reading text again
Writes  Verdicts  rule = the signal of the first rule that fails (max-line-length, alnum-fraction …), value = the signal,
                  threshold = the limit that it crossed; detail = of is-malware, its name
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from starloom.lineage.errors import did_you_mean
from starloom.tasks.frame.stage import Config, Runtime, prepare, stage
from starloom.tasks.schemas import Docs, Signals, Verdicts

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

Measure = Literal["comments", "ngrams", "malware"]
SignalName = Literal[
    "num_chars",
    "num_lines",
    "max_line_length",
    "avg_line_length",
    "alnum_fraction",
    "alpha_fraction",
    "has_xml_declaration",
    "is_generated",
    "duplicate_line_fraction",
    "duplicate_line_char_fraction",
    "max_base64_length",
    "max_hex_length",
    "max_unicode_escape_length",
    "encoded_fraction",
    "visible_chars",
    "visible_fraction",
    "comment_fraction",
    "top_2gram_fraction",
    "top_3gram_fraction",
    "top_4gram_fraction",
    "duplicate_5gram_fraction",
    "duplicate_6gram_fraction",
    "duplicate_7gram_fraction",
    "duplicate_8gram_fraction",
    "duplicate_9gram_fraction",
    "duplicate_10gram_fraction",
    "is_malware",
    "stars",
    "has_known_name",
    "excluded_by_starcoder",
    "outside_starcoder",
    "excluded_by_starcoder2",
    "outside_starcoder2",
]

FLAGS = ("is_malware", "has_known_name", "excluded_by_starcoder", "outside_starcoder", "excluded_by_starcoder2", "outside_starcoder2")
FRACTIONS = ("alnum_fraction", "alpha_fraction", "duplicate_line_fraction", "duplicate_line_char_fraction", "visible_fraction")
LARGEST = {"has_xml_declaration": 1, "is_generated": 1, **dict.fromkeys((*FLAGS, *FRACTIONS, "comment_fraction"), 1)}
"""The most that a signal can be, where there is such a thing; the least is 0."""
BY_DOCUMENT = ("stars", "has_known_name", "excluded_by_starcoder", "outside_starcoder", "excluded_by_starcoder2", "outside_starcoder2")
"""Signals that follow from a document's columns, and are not measured."""
NEEDS: dict[str, Measure] = {
    "comment_fraction": "comments",
    "is_malware": "malware",
    **{f"top_{n}gram_fraction": "ngrams" for n in (2, 3, 4)},
    **{f"duplicate_{n}gram_fraction": "ngrams" for n in range(5, 11)},
}
"""Signal → what `measure` must hold."""
_SHOWN_LANGUAGES = 3


class Rule(Config):
    """A limit on one signal; true counts as 1, false as 0. What has no value, such as the visible text of Python, it does not drop."""

    signal: SignalName
    """The signal that is limited."""
    min: float | None = None
    """Drop below this threshold."""
    max: float | None = None
    """Drop above this threshold."""
    languages: list[str] = Field(default=[])
    """Languages to judge, or extensions of one (`GLSL/fsh`); by default all."""
    except_languages: list[str] = Field(default=[])
    """Languages, or extensions of one, not to judge."""

    @field_validator("languages", "except_languages")
    @classmethod
    def _known_languages(cls, languages: list[str]) -> list[str]:
        from starloom.tasks.kernels.sources.languages import known_languages

        known = list(known_languages())
        for language in languages:
            name = language.partition("/")[0]
            if name not in known:
                raise ValueError(f"unknown language {name!r}: {did_you_mean(name, known)}")
        return sorted(languages)

    @model_validator(mode="after")
    def _limits_something(self) -> Rule:
        self.check_limits()
        return self

    def check_limits(self) -> None:
        """Check that the limits drop something, and not everything.

        Raises:
            ValueError: saying which does not.
        """
        if self.min is None and self.max is None:
            raise ValueError(f"the rule on {self.signal} has neither min nor max, so it would never drop anything")
        low, high = (-inf if self.min is None else self.min), (inf if self.max is None else self.max)
        if low > high or low > LARGEST.get(self.signal, inf) or high < 0:
            limits = " and ".join(f"{name} {limit:g}" for name, limit in (("min", self.min), ("max", self.max)) if limit is not None)
            reach = f"0 to {LARGEST[self.signal]}" if self.signal in LARGEST else "0 or more"
            raise ValueError(f"the rule on {self.signal} ({limits}) would drop every file: it is {reach}, and min may not be above max")


class Limits(Config):
    """Limits in the place of those of a rule."""

    min: float | None = None
    """Drop below this threshold."""
    max: float | None = None
    """Drop above this threshold."""


def published(name: str) -> list[Rule]:
    """Return the rules of a published set. They may name languages that `ingest` does not tell yet."""
    from starloom.tasks.kernels.text.quality_rules import PRESETS, SETS

    return [Rule.model_construct(**rule) for rule in {**PRESETS, **SETS}[name]]


class TextSignals(Config):
    """Knobs of `signals`."""

    measure: list[Measure] = Field(default=[])
    """Signals that cost more, for rules on them: `comments`, `ngrams`, and `malware`, which runs ClamAV's `clamscan`."""

    @field_validator("measure")
    @classmethod
    def _in_order(cls, names: list[Measure]) -> list[Measure]:
        return sorted(set(names))

    def identity(self) -> dict[str, Any]:
        """Return the knobs, and with malware the version of ClamAV's signatures, which decides what is found."""
        from starloom.tasks.common.clamav import signatures

        return {**super().identity(), **({"clamav": signatures()} if "malware" in self.measure else {})}

    def check_here(self, step: str) -> None:
        """Refuse to look for malware where ClamAV is not installed."""
        from starloom.tasks.common.clamav import check_installed

        if "malware" in self.measure:
            check_installed(f"{step}.measure")


class QualityFilter(TextSignals):
    """Knobs of quality_filter."""

    rules: Literal["starcoder", "starcoder2"] | list[Rule] = "starcoder"
    """The published rules of a model, or a list of rules; the verdict names the first that fails."""
    rule_sets: list[
        Literal[
            "santacoder_comments", "santacoder_stars", "opencoder_repetition", "no_malware", "starcoder_languages", "starcoder2_languages"
        ]
    ] = Field(default=[])
    """Published rules that are judged after `rules`; the comments, repetition and malware must be in `measure`."""
    more_rules: list[Rule] = Field(default=[])
    """Judged after those."""
    thresholds: dict[str, Limits] = Field(default={})
    """Other limits of rules, published ones too: signal → min, max; `num_lines:2` of the second of several rules on one signal."""

    @model_validator(mode="after")
    def _are_measured(self) -> QualityFilter:
        for rule in self.all_rules():
            needed = NEEDS.get(rule.signal)
            if needed is not None and needed not in self.measure:
                raise ValueError(f"a rule is on {rule.signal}, which is not measured: add {needed} to `measure`")
        return self

    def adjustable(self) -> dict[str, float]:
        """Return the limits of all rules, as `thresholds` names them."""
        rules = self.all_rules()
        named = zip(_names(rules), rules, strict=True)
        return {f"thresholds.{name}.{side}": getattr(rule, side) for name, rule in named for side in _sides(rule)}

    def all_rules(self) -> list[Rule]:
        """Return the rules in the order in which they are judged, with the limits of `thresholds`.

        Raises:
            ValueError: a threshold is of no rule, or of several.
        """
        named = published(self.rules) if isinstance(self.rules, str) else self.rules
        rules = [*named, *(rule for name in self.rule_sets for rule in published(name)), *self.more_rules]
        names = _names(rules)
        for name, limits in self.thresholds.items():
            at = _named(name, names, rules)
            given = limits.model_dump(exclude_none=True)
            missing = [side for side in given if getattr(rules[at], side) is None]
            if missing or not given:
                raise ValueError(f"the threshold of {name} is {_limits(rules[at])}: give {' and '.join(_sides(rules[at]))}")
            rules[at] = rules[at].model_copy(update=given)
            rules[at].check_limits()
        return rules


def _names(rules: list[Rule]) -> list[str]:
    """Return the names of rules: their signals, numbered from 1 where several are on one."""
    signals = [rule.signal for rule in rules]
    return [name if signals.count(name) == 1 else f"{name}:{signals[: at + 1].count(name)}" for at, name in enumerate(signals)]


def _named(name: str, names: list[str], rules: list[Rule]) -> int:
    """Return the place of the rule of a name."""
    if name in names:
        return names.index(name)
    several = [f"{each} ({_limits(rule)}{_of(rule)})" for each, rule in zip(names, rules, strict=True) if each.startswith(f"{name}:")]
    told = f"several rules are on it: {'; '.join(several)}" if several else f"no rule is on it; {did_you_mean(name, names)}"
    raise ValueError(f"the threshold of {name}: {told}")


def _sides(rule: Rule) -> list[str]:
    return [side for side in ("min", "max") if getattr(rule, side) is not None]


def _limits(rule: Rule) -> str:
    return " and ".join(f"{side} {getattr(rule, side):g}" for side in _sides(rule))


def _of(rule: Rule) -> str:
    """Return the languages that a rule is about, in words."""
    named, words = rule.languages or rule.except_languages, "" if rule.languages else "all but "
    return f", {words}{', '.join(named[:_SHOWN_LANGUAGES])}{' …' if len(named) > _SHOWN_LANGUAGES else ''}" if named else ""


@prepare()
def signals(docs: Docs, cfg: TextSignals, runtime: Runtime) -> Signals:
    """Measure every text once."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from starloom.tasks.kernels.text.encoded_data import encoded_data
    from starloom.tasks.kernels.text.text_signals import text_signals

    table = docs.read(["doc_id", "content", "is_generated", "language"])
    texts = table.column("content")
    measured = text_signals(texts)
    is_generated = pc.or_(table.column("is_generated").combine_chunks(), measured.pop("has_generated_phrase"))
    encoded = encoded_data(texts)
    chars = np.maximum(measured["num_chars"], 1)
    share = encoded.pop("encoded_chars") / chars
    found = {**measured, "is_generated": is_generated, **encoded, "encoded_fraction": share}
    found |= _visible(texts, table.column("language"), chars)
    found |= _measured(table, cfg, runtime)
    return Signals.of(pa.table({"doc_id": table.column("doc_id"), **found}))


def _visible(texts: pa.ChunkedArray, languages: pa.ChunkedArray, chars: NDArray[np.int64]) -> dict[str, pa.Array]:
    """Measure the visible text of HTML; null elsewhere."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from starloom.tasks.kernels.text.visible_text import visible_chars

    at = pc.indices_nonzero(pc.fill_null(pc.equal(languages, "HTML"), fill_value=False)).to_numpy()
    visible, is_other = np.zeros(len(texts), np.int64), np.ones(len(texts), bool)
    visible[at], is_other[at] = visible_chars(texts.take(pa.array(at))), False
    return {"visible_chars": pa.array(visible, mask=is_other), "visible_fraction": pa.array(visible / chars, mask=is_other)}


def _measured(table: pa.Table, cfg: TextSignals, runtime: Runtime) -> dict[str, Any]:
    """Measure what costs more, where it is wanted."""
    from starloom.tasks.common.clamav import malware
    from starloom.tasks.kernels.text.comments import comment_fractions
    from starloom.tasks.kernels.text.ngrams import ngram_signals

    found: dict[str, Any] = {}
    if "comments" in cfg.measure:
        found["comment_fraction"] = comment_fractions(table.column("content"), table.column("language"))
    if "ngrams" in cfg.measure:
        found |= ngram_signals(table.column("content"))
    if "malware" in cfg.measure:
        names = malware(table.column("content"), runtime.scratch)
        found |= {"is_malware": names.is_valid(), "malware": names}
    return found


@stage(prepare=signals)
def quality_filter(docs: Docs, signals: Signals, cfg: QualityFilter, runtime: Runtime) -> Verdicts:  # noqa: ARG001 - quick
    """Judge the signals."""
    import pyarrow as pa

    rules = cfg.all_rules()
    table = docs.read(["doc_id", "language", "path", "stars"])
    table = table.append_column("pair", _pairs(table))
    measured = signals.read()
    assert measured.column("doc_id").equals(table.column("doc_id")), "signals and documents have different rows"
    for name in dict.fromkeys(rule.signal for rule in rules if rule.signal in BY_DOCUMENT):
        measured = measured.append_column(name, _of_documents(table, name))
    keep, rule, value, threshold = _judge(measured, table, rules)
    detail = None
    if "malware" in measured.column_names:
        import pyarrow.compute as pc

        detail = pc.if_else(
            pc.fill_null(pc.equal(rule, "is-malware"), fill_value=False), measured.column("malware"), pa.scalar(None, pa.string())
        )
    return docs.verdicts(keep, rule, value, threshold, detail)


def _of_documents(table: pa.Table, signal: str) -> pa.Array | pa.ChunkedArray:
    """Return a signal that follows from the columns of documents."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from starloom.tasks.kernels.text import inspected_extensions as inspected
    from starloom.tasks.kernels.text.quality_rules import TEXT_NAMES

    if signal == "stars":
        return pc.fill_null(table.column("stars"), 0)
    if signal == "has_known_name":
        names = pc.utf8_lower(pc.replace_substring_regex(table.column("path"), "^.*/", ""))
        stems = pc.replace_substring_regex(names, r"\.[^.]*$", "")
        return pc.or_(pc.match_substring(names, "requirement"), pc.is_in(stems, pa.array(TEXT_NAMES)))
    pairs = table.column("pair")
    if signal == "excluded_by_starcoder":
        return pc.is_in(pairs, pa.array(sorted(inspected.starcoder_pairs()[1])))
    if signal == "outside_starcoder":
        return pc.invert(pc.is_in(pairs, pa.array(sorted(inspected.starcoder_pairs()[0]))))
    if signal == "excluded_by_starcoder2":
        return pc.is_in(pairs, pa.array(sorted(inspected.starcoder2_excluded())))
    return pc.invert(pc.is_in(table.column("language"), pa.array(sorted(inspected.starcoder2_languages()))))


def _pairs(table: pa.Table) -> pa.ChunkedArray:
    """Return `language/extension` of each document; null without a language."""
    import pyarrow.compute as pc

    names = pc.replace_substring_regex(table.column("path"), "^.*/", "")
    extensions = pc.utf8_lower(pc.replace_substring_regex(names, r"^(?:.+\.([^.]*)|.*)$", r"\1"))
    return pc.binary_join_element_wise(table.column("language"), extensions, "/")


def _judge(measured: pa.Table, table: pa.Table, rules: list[Rule]) -> tuple[NDArray[np.bool_], pa.Array, pa.Array, pa.Array]:
    """Return (keep, rule, value, threshold) by the first rule that fails. A signal that is null fails none."""
    import numpy as np
    import pyarrow as pa

    first = np.full(measured.num_rows, -1)
    value, threshold = np.zeros(measured.num_rows), np.zeros(measured.num_rows)
    for number, rule in enumerate(rules):
        found = measured.column(rule.signal).to_numpy().astype(np.float64)
        over = found > (np.inf if rule.max is None else rule.max)
        under = found < (-np.inf if rule.min is None else rule.min)
        fails = (over | under) & (first < 0)
        if fails.any():
            fails &= _concerns(rule, table)
        first[fails] = number
        value[fails] = found[fails]
        threshold[fails] = np.where(over, rule.max or 0, rule.min or 0)[fails]
    keep = first < 0
    names = pa.array([rule.signal.replace("_", "-") for rule in rules], pa.string())
    return keep, names.take(pa.array(first, mask=keep)), pa.array(value, mask=keep), pa.array(threshold, mask=keep)


def _concerns(rule: Rule, table: pa.Table) -> NDArray[np.bool_]:
    """Return the rows that a rule applies to. A file of no known language is in no list."""
    import numpy as np

    spoken: NDArray[np.bool_] = np.ones(table.num_rows, bool)
    if rule.languages:
        spoken = _is_one_of(table, rule.languages)
    if rule.except_languages:
        spoken = spoken & ~_is_one_of(table, rule.except_languages)
    return spoken


def _is_one_of(table: pa.Table, languages: list[str]) -> NDArray[np.bool_]:
    """Return the rows of some languages, or of some extensions of one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: NDArray[np.bool_] = pc.is_in(table.column("language"), pa.array(languages, pa.string())).to_numpy()
    if any("/" in language for language in languages):
        found = found | pc.is_in(table.column("pair"), pa.array(languages, pa.string())).to_numpy()
    return found
