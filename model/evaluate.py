"""The evaluator: held-out losses and completions of a checkpoint, as files that others score.

    python -m starloom.model.evaluate config.json

`config.json` is a `starloom.model.config.EvaluationJob`. Written to `out`:

- `heldout_losses.parquet` (part, row, losses): for each held-out sequence the loss of each of its tokens. The loss of
  predicting the token at position i is `losses[i]`; it is null where nothing predicts it: at position 0, for padding, and at the
  beginning of a document that sees no other.
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

from starloom.model.config import Completing, EvaluationJob, Heldout, Prompt
from starloom.model.files import replacing
from starloom.model.formats import load_network
from starloom.model.generate import Continuation, complete
from starloom.model.network import GPT, targets_of
from starloom.model.numerics import autocast, chosen_device, fix_numerics
from starloom.model.prompting import asked, open_tokenizer
from starloom.model.validation import ValidationSet

HELDOUT_LOSSES = pa.schema({"part": pa.int32(), "row": pa.int32(), "losses": pa.list_(pa.float32())})


def evaluate(job: EvaluationJob) -> None:
    """Run the tasks of a job.

    Raises:
        ValueError: the checkpoint, the data or a prompt does not fit; the message names which.
    """
    device = chosen_device(job.device)
    fix_numerics(job.threads, device)
    network = load_network(job.checkpoint, device)
    with autocast(device, job.precision):
        if job.tasks.heldout is not None:
            measure_heldout(job, job.tasks.heldout, network)
        if job.tasks.completions is not None:
            write_completions(job, job.tasks.completions, network)


def measure_heldout(job: EvaluationJob, task: Heldout, network: GPT) -> None:
    """Write the loss of every token of the chosen held-out sequences."""
    heldout = ValidationSet.open(job.packed, [], task.max_sequences)
    check_length(heldout, network.architecture.context_tokens)
    device, done = network.device, 0
    with replacing(job.out / "heldout_losses.parquet") as file, pq.ParquetWriter(file, HELDOUT_LOSSES, compression="zstd") as writer:
        for batch, _ in heldout.batches(task.batch_sequences):
            tokens_BT = torch.from_numpy(batch.tokens_BT).to(device)
            offsets_N = None if task.attend_across_documents else torch.from_numpy(batch.offsets_N).to(device)
            targets_BT = targets_of(tokens_BT, job.pad_token, offsets_N)
            losses_BT = network.token_losses(tokens_BT, targets_BT, offsets_N).roll(1, dims=1).cpu().numpy()
            nothing_BT = (targets_BT < 0).roll(1, dims=1).cpu().numpy()
            writer.write_table(losses_table(heldout.origin[batch.sequences], losses_BT, nothing_BT))
            done += len(batch.sequences)
            report(task="heldout", done=done, total=len(heldout.tokens), unit="sequences")


def check_length(heldout: ValidationSet, context_tokens: int) -> None:
    """Refuse sequences that the network cannot read."""
    length = heldout.tokens.shape[1]
    if length > context_tokens:
        raise ValueError(f"held-out sequences of {length} tokens do not fit this network's context of {context_tokens}")


def losses_table(origin: NDArray[np.int64], losses_BT: NDArray[np.float32], nothing_BT: NDArray[np.bool_]) -> pa.Table:
    """Return a row for each sequence, whose part and row are in `origin`; null where nothing was predicted."""
    num_rows, length = losses_BT.shape
    values = pa.array(losses_BT.reshape(-1), pa.float32(), mask=nothing_BT.reshape(-1))
    losses = pa.ListArray.from_arrays(pa.array(np.arange(0, num_rows * length + 1, length), pa.int32()), values)
    return pa.table([*(pa.array(column, pa.int32()) for column in origin.T), losses], schema=HELDOUT_LOSSES)


def write_completions(job: EvaluationJob, task: Completing, network: GPT) -> None:
    """Complete every prompt, batch by batch, and write them in order."""
    tokenizer = open_tokenizer(job.tokenizer)
    continuations = [Continuation(prompt, asked(prompt, tokenizer, network.architecture)) for prompt in read_prompts(task.prompts)]
    with replacing(job.out / "completions.jsonl") as file:
        for start in range(0, len(continuations), task.batch_prompts):
            batch = continuations[start : start + task.batch_prompts]
            complete(network, batch, tokenizer, job.eod_token)
            file.writelines(json.dumps(row.as_record()).encode() + b"\n" for row in batch)
            report(task="completions", done=start + len(batch), total=len(continuations), unit="prompts")


def read_prompts(path: Path) -> Iterator[Prompt]:
    """Yield the prompts of a file.

    Raises:
        ValueError: a line is not a prompt; the message names it.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield Prompt.model_validate_json(line)
            except ValidationError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error


def report(**facts: str | int) -> None:
    """Print one JSON line, at once."""
    print(json.dumps(facts), flush=True)


def main(arguments: list[str]) -> int:
    """Run the evaluation that a config file describes; the exit status is 0, or 1 for a failure."""
    if len(arguments) != 1:
        print("usage: python -m starloom.model.evaluate config.json", file=sys.stderr)
        return 2
    try:
        evaluate(EvaluationJob.model_validate_json(Path(arguments[0]).read_text()))
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
