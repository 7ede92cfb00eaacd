import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.lineage import keys

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


@given(JSON)
def test_canonical_bytes_are_json_of_the_same_value(value):
    assert json.loads(keys.canonical(value)) == value


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers(), min_size=2))
def test_order_of_a_mapping_does_not_matter(value):
    assert keys.digest(value) == keys.digest(dict(reversed(value.items())))


@pytest.mark.parametrize("value", [{1, 2}, Path("x"), object(), float("nan"), float("inf"), {"a": b"x"}, {1: 2}, [lambda: 0]])
def test_what_has_no_stable_bytes_is_refused_by_name(value):
    with pytest.raises(TypeError, match=r"value"):
        keys.canonical(value)


def test_file_digest_is_what_sha256sum_prints(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"abc" * 100_000)
    assert keys.file_digest(file) == hashlib.sha256(b"abc" * 100_000).hexdigest()
