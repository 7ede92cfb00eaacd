"""Licences recognised, held against ScanCode on this environment's licence files and against people on Debian's.

Debian's machine-readable copyright files (DEP-5) name each licence and quote its text: thousands of human judgements of texts. A text is
judged right where the ids found are those of the name; `or later` and `only` are told apart by a sentence that the text may lack, so a
second figure counts families. A name that is the package's own is no judgement and is left out.
"""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starloom.bench._tool import WARM_UP_DOCUMENTS, Corpus, Tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starloom.bench._measure import Timing

TITLE = "licences of the environment's licence files, and of Debian's copyright files as people named them"
MEGABYTES = 1
ROUNDS = 1
DEBIAN = Path("/usr/share/doc")
MIN_WORDS = 12
"""Words of a quoted text: a shorter one only points to another place."""
MAX_LISTED = 25


def _environment_texts(corpus: Corpus, folder: Path) -> list[str]:  # noqa: ARG001 - nothing is written
    """Return the distinct texts of the licence files of this environment, ScanCode's own data left out; few to warm up."""
    from starloom.tasks.kernels.sources.languages import classify

    root = Path(sysconfig.get_path("purelib"))
    paths = sorted(path for path in root.rglob("*") if path.is_file() and "licensedcode" not in path.parts)
    chosen = [path for path in paths if (classify(path.relative_to(root).as_posix()) or ("", None))[0] == "license"]
    texts = list(dict.fromkeys(path.read_text(encoding="utf-8", errors="replace") for path in chosen))
    return texts if corpus.table.num_rows > WARM_UP_DOCUMENTS else texts[:4]


def fast(text: str) -> frozenset[str]:
    """Return the ids that the exact rules find."""
    from starloom.tasks.kernels.licenses.policy import ids_in
    from starloom.tasks.kernels.licenses.statements import text_licenses

    return frozenset().union(*(ids_in(expression) for expression in text_licenses(text)))


def scancode(text: str) -> frozenset[str]:
    """Return the ids that ScanCode finds, without those that say nothing."""
    from starloom.tasks.kernels.licenses.policies import NEUTRAL, UNKNOWN_REFERENCE
    from starloom.tasks.kernels.licenses.policy import ids_in
    from starloom.tasks.kernels.licenses.scancode import scanned

    found = (ids_in(each.expression) for each in scanned(text) if each.expression is not None)
    return frozenset().union(*found) - NEUTRAL - {UNKNOWN_REFERENCE}


def _read_all(detect: Callable[[str], frozenset[str]]) -> Callable[[list[str]], object]:
    def run(texts: list[str]) -> object:
        return [detect(text) for text in texts]

    return run


TOOLS = [
    Tool("starloom", _read_all(fast), is_ours=True, prepare=_environment_texts),
    Tool("ScanCode, index loaded", _read_all(scancode), requires=("scancode-toolkit-mini",), prepare=_environment_texts),
]


def debian_judgements() -> Iterator[tuple[str, str]]:
    """Yield (SPDX expression, text) of every licence that Debian's copyright files name and quote, each pair once."""
    from starloom.tasks.kernels.licenses.deb822 import is_dep5, stanzas
    from starloom.tasks.kernels.licenses.names import debian_expression

    seen = set()
    for path in sorted(DEBIAN.glob("*/copyright")):
        text = path.read_text(encoding="utf-8", errors="replace")
        for fields in stanzas(text) if is_dep5(text) else ():
            name, _, quoted = fields.get("license", ("", 0))[0].partition("\n")
            expression = debian_expression(name)
            if expression is not None and len(quoted.split()) >= MIN_WORDS and (expression, quoted) not in seen:
                seen.add((expression, quoted))
                yield expression, quoted


def family(spdx_id: str) -> str:
    """Return the id of a licence without `only` or `or later`."""
    return re.sub(r"-(?:only|or-later)$", "", spdx_id)


def judge(corpus: Corpus, timings: list[Timing]) -> dict[str, Any]:
    """Judge both detectors.

    Returns:
        `debian`: by detector, the number of judgements, of those equal in ids, in families, and of equal class (permissive or not);
        `environment`: files, those of which both find the same ids, and those of the same class; `disagreements`: examples.
    """
    from starloom.tasks.kernels.licenses.policy import Policy, ids_in

    detectors = {t.tool.name: detect for t, detect in zip(timings, (fast, scancode), strict=True) if t.problem is None}
    policy = Policy()

    def permits(ids: frozenset[str]) -> bool:
        return bool(ids) and all(policy.judge_id(spdx_id) == "permissive" for spdx_id in ids)

    debian: dict[str, dict[str, int]] = {}
    disagreements: Counter[str] = Counter()
    for name, detect in detectors.items():
        figures = debian[name] = {"judgements": 0, "same_ids": 0, "same_families": 0, "same_class": 0}
        for expression, text in debian_judgements():
            told, found = ids_in(expression), detect(text)
            figures["judgements"] += 1
            figures["same_ids"] += told == found
            figures["same_families"] += {family(i) for i in told} == {family(i) for i in found}
            figures["same_class"] += permits(told) == permits(found)
            if {family(i) for i in told} != {family(i) for i in found}:
                disagreements[f"{name}, Debian says {expression}: {' '.join(sorted(found)) or 'nothing'}"] += 1
    environment = {"files": 0, "same_ids": 0, "same_class": 0}
    for text in _environment_texts(corpus, Path()) if len(detectors) == len(TOOLS) else ():
        ours, theirs = fast(text), scancode(text)
        environment["files"] += 1
        environment["same_ids"] += ours == theirs
        environment["same_class"] += permits(ours) == permits(theirs)
        if permits(ours) != permits(theirs):
            disagreements[f"environment: {' '.join(sorted(ours))} | ScanCode {' '.join(sorted(theirs))}"[:200]] += 1
    return {"debian": debian, "environment": environment, "disagreements": disagreements.most_common()}


def lines(report: dict[str, Any]) -> str:
    """Format the report."""
    told = [f"{report['bench']}: {report['title']}"]
    told += [
        f"  {tool['name']:<28}" + (tool["problem"] or f"{min(tool['seconds']):>8.2f} s for the environment's licence files")
        for tool in report["tools"]
    ]
    for name, figures in report["debian"].items():
        total = max(figures["judgements"], 1)
        shares = ", ".join(
            f"{100 * figures[what] / total:.1f} % {what.replace('_', ' ')}" for what in ("same_ids", "same_families", "same_class")
        )
        told.append(f"  Debian, {name}: {figures['judgements']:,} judgements: {shares}")
    found = report["environment"]
    told.append(
        f"  environment: {found['files']} texts, {found['same_ids']} with the same ids as ScanCode, {found['same_class']} of the same class"
    )
    told += [f"  {count:>4}  {words}" for words, count in report["disagreements"][:MAX_LISTED]]
    return "\n".join(told)
