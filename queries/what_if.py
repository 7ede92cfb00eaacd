"""What a step would keep with other knobs, from what is stored: nothing is measured again, and nothing is written.

A step that judges documents is asked again with the new knobs, on the very inputs that it read in a run, but for the texts: whoever wants
those cannot be answered here. So every stage is answerable whose verdicts follow from signals or from artifacts of steps above; a filter
that reads texts says so. Memory is bounded by a part, but for a stage that sees the whole corpus; the cost is that of judging.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from starloom.lineage.errors import InputError, did_you_mean
from starloom.lineage.store import object_name
from starloom.lineage.views import Files, PartSource, Stored
from starloom.queries.fates import input_of
from starloom.tasks.frame.stage import Runtime, load_stage
from starloom.tasks.schemas import ARTIFACTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from starloom.lineage.records import Artifact, Run, StepState
    from starloom.lineage.store import Store
    from starloom.tasks.frame.stage import Config, Stage

TEXT = "content"
EXAMPLES = 5
NO_LANGUAGE = "(none)"
_TOLD = ["doc_id", "repo", "path", "language", "size"]
_REASON = ["rule", "value", "threshold", "detail"]


class TextIsRead(Exception):  # noqa: N818 - no fault: it says that a stage wants what is not given here
    """A stage asked for the texts themselves."""


class _Measured(PartSource):
    """A part without its texts; the columns that were read of it are kept for the next question."""

    def read(self, columns: list[str] | None) -> pa.Table:
        """Return the rows kept, once read."""
        if columns is None or TEXT in columns:
            raise TextIsRead
        known: dict[tuple[str, ...], pa.Table] = self.__dict__.setdefault("known", {})
        if tuple(columns) not in known:
            known[tuple(columns)] = super().read(columns)
        return known[tuple(columns)]

    def batches(self, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows kept."""
        yield from self.read(columns).to_batches(max_chunksize=rows)


@dataclass
class _Tally:
    """The changes that a configuration makes."""

    languages: dict[str, Counter[str]] = field(default_factory=dict)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    changed_parts: int = 0

    def total(self, name: str) -> int:
        return sum(counts[name] for counts in self.languages.values())


def what_if(store: Store, run_id: str, step_name: str, config: Config, *, limit: int = EXAMPLES) -> dict[str, Any]:
    """Return how the documents of a step would fare with other knobs.

    Args:
        store: to query; nothing is written into it.
        run_id: of the run whose inputs and verdicts are stored.
        step_name: of a step that judged documents.
        config: the step's knobs as they would be.
        limit: examples of each kind.

    Returns:
        `now` and `then` (documents and bytes that the step keeps), `newly_dropped` and `newly_kept` (likewise), the same of each
        of the `languages` that change, `examples` of both with the reason, what in the knobs `differs`, and which steps `reruns`.
        An example tells why it is dropped: newly, or until now.

    Raises:
        InputError: there is no such run or step, it judged nothing, or its verdicts do not follow from what is stored.
    """
    asked = _Question(store, run_id, step_name)
    asked.check_prepared(config)
    (tally,) = asked.judge([config], limit)
    return {
        "kind": "what-if",
        "run": asked.run.id,
        "step": step_name,
        "differs": _differences(asked.step.config, config.model_dump(mode="json")),
        **_totals(tally),
        "languages": [
            {"language": language, **{name: counts[name] for name in _NAMES}}
            for language, counts in sorted(tally.languages.items(), key=lambda item: (-_changed(item[1]), item[0]))
            if _changed(counts)
        ],
        "examples": {"newly_dropped": tally.dropped, "newly_kept": tally.kept},
        "parts": asked.num_parts,
        "changed_parts": tally.changed_parts,
        "reruns": asked.reruns() if tally.changed_parts else [],
    }


def sweep(store: Store, run_id: str, step_name: str, configs: Sequence[tuple[Any, Config]]) -> dict[str, Any]:
    """Return what a step would keep over a range of a knob.

    Args:
        store: to query; nothing is written into it.
        run_id: of the run whose inputs and verdicts are stored.
        step_name: of a step that judged documents.
        configs: value of the knob, and the step's knobs with it.

    Returns:
        `points`: value, documents and bytes kept and their shares of those seen, newly dropped and newly kept, in the order given.

    Raises:
        InputError: as `what_if`.
    """
    asked = _Question(store, run_id, step_name)
    for _, config in configs:
        asked.check_prepared(config)
    tallies = asked.judge([config for _, config in configs], 0)
    points = []
    for (value, _), tally in zip(configs, tallies, strict=True):
        totals = _totals(tally)
        seen, kept = totals["seen"], totals["then"]
        shares = {f"{name}_share": kept[name] / seen[name] if seen[name] else 0.0 for name in ("documents", "bytes")}
        points.append({"value": value, **kept, **shares, **{name: totals[name]["documents"] for name in ("newly_dropped", "newly_kept")}})
    now = _totals(tallies[0])["now"] if tallies else {}
    return {"kind": "sweep", "run": asked.run.id, "step": step_name, "now": now, "points": points}


