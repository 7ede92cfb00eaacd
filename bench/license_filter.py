"""Licence evidence: the header of every file and the text of every licence file, against a Python loop with `identify`."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from starloom.bench._tool import Corpus, Tool

TITLE = "licence of every file, by header and licence text"


def _ours(corpus: Corpus) -> object:
    """Run the stage: headers, licence texts, path propagation, policy, verdicts."""
    from starloom.tasks.frame.stage import Runtime
    from starloom.tasks.license_filter import LicenseFilter, license_filter, statements
    from starloom.tasks.schemas import Docs

    docs, cfg, runtime = Docs.of(corpus.table), LicenseFilter(), Runtime(Path())
    return license_filter.function(docs, statements.function(docs, license_filter.prepared_config(cfg), runtime), cfg, runtime)


def _our_headers(corpus: Corpus) -> object:
    from starloom.tasks.kernels.licenses.headers import read_headers

    return read_headers(corpus.table.column("content"))


def _our_texts(corpus: Corpus) -> list[tuple[str, ...]]:
    from starloom.tasks.kernels.licenses.statements import text_licenses

    return [text_licenses(text) for text in _license_texts(corpus)]


def _identify(corpus: Corpus) -> object:
    """Search the first lines of every file by regular expression; edit distance to 35 texts for every licence file."""
    return _header_loop(corpus), _identify_texts(corpus)


def _header_loop(corpus: Corpus) -> list[str | None]:
    tag = re.compile(r"SPDX-License-Identifier:\s*(.+)")
    found = (tag.search("\n".join(text.split("\n", 30)[:30])) for text in corpus.texts)
    return [match[1] if match else None for match in found]


def _identify_texts(corpus: Corpus) -> list[str | None]:
    from identify.identify import license_id

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "LICENSE")
        return [license_id(str(file)) for text in _license_texts(corpus) if file.write_text(text, encoding="utf-8") >= 0]


def _license_texts(corpus: Corpus) -> list[str]:
    """Return licence files by their name, each text once."""
    from starloom.tasks.kernels.sources.languages import classify

    paths = corpus.table.column("path").to_pylist()
    chosen = [text for path, text in zip(paths, corpus.texts, strict=True) if (classify(path) or ("", None))[0] == "license"]
    return list(dict.fromkeys(chosen))


TOOLS = [
    Tool("starloom", _ours, is_ours=True),
    Tool("starloom, headers only", _our_headers),
    Tool("starloom, licence texts only", _our_texts),
    Tool("re loop and identify", _identify, requires=("identify", "ukkonen")),
    Tool("identify, licence texts only", _identify_texts, requires=("identify", "ukkonen")),
]
