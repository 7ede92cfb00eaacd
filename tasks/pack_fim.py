"""Pack token ids into sequences of one length, with fill-in-the-middle, keeping where every token came from.

Reads   Tokens     doc_id, source, repo, language, kind, context, metadata, tokens
        Tokenizer
        Heldout    doc_id, repo, num_bytes: chosen once over the whole corpus, by the first half; a part is packed again only if what is
                   held out of it changes
Writes  Packed     sequence, split = train | heldout, tokens, starts: positions at which another context (or the padding) begins
        Spans      sequence, token_start, token_end, doc_id, copy, byte_start, byte_end, role, language

Held out are whole repositories, so many that their bytes come nearest to the share; single files where no repository is small enough.
No cluster of near-duplicates straddles the two splits: `near_dedup` leaves one file of each. Where a recipe has no near_dedup, a file
held out may have a twin in training.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from starloom.lineage.errors import InputError, did_you_mean
from starloom.tasks.frame.stage import Config, Runtime, prepare, stage
from starloom.tasks.schemas import Heldout, Packed, Spans, Tokenizer, Tokens

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from starloom.tasks.kernels.packing.fim import Stretches
    from starloom.tasks.kernels.packing.sequences import Layout, Pieces
    from starloom.tasks.kernels.packing.taking import Copies, Headers
    from starloom.tasks.kernels.tokens.encoding import TextEncoder

COLUMNS = ["doc_id", "source", "repo", "language", "kind", "context", "metadata", "tokens"]


class Mixture(Config):
    """Knobs of how often documents are taken in an epoch."""

    by: Literal["language", "source"] = "language"
    """The column whose values have weights."""
    weights: dict[str, Annotated[float, Field(ge=0, le=100)]] = Field(default={})
    """Times that a document is taken, by language or source; 2.3 is twice, and once more with probability 0.3. The others: once."""

    @model_validator(mode="after")
    def _known_languages(self) -> Mixture:
        if self.by == "language" and self.weights:  # else nothing is imported: the plan must load in milliseconds
            from starloom.tasks.kernels.languages.linguist import known_languages

            known = list(known_languages())
            for language in self.weights:
                if language not in known:
                    raise ValueError(f"unknown language {language!r}: {did_you_mean(language, known)}")
        return self


class HoldingOut(Config):
    """Knobs of which documents are kept from training."""

    heldout_fraction: float = Field(default=0.02, ge=0, lt=1)
    """Share of the text, in bytes, held out to measure the loss on: the whole repositories that come nearest to it, never over
    twice as much; never written for fill-in-the-middle."""
    seed: int = 0
    """Seed of the draws, which depend on nothing else but the document (or its context, or its repository) and the epoch."""


class PackFim(HoldingOut):
    """Knobs of `pack_fim`."""

    sequence_length: int = Field(default=2048, ge=1)
    """Tokens of a packed sequence."""
    packing: Literal["concatenate", "best_fit"] = "concatenate"
    """Concatenate contexts and cut; or best fit: keep whole those that fit a sequence, and split few to fill the gaps."""
    epochs: int = Field(default=1, ge=1, le=100)
    """Epochs: times that every document is taken, in another order and with other draws each time; held-out ones are taken once."""
    mixture: Mixture = Mixture()
    """Weights by language or source, times the epochs; held-out documents have none."""
    fim_level: Literal["document", "context"] = "document"
    """Apply fill-in-the-middle to whole documents before packing, or to their pieces in a sequence after it, as Megatron-LM does."""
    fim_rate: float = Field(default=0.5, ge=0, le=1)
    """Probability that fill-in-the-middle is applied to a document; to a context, where `<file_sep>` separates its files."""
    fragment_fim_rate: float = Field(default=0.5, ge=0, le=1)
    """Probability for each file of such a context."""
    spm_rate: float = Field(default=0.5, ge=0, le=1)
    """Probability that such a document or file is written suffix first (SPM) rather than prefix first (PSM)."""
    fim_kinds: tuple[str, ...] = ("code",)
    """Kinds of document that fill-in-the-middle is applied to; an empty list means all."""


NAMED, SHOWN_NAMES = 20, 3
"""Most held-out repositories named in the record, and in a line of text; the artifact has all."""


class _Measured(NamedTuple):
    """A part of Tokens, and the file for the bytes of its documents: so that workers can share the parts."""

    tokens: Tokens
    tokenizer: Path
    file: Path


@prepare(over="whole", libraries=("tokenizers",))
def held_out(tokens: Tokens, tokenizer: Tokenizer, cfg: HoldingOut, runtime: Runtime) -> Heldout:
    """Choose what is held out of the whole corpus: repositories, or files where each repository is over twice the share."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not cfg.heldout_fraction:
        runtime.tell("nothing is held out: heldout_fraction is 0")
        return Heldout.of_parts([Heldout.SCHEMA.empty_table()] * len(tokens.parts))
    parts = [_Measured(part, tokenizer.path, runtime.scratch / f"{number}.parquet") for number, part in enumerate(tokens.parts)]
    groups = _by_repo(pa.concat_tables([_by_repo(Heldout.SCHEMA.empty_table()), *runtime.map(_measured, parts)]))
    unit, is_chosen = "repo", _is_chosen(groups, cfg)
    if len(groups) and not is_chosen.any():  # one repository, or none small enough
        unit = "doc_id"
        groups = pa.concat_tables([pq.read_table(part.file, columns=["doc_id", "num_bytes"]) for part in parts])
        is_chosen = _is_chosen(groups, cfg)
    names = groups.column(unit).filter(pa.array(is_chosen))
    found = []
    for part in parts:
        table = pq.read_table(part.file)
        found.append(table.filter(pc.is_in(table.column(unit), names.combine_chunks())))
        part.file.unlink()
    _tell_held_out(pa.concat_tables([Heldout.SCHEMA.empty_table(), *found]), groups, unit, cfg, runtime)
    return Heldout.of_parts(found)


