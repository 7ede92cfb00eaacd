"""States: an unfinished training on the disk, to go on from after whatever ended it.

    states = States(work / "states", keep_last=2, keep_every_steps=10_000)
    found = states.newest()                                     # None at the first start; `states.damaged` says what was passed over
    states.load(found, network, optimizer)                      # in place; `found.step`, `found.head`
    states.save(step, network, optimizer, {"fingerprint": …})   # returns when the tensors are copied; the disk is written behind it
    states.wait()                                               # before leaving

A state is a folder `step-00000100`: the tensors in the files of `torch.distributed.checkpoint`, by the names of parameters, so that
any number of processes, copies or shards, can go on with what any other number wrote; `head.json`, what the trainer wants to remember;
and `sha256.json`, the hash of every file. There is no random state in it: a trainer draws from (seed, step), and its schedule and its
place in the data follow from the step.

- Written as `.step-00000100.partial`, flushed, and renamed last; so a kill at any moment leaves the states before it, and this one whole
  or not at all.
- Older states go only when the new one is safe: the last `keep_last` stay, and every one whose step is a multiple of `keep_every_steps`.
  States of later steps go too: the training went back.
- A background failure, as of a full disk, is raised by the next `save` or `wait`, at every process; the states before it are untouched.
- Training stands still only while tensors are copied to the CPU; the copy's memory is kept for the next time, 12 bytes a parameter
  with AdamW, shared out among the processes where the network is sharded. Where it is copied, the first process writes alone.
- With several machines the folder must be one that all of them see.
"""

import hashlib
import json
import shutil
import threading
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from starloom.model.files import PARTIAL, replacing, sync_folder

HEAD, HASHES = "head.json", "sha256.json"
PATIENCE = timedelta(hours=3)
"""How long processes wait for one that writes, on however slow a disk."""
_OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)
"""What is frozen comes from where it came from the first time. Not strict, since that is missing here; reading the files is strict."""


class State(NamedTuple):
    """A state whose files are those that were written."""

    path: Path
    step: int
    head: dict[str, Any]


