"""Trace of one document: what each step of a run did with it, and why, down to the training steps that saw it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from starloom.queries.fates import REASON, input_of, output_of, producer
from starloom.queries.showing_clusters import class_counts
from starloom.tasks.kernels.packing.roles import DOCUMENT_ROLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from starloom.lineage.records import StepState
    from starloom.queries.questions import Place, Question

_DOC_ID = re.compile(r"[0-9a-f]{32}")
_SPAN = ["copy", "token_start", "token_end", "byte_start", "byte_end", "role"]
_MEMBER = ["cluster_id", "jaccard", "is_survivor", "reason", "license_class", "has_license_conflict"]
_REDACTION = ["entity", "detector", "start", "end", "new_start", "new_end"]
Event = dict[str, Any]


def trace_document(question: Question, place: Place) -> dict[str, Any]:
    """Return the document's identity, its fate, and an event for each step that did something with it."""
    story = _DocumentTrace(question, place)
    events = [event for step in question.run.steps for event in story.events(step)]
    drop = next((event for event in events if event["event"] == "dropped"), None)
    columns = [name for name in question.rows.columns(place.artifact, place.part) if name != "content"]
    (document,) = question.rows.take(place.artifact, place.part, [place.row], columns).to_pylist()
    fate = {"kept": True} if drop is None else {"kept": False, **{name: drop[name] for name in ("step", *REASON)}}
    if drop is None and not any(event["event"] == "packed" for event in events):
        left = next((event for event in events if event["event"] == "not packed"), None)
        fate |= {} if left is None else {"not_packed": {name: left[name] for name in ("step", *REASON)}}
    return {"kind": "document", "document": document, "fate": fate, "events": events}