def _measured(part: _Measured) -> pa.Table:
    """Write the bytes of each document of a part into its file, and return the sums: repo, num_bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from starloom.tasks.kernels.packing.holding_out import spelled_bytes
    from starloom.tasks.kernels.tokens.byte_level import Ragged, load, token_bytes

    table = part.tokens.read(["doc_id", "repo", "tokens"])
    num_bytes = spelled_bytes(*Ragged.of(table.column("tokens")), token_bytes(load(part.tokenizer)).lengths)
    table = pa.table([table.column("doc_id"), table.column("repo"), pa.array(num_bytes)], schema=Heldout.SCHEMA)
    pq.write_table(table, part.file)
    return _by_repo(table)


def _by_repo(table: pa.Table) -> pa.Table:
    """Sum the bytes of each repository, in order of name: repo, num_bytes."""
    sums = table.group_by("repo", use_threads=False).aggregate([("num_bytes", "sum")]).sort_by("repo")
    return sums.rename_columns({"num_bytes_sum": "num_bytes"})


def _is_chosen(groups: pa.Table, cfg: HoldingOut) -> NDArray[np.bool_]:
    """Choose which groups (a name, num_bytes) are held out, bool [groups]."""
    from starloom.tasks.kernels.packing.holding_out import hold_out

    names, num_bytes = groups.columns
    return hold_out(names, num_bytes.to_numpy(), cfg.heldout_fraction, cfg.seed)


def _tell_held_out(found: pa.Table, groups: pa.Table, unit: str, cfg: HoldingOut, runtime: Runtime) -> None:
    """Record what is held out, and report it with the step, above all where it is nothing."""
    import pyarrow.compute as pc

    names = sorted(found.column("repo").unique().to_pylist())
    num_bytes, total = (pc.sum(table.column("num_bytes"), min_count=0).as_py() for table in (found, groups))
    share = num_bytes / total if total else 0.0
    runtime.note(
        held_out={
            "by": "repository" if unit == "repo" else "file",
            "repositories": len(names),
            "names": names[:NAMED],
            "documents": len(found),
            "bytes": num_bytes,
            "of_bytes": total,
            "share": round(share, 6),
        }
    )
    size = f"{num_bytes:,} bytes, {share:.3g} of the text (asked for: {cfg.heldout_fraction:.3g})"
    named = ", ".join(names[:SHOWN_NAMES]) + (", …" if len(names) > SHOWN_NAMES else "")
    if len(found) and unit == "repo":
        runtime.tell(f"held out: {len(names):,} of {len(groups):,} repositories ({named}): {size}")
    elif len(found):
        why = "each repository is over twice the share" if len(names) > 1 else f"of {named}"
        runtime.tell(f"held out: {len(found):,} of {len(groups):,} files, {why}: {size}")
    else:
        sizes = groups.column("num_bytes").filter(pc.greater(groups.column("num_bytes"), 0))
        smallest = f"the smallest file, {pc.min(sizes).as_py() or 0:,} bytes, is over twice the share"
        why = {0: "there is no text", 1: "it is one file"}.get(len(sizes), smallest)
        runtime.tell(f"nothing is held out of {total:,} bytes of text: {why} (asked for: {cfg.heldout_fraction:.3g})")


class _Vocabulary(NamedTuple):
    """The encoder, and the special ids that packing needs."""

    encoder: TextEncoder
    special: NDArray[np.uint32]
    """Ids of prefix, middle, suffix and end of text, as `Sentinels` orders them."""
    pad: int
    separator: int | None
    """Id of `<file_sep>`, if there is one."""


class _Part(NamedTuple):
    """The documents of a part, as often as they are taken, in the order of packing."""

    table: pa.Table
    copies: Copies
    is_heldout: NDArray[np.bool_]
    """[copies]"""
    may_fim: NDArray[np.bool_]
    """Copies that fill-in-the-middle may be applied to: bool [copies]."""
    draws: NDArray[np.uint64]
    """Of the copy: rate, SPM, two cuts; uint64 [copies, 4]."""
    context_draws: NDArray[np.uint64]
    """Of its context: uint64 [copies, 1]."""


@stage(libraries=("tokenizers",), prepare=held_out)
def pack_fim(tokens: Tokens, tokenizer: Tokenizer, heldout: Heldout, cfg: PackFim, runtime: Runtime) -> tuple[Packed, Spans]:
    """Pack one part."""
    import pyarrow as pa

    from starloom.tasks.kernels.packing.sequences import chosen

    vocabulary, table, counts = _vocabulary(tokenizer), tokens.read(COLUMNS), Counter[str]()
    _check_ids(table, len(vocabulary.encoder.spelled.lengths))
    part = _taken(table, heldout.read(["doc_id"]).column("doc_id"), cfg)
    pool, pieces = _documents(part, vocabulary, cfg, counts)
    packed, spans, num_sequences = [], [], 0
    for split, wanted in (("train", False), ("heldout", True)):
        layout = _layout(pool, chosen(pieces, part.is_heldout[pieces.doc] == wanted), part, vocabulary, cfg, counts)
        packed.append(_packed_table(layout, part.copies.context, split, num_sequences))
        spans.append(_spans_table(layout, part, num_sequences))
        num_sequences += len(layout.tokens)
    _check(counts, num_sequences * cfg.sequence_length)
    runtime.count(heldout_documents=int(part.is_heldout.sum()), **counts)
    return Packed.of(pa.concat_tables(packed)), Spans.of(pa.concat_tables(spans))


def _vocabulary(tokenizer: Tokenizer) -> _Vocabulary:
    import numpy as np

    from starloom.tasks.kernels.tokens import special_tokens as names
    from starloom.tasks.kernels.tokens.encoding import open_encoder

    encoder = open_encoder(tokenizer.path)
    needed = (names.FIM_PREFIX, names.FIM_MIDDLE, names.FIM_SUFFIX, names.END_OF_TEXT, names.FIM_PAD)
    ids = {name: encoder.tokenizer.token_to_id(name) for name in needed}
    missing = [name for name, index in ids.items() if index is None]
    if missing:
        raise InputError(
            f"the tokenizer has no {', '.join(missing)}, which packing needs",
            hint="use a tokenizer with StarCoder's special tokens, such as train_tokenizer makes",
        )
    *special, pad = (index for index in ids.values() if index is not None)
    separator = encoder.tokenizer.token_to_id(names.REPOSITORY_FIELDS[1])
    return _Vocabulary(encoder, np.array(special, np.uint32), pad, separator)


def _check_ids(table: pa.Table, vocab_size: int) -> None:
    import pyarrow.compute as pc

    for name in ("tokens", "metadata"):
        highest = pc.max(pc.list_flatten(table.column(name))).as_py() or 0
        if highest >= vocab_size:
            raise _foreign(f"{name} hold the id {highest}, but its ids are below {vocab_size}")


def _foreign(why: str) -> InputError:
    return InputError(f"these tokens are from another tokenizer: {why}", hint="give pack_fim the tokenizer of encode")


def _taken(table: pa.Table, heldout: pa.ChunkedArray, cfg: PackFim) -> _Part:
    """Decide each document's fate from seed, names and epoch alone, so that no cut of the corpus changes it.

    Args:
        table: the documents.
        heldout: the doc_ids of those that are held out.
        cfg: the knobs.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from starloom.tasks.kernels.packing.taking import draws_of_copies, split_contexts, take

    is_heldout = np.asarray(pc.is_in(table.column("doc_id"), heldout.combine_chunks()))
    table = table.set_column(table.column_names.index("context"), "context", split_contexts(table.column("context"), is_heldout))
    doc_ids, contexts = table.column("doc_id"), table.column("context")
    weights = np.ones(len(table))
    for name, weight in cfg.mixture.weights.items():
        weights[np.asarray(pc.fill_null(pc.equal(table.column(cfg.mixture.by), name), fill_value=False))] = weight
    copies = take(np.where(is_heldout, 1, cfg.epochs * weights), doc_ids, contexts, cfg.seed)
    is_heldout = is_heldout[copies.row]
    may_fim = ~is_heldout
    if cfg.fim_kinds:
        may_fim &= np.asarray(pc.is_in(table.column("kind"), pa.array(cfg.fim_kinds, pa.string())))[copies.row]
    draws = draws_of_copies(doc_ids, copies, cfg.seed, "fim", 4)
    return _Part(table, copies, is_heldout, may_fim, draws, draws_of_copies(contexts, copies, cfg.seed, "fim of context", 1))


