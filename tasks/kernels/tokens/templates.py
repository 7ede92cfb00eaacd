r"""The metadata templates of StarCoder and StarCoder2, and the files that form one context.

Sources: StarCoder, bigcode-dataset preprocessing/add_content_with_meta.py: `<reponame>REPO<filename>PATH<gh_stars>BUCKET`
and a line feed, each field drawn by itself. StarCoder2, arXiv 2402.19173 section 5.1: the files of a repository in
random order, `<repo_name>REPO<file_sep>PATH\nTEXT<file_sep>PATH\nTEXT…`, or without names `<file_sep>TEXT<file_sep>TEXT…`,
drawn by repository.
Guarantee: what stands before a file depends on the seed, the file and (StarCoder2) the other files of its repository.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from starloom.tasks.kernels.text.draws import draw, happens
from starloom.tasks.kernels.tokens.special_tokens import METADATA_FIELDS, REPOSITORY_FIELDS, star_bucket

if TYPE_CHECKING:
    from collections.abc import Sequence

_Int64s = NDArray[np.int64]
_Flags = NDArray[np.bool_]


class Fields(NamedTuple):
    """Fields of a template, those of one document one after the other: a special token and the text that follows it."""

    row: _Int64s
    """The document, ascending: int64 [fields]."""
    special: _Int64s
    """Position in the template's special tokens: int64 [fields]."""
    text: pa.Array
    """string [fields]."""


SPECIAL_TOKENS = {"starcoder": METADATA_FIELDS, "starcoder2": REPOSITORY_FIELDS}


def starcoder(documents: pa.Table, seed: int, rate: float, kinds: Sequence[str]) -> Fields:
    """Draw StarCoder's fields.

    Args:
        documents: doc_id, kind, repo, path, stars; n rows.
        seed: of the draws.
        rate: chance of each field.
        kinds: that may carry fields.
    """
    drawn = happens(draw(documents.column("doc_id"), seed, "metadata", len(METADATA_FIELDS)), rate)
    row, field = np.nonzero(drawn & _is_file(documents, kinds)[:, None])
    stars = pa.array([star_bucket(stars) for stars in documents.column("stars").to_pylist()], pa.string())
    columns = pa.chunked_array([*documents.column("repo").chunks, *documents.column("path").chunks, stars])
    texts = columns.take(pa.array(field * documents.num_rows + row)).combine_chunks()
    is_last = np.append(row[1:] != row[:-1], True)[: len(row)]
    return Fields(row, field, pc.binary_join_element_wise(texts, _where(is_last, "\n"), ""))


def contexts(documents: pa.Table, seed: int, kinds: Sequence[str]) -> tuple[_Int64s, pa.Array]:
    """Put the files of each repository together, in random order.

    Args:
        documents: doc_id, source, kind, repo; n rows.
        seed: of the order.
        kinds: that are files of a repository; others are read alone.

    Returns:
        The rows in the order of reading, int64 [n], and in that order the name of the context of each.
    """
    repository = pc.binary_join_element_wise(documents.column("source"), documents.column("repo"), "/")
    context = pc.if_else(pa.array(_is_file(documents, kinds)), repository, documents.column("doc_id"))
    place = draw(documents.column("doc_id"), seed, "place in its repository")[:, 0]
    number = pc.dictionary_encode(context).combine_chunks().indices.to_numpy() if documents.num_rows else np.zeros(0, np.int64)
    order = np.lexsort((place, number))  # repositories as they come, for packing shuffles them
    return order, context.take(pa.array(order)).combine_chunks()


def starcoder2(documents: pa.Table, context: pa.Array, seed: int, rate: float, kinds: Sequence[str]) -> Fields:
    """Draw StarCoder2's fields.

    Args:
        documents: kind, repo, path; in the order of reading, n rows.
        context: of each, [n].
        seed: of the draws.
        rate: chance of a repository to be named, and its files with it.
        kinds: that are files of a repository; others carry nothing.
    """
    is_file = _is_file(documents, kinds)
    is_named = happens(draw(context, seed, "metadata")[:, 0], rate) & is_file
    number = context.dictionary_encode().indices.to_numpy() if len(context) else np.zeros(0, np.int64)
    is_first = np.append(True, number[1:] != number[:-1])[: len(context)]
    row, field = np.nonzero(np.stack([is_named & is_first, is_file], axis=1))
    names = _where(is_named, "\n")
    paths = pc.if_else(pa.array(is_named), pc.binary_join_element_wise(documents.column("path"), names, ""), "")
    columns = pa.chunked_array([*documents.column("repo").chunks, *_chunks(paths)])
    return Fields(row, field, columns.take(pa.array(field * documents.num_rows + row)).combine_chunks())


def _is_file(documents: pa.Table, kinds: Sequence[str]) -> _Flags:
    is_file: _Flags = pc.is_in(documents.column("kind"), pa.array(kinds, pa.string())).to_numpy().astype(bool)
    return is_file


def _where(flags: NDArray[np.bool_], text: str) -> pa.Array:
    return pa.array(["", text]).take(pa.array(flags.astype(np.int64)))


def _chunks(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]
