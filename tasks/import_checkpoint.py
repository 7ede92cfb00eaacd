"""Take a checkpoint that exists, in transformers' format: a folder, or a repository of the Hugging Face Hub at one commit.

Reads   nothing of the recipe
Writes  Checkpoint  config.json and the weights as they are: model.safetensors, or several with model.safetensors.index.json
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationInfo

from lineage.errors import InputError
from tasks._stage import Config, Runtime, stage
from tasks.hub import fetched_if_there, is_on_the_hub
from tasks.schemas import Checkpoint

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
OFFLINE = "copy its files here and give that folder as import_checkpoint.checkpoint"


def _existing(value: str, info: ValidationInfo) -> str:
    """The absolute path of a folder that can be taken, or `org/name@commit`."""
    if is_on_the_hub(value):
        return value
    folder = Path((info.context or {}).get("folder", "."), value).expanduser().absolute()
    if not folder.is_dir():
        raise ValueError(f"no folder at {folder}; a checkpoint of the Hub is named org/name@commit, with the commit's 40 digits")
    _files_of(str(folder))
    return str(folder)


class ImportCheckpoint(Config):
    """Knobs of `import_checkpoint`."""

    checkpoint: Annotated[str, AfterValidator(_existing)]
    """A folder with config.json and safetensors of GPTBigCode or Starcoder2, or `org/name@commit` of the Hugging Face Hub. A folder is
    named by its contents: whoever asks for a plan waits until they are read. A commit names its contents by itself."""

    def identity(self) -> dict[str, Any]:
        """A folder's contents, or a commit."""
        if is_on_the_hub(self.checkpoint):
            return {"checkpoint": self.checkpoint}
        files = _files_of(self.checkpoint)
        return {"checkpoint": {name: {"sha256": _digest(path, *_stamp(path))} for name, path in files.items()}}


@stage(over="whole")
def import_checkpoint(cfg: ImportCheckpoint, runtime: Runtime) -> Checkpoint:
    """Check that the files are whole and describe a network that can be trained and evaluated here."""
    import shutil

    from model.architecture import Architecture

    folder = runtime.scratch / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
    folder.mkdir(parents=True)
    try:
        for name, path in _files_of(cfg.checkpoint).items():
            (folder / name).symlink_to(path)  # the store makes the one copy
        architecture = Architecture.from_checkpoint(folder)
        num_tensors = _check_weights(folder)
    except ValueError as error:
        hint = "take a checkpoint of StarCoder's or StarCoder2's kind as transformers saves it, with safe_serialization"
        raise InputError(f"{cfg.checkpoint} cannot be taken: {error}", hint=hint) from error
    runtime.note(checkpoint=cfg.checkpoint, family=architecture.family, parameters=architecture.num_parameters, tensors=num_tensors)
    return Checkpoint.of(folder)


def _files_of(checkpoint: str) -> dict[str, Path]:
    """The files of a checkpoint that are worth taking, by name.

    Raises:
        ValueError: there are no weights, or not all of them.
        InputError: the Hub does not give them.
    """

    def find(name: str) -> Path | None:
        if is_on_the_hub(checkpoint):
            return fetched_if_there(checkpoint, name, OFFLINE)
        path = Path(checkpoint, name)
        return path if path.is_file() else None

    index = find(INDEX)
    names = sorted({*_promised(index).values()} if index else {WEIGHTS})
    found = {name: find(name) for name in (CONFIG, *names) if Path(name).name == name}
    missing = [name for name in (CONFIG, *names) if found.get(name) is None]
    if index is None and missing == [WEIGHTS]:
        raise ValueError(
            f"{checkpoint} has neither {WEIGHTS} nor {INDEX}; weights of another format (pytorch_model.bin) can run code and are not read. "
            "Convert them with transformers: from_pretrained, then save_pretrained"
        )
    if missing:
        raise ValueError(f"{checkpoint} has no {missing[0]}; fetch the whole folder")
    files = {name: path for name, path in found.items() if path is not None}
    return files if index is None else {**files, INDEX: index}


def _promised(index: Path) -> dict[str, str]:
    """What an index says: tensor → file."""
    import json

    try:
        where = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {str(tensor): str(file) for tensor, file in where.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of weights: it has no `weight_map` of tensors to files") from error


def _check_weights(folder: Path) -> int:
    """Refuse files that are cut short, or that lack a tensor which the index says is in them; return how many tensors there are."""
    from safetensors import SafetensorError, safe_open

    promised = _promised(folder / INDEX) if (folder / INDEX).exists() else {}
    there: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:  # reads the header, and holds its lengths against the file's
                there |= dict.fromkeys(file.keys(), path.name)
        except SafetensorError as error:
            raise ValueError(
                f"{path.name} is no whole safetensors file ({error}); fetch it again, with Git LFS if it came by git"
            ) from error
    lost = [name for name, file in promised.items() if there.get(name) != file]
    if lost:
        raise ValueError(f"the {INDEX} says that {lost[0]} is in {promised[lost[0]]}, and it is not; fetch both again")
    return len(there)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=256)
def _digest(path: Path, size: int, modified_ns: int) -> str:
    """SHA-256 of a file, read once in a process for as long as its size and time stay what they are."""
    from lineage.keys import file_digest

    del size, modified_ns
    return file_digest(path)