def _documents(part: _Part, vocabulary: _Vocabulary, cfg: PackFim, counts: Counter[str]) -> tuple[NDArray[np.unsignedinteger], Pieces]:
    """Return the pieces of all copies in the order of packing, and the pool of tokens that they point into."""
    import numpy as np

    from starloom.tasks.kernels.packing.fim import Stretches
    from starloom.tasks.kernels.packing.roles import EOD, METADATA, TEXT
    from starloom.tasks.kernels.packing.sequences import NOWHERE, in_order, runs
    from starloom.tasks.kernels.packing.taking import headers
    from starloom.tasks.kernels.tokens.byte_level import Ragged

    text, metadata = Ragged.of(part.table.column("tokens")), Ragged.of(part.table.column("metadata"))
    row, header = part.copies.row, headers(metadata, part.table.column("context"), vocabulary.separator)
    is_fim = part.may_fim & (text.offsets[row] < text.offsets[row + 1]) & (cfg.fim_level == "document")
    is_fim &= _is_drawn(part.draws, part.context_draws, header.has_separator[row], cfg)
    fim, plain = np.flatnonzero(is_fim), np.flatnonzero(~is_fim)
    stretches, no_bytes = Stretches.whole(text, row[fim]), np.zeros(len(fim), np.int64)
    pool, arranged = _arranged([text.values, metadata.values], stretches, fim, no_bytes, part.draws[fim], cfg, vocabulary)
    eod = len(pool) - 1
    first = np.flatnonzero(np.diff(part.copies.context, prepend=-1))
    last, namer = np.append(first[1:], len(row))[: len(first)] - 1, header.first_row[row[first]]
    begin, end = metadata.offsets[:-1] + len(text.values), metadata.offsets[1:] + len(text.values)
    body = begin + header.length
    groups = [
        runs(first, METADATA, NOWHERE, begin[namer], body[namer]),
        runs(np.arange(len(row)), METADATA, NOWHERE, body[row], end[row]),
        runs(plain, TEXT, 0, text.offsets[row[plain]], text.offsets[row[plain] + 1]),
        arranged,
        runs(last, EOD, NOWHERE, eod, eod + 1),
    ]
    _count_taken(part.copies, header, first, np.diff(text.offsets) + np.diff(metadata.offsets), counts)
    counts.update(_growth(stretches, arranged))
    counts.update(tokens_of_template=len(last))  # the ends of text
    return pool, in_order(groups)


