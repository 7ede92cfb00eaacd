"""Checkpoints: the finished network as a folder that others can load, and the unfinished training as a file to resume from."""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from model.config import Architecture
from model.files import replacing
from model.network import GPT

WEIGHTS, CONFIG = "model.safetensors", "config.json"
NUM_STATES_KEPT = 2
"""Two, so that a state which the disk damaged after it was written costs some steps and not the training."""


def save_network(folder: Path, architecture: Architecture, weights: dict[str, torch.Tensor], **token_ids: int | None) -> None:
    """Write `model.safetensors` and `config.json`, in the format of transformers' GPTBigCode.

    Args:
        folder: where; created.
        architecture: what the weights fit.
        weights: the network's state.
        token_ids: `eos_token_id` and the like, told to whoever loads it.
    """
    plain = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in weights.items()}
    with replacing(folder / WEIGHTS) as file:
        safetensors.torch.save_file(plain, file.name, metadata={"format": "pt"})
    with replacing(folder / CONFIG) as file:
        file.write(json.dumps(architecture.to_checkpoint() | token_ids, indent=2, sort_keys=True).encode() + b"\n")


def load_network(folder: Path, device: torch.device) -> GPT:
    """The network of a checkpoint folder, ready to evaluate.

    Raises:
        ValueError: the folder holds another architecture, or its weights do not fit its config.
    """
    network = GPT(Architecture.from_checkpoint(folder))
    weights = safetensors.torch.load_file(folder / WEIGHTS)
    weights.pop("lm_head.weight", None)  # some writers store the tied head twice
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {error}") from error
    return network.to(device).eval()


def save_state(work: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state of a training after `step`; older ones are dropped only when it is safe on the disk.

    Raises:
        OSError: it could not be written; the states before it are untouched.
    """
    path = work / f"state-{step:08d}.pt"
    try:
        with replacing(path) as file:
            torch.save(state, file)
    except RuntimeError as error:  # torch's writer reports a full disk so
        raise OSError(f"{path} could not be written: {error}") from error
    with replacing(path.with_suffix(".sha256")) as file:  # last: a state without its hash does not count
        file.write(_sha256(path).encode())
    for old in sorted(work.glob("state-*.pt"))[:-NUM_STATES_KEPT]:
        old.with_suffix(".sha256").unlink(missing_ok=True)
        old.unlink()
    return path


def newest_state(work: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest state whose bytes are those that were written, if there is one."""
    for path in sorted(work.glob("state-*.pt"), reverse=True):
        digest = path.with_suffix(".sha256")
        if digest.exists() and digest.read_text() == _sha256(path):
            return path, torch.load(path, map_location="cpu", weights_only=True)
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
