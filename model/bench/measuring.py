"""Training speed on this machine, with and without each technique, and beside transformers' own class of the same shape.

    python -m starloom.model.bench                                       every preset that fits
    python -m starloom.model.bench --preset starcoderbase-1b --techniques compile,attention,peer --json

Needs torch, accelerate, numpy, pyarrow, safetensors, tokenizers and, for the peer, transformers: what a bare GPU machine has. A step
is forward, backward, clipping and AdamW on random tokens, without dropout; weights are fp32, products bf16 on a GPU and fp32 on
a CPU. Figures are the median of `--steps` steps after those that compile and warm up. MFU is counted as `starloom.model.flops` says, with
attention's pairs and without. The first line of a preset has every technique that the trainer takes by itself; each other line changes
one thing. On a CPU, where neighbours disturb, all lines take their steps in turn, and what counts is the processor's time.
"""

import argparse
import contextlib
import dataclasses
import gc
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from starloom.model.architecture import Architecture
from starloom.model.bench.contenders import NUM_BATCHES, TECHNIQUES, Batch, Setting, Variant, batches, ours, peer, variants
from starloom.model.flops import flops_per_token, peak_memory_bytes, peak_of
from starloom.model.presets import load_presets

WARM_UP_STEPS = 2 * NUM_BATCHES
"""So that a compiler has seen each batch, and what it made for the first of another shape."""
BATCH_TOKENS = {"cuda": 32768, "cpu": 2048}
"""Tokens of a step unless a batch is given; halved until they fit."""
STATE_BYTES = 16
"""Of each parameter: weight, gradient and AdamW's two averages, in fp32."""
MILLION, GIGA = 1e6, 1e9


# Measuring


def measure(setting: Setting, lines: Sequence[Variant], num_steps: int, accelerator: Accelerator) -> Iterator[dict[str, Any]]:
    """Yield a row for each line as soon as it is known; one that fails gives its reason and does not stop the others."""
    if setting.device.type == "cpu":
        yield from _in_turn(setting, lines, num_steps, accelerator)
        return
    for variant in lines:
        yield from _in_turn(setting, [variant], num_steps, accelerator)


def _in_turn(setting: Setting, lines: Sequence[Variant], num_steps: int, accelerator: Accelerator) -> Iterator[dict[str, Any]]:
    """Set up all lines, then let them take their steps in turn."""
    seconds: dict[Variant, list[float]] = {variant: [] for variant in lines}
    busy: dict[Variant, list[float]] = {variant: [] for variant in lines}
    losses: dict[Variant, Tensor] = {}
    failed: dict[Variant, str] = {}
    contenders: dict[Variant, Callable[[Batch], Tensor]] = {}
    feed = itertools.cycle(batches(setting))
    if setting.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(setting.device)
    for variant in lines:
        with _noting(failed, variant):
            contenders[variant] = (peer if variant.is_peer else ours)(setting, variant, accelerator)
    for number in range(WARM_UP_STEPS + num_steps):
        batch = next(feed)
        for variant in [variant for variant in lines if variant not in failed]:
            with _noting(failed, variant):
                began, was_busy = time.perf_counter(), time.process_time()
                losses[variant] = contenders[variant](batch)
                if setting.device.type == "cuda":
                    torch.cuda.synchronize(setting.device)
                if number >= WARM_UP_STEPS:
                    seconds[variant].append(time.perf_counter() - began)
                    busy[variant].append(time.process_time() - was_busy)
    for variant in lines:
        is_ok = variant not in failed
        measured = {"processor_seconds": statistics.median(busy[variant]), "loss": float(losses[variant])} if is_ok else {}
        yield _row(setting, variant, failed.get(variant, "ok"), seconds[variant]) | measured
    contenders.clear()
    losses.clear()
    _forget(accelerator)


