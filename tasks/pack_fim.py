"""Pack token ids into sequences of one length, with fill-in-the-middle, keeping where every token came from.

Reads   Tokens     doc_id, repo, kind, metadata, tokens
        Tokenizer
Writes  Packed     sequence, split = train | heldout, tokens
        Spans      sequence, token_start, token_end, doc_id, byte_start, byte_end, role
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from lineage.errors import InputError
from tasks._stage import Config, Runtime, stage
from tasks.schemas import Packed, Spans, Tokenizer, Tokens

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import tokenizers

    from tasks.kernels.byte_level import TokenBytes
    from tasks.kernels.packing import Layout, Pieces


class PackFim(Config):
    """Knobs of `pack_fim`."""

    sequence_length: int = Field(default=2048, ge=1)
    """Tokens of a packed sequence."""
    fim_rate: float = Field(default=0.5, ge=0, le=1)
    """Chance of a document to be written for fill-in-the-middle."""
    spm_rate: float = Field(default=0.5, ge=0, le=1)
    """Chance of such a document to be written suffix first (SPM) rather than prefix first (PSM)."""
    fim_kinds: tuple[str, ...] = ("code",)
    """Kinds of document that fill-in-the-middle is for."""
    heldout_fraction: float = Field(default=0.02, ge=0, lt=1)
    """Share of repositories kept from training, to measure the loss on; never written for fill-in-the-middle."""
    seed: int = 0
    """Seed of the draws, which depend on nothing else but the document (or, for the split, its repository)."""


class _Plan(NamedTuple):
    """What becomes of each document of a part; all but the draws of shape [documents]."""

    is_heldout: np.ndarray
    is_fim: np.ndarray
    is_spm: np.ndarray
    cut_draws: np.ndarray
    """uint64 [documents, 2]."""
    position: np.ndarray
    """Place of the document in the order of packing."""


@stage(libraries=("tokenizers",))
def pack_fim(tokens: Tokens, tokenizer: Tokenizer, cfg: PackFim, runtime: Runtime) -> tuple[Packed, Spans]:
    """Pack one part."""
    import os

    import numpy as np
    import pyarrow as pa

    from tasks.kernels import special_tokens
    from tasks.kernels.byte_level import load, token_bytes
    from tasks.kernels.packing import Pieces, lay_out

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # parts already keep every core busy; the ids are the same
    model = load(tokenizer.path)
    spelled = token_bytes(model)
    dtype = np.uint16 if len(spelled.lengths) <= 1 << 16 else np.uint32
    (pad,) = _ids(model, special_tokens.FIM_PAD)
    table = tokens.read(["doc_id", "repo", "kind", "metadata", "tokens"])
    plan = _decide(table, cfg)
    pool, pieces = _pieces(table, plan, model, spelled)
    packed, spans, num_sequences = [], [], 0
    for split, wanted in (("train", False), ("heldout", True)):
        chosen = plan.is_heldout[pieces.doc] == wanted
        layout = lay_out(pool, Pieces(*(array[chosen] for array in pieces)), spelled.lengths, cfg.sequence_length, pad, dtype)
        layout.spans[:, 0] += num_sequences
        packed.append(_packed_table(layout, split, num_sequences))
        spans.append(_spans_table(layout, table.column("doc_id")))
        num_sequences += len(layout.tokens)
    runtime.note(documents=len(table), fim_documents=int(plan.is_fim.sum()), heldout_documents=int(plan.is_heldout.sum()))
    return Packed.of(pa.concat_tables(packed)), Spans.of(pa.concat_tables(spans))


def _ids(model: tokenizers.Tokenizer, *names: str) -> list[int]:
    """Ids of special tokens, without which nothing can be packed."""
    ids = {name: model.token_to_id(name) for name in names}
    missing = [name for name, index in ids.items() if index is None]
    if missing:
        raise InputError(
            f"the tokenizer has no {', '.join(missing)}, which packing needs",
            hint="use a tokenizer with StarCoder's special tokens, such as train_tokenizer makes",
        )
    return [index for index in ids.values() if index is not None]


def _decide(table: pa.Table, cfg: PackFim) -> _Plan:
    """Decide each document's fate from seed and name alone, so that no cut of the corpus changes it."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from tasks.kernels.draws import draw, happens

    doc_ids = table.column("doc_id")
    is_heldout = happens(draw(table.column("repo"), cfg.seed, "heldout")[:, 0], cfg.heldout_fraction)
    draws = draw(doc_ids, cfg.seed, "fim, epoch 0", 4)
    may = np.asarray(pc.is_in(table.column("kind"), pa.array(cfg.fim_kinds, pa.string())))
    has_text = np.asarray(pc.list_value_length(table.column("tokens"))) > 0
    is_fim = happens(draws[:, 0], cfg.fim_rate) & may & has_text & ~is_heldout
    position = np.empty(len(table), np.int64)
    position[np.argsort(draw(doc_ids, cfg.seed, "order")[:, 0], kind="stable")] = np.arange(len(table))
    return _Plan(is_heldout, is_fim, happens(draws[:, 1], cfg.spm_rate), draws[:, 2:], position)


