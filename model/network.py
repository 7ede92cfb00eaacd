"""The network: a decoder-only transformer, the one StarCoder is made of, or the one StarCoder2 is.

What both have: LayerNorm with bias before each half of a block and at the end; biases everywhere; an MLP four times the
width, with GELU in its tanh form (GPT-2). Where they differ:

                    StarCoder (gpt_bigcode)                        StarCoder2 (starcoder2)
    positions       learned, added to the embeddings               rotation of queries and keys (Su et al. 2021, arXiv 2104.09864)
    attention       one key and value head for all query heads     one for each group of query heads
                    (Shazeer 2019, arXiv 1911.02150)               (Ainslie et al. 2023, arXiv 2305.13245)
    sees            every token before it                          those in a sliding window (Beltagy et al. 2020, arXiv 2004.05150)
    output matrix   the token embedding                            the token embedding; the 15B has its own

- First weights are normal(0, initializer_range), those of projections back into the residual stream smaller by sqrt(2 L), since
  2 L of them add up there; biases start at 0 (StarCoder's Megatron scripts: 1/sqrt(D)). Each is drawn by a generator of its own, so
  that a network can be made under `torch.device("meta")` and filled parameter by parameter, in any order, on any process.
- Query, key and value are one matrix, in this order: one product rather than three.
- Weights are kept in fp32. Where the caller opens `torch.autocast`, matrix products and the residual stream are in bf16, as they were in
  StarCoder's training; LayerNorm, softmax and the loss compute in fp32 whatever they read.

Shapes: a tensor's name ends in its dimensions.

    B  sequences of a batch      D  width of the residual stream      H  query heads           N  documents and one more
    T  tokens given now          F  inner width of the MLP            G  key and value heads   L  layers
    S  slots of the cache        V  vocabulary                        K  width of a head, D / H
"""

import hashlib
import math

import torch
import torch.nn.functional as F  # noqa: N812  # its name in every paper's code
from torch import Tensor, nn

from starloom.model.architecture import Architecture
from starloom.model.attention import Choice, Kernel, attend, attend_to_cache, kernel_for
from starloom.model.loss import IGNORE, summed_cross_entropy


def targets_of(tokens_BT: Tensor, pad_token: int | None, offsets_N: Tensor | None = None) -> Tensor:
    """Return the target of each position: the token after it, unless there is none, it is padding, or it is another document's."""
    targets_BT = torch.full_like(tokens_BT, IGNORE)
    targets_BT[:, :-1] = tokens_BT[:, 1:]
    if pad_token is not None:
        targets_BT[targets_BT == pad_token] = IGNORE
    if offsets_N is not None:
        targets_BT.view(-1)[offsets_N[1:].long() - 1] = IGNORE
    return targets_BT


def positions_of(tokens_BT: Tensor, offsets_N: Tensor | None) -> Tensor:
    """Return each token's position in its document, or in its sequence where no documents are told apart; BT."""
    B, T = tokens_BT.shape
    place_BT = torch.arange(B * T, device=tokens_BT.device).view(B, T)
    if offsets_N is None:
        return place_BT[:1].expand(B, T)
    document_BT = torch.searchsorted(offsets_N, place_BT, right=True) - 1
    return place_BT - offsets_N.long()[document_BT]


class Cache:
    """Keys and values of the tokens read so far; slot s holds position s of its row."""

    def __init__(self, architecture: Architecture, rows: int, slots: int, *, device: torch.device, dtype: torch.dtype) -> None:
        """Allocate `slots` tokens in each of `rows` rows."""
        shape = (architecture.num_layers, rows, slots, architecture.num_key_value_heads, architecture.head_width)
        self.key_LBSGK = torch.zeros(shape, device=device, dtype=dtype)
        self.value_LBSGK = torch.zeros(shape, device=device, dtype=dtype)
        self.rows_B1 = torch.arange(rows, device=device)[:, None]
        self.slots_S = torch.arange(slots, device=device)

    def write(self, layer: int, positions_BT: Tensor, key_BTGK: Tensor, value_BTGK: Tensor) -> tuple[Tensor, Tensor]:
        """Store what a layer computed for these positions; return all its slots."""
        key_BSGK, value_BSGK = self.key_LBSGK[layer], self.value_LBSGK[layer]
        key_BSGK[self.rows_B1, positions_BT] = key_BTGK.to(key_BSGK.dtype)
        value_BSGK[self.rows_B1, positions_BT] = value_BTGK.to(value_BSGK.dtype)
        return key_BSGK, value_BSGK

    def visible(self, positions_BT: Tensor, window: int | None) -> Tensor:
        """Return the slots that each token may see, BTS."""
        behind_BTS = positions_BT[:, :, None] - self.slots_S
        return behind_BTS >= 0 if window is None else (behind_BTS >= 0) & (behind_BTS < window)


