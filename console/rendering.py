"""Answers of pages: HTML, or the same data as JSON, or one of its tables as CSV or Parquet."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

from fastapi import Depends, Query, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from starloom.console import charts, curves, formats
from starloom.console.links import Links, address
from starloom.console.security import Session, csrf_field, session_of, set_session
from starloom.console.tables import NUMBERS
from starloom.lineage.errors import InputError, did_you_mean
from starloom.queries.formats import count, short, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starloom.console.settings import Settings
    from starloom.console.stores import Catalogue
    from starloom.console.tables import Table
    from starloom.lineage.store import Store

Format = Literal["html", "json", "csv", "parquet"]
SHOWN_ROWS = 50
"""Rows of a long table on a page."""
TEMPLATES = Path(__file__).parent / "templates"
CONTENT = {"html": "text/html", "json": "application/json", "csv": "text/csv", "parquet": "application/vnd.apache.parquet"}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The page, or its data in the format asked for.", "content": {kind: {} for kind in CONTENT.values()}},
    404: {"description": "The store holds nothing of that name; the answer says what comes near."},
}
"""For OpenAPI: every page has these answers."""


def make_templates() -> Environment:
    """Return the templates' environment: every value is escaped, and its invisible characters are spelt."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    ours = ("chips", "amount", "seconds", "moment", "share", "many", "plain")
    environment.filters.update({name: getattr(formats, name) for name in ours})
    environment.filters.update(count=count, short=short, size=size)
    environment.globals.update(NUMBERS=NUMBERS, charts=charts, curves=curves, is_dict=lambda value: isinstance(value, dict))
    return environment


def _finalize(value: Any) -> Any:
    """Spell invisible characters in whatever a template prints. Markup is ours, and spelt already."""
    return formats.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@dataclass(frozen=True, slots=True)
class Crumb:
    """A step of the way from the first page to this one."""

    label: str
    href: str | None = None


