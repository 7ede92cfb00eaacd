"""The network: a decoder-only transformer of the GPTBigCode family, the one StarCoder is made of.

Design choices, each with its source:

- Multi-query attention: all heads share one key and one value head, so that the cache of a generation is
  H times smaller (Shazeer 2019, arXiv 1911.02150; SantaCoder, arXiv 2301.03988).
- Learned absolute positions; LayerNorm with bias before each half of a block and at the end; biases everywhere; GELU in
  its tanh form; MLP four times the width (GPT-2).
- The output matrix is the token embedding (tied head).
- First weights are normal(0, initializer_range), those of projections back into the residual stream are smaller by
  sqrt(2 L), since 2 L of them add up there; biases start at 0 (StarCoder's Megatron scripts: 1/sqrt(D)).
- Parameters bear the names of transformers' GPTBigCode, so a checkpoint can be loaded there, and StarCoder's can be loaded here.
- Weights are kept in fp32; matrix products run in bf16 where the caller opens `torch.autocast`.

Shapes: a tensor's name ends in its dimensions.

    B  sequences of a batch      D  width of the residual stream      H  query heads
    T  tokens given now          F  inner width of the MLP            K  width of a head, D / H
    S  slots of the cache        V  vocabulary                        L  layers        N  tokens in a flat list
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  # its name in every paper's code
from torch import Tensor, nn

from model.config import Architecture

IGNORE = -100
"""Target of a position that has nothing to predict."""


def targets_of(tokens_BT: Tensor, pad_token: int | None) -> Tensor:
    """What each position has to predict: the token after it, unless there is none or it is padding."""
    targets_BT = torch.full_like(tokens_BT, IGNORE)
    targets_BT[:, :-1] = tokens_BT[:, 1:]
    if pad_token is not None:
        targets_BT[targets_BT == pad_token] = IGNORE
    return targets_BT


class Cache:
    """Keys and values of the tokens read so far; slot s holds position s of its row."""

    def __init__(self, architecture: Architecture, rows: int, slots: int, *, device: torch.device, dtype: torch.dtype) -> None:
        """Room for `slots` tokens in each of `rows` rows."""
        shape = (architecture.num_layers, rows, slots, 2 * architecture.head_width)
        self.key_value_LBSK2 = torch.zeros(shape, device=device, dtype=dtype)
        self.rows_B1 = torch.arange(rows, device=device)[:, None]
        self.slots_S = torch.arange(slots, device=device)

    def write(self, layer: int, positions_BT: Tensor, key_value_BTK2: Tensor) -> Tensor:
        """Store what a layer computed for these positions; return all its slots."""
        key_value_BSK2: Tensor = self.key_value_LBSK2[layer]
        key_value_BSK2[self.rows_B1, positions_BT] = key_value_BTK2.to(key_value_BSK2.dtype)
        return key_value_BSK2


class Attention(nn.Module):
    """Causal multi-query attention."""

    def __init__(self, architecture: Architecture, layer: int) -> None:
        super().__init__()
        self.layer, self.num_heads, self.head_width = layer, architecture.num_heads, architecture.head_width
        self.dropout = architecture.dropout
        self.c_attn = nn.Linear(architecture.width, architecture.width + 2 * self.head_width)
        self.c_proj = nn.Linear(architecture.width, architecture.width)

    def forward(self, x_BTD: Tensor, positions_BT: Tensor, cache: Cache | None) -> Tensor:
        """Mix into each token what it looks at: the tokens given now, or with a cache those read so far."""
        query_key_value: Tensor = self.c_attn(x_BTD)
        query_BTD, key_value_BTK2 = query_key_value.tensor_split([x_BTD.shape[-1]], dim=-1)
        if cache is None:
            y_BTD = self._attend(query_BTD, key_value_BTK2)
        else:
            key_value_BSK2 = cache.write(self.layer, positions_BT, key_value_BTK2).to(query_BTD.dtype)
            y_BTD = self._attend_to_cache(query_BTD, key_value_BSK2, positions_BT, cache.slots_S)
        out_BTD: Tensor = self.c_proj(y_BTD)
        return out_BTD

    def _attend(self, query_BTD: Tensor, key_value_BTK2: Tensor) -> Tensor:
        """Each token to itself and those before it."""
        B, T, D = query_BTD.shape
        query_BHTK = query_BTD.view(B, T, self.num_heads, self.head_width).transpose(1, 2)
        key_B1TK, value_B1TK = key_value_BTK2.unsqueeze(1).tensor_split(2, dim=-1)
        dropout = self.dropout if self.training else 0.0
        y_BHTK = F.scaled_dot_product_attention(
            query_BHTK, key_B1TK, value_B1TK, dropout_p=dropout, is_causal=True, enable_gqa=self.num_heads > 1
        )
        return y_BHTK.transpose(1, 2).reshape(B, T, D)

    def _attend_to_cache(self, query_BTD: Tensor, key_value_BSK2: Tensor, positions_BT: Tensor, slots_S: Tensor) -> Tensor:
        """Each token to the slots up to its own position.

        The heads of a token stand in line as further queries of the one key head, so nothing is copied H times.
        """
        B, T, D = query_BTD.shape
        H, K = self.num_heads, self.head_width
        key_B1SK, value_B1SK = key_value_BSK2.unsqueeze(1).tensor_split(2, dim=-1)
        visible_B1QS = (slots_S <= positions_BT.repeat_interleave(H, dim=1)[:, :, None]).unsqueeze(1)
        y_B1QK = F.scaled_dot_product_attention(query_BTD.reshape(B, 1, T * H, K), key_B1SK, value_B1SK, attn_mask=visible_B1QS)
        return y_B1QK.reshape(B, T, D)


class MLP(nn.Module):
    """Two layers, applied to every token alone."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.c_fc = nn.Linear(architecture.width, architecture.inner_width)
        self.c_proj = nn.Linear(architecture.inner_width, architecture.width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Widen, bend, narrow."""
        inner_BTF = F.gelu(self.c_fc(x_BTD), approximate="tanh")
        out_BTD: Tensor = self.c_proj(inner_BTF)
        return out_BTD


class Block(nn.Module):
    """Attention, then MLP; each reads a normalised copy of the stream and adds to the stream."""

    def __init__(self, architecture: Architecture, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(architecture.width, eps=architecture.layer_norm_epsilon)
        self.attn = Attention(architecture, layer)
        self.ln_2 = nn.LayerNorm(architecture.width, eps=architecture.layer_norm_epsilon)
        self.mlp = MLP(architecture)
        self.dropout = nn.Dropout(architecture.dropout)

    def forward(self, x_BTD: Tensor, positions_BT: Tensor, cache: Cache | None) -> Tensor:
        """The stream with what this block adds to it."""
        x_BTD = x_BTD + self.dropout(self.attn(self.ln_1(x_BTD), positions_BT, cache))
        y_BTD: Tensor = x_BTD + self.dropout(self.mlp(self.ln_2(x_BTD)))
        return y_BTD


class Transformer(nn.Module):
    """Embeddings, blocks, last LayerNorm."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.wte = nn.Embedding(architecture.vocab_size, architecture.width)
        self.wpe = nn.Embedding(architecture.context_tokens, architecture.width)
        self.dropout = nn.Dropout(architecture.dropout)
        self.h = nn.ModuleList(Block(architecture, layer) for layer in range(architecture.num_layers))
        self.ln_f = nn.LayerNorm(architecture.width, eps=architecture.layer_norm_epsilon)

    def forward(self, tokens_BT: Tensor, positions_BT: Tensor, cache: Cache | None) -> Tensor:
        """The residual stream after the last LayerNorm."""
        x_BTD: Tensor = self.dropout(self.wte(tokens_BT) + self.wpe(positions_BT))
        for block in self.h:
            x_BTD = block(x_BTD, positions_BT, cache)
        y_BTD: Tensor = self.ln_f(x_BTD)
        return y_BTD


class GPT(nn.Module):
    """Tokens in, a distribution over the next token out."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.transformer = Transformer(architecture)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.transformer.wte.weight.device

    def init_weights(self, seed: int) -> None:
        """Draw the first weights, on the CPU so that they do not depend on the device."""
        generator = torch.Generator().manual_seed(seed)
        std = self.architecture.initializer_range
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                smaller = math.sqrt(2 * self.architecture.num_layers) if name.endswith("c_proj.weight") else 1.0
                drawn = torch.empty(parameter.shape).normal_(0.0, std / smaller, generator=generator)
                parameter.data.copy_(drawn)
            else:
                parameter.data.fill_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0)

    def hidden(self, tokens_BT: Tensor, positions_BT: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """What the head reads, BTD; positions are 0..T-1 where none are given."""
        if positions_BT is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(tokens_BT)
        hidden_BTD: Tensor = self.transformer(tokens_BT, positions_BT, cache)
        return hidden_BTD

    def logits(self, hidden: Tensor) -> Tensor:
        """Score of every token of the vocabulary as the next one."""
        return F.linear(hidden, self.transformer.wte.weight).float()

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Sum of the losses at the positions whose target is not `IGNORE`."""
        hidden_BTD = self.hidden(tokens_BT)
        kept_BT = targets_BT != IGNORE
        loss: Tensor = SummedCrossEntropy.apply(hidden_BTD[kept_BT], self.transformer.wte.weight, targets_BT[kept_BT])  # type: ignore[no-untyped-call]  # torch has no types here
        return loss

    @torch.no_grad()
    def token_losses(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Loss at each position, 0 where the target is `IGNORE`."""
        hidden_BTD = self.hidden(tokens_BT)
        rows = [
            F.cross_entropy(self.logits(hidden_TD), targets_T, ignore_index=IGNORE, reduction="none")
            for hidden_TD, targets_T in zip(hidden_BTD, targets_BT, strict=True)
        ]
        return torch.stack(rows)


class SummedCrossEntropy(torch.autograd.Function):
    """Cross entropy of a linear head, summed over tokens, without ever holding all logits.

    A vocabulary is wide and a residual stream narrow, so the logits are the largest tensor of a step. Here they exist for one
    chunk of tokens at a time, and since the loss is a plain sum its gradient is known chunk by chunk on the way forward: nothing is
    kept, nothing computed twice (the idea of Liger Kernel's FusedLinearCrossEntropy, arXiv 2410.10989).
    """

    CHUNK_BYTES: ClassVar = {"cpu": 4 << 20, "cuda": 512 << 20}
    """Logits held at once: what a CPU's cache holds, or what a GPU needs to be busy."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, embedding_VD: Tensor, targets_N: Tensor) -> Tensor:
        """The sum, and its gradient set aside."""
        device = hidden_ND.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        weight_VD = embedding_VD.to(dtype)
        chunk = max(1, SummedCrossEntropy.CHUNK_BYTES[device] // (4 * len(weight_VD)))
        loss = hidden_ND.new_zeros((), dtype=torch.float32)
        hidden_grad_ND = torch.empty_like(hidden_ND)
        embedding_grad_VD = torch.zeros_like(embedding_VD, dtype=torch.float32)
        for start in range(0, len(hidden_ND), chunk):
            part_ND, target_N1 = hidden_ND[start : start + chunk].to(dtype), targets_N[start : start + chunk, None]
            logits_NV = (part_ND @ weight_VD.T).float()
            log_sum_N1 = logits_NV.logsumexp(-1, keepdim=True)
            loss += (log_sum_N1 - logits_NV.gather(1, target_N1)).sum()
            grad_NV = logits_NV.sub_(log_sum_N1).exp_()  # softmax; minus one at the target it is the gradient
            grad_NV[torch.arange(len(grad_NV), device=grad_NV.device), target_N1[:, 0]] -= 1
            grad_NV = grad_NV.to(dtype)
            hidden_grad_ND[start : start + chunk] = grad_NV @ weight_VD
            embedding_grad_VD += grad_NV.T @ part_ND
        ctx.save_for_backward(hidden_grad_ND, embedding_grad_VD)
        return loss

    @staticmethod
    def backward(ctx: Any, loss_grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """The gradient, scaled."""
        hidden_grad_ND, embedding_grad_VD = ctx.saved_tensors
        return hidden_grad_ND * loss_grad, embedding_grad_VD * loss_grad, None
