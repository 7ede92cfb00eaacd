"""States of an unfinished training: exact, atomic, verified, pruned, and readable by any number of processes.

Run as a script, this file is one of two processes, or a saver that waits to be killed.
"""

# ruff: noqa: N806  # shapes as suffixes, as in model/

import dataclasses
import os
import random
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.tensor import DTensor

from starloom.model.architecture import Architecture
from starloom.model.network import GPT, first_weight, targets_of
from starloom.model.parallel import distribute, fill
from starloom.model.states import HASHES, HEAD, States
from tests.sizes import ALL

HOUSE = Path(__file__).parents[1]
SHAPE = Architecture(vocab_size=61, context_tokens=24, num_layers=2, num_heads=3, width=24)
UNTIED = dataclasses.replace(SHAPE, family="starcoder2", num_key_value_heads=3, tied_head=False)


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small are faster so, above all where other tests run beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def optimizer_of(network: nn.Module) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1 and parameter.requires_grad]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-2, fused=True)


def training(seed: int = 5, architecture: Architecture = SHAPE) -> tuple[GPT, torch.optim.Optimizer]:
    network = GPT(architecture)
    network.init_weights(seed)
    return network, optimizer_of(network)


def take_step(step: int, network: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    tokens_BT = torch.randint(0, 61, (2, 24), generator=torch.Generator().manual_seed(step))
    loss = network(tokens_BT, targets_of(tokens_BT, None))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def content_of(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Everything that has to come back, by the names of parameters."""
    content = {}
    for name, parameter in network.named_parameters():
        content[name] = whole(parameter)
        for key, value in optimizer.state[parameter].items():
            content[f"{name} {key}"] = whole(value)
    return content


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def saved_states(folder: Path, steps: list[int], **keep: int) -> tuple[States, list[dict[str, torch.Tensor]]]:
    """States after these steps, and what was in each."""
    states, contents, (network, optimizer) = States(folder, **keep), [], training()
    for step in steps:
        take_step(step, network, optimizer)
        contents.append(content_of(network, optimizer))
        states.save(step, network, optimizer, {"step": step})
    states.wait()
    return states, contents


def loaded(folder: Path, architecture: Architecture = SHAPE) -> tuple[int, dict[str, torch.Tensor]]:
    states = States(folder)
    state = states.newest()
    assert state is not None
    network, optimizer = training(seed=6, architecture=architecture)
    states.load(state, network, optimizer)
    return state.step, content_of(network, optimizer)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("architecture", [SHAPE, UNTIED], ids=["tied", "untied"])
def test_a_training_that_was_stopped_ends_as_one_that_was_not(tmp_path, architecture):
    network, optimizer = training(architecture=architecture)
    states = States(tmp_path / "states")
    head: dict[str, Any] = {"fingerprint": "f", "history": [[1, 0.1 + 0.2, 1e-300], [2, float("inf"), -0.0]]}
    for step in range(1, 7):
        if step == 4:
            states.save(3, network, optimizer, head)  # and training goes on while it is written
            head["history"].append("later")
        loss = take_step(step, network, optimizer)
    states.wait()

    other, other_optimizer = training(seed=6, architecture=architecture)
    states = States(tmp_path / "states")
    state = states.newest()
    assert state is not None
    assert (state.step, state.path.name) == (3, "step-00000003")
    assert state.head == {"fingerprint": "f", "history": [[1, 0.1 + 0.2, 1e-300], [2, float("inf"), -0.0]]}
    states.load(state, other, other_optimizer)
    for step in range(4, 7):
        other_loss = take_step(step, other, other_optimizer)
    assert other_loss == loss
    assert same(content_of(other, other_optimizer), content_of(network, optimizer))


def test_a_save_waits_for_the_one_before(tmp_path):
    network, optimizer = training()
    states, contents = States(tmp_path, keep_last=3), []
    for step in range(1, 4):
        take_step(step, network, optimizer)
        contents.append(content_of(network, optimizer))
        states.save(step, network, optimizer, {})
    states.wait()
    for step in (3, 2, 1):  # the copies share one piece of memory
        assert loaded(tmp_path)[0] == step
        assert same(loaded(tmp_path)[1], contents[step - 1])
        (tmp_path / f"step-0000000{step}" / HASHES).unlink()


@settings(max_examples=12)
@given(
    steps=st.lists(st.integers(1, 30), min_size=1, max_size=7, unique=True).map(sorted),
    keep_last=st.integers(1, 3),
    every=st.integers(0, 4),
)
def test_the_last_stay_and_every_kth(tmp_path_factory, steps, keep_last, every):
    folder = tmp_path_factory.mktemp("states")
    network, optimizer = nn.Linear(1, 1), None
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1)).backward()
    optimizer.step()
    states = States(folder, keep_last=keep_last, keep_every_steps=every)
    for step in steps:
        states.save(step, network, optimizer, {})
    states.wait()
    kept = {*steps[-keep_last:], *(step for step in steps if every and step % every == 0)}
    assert names_in(folder) == [f"step-{step:08d}" for step in sorted(kept)]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", HEAD, HASHES])
@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink], ids=["flipped", "truncated", "gone"])
def test_a_damaged_state_is_passed_over_and_named(tmp_path, damage, name):
    _, contents = saved_states(tmp_path, [1, 2])
    damage(tmp_path / "step-00000002" / name)
    states = States(tmp_path)
    state = states.newest()
    assert state is not None
    assert state.step == 1
    assert list(states.damaged) == ["step-00000002"]
    assert name in states.damaged["step-00000002"] or name == HASHES  # which makes others look wrong
    network, optimizer = training(seed=6)
    states.load(state, network, optimizer)
    assert same(content_of(network, optimizer), contents[0])
    take_step(2, network, optimizer)
    states.save(2, network, optimizer, {})  # takes the place of the damaged one
    states.wait()
    assert names_in(tmp_path) == ["step-00000001", "step-00000002"]
    assert loaded(tmp_path)[0] == 2
    assert same(loaded(tmp_path)[1], contents[1])


def test_a_damaged_state_does_not_count_among_the_last(tmp_path):
    saved_states(tmp_path, [1, 2])
    flip(tmp_path / "step-00000002" / HEAD)
    states = States(tmp_path, keep_last=2)
    network, optimizer = training()
    assert states.newest() is not None
    take_step(3, network, optimizer)
    states.save(3, network, optimizer, {})
    states.wait()
    assert names_in(tmp_path) == ["step-00000001", "step-00000003"]


def test_a_training_that_went_back_forgets_what_came_after(tmp_path):
    states, _ = saved_states(tmp_path, [2, 4, 6], keep_last=2)
    states.save(5, *training_after_a_step(), {})
    states.wait()
    assert names_in(tmp_path) == ["step-00000004", "step-00000005"]


def training_after_a_step() -> tuple[GPT, torch.optim.Optimizer]:
    network, optimizer = training()
    take_step(1, network, optimizer)
    return network, optimizer


def test_there_is_no_newest_where_nothing_was_saved(tmp_path):
    assert States(tmp_path / "never made").newest() is None


def test_what_a_killed_writer_left_is_swept(tmp_path):
    saved_states(tmp_path, [1])
    (tmp_path / ".step-00000002.partial").mkdir()
    (tmp_path / ".step-00000002.partial" / "__0_0.distcp").write_bytes(b"half")
    assert loaded(tmp_path)[0] == 1
    assert names_in(tmp_path) == ["step-00000001"]


def test_a_state_of_another_network_is_refused(tmp_path):
    states, _ = saved_states(tmp_path, [1])
    state = states.newest()
    network, optimizer = training(architecture=dataclasses.replace(SHAPE, tied_head=False))
    with pytest.raises(ValueError, match=r"step-00000001 does not fit this network and optimizer: .*network\.head\.weight"):
        states.load(state, network, optimizer)
    network, optimizer = training(architecture=dataclasses.replace(SHAPE, width=48))
    with pytest.raises(ValueError, match="does not fit this network and optimizer: .*[Ss]ize mismatch"):
        states.load(state, network, optimizer)


def test_frozen_weights_are_not_saved_and_stay_as_they_are(tmp_path):
    def adapted(seed):
        network, _ = training(seed)
        network.wte.weight.requires_grad_(False)
        return network, optimizer_of(network)

    network, optimizer = adapted(5)
    take_step(1, network, optimizer)
    states = States(tmp_path)
    states.save(1, network, optimizer, {})
    states.wait()
    other, other_optimizer = adapted(6)
    frozen = other.wte.weight.clone()
    states.load(states.newest(), other, other_optimizer)
    assert torch.equal(other.wte.weight, frozen)
    assert not torch.equal(frozen, network.wte.weight)
    assert torch.equal(other.wpe.weight, network.wpe.weight)


def test_before_its_first_step_an_optimizer_has_nothing_to_remember(tmp_path):
    network, optimizer = training()
    states = States(tmp_path)
    states.save(0, network, optimizer, {})
    states.wait()
    assert not optimizer.state
    other, other_optimizer = training_after_a_step()
    states.load(states.newest(), other, other_optimizer)
    for one in ((network, optimizer), (other, other_optimizer)):
        take_step(1, *one)
    assert same(content_of(other, other_optimizer), content_of(network, optimizer))


# A disk that is full


def check_full_disk(folder: Path, fill_up, make_room) -> None:
    states, contents = saved_states(folder, [1])
    network, optimizer = training_after_a_step()
    take_step(2, network, optimizer)
    fill_up()
    try:
        states.save(2, network, optimizer, {})
        with pytest.raises(OSError, match="step-00000002 could not be written: OSError: .*(No space left on device|File too large)"):
            states.wait()
        states.save(2, network, optimizer, {})
        with pytest.raises(OSError, match="step-00000002 could not be written"):
            states.save(3, network, optimizer, {})
        assert names_in(folder) == ["step-00000001"]
        assert loaded(folder)[0] == 1
        assert same(loaded(folder)[1], contents[0])
    finally:
        make_room()
    states.save(2, network, optimizer, {})
    states.wait()
    assert loaded(folder)[0] == 2


def test_a_full_disk_leaves_the_last_good_state(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    ballast = disk / "ballast"

    def fill_up():
        room = os.statvfs(disk)
        ballast.write_bytes(bytes(room.f_bavail * room.f_bsize - 100_000))

    try:
        check_full_disk(disk / "states", fill_up, ballast.unlink)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_limit_on_files_leaves_the_last_good_state(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE)
    check_full_disk(tmp_path / "states", lambda: limit((20_000, hard)), lambda: limit((soft, hard)))


# Killed


def save_for_ever(folder: Path) -> None:
    """Go on from the newest state, save after each step, say what is safe."""
    network, optimizer = training()
    states = States(folder)
    state = states.newest()
    assert not states.damaged, states.damaged
    if state is not None:
        states.load(state, network, optimizer)
    step = state.step if state is not None else 0
    while True:
        step += 1
        take_step(step, network, optimizer)
        states.save(step, network, optimizer, {"step": step})
        print(step - 1, flush=True)


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_a_sound_newest_state(tmp_path):
    folder, moments, safe = tmp_path / "states", random.Random(0), 0
    for _ in range(4 if ALL else 2):
        argv = [sys.executable, __file__, "save", str(folder)]
        process = subprocess.Popen(
            argv,
            cwd=HOUSE,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HOUSE)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(moments.randint(1, 4)):
            line = process.stdout.readline()
        time.sleep(moments.uniform(0, 0.04))  # a step and its state take about as long
        process.send_signal(signal.SIGKILL)
        rest, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
        safe = int((line + rest).split()[-1])
        states = States(folder)
        state = states.newest()
        assert states.damaged == {}
        assert (state.step if state is not None else 0) >= safe
        assert not list(folder.glob(".*"))
    network, optimizer = training()
    assert state is not None
    for step in range(1, state.step + 1):
        take_step(step, network, optimizer)
    assert same(loaded(folder)[1], content_of(network, optimizer))


# Many processes


def started(accelerator: Accelerator, parallel: Any, seed: int) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    with torch.device("meta"):
        network = GPT(UNTIED)
    model = distribute(network, accelerator, parallel=parallel, precision="fp32")
    fill(network, partial(first_weight, UNTIED, seed))
    return model, network, optimizer_of(network)


def check_two_processes(work: Path) -> None:
    """What each of two processes does."""
    torch.use_deterministic_algorithms(mode=True)
    accelerator = Accelerator(cpu=True)
    contents = {parallel: check_going_on(work, accelerator, parallel) for parallel in ("ddp", "fsdp")}
    if accelerator.is_main_process:
        torch.save(contents, work / "two.pt")
    for source, target in (("ddp", "fsdp"), ("fsdp", "ddp"), ("fsdp", "fsdp")):
        _, network, optimizer = started(accelerator, target, seed=7)
        states = States(work / source)
        state = states.newest()
        assert (state.step, state.head) == (4, {"from": source})
        states.load(state, network, optimizer)
        assert same(content_of(network, optimizer), contents[source])
    check_failing_together(work, accelerator)
    check_damage_anywhere(work, accelerator)


def check_going_on(work: Path, accelerator: Accelerator, parallel: str) -> dict[str, torch.Tensor]:
    """From one process's state, with copies or shards, two steps further."""
    model, network, optimizer = started(accelerator, parallel, seed=6)
    alone = States(work / "one")
    found = alone.newest()
    assert found.step == 2
    alone.load(found, network, optimizer)
    assert same(content_of(network, optimizer), torch.load(work / "one.pt"))
    states = States(work / parallel)
    for step in (3, 4):
        take_step(step, model, optimizer)
        content = content_of(network, optimizer)
        states.save(step, network, optimizer, {"from": parallel})
    take_step(5, model, optimizer)  # while it is written
    states.wait()
    assert len(list((work / parallel / "step-00000004").glob("*.distcp"))) == (1 if parallel == "ddp" else 2)
    return content


def check_failing_together(work: Path, accelerator: Accelerator) -> None:
    """A process that cannot write: all of them hear of it, and the states before stay."""
    for parallel, rank in (("ddp", 0), ("fsdp", 0), ("fsdp", 1)):
        model, network, optimizer = started(accelerator, parallel, seed=6)
        take_step(5, model, optimizer)
        states = States(work / parallel)
        accelerator.wait_for_everyone()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if accelerator.process_index == rank:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        states.save(5, network, optimizer, {})
        with pytest.raises(OSError, match="step-00000005 could not be written: OSError: .*File too large"):
            states.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert names_in(work / parallel) == ["step-00000003", "step-00000004"]
        assert states.newest().step == 4


def check_damage_anywhere(work: Path, accelerator: Accelerator) -> None:
    """Each process looks at a share of the files, and all come to the same verdict."""
    for name in ("__0_0.distcp", "__1_0.distcp"):
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            flip(work / "fsdp" / "step-00000004" / name)
        accelerator.wait_for_everyone()
        states = States(work / "fsdp")
        assert states.newest().step == 3
        assert list(states.damaged) == ["step-00000004"]
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            flip(work / "fsdp" / "step-00000004" / name)  # and back


@pytest.mark.slow
def test_any_number_of_processes_goes_on_with_what_another_number_wrote(tmp_path):
    network, optimizer = training(architecture=UNTIED)
    states = States(tmp_path / "one")
    for step in (1, 2):
        take_step(step, network, optimizer)
    torch.save(content_of(network, optimizer), tmp_path / "one.pt")
    states.save(2, network, optimizer, {})
    states.wait()
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__, "two", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HOUSE)}
    done = subprocess.run(argv, env=environment, cwd=HOUSE, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stdout.count("equal") == 2
    for source in ("ddp", "fsdp"):
        step, content = loaded(tmp_path / source, UNTIED)
        assert step == 4
        assert same(content, torch.load(tmp_path / "two.pt")[source])


if __name__ == "__main__":
    if sys.argv[1] == "save":
        save_for_ever(Path(sys.argv[2]))
    check_two_processes(Path(sys.argv[2]))
    print("equal", flush=True)
    dist.barrier()
    os._exit(0)  # gloo's teardown can wait for ever
