"""Dropping by licence after the licences were judged."""

from pathlib import Path
from typing import get_args

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from starloom.lineage.views import PartSource
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.license_gate import LicenseGate, license_gate
from starloom.tasks.schemas import Docs, LicenseClass, Licenses

CLASSES = list(get_args(LicenseClass))


def documents(numbers):
    rows = [
        {"doc_id": f"{n:032x}", "source": "s", "kind": "code", "repo": "r", "path": f"{n}.py", "content": "x", "size": 1, "swhid": "swh",
         "is_vendor": False, "is_generated": False, "is_documentation": False}
        for n in numbers
    ]  # fmt: skip
    return Docs.of(pa.Table.from_pylist(rows, schema=Docs.SCHEMA))


def known(found):
    rows = [{"doc_id": f"{n:032x}", "license_class": name, "evidence": words} for n, (name, words) in found.items()]
    return Licenses.of(pa.Table.from_pylist(rows, schema=Licenses.SCHEMA))


def gated(docs, found, **knobs):
    return license_gate.function(docs, known(found), LicenseGate(**knobs), Runtime(Path())).read().to_pylist()


FINDINGS = st.dictionaries(st.integers(0, 9), st.tuples(st.sampled_from(CLASSES), st.none() | st.text(max_size=3)))


@given(st.lists(st.integers(0, 9), unique=True), st.data(), FINDINGS, st.lists(st.sampled_from(CLASSES), min_size=1))
def test_each_document_is_kept_as_its_own_row_says_in_whatever_order_and_number_the_rows_are(numbers, data, found, allowed):
    docs = documents(numbers)
    live = data.draw(st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers)))
    left = Docs([PartSource(docs.sources[0].data, docs.verdicts(pa.array(live, pa.bool_())).read())])
    expected = []
    for n, is_live in zip(numbers, live, strict=True):
        name, words = found.get(n, ("unjudged", None))
        keep, rule, detail = (name in allowed, name, words) if is_live else (None, None, None)
        expected.append({"doc_id": f"{n:032x}", "keep": keep, "rule": rule, "value": None, "threshold": None, "detail": detail})
    assert gated(left, found, allow_classes=allowed) == expected


def test_only_permissive_files_pass_unless_told_otherwise_and_what_nobody_judged_never():
    found = {i: (name, "why") for i, name in enumerate(CLASSES)}
    docs = documents(range(5))
    assert [v["keep"] for v in gated(docs, found)] == [True, False, False, False, False]
    told = gated(docs, found, allow_classes=CLASSES)
    assert [v["keep"] for v in told] == [True, True, True, True, False]
    assert (told[4]["rule"], told[4]["detail"]) == ("unjudged", None)


@pytest.mark.parametrize("classes", [[], ["unjudged"], ["Permissive"]])
def test_no_class_and_unknown_ones_are_refused(classes):
    with pytest.raises(ValidationError, match="allow_classes"):
        LicenseGate(allow_classes=classes)
