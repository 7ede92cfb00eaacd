"""The evaluator: held-out losses and completions of a checkpoint, as files that others score.

    python -m model.evaluate config.json

`config.json` is a `model.config.EvaluationJob`. Written to `out`:

- `heldout_losses.parquet` (part, row, losses): for each held-out sequence the loss of each of its tokens. The loss of
  predicting the token at position i is `losses[i]`; it is null at position 0 and for padding, which nothing predicts.
- `completions.jsonl` (task_id, sample, completion, finish, num_tokens, num_cut_tokens), in the order of the prompts. `finish` is
  `eod`, `stop` or `length`; `num_cut_tokens` counts the tokens of a prompt's beginning that did not fit the context.

One JSON line of progress for each batch goes to stdout.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from tokenizers import Tokenizer

from model.checkpoint import load_network
from model.config import Completing, EvaluationJob, Heldout, Prompt
from model.data import HELDOUT, Rows, read_split
from model.files import replacing
from model.generate import Continuation, begin, complete
from model.network import GPT, targets_of
from model.numerics import autocast, fix_numerics

HELDOUT_LOSSES = pa.schema({"part": pa.int32(), "row": pa.int32(), "losses": pa.list_(pa.float32())})


def evaluate(job: EvaluationJob) -> None:
    """Carry out the tasks of a job.

    Raises:
        ValueError: the checkpoint, the data or a prompt does not fit; the message names which.
    """
    fix_numerics(job.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = load_network(job.checkpoint, device)
    with autocast(device, job.precision):
        if job.tasks.heldout is not None:
            measure_heldout(job, job.tasks.heldout, network)
        if job.tasks.completions is not None:
            write_completions(job, job.tasks.completions, network)


def measure_heldout(job: EvaluationJob, task: Heldout, network: GPT) -> None:
    """Write the loss of every token of the chosen held-out sequences."""
    chosen = choose_rows(job.packed, task.max_sequences)
    device, done = network.device, 0
    with replacing(job.out / "heldout_losses.parquet") as file, pq.ParquetWriter(file, HELDOUT_LOSSES, compression="zstd") as writer:
        for rows in in_batches(job.packed, chosen, task.batch_sequences):
            check_length(rows, job.packed, network.architecture.context_tokens)
            tokens_BT = torch.from_numpy(rows.tokens.astype(np.int64)).to(device)
            targets_BT = targets_of(tokens_BT, job.pad_token)
            losses_BT = network.token_losses(tokens_BT, targets_BT).roll(1, dims=1).cpu().numpy()
            nothing_BT = (targets_BT < 0).roll(1, dims=1).cpu().numpy()
            writer.write_table(losses_table(rows, losses_BT, nothing_BT))
            done += len(rows.numbers)
            report(task="heldout", done=done, total=len(chosen), unit="sequences")


def check_length(rows: Rows, paths: list[Path], context_tokens: int) -> None:
    """Refuse sequences that the network cannot read."""
    length = rows.tokens.shape[1]
    if length > context_tokens:
        raise ValueError(f"{paths[rows.part]}: sequences of {length} tokens do not fit this network's context of {context_tokens}")


def choose_rows(paths: list[Path], max_sequences: int) -> NDArray[np.int64]:
    """Part and row of the held-out sequences to measure, spread evenly over all of them."""
    found = [np.stack([np.full_like(rows.numbers, rows.part), rows.numbers], axis=1) for rows in read_split(paths, HELDOUT)]
    if not found:
        return np.empty((0, 2), np.int64)
    everything = np.concatenate(found)
    count = min(len(everything), max_sequences)
    return everything[np.arange(count) * len(everything) // count]


def in_batches(paths: list[Path], chosen: NDArray[np.int64], batch_sequences: int) -> Iterator[Rows]:
    """The chosen sequences in order; a batch stays within a part."""
    for rows in read_split(paths, HELDOUT):
        wanted = chosen[chosen[:, 0] == rows.part, 1]
        here = np.flatnonzero(np.isin(rows.numbers, wanted))
        for start in range(0, len(here), batch_sequences):
            picked = here[start : start + batch_sequences]
            yield Rows(rows.part, rows.numbers[picked], rows.tokens[picked])


def losses_table(rows: Rows, losses_BT: NDArray[np.float32], nothing_BT: NDArray[np.bool_]) -> pa.Table:
    """A row for each sequence; null where nothing was predicted."""
    num_rows, length = losses_BT.shape
    values = pa.array(losses_BT.reshape(-1), pa.float32(), mask=nothing_BT.reshape(-1))
    losses = pa.ListArray.from_arrays(pa.array(np.arange(0, num_rows * length + 1, length), pa.int32()), values)
    part = pa.array(np.full(num_rows, rows.part), pa.int32())
    return pa.table([part, pa.array(rows.numbers, pa.int32()), losses], schema=HELDOUT_LOSSES)


def write_completions(job: EvaluationJob, task: Completing, network: GPT) -> None:
    """Complete every prompt, batch by batch, and write them in order."""
    tokenizer = Tokenizer.from_file(str(job.tokenizer))
    tokenizer.encode_special_tokens = True
    architecture = network.architecture
    continuations = [
        begin(prompt, prompt_tokens(prompt, tokenizer, architecture.vocab_size), architecture.context_tokens)
        for prompt in read_prompts(task.prompts)
    ]
    with replacing(job.out / "completions.jsonl") as file:
        for start in range(0, len(continuations), task.batch_prompts):
            batch = continuations[start : start + task.batch_prompts]
            complete(network, batch, tokenizer, job.eod_token)
            file.writelines(json.dumps(as_record(row)).encode() + b"\n" for row in batch)
            report(task="completions", done=start + len(batch), total=len(continuations), unit="prompts")


def read_prompts(path: Path) -> Iterator[Prompt]:
    """The prompts of a file.

    Raises:
        ValueError: a line is not a prompt; the message names it.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield Prompt.model_validate_json(line)
            except ValidationError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error


def prompt_tokens(prompt: Prompt, tokenizer: Tokenizer, vocab_size: int) -> list[int]:
    """The ids of a prompt; text is text, even where it spells a special token."""
    if prompt.prompt is not None:
        tokens: list[int] = tokenizer.encode(prompt.prompt, add_special_tokens=False).ids
    else:
        tokens = prompt.prompt_tokens or []
    if outside := [token for token in tokens if not 0 <= token < vocab_size]:
        raise ValueError(f"task {prompt.task_id!r}: token {outside[0]} of the prompt is outside the network's vocabulary of {vocab_size}")
    return tokens


def as_record(row: Continuation) -> dict[str, str | int]:
    """A line of `completions.jsonl`."""
    return {
        "task_id": row.prompt.task_id,
        "sample": row.prompt.sample,
        "completion": row.text,
        "finish": row.finish,
        "num_tokens": len(row.new_tokens),
        "num_cut_tokens": row.num_cut_tokens,
    }


def report(**facts: str | int) -> None:
    """Print one JSON line, at once."""
    print(json.dumps(facts), flush=True)


def main(arguments: list[str]) -> int:
    """Run the evaluation that a config file describes; the exit status is 0, or 1 for a failure."""
    if len(arguments) != 1:
        print("usage: python -m model.evaluate config.json", file=sys.stderr)
        return 2
    try:
        evaluate(EvaluationJob.model_validate_json(Path(arguments[0]).read_text()))
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
