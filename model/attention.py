"""Attention behind one function: causal, grouped-query, within a window, and within documents where asked.

Four kernels compute the same numbers; of all but `cudnn`, which is to be asked for, `kernel_for` takes the first that can run, once for a
pass through the network and outside of what is compiled, for a compiler cannot follow what it asks:

- `flash`: the `flash-attn` package (extra `gpu`; Dao 2023, arXiv 2307.08691): half precision on a GPU.
- `varlen`: torch's own copy of it for sequences of several documents (`torch.nn.attention.varlen`, torch 2.11): half
  precision on a GPU, no dropout.
- `cudnn`: NVIDIA's own, by torch: half precision on a GPU, every token to all before it. On an H100 others measured it 1.7 to 2.3 times as
  fast as `flash` (huggingface/transformers, pull request 48163); newer versions of torch and cuDNN take it for `sdpa` there.
- `sdpa`: torch's scaled_dot_product_attention: every device and precision, document by document where there are several.

`Documents never see each other` is block-diagonal attention: a batch of B sequences of T tokens is taken as one line of B*T tokens, and
`offsets_N` says where in it each document begins, the last entry being B*T. Without offsets a sequence is attended as
a whole, whatever it was packed from, which is how StarCoder was trained.

Shapes: as in `network`; N counts documents and one more, W is the window.
"""

import functools
import importlib.util
import itertools
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  # its name in every paper's code
from torch import Tensor

Kernel = Literal["flash", "varlen", "cudnn", "sdpa"]
Choice = Literal["auto"] | Kernel


def attend(
    query_BTHK: Tensor,
    key_BTGK: Tensor,
    value_BTGK: Tensor,
    *,
    window: int | None = None,
    offsets_N: Tensor | None = None,
    dropout: float = 0.0,
    kernel: Kernel = "sdpa",
) -> Tensor:
    """Attend from each token to itself and those before it, at most `window` of them, within its document; BTHK.

    Args:
        query_BTHK: G divides H; each key and value head serves H / G query heads in order.
        key_BTGK: the keys.
        value_BTGK: the values.
        window: tokens that a token sees, itself included; all where none is given.
        offsets_N: int32, where each document begins in the line of B*T tokens, then B*T.
        dropout: probability that an attention weight is zeroed.
        kernel: one that can run here, as `kernel_for` says.
    """
    if window is not None and window >= query_BTHK.shape[1]:
        window = None
    if kernel == "flash":
        return _flash(query_BTHK, key_BTGK, value_BTGK, window, offsets_N, dropout)
    if kernel == "varlen":
        return _varlen(query_BTHK, key_BTGK, value_BTGK, window, offsets_N)
    if kernel == "cudnn":
        return _cudnn(query_BTHK, key_BTGK, value_BTGK, dropout)
    if offsets_N is None:
        return _sdpa(query_BTHK, key_BTGK, value_BTGK, window, dropout)
    together: Tensor = _sdpa_by_document(query_BTHK, key_BTGK, value_BTGK, window, offsets_N, dropout)
    return together


