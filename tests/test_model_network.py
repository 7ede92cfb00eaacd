"""The network: both families against a plain reference, causality, documents, the cache and the chunked loss."""

# ruff: noqa: N803, N806, N812  # shapes as suffixes, as in model/

import dataclasses
import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from starloom.model import loss as loss_module
from starloom.model.architecture import Architecture
from starloom.model.loss import IGNORE, summed_cross_entropy
from starloom.model.network import GPT, Cache, positions_of, targets_of

PRESETS = Path(__file__).parents[1] / "conf" / "model"
ONE = Architecture(vocab_size=61, context_tokens=24, num_layers=2, num_heads=3, width=24)
TWO = dataclasses.replace(ONE, family="starcoder2", num_heads=4, num_key_value_heads=2, sliding_window=7, rope_theta=100.0, tied_head=False)
MANY = dataclasses.replace(ONE, num_key_value_heads=3, activation="gelu")
CPU = torch.device("cpu")


def made(architecture):
    network = GPT(architecture)
    network.init_weights(7)
    for parameter in network.parameters():  # biases and LayerNorms off their first values, so that a forgotten one shows
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    return network.eval()


@pytest.fixture(scope="module", params=[ONE, TWO, MANY], ids=["starcoder", "starcoder2", "a key for each head"])
def network(request) -> GPT:
    return made(request.param)


def tokens_of(*shape, seed=0):
    return torch.randint(0, 61, shape, generator=torch.Generator().manual_seed(seed))


def logits_of(network, tokens_BT, offsets=None):
    offsets_N = None if offsets is None else torch.tensor(offsets, dtype=torch.int32)
    with torch.no_grad():
        return network.logits(network.hidden(tokens_BT, offsets_N=offsets_N))


def test_logits_have_a_score_for_every_token_of_the_vocabulary(network):
    assert logits_of(network, tokens_of(2, 24)).shape == (2, 24, 61)


@pytest.mark.parametrize("position", [0, 1, 11, 23])
def test_a_token_changes_no_position_before_it(network, position):
    tokens_BT = tokens_of(1, 24)
    other_BT = tokens_BT.clone()
    other_BT[0, position] = (other_BT[0, position] + 1) % 61
    before, after = logits_of(network, tokens_BT)[0], logits_of(network, other_BT)[0]
    assert torch.equal(before[:position], after[:position])
    assert not torch.allclose(before[position:], after[position:])