def _pieces(table: pa.Table, plan: _Plan, model: tokenizers.Tokenizer, spelled: TokenBytes) -> tuple[np.ndarray, Pieces]:
    """Give the pieces of all documents in the order of packing, and the pool of tokens that they point into."""
    import numpy as np

    from tasks.kernels import special_tokens
    from tasks.kernels.byte_level import Ragged, encode_texts, splits_like_starcoder
    from tasks.kernels.fim import Sentinels, arrange, cut
    from tasks.kernels.packing import EOD, METADATA, NOWHERE, TEXT, in_order, runs

    text, metadata = Ragged.of(table.column("tokens")), Ragged.of(table.column("metadata"))
    fim, plain = np.flatnonzero(plan.is_fim), np.flatnonzero(~plan.is_fim)
    cuts = cut(text, spelled, fim, plan.cut_draws[fim], has_joints=splits_like_starcoder(model))
    snippets = encode_texts(model, cuts.snippets)
    names = (special_tokens.FIM_PREFIX, special_tokens.FIM_MIDDLE, special_tokens.FIM_SUFFIX, special_tokens.END_OF_TEXT)
    sources = [text.values, metadata.values, snippets.values, np.array(_ids(model, *names), np.uint32)]
    metadata_at, snippets_at, sentinels_at = np.cumsum([len(source) for source in sources[:-1]]).tolist()
    sentinels = Sentinels(*range(sentinels_at, sentinels_at + len(names)))
    every, begins, ends = np.arange(len(table)), metadata.offsets[:-1] + metadata_at, metadata.offsets[1:] + metadata_at
    groups = [
        runs(every, METADATA, NOWHERE, begins, ends),
        runs(plain, TEXT, 0, text.offsets[plain], text.offsets[plain + 1]),
        arrange(fim, cuts, snippets, snippets_at, plan.is_spm[fim], sentinels),
        runs(every, EOD, NOWHERE, sentinels.eod, sentinels.eod + 1),
    ]
    return np.concatenate(sources), in_order(groups, plan.position)


def _packed_table(layout: Layout, split: str, first: int) -> pa.Table:
    """Give the rows of Packed, numbered from `first`."""
    import numpy as np
    import pyarrow as pa

    num, length = layout.tokens.shape
    offsets = pa.array(np.arange(num + 1, dtype=np.int32) * length)
    tokens = pa.ListArray.from_arrays(offsets, pa.array(layout.tokens.reshape(-1)))
    return pa.table({"sequence": np.arange(first, first + num), "split": pa.repeat(split, num), "tokens": tokens})


def _spans_table(layout: Layout, doc_ids: pa.ChunkedArray) -> pa.Table:
    """Give the rows of Spans."""
    import pyarrow as pa

    from tasks.kernels.packing import NOWHERE, ROLES, SPAN_COLUMNS

    columns = dict(zip(SPAN_COLUMNS, layout.spans.T, strict=True))
    doc = columns.pop("doc")
    nullable = {name: pa.array(columns[name], mask=columns[name] == NOWHERE) for name in ("byte_start", "byte_end")}
    names = {"doc_id": doc_ids.take(pa.array(doc, mask=doc == NOWHERE)), "role": pa.array(ROLES).take(pa.array(columns["role"]))}
    return pa.table({**columns, **nullable, **names}).select(Spans.SCHEMA.names).cast(Spans.SCHEMA)
