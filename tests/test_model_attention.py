"""Attention behind one function: every kernel against a loop over single queries."""

# ruff: noqa: N803, N806  # shapes as suffixes, as in model/

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.model import attention
from starloom.model.attention import attend, has_flash, has_varlen, kernel_for
from tests.sizes import examples


def one_by_one(query_BTHK, key_BTGK, value_BTGK, window, ends):
    """Every query alone: the keys it may see, softmax, the mean of their values."""
    B, T, H, K = query_BTHK.shape
    query, key, value = (tensor.flatten(0, 1) for tensor in (query_BTHK, key_BTGK, value_BTGK))
    starts = ends or list(range(0, B * T + 1, T))
    out = torch.empty_like(query)
    for at in range(B * T):
        first = max(start for start in starts if start <= at)
        first = max(first, at + 1 - (window or T))
        for head in range(H):
            group = head * key.shape[1] // H
            score = key[first : at + 1, group] @ query[at, head] / math.sqrt(K)
            out[at, head] = score.softmax(0) @ value[first : at + 1, group]
    return out.view_as(query_BTHK)


@st.composite
def cases(draw):
    B, T, G = draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.sampled_from([1, 2, 3]))
    H = G * draw(st.sampled_from([1, 2, 4]))
    inner = draw(st.none() | st.sets(st.integers(1, B * T - 1) if B * T > 1 else st.nothing()))
    ends = None if inner is None else sorted({*inner, *range(0, B * T + 1, T)})  # documents never straddle sequences
    return (B, T, H, G, 4), draw(st.none() | st.integers(1, T + 2)), ends, draw(st.integers(0, 1 << 30))


def drawn(shape, seed, device="cpu", dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    B, T, H, G, K = shape
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(B, T, heads, K, generator=generator).to(device, dtype) for heads in (H, G, G))
    return query, key, value


@settings(max_examples=examples(60), deadline=None)
@given(cases())
def test_it_equals_every_query_alone(case):
    shape, window, ends, seed = case
    tensors = drawn(shape, seed)
    offsets_N = None if ends is None else torch.tensor(ends, dtype=torch.int32)
    torch.testing.assert_close(
        attend(*tensors, window=window, offsets_N=offsets_N), one_by_one(*tensors, window, ends), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("choice", "device", "dtype", "installed", "named"),
    [
        ("flash", "cpu", torch.float32, ("flash", "varlen"), "kernel flash needs bf16 on a GPU, not torch.float32 on cpu"),
        ("varlen", "cpu", torch.bfloat16, ("flash", "varlen"), "kernel varlen needs bf16 on a GPU, not torch.bfloat16 on cpu"),
        ("varlen", "cuda", torch.float32, ("flash", "varlen"), "kernel varlen needs bf16 on a GPU, not torch.float32 on cuda"),
        ("flash", "cuda", torch.bfloat16, ("varlen",), "needs the package flash-attn"),
        ("varlen", "cuda", torch.bfloat16, ("flash",), "needs torch 2.11"),
        ("cudnn", "cpu", torch.float32, (), "kernel cudnn needs bf16 on a GPU, not torch.float32 on cpu"),
        ("cudnn", "cuda", torch.bfloat16, (), "supports neither document masking nor a window"),
        ("varlen", "cuda", torch.bfloat16, ("varlen",), r"has no dropout \(0.1 asked for\)"),
    ],
)
def test_a_kernel_that_cannot_run_is_refused_with_the_reason(monkeypatch, choice, device, dtype, installed, named):
    monkeypatch.setattr(attention, "has_flash", lambda: "flash" in installed)
    monkeypatch.setattr(attention, "has_varlen", lambda: "varlen" in installed)
    with pytest.raises(ValueError, match=named):
        kernel_for(choice, torch.device(device), dtype, dropout=0.1, is_plain=False)


@pytest.mark.parametrize(
    ("installed", "dropout", "is_plain", "kernel"),
    [
        (("flash", "varlen"), 0.0, False, "flash"),
        (("flash", "varlen"), 0.1, True, "flash"),
        (("varlen",), 0.0, False, "varlen"),
        (("varlen",), 0.0, True, "sdpa"),  # torch's plain kernel is as fast
        (("varlen",), 0.1, False, "sdpa"),  # the only one with dropout
        ((), 0.0, False, "sdpa"),
    ],
)
def test_the_first_kernel_that_can_run_is_taken(monkeypatch, installed, dropout, is_plain, kernel):
    monkeypatch.setattr(attention, "has_flash", lambda: "flash" in installed)
    monkeypatch.setattr(attention, "has_varlen", lambda: "varlen" in installed)
    assert kernel_for("auto", torch.device("cuda"), torch.bfloat16, dropout=dropout, is_plain=is_plain) == kernel
    assert kernel_for("auto", torch.device("cuda"), torch.float32, dropout=dropout, is_plain=is_plain) == "sdpa"
    assert kernel_for("auto", torch.device("cpu"), torch.bfloat16, dropout=dropout, is_plain=is_plain) == "sdpa"


@pytest.mark.skipif(not has_varlen(), reason="needs torch 2.11")
@settings(max_examples=examples(30), deadline=None)
@given(cases())
def test_torchs_kernel_for_documents_is_asked_for_the_same(case):
    """Its arguments, as its documentation has them, in place of the GPU that it needs."""

    def documented(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size, enable_gqa):
        assert cu_seq_q.dtype == torch.int32
        assert torch.equal(cu_seq_q, cu_seq_k)
        lengths = cu_seq_q.diff()
        assert max(lengths) <= max_q == max_k
        assert enable_gqa or query.shape[1] == key.shape[1]
        left, right = window_size
        assert right == 0  # causal
        width = len(query) if left == -1 else left + 1
        return one_by_one(query[None], key[None], value[None], width, cu_seq_q.tolist())[0]

    shape, window, ends, seed = case
    tensors = drawn(shape, seed)
    how = {"window": window, "offsets_N": None if ends is None else torch.tensor(ends, dtype=torch.int32)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.attention.varlen.varlen_attn", documented)
        got = attend(*tensors, kernel="varlen", **how)
    torch.testing.assert_close(got, attend(*tensors, **how), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", ["flash", "varlen", "cudnn", "sdpa"])
@pytest.mark.parametrize("window", [None, 33])
@pytest.mark.parametrize("ends", [None, [0, 5, 100, 128, 129, 256]])
def test_on_a_gpu_every_kernel_equals_the_plain_one_and_so_do_its_gradients(kernel, window, ends):
    if not {"flash": has_flash(), "varlen": has_varlen()}.get(kernel, True):
        pytest.skip(f"the kernel {kernel} is not installed")
    if kernel == "cudnn" and (window or ends):
        pytest.skip("cudnn supports neither document masking nor a window")
    exact = [tensor.requires_grad_() for tensor in drawn((2, 128, 4, 2, 64), 1)]
    low = [tensor.detach().to("cuda", torch.bfloat16).requires_grad_() for tensor in exact]
    offsets_N = None if ends is None else torch.tensor(ends, dtype=torch.int32)
    wanted = attend(*exact, window=window, offsets_N=offsets_N)
    got = attend(*low, window=window, offsets_N=None if offsets_N is None else offsets_N.cuda(), kernel=kernel)
    wanted.square().sum().backward()
    got.float().square().sum().backward()
    torch.testing.assert_close(got.float().cpu(), wanted, rtol=0.02, atol=0.02)
    for ours, reference in zip(low, exact, strict=True):
        torch.testing.assert_close(ours.grad.float().cpu(), reference.grad, rtol=0.05, atol=0.05)