def reference_logits(network, tokens_T):
    """The same network written out head by head, without batches, fused attention or modules' forward."""
    weights, shape = network.state_dict(), network.architecture
    T, K, G = len(tokens_T), shape.head_width, shape.num_key_value_heads

    def norm(x_TD, name):
        centred = x_TD - x_TD.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x_TD, name):
        return x_TD @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def turned(x_TK):
        """Number i and number i + K/2 as a complex number, turned by position x theta^(-2i/K)."""
        if shape.has_learned_positions:
            return x_TK
        pairs = torch.complex(x_TK[:, : K // 2], x_TK[:, K // 2 :])
        angles = torch.arange(T)[:, None] * shape.rope_theta ** (-torch.arange(K // 2) * 2 / K)
        pairs = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([pairs.real, pairs.imag], -1)

    def gelu(x):
        if shape.activation == "gelu":
            return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    x_TD = weights["wte.weight"][tokens_T]
    if shape.has_learned_positions:
        x_TD = x_TD + weights["wpe.weight"][:T]
    behind_TT = torch.arange(T)[:, None] - torch.arange(T)
    hidden_TT = (behind_TT < 0) | (behind_TT >= (shape.sliding_window or T))
    for layer in range(shape.num_layers):
        all_TX = linear(norm(x_TD, f"blocks.{layer}.ln_1"), f"blocks.{layer}.attention.qkv")
        queries, keys, values = all_TX.split([shape.width, G * K, G * K], -1)
        heads = []
        for head in range(shape.num_heads):
            group = head * G // shape.num_heads
            query_TK, key_TK = (turned(x[:, i * K : (i + 1) * K]) for x, i in ((queries, head), (keys, group)))
            score_TT = (query_TK @ key_TK.T / math.sqrt(K)).masked_fill(hidden_TT, -math.inf)
            heads.append(score_TT.softmax(-1) @ values[:, group * K : (group + 1) * K])
        x_TD = x_TD + linear(torch.cat(heads, -1), f"blocks.{layer}.attention.out")
        inner_TF = gelu(linear(norm(x_TD, f"blocks.{layer}.ln_2"), f"blocks.{layer}.mlp.up"))
        x_TD = x_TD + linear(inner_TF, f"blocks.{layer}.mlp.down")
    return norm(x_TD, "ln_f") @ weights["wte.weight" if shape.tied_head else "head.weight"].T


def test_it_equals_a_plain_reference_written_head_by_head(network):
    tokens_BT = tokens_of(2, 24, seed=3)
    for row, tokens_T in enumerate(tokens_BT):
        torch.testing.assert_close(logits_of(network, tokens_BT)[row], reference_logits(network, tokens_T), rtol=1e-4, atol=1e-4)


def test_documents_of_a_batch_never_see_each_other(network):
    tokens_BT, offsets = tokens_of(2, 24, seed=8), [0, 1, 10, 24, 39, 48]
    together = logits_of(network, tokens_BT, offsets).flatten(0, 1)
    line = tokens_BT.flatten()
    for start, end in itertools.pairwise(offsets):
        torch.testing.assert_close(together[start:end], logits_of(network, line[None, start:end])[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[1:10], logits_of(network, tokens_BT).flatten(0, 1)[1:10], atol=1e-3)


def test_positions_start_again_in_every_document():
    assert positions_of(tokens_of(2, 3), None).tolist() == [[0, 1, 2], [0, 1, 2]]
    assert positions_of(tokens_of(2, 3), torch.tensor([0, 1, 3, 6])).tolist() == [[0, 0, 1], [0, 1, 2]]


def test_the_first_token_of_another_document_is_no_target():
    tokens_BT = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert targets_of(tokens_BT, None, torch.tensor([0, 2, 3, 6])).tolist() == [[2, IGNORE, IGNORE], [5, 6, IGNORE]]


@pytest.mark.parametrize("pieces", [[24], [1] * 24, [5, 1, 1, 7, 10]])
def test_reading_through_the_cache_piece_by_piece_equals_reading_at_once(network, pieces):
    tokens_BT = tokens_of(3, 24, seed=4)
    cache = Cache(network.architecture, 3, 24, device=CPU, dtype=torch.float32)
    read, start = [], 0
    for size in pieces:
        positions_BT = torch.arange(start, start + size).expand(3, size)
        with torch.no_grad():
            read.append(network.logits(network.hidden(tokens_BT[:, start : start + size], positions_BT, cache)))
        start += size
    torch.testing.assert_close(torch.cat(read, 1), logits_of(network, tokens_BT), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk_bytes", [1, 61 * 4 * 5, 1 << 20])
def test_the_chunked_loss_and_its_gradients_equal_torchs_own(monkeypatch, chunk_bytes):
    monkeypatch.setitem(loss_module.CHUNK_BYTES, "cpu", chunk_bytes)
    generator = torch.Generator().manual_seed(5)
    hidden_ND = torch.randn(17, 8, generator=generator).requires_grad_()
    weight_VD = torch.randn(61, 8, generator=generator).requires_grad_()
    targets_N = torch.randint(0, 61, (17,), generator=generator)
    targets_N[[3, 16]] = IGNORE
    ours = summed_cross_entropy(hidden_ND, weight_VD, targets_N)
    ours_grads = torch.autograd.grad(ours * 0.3, [hidden_ND, weight_VD])
    theirs = F.cross_entropy(hidden_ND @ weight_VD.T, targets_N, ignore_index=IGNORE, reduction="sum")
    theirs_grads = torch.autograd.grad(theirs * 0.3, [hidden_ND, weight_VD])
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(ours_grads, theirs_grads, rtol=1e-4, atol=1e-5)


def test_a_head_that_stands_still_gets_no_gradient_and_the_others_theirs():
    hidden_ND, targets_N = torch.randn(9, 8, requires_grad=True), torch.arange(9)
    head_VD = torch.randn(61, 8)
    summed_cross_entropy(hidden_ND, head_VD, targets_N).backward()
    (expected,) = torch.autograd.grad(F.cross_entropy(hidden_ND @ head_VD.T, targets_N, reduction="sum"), [hidden_ND])
    torch.testing.assert_close(hidden_ND.grad, expected)
    assert head_VD.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_compiled_for_a_gpu_computes_what_a_cpu_does(dtype):
    logits_NV, targets_N = 5 * torch.randn(33, 61).to(dtype), torch.randint(0, 61, (33,))
    targets_N[[0, 7]] = IGNORE
    loss, grad_NV = loss_module._loss_and_gradient_to_fuse(logits_NV, targets_N)
    expected, expected_NV = loss_module._loss_and_gradient(logits_NV.clone(), targets_N)  # which may write over what it is given
    torch.testing.assert_close(loss, expected)
    assert grad_NV.dtype == dtype
    torch.testing.assert_close(grad_NV, expected_NV)


@pytest.mark.parametrize(
    ("num_tokens", "vocab_size", "device", "size"),
    [(32768, 49152, "cuda", 2048), (16384, 49152, "cuda", 2048), (2048, 4096, "cpu", 256), (7, 1 << 30, "cuda", 1), (0, 64, "cpu", 1)],
)
def test_chunks_are_equal_where_they_can_be(num_tokens, vocab_size, device, size):
    assert loss_module._chunk_tokens(num_tokens, vocab_size, device) == size


def test_the_loss_leaves_out_padding_and_the_last_position(network):
    tokens_BT = torch.tensor([[5, 6, 0, 0], [7, 8, 9, 10]])
    targets_BT = targets_of(tokens_BT, pad_token=0)
    assert targets_BT.tolist() == [[6, IGNORE, IGNORE, IGNORE], [8, 9, 10, IGNORE]]
    log_probability = logits_of(network, tokens_BT).log_softmax(-1)
    expected = -sum(log_probability[row, at, token] for row, at, token in [(0, 0, 6), (1, 0, 8), (1, 1, 9), (1, 2, 10)])
    torch.testing.assert_close(network(tokens_BT, targets_BT).detach(), expected)
    losses_BT = network.token_losses(tokens_BT, targets_BT)
    assert (losses_BT == 0).tolist() == [[False, True, True, True], [False, False, False, True]]
    torch.testing.assert_close(losses_BT.sum(), expected)


def test_first_weights_are_the_published_ones():
    architecture = Architecture(vocab_size=300, context_tokens=64, num_layers=3, num_heads=4, width=256)
    network = GPT(architecture)
    network.init_weights(1)
    for name, parameter in network.named_parameters():
        std = float(parameter.detach().std()) if parameter.ndim > 1 else 0.0
        expected = 1 / 16 / (math.sqrt(6) if name.endswith(("out.weight", "down.weight")) else 1)
        if parameter.ndim > 1:
            assert std == pytest.approx(expected, rel=0.03), name
        else:
            assert (parameter == float("ln_" in name and name.endswith("weight"))).all(), name
    first = network.state_dict()["wte.weight"].clone()
    network.init_weights(2)
    assert not torch.equal(first, network.state_dict()["wte.weight"])
    network.init_weights(1)
    assert torch.equal(first, network.state_dict()["wte.weight"])


@pytest.mark.parametrize(
    ("preset", "num_parameters", "initializer_range"),
    [
        ("starcoderbase-1b", 1_137_207_296, 0.02209),
        ("starcoderbase-3b", 3_043_311_104, 0.01884),
        ("starcoderbase-7b", 7_327_263_232, 0.015625),
        ("starcoderbase-15b", 15_517_456_384, 0.01275),
        ("starcoder2-3b", 3_030_371_328, 0.018042),
        ("starcoder2-7b", 7_173_923_840, 0.018042),
        ("starcoder2-15b", 15_957_889_024, 0.01275),
    ],
)
def test_published_presets_have_the_published_size(preset, num_parameters, initializer_range):
    architecture = Architecture(**yaml.safe_load((PRESETS / f"{preset}.yaml").read_text())["architecture"])
    with torch.device("meta"):
        network = GPT(architecture)
    assert sum(parameter.numel() for parameter in network.parameters()) == architecture.num_parameters == num_parameters
    assert architecture.initializer_range == pytest.approx(initializer_range, abs=1e-5)


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_is_an_architecture(path):
    preset = yaml.safe_load(path.read_text())
    assert set(preset) <= {"architecture", "training", "running"}
    if preset["architecture"]:  # a preset that goes on from a checkpoint has its shape from there
        Architecture(**{"vocab_size": 4096, **preset["architecture"]})


@pytest.mark.parametrize(
    ("architecture", "knobs", "named"),
    [
        (ONE, {"num_heads": 5}, "num_heads 5"),
        (ONE, {"num_layers": 0}, "num_layers 0"),
        (ONE, {"num_key_value_heads": 2}, "num_key_value_heads 2"),
        (ONE, {"rope_theta": 1e4}, "rope_theta"),
        (ONE, {"dropout": 1.0}, r"dropout 1\.0"),
        (TWO, {"num_key_value_heads": 3}, "num_heads 4 is not a multiple"),
        (TWO, {"width": 12}, "heads of 3 numbers"),
        (TWO, {"sliding_window": -1}, "sliding_window -1"),
        (TWO, {"family": "llama"}, "family 'llama'"),
    ],
)
def test_a_wrong_knob_is_refused_by_name(architecture, knobs, named):
    with pytest.raises(ValueError, match=named):
        dataclasses.replace(architecture, **knobs)


def test_the_configuration_loads_without_torch():
    code = "import sys, model.config; print([name for name in ('torch', 'numpy', 'pyarrow', 'accelerate') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=PRESETS.parents[1])
    assert done.stdout.strip() == "[]"


def test_bf16_stays_close_to_fp32(network):
    tokens_BT = tokens_of(2, 24)
    targets_BT = targets_of(tokens_BT, None)
    with torch.autocast("cpu", torch.bfloat16):
        low = network(tokens_BT, targets_BT)
    torch.testing.assert_close(low.detach(), network(tokens_BT, targets_BT).detach(), rtol=0.02, atol=0)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_stream_between_blocks_is_as_precise_as_the_products(network, precision):
    seen = []
    hooks = [block.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype)) for block in network.blocks]
    tokens_BT = tokens_of(2, 24)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        loss = network(tokens_BT, targets_of(tokens_BT, None))
    for hook in hooks:
        hook.remove()
    assert seen == [precision] * len(network.blocks)
    assert loss.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_losses_of_a_cpu(network):
    tokens_BT = tokens_of(2, 24)
    on_cpu = network.token_losses(tokens_BT, targets_of(tokens_BT, None))
    try:
        on_gpu = network.cuda().token_losses(tokens_BT.cuda(), targets_of(tokens_BT, None).cuda()).cpu()
    finally:
        network.cpu()
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-3)