class Rotation(nn.Module):
    """Rotary positions: pairs of a head's numbers turned by an angle that grows with the position."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.theta, self.head_width = architecture.rope_theta, architecture.head_width

    def forward(self, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of every angle, BT1 K/2, for all layers."""
        exponents = torch.arange(0, self.head_width, 2, device=positions_BT.device).float() / self.head_width
        angles = positions_BT[:, :, None, None].float() * (1.0 / self.theta**exponents)
        return angles.cos(), angles.sin()


def rotated(x_BTHK: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate queries or keys, number i with number i + K/2; computed in the precision of the angles, returned in that given."""
    cosine, sine = rotation
    first, second = x_BTHK.to(torch.promote_types(x_BTHK.dtype, cosine.dtype)).chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).to(x_BTHK.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention; one group is multi-query attention."""

    def __init__(self, architecture: Architecture, layer: int) -> None:
        super().__init__()
        self.layer, self.architecture = layer, architecture
        self.qkv = nn.Linear(architecture.width, architecture.width + 2 * architecture.key_value_width)
        self.out = nn.Linear(architecture.width, architecture.width)

    def forward(self, x_BTD: Tensor, context: "AttentionContext") -> Tensor:
        """Mix into each token what it looks at: the tokens given now, or with a cache those read so far."""
        shape, (B, T, D) = self.architecture, x_BTD.shape
        heads = self.qkv(x_BTD).view(B, T, -1, shape.head_width)
        query_BTHK, key_BTGK, value_BTGK = heads.split((shape.num_heads, shape.num_key_value_heads, shape.num_key_value_heads), dim=2)
        if context.rotation is not None:
            query_BTHK, key_BTGK = rotated(query_BTHK, context.rotation), rotated(key_BTGK, context.rotation)
        kept = context.cache.write(self.layer, context.positions_BT, key_BTGK, value_BTGK) if context.cache is not None else None
        if kept is None or context.visible_BTS is None:
            dropout = shape.dropout if self.training else 0.0
            y_BTHK = attend(
                query_BTHK, key_BTGK, value_BTGK, window=shape.window, offsets_N=context.offsets_N, dropout=dropout, kernel=context.kernel
            )
        else:
            key_BSGK, value_BSGK = (tensor.to(query_BTHK.dtype) for tensor in kept)
            y_BTHK = attend_to_cache(query_BTHK, key_BSGK, value_BSGK, context.visible_BTS)
        out_BTD: Tensor = self.out(y_BTHK.reshape(B, T, D))
        return out_BTD


class AttentionContext:
    """The positions, documents and cache that attention needs besides the tokens; the same for every layer."""

    def __init__(self, positions_BT: Tensor, offsets_N: Tensor | None, cache: Cache | None) -> None:
        self.positions_BT, self.offsets_N, self.cache = positions_BT, offsets_N, cache
        self.rotation: tuple[Tensor, Tensor] | None = None
        """Cosines and sines of the positions, where they are rotary."""
        self.visible_BTS: Tensor | None = None
        """The slots of the cache that each token may see; none where the tokens given now are the first, and see each other only."""
        self.kernel: Kernel = "sdpa"
        """The kernel for attention among the tokens given now."""


class MLP(nn.Module):
    """Two layers, applied to every token alone."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.approximate = "tanh" if architecture.activation == "gelu_tanh" else "none"
        self.up = nn.Linear(architecture.width, architecture.inner_width)
        self.down = nn.Linear(architecture.inner_width, architecture.width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Expand, apply GELU, project back."""
        out_BTD: Tensor = self.down(F.gelu(self.up(x_BTD), approximate=self.approximate))
        return out_BTD


class Block(nn.Module):
    """Attention, then MLP; each reads a normalised copy of the stream and adds to the stream."""

    def __init__(self, architecture: Architecture, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(architecture.width, eps=architecture.layer_norm_epsilon)
        self.attention = Attention(architecture, layer)
        self.ln_2 = nn.LayerNorm(architecture.width, eps=architecture.layer_norm_epsilon)
        self.mlp = MLP(architecture)
        self.dropout = nn.Dropout(architecture.dropout)

    def forward(self, x_BTD: Tensor, context: AttentionContext) -> Tensor:
        """Return the stream with this block's output added."""
        x_BTD = x_BTD + self.dropout(self.attention(self.ln_1(x_BTD), context))
        y_BTD: Tensor = x_BTD + self.dropout(self.mlp(self.ln_2(x_BTD)))
        return y_BTD


class GPT(nn.Module):
    """Tokens in, a distribution over the next token out."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.kernel: Choice = "auto"
        """The attention kernel to use."""
        self.wte = nn.Embedding(architecture.vocab_size, architecture.width)
        if architecture.has_learned_positions:
            self.wpe = nn.Embedding(architecture.context_tokens, architecture.width)
        else:
            self.rotation = Rotation(architecture)
        self.dropout = nn.Dropout(architecture.dropout)
        self.blocks = nn.ModuleList(Block(architecture, layer) for layer in range(architecture.num_layers))
        self.ln_f = nn.LayerNorm(architecture.width, eps=architecture.layer_norm_epsilon)
        if not architecture.tied_head:
            self.head = nn.Linear(architecture.width, architecture.vocab_size, bias=False)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.wte.weight.device

    @property
    def head_VD(self) -> Tensor:
        """The output matrix."""
        return self.wte.weight if self.architecture.tied_head else self.head.weight

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw the first weights."""
        for name, parameter in self.named_parameters():
            parameter.copy_(first_weight(self.architecture, seed, name, parameter.shape))

    def hidden(
        self, tokens_BT: Tensor, positions_BT: Tensor | None = None, cache: Cache | None = None, offsets_N: Tensor | None = None
    ) -> Tensor:
        """Return the input of the head, BTD.

        Args:
            tokens_BT: the tokens.
            positions_BT: where each stands; in its sequence, or its document, where none are given: nothing is before them then.
            cache: keys and values of the tokens before these; theirs are added.
            offsets_N: where documents begin that never see each other, as `attention` explains.
        """
        dtype = self._compute_dtype
        context = AttentionContext(positions_of(tokens_BT, offsets_N) if positions_BT is None else positions_BT, offsets_N, cache)
        context.kernel = self._kernel_for(tokens_BT.shape[1], dtype, is_in_documents=offsets_N is not None)
        if cache is not None and positions_BT is not None:
            context.visible_BTS = cache.visible(positions_BT, self.architecture.window)
        x_BTD: Tensor = self.wte(tokens_BT)
        if self.architecture.has_learned_positions:
            x_BTD = x_BTD + self.wpe(context.positions_BT)
        else:
            context.rotation = self.rotation(context.positions_BT)
        x_BTD = self.dropout(x_BTD.to(dtype))
        for block in self.blocks:
            x_BTD = block(x_BTD, context)
        y_BTD: Tensor = self.ln_f(x_BTD)
        return y_BTD

    @property
    def _compute_dtype(self) -> torch.dtype:
        """The dtype of matrix products under the current autocast."""
        device = self.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.wte.weight.dtype

    def _kernel_for(self, length: int, dtype: torch.dtype, *, is_in_documents: bool) -> Kernel:
        """Return the attention kernel for so many tokens."""
        dropout = self.architecture.dropout if self.training else 0.0
        is_plain = not is_in_documents and length <= (self.architecture.window or length)
        return kernel_for(self.kernel, self.device, dtype, dropout=dropout, is_plain=is_plain)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the score of every token of the vocabulary as the next one, in fp32."""
        return F.linear(hidden, self.head_VD).float()

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor, offsets_N: Tensor | None = None) -> Tensor:
        """Return the sum of the losses at the positions whose target is not `IGNORE`."""
        hidden_BTD = self.hidden(tokens_BT, offsets_N=offsets_N)
        return summed_cross_entropy(hidden_BTD.flatten(0, 1), self.head_VD, targets_BT.flatten())

    @torch.no_grad()
    def token_losses(self, tokens_BT: Tensor, targets_BT: Tensor, offsets_N: Tensor | None = None) -> Tensor:
        """Return the loss at each position, 0 where the target is `IGNORE`."""
        hidden_BTD = self.hidden(tokens_BT, offsets_N=offsets_N)
        rows = [
            F.cross_entropy(self.logits(hidden_TD), targets_T, ignore_index=IGNORE, reduction="none")
            for hidden_TD, targets_T in zip(hidden_BTD, targets_BT, strict=True)
        ]
        return torch.stack(rows)

    @torch.no_grad()
    def next_tokens(self, tokens_BT: Tensor, lasts_B: Tensor, cache: Cache, positions_BT: Tensor | None = None) -> Tensor:
        """Return the likeliest token after the one at `lasts_B` of each row, B; the rest is as for `hidden`."""
        hidden_BTD = self.hidden(tokens_BT, positions_BT, cache)
        return self.logits(hidden_BTD[cache.rows_B1[:, 0], lasts_B]).argmax(dim=-1)


def first_weight(architecture: Architecture, seed: int, name: str, shape: torch.Size) -> Tensor:
    """Return the initial value of one parameter, on the CPU so that it does not depend on the device."""
    if len(shape) == 1:
        return torch.ones(shape) if "ln_" in name and name.endswith("weight") else torch.zeros(shape)
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    smaller = math.sqrt(2 * architecture.num_layers) if name.endswith(("attention.out.weight", "mlp.down.weight")) else 1.0
    return torch.empty(shape).normal_(0.0, architecture.initializer_range / smaller, generator=generator)
