"""What a few words could mean in a store: runs, steps, artifacts, documents, sequences, repositories, paths."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from starloom.lineage.errors import InputError, did_you_mean
from starloom.queries.export import find
from starloom.queries.fates import origins
from starloom.queries.questions import newest
from starloom.queries.rows import Rows
from starloom.queries.showing_clusters import show_cluster
from starloom.queries.tracing import trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starloom.lineage.store import Store

Found = dict[str, Any]
MOST = 30
"""Of each kind that are listed."""
_SHORTEST_RUN = 4
"""Characters of a run's id that are taken for it."""
_SWHID = re.compile(r"swh:1:cnt:([0-9a-f]{40})(;.*)?")
_DOC_ID = re.compile(r"[0-9a-f]{8,32}")
_CONFLICTS = ("conflicts", "licence conflicts", "license conflicts")


def find_all(store: Store, words: str, run_id: str | None = None) -> list[Found]:
    """Return everything that `words` could mean: `kind`, `name`, and what a page about it needs to know.

    Args:
        store: to query.
        words: a path, repository, doc_id, SWHID, run, RUN/STEP, PART:ROW, the beginning of an artifact's hash or of a doc_id, or one of
            the prefixes that `starloom trace` and `starloom show` know.
        run_id: of documents and sequences: in this run; None for the newest that is done.

    Raises:
        InputError: if it means nothing here; the hint says what comes near.
    """
    if next(store.last_run_ids(), None) is None:
        raise InputError(f"{store.url} holds no runs yet", hint="run a recipe first: starloom run RECIPE")
    ways: tuple[Callable[[Store, str, str | None], Iterator[Found]], ...] = (_words, _runs, _steps, _swhids, _artifacts, _documents)
    found = [each for way in ways for each in way(store, words, run_id)]
    if not _is_decided(found, words):
        known = {(each["kind"], each["name"]) for each in found}
        found += [each for each in _traced(store, words, run_id, has_others=bool(found)) if (each["kind"], each["name"]) not in known]
    if not found:
        hint = did_you_mean(words.partition(":")[2] or words, [*store.run_ids(), *store.tags()])
        raise InputError(f"{store.url} holds nothing named {words!r}", hint=hint)
    return found


def _is_decided(found: list[Found], words: str) -> bool:
    """Return whether words name one of the finds in full, so that nothing else need be searched."""
    return any(each["name"] == words or each["kind"] in ("conflicts", "cluster") for each in found)


def _words(store: Store, words: str, run_id: str | None) -> Iterator[Found]:
    if words.lower() in _CONFLICTS:
        run = newest(store) if run_id is None else store.run(run_id)
        yield {"kind": "conflicts", "name": "licence conflicts", "run": run.id}
    if words.startswith("cluster:"):
        run = newest(store) if run_id is None else store.run(run_id)
        step, _, name = words.removeprefix("cluster:").rpartition("/")
        cluster = show_cluster(store, f"{step}/{name}" if step else name, run.id, 0)
        yield {"kind": "cluster", "name": cluster["cluster_id"], "run": run.id, "step": cluster["step"]}


def _runs(store: Store, words: str, _run_id: str | None) -> Iterator[Found]:
    wanted = words.removeprefix("run:")
    known, tags = store.run_ids(), store.tags()
    if wanted == "latest" or wanted in tags:
        yield {"kind": "run", "name": words, "run": store.run(wanted).id}
    elif len(wanted) >= _SHORTEST_RUN:
        hits = [run for run in known if run.startswith(wanted) or run.endswith(wanted)]
        yield from ({"kind": "run", "name": run, "run": run} for run in reversed(hits[-MOST:]))


def _steps(store: Store, words: str, _run_id: str | None) -> Iterator[Found]:
    run_id, slash, step = words.removeprefix("step:").partition("/")
    hits = [run for run in store.run_ids() if len(run_id) >= _SHORTEST_RUN and (run.startswith(run_id) or run.endswith(run_id))]
    if slash and (run_id == "latest" or run_id in store.tags() or len(hits) == 1):
        run = store.run(run_id)
        if run.step(step) is not None:
            yield {"kind": "step", "name": words, "run": run.id, "step": step}


