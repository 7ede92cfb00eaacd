"""Execution of an action: opening its inputs, calling the stage, checking its outputs, committing them.

The checks are the invariants of all stages: every row seen is kept or dropped, verdicts line up with the text, ids are unique,
rewritten documents are the ones that survived.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import os
import platform
import time
import traceback
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from starloom.lineage.errors import StageError, StarloomError
from starloom.lineage.records import Action, Artifact, Components, Part
from starloom.lineage.store import Store, object_name
from starloom.lineage.views import Files, PartSource, Stored, Tabular
from starloom.tasks.frame.stage import Runtime, Stage, load_stage
from starloom.tasks.schemas import ARTIFACTS, Docs, Record, Repositories, Verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starloom.tasks.frame.stage import Config
    from starloom.tasks.frame.step import Ref, ResolvedStep
    from starloom.tasks.frame.workers import Workers
    from starloom.tasks.kernels.sources.units import Unit


@dataclass(frozen=True)
class PartJob:
    """One action on one part, small enough to send to another process."""

    store_url: str
    step: str
    stage: str
    """The stage whose module to import; `is_prepare` selects its first half."""
    is_prepare: bool
    config: Config
    components: Components
    refs: dict[str, Ref]
    part: int
    repositories: tuple[Unit, ...] = ()


def do_parts(step: ResolvedStep, store: Store, workers: Workers, on_done: Callable[[int, int], None]) -> Action:
    """Run the parts of a part-wise step that are not done, in parallel, and commit the action of the whole step.

    The largest are begun first, so that at the end no worker waits long for another.

    `on_done` is told after each part how many are done, of how many.
    """
    actions = list(step.parts)
    missing = sorted((i for i, action in enumerate(actions) if action is None), key=lambda part: -_input_bytes(step, store, part))
    num_done = len(actions) - len(missing)

    def count(_: int, action: Action) -> None:
        nonlocal num_done
        del action
        num_done += 1
        on_done(num_done, len(actions))

    jobs = [_part_job(step, store, part) for part in missing]
    for part, action in zip(missing, workers.map(do_part, jobs, count), strict=True):
        actions[part] = action
    return store.commit(step.stage.label, _gathered(step, store, [action for action in actions if action is not None]))


def _input_bytes(step: ResolvedStep, store: Store, part: int) -> int:
    """Bytes of what a part is made from."""
    if step.inputs.repositories:
        return sum(repository.num_bytes for repository in step.inputs.repositories[part])
    tables = [ref.artifact for ref in step.inputs.refs.values() if issubclass(ARTIFACTS[ref.type], Tabular)]
    return sum(_artifact(store.url, name).parts[part].num_bytes for name in tables)


def _part_job(step: ResolvedStep, store: Store, part: int) -> PartJob:
    home = step.stage.module.rpartition(".")[2]
    repositories = step.inputs.repositories[part] if step.inputs.repositories else ()
    return PartJob(
        store.url, step.name, home, step.stage.name != home, step.config, step.part_components[part], step.inputs.refs, part, repositories
    )


def do_part(job: PartJob) -> Action:
    """Run a part's action in this process and commit it."""
    store = opened(job.store_url)
    whole_stage = load_stage(job.stage)
    stage = whole_stage.prepare if job.is_prepare else whole_stage
    assert stage is not None
    done = store.action(stage.label, job.components.key)
    if done is not None:  # by another run, or by a worker that was lost after it had finished
        return done
    inputs = {name: _part_input(kind, job, name, store) for name, kind in stage.inputs.items()}
    with store.work(job.components.key) as scratch:
        return _call(store, job.step, stage, job.config, job.components, inputs, Runtime(scratch), {"part": job.part})


def do_whole(
    step: ResolvedStep,
    store: Store,
    workers: Workers,
    on_progress: Callable[[int, int, str, dict[str, Any]], None],
    on_append: Callable[[str, dict[str, Any]], None],
    on_begin: Callable[[Path], None],
) -> Action:
    """Run the action of a stage that sees the whole corpus, in this process; it may use the workers.

    `on_begin` is told the folder in which it works.
    """
    inputs = {name: _whole_input(kind, step, name, store) for name, kind in step.stage.inputs.items()}
    with store.work(replace(step.components, config=step.config.continuation()).key) as scratch:
        on_begin(scratch)
        num_workers = max(1, workers.workers)
        runtime = Runtime(
            scratch,
            workers=num_workers,
            mapper=workers.map,
            on_progress=on_progress,
            on_append=on_append,
            is_cancelled=workers.is_cancelled,
        )
        return _call(store, step.name, step.stage, step.config, step.components, inputs, runtime, {})


