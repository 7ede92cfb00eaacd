"""Listings: the text of a document as escaped, highlighted lines that say exactly what the text says."""

from __future__ import annotations

import html
import re

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from starloom.console import charts
from starloom.console.formats import amount, chips, is_plain, many, moment, seconds, share, token_text, visible
from starloom.console.links import Links
from starloom.console.listing import Mark, line_of, line_starts, listing
from starloom.console.tables import Column, Table
from starloom.queries.formats import size
from tests.console_client import parse

TEXTS = st.text(st.sampled_from("ab <>&\"'\n\r\t\x00\x1b\u202e\u2028é🙂#'\\{}("), max_size=60)
LANGUAGES = st.sampled_from(
    [("x.py", "Python"), ("x.html", "HTML"), ("x.unknown", None), ("x.c", "C"), ("x.md", "Markdown"), ("x.json", None)]
)


def unspelt(markup: str) -> str:
    """The text that a line's markup shows, its chips turned back into characters."""
    text = re.sub(r'<span class="chip" title="[^"]*">U\+([0-9A-F]{4,6})</span>', lambda found: f"&#x{found[1]};", markup)
    text = re.sub(r"</?(span|mark)[^>]*>", "", text)
    assert "<" not in text
    return (
        re.sub(r"&#x([0-9A-F]{4,6});", lambda found: chr(int(found[1], 16)), text.replace("&#x27;", "'"))
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", '"')
        .replace("&#39;", "'")
        .replace("&#34;", '"')
        .replace("&amp;", "&")
    )


@given(TEXTS, LANGUAGES, st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=3))
def test_the_lines_say_what_the_text_says(text, kind, places):
    marks = [Mark(start, start + length, "offence", "here") for start, length in places if start < len(text)]
    shown = listing(text, *kind, marks=marks)
    lines = text.split("\n")
    if len(lines) > 1 and lines[-1] == "":
        lines.pop()
    assert [unspelt(str(line.html)) for line in shown.lines] == [line.removesuffix("\r") for line in lines]
    assert [line.number for line in shown.lines] == list(range(1, len(lines) + 1))
    assert (shown.num_lines, shown.next_line) == (len(lines), None)


@given(TEXTS, st.integers(0, 59), st.integers(1, 9))
def test_what_is_marked_is_the_place_given(text, start, length):
    end = min(len(text), start + length)
    if start >= end:
        return
    shown = listing(text, "x.py", "Python", marks=[Mark(start, end, "offence", "here")])
    marked = "".join(unspelt(piece) for line in shown.lines for piece in re.findall(r"<mark[^>]*>(.*?)</mark>", str(line.html)))
    assert marked == re.sub(r"\r?\n|\r$", "", text[start:end]) or marked.replace("\r", "") == text[start:end].replace("\n", "").replace(
        "\r", ""
    )


def test_long_texts_and_lines_are_cut_and_it_is_said():
    text = "\n".join(["x" * 5000, *(f"line {i}" for i in range(2, 1001))])
    shown = listing(text, "x.txt", None, num_lines=10, width=100)
    assert (len(shown.lines), shown.next_line, shown.num_lines) == (10, 11, 1000)
    assert shown.lines[0].left_out == 4900
    last = listing(text, "x.txt", None, first=995, num_lines=10)
    assert ([line.number for line in last.lines], last.next_line) == ([995, 996, 997, 998, 999, 1000], None)
    assert listing(text, "x.txt", None, first=10**9).lines[0].number == 1000
    marked = listing(text, "x.txt", None, marks=[Mark(4000, 4003, "offence", "here")], width=200)
    assert re.search(r"x{80}<mark class=\"offence\" title=\"here\">xxx</mark>x+", str(marked.lines[0].html))


def test_a_line_within_a_string_is_coloured_as_one():
    text = '"""\nfor if\n"""\n'
    assert str(listing(text, "x.py", "Python", first=2, num_lines=1).lines[0].html) == '<span class="s2">for if</span>'


