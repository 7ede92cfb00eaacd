"""Tables of pages: shown as HTML, taken as CSV or Parquet."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starloom.console.links import Links

Row = dict[str, Any]
Form = Literal["text", "number", "amount", "bytes", "seconds", "moment", "id", "code", "status", "counts"]
NUMBERS: frozenset[str] = frozenset({"number", "amount", "bytes", "seconds"})
"""Forms that stand at the right."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: the name of its values in a row, its heading, and how a page shows them."""

    name: str
    label: str
    form: Form = "text"
    href: Callable[[Row], str | None] | None = None
    """Row → the page of ours that the cell leads to."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a page. Its name is the one that `?format=csv&table=NAME` takes."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    total: int | None = None
    """Rows that there are, where `rows` are the first of them."""

    @property
    def num_left_out(self) -> int:
        """Rows that are not shown."""
        return 0 if self.total is None else max(0, self.total - len(self.rows))

    def arrow(self) -> pa.Table:
        """Return the table with the values as they are; lists and mappings as JSON."""
        columns = {}
        for column in self.columns:
            values = [_flat(row.get(column.name)) for row in self.rows]
            try:
                columns[column.name] = pa.array(values)
            except (pa.ArrowInvalid, pa.ArrowTypeError):  # values of several kinds, such as the first rows of an artifact
                columns[column.name] = pa.array([None if value is None else str(value) for value in values], pa.string())
        return pa.table(columns)

    def parquet(self) -> bytes:
        """Return the table as a Parquet file."""
        file = io.BytesIO()
        pq.write_table(self.arrow(), file)
        return file.getvalue()

    def csv(self) -> bytes:
        """Return the table as CSV in UTF-8, with a line of names."""
        file = io.StringIO(newline="")
        writer = csv.writer(file)
        writer.writerow([column.name for column in self.columns])
        for row in self.rows:
            writer.writerow(["" if (value := _flat(row.get(column.name))) is None else value for column in self.columns])
        return file.getvalue().encode()


def _flat(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, tuple, dict)) else value


def facts(name: str, values: Mapping[str, Any], hrefs: Mapping[str, str | None] | None = None) -> Table:
    """Return a table of names and values, some of which lead to pages."""
    targets = hrefs or {}
    rows = [{"name": key, "value": value} for key, value in values.items()]
    return Table(name, (Column("name", "name"), Column("value", "value", "code", lambda row: targets.get(row["name"]))), rows)


def totals(name: str, label: str, rows: Sequence[Row], total: int | None = None, href: Callable[[Row], str | None] | None = None) -> Table:
    """Return a table of documents and tokens by something."""
    columns = (Column("name", label, href=href), Column("documents", "documents", "number"), Column("tokens", "tokens", "number"))
    return Table(name, columns, rows, total)


def repo_and_path(links: Links, run: str) -> tuple[Column, Column]:
    """Return the columns that name a document, each with its page."""
    return (
        Column("repo", "repository", "code", lambda row: links.repository(row["repo"], run) if row.get("repo") else None),
        Column("path", "path", "code", lambda row: links.document(row["doc_id"], run) if row.get("doc_id") else None),
    )