def _gathered(step: ResolvedStep, store: Store, actions: list[Action]) -> Action:
    """Return the action of a part-wise step from those of its parts."""
    written = {
        kind.__name__: store.put_artifact(
            Artifact(kind.__name__, tuple(Part.from_json(action.outputs[kind.__name__]) for action in actions))
        )
        for kind in step.stage.outputs
    }
    seconds = round(sum(action.seconds for action in actions), 3)
    keys = tuple(action.key for action in actions)
    shown = {f"part-{i:05}/{name}": digest for i, action in enumerate(actions) for name, digest in action.shown.items()}
    return Action(step.components.key, step.components.to_json(), written, keys, seconds, _gathered_notes(actions), made_by(), shown)


def _gathered_notes(actions: list[Action]) -> dict[str, Any]:
    """Return the notes of a part-wise step: those equal in all its parts, and the sums of counts."""
    counts: Counter[str] = Counter()
    for action in actions:
        counts.update(action.notes.get("counts", {}))
    first = actions[0].notes if actions else {}
    notes = {
        name: value
        for name, value in first.items()
        if name not in ("part", "counts") and all(action.notes.get(name) == value for action in actions)
    }
    told = list(dict.fromkeys(action.notes["told"] for action in actions if "told" in action.notes))
    notes = {**notes, "told": "; ".join(told)} if told else notes
    return {**notes, **({"counts": dict(counts)} if counts else {})}


def _call(
    store: Store,
    step: str,
    stage: Stage,
    config: Config,
    components: Components,
    inputs: dict[str, Any],
    runtime: Runtime,
    where: dict[str, Any],
) -> Action:
    started = time.perf_counter()
    try:
        result = stage.function(**inputs, cfg=config, runtime=runtime)
        made = _sealed(store, step, stage, inputs, result)
    except StarloomError:
        raise
    except Exception as error:
        traceback.print_exc()  # a stage that fails otherwise than by a typed error has a fault, and whoever mends it needs the frames
        place = f" on part {where['part']}" if where else ""
        raise StageError(
            f"{step} failed{place}: {type(error).__name__}: {error}",
            hint="the traceback is above; nothing of this part was written, finished parts are kept",
            log=traceback.format_exc(),
        ) from error
    outputs = {kind: part.to_json() if where else store.put_artifact(part) for kind, part in made.items()}  # type: ignore[arg-type]
    seconds = round(time.perf_counter() - started, 3)
    notes = {**runtime.notes, **({"counts": dict(runtime.counts)} if runtime.counts else {}), **where}
    shown = {name: store.put_file(file, name).hash for name, file in runtime.shown.items()}
    action = Action(components.key, components.to_json(), outputs, (), seconds, notes, made_by(), shown)
    return store.commit(stage.label, action)


# Inputs


def _part_input(kind: type[Any], job: PartJob, name: str, store: Store) -> Any:
    if kind is Repositories:
        return Repositories(job.repositories)
    if name not in job.refs:  # optional: the plan has wired all others
        return None
    ref = job.refs[name]
    artifact = _artifact(store.url, ref.artifact)
    if issubclass(kind, Files):
        return kind.of(store.folder(artifact))
    return kind([_source(store, ref, artifact, job.part)])


def _whole_input(kind: type[Any], step: ResolvedStep, name: str, store: Store) -> Any:
    if kind is Record:
        return step.inputs.record
    return opened_ref(store, step.inputs.refs[name]) if name in step.inputs.refs else None


def opened_ref(store: Store, ref: Ref) -> Tabular | Files:
    """Return the view of an artifact."""
    kind, artifact = ARTIFACTS[ref.type], _artifact(store.url, ref.artifact)
    if issubclass(kind, Files):
        return kind.of(store.folder(artifact))
    return kind([_source(store, ref, artifact, i) for i in range(len(artifact.parts))])


def _source(store: Store, ref: Ref, artifact: Artifact, part: int) -> PartSource:
    data = Stored(store.url, object_name(artifact.type, artifact.parts[part].hash))
    if ref.verdicts is None:
        return PartSource(data)
    judged = _artifact(store.url, ref.verdicts).parts[part]
    return PartSource(data, None if judged.mask is None else Stored(store.url, object_name("Verdicts", judged.hash)))


# Outputs


def _sealed(store: Store, step: str, stage: Stage, inputs: dict[str, Any], result: Any) -> dict[str, Part | Artifact]:
    """Check what a stage returned and write it: parts of a part-wise stage, artifacts of a whole one."""
    results = result if isinstance(result, tuple) else (result,)
    if [type(r) for r in results] != list(stage.outputs):
        declared = ", ".join(kind.__name__ for kind in stage.outputs)
        raise StageError(f"{step} declares that it writes {declared} and returned {', '.join(type(r).__name__ for r in results)}")
    docs = next((value for value in inputs.values() if isinstance(value, Docs)), None)
    made: dict[str, Part | Artifact] = {}
    for output in results:
        kind = type(output).__name__
        if isinstance(output, Files):
            made[kind] = Artifact(kind, store.put_files(output.path))
            continue
        parts = _sealed_parts(store, step, output, docs)
        if stage.over == "parts":
            if len(parts) != 1:
                raise StageError(f"{step} works part by part and returned {len(parts)} parts of {kind}")
            made[kind] = parts[0]
        else:
            made[kind] = Artifact(kind, tuple(parts))
    return made