class Page:
    """One request: which store it is about, in which format it is to be answered, and by whom it was asked."""

    def __init__(self, request: Request, form: Format, table: str | None, store_name: str | None) -> None:
        self.request = request
        self.form = form
        self.table = table
        self.settings: Settings = request.app.state.settings
        names = [name for name, _ in self.settings.stores]
        if store_name is not None and store_name not in names:
            raise InputError(f"the console shows no store {store_name!r}", hint=did_you_mean(store_name, names))
        self.store_name = store_name or names[0]
        self.links = Links(None if self.store_name == names[0] else self.store_name)

    @property
    def store(self) -> Store:
        """The store that is asked about, opened once for all requests.

        Raises:
            StoreError: if it is not there.
        """
        store: Store = self.request.app.state.stores.open(self.store_name)
        return store

    @property
    def catalogue(self) -> Catalogue:
        """Catalogue of the store's runs, kept in memory.

        Raises:
            StoreError: if the store is not there.
        """
        catalogue: Catalogue = self.request.app.state.stores.catalogue(self.store_name)
        return catalogue

    def of_store(self, url: str | None) -> Links:
        """Return the links of pages about the store at a URL; those of this page's if the console does not show it."""
        names = [name for name, _ in self.settings.stores]
        name = next((name for name, place in self.settings.stores if place == url), self.store_name)
        return Links(None if name == names[0] else name)

    def newest(self, place: Links) -> dict[str, dict[str, Any]]:
        """Return the row of the newest run of each recipe, in the store of these links."""
        name = place.store or self.settings.stores[0][0]
        return {row["recipe"]: row for row in self.request.app.state.stores.catalogue(name).rows()}

    @property
    def session(self) -> Session:
        """The session of whoever asks."""
        return session_of(self.request)

    @property
    def address(self) -> str:
        """The address of this page without its query, quoted as it was asked for: a name may hold a slash of its own."""
        raw: bytes = self.request.scope.get("raw_path") or quote(self.request.scope["path"]).encode()
        return "/" + quote(raw.partition(b"?")[0].decode("latin-1"), safe="/%:@!$&'()*+,;=~-._").lstrip("/")

    def limit(self, asked: int | None, shown: int = SHOWN_ROWS) -> int | None:
        """Return how many rows of a list to fetch: what is asked for; else `shown` on a page, and all in its data."""
        return asked if asked is not None else shown if self.form == "html" else None

    def command(self, *words: str | None) -> str:
        """Return the `starloom` command that gives the same."""
        return f"starloom {shlex.join(word for word in words if word is not None)}{self.store.named}"

    def answer(
        self,
        template: str,
        data: Any,
        *,
        title: str,
        crumbs: Sequence[Crumb] = (),
        tables: Sequence[Table] = (),
        command: str | None = None,
        code: int = 200,
        **view: Any,
    ) -> Response:
        """Answer with a page, or with its data or one of its tables, as was asked.

        Args:
            template: that shows the page.
            data: of `?format=json`: what a query returned.
            title: of the page.
            crumbs: of the way here.
            tables: that can be taken; a template finds them by name in `tables`.
            command: that gives the same.
            code: status of the answer.
            view: what else the template shows.

        Raises:
            InputError: if the page has no table of the name asked for.
        """
        if self.form == "json":
            return json_response(data, code)
        if self.form != "html":
            return self._taken(tables)
        named = {table.name: table for table in tables}
        return self.html(template, code, title=title, crumbs=crumbs, tables=named, command=command, data=data, **view)

    def html(self, template: str, code: int = 200, **view: Any) -> Response:
        """Render a template; `page`, `links`, `session` and `csrf_field` are always there."""
        app = self.request.app
        common: dict[str, Any] = {
            "page": self,
            "links": self.links,
            "session": self.session,
            "settings": self.settings,
            "csrf_field": lambda: csrf_field(self.request),
            "navigation": app.state.navigation,
            "here": self.address,
            "as_format": self.as_format,
        }
        text = app.state.templates.get_template(template).render(common | view)
        response = HTMLResponse(text, code)
        if getattr(self.request.state, "is_new_session", False):
            set_session(self.request, response, self.session)
        return response

    def as_format(self, form: str, table: str | None = None) -> str:
        """Return the address of this page in another format."""
        query = {name: value for name, value in self.request.query_params.items() if name not in ("format", "table")}
        return address(self.address, **query, format=form, table=table)

    def with_query(self, **changed: Any) -> str:
        """Return the address of this page with some of its query changed."""
        return address(self.address, **{**dict(self.request.query_params), **changed})

    def _taken(self, tables: Sequence[Table]) -> Response:
        named = {table.name: table for table in tables}
        wanted = self.table or next(iter(named), None)
        if wanted is None or wanted not in named:
            hint = did_you_mean(wanted or "", list(named)) if named else "take it as ?format=json"
            raise InputError(f"this page has no table {wanted!r}" if wanted else "this page has no table", hint=hint)
        table = named[wanted]
        body = table.csv() if self.form == "csv" else table.parquet()
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{self.request.url.path.strip('/')}-{wanted}").strip("-.")
        kind = "text/csv; charset=utf-8" if self.form == "csv" else CONTENT["parquet"]
        return Response(body, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}.{self.form}"'})


def page_of(
    request: Request,
    form: Annotated[Format, Query(alias="format", description="How to answer.")] = "html",
    table: Annotated[str | None, Query(description="Of CSV and Parquet: which table; by default the first.")] = None,
    store: Annotated[str | None, Query(description="Name of the store; by default the first.")] = None,
) -> Page:
    """Return what a page needs to know of a request.

    Raises:
        InputError: if there is no such store.
    """
    return Page(request, form, table, store)


Here = Annotated[Page, Depends(page_of)]
"""Annotation of the parameter by which a page gets its `Page`."""


def json_response(data: Any, status: int = 200) -> Response:
    """Answer with JSON. NaN and infinity, which JSON does not know, become null."""
    return Response(json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, default=str), status, media_type=CONTENT["json"])


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value