def attend_to_cache(query_BTHK: Tensor, key_BSGK: Tensor, value_BSGK: Tensor, visible_BTS: Tensor) -> Tensor:
    """Attend from each token to the slots of a cache that it may see; BTHK.

    The heads of a group stand in line as further queries of its one key head, so that nothing is copied H / G times.
    """
    B, T, H, K = query_BTHK.shape
    G = key_BSGK.shape[2]
    query_BGQK = query_BTHK.view(B, T, G, H // G, K).transpose(1, 2).reshape(B, G, T * (H // G), K)
    visible_B1QS = visible_BTS.repeat_interleave(H // G, dim=1).unsqueeze(1)
    y_BGQK = F.scaled_dot_product_attention(query_BGQK, key_BSGK.transpose(1, 2), value_BSGK.transpose(1, 2), attn_mask=visible_B1QS)
    return y_BGQK.view(B, G, T, H // G, K).transpose(1, 2).reshape(B, T, H, K)


def kernel_for(choice: Choice, device: torch.device, dtype: torch.dtype, *, dropout: float, is_plain: bool) -> Kernel:
    """Return the kernel to run.

    Args:
        choice: `auto`, or a kernel by name.
        device: of queries, keys and values.
        dtype: theirs.
        dropout: probability that an attention weight is zeroed.
        is_plain: whether every token sees all before it; `varlen` is only worth it where torch's plain kernel cannot do the masking.

    Raises:
        ValueError: the kernel asked for cannot run here; the message says why.
    """
    is_half = device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
    if choice == "auto":
        if is_half and has_flash():
            return "flash"
        return "varlen" if is_half and not dropout and not is_plain and has_varlen() else "sdpa"
    if choice != "sdpa" and not is_half:
        raise ValueError(f"the attention kernel {choice} needs bf16 on a GPU, not {dtype} on {device}; use auto or sdpa")
    if choice == "flash" and not has_flash():
        raise ValueError("the attention kernel flash needs the package flash-attn: pip install 'starloom[gpu]', or use auto")
    if choice == "varlen" and not has_varlen():
        raise ValueError(f"the attention kernel varlen needs torch 2.11 or newer, this is {torch.__version__}; use auto or sdpa")
    if choice == "varlen" and dropout:
        raise ValueError(f"the attention kernel varlen has no dropout ({dropout} asked for); use flash or sdpa, or dropout 0")
    if choice == "cudnn" and not is_plain:
        raise ValueError("the attention kernel cudnn supports neither document masking nor a window; use auto")
    return choice


@functools.cache
def has_flash() -> bool:
    """Return whether `flash-attn` is installed."""
    return importlib.util.find_spec("flash_attn") is not None


@functools.cache
def has_varlen() -> bool:
    """Return whether this torch has attention over several documents with grouped queries and a window."""
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return False
    import inspect

    from torch.nn.attention.varlen import varlen_attn

    return {"window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)


def _flash(query: Tensor, key: Tensor, value: Tensor, window: int | None, offsets_N: Tensor | None, dropout: float) -> Tensor:
    import flash_attn

    sides = (-1 if window is None else window - 1, 0)
    if offsets_N is None:
        y: Tensor = flash_attn.flash_attn_func(query, key, value, dropout_p=dropout, causal=True, window_size=sides)
        return y
    T, line = query.shape[1], [tensor.flatten(0, 1) for tensor in (query, key, value)]
    y = flash_attn.flash_attn_varlen_func(*line, offsets_N, offsets_N, T, T, dropout_p=dropout, causal=True, window_size=sides)
    return y.view_as(query)


def _varlen(query: Tensor, key: Tensor, value: Tensor, window: int | None, offsets_N: Tensor | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    B, T = query.shape[:2]
    if offsets_N is None:
        offsets_N = torch.arange(0, (B + 1) * T, T, device=query.device, dtype=torch.int32)
    sides = (-1 if window is None else window - 1, 0)
    grouped = query.shape[2] != key.shape[2]
    queries, keys, values = (tensor.flatten(0, 1) for tensor in (query, key, value))
    y = varlen_attn(queries, keys, values, offsets_N, offsets_N, T, T, window_size=sides, enable_gqa=grouped)
    assert isinstance(y, Tensor)
    return y.view_as(query)


def _cudnn(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return _sdpa(query, key, value, None, dropout)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, window: int | None, dropout: float) -> Tensor:
    query_BHTK, key_BGTK, value_BGTK = (tensor.transpose(1, 2) for tensor in (query, key, value))
    mask_TT = None if window is None else band(query.shape[1], window, query.device)
    y_BHTK = F.scaled_dot_product_attention(
        query_BHTK,
        key_BGTK,
        value_BGTK,
        attn_mask=mask_TT,
        dropout_p=dropout,
        is_causal=mask_TT is None,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return y_BHTK.transpose(1, 2)


def _sdpa_by_document(query: Tensor, key: Tensor, value: Tensor, window: int | None, offsets_N: Tensor, dropout: float) -> Tensor:
    """Call SDPA once per document: what lies outside the blocks of the diagonal is never computed."""
    queries, keys, values = (tensor.flatten(0, 1).unsqueeze(0) for tensor in (query, key, value))
    ends = offsets_N.tolist()
    documents = []
    for start, end in itertools.pairwise(ends):
        narrow = None if window is None or window >= end - start else window
        documents.append(_sdpa(queries[:, start:end], keys[:, start:end], values[:, start:end], narrow, dropout))
    return torch.cat(documents, dim=1).view_as(query)


@functools.cache
def keep_from_compilers() -> None:
    """Have `torch.compile` leave SDPA by document alone: documents differ in length, and each would be compiled.

    For whoever compiles. As a decorator it would load the compiler wherever a network is read: more than a second.
    """
    globals()["_sdpa_by_document"] = torch.compiler.disable(_sdpa_by_document)  # type: ignore[no-untyped-call]  # torch has no types here


def band(T: int, window: int, device: torch.device) -> Tensor:
    """Return the causal mask of a window: each token sees itself and the `window` - 1 before it; bool [T, T]."""
    ones_TT = torch.ones(T, T, dtype=torch.bool, device=device)
    return ones_TT.tril() & ones_TT.triu(1 - window)
