"""Redaction on one core: screens and then the detectors, against the detectors on every line."""

from __future__ import annotations

import tempfile
from pathlib import Path

from starloom.bench._tool import Corpus, Tool

TITLE = "e-mail addresses, IP addresses and keys, one core"


def _ours(corpus: Corpus) -> object:
    """Run the stage, from documents to rewritten documents and the ledger."""
    from starloom.tasks.frame.stage import Runtime
    from starloom.tasks.kernels.pii.detectors import email_matches, ip_matches
    from starloom.tasks.redact_pii import RedactPii, redact_pii
    from starloom.tasks.schemas import Docs

    email_matches.cache_clear()  # else later rounds would find what the first one has found
    ip_matches.cache_clear()
    with tempfile.TemporaryDirectory() as folder:
        return redact_pii.function(Docs.of(corpus.table), RedactPii(), Runtime.alone(Path(folder, "scratch")))


def _our_screens(corpus: Corpus) -> object:
    """Run the four passes over the bytes, without any detector."""
    import pyarrow as pa

    from starloom.tasks.kernels.pii import screens as pii_screens
    from starloom.tasks.kernels.text.arrow_bytes import string_buffers

    column = corpus.table.column("content").combine_chunks()
    _, data = string_buffers(column if isinstance(column, pa.Array) else column.chunk(0))
    quoted = pii_screens.quoted_entropy(data, base64_limit=4.5, hex_limit=3.0)
    return [pii_screens.email_tokens(data), pii_screens.ip_tokens(data), quoted, pii_screens.key_marks(data)]


def _presidio(corpus: Corpus) -> object:
    """Run Presidio's two recognizers on whole documents."""
    from starloom.tasks.kernels.pii.detectors import recognizers

    both = recognizers().values()
    return [recognizer.analyze(text, entities=[]) for text in corpus.texts for recognizer in both]


def _detect_secrets(corpus: Corpus) -> object:
    """Run StarCoder's 18 plugins of detect-secrets on every line, with their filters."""
    from starloom.tasks.kernels.pii.detectors import key_plugins, secrets_on

    plugins = key_plugins(4.5, 3.0).values()
    return [secrets_on(line.rstrip(), plugin) for text in corpus.texts for line in text.split("\n") for plugin in plugins]


TOOLS = (
    Tool("starloom", _ours, is_ours=True),
    Tool("starloom, screens only", _our_screens),
    Tool("Presidio, every document", _presidio, requires=("presidio-analyzer",)),
    Tool("detect-secrets, every line", _detect_secrets, requires=("detect-secrets",)),
)
