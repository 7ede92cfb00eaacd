"""Which files may be trained on, and by which evidence."""

import hashlib
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from identify.vendor.licenses import LICENSES
from pydantic import ValidationError

from starloom.lineage.views import PartSource
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.license_filter import LicenseFilter, license_filter
from starloom.tasks.schemas import Docs, LicenseClass

TEXTS = dict(LICENSES)
MIT, GPL, APACHE = TEXTS["MIT"], TEXTS["GPL-3.0"], TEXTS["Apache-2.0"]


def document(path: str, content: str = "x = 1", repo: str = "r", declared: str | None = None, source: str = "s"):
    is_license = any(word in path.lower() for word in ("license", "copying", "notice"))
    return {
        "doc_id": hashlib.md5(f"{source}/{repo}/{path}".encode()).hexdigest(),
        "source": source,
        "kind": "license" if is_license else "code",
        "repo": repo,
        "path": path,
        "content": content,
        "size": len(content),
        "swhid": hashlib.sha1(content.encode()).hexdigest(),
        "declared_license": declared,
        "is_vendor": False,
        "is_generated": False,
        "is_documentation": False,
    }


def made(rows, **knobs):
    """What the stage writes: Verdicts and Licenses."""
    return filtered(Docs.of(pa.Table.from_pylist(rows, schema=Docs.SCHEMA)), LicenseFilter(**knobs))


def filtered(docs, cfg):
    """Both halves of the stage, one after the other."""
    stated = license_filter.prepare.function(docs, license_filter.prepared_config(cfg), Runtime(Path()))
    return license_filter.function(docs, stated, cfg, Runtime(Path()))


def judge(rows, **knobs):
    verdicts, _ = made(rows, **knobs)
    return {row["path"]: (v["keep"], v["rule"], v["detail"]) for row, v in zip(rows, verdicts.read().to_pylist(), strict=True)}


def test_a_declared_license_decides():
    rows = [document("a.py", repo=repo, declared=repo) for repo in ("MIT", "GPLv3", "MIT OR GPL-2.0-only")]
    verdicts = made(rows)[0].read().to_pylist()
    assert [(v["keep"], v["rule"], v["detail"]) for v in verdicts] == [
        (True, "permissive", "MIT (declared)"),
        (False, "non-permissive", "GPL-3.0-only (declared)"),
        (True, "permissive", "MIT OR GPL-2.0-only (declared)"),
    ]


def test_a_header_decides_for_its_own_file_alone_whatever_the_repository_says():
    rows = [
        document("a.py", "# x\n# SPDX-License-Identifier: GPL-3.0-or-later", declared="MIT"),
        document("b.py", declared="MIT"),
        document("c.py", "// SPDX-License-Identifier: BSD-3-Clause", repo="q", declared="GPL-3.0-only"),
        document("d.py", "// SPDX-License-Identifier: Mine-1.0", declared="MIT"),
    ]
    assert judge(rows) == {
        "a.py": (False, "contradicting-header", "GPL-3.0-or-later (header, line 2); MIT (declared)"),
        "b.py": (True, "permissive", "MIT (declared)"),
        "c.py": (True, "contradicting-header", "BSD-3-Clause (header, line 1); GPL-3.0-only (declared)"),
        "d.py": (False, "unknown-license", "Mine-1.0 (header, line 1)"),
    }


def test_license_files_hold_for_their_folder_and_below():
    rows = [
        document("LICENSE", MIT),
        document("a.py"),
        document("vendor/gpl/COPYING", GPL),
        document("vendor/gpl/deep/b.py"),
        document("vendor/gplx/c.py"),
        document("vendor/licenses/LICENSE-APACHE", APACHE),
        document("vendor/d.py"),
    ]
    found = judge(rows)
    assert found["a.py"] == (True, "permissive", "MIT (LICENSE, line 1)")
    assert found["vendor/gpl/deep/b.py"] == (False, "non-permissive", "GPL-3.0-only (vendor/gpl/COPYING, line 1)")
    assert found["vendor/gplx/c.py"] == (True, "permissive", "MIT (LICENSE, line 1); Apache-2.0 (vendor/licenses/LICENSE-APACHE, line 1)")
    assert found["vendor/d.py"] == found["vendor/gplx/c.py"]


