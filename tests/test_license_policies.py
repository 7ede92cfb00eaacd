"""The named policies, against plain readings of what was published; allowed and denied ids and categories; ScanCode as detector."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from identify.vendor.licenses import LICENSES
from pydantic import ValidationError

from starloom.lineage.errors import ConfigError
from starloom.tasks.kernels.licenses import evidence, policies, scancode
from starloom.tasks.kernels.licenses.policy import Policy, canonical_id
from starloom.tasks.license_filter import LicenseFilter
from tests.licensing import judged

TEXTS = dict(LICENSES)
MIT, GPL = TEXTS["MIT"], TEXTS["GPL-3.0"]
UNKNOWN_REFERENCE = "LicenseRef-scancode-unknown-license-reference"
WHITELIST = {"MIT", "Apache-2.0", "ISC"}
IDS = [*sorted(WHITELIST), "GPL-3.0-only", "MPL-2.0", UNKNOWN_REFERENCE, *sorted(policies.NEUTRAL)[:3]]


def license_type(gha, detected):
    """The Stack v2's table, written out: its classes with our names."""
    if gha in WHITELIST:
        return "permissive"
    if gha is not None:
        return "non-permissive"
    permissive = WHITELIST & detected
    others = detected - permissive - policies.NEUTRAL
    if permissive:
        others -= {UNKNOWN_REFERENCE}
    if others:
        return "non-permissive"
    return "permissive" if permissive else "no-license"


@given(
    st.none() | st.sampled_from(["MIT", "GPL-3.0-only"]),
    st.dictionaries(st.sampled_from(["", "a/", "a/b/", "c/"]), st.sets(st.sampled_from(IDS))),
)
def test_stack_v2_is_its_published_table_over_the_folders_above(gha, found):
    def stated(spdx_id, folder):
        return evidence.Stated(spdx_id, f"{folder}LICENSE", 1, 100.0, "tag", spdx_id)

    texts = {folder: [stated(spdx_id, folder) for spdx_id in sorted(ids)] for folder, ids in found.items()}
    repository = evidence.Repository(gha, texts=texts)
    detected = set().union(*(found.get(folder, set()) for folder in ("", "a/", "a/b/")))
    assert repository.judge("a/b/x.py", None, Policy("stack-v2")).license_class == license_type(gha, detected)


def test_stack_v1_asks_every_licence_of_the_repository():
    files = {"LICENSE": MIT, "a.py": "x", "vendor/COPYING": GPL, "vendor/b.py": "x"}
    assert {p: e["license_class"] for p, e in judged(files, policy="stack-v1").items()} == {
        "a.py": "non-permissive",
        "vendor/b.py": "non-permissive",
    }
    assert judged(files)["a.py"]["license_class"] == "permissive"
    assert judged({"a.py": "x"}, policy="stack-v1")["a.py"]["license_class"] == "no-license"
    unlisted = {"LICENSE": "SPDX-License-Identifier: FSFAP", "a.py": "x"}  # added to the list after The Stack v1.1
    assert [judged(unlisted, policy=policy)["a.py"]["license_class"] for policy in ("stack-v1", "permissive-only")] == [
        "non-permissive",
        "permissive",
    ]


def test_the_lists_are_as_long_as_published_and_of_known_ids():
    assert (len(set(policies.BLUE_OAK_9)), len(set(policies.BLUE_OAK_15))) == (185, 224)
    unknown = [spdx_id for spdx_id in [*policies.BLUE_OAK_15, *policies.STACK_V1_0] if canonical_id(spdx_id) is None]
    assert len(unknown) <= 3, unknown
    assert {name for name, table in policies.POLICIES.items() if "MPL-2.0" in table.ids or "EPL-1.0" in table.ids} == set()


def test_categories_may_be_allowed_and_denied_and_ids_go_first():
    policy = Policy(allow=frozenset({"Copyleft Limited"}), deny=frozenset({"LGPL-3.0-only", "Permissive"}))
    judged_ids = {spdx_id: policy.judge(spdx_id) for spdx_id in ("MPL-2.0", "LGPL-3.0-only", "GPL-3.0-only", "ISC")}
    assert judged_ids == {
        "MPL-2.0": "permissive",
        "LGPL-3.0-only": "non-permissive",
        "GPL-3.0-only": "non-permissive",
        "ISC": "non-permissive",
    }
    assert LicenseFilter(allow=["copyleft limited"]).allow == ["Copyleft Limited"]
    with pytest.raises(ValidationError, match="nor a category of licences: did you mean 'Copyleft Limited'"):
        LicenseFilter(allow=["Copyleft Limitd"])


def test_what_scancode_only_suspects_is_unknown_and_what_is_neutral_says_nothing():
    policy = Policy()
    assert policy.judge("LicenseRef-scancode-free-unknown") == "unknown-license"
    assert policy.judge(f"MIT AND {UNKNOWN_REFERENCE}") == "permissive"
    assert policy.judge("MIT AND LicenseRef-scancode-warranty-disclaimer") == "permissive"
    assert policy.judge("LicenseRef-scancode-warranty-disclaimer") == "unknown-license"


def test_the_detector_and_its_version_are_identity_and_the_policy_is_not_of_the_first_half():
    fast, slow = LicenseFilter(), LicenseFilter(detector="scancode")
    assert "scancode" not in fast.identity()
    assert slow.identity()["scancode"] == scancode.installed_version()


def test_a_missing_scancode_is_refused_with_what_to_type(monkeypatch):
    monkeypatch.setattr(scancode, "installed_version", lambda: None)
    LicenseFilter().check_here("license_filter")
    with pytest.raises(ConfigError, match="license_filter.detector is scancode, and scancode-toolkit-mini is not installed") as raised:
        LicenseFilter(detector="scancode").check_here("license_filter")
    assert "pip install 'starloom[licenses]'" in str(raised.value.hint)


@pytest.mark.slow
def test_scancode_reads_what_the_exact_rules_leave_over():
    pytest.importorskip("licensedcode")
    odd = "Permission to copy, use, modify, sell and distribute this software is granted provided this copyright notice appears in all"
    odd += " copies. This software is provided as is without express or implied warranty."
    files = {"LICENSE": f"Ours\n\n{odd}\n", "a.py": "x = 1"}
    assert judged(files)["a.py"]["license_class"] == "unknown-license"
    found = judged(files, detector="scancode")["a.py"]
    assert (found["license_class"], found["evidence_line"], found["detector"].startswith("scancode:")) == ("permissive", 3, True)
    header = {"a.c": f"/*\n * {odd}\n */", "b.c": "/* Check the licence of the user, whose permission is needed. */"}
    found = judged(header, detector="scancode")
    assert (found["a.c"]["license_class"], found["b.c"]["license_class"]) == ("permissive", "no-license")
    assert judged({"LICENSE": TEXTS["MIT"], "a.py": "x"}, detector="scancode")["a.py"]["detector"] == "text:MIT", (
        "the fast path stays in front"
    )
    assert judged(files, detector="scancode") == judged(files, detector="scancode")
