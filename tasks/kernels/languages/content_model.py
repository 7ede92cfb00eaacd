"""Languages by contents alone: Magika's model, on the files that names and rules leave open.

Source: Magika (Fratantonio et al., ICSE 2025, arXiv 2409.13768), model standard_v3_3 of the package `magika` (Apache-2.0):
the first and last 1024 bytes of a file, stripped, to a probability for each of about 200 content types. Run by the same
`onnxruntime` as the package does, one file a call and on one thread: in batches of 64 it takes half as long again a file
(docs/decisions/0040), and a probability moves in its fourth digit with the size of the batch.
Guarantee: a file's answer depends on its bytes alone. Cost: 0.2 s to load, once a process; 4 to 7 ms a distinct file.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

LIBRARIES = ("magika", "onnxruntime")
"""Distributions whose versions shape an answer."""

MODEL = "standard_v3_3"

_LABELS = """
aidl AIDL|appleplist XML Property List|asm Assembly,Unix Assembly,Motorola 68K Assembly|asp Classic ASP,ASP.NET
autohotkey AutoHotkey|autoit AutoIt|awk Awk|batch Batchfile|bazel Starlark|bib BibTeX|c C|clojure Clojure|cmake CMake|cobol COBOL
coffeescript CoffeeScript|cpp C++|cs C#|csproj XML|css CSS|csv CSV|dart Dart|diff Diff|dm DM|dockerfile Dockerfile|elixir Elixir
erb HTML+ERB|erlang Erlang|fortran Fortran Free Form,Fortran|gemfile Ruby|gemspec Ruby|gitattributes Git Attributes
gitmodules Git Config|go Go|gradle Gradle|groovy Groovy|handlebars Handlebars|haskell Haskell|hcl HCL|htaccess ApacheConf|html HTML
ics iCalendar|ignorefile Ignore List|ini INI|internetshortcut INI|ipynb Jupyter Notebook|java Java|javascript JavaScript|jinja Jinja
json JSON,JSON with Comments|jsonl JSON|julia Julia|kotlin Kotlin|latex TeX|lisp Common Lisp,Emacs Lisp,Scheme|lua Lua|m4 M4
makefile Makefile|markdown Markdown|matlab MATLAB|objectivec Objective-C,Objective-C++|ocaml OCaml|pascal Pascal|pem Public Key
perl Perl|php PHP|po Gettext Catalog|powershell PowerShell|prolog Prolog|proto Protocol Buffer|python Python|r R|rdf XML
rst reStructuredText|rtf Rich Text Format|ruby Ruby|rust Rust|scala Scala|scss SCSS|shell Shell|smali Smali|solidity Solidity
sql SQL,PLSQL,PLpgSQL,TSQL,SQLPL|srt SubRip Text|stltext STL|sum Checksums|svg SVG,XML|swift Swift|tcl Tcl
textproto Protocol Buffer Text Format|toml TOML|tsv TSV|twig Twig|typescript TypeScript,TSX|vba VBA,Visual Basic 6.0
vcxproj XML|verilog Verilog,SystemVerilog|vhdl VHDL|vtt WebVTT|vue Vue|winregistry Windows Registry Entries|xml XML|yaml YAML|yara YARA
zig Zig
"""
"""Magika's content types and Linguist's languages that such a file may be in, the commonest first."""


@functools.cache
def label_languages() -> dict[str, tuple[str, ...]]:
    """Return Linguist's languages by Magika's content type; types that are no language of ours are left out."""
    entries = (entry.partition(" ") for entry in _LABELS.strip().replace("\n", "|").split("|"))
    return {label: tuple(languages.split(",")) for label, _, languages in entries}


def is_installed() -> bool:
    """Return whether the model can be run here: `pip install 'starloom[languages]'`."""
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in LIBRARIES)


class ContentModel:
    """Magika's model, loaded. Not for sharing between threads."""

    def __init__(self) -> None:
        import onnxruntime

        folder = model_folder()
        config: dict[str, Any] = json.loads((folder / "config.min.json").read_bytes())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        self._labels: list[str] = config["target_labels_space"]
        self._ends = (config["beg_size"], config["end_size"])
        self._block, self._padding, self._least = config["block_size"], config["padding_token"], config["min_file_size_for_dl"]
        usual = config["medium_confidence_threshold"]
        self._thresholds = np.array([config["thresholds"].get(label, usual) for label in self._labels])

    def labels(self, contents: pa.Array) -> list[str | None]:
        """Return Magika's content type of each; None: too short, or none that it would vouch for. Equal contents are asked about once."""
        import pyarrow.compute as pc

        encoded = pc.dictionary_encode(contents)
        distinct = [self._label(content.as_buffer()) for content in encoded.dictionary]
        return [distinct[code] for code in encoded.indices.to_pylist()]

    def _label(self, content: pa.Buffer) -> str | None:
        first, last = self._ends
        tokens = np.full((1, first + last), self._padding, np.int32)
        _put_ends(tokens[0], content, self._block, first, last)
        if tokens[0, self._least - 1] == self._padding:
            return None
        scores = self._session.run(["target_label"], {"bytes": tokens})[0][0]
        best = int(scores.argmax())
        return self._labels[best] if scores[best] >= self._thresholds[best] else None

    def guess(self, contents: pa.Array, candidates: Sequence[tuple[str, ...]]) -> list[str | None]:
        """Return the language of each, among its candidates if it has any; None: it cannot be told."""
        known = label_languages()
        found = (known.get(label, ()) if label is not None else () for label in self.labels(contents))
        return [
            next((name for name in languages if not allowed or name in allowed), None)
            for languages, allowed in zip(found, candidates, strict=True)
        ]


@functools.cache
def content_model() -> ContentModel:
    """Return this process's model."""
    return ContentModel()


def model_folder() -> Path:
    """Return the folder of the model within the package `magika`, without importing it."""
    from importlib.util import find_spec

    spec = find_spec("magika")
    assert spec is not None, "the plan refuses a recipe that needs it where it is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent / "models" / MODEL


def _put_ends(row: NDArray[np.int32], content: pa.Buffer, block: int, first: int, last: int) -> None:
    """Write a file's first bytes at the start of a row and its last at the end; white space around is no content."""
    view = memoryview(content)
    head = bytes(view[:block]).lstrip()[:first]
    tail = bytes(view[max(0, len(view) - block) :]).rstrip()[-last:]
    row[: len(head)] = np.frombuffer(head, np.uint8)
    row[len(row) - len(tail) :] = np.frombuffer(tail, np.uint8)
