"""The command `python -m starloom.bench.pipeline`: where each stage's seconds go, from ingest to pack_fim, in one process.

python -m starloom.bench.pipeline [--mb N] [--part-mb N] [--until STEP] [--peer] [--scratch FOLDER] [--json]

The corpus is the Python packages of this environment; the stages are those of conf/demo.yaml, without Prefect. Columns are processor
seconds: kernel (all that the stage does itself; of ingest, reading files too), read and write (Parquet and records), hash (of what was
written); and idle, the seconds in which the process waited, for the disk or for its turn. `--peer` has datatrove deduplicate what our
near_dedup read, as its authors set it up, on one core too, and says how many times as long it takes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starloom.flows.plan import Plan

from starloom.bench.pipeline.peer import check, lines, time_peer
from starloom.lineage.errors import StarloomError
from starloom.tasks.frame.workers import NEW_OBJECTS_BEFORE_GC, SETTINGS_OF_LIBRARIES

RECIPE = Path(__file__).parents[2] / "conf" / "demo.yaml"
MB = 1_000_000
WARM_MB = 1
"""Text of a run beforehand, which imports what is imported and loads compiled kernels."""
COLUMNS = ("kernel", "read", "write", "hash", "idle")


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m starloom.bench.pipeline", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mb", type=float, help="megabytes of text at most; default: all")
    parser.add_argument("--part-mb", type=float, default=16, help="of a part (default %(default)s)")
    parser.add_argument("--until", default="pack_fim", help="the last step (default %(default)s)")
    parser.add_argument("--peer", action="store_true", help="time datatrove's near-deduplication of the same documents too")
    parser.add_argument("--scratch", type=Path, help="an existing folder with a byte free for each of text; default: the system's")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    os.environ.update(SETTINGS_OF_LIBRARIES)  # as in a worker; before Arrow is imported, which reads them then
    gc.set_threshold(NEW_OBJECTS_BEFORE_GC)
    try:
        if options.peer:
            check(step.name for step in _plan(WARM_MB, options.part_mb, options.until).steps)
        time_stages(WARM_MB, options.part_mb, options.until, options.scratch)
        report = time_stages(options.mb, options.part_mb, options.until, options.scratch, has_peer=options.peer)
    except StarloomError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(report, indent=2) if options.json else _lines(report))
    return 0


def time_stages(megabytes: float | None, part_mb: float, until: str, scratch: Path | None, *, has_peer: bool = False) -> dict[str, Any]:
    """Carry the recipe out in a new store, which is removed, and say where the seconds went.

    Args:
        megabytes: of text at most; None: all.
        part_mb: of a part.
        until: the last step.
        scratch: a folder for the store.
        has_peer: let the peer deduplicate too, once our steps are done.

    Returns:
        bytes of text, mb_per_second of processor time, result (of the run: two with one result made the same bytes), and of each step
        seconds by `COLUMNS`; peer: what `time_peer` found, if it was asked for.
    """
    from starloom.bench.pipeline.clock import Clock
    from starloom.flows.run import NoWatcher
    from starloom.flows.session import Session
    from starloom.lineage.store import Store
    from starloom.tasks.frame.workers import Workers

    plan, steps = _plan(megabytes, part_mb, until), {}
    with tempfile.TemporaryDirectory(prefix="starloom-pipeline-", dir=scratch) as folder, Workers(0) as workers:
        session = Session(plan, Store.open(folder), workers, NoWatcher(), set())
        for step in plan.steps:
            clock, start = Clock(), time.perf_counter()
            with clock.installed(), clock.counting("all"):
                session.run_step(step, lambda *_: None)
            steps[step.name] = _columns(clock.seconds, time.perf_counter() - start)
        session.close("done")
        peer = {"peer": time_peer(session.store, session.run, Path(folder))} if has_peer else {}
    num_bytes = session.run.steps[0].outputs["Docs"]["counts"]["text_bytes"]
    speed = num_bytes / MB / _processor_seconds(steps)
    return {"bytes": num_bytes, "mb_per_second": speed, "result": session.run.result, "steps": steps, **peer}


def _plan(megabytes: float | None, part_mb: float, until: str) -> Plan:
    from starloom.flows.plan import make_plan
    from starloom.flows.recipe import load

    sample = "" if megabytes is None else f", sample_bytes: {int(megabytes * MB)}"
    settings = [f"ingest.sources=[{{kind: python-environment{sample}}}]", f"ingest.part_bytes={int(part_mb * MB)}"]
    return make_plan(load(RECIPE, settings), until=until)


def _processor_seconds(steps: Mapping[str, Mapping[str, float]]) -> float:
    return sum(of_step[column] for of_step in steps.values() for column in COLUMNS if column != "idle")


def _columns(seconds: Mapping[str, float], wall_seconds: float) -> dict[str, float]:
    store = {name: seconds.get(name, 0.0) for name in ("read", "write", "hash")}
    return {"kernel": seconds["all"] - sum(store.values()), **store, "idle": max(wall_seconds - seconds["all"], 0.0)}


def _lines(report: dict[str, Any]) -> str:
    steps = {**report["steps"], "all": {name: sum(step[name] for step in report["steps"].values()) for name in COLUMNS}}
    rows = [f"{name:<24}" + "".join(f"{step[column]:9.2f}" for column in COLUMNS) for name, step in steps.items()]
    head = f"{report['bytes'] / MB:.1f} MB".ljust(24) + "".join(f"{column:>9}" for column in COLUMNS)
    told = [head, *rows, f"{report['mb_per_second']:.2f} MB/s a core; result {report['result'][:12]}"]
    if "peer" in report:
        told.append(lines(report["peer"], report["steps"], _processor_seconds(report["steps"])))
    return "\n".join(told)


if __name__ == "__main__":
    sys.exit(main())
