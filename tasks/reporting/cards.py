"""Model cards and data cards in Markdown, from numbers.

The front matter is what model hubs read (huggingface.co/docs/hub/model-cards; its field names as in SantaCoder's card:
license, pipeline_tag, programming_language, model-index). Headings follow Mitchell et al. 2019, "Model cards for model
reporting", arXiv 1810.03993, and Gebru et al. 2021, "Datasheets for datasets", arXiv 1803.09010, as far as there are
numbers for them. Guarantee: the same numbers give the same bytes; no text from a corpus can break out of its cell.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starloom.tasks.reporting.charts import readable_bytes, readable_share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MAX_CELL_CHARS = 80
UNNAMED = "(none)"
ACTIVE = re.compile(r"[\\`*\[\]|~#]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown acts on; an underscore between letters is only that."""


@dataclass(frozen=True)
class Step:
    """A step of the recipe and its results."""

    name: str
    stage: str
    config: dict[str, Any]
    outputs: dict[str, dict[str, Any]]
    """Artifact type → {"artifact": hash, "counts": {...}}."""

    def counts(self, kind: str) -> dict[str, Any]:
        """Return the counts of one of its outputs; empty if it has no such output."""
        counts: dict[str, Any] = self.outputs.get(kind, {}).get("counts", {})
        return counts


@dataclass(frozen=True)
class Group:
    """Documents that share a property."""

    name: str
    num_docs: int
    num_bytes: int


@dataclass(frozen=True)
class Corpus:
    """The documents that the model was made from, counted in three ways, each largest first."""

    num_docs: int
    num_bytes: int
    languages: list[Group]
    licenses: list[Group]
    repositories: list[Group]


@dataclass(frozen=True)
class FunnelRow:
    """The documents kept by one step."""

    step: str
    num_docs: int
    num_bytes: int
    num_dropped: int = 0
    dropped_bytes: int = 0
    rules: dict[str, int] = field(default_factory=dict)
    """Rule → documents that it dropped, most first."""


def funnel_rows(steps: Iterable[Step]) -> list[FunnelRow]:
    """Return a row for each step that wrote documents or judged them."""
    rows = []
    for step in steps:
        if "Verdicts" in step.outputs:
            counts = step.counts("Verdicts")
            rules = dict(sorted(counts["rules"].items(), key=lambda rule: (-rule[1], rule[0])))
            lost_bytes = counts["seen_bytes"] - counts["kept_bytes"]
            rows.append(FunnelRow(step.name, counts["kept"], counts["kept_bytes"], counts["dropped"], lost_bytes, rules))
        elif "Docs" in step.outputs:
            rows.append(FunnelRow(step.name, step.counts("Docs")["rows"], step.counts("Docs")["text_bytes"]))
    return rows


