"""Keep files whose licence permits training, and say by which evidence.

Reads   Docs      doc_id, source, kind, repo, path, content, swhid, declared_license, is_vendor; a repository never straddles parts
Writes  Verdicts  rule = permissive, no-license, non-permissive, unknown-license, license-text, contradicting-header, sibling-header;
                  value = score of the evidence in percent; detail = the evidence, such as "MIT (declared)",
                  "GPL-3.0-or-later (header, line 2)", "Apache-2.0 (vendor/x/LICENSE, line 1)"
        Licenses  doc_id, license_class, evidence; rule, and of the statement that decided: expression, evidence_path, evidence_line,
                  score, detector. The same of every document but licence files, kept or dropped
        LicenseStatements  all that files say of licences, before a policy weighs it: cached by `detector` alone

Evidence, strongest first, under the policy `permissive-only`:
1. What a file states in its own first lines (SPDX tag, field, standard notice, or the file that it points to: "see Copyright
   Notice in lua.h") decides for that file alone; a choice between a GNU and a permissive licence ("dual licensed") settles nothing
   there. Where it contradicts the repository, the rule says so.
2. What the repository's metadata says of that file by name: REUSE.toml, .reuse/dep5, debian/copyright.
3. What the repository declares (its source's metadata; package.json, Cargo.toml and other manifests, each for its folder) and every
   licence file of a folder above the file, but the root's: all must permit. The root's licence files are not asked where the licence
   is declared: they often add the terms of bundled binaries. But where they say nothing permissive at all, they contradict a
   permissive declaration, and count.
4. Without a declared licence, the licence files of the root and of all folders above the file: all must permit.
5. Third-party notices speak for the folder they lie in below the root, where no licence file does; never for the repository.
6. In a repository that says nothing, what its other files say of themselves, where it does not permit.
`stack-v1` and `stack-v2` weigh the same statements as those data sets did. A licence file that cannot be read counts as unknown.
Licence files themselves are evidence, not training text, and are dropped.

Copies of a file under another licence are seen by deduplication only if they get that far: let all four classes through
here, and put license_gate behind the deduplication to drop what may not stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from starloom.lineage.errors import ConfigError, did_you_mean
from starloom.tasks.common.license_evidence import Evidence
from starloom.tasks.common.license_statements import read_statements
from starloom.tasks.frame.stage import Config, Runtime, prepare, stage
from starloom.tasks.schemas import Docs, LicenseClass, Licenses, LicenseStatements, Verdicts

if TYPE_CHECKING:
    import pyarrow as pa

    from starloom.tasks.kernels.licenses.evidence import Finding
    from starloom.tasks.kernels.licenses.policy import Policy


class LicenseDetection(Config):
    """Knobs of `statements`."""

    detector: Literal["fast", "scancode"] = "fast"
    """Recognise texts and headers by exact rules alone, or give what they leave over to ScanCode, as The Stack v2 did
    (pip install 'starloom[licenses]')."""

    def identity(self) -> dict[str, Any]:
        """Return the knobs, and the version of ScanCode where it detects."""
        from starloom.tasks.kernels.licenses.scancode import installed_version

        return super().identity() | ({"scancode": installed_version()} if self.detector == "scancode" else {})

    def check_here(self, step: str) -> None:
        """Refuse ScanCode where it is not installed.

        Raises:
            ConfigError: naming the knob.
        """
        from starloom.tasks.kernels.licenses.scancode import DISTRIBUTION, installed_version

        if self.detector == "scancode" and installed_version() is None:
            raise ConfigError(
                f"{step}.detector is scancode, and {DISTRIBUTION} is not installed",
                hint=f"pip install 'starloom[licenses]', or set {step}.detector to fast",
            )


class LicenseFilter(LicenseDetection):
    """Knobs of license_filter."""

    policy: Literal["permissive-only", "stack-v1", "stack-v2"] = "permissive-only"
    """How evidence becomes a class: the nearest to the file, with the licences that Blue Oak Council or ScanCode call permissive; or as The
    Stack v1 (every licence of the repository in its list) or v2 (its decision table over the folders above) did."""
    allow_classes: list[LicenseClass] = Field(default=["permissive"], min_length=1)
    """Classes to keep. StarCoder kept permissive; StarCoder2 permissive and no-license. All four: judge here, drop with license_gate."""
    allow: list[str] = Field(default=[])
    """SPDX ids to count as permissive whatever their category, such as MPL-2.0; or categories, such as Copyleft Limited."""
    deny: list[str] = Field(default=[])
    """SPDX ids or categories to count as non-permissive. An id goes before a category, and what is denied before what is allowed."""

    @field_validator("allow", "deny")
    @classmethod
    def _known_ids(cls, ids: list[str]) -> list[str]:
        from starloom.tasks.kernels.licenses.policy import canonical_id, categories, known_ids

        by_name = {category.lower(): category for category in categories()}
        known = [(name, canonical_id(name) or by_name.get(name.lower())) for name in ids]
        for name, canonical in known:
            if canonical is None:
                nearest = did_you_mean(name, [*known_ids(), *by_name.values()])
                raise ValueError(f"{name!r} is not an SPDX id, nor a category of licences: {nearest}")
        return sorted(str(canonical) for _, canonical in known)


@prepare(libraries=("identify", "license-expression"))
def statements(docs: Docs, cfg: LicenseDetection, runtime: Runtime) -> LicenseStatements:
    """Read all that the files of a part say about licences."""
    from starloom.tasks.kernels.licenses.scancode import scanned

    table = docs.read(["doc_id", "source", "kind", "repo", "path", "content", "swhid"])
    found = read_statements(table, scanned if cfg.detector == "scancode" else None)
    runtime.count(license_statements=found.read(["doc_id"]).num_rows)
    return found


@stage(libraries=("license-expression",), prepare=statements)
def license_filter(docs: Docs, statements: LicenseStatements, cfg: LicenseFilter, runtime: Runtime) -> tuple[Verdicts, Licenses]:  # noqa: ARG001 - quick enough to need no progress
    """Judge every file by the evidence nearest to it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from starloom.tasks.kernels.licenses.policy import Policy

    table = docs.read(["doc_id", "source", "kind", "repo", "path", "declared_license", "is_vendor"])
    found = _judge(table, statements.read(), Policy(cfg.policy, frozenset(cfg.allow), frozenset(cfg.deny)))
    keep = [each.license_class in cfg.allow_classes for each in found]
    evidence = [each.evidence for each in found]
    judged = pa.table(
        {
            "doc_id": table.column("doc_id"),
            "license_class": pa.array([each.license_class for each in found], pa.string()),
            "evidence": pa.array([each.words for each in found], pa.string()),
            "rule": pa.array([each.rule for each in found], pa.string()),
            "expression": pa.array([each and each.expression for each in evidence], pa.string()),
            "evidence_path": pa.array([each and each.path for each in evidence], pa.string()),
            "evidence_line": pa.array([each and each.line for each in evidence], pa.int64()),
            "score": pa.array([each and each.score for each in evidence], pa.float64()),
            "detector": pa.array([each and each.rule for each in evidence], pa.string()),
        }
    )
    is_license = pc.equal(table.column("kind"), "license")
    verdicts = docs.verdicts(keep, rule=judged.column("rule"), value=judged.column("score"), detail=judged.column("evidence"))
    return verdicts, Licenses.of(judged.filter(pc.invert(is_license)))


def _judge(table: pa.Table, stated: pa.Table, policy: Policy) -> list[Finding]:
    """Return the finding for each row."""
    from starloom.tasks.kernels.licenses.evidence import Finding

    evidence = Evidence(table, stated)
    text = Finding("license-text", "license-text", "evidence, not training text", None)
    rows = zip(evidence.keys, table.column("kind").to_pylist(), evidence.paths, strict=True)
    return [
        text if kind == "license" else evidence.repositories[key].judge(path, evidence.headers.get(row), policy)
        for row, (key, kind, path) in enumerate(rows)
    ]