def _is_drawn(
    draws: NDArray[np.uint64], context_draws: NDArray[np.uint64], has_separator: NDArray[np.bool_], cfg: PackFim
) -> NDArray[np.bool_]:
    """Draw what is permuted: each by itself, but where files are parted first their context and then the file."""
    import numpy as np

    from starloom.tasks.kernels.text.draws import happens

    fragment = happens(context_draws[:, 0], cfg.fim_rate) & happens(draws[:, 0], cfg.fragment_fim_rate)
    return np.where(has_separator, fragment, happens(draws[:, 0], cfg.fim_rate))


def _arranged(
    sources: list[NDArray[np.unsignedinteger]],
    stretches: Stretches,
    docs: NDArray[np.int64],
    byte_start: NDArray[np.int64],
    draws: NDArray[np.uint64],
    cfg: PackFim,
    vocabulary: _Vocabulary,
) -> tuple[NDArray[np.unsignedinteger], Pieces]:
    """Cut stretches of the first source where the draws say, and put their pieces in order.

    Returns:
        A pool that begins with the sources and ends with the end of text, and the pieces.
    """
    import numpy as np

    from starloom.tasks.kernels.packing.fim import Sentinels, arrange, cut
    from starloom.tasks.kernels.text.draws import happens

    try:
        cuts = cut(sources[0], stretches, vocabulary.encoder.spelled, draws[:, 2:], has_joints=vocabulary.encoder.not_covered is None)
    except ValueError as error:
        raise _foreign(str(error)) from error
    encoded = vocabulary.encoder.encode(cuts.snippets)
    encoded_at = sum(map(len, sources))
    special_at = encoded_at + len(encoded.values)
    sentinels = Sentinels(*range(special_at, special_at + len(vocabulary.special)))
    pieces = arrange(docs, byte_start, cuts, encoded, encoded_at, happens(draws[:, 1], cfg.spm_rate), sentinels)
    return np.concatenate([*sources, encoded.values, vocabulary.special]), pieces


