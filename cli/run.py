"""`starloom run`: run a recipe; finished work is taken from the store."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from starloom.cli.output import print_json
from starloom.cli.places import about
from starloom.cli.plan import add_recipe_arguments, recipe_command, request
from starloom.cli.terminal import printable
from starloom.queries.formats import count, size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from starloom.flows.run import Prepared
    from starloom.flows.session import Watcher
    from starloom.lineage.records import Run, StepState

LINE_SECONDS = 10.0
"""Least time between two lines about one step, where there is no terminal to redraw."""
SHOWN_RULES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `starloom run`."""
    add_recipe_arguments(parser)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="worker processes (default: one per core)")
    parser.add_argument("--no-prefect", action="store_true", help="run without Prefect: no server is started, nothing is shown in its UI")


def main(arguments: argparse.Namespace) -> int:
    """Run the recipe; print what was made, where it is, and what to type next."""
    from starloom.flows.prefect_flow import as_flow
    from starloom.flows.run import execute, in_order, prepare, take_cached
    from starloom.lineage.errors import ConfigError

    if arguments.workers < 1:
        raise ConfigError(f"--workers {arguments.workers}: a run needs at least one", hint="leave it out for one worker per core")
    started = time.perf_counter()
    prepared = prepare(request(arguments))
    if prepared.is_cached:
        run, is_new = take_cached(prepared)
        return _said_cached(arguments, prepared, run, is_new=is_new, seconds=time.perf_counter() - started)
    watcher = _watcher(prepared, quiet=arguments.json)
    with watcher:
        run = execute(prepared, watcher, workers=arguments.workers, carry=in_order if arguments.no_prefect else as_flow)
    if arguments.json:
        print_json(_document(prepared, run))
    else:
        print(_summary(prepared, run, time.perf_counter() - started))
        print("\n".join(["", "next:", *_suggestions(arguments, prepared, run)]))
    return 0


def _said_cached(arguments: argparse.Namespace, prepared: Prepared, run: Run, *, is_new: bool, seconds: float) -> int:
    if arguments.json:
        print_json(_document(prepared, run))
        return 0
    print(f"nothing to run: all {len(prepared.plan.steps)} steps are cached ({seconds:.2f} s)")
    print(f"{'recorded as' if is_new else 'this is run'} {run.id} in {prepared.store.url}")
    print(f"\nnext: {about(prepared.store, f'show {run.id}')}")
    return 0


def _document(prepared: Prepared, run: Run) -> dict[str, Any]:
    from starloom.queries.fates import funnel

    return {
        "run": run.id,
        "status": run.status,
        "result": run.result,
        "store": prepared.store.url,
        "steps": [
            {
                "step": step.name,
                "status": step.status,
                "actions": step.num_actions,
                "cached": step.num_cached,
                "seconds": step.seconds,
                "outputs": {kind: out["artifact"] for kind, out in step.outputs.items()},
                "warnings": step.notes.get("warnings", []),
            }
            for step in run.steps
        ],
        "funnel": funnel(run),
    }


def _summary(prepared: Prepared, run: Run, seconds: float) -> str:
    ran = sum(step.num_actions - step.num_cached for step in run.steps)
    cached = sum(step.num_cached for step in run.steps)
    place = f"{prepared.store.url}/runs/{run.id}"
    lines = [
        f"\ndone in {seconds:.1f} s: {count(ran)} actions run, {count(cached)} taken from the store",
        f"  run      {run.id}",
        f"  outputs  {place}",
    ]
    release = run.step("release")
    if release is not None:
        lines.append(f"  release  {place}/{release.name}/ (cards, pictures, weights)")
    return "\n".join(lines)


def _suggestions(arguments: argparse.Namespace, prepared: Prepared, run: Run) -> list[str]:
    """Suggest commands after this run: a look, a trace, a what-if."""
    lines = [about(prepared.store, f"show {run.id}")]
    if run.step("train_model"):
        lines.append(about(prepared.store, "trace checkpoint"))
    if run.step("near_dedup") and not any(setting.startswith("near_dedup.threshold=") for setting in arguments.set):
        what_if = recipe_command("plan", arguments, "--set", "near_dedup.threshold=0.8")
        lines.append(f"{what_if}    # what would run again, and why")
    return [f"  {line}" for line in lines]


def _watcher(prepared: Prepared, *, quiet: bool) -> Any:
    if quiet:
        return _Quiet()
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return _Terminal(prepared)
    return _Lines(prepared)


