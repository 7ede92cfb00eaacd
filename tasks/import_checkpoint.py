"""Take a checkpoint that exists, in transformers' format: a folder, or a repository of the Hugging Face Hub at one commit.

Reads   nothing of the recipe
Writes  Checkpoint  config.json and the weights as they are: model.safetensors, or several with model.safetensors.index.json; and
                    tokenizer.json where there is one, for a training to hold its own against: that is train_tokenizer.existing
"""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, ValidationInfo

from starloom.lineage.errors import InputError
from starloom.tasks.common.checkpoints import TOKENIZER
from starloom.tasks.common.hub import fetched_if_there, is_on_the_hub
from starloom.tasks.frame.stage import Config, Runtime, stage
from starloom.tasks.schemas import Checkpoint

if TYPE_CHECKING:
    from starloom.model.architecture import Architecture

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
OLD_BUFFERS = re.compile(r"\.(attn\.(masked_)?bias|rotary_emb\.inv_freq)$")
OFFLINE = "copy its files here and give that folder as import_checkpoint.checkpoint"


def _existing(value: str, info: ValidationInfo) -> str:
    """Return the absolute path of an existing folder, or `org/name@commit`."""
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
    named by its contents: a plan has to read them. A commit names its contents by itself."""

    def identity(self) -> dict[str, Any]:
        """Return a folder's contents, or a commit."""
        if is_on_the_hub(self.checkpoint):
            return {"checkpoint": self.checkpoint}
        files = _files_of(self.checkpoint)
        return {"checkpoint": {name: {"sha256": _digest(path, *_stamp(path))} for name, path in files.items()}}


@stage(over="whole")
def import_checkpoint(cfg: ImportCheckpoint, runtime: Runtime) -> Checkpoint:
    """Check that the files are whole and describe a network that can be trained and evaluated here."""
    import shutil

    folder = runtime.scratch / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
    folder.mkdir(parents=True)
    try:
        for name, path in _files_of(cfg.checkpoint).items():
            (folder / name).symlink_to(path)  # the store makes the one copy
        architecture = _architecture(folder)
        num_tensors = _check_weights(folder, architecture)
    except ValueError as error:
        hint = "take a checkpoint of StarCoder's or StarCoder2's kind as transformers saves it, with safe_serialization"
        raise InputError(f"{cfg.checkpoint} cannot be imported: {error}", hint=hint) from error
    if not (folder / TOKENIZER).exists():
        runtime.tell(f"there is no {TOKENIZER} beside the weights: whether a recipe's is that of this checkpoint cannot be told")
    runtime.note(checkpoint=cfg.checkpoint, family=architecture.family, parameters=architecture.num_parameters, tensors=num_tensors)
    return Checkpoint.of(folder)


def _files_of(checkpoint: str) -> dict[str, Path]:
    """Return the files of a checkpoint that are copied, by name.

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
    files |= {TOKENIZER: tokenizer} if (tokenizer := find(TOKENIZER)) else {}
    return files if index is None else {**files, INDEX: index}


def _promised(index: Path) -> dict[str, str]:
    """Return the index of the weights: tensor → file."""
    import json

    try:
        where = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {str(tensor): str(file) for tensor, file in where.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not an index of weights: it has no `weight_map` of tensors to files") from error


def _architecture(folder: Path) -> Architecture:
    """Return the network that the config describes.

    Raises:
        ValueError: it describes none of ours, or is no config.
    """
    import json

    from starloom.model.architecture import Architecture

    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"its {CONFIG} is not JSON ({error}); fetch it again") from error
    if not isinstance(config, dict):
        raise ValueError(f"its {CONFIG} is not a mapping of names to values; fetch it again")  # noqa: TRY004  # a wrong file, not a wrong call
    try:
        return Architecture.from_checkpoint(folder)
    except TypeError as error:  # a number that is text or null
        raise ValueError(f"a value in its {CONFIG} is of the wrong type ({error}); compare it with the published one") from error


def _check_weights(folder: Path, architecture: Architecture) -> int:
    """Refuse files that are cut short, lack a tensor which the index says is in them, or hold another network; return how many tensors."""
    from safetensors import SafetensorError, safe_open

    promised = _promised(folder / INDEX) if (folder / INDEX).exists() else {}
    there: dict[str, str] = {}
    num_parameters = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:  # reads the header, and holds its lengths against the file's
                there |= dict.fromkeys(file.keys(), path.name)
                counted = [name for name in file.keys() if not _is_beside(name, architecture)]  # noqa: SIM118  # it cannot be iterated
                num_parameters += sum(math.prod(file.get_slice(name).get_shape()) for name in counted)
        except SafetensorError as error:
            raise ValueError(
                f"{path.name} is not a complete safetensors file ({error}); fetch it again, with Git LFS if it came by git"
            ) from error
    lost = [name for name, file in promised.items() if there.get(name) != file]
    if lost:
        raise ValueError(f"the {INDEX} lists {lost[0]} in {promised[lost[0]]}, but it is not there; fetch both again")
    if num_parameters != architecture.num_parameters:
        raise ValueError(
            f"its {CONFIG} describes {architecture.num_parameters:,} parameters, and its weights are {num_parameters:,}; "
            "they belong to two networks, or a file is missing: fetch all of them again"
        )
    return len(there)


def _is_beside(name: str, architecture: Architecture) -> bool:
    """Return whether a tensor is no parameter: a copy of the embedding, or a mask or table that old versions of transformers saved."""
    return (architecture.tied_head and name == "lm_head.weight") or OLD_BUFFERS.search(name) is not None


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=256)
def _digest(path: Path, size: int, modified_ns: int) -> str:
    """Return the SHA-256 of a file, cached in this process while its size and time stay the same."""
    from starloom.lineage.keys import file_digest

    del size, modified_ns
    return file_digest(path)
