"""Many processes against one: copies and shards, with and without recomputing and compiling, must learn what a plain loop learns.

Run as a script, this file is one of two processes and compares itself with the plain loop.
"""

# ruff: noqa: N806  # shapes as suffixes, as in model/

import dataclasses
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.distributed.tensor import DTensor

from starloom.model.architecture import Architecture
from starloom.model.network import GPT, first_weight, targets_of
from starloom.model.parallel import accumulating, clip_gradients, distribute, fill, full_weights

pytestmark = pytest.mark.slow

HOUSE = Path(__file__).parents[1]
ONE = Architecture(vocab_size=61, context_tokens=24, num_layers=3, num_heads=3, width=24)
TWO = dataclasses.replace(ONE, family="starcoder2", num_heads=4, num_key_value_heads=2, sliding_window=7, rope_theta=100.0, tied_head=False)
CLIP = 0.5


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small are faster so, above all where other tests run beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch_of(step: int) -> torch.Tensor:
    return torch.randint(0, 61, (8, 24), generator=torch.Generator().manual_seed(step))


def optimizer_of(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.3, momentum=0.9)  # AdamW would make noise large: a key's bias has a gradient of 0


def plain_loop(architecture: Architecture, num_steps: int) -> tuple[list[tuple[float, float]], dict[str, torch.Tensor], torch.Tensor]:
    """One process, whole batches, nothing of `starloom.model.parallel`: losses and norms, last weights, last token losses."""
    network = GPT(architecture)
    network.init_weights(5)
    optimizer, history = optimizer_of(network), []
    for step in range(num_steps):
        tokens_BT = batch_of(step)
        loss = network(tokens_BT, targets_of(tokens_BT, None))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        network.token_losses(tokens_BT, targets_of(tokens_BT, None))
        history.append((loss.item(), norm.item()))
    tokens_BT = batch_of(100)
    return (
        history,
        {name: tensor.detach() for name, tensor in network.named_parameters()},
        network.token_losses(tokens_BT, targets_of(tokens_BT, None)),
    )


def distributed_loop(architecture: Architecture, accelerator: Accelerator, num_steps: int, **how):
    """The same on this process's share, in two microbatches."""
    with torch.device("meta"):
        network = GPT(architecture)
    model = distribute(network, accelerator, **how)
    asked = []

    def source(name: str, shape: torch.Size) -> torch.Tensor:
        asked.append(name)
        return first_weight(architecture, 5, name, shape)

    fill(network, source)
    assert asked == [name for name, _ in GPT(architecture).named_parameters()]
    optimizer, history, world = optimizer_of(network), [], accelerator.num_processes
    for step in range(num_steps):
        shares = batch_of(step).tensor_split(world)[accelerator.process_index].tensor_split(2)
        total = torch.zeros(())
        for is_last, tokens_BT in zip((False, True), shares, strict=True):
            if is_last:
                loss = model(tokens_BT, targets_of(tokens_BT, None))
                (loss * world).backward()
            else:
                with accumulating(model):
                    loss = model(tokens_BT, targets_of(tokens_BT, None))
                    (loss * world).backward()
            total += loss.detach()
        norm = clip_gradients(network, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        network.token_losses(shares[0], targets_of(shares[0], None))  # between steps: it must not leave weights of yesterday behind
        history.append((accelerator.reduce(total).item(), norm.item()))
    tokens_BT = batch_of(100)
    return network, history, network.token_losses(tokens_BT, targets_of(tokens_BT, None))


def check_two_processes() -> None:
    """What each of two processes does."""
    torch.use_deterministic_algorithms(mode=True)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    for architecture in (ONE, TWO):
        expected, weights, expected_losses = plain_loop(architecture, 3)
        for parallel in ("ddp", "fsdp"):
            for recomputes in (False, True):
                how = {"parallel": parallel, "precision": "fp32", "activation_checkpointing": recomputes}
                network, history, losses = distributed_loop(architecture, accelerator, 3, **how)
                torch.testing.assert_close(torch.tensor(history), torch.tensor(expected), rtol=1e-5, atol=0)
                torch.testing.assert_close(losses, expected_losses, rtol=1e-4, atol=1e-5)
                whole = dict(full_weights(network))
                assert list(whole) == (list(weights) if accelerator.is_main_process else [])
                for name, tensor in whole.items():
                    torch.testing.assert_close(tensor, weights[name], rtol=1e-4, atol=1e-5, msg=partial("{}: {}".format, name))
                held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in network.parameters())
                everything = sum(tensor.numel() for tensor in weights.values())
                assert held == everything if parallel == "ddp" else held < 0.55 * everything
        network, history, _ = distributed_loop(architecture, accelerator, 3, parallel="fsdp", precision="bf16")
        torch.testing.assert_close(torch.tensor(history), torch.tensor(expected), rtol=2e-2, atol=0)
        assert all(isinstance(p, DTensor) and p.dtype == torch.float32 for p in network.parameters())  # after the last `token_losses`
        check_unused_forward(network)
        assert history != expected  # bf16 it was
    check_few_rows(accelerator)


