"""Clients of the console, as many at once as there are: each asks for one page after the other, without a pause."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from starloom.lineage.errors import StarloomError
from starloom.queries.fates import origins
from starloom.queries.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starloom.lineage.store import Store

    Ask = Callable[[random.Random], str]

TIMEOUT_SECONDS = 120
FINE = (200, 303)
DRAWN_A_PART = 200
"""Documents and clusters of each part that clients ask for."""
SEEDS = range(1000)


def pages(store: Store) -> dict[str, Ask]:
    """Return the name of each page → what draws an address of it; documents are of all parts."""
    run, rows, ids = store.run("latest"), Rows(store), store.run_ids()
    docs = origins(run)[0].outputs["Docs"]["artifact"]
    asks: dict[str, Ask] = {
        "runs": _one_of("/runs?page={}", range(1, max(1, len(ids) // 50) + 1)),
        "run": _one_of("/runs/{}", ids),
        "artifact": _one_of("/artifacts/{}", [out["artifact"] for step in run.steps for out in step.outputs.values()]),
        "document": _one_of("/documents/{}", _some(rows, docs, "doc_id")),
        "repository": _one_of("/repositories/{}", _some(rows, docs, "repo")),
        "find": _one_of("/find?q={}", [f"{repo}/{path}" for repo, path in zip(*_both(rows, docs), strict=True)]),
    }
    for step in run.steps:
        if "Verdicts" in step.outputs and "step" not in asks and step.outputs["Verdicts"]["counts"].get("dropped"):
            asks["step"] = _one_of(f"/runs/{{}}/steps/{step.name}", ids)
            asks["sample"] = _one_of(f"/runs/{ids[-1]}/steps/{step.name}/sample?seed={{}}", SEEDS)
        if "Clusters" in step.outputs and (names := _some(rows, step.outputs["Clusters"]["artifact"], "cluster_id")):
            asks["cluster"] = _one_of("/clusters/{}", names)
        if "Packed" in step.outputs:
            parts = enumerate(rows.artifact(step.outputs["Packed"]["artifact"]).parts)
            asks["sequence"] = _one_of("/sequences/{}", [f"{at}:{row}" for at, part in parts for row in _spread(part.num_rows)])
        if "Checkpoint" in step.outputs:
            asks["checkpoint"] = _one_of(f"/checkpoints/{step.name}?run={{}}", ids[-1:])
    return asks


def _one_of(form: str, choices: Sequence[object]) -> Ask:
    return lambda draw: form.format(quote(str(draw.choice(choices)), safe=":"))


def _spread(num_rows: int) -> list[int]:
    return sorted({int(row) for row in np.linspace(0, num_rows - 1, min(DRAWN_A_PART, num_rows))}) if num_rows else []


def _some(rows: Rows, artifact: str, column: str) -> list[str]:
    taken = []
    for number, part in enumerate(rows.artifact(artifact).parts):
        taken += rows.table(artifact, number, [column])[0].take(pa.array(_spread(part.num_rows), pa.int64())).to_pylist()
    return taken


def _both(rows: Rows, artifact: str) -> tuple[list[str], list[str]]:
    return _some(rows, artifact, "repo"), _some(rows, artifact, "path")


def ask_for(port: int, path: str) -> float:
    """Ask for a page once; return the seconds until all of it is there.

    Raises:
        StarloomError: it is no page.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        return _timed(connection, path)
    finally:
        connection.close()


def load(port: int, asks: dict[str, Ask], num_clients: int, num_requests: int) -> dict[str, list[float]]:
    """Have clients ask for pages in an order of chance; return page → seconds of each request, ascending.

    Raises:
        StarloomError: something that was asked for is no page.
    """
    taken: dict[str, list[float]] = defaultdict(list)
    problems: list[Exception] = []

    def client(seed: int) -> None:
        draw, connection = random.Random(seed), http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)  # noqa: S311 - no secret
        try:
            for _ in range(num_requests):
                page = draw.choice(list(asks))
                taken[page].append(_timed(connection, asks[page](draw)))
        except (OSError, http.client.HTTPException, StarloomError) as error:
            problems.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise StarloomError(f"the console did not answer: {problems[0]}", hint="its output is in console.log of the work folder")
    return {page: sorted(taken[page]) for page in asks if taken[page]}


def _timed(connection: http.client.HTTPConnection, path: str) -> float:
    begun = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    if answer.status not in FINE:
        raise StarloomError(f"{path} answered {answer.status}")
    return time.perf_counter() - begun