_NAMES = [f"{name}_{unit}" for name in ("newly_dropped", "newly_kept", "now", "then", "seen") for unit in ("documents", "bytes")]


def _changed(counts: Counter[str]) -> int:
    return counts["newly_dropped_documents"] + counts["newly_kept_documents"]


def _totals(tally: _Tally) -> dict[str, dict[str, int]]:
    kinds = ("seen", "now", "then", "newly_dropped", "newly_kept")
    return {kind: {unit: tally.total(f"{kind}_{unit}") for unit in ("documents", "bytes")} for kind in kinds}


def _differences(before: Any, after: Any, name: str = "") -> list[dict[str, Any]]:
    """Return the knobs that differ, each with both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*after, *(key for key in before if key not in after)]
        return [line for key in keys for line in _differences(before.get(key), after.get(key), f"{name}.{key}" if name else key)]
    return [] if before == after else [{"knob": name, "before": before, "after": after}]


class _Question:
    """A step of a run, and what is stored of it."""

    def __init__(self, store: Store, run_id: str, step_name: str) -> None:
        self.store, self.run = store, store.run(run_id)
        self.step = judge_of(self.run, step_name)
        self.stage = load_stage(self.step.stage)
        docs = input_of(self.step, "Docs")
        assert docs is not None, "verdicts are on documents"
        self.docs, self.verdicts = store.artifact(docs["artifact"]), store.artifact(self.step.outputs["Verdicts"]["artifact"])
        self.num_parts = len(self.verdicts.parts)

    def check_prepared(self, config: Config) -> None:
        """Refuse knobs of what was measured: the signals of another measurement are not stored."""
        if self.stage.prepare is None:
            return
        before = self.run.step(f"{self.step.name}.{self.stage.prepare.name}")
        after = self.stage.prepared_config(config).model_dump(mode="json")
        changed = (
            [] if before is None else [line["knob"] for line in _differences(before.config, after) if line["knob"].split(".")[0] in after]
        )
        if changed:
            own = [name for name in type(config).model_fields if name not in after]
            raise InputError(
                f"{self.step.name}.{changed[0]} says what is measured, and signals of another measurement are not stored",
                hint=f"run the recipe with it; from what is stored these can be answered: {', '.join(own)}",
            )

    def judge(self, configs: Sequence[Config], limit: int) -> list[_Tally]:
        """Ask the stage with each configuration, and hold its verdicts against the stored ones."""
        tallies = [_Tally() for _ in configs]
        try:
            for at, inputs in self.inputs():
                sources = [source for part in at for source in self._sources(self.docs, "Docs", self._seen(), part)]
                told = [source.read(_TOLD) for source in sources]
                before = [self._stored(part) for part in at]
                for config, tally in zip(configs, tallies, strict=True):
                    for table, old, new in zip(told, before, self.ask(config, inputs), strict=True):
                        _hold(tally, table, old, new, limit)
        except TextIsRead:
            others = [step.name for step in self.run.steps if step.name != self.step.name and _is_answerable(self.store, self.run, step)]
            raise InputError(
                f"{self.step.name} reads the texts themselves, so that none of its knobs can be answered from what is stored",
                hint=f"run the recipe with it; of its other steps these can be answered: {', '.join(others) or 'none'}",
            ) from None
        except KeyError as error:
            raise InputError(
                f"what {self.run.id} stored for {self.step.name} lacks {error}: it was made by another version of the stage",
                hint="run the recipe again",
            ) from error
        return tallies

    def reruns(self) -> list[dict[str, Any]]:
        """Return the steps that read what this one keeps, directly or not, with the seconds that each took."""
        found, seconds = {self.step.name}, {step.name: step.seconds for step in self.run.steps}
        for line in self.run.plan:
            if found & set(line["reads"]):
                found.add(line["name"])
        return [
            {"step": line["name"], "seconds": seconds.get(line["name"])}
            for line in self.run.plan
            if line["name"] in found - {self.step.name}
        ]

    def _seen(self) -> str | None:
        docs = input_of(self.step, "Docs")
        assert docs is not None, "verdicts are on documents"
        seen: str | None = docs["verdicts"]
        return seen

    def inputs(self) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Yield (parts, inputs): part by part, or at once of a stage that sees the whole corpus."""
        each = range(self.num_parts)
        for parts in [[part] for part in each] if self.stage.over == "parts" else [list(each)]:
            inputs: dict[str, Any] = {}
            for name in self.stage.inputs:
                ref = self.step.inputs.get(name)
                if ref is None:
                    inputs[name] = None
                    continue
                kind, artifact = ARTIFACTS[ref["type"]], self.store.artifact(ref["artifact"])
                if issubclass(kind, Files):
                    inputs[name] = kind.of(self.store.folder(artifact))
                    continue
                own = parts if self.stage.over == "parts" else range(len(artifact.parts))
                inputs[name] = kind([source for part in own for source in self._sources(artifact, ref["type"], ref["verdicts"], part)])
            yield parts, inputs

    def _sources(self, artifact: Artifact, kind: str, verdicts: str | None, part: int) -> list[PartSource]:
        data = Stored(self.store.url, object_name(artifact.type, artifact.parts[part].hash))
        judged = None if verdicts is None else self.store.artifact(verdicts).parts[part]
        mask = None if judged is None or judged.mask is None else Stored(self.store.url, object_name("Verdicts", judged.hash))
        return [_Measured(data, mask) if kind == "Docs" else PartSource(data, mask)]

    def _stored(self, part: int) -> pa.Table:
        """Return the stored verdicts on the live documents of a part."""
        source = PartSource(Stored(self.store.url, object_name("Verdicts", self.verdicts.parts[part].hash)))
        table = source.read(["doc_id", "keep", *_REASON])
        return table.filter(pc.is_valid(table.column("keep")))

    def ask(self, config: Config, inputs: dict[str, Any]) -> Iterator[pa.Table]:
        """Yield the verdicts on the live documents of each part."""
        with tempfile.TemporaryDirectory() as folder:
            result = self.stage.function(**inputs, cfg=config, runtime=Runtime.alone(Path(folder) / "scratch"))
            results = result if isinstance(result, tuple) else (result,)
            verdicts = next(each for each in results if type(each).__name__ == "Verdicts")
            for part in verdicts.parts:
                table = part.read(["doc_id", "keep", *_REASON])
                yield table.filter(pc.is_valid(table.column("keep")))


