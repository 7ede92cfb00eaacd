"""Drop documents of languages that hold more bytes than they may, at random but always the same.

Every document draws a number from the seed and its doc_id; of each capped language those with the lowest stay, as many as fit. So a corpus
that grows drops few that it kept before, and however it is cut into parts, the same stay. Put it behind the deduplication.

Reads   Docs      doc_id, language, size: no text
Writes  Verdicts  rule = language-cap, value = bytes of the language that draw as low or lower (to the next 65,536th), threshold = the cap

Memory: half a megabyte for each capped language; the parts are read twice, a part at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from starloom.lineage.errors import did_you_mean
from starloom.tasks.frame.stage import Config, Runtime, stage
from starloom.tasks.schemas import Docs, Verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

GB = 1_000_000_000
_BITS = 16
"""Of the draws by which bytes are counted first: the documents of one of these buckets alone are put in order."""

_V2_DATA = ["CSV", "Checksums", "Diff", "Gettext Catalog", "Go Checksums", "Graphviz (DOT)", "INI", "Ignore List", "JSON with Comments"]
_V2_DATA += ["JSON5", "JSONLD", "Java Properties", "Pip Requirements", "Public Key", "SVG", "SubRip Text", "TOML", "TSV", "Turtle"]
_V2_DATA += ["Web Ontology Language", "XML Property List"]

PRESETS: dict[str, dict[str, int]] = {
    # StarCoder (arXiv 2305.06161 §3): JSON and YAML 1 GB each, CSS 3 GB
    "starcoder": {"CSS": 3 * GB, "JSON": GB, "YAML": GB},
    # StarCoder2 (arXiv 2402.19173 §2.1 and appendix C.2): what Linguist counts as data, 1 GB each, and these
    "starcoder2": {
        **dict.fromkeys(_V2_DATA, GB),
        **dict.fromkeys(("JSON", "XML", "YAML"), 8 * GB),
        "HTML": 100 * GB,
        "Java": 200 * GB,
        "JavaScript": 200 * GB,
    },
}


class CapLanguages(Config):
    """Knobs of cap_languages."""

    caps: Literal["starcoder", "starcoder2"] | dict[str, int] = "starcoder2"
    """Bytes of each language that may stay, or the published ones of a model; a language that is not named is not capped."""
    more_caps: dict[str, int] = Field(default={})
    """Beside `caps`, or in the place of some of them."""
    seed: int = 0
    """Of the draw."""

    @field_validator("caps", "more_caps")
    @classmethod
    def _known(cls, caps: str | dict[str, int]) -> str | dict[str, int]:
        from starloom.tasks.kernels.languages.linguist import known_languages

        known = list(known_languages())
        for language, cap in caps.items() if isinstance(caps, dict) else ():
            if language not in known:
                raise ValueError(f"unknown language {language!r}: {did_you_mean(language, known)}")
            if cap < 0:
                raise ValueError(f"{language} may not have {cap} bytes: a cap is 0 or more")
        return dict(sorted(caps.items())) if isinstance(caps, dict) else caps

    def all_caps(self) -> dict[str, int]:
        """Return language → bytes."""
        return {**(PRESETS[self.caps] if isinstance(self.caps, str) else self.caps), **self.more_caps}


@stage(over="whole")
def cap_languages(docs: Docs, cfg: CapLanguages, runtime: Runtime) -> Verdicts:
    """Keep of each language what fits."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    caps = cfg.all_caps()
    limits = np.array(list(caps.values()), np.int64)
    counted = np.zeros((len(caps), 1 << _BITS), np.int64)
    for _, codes, draws, sizes in _parts(docs, caps, cfg.seed, runtime):
        np.add.at(counted, (codes, (draws >> np.uint64(64 - _BITS)).astype(np.int64)), sizes)
    before = np.cumsum(counted, axis=1) - counted
    last = np.argmax(before + counted > limits[:, None], axis=1)  # the first bucket that does not fit whole
    fits = counted.sum(axis=1) <= limits
    order = _border(docs, caps, cfg.seed, runtime, np.where(fits, -1, last))
    verdicts = []
    for number, (rows, codes, draws, sizes) in enumerate(_parts(docs, caps, cfg.seed, runtime)):
        buckets = (draws >> np.uint64(64 - _BITS)).astype(np.int64)
        reached = before[codes, buckets] + counted[codes, buckets]
        for language, (ids, totals) in order.items():
            inside = np.flatnonzero((codes == language) & (buckets == last[language]) & ~fits[language])
            reached[inside] = before[language, last[language]] + totals[np.searchsorted(ids, draws[inside])]
        part = docs.parts[number]
        keep, value, threshold = np.ones(part.num_rows, bool), np.zeros(part.num_rows), np.zeros(part.num_rows)
        keep[rows], value[rows], threshold[rows] = reached <= limits[codes], reached, limits[codes]
        rule = pc.if_else(pa.array(keep), pa.scalar(None, pa.string()), "language-cap")
        verdicts.append(part.verdicts(keep, rule, pa.array(value, mask=keep), pa.array(threshold, mask=keep)))
        del sizes
    return Verdicts.join(verdicts)


def _parts(
    docs: Docs, caps: dict[str, int], seed: int, runtime: Runtime
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]]:
    """Yield for each part the rows of capped languages: (row, number of the language, draw, bytes)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from starloom.tasks.kernels.text.draws import draw

    names = pa.array(list(caps), pa.string())
    for number, part in enumerate(docs.parts):
        table = part.read(["doc_id", "language", "size"])
        codes = pc.index_in(table.column("language"), value_set=names)
        rows = pc.indices_nonzero(codes.is_valid()).to_numpy().astype("int64")
        chosen = table.take(pa.array(rows))
        draws = draw(chosen.column("doc_id"), seed, "cap_languages")[:, 0]
        yield rows, codes.take(pa.array(rows)).to_numpy().astype("int64"), draws, chosen.column("size").to_numpy()
        runtime.progress(number + 1, len(docs.parts))


def _border(
    docs: Docs, caps: dict[str, int], seed: int, runtime: Runtime, last: NDArray[np.int64]
) -> dict[int, tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """Return of each language its border bucket's draws in order, and the bytes up to each."""
    import numpy as np

    found: dict[int, list[tuple[NDArray[np.uint64], NDArray[np.int64]]]] = {}
    for _, codes, draws, sizes in _parts(docs, caps, seed, runtime):
        inside = np.flatnonzero((draws >> np.uint64(64 - _BITS)).astype(np.int64) == last[codes])
        for language in np.unique(codes[inside]).tolist():
            own = inside[codes[inside] == language]
            found.setdefault(language, []).append((draws[own], sizes[own]))
    ordered = {}
    for language, pieces in found.items():
        draws, sizes = (np.concatenate(each) for each in zip(*pieces, strict=True))
        at = np.argsort(draws, kind="stable")
        ids, first = np.unique(draws[at], return_index=True)
        ends = np.append(first[1:], len(at)) - 1  # equal draws, one in 2^64, fare alike
        ordered[language] = ids, np.cumsum(sizes[at])[ends]
    return ordered
