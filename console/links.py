"""Addresses of the console's own pages. Nothing else is ever linked to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode


def address(path: str, **query: Any) -> str:
    """Return a path of ours with a query; values that are None are left out."""
    words = urlencode({name: value for name, value in query.items() if value is not None})
    return f"{path}?{words}" if words else path


@dataclass(frozen=True, slots=True)
class Links:
    """Addresses of pages about one store."""

    store: str | None = None
    """Name of the store; None for the first, which needs no naming."""

    def to(self, *segments: str | int, **query: Any) -> str:
        """Return the address of a page. Every segment is quoted, so that a name can neither leave its place nor become a query."""
        path = "/" + "/".join(quote(str(segment), safe=":") for segment in segments)
        return address(path, **query, store=self.store)

    def run(self, run: str) -> str:
        """Return the address of a run."""
        return self.to("runs", run)

    def step(self, run: str, step: str) -> str:
        """Return the address of a step of a run."""
        return self.to("runs", run, "steps", step)

    def sample(self, run: str, step: str, **query: Any) -> str:
        """Return the address of a random sample of what a step kept or dropped."""
        return self.to("runs", run, "steps", step, "sample", **query)

    def what_if(self, run: str, step: str, **query: Any) -> str:
        """Return the address of the question what a step would keep with other knobs."""
        return self.to("runs", run, "steps", step, "what-if", **query)

    def document(self, doc_id: str, run: str | None = None, **query: Any) -> str:
        """Return the address of a document, as a run saw it."""
        return self.to("documents", doc_id, run=run, **query)

    def sequence(self, name: str, run: str | None = None) -> str:
        """Return the address of a packed sequence, PART:ROW."""
        return self.to("sequences", name, run=run)

    def checkpoint(self, name: str, run: str | None = None, **query: Any) -> str:
        """Return the address of a checkpoint: its hash, or the step that made it."""
        return self.to("checkpoints", name, run=run, **query)

    def cluster(self, cluster_id: str, run: str | None = None, step: str | None = None) -> str:
        """Return the address of a cluster of duplicates."""
        return self.to("clusters", cluster_id, run=run, step=step)

    def conflicts(self, run: str | None = None) -> str:
        """Return the address of the licence conflicts of a run."""
        return self.to("conflicts", run=run)

    def artifact(self, name: str) -> str:
        """Return the address of an artifact."""
        return self.to("artifacts", name)

    def repository(self, name: str, run: str | None = None) -> str:
        """Return the address of a repository."""
        return self.to("repositories", name, run=run)

    def find(self, words: str, run: str | None = None) -> str:
        """Return the address of a search."""
        return self.to("find", q=words, run=run)
