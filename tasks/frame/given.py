"""Validation of tables and folders that a user gives to a stage: converted to its schema, or refused with a message.

A column of another kind than it should be is an error that names it. Of documents, a row that lacks what every document has, or whose
text is no UTF-8, is dropped and kept as a row of Skipped: rule = null or undecodable, detail = the row and the column. Elsewhere rows
stand beside those of other files, so there such a row is an error. Widths are chosen here: any integer will do for an integer, binary
text for text.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from starloom.lineage import keys
from starloom.lineage.errors import InputError
from starloom.tasks.schemas import ONE_ROW_A_DOCUMENT, Checkpoint, Docs, Skipped, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starloom.lineage.views import Files, Tabular

SHOWN_COLUMNS = 8
NULL, UNDECODABLE = "null", "undecodable"
_TYPES = pa.types


def given_documents(table: pa.Table, path: Path) -> tuple[pa.Table, pa.Table]:
    """Return documents with all columns of Docs, derived from `content` or null where absent; and rows of Skipped for the others.

    Raises:
        InputError: if there is no `content`, a column is of another kind than it should be, or a doc_id is invalid or occurs twice.
    """
    _check_names(table, path)
    if "content" not in table.column_names:
        shown = ", ".join(table.column_names[:SHOWN_COLUMNS])
        raise InputError(f"{path} has no column `content`; it has {shown}", hint="rename the column that holds the text")
    if unknown := [name for name in table.column_names if name not in Docs.SCHEMA.names]:
        raise _misfit(Docs, path, f"unknown {unknown[:SHOWN_COLUMNS]}")
    reasons: dict[int, tuple[str, str]] = {}
    columns: dict[str, Any] = {}
    for field in Docs.SCHEMA:
        if field.name in table.column_names:
            columns[field.name], undecodable = _converted(Docs, field, table.column(field.name), path)
            reasons |= {row: (UNDECODABLE, field.name) for row in undecodable if row not in reasons}
            if not field.nullable:
                nulls = pc.indices_nonzero(pc.is_null(columns[field.name])).to_pylist()
                reasons |= {row: (NULL, field.name) for row in nulls if row not in reasons}
    texts = columns["content"].cast(pa.large_binary()).fill_null(b"").to_pylist()
    derived = _derived(texts, path.stem)
    for field in Docs.SCHEMA:
        if field.name not in columns:
            columns[field.name] = pa.array(derived.get(field.name, [None] * len(texts)), field.type)
    full = pa.table({name: columns[name] for name in Docs.SCHEMA.names})
    is_whole = pa.array([row not in reasons for row in range(len(texts))], pa.bool_())
    sizes = [len(text) for row, text in enumerate(texts) if row not in reasons]
    return _checked(full.filter(is_whole).cast(Docs.SCHEMA), sizes, path), _skipped(reasons, texts, path.stem)


def _derived(texts: list[bytes], name: str) -> dict[str, list[Any]]:
    """Derive a document's other columns from its text; places are the rows' numbers in the file."""
    rows = len(texts)
    return {
        "source": [name] * rows,
        "kind": ["code"] * rows,
        "repo": [name] * rows,
        "path": [f"{i:09}" for i in range(rows)],
        "size": [len(text) for text in texts],
        "swhid": ["swh:1:cnt:" + hashlib.sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False).hexdigest() for text in texts],
        "doc_id": [keys.digest([name, i])[:32] for i in range(rows)],
        "is_vendor": [False] * rows,
        "is_generated": [False] * rows,
        "is_documentation": [False] * rows,
    }


def _checked(docs: pa.Table, sizes: list[int], path: Path) -> pa.Table:
    hint = "rename the column or leave it out: ids are then made from the rows' numbers"
    ids = docs.column("doc_id")
    wrong = ids.filter(pc.invert(pc.match_substring_regex(ids, "^[0-9a-f]{32}$")))
    if len(wrong):
        raise InputError(
            f"{path} has the doc_id {wrong[0].as_py()!r}; a doc_id is 32 hex digits in lower case, by which stages join and sort", hint=hint
        )
    _check_each_once(Docs, ids, path)
    for size, num_bytes in zip(docs.column("size").to_pylist(), sizes, strict=True):
        if size != num_bytes:
            raise InputError(
                f"{path} gives a document the size {size}, but its content has {num_bytes} bytes",
                hint="rename the column or leave it out: sizes are then made from the content",
            )
    return docs


def _skipped(reasons: dict[int, tuple[str, str]], texts: list[bytes], name: str) -> pa.Table:
    rows = sorted(reasons)
    columns = {
        "source": [name] * len(rows),
        "repo": [name] * len(rows),
        "path": [f"{row:09}" for row in rows],
        "size": [len(texts[row]) for row in rows],
        "rule": [reasons[row][0] for row in rows],
        "value": [None] * len(rows),
        "threshold": [None] * len(rows),
        "detail": [f"row {row}: {reasons[row][1]}" for row in rows],
    }
    return pa.table(columns, Skipped.SCHEMA)


def given_rows(kind: type[Tabular], table: pa.Table, path: Path) -> pa.Table:
    """Return `table` with the columns of `kind`.

    Raises:
        InputError: if a column is missing, unknown or of another kind than it should be, or a row lacks what it needs.
    """
    _check_names(table, path)
    missing = [name for name in kind.SCHEMA.names if name not in table.column_names]
    extra = [name for name in table.column_names if name not in kind.SCHEMA.names]
    if missing or (extra and not kind.OPEN):
        raise _misfit(kind, path, f"missing {missing}, unknown {extra[:SHOWN_COLUMNS]}")
    columns = {name: table.column(name) for name in extra}
    for field in kind.SCHEMA:
        columns[field.name], undecodable = _converted(kind, field, table.column(field.name), path)
        if undecodable:
            raise _misfit(kind, path, f"row {undecodable[0]} of {field.name} is not UTF-8")
        if not field.nullable and columns[field.name].null_count:
            row = pc.index(pc.is_null(columns[field.name]), value=True).as_py()
            raise _misfit(kind, path, f"row {row} of {field.name} is null")
    conformed = kind.conform(pa.table(columns))
    if kind in ONE_ROW_A_DOCUMENT:
        _check_each_once(kind, conformed.column("doc_id"), path)
    return conformed


def _check_each_once(kind: type[Tabular], ids: pa.ChunkedArray, path: Path) -> None:
    counted = ids.value_counts()
    if len(counted) < len(ids):
        values, counts = counted.field("values"), counted.field("counts")
        row = pc.index(pc.greater(counts, 1), value=True).as_py()
        raise InputError(
            f"{path} has {counts[row]} rows of the doc_id {values[row].as_py()!r}; {kind.__name__} has one of each, to join by",
            hint="give each document an id of its own" + (", or leave the column out: ids are then made" if kind is Docs else ""),
        )


def _check_names(table: pa.Table, path: Path) -> None:
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise InputError(f"{path} has more than one column `{twice[0]}`", hint="leave one of them")


def _misfit(kind: type[Tabular], path: Path, why: str) -> InputError:
    return InputError(f"{path} does not fit the columns of {kind.__name__}: {why}", hint=f"they are {', '.join(kind.SCHEMA.names)}")


def _converted(kind: type[Tabular], field: pa.Field, column: pa.ChunkedArray, path: Path) -> tuple[pa.ChunkedArray, list[int]]:
    """Return a column in the schema's type, null where text is no UTF-8, and the rows where it is none."""
    if _TYPES.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not _fits(column.type, field.type):
        raise _misfit(kind, path, f"{field.name} is {column.type}, not {field.type}")
    try:
        if _TYPES.is_string(field.type) and not _TYPES.is_null(column.type):
            return _decoded(column)
        converted = column if field.name in kind.LOOSE and _is_loose(column.type) else column.cast(field.type)
    except pa.ArrowException as error:
        raise _misfit(kind, path, f"{field.name}: {str(error).splitlines()[0]}") from error
    if _TYPES.is_list(field.type) and (holey := pc.list_flatten(converted)).null_count:
        at = pc.index(pc.is_null(holey), value=True)
        row = pc.list_parent_indices(converted)[at.as_py()]
        raise _misfit(kind, path, f"row {row} of {field.name} holds a null")
    return converted, []