def _swhids(store: Store, words: str, run_id: str | None) -> Iterator[Found]:
    wanted = _SWHID.fullmatch(words.strip())
    if wanted is None:
        return
    rows, run = Rows(store), newest(store) if run_id is None else store.run(run_id)
    name, number = f"swh:1:cnt:{wanted[1]}", 0
    for step in origins(run):
        artifact = step.outputs["Docs"]["artifact"]
        for part, table in rows.tables(artifact, ["swhid"]):
            at = pc.indices_nonzero(pc.equal(table.column("swhid"), name)).to_pylist()[: MOST - number]
            for row in rows.take(artifact, part, at, ["doc_id", "repo", "path"]).to_pylist() if at else ():
                number += 1
                yield {"kind": "document", "name": f"{row['repo']}/{row['path']}", "run": run.id, **row}
    if not number:
        raise InputError(f"run {run.id} read no document {name}", hint="another run may have: choose one, or find the file by its path")


def _artifacts(store: Store, words: str, _run_id: str | None) -> Iterator[Found]:
    for name in find(store, words.removeprefix("artifact:").lower())[:MOST]:
        kind = store.artifact(name).type
        yield {"kind": "checkpoint" if kind == "Checkpoint" else "artifact", "name": name, "type": kind}


def _documents(store: Store, words: str, run_id: str | None) -> Iterator[Found]:
    prefix = words.removeprefix("doc:").lower()
    if not _DOC_ID.fullmatch(prefix):
        return
    rows, run = Rows(store), newest(store) if run_id is None else store.run(run_id)
    for step in origins(run):
        artifact = step.outputs["Docs"]["artifact"]
        number = 0
        for part, at in rows.beginning(artifact, "doc_id", prefix):
            for who in rows.take(artifact, part, at[: MOST - number], ["doc_id", "repo", "path"]).to_pylist() if number < MOST else ():
                number += 1
                yield {"kind": "document", "name": f"{who['repo']}/{who['path']}", "run": run.id, **who}


def _traced(store: Store, words: str, run_id: str | None, *, has_others: bool) -> list[Found]:
    """Return what `starloom trace` takes the words for."""
    if words.startswith(("artifact:", "run:", "step:", "cluster:")) or _SWHID.fullmatch(words.strip()):
        return []
    if _DOC_ID.fullmatch(words.lower()):  # artifacts of that name are found already
        if has_others:
            return []
        words = f"doc:{words}"
    try:
        story = trace(store, words, run_id=run_id, limit=MOST, is_brief=True)
    except InputError:
        if has_others:
            return []
        raise
    return list(_named(story, {"run": story["run"]}))


def _named(story: dict[str, Any], run: dict[str, str]) -> Iterator[Found]:
    """Yield what a trace is about, by the parts that it has."""
    if "checkpoint" in story:
        yield {"kind": "checkpoint", "name": story["checkpoint"]["artifact"], "type": "Checkpoint", **run}
    elif "sequence" in story:
        yield {"kind": "sequence", "name": f"{story['sequence']['part']}:{story['sequence']['row']}", **run}
    elif "repository" in story:
        yield {"kind": "repository", "name": story["repository"]["repo"], **run}
    elif "document" in story:
        who = story["document"]
        yield {"kind": "document", "name": f"{who['repo']}/{who['path']}", "doc_id": who["doc_id"], **run}
    for each in story.get("documents", []) if "checkpoint" not in story else []:
        yield {"kind": "document", "name": f"{each['repo']}/{each['path']}", "doc_id": each["doc_id"], "dropped": each["dropped"], **run}
    for each in story.get("skipped", []) if story["kind"] == "skipped" else []:
        yield {"kind": "skipped", "name": f"{each['repo']}/{each['path']}", "rule": each["rule"], "repo": each["repo"], **run}