class _DocumentTrace:
    def __init__(self, question: Question, place: Place) -> None:
        self.question = question
        self.rows = question.rows
        self.place = place
        self._found: dict[str, tuple[int, int] | None] = {place.artifact: (place.part, place.row)}
        self._read: dict[tuple[str, tuple[str, ...] | None], list[dict[str, Any]]] = {}
        self._handlers: dict[str, Callable[[StepState], Iterator[Event]]] = {
            "Signals": self._measured,
            "Clusters": self._clustered,
            "Verdicts": self._judged,
            "Docs": self._text,
            "Tokens": self._encoded,
            "Spans": self._packed,
            "Batches": self._trained,
        }

    def events(self, step: StepState) -> Iterator[Event]:
        """Return what one step did with the document; nothing if it never read it."""
        docs = input_of(step, "Docs")
        if docs is not None and not self._is_live(docs["artifact"], docs["verdicts"]):
            return
        for kind, handler in self._handlers.items():
            if kind in step.outputs:
                for event in handler(step):
                    yield {"step": step.name, "stage": step.stage, **event}

    def _at(self, artifact: str) -> tuple[int, int] | None:
        """Return (part, row) of the document in a text; None if the text lacks it."""
        if artifact not in self._found:
            found = self._own(artifact, [])
            self._found[artifact] = (found[0]["part"], found[0]["row"]) if found else None
        return self._found[artifact]

    def _own(self, artifact: str, columns: list[str] | None) -> list[dict[str, Any]]:
        """Return the document's rows of an artifact; its parts are those of the text."""
        asked = (artifact, None if columns is None else tuple(columns))
        if asked not in self._read:
            self._read[asked] = self._searched(artifact, columns)
        return [dict(row) for row in self._read[asked]]

    def _searched(self, artifact: str, columns: list[str] | None) -> list[dict[str, Any]]:
        same = len(self.rows.artifact(artifact).parts) == len(self.rows.artifact(self.place.artifact).parts)
        return self.rows.of_document(artifact, self.place.doc_id, columns, self.place.part if same else None)

    def _is_live(self, artifact: str, verdicts: str | None) -> bool:
        at = self._at(artifact)
        if at is None or verdicts is None:
            return at is not None
        (row,) = self.rows.take(verdicts, at[0], [at[1]], ["keep", *REASON]).to_pylist()  # as `_judged` does: read once
        return bool(row["keep"])

    def _measured(self, step: StepState) -> Iterator[Event]:
        for row in self._own(step.outputs["Signals"]["artifact"], None):
            told = {name: value for name, value in row.items() if name not in ("doc_id", "part", "row") and value is not None}
            yield {"event": "measured", "signals": told}

    def _clustered(self, step: StepState) -> Iterator[Event]:
        artifact = step.outputs["Clusters"]["artifact"]
        for row in self._own(artifact, _MEMBER):
            told = {name: row[name] for name in _MEMBER}
            classes: list[str | None] = []
            for part, at in self.rows.equal(artifact, "cluster_id", row["cluster_id"]):
                classes += self.rows.take(artifact, part, at, ["license_class"]).column("license_class").to_pylist()
            yield {"event": "clustered", **told, "num_members": len(classes), "license_classes": class_counts(classes)}

    def _judged(self, step: StepState) -> Iterator[Event]:
        docs = input_of(step, "Docs")
        at = self._at(docs["artifact"]) if docs else None
        if docs is None or at is None:
            return
        (row,) = self.rows.take(step.outputs["Verdicts"]["artifact"], at[0], [at[1]], ["keep", *REASON]).to_pylist()
        if row["keep"] is None:
            return
        event = {"event": "kept" if row.pop("keep") else "dropped", **row}
        if row["detail"] and _DOC_ID.fullmatch(row["detail"]):
            event["survivor"] = self._named(docs["artifact"], row["detail"])
        yield event

    def _named(self, artifact: str, doc_id: str) -> dict[str, Any] | None:
        found = self.rows.of_documents(artifact, pa.array([doc_id]), ["doc_id", "repo", "path"]).to_pylist()
        return {name: found[0][name] for name in ("doc_id", "repo", "path")} if found else None

    def _text(self, step: StepState) -> Iterator[Event]:
        before, artifact = input_of(step, "Docs"), step.outputs["Docs"]["artifact"]
        at = self._at(artifact)
        if at is None:
            return
        size = self._size(artifact, at)
        if before is None:
            yield {"event": "read", "bytes": size, "part": at[0], "row": at[1]}
            return
        old = self._at(before["artifact"])
        redacted = output_of(step, "Redactions")
        spans = [] if redacted is None else [{name: row[name] for name in _REDACTION} for row in self._own(redacted, _REDACTION)]
        old_bytes = self._size(before["artifact"], old) if old else None
        yield {"event": "rewritten", "bytes_before": old_bytes, "bytes": size, "redactions": spans, "part": at[0], "row": at[1]}

    def _size(self, artifact: str, at: tuple[int, int]) -> int:
        return int(self.rows.take(artifact, at[0], [at[1]], ["size"]).column("size")[0].as_py())

    def _encoded(self, step: StepState) -> Iterator[Event]:
        for row in self._own(step.outputs["Tokens"]["artifact"], ["tokens", "metadata"]):
            yield {"event": "encoded", "tokens": len(row["tokens"]), "metadata_tokens": len(row["metadata"])}

    def _packed(self, step: StepState) -> Iterator[Event]:
        found = self._own(step.outputs["Spans"]["artifact"], ["sequence", *_SPAN])
        packed = output_of(step, "Packed")
        if packed is None or not found:
            yield from self._not_taken(step)
            return
        part, numbers = found[0]["part"], sorted({row["sequence"] for row in found})
        told = []
        for number, split in zip(numbers, self.rows.take(packed, part, numbers, ["split"]).column("split").to_pylist(), strict=True):
            spans = [{name: row[name] for name in _SPAN} for row in found if row["sequence"] == number]
            copies = sorted({span["copy"] for span in spans})
            told.append({"sequence": f"{part}:{number}", "split": split, "copies": copies, "spans": spans})
        tokens = sum(row["token_end"] - row["token_start"] for row in found if row["role"] in DOCUMENT_ROLES)
        yield {"event": "packed", "num_copies": len({row["copy"] for row in found}), "tokens": tokens, "sequences": told}

    def _not_taken(self, step: StepState) -> Iterator[Event]:
        tokens = input_of(step, "Tokens")
        for row in self._own(tokens["artifact"], ["source", "language"]) if tokens else ():
            yield {"event": "not packed", **_why_not_packed(step.components["config"], row)}

    def _trained(self, step: StepState) -> Iterator[Event]:
        packed = input_of(step, "Packed")
        packer = producer(self.question.run, packed["artifact"]) if packed else None
        spans = output_of(packer, "Spans") if packer else None
        found = self._own(spans, ["sequence", *_SPAN]) if spans else []
        if not found:
            return
        seen = self._seen(step.outputs["Batches"]["artifact"], found[0]["part"], {row["sequence"] for row in found})
        yield {"event": "trained", "checkpoint": output_of(step, "Checkpoint"), "num_steps": len({s["step"] for s in seen}), "seen": seen}

    def _seen(self, batches: str, part: int, sequences: set[int]) -> list[dict[str, Any]]:
        rows = pa.array(np.fromiter(sequences, np.int32, len(sequences)))
        seen = []
        for _, table in self.rows.tables(batches, ["step", "part", "row"]):
            hit = pc.and_(pc.equal(table.column("part"), part), pc.is_in(table.column("row"), value_set=rows))
            seen += [{"step": row["step"], "sequence": f"{part}:{row['row']}"} for row in table.filter(hit).to_pylist()]
        return seen


def _why_not_packed(config: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """Return why an encoded document is in no sequence, in the form of a verdict's reason.

    Args:
        config: knobs of pack_fim.
        document: its source and language.
    """
    mixture = config.get("mixture") or {}
    by = mixture.get("by", "language")
    epochs, weight = config.get("epochs", 1), mixture.get("weights", {}).get(document[by], 1)
    times = epochs * weight
    if times < 1:
        detail = f"not taken: {by} {document[by]} has weight {weight:g}, which is {times:.4g} copies over {epochs} epoch(s)"
        return {"rule": "mixture", "value": times, "threshold": None, "detail": detail}
    return {
        "rule": "no-room",
        "value": None,
        "threshold": None,
        "detail": "cut off: fill-in-the-middle after packing made its sequence longer",
    }