def test_a_declaration_replaces_the_roots_files_but_not_those_of_folders():
    rows = [
        document("LICENSE", MIT + "\n\nbundles libfoo\n\n" + GPL, declared="MIT"),
        document("a.py", declared="MIT"),
        document("third/COPYING", GPL, declared="MIT"),
        document("third/b.py", declared="MIT"),
    ]
    found = judge(rows)
    assert found["a.py"] == (True, "permissive", "MIT (declared)")
    assert found["third/b.py"] == (False, "non-permissive", "GPL-3.0-only (third/COPYING, line 1)")


def test_root_files_that_permit_nothing_contradict_a_permissive_declaration():
    rows = [document("LICENSE", GPL, declared="MIT"), document("a.py", declared="MIT"), document("v/LICENSE", MIT, declared="MIT")]
    assert judge([*rows, document("v/b.py", declared="MIT")])["v/b.py"] == (False, "non-permissive", "GPL-3.0-only (LICENSE, line 1)")
    assert judge(rows)["a.py"] == (False, "non-permissive", "GPL-3.0-only (LICENSE, line 1)")
    assert judge([*rows, document("LICENSE.MIT", MIT, declared="MIT")])["a.py"] == (True, "permissive", "MIT (declared)")
    assert judge([document("NOTICE", GPL, declared="MIT"), document("a.py", declared="MIT")])["a.py"][1] == "permissive"
    assert judge(rows, allow=["GPL-3.0-only"])["a.py"] == (True, "permissive", "MIT (declared)")


def test_a_pasted_license_that_nobody_knows_is_quoted_briefly():
    declared = "You may look, but not touch. " * 30
    assert judge([document("a.py", declared=declared)])["a.py"] == (False, "unknown-license", f"{declared[:100]!r} (declared)")


def test_a_vendored_wheels_license_holds_for_its_package():
    rows = [document("_vendor/x_y-1.0.dist-info/LICENSE", GPL, declared="MIT"), document("_vendor/x_y/a.py", declared="MIT")]
    found = judge([*rows, document("_vendor/z.py", declared="MIT")])
    assert found["_vendor/x_y/a.py"] == (False, "non-permissive", "GPL-3.0-only (_vendor/x_y-1.0.dist-info/LICENSE, line 1)")
    assert found["_vendor/z.py"] == (True, "permissive", "MIT (declared)")


def test_a_file_of_several_licenses_needs_all_of_them_permissive():
    assert judge([document("LICENSE", MIT + "\n\n" + APACHE), document("a.py")])["a.py"] == (
        True,
        "permissive",
        "Apache-2.0 AND MIT (LICENSE, line 1)",
    )
    assert judge([document("LICENSE", MIT + "\n\n" + GPL), document("a.py")])["a.py"][:2] == (False, "non-permissive")


def test_license_files_themselves_are_dropped():
    assert judge([document("LICENSE", MIT, declared="MIT")])["LICENSE"] == (False, "license-text", "evidence, not training text")


def test_what_nobody_can_identify_is_unknown_unless_something_else_is_known():
    mystery = "You may look, but not touch."
    assert judge([document("LICENSE", mystery), document("a.py")])["a.py"] == (
        False,
        "unknown-license",
        "unidentified text (LICENSE, line 1)",
    )
    assert judge([document("a.py", declared="Dual License")])["a.py"] == (False, "unknown-license", "'Dual License' (declared)")
    rows = [document("LICENSE", mystery, declared="MIT"), document("a.py", declared="MIT")]
    assert judge(rows)["a.py"] == (True, "permissive", "MIT (declared)")
    assert judge([document("LICENSE", MIT, declared="Dual License"), document("a.py", declared="Dual License")])["a.py"][1] == "permissive"


def test_a_notice_that_names_no_license_is_no_license():
    assert judge([document("NOTICE", "Made by us."), document("a.py")])["a.py"] == (False, "no-license", None)


def test_repositories_of_the_same_name_in_two_sources_are_two():
    rows = [document("LICENSE", GPL, source="one"), document("a.py", source="one"), document("b.py", source="two", declared="MIT")]
    found = judge(rows)
    assert (found["a.py"][0], found["b.py"][0]) == (False, True)


def test_classes_and_ids_to_keep_are_knobs():
    rows = [document("a.py"), document("b.py", repo="q", declared="mpl-2.0"), document("c.py", repo="p", declared="MIT")]
    assert {path: keep for path, (keep, *_) in judge(rows).items()} == {"a.py": False, "b.py": False, "c.py": True}
    chosen = judge(rows, allow_classes=["permissive", "no-license"], allow=["mpl-2.0"], deny=["MIT"])
    assert {path: keep for path, (keep, *_) in chosen.items()} == {"a.py": True, "b.py": True, "c.py": False}