def judge_of(run: Run, step_name: str) -> StepState:
    """Return a step of a run that judged documents.

    Raises:
        InputError: there is none of that name.
    """
    judges = [step.name for step in run.steps if "Verdicts" in step.outputs]
    step = run.step(step_name)
    if step is None or step_name not in judges:
        problem = "has no step" if step is None else "judged no documents in its step"
        raise InputError(f"run {run.id} {problem} {step_name!r}", hint=did_you_mean(step_name, judges))
    return step


def answerable_steps(store: Store, run: Run) -> list[str]:
    """Return the steps of a run whose verdicts follow from what is stored."""
    return [step.name for step in run.steps if _is_answerable(store, run, step)]


def knobs_of(stage: Stage) -> list[str]:
    """Return the knobs of a stage that do not say what is measured."""
    measured = set() if stage.prepare is None else set(stage.prepare.config.model_fields)
    return [name for name in stage.config.model_fields if name not in measured]


def _is_answerable(store: Store, run: Run, step: StepState) -> bool:
    """Return whether a step judges without its texts, by asking it about its first part."""
    if "Verdicts" not in step.outputs:
        return False
    asked = _Question(store, run.id, step.name)
    if asked.stage.over != "parts":
        return False  # asking it would take what a run of it takes
    try:
        config = asked.stage.config.model_validate(step.config)
        _, inputs = next(asked.inputs(), (None, None))
        if inputs is not None:
            list(asked.ask(config, inputs))
    except (TextIsRead, KeyError, ValidationError):  # the last: a knob of the run that this version no longer takes
        return False
    return True


def _hold(tally: _Tally, table: pa.Table, stored: pa.Table, verdicts: pa.Table, limit: int) -> None:
    """Hold the verdicts on a part against those that are stored."""
    before, after = (judged.column("keep").to_numpy().astype(bool) for judged in (stored, verdicts))
    changes = {
        "newly_dropped": before & ~after,
        "newly_kept": ~before & after,
        "now": before,
        "then": after,
        "seen": np.ones(len(after), bool),
    }
    tally.changed_parts += bool((before != after).any())
    languages = pc.fill_null(table.column("language"), NO_LANGUAGE).combine_chunks().dictionary_encode()
    codes, sizes = languages.indices.to_numpy(), table.column("size").to_numpy()
    for name, chosen in changes.items():
        documents = np.bincount(codes[chosen], minlength=len(languages.dictionary))
        num_bytes = np.bincount(codes[chosen], sizes[chosen], minlength=len(languages.dictionary))
        for number, language in enumerate(languages.dictionary.to_pylist()):
            counts = tally.languages.setdefault(language, Counter())
            counts[f"{name}_documents"] += int(documents[number])
            counts[f"{name}_bytes"] += int(num_bytes[number])
    told = ((tally.dropped, changes["newly_dropped"], verdicts), (tally.kept, changes["newly_kept"], stored))  # each as it is dropped
    for examples, chosen, judged in told:
        if limit and chosen.any():
            at = np.flatnonzero(chosen)
            at = at[pc.sort_indices(table.column("doc_id").take(pa.array(at))).to_numpy()[:limit]]  # ids are hashes: any sample will do
            rows = table.take(pa.array(at)).to_pylist()
            reasons = judged.select(_REASON).take(pa.array(at)).to_pylist()
            examples += [{**row, **reason} for row, reason in zip(rows, reasons, strict=True)]
            examples.sort(key=lambda row: row["doc_id"])
            del examples[limit:]
