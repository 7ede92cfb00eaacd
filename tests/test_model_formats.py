"""Checkpoints: read back as written, and the same network as transformers' own classes, in both directions."""

# ruff: noqa: N803, N806  # shapes as suffixes, as in model/

import json
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from starloom.model.architecture import Architecture
from starloom.model.formats import Weights, load_network, save_network
from starloom.model.network import GPT
from tests.sizes import examples

CPU = torch.device("cpu")
ONE = Architecture(vocab_size=61, context_tokens=24, num_layers=2, num_heads=3, width=24)
slowly = settings(
    max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@st.composite
def architectures(draw):
    family = draw(st.sampled_from(["gpt_bigcode", "starcoder2"]))
    groups, head_width = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([4, 8]))
    heads = groups * draw(st.sampled_from([1, 2, 4]))
    if family == "gpt_bigcode":
        special = {"num_key_value_heads": draw(st.sampled_from([1, heads]))}
    else:
        special = {
            "num_key_value_heads": groups,
            "rope_theta": draw(st.sampled_from([1e2, 1e4, 1e6])),
            "sliding_window": draw(st.none() | st.integers(1, 30)),
        }
    return Architecture(
        family=family,
        vocab_size=draw(st.integers(8, 80)),
        context_tokens=draw(st.integers(8, 24)),
        num_layers=draw(st.integers(1, 3)),
        num_heads=heads,
        width=heads * head_width,
        inner_width=draw(st.integers(1, 50)),
        activation=draw(st.sampled_from(["gelu", "gelu_tanh"])),
        layer_norm_epsilon=draw(st.sampled_from([1e-5, 1e-3])),
        initializer_range=0.3,
        tied_head=draw(st.booleans()),
        **special,
    )


def shaken(network, seed):
    """Biases and LayerNorms off their first values, so that one that got lost shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def made(architecture, seed=0):
    network = GPT(architecture)
    network.init_weights(seed)
    return shaken(network, seed)


def both_logits(ours, theirs, tokens_BT):
    """In double precision, where only a difference of the two networks shows; and as they are used."""
    with torch.no_grad():
        exact = ours.double().hidden(tokens_BT) @ ours.head_VD.T, theirs.double()(tokens_BT, use_cache=False).logits
        return exact, (ours.float().logits(ours.hidden(tokens_BT)), theirs.float()(tokens_BT, use_cache=False).logits)


def assert_same_network(ours, theirs, seed):
    shape, generator = ours.architecture, torch.Generator().manual_seed(seed)
    tokens_BT = torch.randint(0, shape.vocab_size, (2, shape.context_tokens), generator=generator)
    exact, usual = both_logits(ours, theirs.eval(), tokens_BT)
    torch.testing.assert_close(*exact, rtol=0, atol=1e-6)  # transformers' angles and ours are fp32 in both
    torch.testing.assert_close(*usual, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@slowly
@given(architecture=architectures(), seed=st.integers(0, 99))
def test_what_we_write_is_the_same_network_in_transformers(tmp_path, architecture, seed):
    ours = made(architecture, seed)
    save_network(tmp_path, architecture, ours.named_parameters(), shard_bytes=4 * architecture.num_parameters // (1 + seed % 3) + 1)
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True, attn_implementation="sdpa")
    theirs, told = loaded
    assert not any(told.values()), f"weights that fit nothing: {told}"
    assert_same_network(ours, theirs, seed)


@slowly
@given(architecture=architectures(), seed=st.integers(0, 99))
def test_what_transformers_writes_is_the_same_network_here(tmp_path, architecture, seed):
    described = architecture.to_checkpoint()
    kind = {"gpt_bigcode": transformers.GPTBigCodeConfig, "starcoder2": transformers.Starcoder2Config}[architecture.family]
    config = kind(**{name: value for name, value in described.items() if name not in {"architectures", "model_type", "torch_dtype"}})
    config.bos_token_id = config.eos_token_id = 0
    theirs = shaken(transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa"), seed)
    theirs.save_pretrained(tmp_path)
    ours = load_network(tmp_path, CPU)
    assert ours.architecture == architecture
    assert_same_network(ours, theirs, seed)


@pytest.mark.parametrize("shard_bytes", [1 << 30, 10_000, 1])
def test_a_checkpoint_is_read_back_bit_by_bit_from_one_file_or_many(tmp_path, shard_bytes):
    network = made(ONE)
    save_network(tmp_path, ONE, network.named_parameters(), shard_bytes=shard_bytes, eos_token_id=3)
    assert len(list(tmp_path.glob("*.safetensors"))) == {1 << 30: 1, 10_000: 7, 1: 28}[shard_bytes]
    again = load_network(tmp_path, CPU)
    assert again.architecture == ONE
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    described = json.loads((tmp_path / "config.json").read_text())
    assert (described["model_type"], described["n_embd"], described["multi_query"], described["eos_token_id"]) == (
        "gpt_bigcode",
        24,
        True,
        3,
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n_layer": 3}, r"has no tensor transformer\.h\.2\.ln_1\.weight"),
        ({"n_embd": 27}, r"transformer\.wte\.weight is \[61, 24\], but config\.json asks for \[61, 27\]"),
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False"),
        ({"activation_function": "relu"}, "activation 'relu'"),
        ({"model_type": "starcoder2"}, "max_position_embeddings"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused_by_name(tmp_path, change, named):
    save_network(tmp_path, ONE, made(ONE).named_parameters())
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | change))
    with pytest.raises(ValueError, match=named):
        load_network(tmp_path, CPU)


@pytest.mark.parametrize(("content", "named"), [(None, "has no config.json"), ("[]", "holds list"), ("{", "is not valid JSON")])
def test_a_config_that_is_none_is_refused(tmp_path, content, named):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=named):
        Architecture.from_checkpoint(tmp_path)


def test_rotary_positions_that_are_not_plain_are_refused(tmp_path):
    two = Architecture(family="starcoder2", vocab_size=61, context_tokens=24, num_layers=1, num_heads=2, width=8)
    described = two.to_checkpoint() | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="rotary positions of the type 'yarn'"):
        Architecture.from_checkpoint(tmp_path)


def test_the_config_of_transformers_4_is_understood(tmp_path):
    two = Architecture(
        family="starcoder2", vocab_size=61, context_tokens=24, num_layers=1, num_heads=2, width=8, rope_theta=999_999.4420358813
    )
    described = two.to_checkpoint()
    del described["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(described))
    assert Architecture.from_checkpoint(tmp_path) == two


def test_damaged_or_missing_weights_are_named(tmp_path):
    save_network(tmp_path, ONE, made(ONE).named_parameters(), shard_bytes=10_000)
    first = next(iter(sorted(tmp_path.glob("model-*.safetensors"))))
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"{first.name} is not a complete safetensors file"):
        load_network(tmp_path, CPU)
    first.unlink()
    with pytest.raises(ValueError, match=rf"names {first.name}, which is not there"):
        load_network(tmp_path, CPU)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match="weights of another format"):
        Weights(tmp_path, ONE)