@contextlib.contextmanager
def _noting(failed: dict[Variant, str], variant: Variant) -> Iterator[None]:
    """Record the error that keeps a variant from running as its result."""
    try:
        yield
    except torch.OutOfMemoryError:
        failed[variant] = "out of memory"
    except Exception as error:  # noqa: BLE001 - a table with a hole that is explained is worth more than none
        failed[variant] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]


def _forget(accelerator: Accelerator) -> None:
    """Free the memory of what was measured, which accelerate keeps too, and the compiler's cache of its shapes."""
    accelerator.free_memory()
    torch._dynamo.reset()  # noqa: SLF001 - it has no public name
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _row(setting: Setting, variant: Variant, outcome: str, seconds: list[float]) -> dict[str, Any]:
    is_ok = outcome == "ok"
    per_step = statistics.median(seconds) if is_ok else None
    per_second = setting.batch_sequences * setting.sequence_tokens / per_step if per_step else None
    peak = peak_of(setting.device, setting.precision)
    costs = {pairs: flops_per_token(setting.architecture, setting.sequence_tokens, pairs=pairs) for pairs in (True, False)}
    reached = {pairs: per_second * cost / peak if per_second and peak else None for pairs, cost in costs.items()}
    return {
        "variant": variant.name,
        "outcome": outcome,
        "sequence_tokens": setting.sequence_tokens,
        "batch_sequences": setting.batch_sequences,
        "step_seconds": per_step,
        "step_seconds_of_each": seconds,
        "tokens_per_second": per_second,
        "mfu": reached[True],
        "mfu_without_pairs": reached[False],
        "peak_memory_bytes": peak_memory_bytes(setting.device) if is_ok and setting.device.type == "cuda" else None,
        "processor_seconds": None,
        "loss": None,
    }