def cell(value: object) -> str:
    """Return a value as the text of one table cell: one line, bounded, with Markdown and HTML escaped."""
    text = re.sub(r"\s+", " ", str(value)).strip()
    text = "".join(character if character.isprintable() else "\ufffd" for character in text)
    if len(text) > MAX_CELL_CHARS:
        text = text[: MAX_CELL_CHARS - 1] + "…"
    return re.sub(ACTIVE, r"\\\g<0>", html.escape(text, quote=False))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; columns of numbers are those whose header starts with `#`, which is left out."""
    is_number = [name.startswith("#") for name in header]
    lines = [header_cells := [name.lstrip("#") for name in header], ["---:" if number else "---" for number in is_number]]
    lines += [[cell(value) for value in row] for row in rows]
    assert all(len(line) == len(header_cells) for line in lines), "a row has another number of cells than the header"
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def group_table(title: str, groups: Sequence[Group], total_bytes: int, most: int) -> str:
    """Return the largest groups, and the rest as one row."""
    shown, rest = list(groups[:most]), groups[most:]
    if rest:
        shown.append(Group(f"{len(rest):,} others", sum(group.num_docs for group in rest), sum(group.num_bytes for group in rest)))
    rows = [
        (group.name or UNNAMED, f"{group.num_docs:,}", readable_bytes(group.num_bytes), _share(group.num_bytes, total_bytes))
        for group in shown
    ]
    return table((title, "#documents", "#text", "#share of text"), rows)


def data_card(name: str, corpus: Corpus, steps: Sequence[Step], *, max_repositories: int, max_licenses: int) -> str:
    """Return the whole data card."""
    rows = funnel_rows(steps)
    return _document(
        f"# Data card: {cell(name)}",
        f"{corpus.num_docs:,} documents, {readable_bytes(corpus.num_bytes)} of text, from {len(corpus.repositories):,} repositories.",
        "## What each step kept",
        "![documents and text kept after each step](funnel.png)",
        _funnel_table(rows),
        "## Why documents were dropped",
        table(("step", "rule", "#documents"), [(row.step, rule, f"{count:,}") for row in rows for rule, count in row.rules.items()]),
        *_skipped(steps),
        "## Languages",
        group_table("language", corpus.languages, corpus.num_bytes, len(corpus.languages)),
        "## Licences",
        "As the repositories declare them; files and headers may say otherwise.",
        group_table("declared licence", corpus.licenses, corpus.num_bytes, max_licenses),
        "## Personal data",
        _redactions(steps),
        "## Benchmarks",
        *_benchmarks(steps),
        "## Repositories",
        group_table("repository", corpus.repositories, corpus.num_bytes, max_repositories),
    )


def _funnel_table(rows: Sequence[FunnelRow]) -> str:
    told, before = [], None
    for row in rows:
        share = _share(row.num_dropped, row.num_docs + row.num_dropped) if row.num_dropped else ""
        change = f"{row.num_bytes - before:+,} B" if before not in (None, row.num_bytes) else ""
        told.append((row.step, f"{row.num_docs:,}", f"{row.num_dropped:,}", share, readable_bytes(row.num_bytes), change))
        before = row.num_bytes
    return table(("step", "#documents kept", "#dropped", "#share dropped", "#text kept", "#change"), told)


def _skipped(steps: Sequence[Step]) -> list[str]:
    counts = [(step.name, step.counts("Skipped")["rows"]) for step in steps if "Skipped" in step.outputs]
    return [f"`{name}` left out {count:,} files that are no documents." for name, count in counts]


def _redactions(steps: Sequence[Step]) -> str:
    told = [f"`{step.name}` replaced {step.counts('Redactions')['rows']:,} occurrences." for step in steps if "Redactions" in step.outputs]
    return " ".join(told) or "No step looked for personal data or keys."


def _benchmarks(steps: Sequence[Step]) -> list[str]:
    found = [step for step in steps if step.stage == "decontaminate"]
    if not found:
        return ["No step looked for benchmarks."]
    told = []
    for step in found:
        names = sorted(set(_names_of(step.config.get("benchmarks"))))
        named = f" ({', '.join(cell(name) for name in names)})" if names else ""
        dropped = step.counts("Verdicts").get("dropped", 0)
        told.append(f"`{step.name}` dropped {dropped:,} documents that hold a passage of a benchmark{named}.")
    return told


def _names_of(value: Any) -> Iterable[str]:
    """Yield names in a list of benchmarks, written as strings or as mappings with a name."""
    for item in value if isinstance(value, (list, tuple)) else ():
        name = item.get("name") if isinstance(item, dict) else item
        if isinstance(name, str):
            yield name


@dataclass(frozen=True)
class Measured:
    """The fertility of a tokenizer on one language, or on all."""

    name: str
    num_bytes: int
    """Text measured."""
    bytes_per_token: float
    reference: float | None
    """Bytes that a token of another tokenizer holds, of the same text."""
    is_heldout: bool
    """Whether the tokenizer did not learn from that text."""

    @property
    def label(self) -> str:
        """Its name, marked if the tokenizer learnt from the text."""
        return self.name if self.is_heldout else f"{self.name} (learnt from)"


@dataclass(frozen=True)
class HeldoutLosses:
    """The loss of held-out text while the model was trained."""

    first_step: int
    last_step: int
    losses: list[tuple[str, float, float, int]]
    """language, nats per token at the first and at the last step, tokens measured."""


@dataclass(frozen=True)
class ModelFacts:
    """Numbers of a model card."""

    recipe: str
    family: str
    """As `model_type` of a config spells it."""
    network: str
    """Its class in transformers, without what it is for."""
    num_parameters: int
    architecture: list[tuple[str, str]]
    weights: list[str]
    """How they came about, as `weights` tells it."""
    base_models: list[str]
    """Repositories of a hub that they began with."""
    num_steps: int
    num_skipped: int
    """Of these, left out."""
    num_tokens: int
    num_sequences: int
    """That there were to train on."""
    num_epochs: float
    """How often each of those was seen, on average."""
    heldout_fraction: float
    """Chance of a repository to be kept from training."""
    fim_rate: float
    """Chance of a document to be written for fill-in-the-middle."""
    preparation: list[tuple[str, str]]
    """What documents went through between the corpus and the sequences, as `preparation` tells it."""
    first_loss: float
    """Of the first step, in nats per token."""
    last_loss: float
    """Mean of the last steps."""
    heldout: HeldoutLosses | None
    """None if it was not measured."""
    scores: list[tuple[str, str, str, str, str]]
    """benchmark, metric, language, value, number measured."""
    fertility: list[Measured]
    """All languages as one, then each; empty if the tokenizer was not measured."""


def weights(steps: Sequence[Step]) -> list[str]:
    """Describe each step that wrote weights, in Markdown; nothing if there was only one."""
    makers = [step for step in steps if "Checkpoint" in step.outputs]
    return [f"`{step.name}` {_made(step)}" for step in makers] if len(makers) > 1 else []


def _made(step: Step) -> str:
    config = step.config
    if step.stage == "import_checkpoint":
        named = config.get("checkpoint")
        if isinstance(named, str):
            name, _, commit = named.partition("@")
            return f"took {cell(name)} at commit {commit}"
        return "took a checkpoint made elsewhere, named in MANIFEST.json by the SHA-256 of its files"
    rank = (config.get("lora") or {}).get("rank")
    adapted = f" a low-rank adaptation (LoRA, rank {rank})" if rank else ""
    return f"trained{adapted} for {config.get('num_steps', 0):,} steps"


def base_models(steps: Sequence[Step]) -> list[str]:
    """Return names of the repositories of a hub that checkpoints were taken from."""
    named = [step.config.get("checkpoint") for step in steps if step.stage == "import_checkpoint"]
    return [name.partition("@")[0] for name in named if isinstance(name, str)]


def preparation(steps: Sequence[Step]) -> list[tuple[str, str]]:
    """Describe the last encoding and packing, for each knob that they had; (what, how), in Markdown."""
    configs = {step.stage: step.config for step in steps if step.stage in _PREPARATION}
    told = [(what, how(configs[stage])) for stage, tellers in _PREPARATION.items() if stage in configs for what, how in tellers.items()]
    return [(what, text) for what, text in told if text]


def _template(config: dict[str, Any]) -> str:
    if config.get("template", "none") == "none":
        return str(config.get("template", ""))
    rate = config.get("metadata_rate")
    return f"{config['template']}, {'at the published rate' if rate is None else f'at a rate of {rate:g}'}"


def _sequences(config: dict[str, Any]) -> str:
    length, packing = config.get("sequence_length"), config.get("packing")
    return ", ".join([*([f"{length:,} tokens each"] if length else []), *([_PACKINGS.get(packing, packing)] if packing else [])])


def _copies(config: dict[str, Any]) -> str:
    epochs = config.get("epochs")
    if epochs is None:
        return ""
    return "each document once" if epochs == 1 else f"each document {epochs} times, each time with other draws; those held out once"


def _mixture(config: dict[str, Any]) -> str:
    if "mixture" not in config:
        return ""
    weights = (config["mixture"] or {}).get("weights") or {}
    if not weights:
        return "no weights: every document as often"
    named = ", ".join(f"{cell(name)} {weight:g}" for name, weight in sorted(weights.items(), key=lambda pair: (-pair[1], pair[0])))
    return f"copies in an epoch by {config['mixture'].get('by', 'language')}: {named}; the others 1"


def _fill_in_the_middle(config: dict[str, Any]) -> str:
    if not config.get("fim_rate"):
        return ""
    level = _FIM_LEVELS.get(config.get("fim_level", ""), "")
    suffix_first = f"; suffix first (SPM) in {config['spm_rate']:g} of them" if "spm_rate" in config else ""
    kinds = f"; only of kind {', '.join(map(cell, config['fim_kinds']))}" if config.get("fim_kinds") else ""
    return f"at a rate of {config['fim_rate']:g}{level}{suffix_first}{kinds}"


def _fragments(config: dict[str, Any]) -> str:
    """Describe contexts of several files; others have no `<file_sep>`."""
    return f"{config['fragment_fim_rate']:g}" if config.get("fim_rate") and "fragment_fim_rate" in config else ""


_PACKINGS = {"concatenate": "contexts laid end to end and cut", "best_fit": "contexts kept whole where they fit (best fit)"}
_FIM_LEVELS = {"document": ", of whole documents before packing", "context": ", of what lies in a sequence, after packing"}
_PREPARATION: dict[str, dict[str, Callable[[dict[str, Any]], str]]] = {
    "encode": {"template": _template},
    "pack_fim": {
        "sequences": _sequences,
        "epochs": _copies,
        "mixture": _mixture,
        "fill-in-the-middle": _fill_in_the_middle,
        "of each file, where `<file_sep>` parts them": _fragments,
    },
}
"""Stage → what it did → how, from its knobs; empty where a knob is not there."""


def model_card(front_matter: str, name: str, facts: ModelFacts, corpus: Corpus) -> str:
    """Return the whole model card; `front_matter` is YAML."""
    size, num_repositories = readable_bytes(corpus.num_bytes), len(corpus.repositories)
    mostly = ", ".join(cell(group.name or UNNAMED) for group in corpus.languages[:3]) or "nothing"
    return _document(
        f"---\n{front_matter.strip()}\n---",
        f"# {cell(name)}",
        f"A code language model of {facts.num_parameters:,} parameters. The Starloom recipe {cell(facts.recipe)} trained it on a corpus of "
        f"{size} from {num_repositories:,} repositories.",
        "## Use",
        f"It completes code{' and fills in the middle' if facts.fim_rate else ''}. It was not trained to follow instructions.",
        _USE % (_FIM_PROMPT if facts.fim_rate else _PLAIN_PROMPT),
        "## Architecture",
        table((facts.network, "#"), facts.architecture),
        *_tokenizer(facts.fertility),
        "## Training",
        *_weights(facts.weights),
        _training(facts),
        "![training loss by step](loss_curve.png)",
        *_heldout_losses(facts.heldout),
        "## Evaluation",
        table(("benchmark", "metric", "language", "#value", "#measured"), facts.scores) if facts.scores else "Nothing was measured.",
        *_metrics(facts),
        "## Training data",
        f"The corpus has {corpus.num_docs:,} documents.{_heldout(facts)} [DATA_CARD.md](DATA_CARD.md) tells what was kept and dropped and "
        "why, and names the repositories and their licences.",
        *_prepared(facts),
        "## Limits",
        "What it writes may be wrong, insecure, or close to its training data, whose licences may ask for attribution; "
        f"{_trace(facts)}. Its corpus is mostly {mostly}.",
        "## Provenance",
        "[MANIFEST.json](MANIFEST.json) holds the SHA-256 of every other file here and of every artifact that they were made from, step by "
        "step.",
    )


def _tokenizer(fertility: Sequence[Measured]) -> list[str]:
    """Describe the tokenizer's fertility, if it was measured."""
    if not fertility:
        return []
    has_reference = fertility[0].reference is not None
    header = ("language", "#text measured", "#bytes per token", *(("#reference", "#difference") if has_reference else ()))
    rows = [
        (row.label, readable_bytes(row.num_bytes), f"{row.bytes_per_token:.3f}", *_beside(row.bytes_per_token, row.reference))
        for row in fertility
    ]
    beside = " The reference is another tokenizer on the same text." if has_reference else ""
    told = f"A token holds {fertility[0].bytes_per_token:.2f} bytes of the corpus, languages weighted by their text in it.{beside}"
    return ["## Tokenizer", told, "![bytes per token by language](fertility.png)", table(header, rows)]