def _layout(
    pool: NDArray[np.unsignedinteger], pieces: Pieces, part: _Part, vocabulary: _Vocabulary, cfg: PackFim, counts: Counter[str]
) -> Layout:
    """Lay the pieces of one split into sequences."""
    import numpy as np

    from starloom.tasks.kernels.packing.best_fit import best_fit, sliced
    from starloom.tasks.kernels.packing.roles import PAD
    from starloom.tasks.kernels.packing.sequences import lay_out

    dtype: type[np.unsignedinteger] = np.uint16 if len(vocabulary.encoder.spelled.lengths) <= 1 << 16 else np.uint32
    lay = partial(
        lay_out, token_num_bytes=vocabulary.encoder.spelled.lengths, sequence_length=cfg.sequence_length, pad=vocabulary.pad, dtype=dtype
    )
    if cfg.packing == "best_fit":
        is_new = np.diff(part.copies.context[pieces.doc], prepend=-1) > 0
        sizes = np.bincount(np.cumsum(is_new) - 1, pieces.stop - pieces.start).astype(np.int64)
        slices = best_fit(sizes, part.copies.epoch[pieces.doc[is_new]], cfg.sequence_length)
        pieces = sliced(pool, pieces, slices, vocabulary.encoder.spelled.lengths)
    layout = lay(pool, pieces)
    if cfg.fim_level == "context":
        layout = lay(*_permuted(layout, part, vocabulary, cfg, counts))
    is_pad, lengths = layout.spans[:, -1] == PAD, layout.spans[:, 2] - layout.spans[:, 1]
    counts.update(tokens_packed=int(lengths[~is_pad].sum()), pad_tokens=int(lengths[is_pad].sum()))
    return layout


def _permuted(
    layout: Layout, part: _Part, vocabulary: _Vocabulary, cfg: PackFim, counts: Counter[str]
) -> tuple[NDArray[np.unsignedinteger], Pieces]:
    """Permute what each sequence holds of a document, as Megatron-LM does; what then has no room in it is dropped."""
    from starloom.tasks.kernels.packing.segments import permute, texts_of
    from starloom.tasks.kernels.packing.taking import further

    texts = texts_of(layout, part.copies.context, vocabulary.separator, vocabulary.encoder.spelled)
    draws = further(part.draws[texts.doc], texts.number)
    is_fim = _is_drawn(draws, further(part.context_draws[texts.doc], texts.segment_number), texts.has_separator, cfg)
    is_fim &= part.may_fim[texts.doc] & (texts.byte_start < texts.byte_end)
    texts = texts.chosen(is_fim)
    pool, arranged = _arranged([layout.tokens.reshape(-1)], texts.stretches, texts.span, texts.byte_start, draws[is_fim], cfg, vocabulary)
    permuted = permute(layout, texts, arranged)
    counts.update(tokens_dropped_for_room=permuted.num_dropped, **_growth(texts.stretches, arranged, permuted.is_permuted))
    return pool, permuted.pieces