def _sealed_parts(store: Store, step: str, output: Tabular, docs: Docs | None) -> list[Part]:
    kind = type(output)
    return [
        store.put_table(kind.__name__, table, kind.ROWS_PER_GROUP, counts, mask)
        for table, counts, mask in sealed_tables(step, output, docs)
    ]


def sealed_tables(step: str, output: Tabular, docs: Docs | None) -> Iterator[tuple[pa.Table, dict[str, Any], str | None]]:
    """Yield the tables that a stage returned, checked against the documents that it read: (table, counts, mask) of each part.

    Raises:
        StageError: if an invariant is violated.
    """
    if not isinstance(output, Verdicts):
        for view in output.parts:
            table = view.read()
            yield table, _checked_docs(step, table, docs) if isinstance(output, Docs) else {}, None
        return
    if docs is None or len(docs.sources) != len(output.sources):
        raise StageError(f"{step} returned verdicts on {len(output.sources)} parts of {0 if docs is None else len(docs.sources)}")
    for verdict, source in zip(output.parts, docs.sources, strict=True):
        yield _checked_verdicts(step, verdict.read(), source)


def _checked_docs(step: str, table: pa.Table, docs: Docs | None) -> dict[str, Any]:
    ids = table.column("doc_id")
    if pc.count_distinct(ids).as_py() != len(ids):
        counted = ids.value_counts()
        twice = [pair["values"] for pair in counted.to_pylist() if pair["counts"] > 1][:5]
        raise StageError(f"{step} wrote the same doc_id twice: {', '.join(twice)}", hint="two sources may share a name: give each its own")
    if docs is not None and not ids.equals(docs.read(["doc_id"]).column("doc_id")):
        raise StageError(f"{step} must rewrite each document that it was given, in order, and no other")
    return {"text_bytes": _sum(table.column("size"))}


def _checked_verdicts(step: str, table: pa.Table, source: PartSource) -> tuple[pa.Table, dict[str, Any], str | None]:
    text = PartSource(source.data).read(["doc_id", "size"])
    live, keep = source.keep, table.column("keep")
    if not table.column("doc_id").equals(text.column("doc_id")):
        raise StageError(f"{step} returned verdicts that are not aligned with the documents")
    seen = pa.chunked_array([pa.repeat(True, len(text))]) if live is None else live  # noqa: FBT003 - the value to repeat
    if not pc.all(pc.equal(pc.is_valid(keep), seen), min_count=0).as_py():
        raise StageError(f"{step} must judge every live document, and no other")
    kept, size = pc.fill_null(keep, fill_value=False), text.column("size")
    dropped = pc.and_not(seen, kept)
    rules = table.filter(dropped).column("rule").value_counts().to_pylist()
    counts: dict[str, Any] = {
        "seen": _sum(seen),
        "kept": _sum(kept),
        "dropped": _sum(dropped),
        "seen_bytes": _sum(size.filter(seen)),
        "kept_bytes": _sum(size.filter(kept)),
        "rules": {str(pair["values"]): pair["counts"] for pair in sorted(rules, key=lambda pair: str(pair["values"]))},
    }
    if counts["seen"] != counts["kept"] + counts["dropped"]:
        raise StageError(f"{step} lost documents: {counts['seen']} seen, {counts['kept']} kept, {counts['dropped']} dropped")
    return table, counts, _mask(kept)


def _mask(kept: pa.ChunkedArray) -> str | None:
    flags = kept.to_numpy().astype(bool)
    return None if flags.all() else hashlib.sha256(len(flags).to_bytes(8, "little") + np.packbits(flags).tobytes()).hexdigest()


def _sum(column: pa.ChunkedArray) -> int:
    return int(pc.sum(column, min_count=0).as_py())


# Records


@functools.lru_cache(maxsize=4)
def opened(url: str) -> Store:
    """Return the store, opened once in this process."""
    return Store.open(url)


@functools.lru_cache(maxsize=8)
def _artifact(url: str, name: str) -> Artifact:
    """Return an artifact of a store, read once in this process, not once for each of its parts: its name is the hash of what it says."""
    return opened(url).artifact(name)


def made_by() -> dict[str, Any]:
    """Return machine, process and time: for records, never for keys."""
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "pid": os.getpid(),
        "commit": commit(),
        "python": platform.python_version(),
        "peak_memory_bytes": _peak_memory_bytes(),
    }


def _peak_memory_bytes() -> int | None:
    """Return the peak memory of this process so far; None where the system does not report it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024


@functools.cache
def commit() -> str | None:
    """Return the git commit of the running code, with a + if the tree was changed; None outside a checkout."""
    import subprocess

    from starloom.lineage.code import ROOT

    if not (ROOT / ".git").exists():
        return None
    words = ["git", "describe", "--always", "--dirty=+", "--abbrev=12"]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    return told.stdout.strip() or None