def _beside(ours: float, reference: float | None) -> tuple[str, ...]:
    return () if reference is None else (f"{reference:.3f}", f"{ours / reference - 1:+.1%}")


def _training(facts: ModelFacts) -> str:
    if not facts.num_steps:
        return "It was not trained."
    return (
        f"{facts.num_steps:,} steps, {facts.num_tokens:,} tokens: {facts.num_epochs:.3g} epochs of {facts.num_sequences:,} training "
        f"sequences. The loss went from {facts.first_loss:.3f} at the first step to {facts.last_loss:.3f} nats per token, the mean "
        f"of the last steps.{_skipped_steps(facts.num_skipped)}"
    )


def _skipped_steps(count: int) -> str:
    if not count:
        return ""
    return f" {count:,} of the steps left the weights as they were: the loss was no number, or the gradient a spike."


def _trace(facts: ModelFacts) -> str:
    if not facts.weights:
        return "`starloom trace checkpoint` names the documents that it saw"
    return (
        "`starloom trace checkpoint` names the documents that the trainings above saw, `starloom trace checkpoint:STEP` those up to "
        "one of them; of weights taken from elsewhere it knows none"
    )


def _weights(told: Sequence[str]) -> list[str]:
    if not told:
        return []
    intro = "These steps of the recipe wrote weights; a training goes on from those before it, unless the recipe says otherwise:"
    return [intro, "\n".join(f"- {line}" for line in told), "The figures that follow are of the training that is released here."]


