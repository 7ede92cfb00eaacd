"""Trace of a path, repository, document, sequence or checkpoint through the record of a run.

What is asked for is taken, in this order, as: the word `checkpoint` or the beginning of a checkpoint's hash (8 digits or
more); PART:ROW, a sequence; the beginning of a doc_id (8 digits or more); the name of a repository; a path, whole or its
end, with or without the repository before it. A prefix (checkpoint: seq: doc: repo: path:) makes it unambiguous.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from starloom.lineage.errors import InputError
from starloom.queries.fates import dropped, origins, output_of
from starloom.queries.questions import Place, Question, newest
from starloom.queries.rows import Rows
from starloom.queries.tracing_documents import trace_document
from starloom.queries.tracing_repositories import trace_repository
from starloom.queries.tracing_sequences import trace_sequence
from starloom.queries.tracing_training import trace_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from starloom.lineage.records import Run, StepState
    from starloom.lineage.store import Store

KINDS = {"checkpoint": "checkpoint", "seq": "sequence", "sequence": "sequence", "doc": "document", "repo": "repository", "path": "path"}
_HASH = re.compile(r"[0-9a-f]{8,64}")
_SEQUENCE = re.compile(r"\d+:\d+")


def trace(
    store: Store,
    what: str,
    *,
    run_id: str | None = None,
    until_step: int | None = None,
    limit: int | None = None,
    is_brief: bool = False,
) -> dict[str, Any]:
    """Trace `what`; the `kind` of the result says what it was taken for. If it `is_brief`, a document or repository is only named.

    Raises:
        InputError: if the run holds nothing of that name.
    """
    head, colon, rest = what.partition(":")
    kind, name = (KINDS[head], rest) if colon and head in KINDS else (None, what)
    rows = Rows(store)
    run = newest(store) if run_id is None else store.run(run_id)
    if run_id is None and kind in (None, "checkpoint") and (_HASH.fullmatch(name) or name in ("checkpoint", "")):
        run = _run_of_checkpoint(store, name.removeprefix("checkpoint")) or run
    question = Question(rows, run, name, kind, until_step, limit, is_brief)
    for guess, answer in ANSWERS.items():
        if kind in (None, guess):
            found = answer(question)
            if found is not None:
                return {"kind": guess, "run": run.id, "recipe": run.recipe, "store": store.url, **found}
    raise InputError(f"run {run.id} has nothing named {what!r}", hint=_hint(question))


def _run_of_checkpoint(store: Store, prefix: str) -> Run | None:
    """Return the newest run that made a checkpoint whose hash has that prefix."""
    for run_id in store.last_run_ids():
        run = store.run(run_id)
        if any(hash_.startswith(prefix) for step in run.steps if (hash_ := output_of(step, "Checkpoint"))):
            return run
    return None


def _hint(question: Question) -> str:
    if question.kind in (None, "path", "repository"):
        near = _near(question)
        if near:
            return f"did you mean {near}?"
    return "name a repository, a path in one (repo/path), a doc_id, PART:ROW of a sequence, or `checkpoint`; another run with --run"


def _near(question: Question) -> str | None:
    import difflib

    names: set[str] = set()
    for step in origins(question.run):
        for _, table in question.rows.tables(step.outputs["Docs"]["artifact"], ["repo"]):
            names |= set(pc.unique(table.column("repo")).to_pylist())
    repo = question.what.partition("/")[0]
    found = difflib.get_close_matches(repo, sorted(names), n=1, cutoff=0.6)
    return repr(found[0]) if found and found[0] != repo else None


# Answers: None where the run holds nothing of that name


def _checkpoint(question: Question) -> dict[str, Any] | None:
    for step in reversed(question.run.steps):
        written = output_of(step, "Checkpoint")
        if written is None:
            continue
        is_named = question.what == "checkpoint" or (question.kind == "checkpoint" and question.what in ("", step.name))
        if is_named or (_HASH.fullmatch(question.what) and written.startswith(question.what)):
            return trace_checkpoint(question, step)
    if question.kind == "checkpoint" or question.what == "checkpoint":
        raise InputError(
            f"run {question.run.id} has no checkpoint {question.what!r}",
            hint=f"name a run that trained, with --run; `starloom runs{question.rows.store.named}` lists them",
        )
    return None


def _sequence(question: Question) -> dict[str, Any] | None:
    if not _SEQUENCE.fullmatch(question.what):
        if question.kind == "sequence":
            raise InputError(f"{question.what!r} names no sequence", hint="give its part and row, such as seq:0:15")
        return None
    part, row = map(int, question.what.split(":"))
    return trace_sequence(question, part, row)


def _document(question: Question) -> dict[str, Any] | None:
    prefix = question.what.lower()
    if not _HASH.fullmatch(prefix):
        if question.kind == "document":
            raise InputError(f"{question.what!r} is not a doc_id", hint="give at least its first 8 hexadecimal digits")
        return None
    found = [place for step in origins(question.run) for place in _where(question, step, "doc_id", prefix)]
    if len(found) > 1:
        raise InputError(
            f"{len(found)} documents begin with {prefix!r}", hint="give more digits: " + ", ".join(p.doc_id for p in found[:5])
        )
    return _one(question, found[0]) if found else None


def _one(question: Question, place: Place) -> dict[str, Any]:
    if question.is_brief:
        return {"document": {"doc_id": place.doc_id, "repo": place.repo, "path": place.path}}
    return trace_document(question, place)


def _repository(question: Question) -> dict[str, Any] | None:
    return trace_repository(question)


def _path(question: Question) -> dict[str, Any] | None:
    places = [place for step in origins(question.run) for place in _where(question, step, "path", question.what)]
    skipped = [row for step in origins(question.run) for row in _skipped(question, step)]
    rank = min(
        (_rank(name, question.what) for name in [*((p.repo, p.path) for p in places), *((s["repo"], s["path"]) for s in skipped)]),
        default=0,
    )
    places = [place for place in places if _rank((place.repo, place.path), question.what) == rank]
    skipped = [file for file in skipped if _rank((file["repo"], file["path"]), question.what) == rank]
    if len(places) == 1:
        return _one(question, places[0])
    if places:
        return _several(question, places)
    return {"kind": "skipped", "skipped": skipped[: question.limit], "num_skipped": len(skipped)} if skipped else None


def _rank(name: tuple[str, str], wanted: str) -> int:
    """Rank how well a name fits a file: 0 by repo/path, 1 by its whole path, 2 by the end of it."""
    return 0 if "/".join(name) == wanted else 1 if name[1] == wanted else 2


def _where(question: Question, step: StepState, column: str, wanted: str) -> list[Place]:
    artifact, rows = step.outputs["Docs"]["artifact"], question.rows
    found = _with_id(rows, artifact, wanted) if column == "doc_id" else _with_path(rows, artifact, wanted)
    places = []
    for part, at in found:
        for row, who in zip(at, rows.take(artifact, part, at, ["doc_id", "repo", "path"]).to_pylist(), strict=True):
            places.append(Place(step, artifact, part, row, who["doc_id"], who["repo"], who["path"]))
    return places


def _with_id(rows: Rows, artifact: str, prefix: str) -> list[tuple[int, list[int]]]:
    """Return (part, rows) of the documents whose doc_id has a prefix."""
    return [(part, at.tolist()) for part, at in rows.beginning(artifact, "doc_id", prefix)]


def _with_path(rows: Rows, artifact: str, wanted: str) -> list[tuple[int, list[int]]]:
    """Return (part, rows) of the documents whose repository/path is `wanted`, or else, of those that it is the end of.

    The last piece of `wanted` is within the path in any case, so that only files of that name are looked at.
    """
    exact = _looked_at(rows, artifact, rows.files(artifact, "file", wanted), lambda full: pc.equal(full, wanted))
    return exact or _looked_at(rows, artifact, rows.files(artifact, "name", wanted.rpartition("/")[2]), lambda full: _ends(full, wanted))


def _looked_at(
    rows: Rows,
    artifact: str,
    places: Iterator[tuple[int, NDArray[np.int64]]],
    is_meant: Callable[[pa.ChunkedArray], pa.ChunkedArray],
) -> list[tuple[int, list[int]]]:
    found = []
    for part, at in places:
        few = rows.take(artifact, part, at, ["repo", "path"])
        full = pc.binary_join_element_wise(few.column("repo"), few.column("path"), "/")
        hits = at[pc.indices_nonzero(is_meant(full)).to_numpy()].tolist()
        found += [(part, hits)] if hits else []
    return found


def _ends(full: pa.ChunkedArray, wanted: str) -> pa.ChunkedArray:
    return pc.or_(pc.equal(full, wanted), pc.ends_with(full, f"/{wanted.lstrip('/')}"))


def _several(question: Question, places: list[Place]) -> dict[str, Any]:
    """Return several documents of one name, each with its fate, for the user to choose from."""
    parts = sorted({place.part for place in places})
    wanted = dropped(question.rows, question.run, parts, wanted=pa.array([place.doc_id for place in places]))
    fates = {row["doc_id"]: f"{row['step']} {row['rule']}" for row in wanted.select(["doc_id", "step", "rule"]).to_pylist()}
    shown = [
        {"doc_id": place.doc_id, "repo": place.repo, "path": place.path, "dropped": fates.get(place.doc_id)}
        for place in places[: question.limit]
    ]
    return {"kind": "documents", "documents": shown, "num_documents": len(places), "num_kept": len(places) - len(fates)}


def _skipped(question: Question, step: StepState) -> list[dict[str, Any]]:
    artifact, rows = output_of(step, "Skipped"), []
    if artifact is None:
        return []
    for part, at in _with_path(question.rows, artifact, question.what):
        rows += [{"step": step.name, "part": part, **row} for row in question.rows.take(artifact, part, at).to_pylist()]
    return rows


ANSWERS = {"checkpoint": _checkpoint, "sequence": _sequence, "document": _document, "repository": _repository, "path": _path}
"""In the order in which a name is tried."""
