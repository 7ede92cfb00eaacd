"""A browser's view of the console, for tests: a client, and what a page's HTML holds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from starlette.testclient import TestClient

from starloom.console.app import create_app
from starloom.console.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

BASE = "http://127.0.0.1:8765"


def client_of(store: Path | str, **settings) -> TestClient:
    """A client of a console that shows one store."""
    return TestClient(create_app(Settings(stores=(("test", str(store)),), **settings)), base_url=BASE, follow_redirects=False)


@dataclass
class Seen:
    """What a page's HTML holds."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text, white space as one blank."""
        return re.sub(r"\s+", " ", "".join(self.texts))

    def hrefs(self) -> set[str]:
        """Addresses that links lead to."""
        return {attributes["href"] for name, attributes in self.elements if name == "a" and "href" in attributes}


def parse(html: str) -> Seen:
    """Read a page as a browser would."""
    seen = Seen()

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.elements.append((tag, {name: value or "" for name, value in attrs}))

        def handle_data(self, data):
            seen.texts.append(data)

    reader = Reader(convert_charrefs=True)
    reader.feed(html)
    reader.close()
    return seen


def hidden_token(html: str) -> str:
    """The token of a page's first form that changes something."""
    return re.search(r'name="csrf_token" value="([0-9a-f]+)"', html)[1]