def measure_preset(
    name: str, architecture: Architecture, options: argparse.Namespace, device: torch.device, accelerator: Accelerator
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one preset; the batch is the largest of 1, 1/2, 1/4 … of `BATCH_TOKENS` with which the trainer's setting runs."""
    shape = dataclasses.replace(architecture, dropout=0.0)
    told = {"preset": name, "parameters": shape.num_parameters}
    length = min(options.sequence or shape.context_tokens, shape.context_tokens)
    size = options.batch or max(1, BATCH_TOKENS[device.type] // length)
    setting = Setting(shape, length, size, device, options.precision)
    if device.type == "cuda":
        needed, there = STATE_BYTES * shape.num_parameters, torch.cuda.get_device_properties(device).total_memory
        if needed > there:
            problem = f"does not fit: {needed / GIGA:.0f} GB of weights, gradients and averages, {there / GIGA:.0f} GB of memory"
            yield told | _row(setting, Variant(name="as trained"), problem, [])
            return
    usual, *others = variants(options.techniques, device)
    if device.type == "cpu":
        yield from (told | row for row in measure(setting, [usual, *others], options.steps, accelerator))
        return
    (first,) = measure(setting, [usual], options.steps, accelerator)
    while first["outcome"] == "out of memory" and setting.batch_sequences > 1 and not options.batch:
        setting = dataclasses.replace(setting, batch_sequences=setting.batch_sequences // 2)
        (first,) = measure(setting, [usual], options.steps, accelerator)
    yield told | first
    yield from (told | row for row in measure(setting, others, options.steps, accelerator))


# Telling


def about(device: torch.device, precision: str) -> dict[str, Any]:
    """Return the hardware and software that the figures were taken with."""
    import importlib.metadata

    versions: dict[str, str | None] = {}
    for name in ("torch", "accelerate", "transformers", "flash-attn", "triton"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "peak_flops": peak_of(device, precision),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "python": sys.version.split()[0],
        "cuda": torch.version.cuda,
        "versions": versions,
        "commit": _commit(),
    }


def _commit() -> str | None:
    words = ["git", "describe", "--always", "--dirty=+", "--abbrev=12"]
    with contextlib.suppress(OSError):  # no git here, as on a bare machine
        told = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
        return told.stdout.strip() or None
    return None


HEAD = f"{'':<28} {'batch':>12} {'ms/step':>9} {'tokens/s':>10} {'MFU':>6} {'no pairs':>8} {'GB':>6} {'x peer':>7}"


def line_of(row: dict[str, Any], peer: dict[str, Any] | None) -> str:
    """Format a row; its last number is the speed-up over the peer: by wall clock on a GPU, by processor time on a CPU."""
    batch = f"{row['batch_sequences']} x {row['sequence_tokens']:,}"
    if row["outcome"] != "ok":
        return f"{row['variant']:<28} {batch:>12} {row['outcome']}"
    mfu, without = (f"{row[name]:.1%}" if row[name] else "-" for name in ("mfu", "mfu_without_pairs"))
    memory = f"{row['peak_memory_bytes'] / GIGA:.1f}" if row["peak_memory_bytes"] else "-"
    clock = "step_seconds" if row["peak_memory_bytes"] else "processor_seconds"
    times = f"{peer[clock] / row[clock]:.2f}" if peer else "-"
    speed = f"{1e3 * row['step_seconds']:>9.1f} {row['tokens_per_second']:>10,.0f}"
    return f"{row['variant']:<28} {batch:>12} {speed} {mfu:>6} {without:>8} {memory:>6} {times:>7}"


def _print_preset(rows: Sequence[dict[str, Any]]) -> None:
    print(f"\n{rows[0]['preset']}: {rows[0]['parameters'] / MILLION:,.1f} million parameters\n{HEAD}")
    found = next((row for row in rows if row["variant"] == "transformers" and row["outcome"] == "ok"), None)
    for row in rows:
        print(line_of(row, found), flush=True)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m starloom.model.bench", description=(__doc__ or "").partition("\n")[0])
    on_gpu = torch.cuda.is_available()
    parser.add_argument(
        "--preset",
        action="append",
        choices=sorted(load_presets()),
        help="measure this one; may be repeated (default: all, on a CPU tiny)",
    )
    parser.add_argument("--sequence", type=int, help="tokens of a sequence, at most a preset's context (default: all of it)")
    parser.add_argument("--batch", type=int, help="sequences of a step (default: what fits, 32,768 tokens at most)")
    parser.add_argument("--steps", type=int, default=20 if on_gpu else 40, help="steps to take the median of")
    parser.add_argument("--techniques", default=",".join(TECHNIQUES) if on_gpu else "peer", help=f"of {','.join(TECHNIQUES)}")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16" if on_gpu else "fp32")
    parser.add_argument("--threads", type=int, default=2, help="of a CPU")
    parser.add_argument("--json", action="store_true", help="print one JSON document rather than tables")
    options = parser.parse_args(arguments)
    options.techniques = [name for name in options.techniques.split(",") if name]
    unknown = sorted(set(options.techniques) - set(TECHNIQUES))
    if unknown:
        parser.error(f"--techniques: {', '.join(unknown)}: not among {', '.join(TECHNIQUES)}")
    for name in ("sequence", "batch", "steps", "threads"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)} is below 1")
    return options


def main(arguments: Sequence[str]) -> int:
    """Measure and print; the exit status is 1 if something failed for another reason than lack of memory."""
    options = parsed(arguments)
    torch.set_num_threads(options.threads)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="bf16" if options.precision == "bf16" else "no")
    head = about(accelerator.device, options.precision)
    if not options.json:
        print(
            f"{head['device']}, {options.precision}, "
            + ", ".join(f"{name} {version}" for name, version in head["versions"].items() if version)
        )
    rows = []
    presets = load_presets()
    for name in options.preset or (list(presets) if torch.cuda.is_available() else ["tiny"]):
        found = list(measure_preset(name, presets[name], options, accelerator.device, accelerator))
        rows += found
        if not options.json:
            _print_preset(found)
    if options.json:
        print(json.dumps(head | {"rows": rows}, indent=1))
    expected = ("ok", "out of memory", "does not fit")
    return 0 if all(row["outcome"].startswith(expected) for row in rows) else 1