@pytest.mark.parametrize("knob", ["allow", "deny"])
def test_a_misspelt_id_is_refused_with_the_nearest(knob):
    with pytest.raises(ValidationError, match=r"'Apache2.0' is not an SPDX id, nor a category of licences: did you mean 'Apache-2.0'"):
        LicenseFilter.model_validate({knob: ["Apache2.0"]})


def test_no_class_at_all_is_refused():
    with pytest.raises(ValidationError, match="allow_classes"):
        LicenseFilter(allow_classes=[])


def test_no_documents_give_no_verdicts():
    assert judge([]) == {}


PATHS = st.sampled_from(["a.py", "LICENSE", "x/a.py", "x/COPYING", "x/y/b.py", "x/y/LICENSE", "z/c.py"])
CONTENTS = st.sampled_from([MIT, GPL, "x = 1", "", "# SPDX-License-Identifier: MIT", "# SPDX-License-Identifier: GPL-3.0-only", "\0é"])


@given(
    st.dictionaries(st.tuples(st.sampled_from("rq"), PATHS), CONTENTS, max_size=12),
    st.fixed_dictionaries({"r": st.sampled_from([None, "MIT", "GPLv3", "?"]), "q": st.none()}),
)
def test_a_repositorys_verdicts_do_not_depend_on_its_neighbours_or_their_order(files, declared):
    rows = [document(path, content, repo=repo, declared=declared[repo]) for (repo, path), content in files.items()]

    def verdicts(chosen):
        return made(chosen)[0].read().to_pylist()

    together = sorted(verdicts(rows), key=lambda v: v["doc_id"])
    apart = [v for repo in "rq" for v in verdicts([row for row in reversed(rows) if row["repo"] == repo])]
    assert together == sorted(apart, key=lambda v: v["doc_id"])
    assert all(v["keep"] == (v["rule"] in ("permissive", "contradicting-header") and v["detail"][:3] == "MIT") for v in together)


ALL_CLASSES = list(get_args(LicenseClass))


@given(
    st.dictionaries(st.tuples(st.sampled_from("rq"), PATHS), CONTENTS, max_size=12),
    st.fixed_dictionaries({"r": st.sampled_from([None, "MIT", "GPLv3", "?"]), "q": st.none()}),
    st.lists(st.sampled_from(ALL_CLASSES), min_size=1, unique=True),
)
def test_licenses_say_what_the_verdicts_say_of_all_but_licence_files_whatever_is_dropped(files, declared, allowed):
    rows = [document(path, content, repo=repo, declared=declared[repo]) for (repo, path), content in files.items()]
    verdicts, licenses = made(rows, allow_classes=allowed)
    found = list(zip(rows, verdicts.read().to_pylist(), strict=True))
    judged = {each["doc_id"]: each for each in licenses.read().to_pylist()}
    assert list(judged) == [row["doc_id"] for row, _ in found if row["kind"] != "license"]
    for row, v in found:
        if row["kind"] != "license":
            each = judged[row["doc_id"]]
            assert (each["evidence"], each["rule"], each["score"]) == (v["detail"], v["rule"], v["value"])
            assert v["keep"] == (each["license_class"] in allowed)
            assert each["rule"] in (each["license_class"], "contradicting-header", "sibling-header")
            assert (each["expression"] is None) or each["expression"] in each["evidence"]


def test_with_all_classes_allowed_only_licence_files_are_dropped():
    rows = [document("LICENSE", GPL), document("a.py"), document("b.py", repo="q"), document("c.py", repo="p", declared="Dual License")]
    found = judge(rows, allow_classes=ALL_CLASSES)
    assert {path: (keep, rule) for path, (keep, rule, _) in found.items()} == {
        "LICENSE": (False, "license-text"),
        "a.py": (True, "non-permissive"),
        "b.py": (True, "no-license"),
        "c.py": (True, "unknown-license"),
    }


def test_what_an_earlier_filter_dropped_is_not_judged():
    rows = [document("a.py"), document("b.py")]
    docs = Docs.of(pa.Table.from_pylist(rows, schema=Docs.SCHEMA))
    left = Docs([PartSource(docs.sources[0].data, docs.verdicts([False, True]).read())])
    _, licenses = filtered(left, LicenseFilter())
    assert [(each["doc_id"], each["license_class"]) for each in licenses.read().to_pylist()] == [(rows[1]["doc_id"], "no-license")]
