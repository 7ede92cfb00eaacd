"""Drop files whose licence, as license_filter judged it, does not permit training.

license_filter can let every class through, so that deduplication sees a file under all the licences that it goes by and
elects the copy to keep; this gate then drops what the policy does not permit.

Reads   Docs      doc_id
        Licenses  doc_id, license_class, evidence
Writes  Verdicts  rule = permissive, no-license, unknown-license, non-permissive, or unjudged where Licenses has no row of the
                  document, which drops it; detail = the evidence
"""

from __future__ import annotations

from pydantic import Field

from starloom.tasks.frame.stage import Config, Runtime, stage
from starloom.tasks.schemas import Docs, LicenseClass, Licenses, Verdicts


class LicenseGate(Config):
    """Knobs of license_gate."""

    allow_classes: list[LicenseClass] = Field(default=["permissive"], min_length=1)
    """Classes to keep. StarCoder kept permissive; StarCoder2 permissive and no-license."""


@stage()
def license_gate(docs: Docs, licenses: Licenses, cfg: LicenseGate, runtime: Runtime) -> Verdicts:  # noqa: ARG001 - quick enough to need no progress
    """Look each document's licence class up."""
    import pyarrow as pa
    import pyarrow.compute as pc

    judged = licenses.read().combine_chunks()
    found = judged.take(pc.index_in(docs.read(["doc_id"]).column("doc_id"), value_set=judged.column("doc_id")))
    classes = found.column("license_class")
    keep = pc.is_in(classes, value_set=pa.array(cfg.allow_classes, pa.string()))
    return docs.verdicts(keep, rule=pc.fill_null(classes, "unjudged"), detail=found.column("evidence"))