def _is_text(kind: pa.DataType) -> bool:
    kinds = (
        _TYPES.is_string,
        _TYPES.is_large_string,
        _TYPES.is_string_view,
        _TYPES.is_binary,
        _TYPES.is_large_binary,
        _TYPES.is_binary_view,
    )
    return any(is_kind(kind) for is_kind in kinds)


def _is_number(kind: pa.DataType) -> bool:
    return bool(_TYPES.is_integer(kind) or _TYPES.is_floating(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(_TYPES.is_list(kind) or _TYPES.is_large_list(kind) or _TYPES.is_fixed_size_list(kind))


def _is_loose(kind: pa.DataType) -> bool:
    """Return whether token ids have the types that our own stages write, in the width that the vocabulary needs."""
    return bool(_TYPES.is_list(kind) and kind.value_type in (pa.uint16(), pa.uint32()))


FAMILIES: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType], bool]], ...] = (
    (_TYPES.is_string, _is_text),
    (_TYPES.is_integer, _is_number),  # pandas makes numbers with holes floats; a fraction is refused when it is cast
    (_TYPES.is_floating, _is_number),
    (_TYPES.is_boolean, _TYPES.is_boolean),
    (_TYPES.is_timestamp, lambda kind: _TYPES.is_timestamp(kind) or _TYPES.is_date(kind) or _is_text(kind)),
)
"""For each type of a column, the types that can be converted to it."""


def _fits(actual: pa.DataType, wanted: pa.DataType) -> bool:
    if _TYPES.is_null(actual):  # all its rows are
        return True
    if _TYPES.is_list(wanted):
        return _is_list(actual) and _fits(actual.value_type, wanted.value_type)
    return any(is_wanted(wanted) and will_do(actual) for is_wanted, will_do in FAMILIES)


def _decoded(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[int]]:
    raw = column.cast(pa.large_string() if _TYPES.is_string_view(column.type) else pa.large_binary()).cast(pa.large_binary())
    try:
        return raw.cast(pa.string()), []
    except pa.ArrowInvalid:
        texts = raw.to_pylist()
        wrong = [row for row, text in enumerate(texts) if text is not None and not _is_utf8(text)]
        if not wrong:
            raise
        for row in wrong:
            texts[row] = None
        return pa.chunked_array([pa.array(texts, pa.large_binary()).cast(pa.string())]), wrong


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def given_folder(kind: type[Files], path: Path) -> Files:
    """Return the files of a folder; raises unless they hold what their kind needs.

    Raises:
        InputError: if they do not.
    """
    from starloom.model.architecture import Architecture
    from starloom.tasks.kernels.tokens.byte_level import load

    if not path.is_dir():
        raise InputError(f"{path} is not a folder, as a {kind.__name__} must be", hint=f"name the folder: {kind.__doc__}")
    reads = {Tokenizer: load, Checkpoint: Architecture.from_checkpoint}
    try:
        if kind in reads:
            reads[kind](path)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise InputError(f"{path} is not a valid {kind.__name__}: {error}", hint=f"name a folder that holds {kind.__doc__}") from error
    return kind.of(path)
