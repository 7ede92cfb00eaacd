"""Two texts side by side: nothing is lost, what is marked differs, and large or hostile texts stay small and quick."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.queries.differences import COMPARED_LINES, SHOWN_CHARACTERS, SHOWN_LINES, changed_pieces, side_by_side
from tests.sizes import examples

LINES = st.lists(st.sampled_from(["a = 1", "a = 2", "b", "", "}", "é x", "long " * 5]), max_size=30)


def told(side):
    return "".join(text for text, _ in side["pieces"])


@settings(max_examples=examples(60))
@given(LINES, LINES)
def test_the_rows_are_both_texts_in_order(first, second):
    found = side_by_side("\n".join(first), "\n".join(second))
    texts = ("\n".join(first).split("\n"), "\n".join(second).split("\n"))
    at = [0, 0]
    for row in found["rows"]:
        if row["kind"] == "gap":
            at = [position + row["num_same"] for position in at]
            continue
        assert (row["kind"] == "same") is (row["old"] is not None and row["new"] is not None and told(row["old"]) == told(row["new"]))
        assert {"gone": row["new"], "come": row["old"]}.get(row["kind"]) is None
        for side, name in enumerate(("old", "new")):
            if row[name] is not None:
                assert row[name]["number"] == at[side] + 1
                assert told(row[name]) == texts[side][at[side]]
                at[side] += 1
    if found["rows"]:
        assert at == [len(text) for text in texts], "no line is lost"
    else:
        assert texts[0] == texts[1]
    assert found["num_uncompared"] == found["num_unshown"] == 0
    assert found["num_come"] - found["num_gone"] == len(texts[1]) - len(texts[0])


@settings(max_examples=examples(60))
@given(st.text(alphabet="ab \té(=", max_size=30), st.text(alphabet="ab \té(=", max_size=30))
def test_pieces_are_the_lines_and_what_is_not_marked_is_equal(old, new):
    first, second = changed_pieces(old, new)
    assert ("".join(text for text, _ in first), "".join(text for text, _ in second)) == (old, new)
    kept = ["".join(text for text, is_changed in side if not is_changed) for side in (first, second)]
    assert kept[0] == kept[1]
    assert any(is_changed for _, is_changed in [*first, *second]) is (old != new)


def test_only_what_changed_inside_a_line_is_marked():
    found = side_by_side("x\ntotal = price * 2\ny", "x\ntotal = price * 3\ny")
    (row,) = [row for row in found["rows"] if row["kind"] == "changed"]
    assert row["old"]["pieces"] == [["total = price * ", False], ["2", True]]
    assert row["new"]["pieces"] == [["total = price * ", False], ["3", True]]


def test_a_change_in_the_middle_of_a_huge_file_is_found_and_little_is_told():
    lines = [f"line {number}" for number in range(50_000)]
    changed = [*lines[:30_000], "another line 30000", *lines[30_001:]]
    found = side_by_side("\n".join(lines), "\n".join(changed))
    assert [row["kind"] for row in found["rows"]] == ["gap", *["same"] * 3, "changed", *["same"] * 3, "gap"]
    assert (found["rows"][0]["num_same"], found["rows"][-1]["num_same"]) == (29_997, 19_996)
    assert found["num_uncompared"] == 0


@pytest.mark.parametrize(
    ("old", "new", "num_uncompared"),
    [
        ("\n".join(f"a{n}" for n in range(9000)), "\n".join(f"b{n}" for n in range(9000)), 2 * (9000 - COMPARED_LINES)),
        ("}\n" * 9000, "{\n" * 9000, 2 * (9000 - COMPARED_LINES)),
        ("x" * 2_000_000, "y" * 2_000_000, 0),
        (" ".join(f"w{n}" for n in range(100_000)), " ".join(f"w{n}" for n in range(1, 100_000)), 0),
        ("", "a\n" * 5000, 5000 - COMPARED_LINES),
    ],
)
def test_hostile_texts_are_bounded_and_what_is_left_out_is_said(old, new, num_uncompared):
    found = side_by_side(old, new)
    assert len(found["rows"]) <= SHOWN_LINES
    sides = [row[name] for row in found["rows"] for name in ("old", "new") if row[name]]
    assert all(len(told(side)) <= SHOWN_CHARACTERS for side in sides)
    left_out = found["num_uncompared"] + found["num_unshown"] + sum(side["left_out"] for side in sides)
    assert left_out > 0
    assert found["num_uncompared"] == num_uncompared


def test_a_cut_line_shows_its_first_change():
    found = side_by_side("x" * 5000 + " old " + "y" * 5000, "x" * 5000 + " new " + "y" * 5000)
    (row,) = found["rows"]
    assert ["old", True] in row["old"]["pieces"]
    assert row["old"]["left_out"] == 10_005 - SHOWN_CHARACTERS