class States:
    """The states of one training in one folder. With several processes, all make each call, in the same order."""

    def __init__(self, folder: Path, *, keep_last: int = 2, keep_every_steps: int = 0) -> None:
        """Nobody else may be writing there: what killed writers left is removed.

        Args:
            folder: created when first written to.
            keep_last: how many of the newest states stay; with two, one that the disk damaged costs some steps and not the training.
            keep_every_steps: states after multiples of this stay for ever; 0 for none.
        """
        self.folder, self.keep_last, self.keep_every_steps = folder, keep_last, keep_every_steps
        self.damaged: dict[str, str] = {}
        """States that `newest` passed over, and what is wrong with each."""
        is_many = dist.is_initialized() and dist.get_world_size() > 1
        self._rank, self._world = (dist.get_rank(), dist.get_world_size()) if is_many else (0, 1)
        self._group = dist.new_group(backend="gloo", timeout=PATIENCE) if is_many else None  # its own: the trainer's is in use meanwhile
        self._mesh = DeviceMesh.from_group(self._group, "cpu") if self._group else None
        self._copies: dict[str, Tensor] = {}
        self._writer: threading.Thread | None = None
        self._failure = ""
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)  # one process is no mistake
        if self._rank == 0:
            for aside in folder.glob(f".*{PARTIAL}"):
                shutil.rmtree(aside)

    # Writing

    def save(self, step: int, network: nn.Module, optimizer: torch.optim.Optimizer, head: dict[str, Any]) -> None:
        """Keep the training as it is now; it may go on when this returns, and the state counts when `wait` has.

        Args:
            step: how many steps were taken.
            network: not wrapped.
            optimizer: of its parameters.
            head: whatever goes with it, as JSON.

        Raises:
            OSError: the state before this one could not be written; nothing is saved now.
        """
        self.wait()
        is_sharded = any(isinstance(parameter, DTensor) for parameter in network.parameters())
        if not is_sharded and self._rank > 0:
            return
        tensors = self._copied(_tensors_of(network, optimizer, with_moments=bool(optimizer.state)))
        text = json.dumps(head)  # now: the trainer goes on changing it
        self._writer = threading.Thread(
            target=self._write, args=(step, tensors, text, is_sharded), name=f"state of step {step}", daemon=self._world > 1
        )  # a process alone finishes its state even when it fails; one of many may wait for ever for another that is gone
        self._writer.start()

    def wait(self) -> None:
        """Return when everything is on the disk.

        Raises:
            OSError: the last state could not be written.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        failures = [failure for failure in self._gathered(self._failure) if failure]
        self._failure = ""
        if failures:
            raise OSError(failures[0])

    def _gathered(self, mine: Any) -> list[Any]:
        """Return the values of all processes."""
        if self._group is None:
            return [mine]
        everyone: list[Any] = [None] * self._world
        dist.all_gather_object(everyone, mine, self._group)
        return everyone

    @torch.no_grad()
    def _copied(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Return the same tree with each tensor copied to the CPU, into the memory of last time."""
        tree = self._copied_tree(tensors, "")
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        assert isinstance(tree, dict)
        return tree

    def _copied_tree(self, value: Any, name: str) -> Any:
        if isinstance(value, DTensor):
            local = self._copied_tensor(value.to_local(), name)
            assert self._mesh is not None
            return DTensor.from_local(local, self._mesh, value.placements, run_check=False, shape=value.shape, stride=value.stride())
        if isinstance(value, Tensor):
            return self._copied_tensor(value, name)
        if isinstance(value, dict):
            return {key: self._copied_tree(inner, f"{name}/{key}") for key, inner in value.items()}
        if isinstance(value, list):
            return [self._copied_tree(inner, f"{name}/{at}") for at, inner in enumerate(value)]
        return value

    def _copied_tensor(self, tensor: Tensor, name: str) -> Tensor:
        copy = self._copies.get(name)
        if copy is None:
            copy = self._copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        return copy.copy_(tensor, non_blocking=True)

    def _write(self, step: int, tensors: dict[str, Any], head: str, is_sharded: bool) -> None:
        """Write in the background, the whole way to the disk. A failure is noted, for `wait` to raise."""
        aside, path = self.folder / f".{_name_of(step)}{PARTIAL}", self.folder / _name_of(step)
        try:
            # No copying ahead: the writer would open a context on the first GPU for it.
            writer = FileSystemWriter(aside, per_thread_copy_ahead=0)
            if is_sharded:
                save(tensors, storage_writer=writer, process_group=self._group)
            else:
                save(tensors, storage_writer=writer, no_dist=True)
            hashes = self._hashes_of(aside, is_sharded)
            if self._rank == 0:
                _finish(aside, path, head, hashes)
                self.damaged.pop(path.name, None)
                self._prune(path)
        except (Exception, CheckpointException) as error:  # noqa: BLE001  # whatever it is, the trainer must hear of it
            free_bytes = shutil.disk_usage(self.folder.parent).free
            self._failure = f"{path} could not be written: {_reason(error)}; {free_bytes:,} bytes are free on its disk"
            if self._rank == 0:
                shutil.rmtree(aside, ignore_errors=True)

    def _hashes_of(self, aside: Path, is_sharded: bool) -> dict[str, str]:
        """Return the hash of every file, each taken by the process that wrote it."""
        names = [path.name for path in aside.glob(f"__{self._rank}_*")] + [".metadata"] * (self._rank == 0)
        try:
            mine: dict[str, str] | str = {name: _sha256(aside / name) for name in names}
        except OSError as error:
            mine = str(error)
        everyone = self._gathered(mine) if is_sharded else [mine]
        together: dict[str, str] = {}
        for hashes in everyone:
            if isinstance(hashes, str):
                raise OSError(hashes)
            together |= hashes
        return together

    def _prune(self, newest: Path) -> None:
        """Remove what is neither among the last nor kept for ever, what is damaged, and what lies ahead of the newest."""
        step = _step_of(newest)
        sound = [path for path in self._paths() if _step_of(path) <= step and path.name not in self.damaged]
        for path in self._paths():
            is_for_ever = self.keep_every_steps > 0 and _step_of(path) % self.keep_every_steps == 0
            if path not in sound or (path not in sound[-self.keep_last :] and not is_for_ever):
                _remove(path)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), key=_step_of)

    # Reading

    def newest(self) -> State | None:
        """Return the newest state whose files are all as they were written, if there is one; the damaged ones are noted in `damaged`."""
        self.wait()
        for path in reversed(self._gathered(self._paths())[0]):
            faults = [fault for fault in self._gathered(self._fault_of(path)) if fault]
            if not faults:
                return State(path, _step_of(path), json.loads((path / HEAD).read_text()))
            self.damaged[path.name] = faults[0]
        return None

    def _fault_of(self, path: Path) -> str:
        """Return the fault in this process's share of the files of a state, if there is one."""
        try:
            hashes = json.loads((path / HASHES).read_text())
            for name in sorted(hashes)[self._rank :: self._world]:
                if _sha256(path / name) != hashes[name]:
                    return f"{name} is not what was written"
        except (OSError, ValueError) as error:
            return f"{HASHES} or a file in it cannot be read: {error}"
        return ""

    def load(self, state: State, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Set the weights and the optimizer to what they were.

        Raises:
            ValueError: the state is of another network or optimizer.
        """
        reader = FileSystemReader(state.path)
        has_moments = any(name.startswith("optimizer.") for name in reader.read_metadata().state_dict_metadata)
        tensors = _tensors_of(network, optimizer, with_moments=has_moments)
        try:
            load(tensors, storage_reader=reader, process_group=self._group, no_dist=self._group is None)
        except CheckpointException as error:
            raise ValueError(f"{state.path} does not fit this network and optimizer: {_reason(error)}") from error
        set_model_state_dict(network, tensors["network"], options=_OPTIONS)
        if has_moments:
            set_optimizer_state_dict(network, optimizer, tensors["optimizer"], options=_OPTIONS)
        else:
            optimizer.state.clear()


def _tensors_of(network: nn.Module, optimizer: torch.optim.Optimizer, *, with_moments: bool) -> dict[str, Any]:
    """Weights, and what the optimizer remembers of their gradients: nothing before its first step, and asking then would count as one."""
    tensors: dict[str, Any] = {"network": get_model_state_dict(network, options=_OPTIONS)}
    if with_moments:
        tensors["optimizer"] = get_optimizer_state_dict(network, optimizer, options=_OPTIONS)
    return tensors


def _finish(aside: Path, path: Path, head: str, hashes: dict[str, str]) -> None:
    """Complete a state and give it its name, last."""
    with replacing(aside / HEAD) as file:
        file.write(head.encode())
    with replacing(aside / HASHES) as file:
        file.write(json.dumps(hashes | {HEAD: _sha256(aside / HEAD)}, indent=2, sort_keys=True).encode())
    if path.exists():  # damaged, or from before the training went back
        _remove(path)
    sync_folder(aside)
    aside.rename(path)
    sync_folder(path.parent)


def _remove(path: Path) -> None:
    """First out of sight, so that a kill leaves no half."""
    aside = path.with_name(f".{path.name}.old{PARTIAL}")
    path.rename(aside)
    shutil.rmtree(aside)


def _reason(error: BaseException) -> str:
    """Return the first cause, which torch hides among its own."""
    if isinstance(error, CheckpointException) and error.failures:
        inner, _ = next(iter(error.failures.values()))
        return f"{type(inner).__name__}: {inner}"
    return f"{type(error).__name__}: {error}"


def _name_of(step: int) -> str:
    return f"step-{step:08d}"


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
