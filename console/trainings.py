"""Trainings as pages show them: curves, held-out loss by language, and what the model writes, newest beside older.

One that is done is read from its artifacts, one under way or failed from what it told (`starloom.flows.live`), in the same form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from starloom.console.listing import Mark, line_of, line_starts, listing
from starloom.console.tables import Column, Table
from starloom.queries.curves import heldout_entries, loss_rows, sample_entries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starloom.console.listing import Line
    from starloom.lineage.records import Run
    from starloom.lineage.store import Store

    Points = list[tuple[int, float]]

POINTS = 200
DRAWN_LANGUAGES = 10
"""Languages with a line of their own, those with most held-out tokens; the table has all."""
SHOWN_PROMPTS, SHOWN_VERSIONS = 8, 3
LINES_AROUND = 2
"""Lines shown before what the model wrote, and after it."""
WRITTEN_LINES = 24
"""Lines of one text that are shown, at most."""
TASKS = {"continue": "Continued", "fill in": "Filled in"}


@dataclass(frozen=True)
class Version:
    """One text at the place of a prompt: the document's own, or the model's at some step."""

    told: str
    kind: str
    """`original`, `newest` or `older`: the class of its markup."""
    lines: Sequence[Line]
    note: str
    """Said where nothing is to be seen of it, else empty."""


@dataclass(frozen=True)
class Card:
    """One prompt with its versions: the document's, the newest, one half way, the first."""

    task: str
    language: str
    doc_id: str | None
    versions: Sequence[Version]


@dataclass(frozen=True)
class Training:
    """Curves and samples of one training, as far as it has come."""

    name: str
    loss: Points
    """Of the batches, by step."""
    heldout: list[dict[str, Any]]
    """Entries with step, and by language losses and tokens."""
    samples: list[dict[str, Any]]
    """Entries with step and samples."""

    @property
    def lines(self) -> dict[str, Points]:
        """The loss of its batches, and of all held-out text."""
        named = {"training": self.loss, "held out": self.of_language("all")}
        return {name: points for name, points in named.items() if points}

    def of_language(self, language: str) -> Points:
        """Return the held-out loss of a language by step."""
        return [(entry["step"], entry["losses"][language]) for entry in self.heldout if language in entry["losses"]]

    @cached_property
    def languages(self) -> list[str]:
        """All measured languages, those with most held-out tokens first."""
        tokens: dict[str, int] = {}
        for entry in self.heldout:
            tokens |= entry["tokens"]
        return sorted((name for name in tokens if name != "all"), key=lambda name: (-tokens[name], name))

    @property
    def lines_by_language(self) -> dict[str, Points]:
        """The held-out loss of the languages that are drawn."""
        return {name: self.of_language(name) for name in self.languages[:DRAWN_LANGUAGES]}

    @property
    def table(self) -> Table:
        """Every language: held-out tokens, its first loss and its last."""
        columns = (
            Column("language", "language"),
            Column("tokens", "held-out tokens", "number"),
            Column("first", "loss at first", "amount"),
            Column("last", "loss now", "amount"),
            Column("change", "change", "amount"),
        )
        rows = []
        for name in self.languages:
            points = self.of_language(name)
            tokens = next(entry["tokens"][name] for entry in reversed(self.heldout) if name in entry["tokens"])
            first, last = points[0][1], points[-1][1]
            rows.append({"language": name, "tokens": tokens, "first": first, "last": last, "change": last - first})
        return Table(f"heldout_{self.name}", columns, rows)

    @property
    def samples_table(self) -> Table:
        """Everything that the model wrote."""
        names = ("step", "task", "language", "doc_id", "prefix", "written", "original", "suffix", "finish")
        rows = [{"step": entry["step"], **sample} for entry in self.samples for sample in entry["samples"]]
        return Table(f"samples_{self.name}", tuple(Column(name, name) for name in names), rows)

    @property
    def cards(self) -> list[Card]:
        """Return what the model wrote, prompt by prompt."""
        number = min((len(entry["samples"]) for entry in self.samples), default=0)
        return [_card([(entry["step"], entry["samples"][at]) for entry in self.samples]) for at in range(min(number, SHOWN_PROMPTS))]


def trainings(store: Store, run: Run, steps: list[dict[str, Any]]) -> list[Training]:
    """Return the trainings of a run that have something to show, under way, failed or done.

    Args:
        store: of the run.
        run: its record.
        steps: how its steps stand, as `starloom.flows.live.watched` says.
    """
    found = []
    for row in steps:
        record = run.step(row["name"])
        if row["curve"] or row["series"]:
            loss = [(done, metrics["loss"]) for done, metrics in row["curve"] if metrics.get("loss") is not None]
            found.append(Training(row["name"], loss, row["series"].get("heldout", []), row["series"].get("samples", [])))
        elif record is not None and "Losses" in record.outputs:
            found.append(finished(store, run, record.name))
    return [training for training in found if training.lines or training.samples]


def finished(store: Store, run: Run, step: str) -> Training:
    """Return a training that is done."""
    record = run.step(step)
    assert record is not None
    loss = [(row["step"], row["loss"]) for row in loss_rows(store, record, POINTS)]
    return Training(step, loss, heldout_entries(store, record), sample_entries(store, record))


def _card(written: Sequence[tuple[int, dict[str, Any]]]) -> Card:
    """Return the card of a prompt from what was written there, step after step."""
    asked = written[-1][1]
    places = dict.fromkeys((len(written) - 1, (len(written) - 1) // 2, 0))
    versions = [_version("the document", "original", asked, asked["original"])]
    for place in list(places)[:SHOWN_VERSIONS]:
        step, sample = written[place]
        is_newest = place == len(written) - 1
        versions.append(_version(f"step {step:,}", "newest" if is_newest else "older", sample, sample["written"]))
    return Card(TASKS.get(asked["task"], asked["task"]), asked["language"], asked["doc_id"], versions)


def _version(told: str, kind: str, asked: dict[str, Any], text: str) -> Version:
    whole = asked["prefix"] + text + asked["suffix"]
    start, end = len(asked["prefix"]), len(asked["prefix"]) + len(text)
    starts = line_starts(whole)
    first = 1 if kind == "original" else max(1, line_of(starts, start) - LINES_AROUND)
    last = len(starts) if kind == "original" else line_of(starts, max(start, end - 1)) + LINES_AROUND
    marks = [Mark(start, end, "written", told)] if text else []
    shown = listing(whole, "", asked["language"], marks=marks, first=first, num_lines=min(last - first + 1, WRITTEN_LINES))
    note = "" if text.strip() else "White space only." if text else "It ends at once."
    return Version(told, kind, shown.lines, note)
