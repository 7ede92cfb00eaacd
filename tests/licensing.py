"""Repositories of a few files, judged by the licence filter."""

import hashlib
from pathlib import Path

import pyarrow as pa

from starloom.tasks.frame.stage import Runtime
from starloom.tasks.license_filter import LicenseFilter, license_filter
from starloom.tasks.schemas import Docs


def judged(files, *, declared=None, vendored=(), **knobs):
    """Return {path: row of Licenses} of one repository, given {path: content} or {path: (kind, content)}."""
    rows = []
    for path, content in files.items():
        is_license = any(word in path.lower().rpartition("/")[2] for word in ("license", "copying", "notice", "copyright"))
        kind, text = content if isinstance(content, tuple) else ("license" if is_license else "code", content)
        row = {"doc_id": hashlib.md5(path.encode()).hexdigest(), "source": "s", "kind": kind, "repo": "r", "path": path, "content": text}
        row |= {"size": len(text), "swhid": hashlib.sha1(text.encode("utf-8", "surrogatepass")).hexdigest(), "declared_license": declared}
        rows.append(row | {"is_vendor": path in vendored, "is_generated": False, "is_documentation": False})
    docs = Docs.of(pa.Table.from_pylist(rows, schema=Docs.SCHEMA))
    cfg = LicenseFilter(**knobs)
    stated = license_filter.prepare.function(docs, license_filter.prepared_config(cfg), Runtime(Path()))
    found = license_filter.function(docs, stated, cfg, Runtime(Path()))[1].read().to_pylist()
    paths = {row["doc_id"]: row["path"] for row in rows}
    return {paths[each["doc_id"]]: each for each in found}