def _growth(stretches: Stretches, arranged: Pieces, which: NDArray[np.bool_] | slice = slice(None)) -> dict[str, int]:
    """Count what arranging added to those of the stretches: sentinels, and tokens as pieces are encoded by themselves."""
    from starloom.tasks.kernels.packing.fim import NUM_PIECES, NUM_SENTINELS

    num_tokens = (arranged.stop - arranged.start).reshape(-1, NUM_PIECES).sum(axis=1)
    growth = (num_tokens - (stretches.last - stretches.first))[which]
    num_sentinels = NUM_SENTINELS * len(growth)
    return {"fim_texts": len(growth), "tokens_of_template": num_sentinels, "tokens_of_resplitting": int(growth.sum()) - num_sentinels}


def _count_taken(copies: Copies, header: Headers, first: NDArray[np.int64], num_tokens: NDArray[np.int64], counts: Counter[str]) -> None:
    """Count the tokens that came in, and those taken again or not at all.

    Args:
        copies: what is taken.
        header: of each document, what of it is its context's.
        first: the first copy of each context.
        num_tokens: of each document, int64 [documents].
        counts: what to add to.
    """
    import numpy as np

    own, namer = num_tokens - header.length, header.first_row[copies.row[first]]
    is_taken, is_named = np.zeros((2, len(own)), bool)
    is_taken[copies.row], is_named[namer] = True, True
    again = own[copies.row[copies.epoch > 0]].sum() + header.length[namer[copies.epoch[first] > 0]].sum()
    counts.update(
        documents=len(own),
        documents_dropped_by_mixture=int((~is_taken).sum()),
        copies=len(copies.row),
        contexts=len(first),
        tokens_in=int(num_tokens.sum()),
        tokens_repeated=int(again),
        tokens_dropped_by_mixture=int(own[~is_taken].sum() + header.length[~is_named].sum()),
        tokens_dropped_for_room=0,
    )


def _check(counts: Counter[str], num_places: int) -> None:
    """Check the invariant: every token that came in, or was added, is in a sequence or counted as dropped."""
    given = sum(counts[f"tokens_{name}"] for name in ("in", "repeated", "of_template", "of_resplitting"))
    found = sum(counts[f"tokens_{name}"] for name in ("packed", "dropped_by_mixture", "dropped_for_room"))
    assert given == found, f"of {given} tokens {found} are accounted for: {dict(counts)}"
    assert counts["tokens_packed"] + counts["pad_tokens"] == num_places, f"{num_places} places hold other tokens: {dict(counts)}"


def _packed_table(layout: Layout, context: NDArray[np.int64], split: str, first: int) -> pa.Table:
    """Return the rows of Packed, numbered from `first`."""
    import numpy as np
    import pyarrow as pa

    from starloom.tasks.kernels.packing.sequences import context_starts

    num, length = layout.tokens.shape
    starts = context_starts(layout, context)
    columns = {
        "sequence": np.arange(first, first + num),
        "split": pa.repeat(split, num),
        "tokens": pa.ListArray.from_arrays(np.arange(num + 1, dtype=np.int32) * length, pa.array(layout.tokens.reshape(-1))),
        "starts": pa.ListArray.from_arrays(starts.offsets, starts.positions),
    }
    return pa.table(columns)


def _spans_table(layout: Layout, part: _Part, first: int) -> pa.Table:
    """Return the rows of Spans, sequences numbered from `first`."""
    import numpy as np
    import pyarrow as pa

    from starloom.tasks.kernels.packing.roles import ROLES
    from starloom.tasks.kernels.packing.sequences import NOWHERE, SPAN_COLUMNS

    columns = dict(zip(SPAN_COLUMNS, layout.spans.T, strict=True))
    doc, columns["sequence"] = columns.pop("doc"), columns["sequence"] + first
    columns["copy"] = np.append(part.copies.epoch, NOWHERE)[doc]  # NOWHERE, -1, is also the place of the last
    nullable = {name: pa.array(columns[name], mask=columns[name] == NOWHERE) for name in ("copy", "byte_start", "byte_end")}
    row = np.append(part.copies.row, NOWHERE)[doc]
    documents = part.table.select(["doc_id", "language"]).take(pa.array(row, mask=row == NOWHERE))
    names = {"role": pa.array(ROLES).take(pa.array(columns["role"])), **dict(zip(documents.column_names, documents.columns, strict=True))}
    return pa.table({**columns, **nullable, **names}).select(Spans.SCHEMA.names).cast(Spans.SCHEMA)
