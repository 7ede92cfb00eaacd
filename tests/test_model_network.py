"""The network: shapes, causality, the cache, multi-query attention and the chunked loss, each against a plain reference."""

# ruff: noqa: N803, N806, N812  # shapes as suffixes, as in model/

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from pydantic import ValidationError

from model.checkpoint import load_network, save_network
from model.config import Architecture
from model.network import GPT, IGNORE, Cache, SummedCrossEntropy, targets_of

PRESETS = Path(__file__).parents[1] / "conf" / "model"
TINY = Architecture(vocab_size=61, context_tokens=24, num_layers=2, num_heads=3, width=24)


@pytest.fixture(scope="module")
def network() -> GPT:
    network = GPT(TINY)
    network.init_weights(7)
    for parameter in network.parameters():  # biases and LayerNorms off their first values, so that a forgotten one shows
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    return network.eval()


def tokens_of(*shape, seed=0):
    return torch.randint(0, TINY.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def logits_of(network, tokens_BT):
    with torch.no_grad():
        return network.logits(network.hidden(tokens_BT))


def test_logits_have_a_score_for_every_token_of_the_vocabulary(network):
    assert logits_of(network, tokens_of(2, 24)).shape == (2, 24, 61)


@pytest.mark.parametrize("position", [0, 1, 11, 23])
def test_a_token_changes_no_position_before_it(network, position):
    tokens_BT = tokens_of(1, 24)
    other_BT = tokens_BT.clone()
    other_BT[0, position] = (other_BT[0, position] + 1) % TINY.vocab_size
    before, after = logits_of(network, tokens_BT)[0], logits_of(network, other_BT)[0]
    assert torch.equal(before[:position], after[:position])
    assert not torch.allclose(before[position:], after[position:])


def reference_logits(network, tokens_T):
    """The same network written out head by head, without batches, fused attention or modules' forward."""
    weights = {name.removeprefix("transformer."): tensor for name, tensor in network.state_dict().items()}

    def norm(x_TD, name):
        centred = x_TD - x_TD.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x_TD, name):
        return x_TD @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    T, K = len(tokens_T), TINY.head_width
    x_TD = weights["wte.weight"][tokens_T] + weights["wpe.weight"][:T]
    future_TT = torch.ones(T, T).triu(1).bool()
    for layer in range(TINY.num_layers):
        all_TX = linear(norm(x_TD, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn")
        key_TK, value_TK = all_TX[:, -2 * K : -K], all_TX[:, -K:]
        heads = []
        for head in range(TINY.num_heads):
            query_TK = all_TX[:, head * K : (head + 1) * K]
            score_TT = (query_TK @ key_TK.T / math.sqrt(K)).masked_fill(future_TT, -math.inf)
            heads.append(score_TT.softmax(-1) @ value_TK)
        x_TD = x_TD + linear(torch.cat(heads, -1), f"h.{layer}.attn.c_proj")
        inner_TF = linear(norm(x_TD, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc")
        inner_TF = 0.5 * inner_TF * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner_TF + 0.044715 * inner_TF**3)))
        x_TD = x_TD + linear(inner_TF, f"h.{layer}.mlp.c_proj")
    return norm(x_TD, "ln_f") @ weights["wte.weight"].T


def test_it_equals_a_plain_reference_written_head_by_head(network):
    tokens_BT = tokens_of(2, 24, seed=3)
    for row, tokens_T in enumerate(tokens_BT):
        torch.testing.assert_close(logits_of(network, tokens_BT)[row], reference_logits(network, tokens_T), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pieces", [[24], [1] * 24, [5, 1, 1, 7, 10]])
def test_reading_through_the_cache_piece_by_piece_equals_reading_at_once(network, pieces):
    tokens_BT = tokens_of(3, 24, seed=4)
    cache = Cache(TINY, 3, 24, device=torch.device("cpu"), dtype=torch.float32)
    read, start = [], 0
    for size in pieces:
        positions_BT = torch.arange(start, start + size).expand(3, size)
        with torch.no_grad():
            read.append(network.logits(network.hidden(tokens_BT[:, start : start + size], positions_BT, cache)))
        start += size
    torch.testing.assert_close(torch.cat(read, 1), logits_of(network, tokens_BT), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk_bytes", [1, 61 * 4 * 5, 1 << 20])
def test_the_chunked_loss_and_its_gradients_equal_torchs_own(monkeypatch, chunk_bytes):
    monkeypatch.setitem(SummedCrossEntropy.CHUNK_BYTES, "cpu", chunk_bytes)
    generator = torch.Generator().manual_seed(5)
    hidden_ND = torch.randn(17, 8, generator=generator).requires_grad_()
    weight_VD = torch.randn(61, 8, generator=generator).requires_grad_()
    targets_N = torch.randint(0, 61, (17,), generator=generator)
    ours = SummedCrossEntropy.apply(hidden_ND, weight_VD, targets_N)
    ours_grads = torch.autograd.grad(ours * 0.3, [hidden_ND, weight_VD])
    theirs = F.cross_entropy(hidden_ND @ weight_VD.T, targets_N, reduction="sum")
    theirs_grads = torch.autograd.grad(theirs * 0.3, [hidden_ND, weight_VD])
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(ours_grads, theirs_grads, rtol=1e-4, atol=1e-5)


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
        expected = 1 / 16 / (math.sqrt(6) if name.endswith("c_proj.weight") else 1)
        if parameter.ndim > 1:
            assert std == pytest.approx(expected, rel=0.03), name
        else:
            assert (parameter == float(".ln_" in name and name.endswith("weight"))).all(), name
    first = network.state_dict()["transformer.wte.weight"].clone()
    network.init_weights(2)
    assert not torch.equal(first, network.state_dict()["transformer.wte.weight"])
    network.init_weights(1)
    assert torch.equal(first, network.state_dict()["transformer.wte.weight"])


@pytest.mark.parametrize(
    ("preset", "billions", "initializer_range"),
    [("1b", 1.137, 0.02209), ("3b", 3.043, 0.01884), ("7b", 7.327, 0.015625), ("15b", 15.517, 0.01275)],
)
def test_starcoders_presets_have_the_published_size(preset, billions, initializer_range):
    architecture = Architecture(**yaml.safe_load((PRESETS / f"starcoderbase-{preset}.yaml").read_text())["architecture"])
    with torch.device("meta"):
        network = GPT(architecture)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    assert round(num_parameters / 1e9, 3) == billions
    assert architecture.num_parameters == num_parameters
    assert architecture.initializer_range == pytest.approx(initializer_range, abs=1e-5)


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_is_an_architecture(path):
    preset = yaml.safe_load(path.read_text())
    assert set(preset) <= {"architecture", "training"}
    Architecture(**{"vocab_size": 4096, **preset["architecture"]})


def test_a_checkpoint_is_read_back_as_it_was_written(network, tmp_path):
    save_network(tmp_path, TINY, network.state_dict())
    again = load_network(tmp_path, torch.device("cpu"))
    assert again.architecture == TINY
    assert torch.equal(logits_of(again, tokens_of(1, 24)), logits_of(network, tokens_of(1, 24)))
    described = json.loads((tmp_path / "config.json").read_text())
    assert (described["model_type"], described["n_embd"], described["multi_query"]) == ("gpt_bigcode", 24, True)


def test_a_checkpoint_of_another_kind_is_refused_by_name(network, tmp_path):
    save_network(tmp_path, TINY, network.state_dict())
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | {"n_layer": 3}))
    with pytest.raises(ValueError, match=r"does not fit .*config\.json"):
        load_network(tmp_path, torch.device("cpu"))
    (tmp_path / "config.json").write_text(json.dumps(described | {"model_type": "llama"}))
    with pytest.raises(ValueError, match="model_type is 'llama'"):
        load_network(tmp_path, torch.device("cpu"))


@pytest.mark.parametrize(("knobs", "named"), [({"num_heads": 5}, "num_heads"), ({"widht": 3}, "widht"), ({"num_layers": 0}, "num_layers")])
def test_a_wrong_knob_is_refused_by_name(knobs, named):
    with pytest.raises(ValidationError, match=named):
        Architecture(**(TINY.model_dump() | knobs))


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_losses_of_a_cpu(network):
    tokens_BT = tokens_of(2, 24)
    on_cpu = network.token_losses(tokens_BT, targets_of(tokens_BT, None))
    try:
        on_gpu = network.cuda().token_losses(tokens_BT.cuda(), targets_of(tokens_BT, None).cuda()).cpu()
    finally:
        network.cpu()
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-3)