def check_unused_forward(network: nn.Module) -> None:
    """A pass forward that nobody goes back through: with gradients or not, what is exported are the weights."""
    before = dict(full_weights(network))
    tokens_BT = batch_of(0)
    with torch.no_grad():
        network(tokens_BT, targets_of(tokens_BT, None))
    assert all(isinstance(p, DTensor) for p in network.parameters())
    network(tokens_BT, targets_of(tokens_BT, None))
    for name, tensor in full_weights(network):
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])


def check_few_rows(accelerator: Accelerator) -> None:
    """A parameter of one row leaves the second process with none."""
    network = nn.Module()
    network.blocks = nn.ModuleList([nn.Linear(3, 1)])
    distribute(network, accelerator, parallel="fsdp", precision="fp32")
    fill(network, lambda _, shape: torch.full(shape, 7.0))
    for _, tensor in full_weights(network):
        assert bool((tensor == 7).all())
    alone: Any = network.blocks[0]
    assert alone.weight.to_local().numel() == (3 if accelerator.is_main_process else 0)


def test_two_processes_learn_what_one_learns():
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HOUSE), "PYTHONWARNINGS": "error::UserWarning:model"}
    done = subprocess.run(argv, env=environment, cwd=HOUSE, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stdout.count("equal") == 2


def alone(architecture: Architecture, **how) -> tuple[GPT, nn.Module]:
    with torch.device("meta"):
        network = GPT(architecture)
    model = distribute(network, Accelerator(cpu=True), parallel="fsdp", precision="fp32", **how)
    fill(network, partial(first_weight, architecture, 5))
    return network, model


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_recomputing_changes_no_gradient_and_no_name(dropout):
    gradients, entered = [], []
    for recomputes in (False, True):
        network, model = alone(dataclasses.replace(ONE, dropout=dropout), activation_checkpointing=recomputes)
        entered.append(0)

        def count(*_):
            entered[-1] += 1

        block: Any = network.blocks[1]
        block.mlp.register_forward_pre_hook(count)
        torch.manual_seed(3)
        model(batch_of(0), targets_of(batch_of(0), None)).backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    assert entered == [1, 2]
    assert list(gradients[1]) == list(gradients[0]) == [name for name, _ in GPT(ONE).named_parameters()]
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of what it does itself, and counts on being able to
@pytest.mark.parametrize("recomputes", [False, pytest.param(True, marks=pytest.mark.long)])  # the next test shows True by another backend
def test_compiled_blocks_learn_the_same_by_one_program(recomputes):
    torch._dynamo.reset()
    deep = dataclasses.replace(ONE, num_layers=10)  # more than dynamo's limit of programs for one function
    plain, plain_model = alone(deep)
    network, model = alone(deep, compile_blocks=True, activation_checkpointing=recomputes)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for one in (plain_model, model):
        one(batch_of(0), targets_of(batch_of(0), None)).backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == 1
    for (name, expected), (other, parameter) in zip(plain.named_parameters(), network.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # as above
@pytest.mark.parametrize("recomputes", [False, True])
def test_documents_of_other_lengths_need_no_other_programs(monkeypatch, recomputes):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: real(function, backend="eager"))
    torch._dynamo.reset()
    _, model = alone(TWO, compile_blocks=True, activation_checkpointing=recomputes)
    programs = []
    for step in range(6):
        offsets_N = torch.tensor(sorted({*range(0, 193, 24), *range(1, 192, 31 + step)}), dtype=torch.int32)
        model(batch_of(step), targets_of(batch_of(step), None, offsets_N), offsets_N).backward()
        programs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert programs[2:] == [programs[1]] * 4


def test_a_network_that_has_weights_keeps_them():
    network = GPT(ONE)
    network.init_weights(5)
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    assert distribute(network, Accelerator(cpu=True), parallel="ddp", precision="fp32") is network
    assert all(torch.equal(tensor, before[name]) for name, tensor in full_weights(network))


def test_a_source_that_gives_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"wte.weight has the shape \(61, 24\) in the network, but \(60, 24\) in its source"):
        fill(GPT(ONE), lambda _, shape: torch.zeros((shape[0] - 1, *shape[1:])))


def test_buffers_that_nothing_would_fill_are_found():
    with torch.device("meta"):
        network = nn.Module()
        network.blocks = nn.ModuleList([nn.BatchNorm1d(2)])
    with pytest.raises(AssertionError, match="running_mean"):
        distribute(network, Accelerator(cpu=True), parallel="ddp", precision="fp32")


@pytest.mark.parametrize("max_norm", [1e-3, 1e9])
def test_gradients_are_clipped_as_torch_does(max_norm):
    ours, theirs = GPT(ONE), GPT(ONE)
    for network in (ours, theirs):
        network.init_weights(5)
        network(batch_of(0), targets_of(batch_of(0), None)).backward()
    assert torch.equal(clip_gradients(ours, max_norm), nn.utils.clip_grad_norm_(theirs.parameters(), max_norm))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


if __name__ == "__main__":
    check_two_processes()
    print("equal", flush=True)
    dist.barrier()
    os._exit(0)  # gloo's teardown can wait for ever