def _heldout_losses(measured: HeldoutLosses | None) -> list[str]:
    """Describe the loss of held-out text, from the first measurement to the last."""
    if measured is None:
        return []
    first, last = measured.first_step, measured.last_step
    header = ("held-out text", *((f"#at step {first:,}",) if first != last else ()), f"#at step {last:,}", "#tokens")
    rows = [
        (name, *((f"{before:.3f}",) if first != last else ()), f"{after:.3f}", f"{num_tokens:,}")
        for name, before, after, num_tokens in measured.losses
    ]
    return ["The loss of held-out text as it was trained, in nats per token:", table(header, rows)]


def _heldout(facts: ModelFacts) -> str:
    if not facts.heldout_fraction:
        return ""
    share = f"{facts.heldout_fraction:g} of its text in bytes was asked to be held out"
    return f" {share}, as whole repositories where these are small enough: measured on, never trained on."


def _prepared(facts: ModelFacts) -> list[str]:
    if not facts.preparation:
        return []
    return ["How documents became sequences:", "\n".join(f"- {what}: {how}" for what, how in facts.preparation)]


def _metrics(facts: ModelFacts) -> list[str]:
    """Explain the measured metrics, and no others."""
    measured = {name for benchmark, metric, *_ in facts.scores for name in (benchmark, metric.partition("@")[0])}
    told = "; ".join(meaning for name, meaning in _METRICS.items() if name in measured)
    return [f"{told}."] if told else []


_FIM_PROMPT = r'"<fim_prefix>def add(a, b):\n<fim_suffix>\n<fim_middle>"  # or plain code, to go on from it'
_PLAIN_PROMPT = r'"def add(a, b):\n"'
_USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
prompt = %s
print(tokenizer.decode(model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=32)[0]))
```"""


_METRICS = {
    "heldout": "`heldout` is text of repositories kept out of training, in nats per token or bits per byte",
    "infilling": "`infilling` is the share of single lines of that text that come back exactly",
    "pass": "`pass@k` is the chance that at least one of k samples passes the tests of a problem",
}


def _share(part: int, whole: int) -> str:
    return readable_share(part, whole) if whole else ""


def _document(*blocks: str) -> str:
    return "\n\n".join(blocks) + "\n"