@given(st.text(max_size=40))
def test_chips_and_spelling_let_nothing_through(text):
    assert parse(str(chips(text))).text.count("U+") >= sum(not c.isprintable() and c not in "\n\t " for c in text)
    assert is_plain(visible(text))
    assert not [c for c in str(chips(text)) if not c.isprintable() and c not in "\n\t"]
    assert (visible(text) == text) == is_plain(text)


@given(TEXTS)
def test_positions_are_found_in_their_lines(text):
    starts = line_starts(text)
    for position in range(len(text)):
        assert line_of(starts, position) == min(text[:position].count("\n") + 1, len(starts))


def test_numbers_are_told_as_people_read_them():
    assert [size(n) for n in (0, 999, 1000, 1_250_000)] == ["0 B", "999 B", "1.0 KB", "1.2 MB"]
    assert [seconds(n) for n in (0.04, 59.9, 61, 3600, 7265)] == ["0.0 s", "59.9 s", "1 min 1 s", "1 h 0 min", "2 h 1 min"]
    assert [amount(n) for n in (0.25, 1000.0, 0.123456, None)] == ["0.25", "1,000", "0.1235", "-"]
    assert (share(1, 3), share(1, 0), many(1, "copy", "copies"), many(2, "copy", "copies")) == ("33.3 %", "-", "1 copy", "2 copies")
    assert moment("2026-11-28T01:06:59.283+00:00") == "2026-11-28 01:06:59"


@given(st.text(max_size=20), st.text(max_size=20))
def test_links_stay_where_they_belong_whatever_a_name_holds(name, run):
    from urllib.parse import parse_qs, unquote, urlsplit

    for link in (Links().repository(name, run), Links("s").repository(name, run)):
        parts = urlsplit(link)
        assert (parts.scheme, parts.netloc, parts.path.count("/"), parts.fragment) == ("", "", 2, "")
        assert unquote(parts.path.removeprefix("/repositories/")) == name
        assert parse_qs(parts.query, keep_blank_values=True)["run"] == [run]


@given(
    st.lists(
        st.fixed_dictionaries(
            {"a": st.none() | st.integers(-(2**53), 2**53) | st.text(max_size=5), "b": st.lists(st.integers(0, 9), max_size=2)}
        ),
        max_size=4,
    )
)
def test_a_table_can_be_taken_whatever_it_holds(rows):
    table = Table("t", (Column("a", "A"), Column("b", "B")), rows)
    taken = table.arrow()
    assert taken.num_rows == len(rows)
    assert taken.column_names == ["a", "b"]
    if len({type(row["a"]) for row in rows} - {type(None)}) <= 1:
        assert taken.column("a").to_pylist() == [row["a"] for row in rows]
    assert isinstance(taken, pa.Table)
    assert table.csv().decode().startswith("a,b\r\n")


def test_charts_are_drawn_of_nothing_and_of_hostile_names():
    assert charts.funnel([]) == charts.bars([]) == charts.histogram(charts.Bins(0, 0, []), [], "x") == ""
    hostile = '"><script>x</script>\u202e'
    drawings = [
        charts.funnel([{"step": hostile, "documents": 3, "dropped": 1}]),
        charts.bars([{"name": hostile, "tokens": 1}, {"name": "b", "tokens": None}]),
        charts.histogram(charts.Bins(0, 10, [1, 0, 4]), [5, 99], hostile),
    ]
    for drawing in drawings:
        assert {name for name, _ in parse(str(drawing)).elements} <= {"div", "svg", "g", "title", "text", "rect", "line"}
        assert html.unescape(str(drawing)).count("<script>") in (0, 1, 2, 3)
    places = charts.Bins(0, 1000, [1], is_logarithmic=True)
    assert places.place(0) == 0
    assert places.place(1000) == 1
    assert 0.4 < places.place(31) < 0.6


def test_a_token_s_text_shows_line_ends_and_what_is_no_text():
    assert token_text("a\n<b>") == 'a<span class="line-end">⏎</span>\n&lt;b&gt;'
    assert token_text("<eos>", is_special=True) == '<span class="chip special">&lt;eos&gt;</span>'
    assert "bytes within a character" in token_text("\\xe2", is_partial=True)
