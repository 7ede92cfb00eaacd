"""Replace PII (e-mail addresses, IP addresses, keys) in live documents, and record where, but not the values.

Reads   Docs        doc_id, content; every other column is carried along
Writes  Docs        the live documents only, with content and size rewritten. doc_id stays (it names the source file), and
                    swhid stays that of the ORIGINAL content: it says where the text came from, not what it became
        Redactions  doc_id, entity (EMAIL | KEY | IP_ADDRESS), detector, start, end (bytes of the original content),
                    new_start, new_end (bytes of the rewritten one), value_hmac (HMAC-SHA256 of the value, hexadecimal)

Presidio's recognizers of patterns find addresses, 18 plugins of detect-secrets find keys, both only where a screen
over the whole column lets them look (`starloom.tasks.kernels.pii.screens`); rules made for code judge what they find
(`starloom.tasks.kernels.pii.rules`). Outside the spans of Redactions no byte changes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, SecretStr

from starloom.tasks.frame.stage import Config, Runtime, stage
from starloom.tasks.kernels.pii import rules as pii_rules
from starloom.tasks.kernels.pii.detectors import (
    ENTROPY_PLUGINS,
    MARKED_PLUGINS,
    email_matches,
    ip_matches,
    key_plugins,
    pair_scores,
    secrets_on,
)
from starloom.tasks.schemas import Docs, Redactions

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from starloom.tasks.kernels.pii.redaction import Spans, Texts

Entity = Literal["EMAIL", "KEY", "IP_ADDRESS"]
ENTITIES: tuple[Entity, ...] = ("KEY", "EMAIL", "IP_ADDRESS")
"""In order of precedence: of overlapping findings of one length the first names the redaction."""

PUBLIC_HASH_KEY = "starloom's public default: set redact_pii.hash_key to a secret of your own"
"""With a public key, anybody can test a guess against `value_hmac`. A release needs a secret one."""

VERSION_CONTEXT_BYTES = 100
ROWS_PER_BATCH = 1024


class RedactPii(Config):
    """Knobs of redaction."""

    entities: tuple[Entity, ...] = ENTITIES
    """Entities to detect."""
    style: Literal["starcoder", "placeholder"] = "starcoder"
    """`starcoder`: one of ten synthetic addresses or keys; `placeholder`: <EMAIL> and <KEY>. IP addresses become private ones in both."""
    base64_entropy_limit: float = Field(default=4.5, ge=0, le=8)
    """Entropy threshold of a quoted Base64 string, in bits a character; above it, it may be a key."""
    hex_entropy_limit: float = Field(default=3.0, ge=0, le=8)
    """Entropy threshold of a quoted hexadecimal string, in bits a character; above it, it may be a key."""
    gibberish_limit: float = Field(default=3.7, ge=0)
    """Gibberish score (of letter pairs) above which a string is not a word. For kinds of key without a prefix of their own."""
    min_hex_length: int = Field(default=16, ge=0)
    """Hexadecimal strings shorter than this are identifiers (revisions, colours), not keys."""
    max_hash_fraction: float = Field(default=0.02, ge=0)
    """In a file with more words for hashes than this fraction of its lines, what looks like a digest is not redacted."""
    max_hex_of_one_length: int = Field(default=8, ge=0)
    """With more hexadecimal strings of one length than this, a file holds digests or test vectors, and none is redacted."""
    kept_ips: tuple[str, ...] = pii_rules.POPULAR_DNS_SERVERS
    """IP addresses of public services, not redacted. Private and reserved ones never are."""
    kept_emails: tuple[str, ...] = pii_rules.SERVICE_EMAILS
    """E-mail addresses of services, not redacted; in lower case."""
    kept_email_domains: tuple[str, ...] = pii_rules.RESERVED_EMAIL_DOMAINS
    """Domains without PII, in lower case; their subdomains are included."""
    hash_key: SecretStr = SecretStr(PUBLIC_HASH_KEY)
    """Secret key of `value_hmac`: with it one can test whether a value was redacted; values cannot be read back."""
    seed: int = 0
    """Seed of the synthetic values and of their choice."""


class Finding(NamedTuple):
    """A PII finding: a span of text that identifies a person or is a secret."""

    text: int
    """Number of the document in the batch."""
    start: int
    """In bytes from the start of the document."""
    end: int
    entity: Entity
    detector: str


class Screened:
    """The documents of a batch as one run of bytes, each ended by a newline, so that no match crosses from one to the next."""

    def __init__(self, content: pa.Array, paths: pa.Array) -> None:
        import pyarrow.compute as pc

        from starloom.tasks.kernels.text.arrow_bytes import string_buffers

        self.offsets, self.data = string_buffers(pc.binary_join_element_wise(content, "", "\n"))
        self.is_settings = pc.match_substring_regex(paths, pii_rules.CONFIG_PATHS).to_numpy(zero_copy_only=False)

    def raw(self, start: int, stop: int) -> bytes:
        """Return the bytes of a span."""
        return self.data[start:stop].tobytes()

    def line(self, start: int, stop: int) -> str:
        """Return the characters of a span."""
        return self.raw(start, stop).decode()

    def text_at(self, position: int) -> int:
        """Return the number of the document that a byte belongs to."""
        return int(self.offsets.searchsorted(position, side="right")) - 1

    def document(self, text: int) -> bytes:
        """Return the content of a document."""
        return self.raw(int(self.offsets[text]), int(self.offsets[text + 1]) - 1)

    def around(self, finding: Finding, reach: int) -> str:
        """Return the text around a finding in its document, as far as `reach` bytes."""
        begin, end = int(self.offsets[finding.text]), int(self.offsets[finding.text + 1])
        return self.raw(max(begin + finding.start - reach, begin), min(begin + finding.end + reach, end)).decode("utf-8", "ignore")

    def finding(self, token_start: int, token: str, span: tuple[int, int], entity: Entity, detector: str) -> Finding:
        """Return a finding from a span of characters in a token."""
        text = self.text_at(token_start)
        start = token_start - int(self.offsets[text]) + len(token[: span[0]].encode())
        return Finding(text, start, start + len(token[span[0] : span[1]].encode()), entity, detector)


@stage(libraries=("presidio-analyzer", "tldextract", "regex", "detect-secrets", "google-re2"))
def redact_pii(docs: Docs, cfg: RedactPii, runtime: Runtime) -> tuple[Docs, Redactions]:
    """Replace PII in every live document."""
    import pyarrow as pa

    rewritten, ledgers, total = [], [], docs.num_rows
    for batch in docs.batches(rows=ROWS_PER_BATCH):
        new_batch, ledger = redact_batch(batch, cfg)
        rewritten.append(new_batch)
        ledgers.append(ledger)
        runtime.progress(sum(done.num_rows for done in rewritten), total, "documents")
    redactions = pa.concat_tables(ledgers) if ledgers else Redactions.SCHEMA.empty_table()
    return Docs.of(pa.Table.from_batches(rewritten, Docs.SCHEMA)), Redactions.of(redactions)


def redact_batch(batch: pa.RecordBatch, cfg: RedactPii) -> tuple[pa.RecordBatch, pa.Table]:
    """Rewrite the documents of a batch; return the new batch, and its rows of Redactions."""
    import numpy as np
    import pyarrow as pa

    from starloom.tasks.kernels.pii.redaction import Texts, merge_overlaps, replace_spans
    from starloom.tasks.kernels.pii.replacements import replacement
    from starloom.tasks.kernels.text.arrow_bytes import string_buffers

    content = batch.column("content")
    findings = find(content, batch.column("path"), cfg)
    if not findings:
        return batch, Redactions.SCHEMA.empty_table()
    columns = np.array([(f.start, f.end, f.text, _rank(f)) for f in findings], np.int64).T
    spans, representatives = merge_overlaps(*columns)
    chosen = [findings[number] for number in representatives]
    old = Texts(*string_buffers(content))
    doc_ids = batch.column("doc_id").take(pa.array(spans.text)).to_pylist()
    values = _values(old, spans)
    pieces = [
        replacement(f.entity, value, doc_id, seed=cfg.seed, placeholders=cfg.style == "placeholder")
        for f, value, doc_id in zip(chosen, values, doc_ids, strict=True)
    ]
    new, new_spans = replace_spans(old, spans, Texts(*string_buffers(pa.array(pieces, pa.binary()))))
    secret = cfg.hash_key.get_secret_value().encode()
    ledger = pa.table(
        {
            "doc_id": doc_ids,
            "entity": [f.entity for f in chosen],
            "detector": [f.detector for f in chosen],
            "start": spans.start,
            "end": spans.end,
            "new_start": new_spans.start,
            "new_end": new_spans.end,
            "value_hmac": [hmac.new(secret, value, hashlib.sha256).hexdigest() for value in values],
        },
        schema=Redactions.SCHEMA,
    )
    return _with_content(batch, new), ledger


def _rank(finding: Finding) -> int:
    """Rank overlapping findings of one length; the first names the redaction: by entity, then by the order of the plugins."""
    plugin = finding.detector.partition(":")[2]
    order = (*MARKED_PLUGINS, *ENTROPY_PLUGINS, plugin).index(plugin)
    return ENTITIES.index(finding.entity) * 100 + order


def _values(texts: Texts, spans: Spans) -> list[bytes]:
    starts, ends = texts.offsets[spans.text] + spans.start, texts.offsets[spans.text] + spans.end
    return [texts.data[start:end].tobytes() for start, end in zip(starts, ends, strict=True)]


def _with_content(batch: pa.RecordBatch, texts: Texts) -> pa.RecordBatch:
    import numpy as np
    import pyarrow as pa

    large = pa.Array.from_buffers(pa.large_string(), batch.num_rows, [None, pa.py_buffer(texts.offsets), pa.py_buffer(texts.data)])
    new = {"content": large.cast(pa.string()), "size": pa.array(np.diff(texts.offsets))}
    return pa.RecordBatch.from_arrays([new.get(name, batch.column(name)) for name in batch.schema.names], schema=batch.schema)


def find(content: pa.Array, paths: pa.Array, cfg: RedactPii) -> list[Finding]:
    """Find PII in each of n texts; findings may overlap."""
    flat = Screened(content, paths)
    finders = {"EMAIL": _find_emails, "IP_ADDRESS": _find_ips, "KEY": _find_keys}
    return [finding for entity in ENTITIES if entity in cfg.entities for finding in finders[entity](flat, cfg)]


def _find_emails(flat: Screened, cfg: RedactPii) -> Iterator[Finding]:
    from starloom.tasks.kernels.pii.screens import email_tokens

    for start, stop in email_tokens(flat.data).tolist():
        token = flat.line(start, stop)
        for matched in email_matches(token):
            span = pii_rules.email_span(token, *matched, after_backslash=start > 0 and flat.data[start - 1] == ord("\\"))
            if span and not pii_rules.is_kept_email(token[slice(*span)], cfg.kept_emails, cfg.kept_email_domains):
                yield flat.finding(start, token, span, "EMAIL", "presidio:EmailRecognizer")


def _find_ips(flat: Screened, cfg: RedactPii) -> Iterator[Finding]:
    from starloom.tasks.kernels.pii.screens import ip_tokens

    for start, stop in ip_tokens(flat.data).tolist():
        token = flat.line(start, stop)
        for matched in ip_matches(pii_rules.BEYOND_ASCII.sub(" ", token)):
            address = pii_rules.bare_address(token[slice(*matched)])
            finding = flat.finding(start, token, (matched[0], matched[0] + len(address)), "IP_ADDRESS", "presidio:IpRecognizer")
            if pii_rules.is_personal_ip(address, flat.around(finding, VERSION_CONTEXT_BYTES), cfg.kept_ips):
                yield finding


def _find_keys(flat: Screened, cfg: RedactPii) -> Iterator[Finding]:
    """Find the keys of each text, then every place where they stand: a string found as a key once is a key everywhere."""
    document = cache(flat.document)
    mentions_hashes = cache(lambda text: pii_rules.mentions_hashes(document(text), cfg.max_hash_fraction))
    judged: dict[tuple[int, str, str], bool] = {}
    for kind, secret, line, position in _key_candidates(flat, cfg):
        text = flat.text_at(position)
        if (text, kind, secret) not in judged:
            judged[text, kind, secret] = _is_key(kind, secret, line, cfg, file_speaks_of_hashes=mentions_hashes(text))
    alike = Counter((text, len(secret)) for text, kind, secret in judged if kind == "HexHighEntropyString")
    keys: dict[int, list[tuple[str, bytes]]] = {}
    for (text, kind, secret), is_key in judged.items():
        if is_key and (kind != "HexHighEntropyString" or alike[text, len(secret)] <= cfg.max_hex_of_one_length):
            keys.setdefault(text, []).append((f"detect-secrets:{kind}", secret.encode()))
    for text, of_text in keys.items():
        yield from _everywhere(text, document(text), of_text)


def _everywhere(text: int, document: bytes, keys: list[tuple[str, bytes]]) -> Iterator[Finding]:
    """Find all places of all keys in one pass: a dump of a hundred thousand keys is not searched a hundred thousand times."""
    from starloom.tasks.kernels.text.substrings import all_matches, prepare_patterns

    for start, number in all_matches(document, prepare_patterns([value for _, value in keys])).tolist():
        detector, value = keys[number]
        yield Finding(text, start, start + len(value), "KEY", detector)


def _key_candidates(flat: Screened, cfg: RedactPii) -> Iterator[tuple[str, str, str, int]]:
    """Return the findings of the plugins on the screened lines: (plugin, secret, line, position of the line)."""
    from starloom.tasks.kernels.pii import screens as pii_screens

    limits = cfg.base64_entropy_limit, cfg.hex_entropy_limit
    plugins = key_plugins(*limits)
    for start, stop in pii_screens.lines_around(flat.data, pii_screens.key_marks(flat.data)).tolist():
        yield from _secrets(flat.line(start, stop), start, MARKED_PLUGINS, plugins)
    for start, stop in pii_screens.lines_around(flat.data, pii_screens.quoted_entropy(flat.data, *limits)).tolist():
        yield from _secrets(flat.line(start, stop), start, ENTROPY_PLUGINS, plugins)
    for span in pii_screens.assigned_entropy(flat.data, *limits):
        if flat.is_settings[flat.text_at(span[0])] and not flat.raw(*span).isdigit():
            ((start, _),) = pii_screens.lines_around(flat.data, span[None])
            quoted = f'{flat.line(start, span[0])}"{flat.line(*span)}"'  # as detect-secrets rewrites a settings file
            yield from _secrets(quoted, int(start), (*MARKED_PLUGINS, *ENTROPY_PLUGINS), plugins)


def _secrets(line: str, start: int, kinds: tuple[str, ...], plugins: dict[str, Any]) -> Iterator[tuple[str, str, str, int]]:
    return ((kind, secret, line, start) for kind in kinds for secret in secrets_on(line.rstrip(), plugins[kind]))


def _is_key(kind: str, secret: str, line: str, cfg: RedactPii, *, file_speaks_of_hashes: bool) -> bool:
    """Return whether StarCoder's rules let a string pass that a plugin found."""
    if kind not in pii_rules.WEAK_KINDS:
        return True
    if pii_rules.is_word_like(secret, pair_scores(), cfg.gibberish_limit, cfg.min_hex_length):
        return False
    return not pii_rules.is_hash(secret, line.partition(secret)[0], file_speaks_of_hashes=file_speaks_of_hashes)
