"""Near-deduplication held against the truth: what each tool, and each of our ways to verify, drops wrongly and misses.

The truth is the exact Jaccard similarity of all pairs of 5-gram sets, at 0.7. A file dropped that has no partner there
is dropped wrongly; a pair there of which both files are kept is missed. What a word is is a matter of definition, so a
tool is held against two truths: one for all, StarCoder's words, and that of its own words.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Literal

from starloom.bench._tool import BYTES_PER_MB
from starloom.bench.near_dedup import MEGABYTES, NGRAM, THRESHOLD, TOOLS

if TYPE_CHECKING:
    from starloom.bench._measure import Timing
    from starloom.bench._tool import Corpus

__all__ = ["MEGABYTES", "ROUNDS", "TITLE", "TOOLS", "judge", "lines", "words_of"]

TITLE = "near-duplicates against the exact similarity of all pairs: what is dropped wrongly, what is missed"
ROUNDS = 1
BANDS, ROWS = 25, 10
"""datasketch's optimum at 0.7 with 256 permutations, and ours."""
Words = Literal["ascii", "unicode", "plain"]
FOR_ALL: Words = "ascii"
DEFINITIONS: dict[Words, str] = {
    "ascii": "runs of [A-Za-z_0-9], empty ones kept",
    "unicode": r"split at \W, empty ones kept, lower case",
    "plain": "runs of letters and digits, lower case, every number as 0",
}
OWN: dict[str, Words] = {"text-dedup": "unicode", "datatrove": "plain", "data-prep-kit": "plain"}
"""By the start of a tool's name; all others use `FOR_ALL`. datatrove's words are spaCy's, close to `plain`."""
NUMBER, NO_WORD = re.compile(r"\d+(?:\.\d+)?"), re.compile(r"[\W_]+")


def judge(corpus: Corpus, timings: list[Timing]) -> dict[str, Any]:
    """Judge what each tool dropped.

    Returns:
        `truth`: by definition of words, pairs, files that have a partner, files that would be dropped if of each
        connected component one stayed, and the pairs that `BANDS` bands of `ROWS` rows are expected not to collide for.
        `judged`: by tool, its `own_words`; by definition, files dropped without a partner and pairs missed.
    """
    import numpy as np

    from starloom.bench._similarity import shingle_sets, similar_pairs

    doc_ids = corpus.table.column("doc_id").to_pylist()
    decided = {t.tool.name: np.isin(doc_ids, t.dropped.doc_ids) for t in timings if t.dropped is not None}
    truth: dict[str, Any] = {}
    judged: dict[str, dict[str, Any]] = {name: {"own_words": words_of(name)} for name in decided}
    for words in DEFINITIONS:
        pairs, similarity = similar_pairs(shingle_sets(corpus.texts, functools.partial(_shingles, words=words)), THRESHOLD)
        has_partner = np.zeros(len(doc_ids), bool)
        has_partner[pairs] = True
        truth[words] = {
            "pairs": len(pairs),
            "files_with_partner": int(has_partner.sum()),
            "files_dropped": _num_dropped(pairs.tolist()),
            "pairs_expected_without_collision": float(((1 - similarity**ROWS) ** BANDS).sum()),
        }
        for name, is_dropped in decided.items():
            judged[name][words] = {
                "dropped_without_partner": int((is_dropped & ~has_partner).sum()),
                "pairs_missed": int((~is_dropped[pairs]).all(axis=1).sum()),
            }
    return {"truth": truth, "judged": judged}


def words_of(tool: str) -> Words:
    """Return the definition of words that is closest to the tool's own."""
    return next((words for start, words in OWN.items() if tool.startswith(start)), FOR_ALL)


def _shingles(text: str, words: Words) -> list[bytes] | list[str]:
    from starloom.tasks.kernels.duplicates.minhash import shingles

    if words != "plain":
        return shingles(text, NGRAM, words)
    split = NO_WORD.sub(" ", NUMBER.sub("0", text.lower())).split()
    return [" ".join(split[i : i + NGRAM]) for i in range(max(1, len(split) - NGRAM + 1))]


def _num_dropped(pairs: list[list[int]]) -> int:
    """Return the number of files minus the number of connected components."""
    parent: dict[int, int] = {}
    num_joined = 0
    for pair in pairs:
        left, right = (_root(parent, i) for i in pair)
        parent[left] = right
        num_joined += left != right
    return num_joined


def _root(parent: dict[int, int], i: int) -> int:
    while (above := parent.get(i, i)) != i:
        parent[i] = parent.get(above, above)
        i = above
    return i


def lines(report: dict[str, Any]) -> str:
    """Format the report as a table."""
    told = [
        f"{report['bench']}: {report['title']}",
        f"{report['documents']:,} documents, {report['bytes'] / BYTES_PER_MB:.1f} MB, load {report['load_average']}; pairs at {THRESHOLD}:",
    ]
    for words, truth in report["truth"].items():
        told.append(
            f"  {words} words ({DEFINITIONS[words]}): {truth['pairs']:,} among {truth['files_with_partner']:,} files, of which "
            f"{truth['files_dropped']:,} to drop; {BANDS} bands of {ROWS} would not see {truth['pairs_expected_without_collision']:.1f}"
        )
    told.append(f"{'':<34}{'':>18}{f'by {FOR_ALL} words':>28}{'by its own words':>28}")
    told.append(f"{'':<34}{'seconds':>9}{'dropped':>9}" + f"{'no partner':>14}{'pairs missed':>14}" * 2)
    return "\n".join([*told, *(_line(tool, report["judged"].get(tool["name"])) for tool in report["tools"])])


def _line(tool: dict[str, Any], judged: dict[str, Any] | None) -> str:
    name = f"{'*' if tool['is_ours'] else ' '} {tool['name']:<32}"
    if judged is None:
        return f"{name}{tool['problem']}"
    own = judged["own_words"]
    figures = "".join(f"{judged[words][what]:>14,}" for words in (FOR_ALL, own) for what in ("dropped_without_partner", "pairs_missed"))
    return f"{name}{min(tool['seconds']):>9.1f}{tool['dropped']:>9,}{figures}  {own}"
