"""Published networks by name, as Python values: a bare machine can be asked about them without YAML.

The same architectures stand in conf/model/*.yaml, with how they were trained; a test keeps both equal. Sources: StarCoder's Megatron-LM
scripts (bigcode-project/Megatron-LM, examples/) and Li et al. 2023, arXiv 2305.06161; Lozhkov et al. 2024, arXiv 2402.19173. The
starcoder2 ones are those of the first stage of training, with 4,096 tokens of context.
"""

from starloom.model.architecture import STARCODER2, Architecture

VOCAB_SIZE = 49152


def _starcoder(num_layers: int, num_heads: int, width: int) -> Architecture:
    return Architecture(vocab_size=VOCAB_SIZE, context_tokens=8192, num_layers=num_layers, num_heads=num_heads, width=width, dropout=0.1)


def _starcoder2(
    num_layers: int, num_heads: int, num_key_value_heads: int, width: int, initializer_range: float, rope_theta: float, *, tied_head: bool
) -> Architecture:
    return Architecture(
        family=STARCODER2,
        vocab_size=VOCAB_SIZE,
        context_tokens=4096,
        num_layers=num_layers,
        num_heads=num_heads,
        num_key_value_heads=num_key_value_heads,
        width=width,
        initializer_range=initializer_range,
        rope_theta=rope_theta,
        tied_head=tied_head,
    )


PRESETS: dict[str, Architecture] = {
    "tiny": Architecture(vocab_size=4096, context_tokens=256, num_layers=2, num_heads=2, width=128),
    "small": Architecture(
        family=STARCODER2, vocab_size=VOCAB_SIZE, context_tokens=2048, num_layers=16, num_heads=12, num_key_value_heads=4, width=768
    ),
    "starcoderbase-1b": _starcoder(24, 16, 2048),
    "starcoderbase-3b": _starcoder(36, 22, 2816),
    "starcoderbase-7b": _starcoder(42, 32, 4096),
    "starcoderbase-15b": _starcoder(40, 48, 6144),
    "starcoder2-3b": _starcoder2(30, 24, 2, 3072, 0.018042, 1e5, tied_head=True),
    "starcoder2-7b": _starcoder2(32, 36, 4, 4608, 0.018042, 1e5, tied_head=True),
    "starcoder2-15b": _starcoder2(40, 48, 4, 6144, 0.01275, 1e4, tied_head=False),
}