def describe(state: StepState, counts: Mapping[str, Any] | None) -> str:
    """Describe the result of a finished step in one line."""
    is_whole = state.status in ("done", "cached")  # of a step that did not end it is not known how many ran
    ran = state.num_actions - state.num_cached if is_whole else 0
    parts = ", ".join(f"{count(number)} {what}" for number, what in ((ran, "run"), (state.num_cached, "cached")) if number)
    head = f"{state.name:<24} {state.status:<9} {parts:<20} {state.seconds:>7.1f} s"
    told = state.notes.get("told") or (_told(counts) if counts else "")
    return f"{head}   {told}".rstrip()


def warnings(state: StepState) -> list[str]:
    """Return the warnings of a finished step, one per line."""
    return [f"{'':<24} warning: {printable(text)}" for text in state.notes.get("warnings", [])]


def _told(counts: Mapping[str, Any]) -> str:
    if "seen" in counts:
        rules = sorted(counts["rules"].items(), key=lambda rule: -rule[1])[:SHOWN_RULES]
        why = ", ".join(f"{rule} {count(number)}" for rule, number in rules)
        told = f"{count(counts['seen'])} → {count(counts['kept'])} documents"
        return f"{told} ({why})" if why else told
    if "text_bytes" in counts:
        return f"{count(counts['rows'])} documents, {size(counts['text_bytes'])}"
    return f"{count(counts['rows'])} rows" if counts.get("rows") else ""


def _main_counts(state: StepState) -> Mapping[str, Any] | None:
    for kind in ("Verdicts", "Docs", *state.outputs):
        if kind in state.outputs:
            counts: Mapping[str, Any] = state.outputs[kind]["counts"]
            return counts
    return None


class _Quiet:
    """A watcher that prints nothing."""

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None: ...
    def started(self, step: str, num_actions: int, num_cached: int) -> None: ...
    def progressed(self, step: str, done: int, total: int, unit: str, metrics: dict[str, Any]) -> None: ...
    def finished(self, state: StepState) -> None: ...


class _Lines(_Quiet):
    """A watcher that prints a line for each step, and one now and then for a long one."""

    def __init__(self, prepared: Prepared) -> None:
        self._last: dict[str, float] = {}
        print(f"{prepared.plan.recipe.name}: {len(prepared.plan.steps)} steps, store {prepared.store.url}", flush=True)

    def progressed(self, step: str, done: int, total: int, unit: str, metrics: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._last.setdefault(step, now) > LINE_SECONDS:
            self._last[step] = now
            print(f"{step:<24} {_progress(done, total, unit, metrics)}", flush=True)

    def finished(self, state: StepState) -> None:
        print("\n".join([describe(state, _main_counts(state)), *warnings(state)]), flush=True)


class _Terminal(_Quiet):
    """A watcher with a progress bar for each running step; a line above for each that is done."""

    def __init__(self, prepared: Prepared) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description:<24}"), BarColumn(), TextColumn("{task.fields[told]}"), TimeElapsedColumn())
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._bars: dict[str, Any] = {}
        self._console.print(f"{prepared.plan.recipe.name}: {len(prepared.plan.steps)} steps, store {prepared.store.url}")

    def __enter__(self) -> Watcher:
        self._progress.start()
        self._bars[""] = self._progress.add_task("starting Prefect", total=None, told="")
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def started(self, step: str, num_actions: int, num_cached: int) -> None:
        self._drop("")
        self._bars[step] = self._progress.add_task(step, total=num_actions, completed=num_cached, told="")

    def progressed(self, step: str, done: int, total: int, unit: str, metrics: dict[str, Any]) -> None:
        if step in self._bars:
            self._progress.update(self._bars[step], completed=done, total=total, told=_progress(done, total, unit, metrics))

    def finished(self, state: StepState) -> None:
        self._drop("")
        self._drop(state.name)
        self._console.print("\n".join([describe(state, _main_counts(state)), *warnings(state)]), markup=False)

    def _drop(self, step: str) -> None:
        bar = self._bars.pop(step, None)
        if bar is not None:
            self._progress.remove_task(bar)


def _progress(done: int, total: int, unit: str, metrics: Mapping[str, Any]) -> str:
    told = "  ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in metrics.items())
    return f"{count(done)} of {count(total)} {unit}  {told}".rstrip()
