"""The screens let through whatever the detectors themselves find, on generated and on real text."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.tasks.kernels.pii import screens as pii_screens
from starloom.tasks.kernels.pii.detectors import ENTROPY_PLUGINS, MARKED_PLUGINS, email_matches, ip_matches, key_plugins, recognizers
from tests.sizes import examples

LIMITS = (4.5, 3.0)
PLUGINS = key_plugins(*LIMITS)
MARKED_EXPRESSIONS = [(name, expression) for name in MARKED_PLUGINS for expression in PLUGINS[name].denylist]
IDS = [f"{name}-{number}" for number, (name, _) in enumerate(MARKED_EXPRESSIONS)]
CASELESS_BEYOND_ASCII = {"i": "ıİ", "k": "\u212a", "s": "\u017f"}

ADDRESS_PIECES = st.sampled_from(
    ["@", "@", ".", ".", "-", "--", "jane", "x", "ü", "例え", "com", "co.uk", "github.com", "'", "{", "}", "=", "/", " ", "\n", "\\n", "\t",
     "“", "\u3000"]
)  # fmt: skip
NAMES = st.text(st.sampled_from("jdo-_.üé例9"), min_size=1, max_size=6)
ADDRESSES = st.tuples(NAMES, NAMES, st.sampled_from(["com", "co.uk", "de", "例え", "py"])).map(lambda parts: "{}@{}.{}".format(*parts))
IP_PIECES = st.sampled_from(
    ["1", "25", "255", "256", "93.184.216.34", ".", ".", ":", ":", "::", "::ffff:", "2001:db8", "fe80", "a", "g", "z", "_", "/24", "/",
     "%eth0", " ", "\n", "[", "]", "é", "٣", "-", "\u3000"]
)  # fmt: skip
PADDING = st.text(st.sampled_from("ab AC_-=:.\"'/é\u212a\u3000"), max_size=12)


def as_data(text: str) -> np.ndarray:
    return np.frombuffer(text.encode() + b"\n", np.uint8)


def spans_in_tokens(text: str, tokens: np.ndarray, matches) -> set[tuple[int, int]]:
    """What the detector finds in the tokens, as spans of bytes of the text."""
    data, found = text.encode() + b"\n", set()
    for start, stop in tokens.tolist():
        token = data[start:stop].decode()
        found |= {(start + len(token[:a].encode()), start + len(token[:b].encode())) for a, b in matches(token)}
    return found


def spans_in_text(text: str, entity: str) -> set[tuple[int, int]]:
    """What the detector finds in the whole text, as spans of bytes."""
    found = recognizers()[entity].analyze(text, entities=[])
    return {(len(text[: result.start].encode()), len(text[: result.end].encode())) for result in found}


def assert_emails_equal(text: str) -> None:
    assert spans_in_tokens(text, pii_screens.email_tokens(as_data(text)), email_matches) == spans_in_text(text, "EMAIL")


def assert_ips_equal(text: str) -> None:
    assert spans_in_tokens(text, pii_screens.ip_tokens(as_data(text)), ip_matches) == spans_in_text(text, "IP_ADDRESS")


@settings(deadline=None, max_examples=examples(400))
@given(st.lists(ADDRESS_PIECES | ADDRESSES, max_size=12).map("".join))
def test_email_tokens_hold_all_that_presidio_finds_in_the_text(text: str) -> None:
    assert_emails_equal(text)


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(100))
@given(st.from_regex(re.compile(recognizers()["EMAIL"].patterns[0].regex, re.IGNORECASE)), PADDING, PADDING)
def test_email_tokens_of_what_the_pattern_generates(address: str, before: str, after: str) -> None:
    assert_emails_equal(before + address + after)


@settings(deadline=None, max_examples=examples(600))
@given(st.lists(IP_PIECES, max_size=30).map("".join))
def test_ip_tokens_hold_all_that_presidio_finds_in_the_text(text: str) -> None:
    assert_ips_equal(text)


@pytest.mark.parametrize("pattern", recognizers()["IP_ADDRESS"].patterns, ids=lambda pattern: pattern.name)
def test_ip_tokens_of_what_each_pattern_generates(pattern) -> None:
    @settings(deadline=None, max_examples=examples(60))
    @given(st.from_regex(re.compile(pattern.regex, re.IGNORECASE)), PADDING, PADDING)
    def check(address: str, before: str, after: str) -> None:
        assert_ips_equal(before + address + after)

    check()


@pytest.mark.parametrize(("name", "expression"), MARKED_EXPRESSIONS, ids=IDS)
def test_key_marks_flag_every_line_on_which_a_plugin_finds_a_key(name: str, expression: re.Pattern[str]) -> None:
    flagged = []

    @settings(deadline=None, max_examples=examples(60))
    @given(st.from_regex(expression), PADDING, PADDING, st.randoms(use_true_random=False))
    def check(secret: str, before: str, after: str, draw) -> None:
        secret = secret.replace("\n", " ")
        if expression.flags & re.IGNORECASE:
            secret = "".join(draw.choice([c, c, c, *CASELESS_BEYOND_ASCII.get(c.lower(), "")]) for c in secret)
        line = before + secret + after
        if expression.search(line):
            flagged.append(line)
            assert len(pii_screens.key_marks(as_data(line)))

    check()
    assert flagged


SECRETS = (
    st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyzABCDEF0123456789+/-_=\\"), min_size=20, max_size=60)
    | st.text(st.sampled_from("0123456789abcdefABCDEF"), min_size=8, max_size=20)  # few characters: near the limit
    | st.permutations("0123456789abc").flatmap(lambda digits: st.integers(8, 13).map(lambda num: "".join(digits[:num])))
)


@settings(deadline=None, max_examples=examples(400))
@given(
    SECRETS,
    st.sampled_from("'\""),
    PADDING,
    PADDING,
)
def test_quoted_entropy_flags_every_line_on_which_a_plugin_finds_a_key(secret: str, quote: str, before: str, after: str) -> None:
    line = f"{before}{quote}{secret}{quote}{after}"
    found = [key.secret_value for name in ENTROPY_PLUGINS for key in PLUGINS[name].analyze_line(filename="", line=line)]
    flagged = {line.encode()[a:b].decode() for a, b in pii_screens.quoted_entropy(as_data(line), *LIMITS)}
    assert set(found) <= flagged


@settings(deadline=None, max_examples=examples(200))
@given(SECRETS, st.sampled_from(["=", ": ", " = ", ":\t"]))
def test_assigned_entropy_flags_what_the_plugins_would_find_in_quotes(secret: str, sign: str) -> None:
    found = [key for name in ENTROPY_PLUGINS for key in PLUGINS[name].analyze_line(filename="", line=f'"{secret}"')]
    spans = pii_screens.assigned_entropy(as_data(f"name{sign}{secret} \r"), *LIMITS)
    assert not found or len(spans) == 1


def standard_library(max_bytes: int) -> str:
    """Modules that speak of addresses and keys first, then others."""
    root = Path(sysconfig.get_path("stdlib"))
    named = [root / name for name in ("ipaddress.py", "smtplib.py", "email/utils.py", "uuid.py", "http/cookiejar.py", "ssl.py")]
    texts, size = [], 0
    for path in [*named, *sorted(root.glob("*.py"))]:
        texts.append(path.read_text("utf-8"))
        size += len(texts[-1])
        if size > max_bytes:
            break
    return "\n".join(texts)


def test_real_source_is_screened_without_loss() -> None:
    text = standard_library(700_000)
    assert_emails_equal(text)
    assert_ips_equal(text)
    assert spans_in_text(text, "EMAIL")
    assert spans_in_text(text, "IP_ADDRESS")


@pytest.mark.slow
def test_real_lines_with_keys_are_flagged() -> None:
    lines = standard_library(1_200_000).split("\n")
    data = as_data("\n".join(lines))
    starts = np.cumsum([0] + [len(line.encode()) + 1 for line in lines])
    for names, spans in ((ENTROPY_PLUGINS, pii_screens.quoted_entropy(data, *LIMITS)), (MARKED_PLUGINS, pii_screens.key_marks(data))):
        flagged = set(np.searchsorted(starts, spans[:, 0], side="right") - 1)
        found = {i for i, line in enumerate(lines) if any(PLUGINS[name].analyze_line(filename="", line=line) for name in names)}
        assert found <= flagged
        assert len(flagged) < len(lines) / 100, "a screen that lets everything through is none"


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from("aé例 \n"), max_size=20), min_size=1, max_size=6).map("".join), st.data())
def test_lines_around_are_the_lines_of_the_spans(text: str, draw: st.DataObject) -> None:
    data = text.encode() + b"\n"
    borders = [at for at in range(len(data)) if data[at] & 0xC0 != 0x80]
    start = draw.draw(st.sampled_from(borders))
    line_end = data.index(b"\n", start)
    stop = draw.draw(st.sampled_from([at for at in borders if start <= at <= line_end]))
    expected = [data.rfind(b"\n", 0, start) + 1, line_end]
    assert pii_screens.lines_around(np.frombuffer(data, np.uint8), np.array([[start, stop]])).tolist() == [expected]


def test_a_line_of_ten_megabytes_is_shown_in_bounded_windows() -> None:
    line = "x = '" + "é" * 5_000_000 + "' # jane@doe.org 93.184.216.34 'a3f0c2917be4d58f6071' " + "ü" * 100_000
    data = as_data(line)
    for spans in (pii_screens.email_tokens(data), pii_screens.ip_tokens(data), pii_screens.quoted_entropy(data, *LIMITS)):
        assert len(spans) == 1
        ((start, stop),) = pii_screens.lines_around(data, spans)
        window = data[start:stop].tobytes().decode()  # cut between characters
        assert len(window) < 3 * pii_screens.MAX_KEY_CONTEXT


def test_many_spans_on_one_long_line_share_windows() -> None:
    entries = [f"'{number * 0x9E3779B97F4A7C15 % 2**64:016x}'" for number in range(5000)]
    data = as_data(",".join(entries))
    spans = pii_screens.quoted_entropy(data, *LIMITS)
    assert len(spans) > 4000
    lines = pii_screens.lines_around(data, spans)
    assert (lines[:, 1] - lines[:, 0]).sum() < 4 * len(data)
    for start, stop in spans[::50].tolist():
        around = [(a, b) for a, b in lines.tolist() if a <= start and stop <= b]
        assert any(b - stop >= pii_screens.MIN_KEY_CONTEXT or b == len(data) - 1 for _, b in around)


def test_an_address_in_a_run_of_a_megabyte_is_cut_out_of_it() -> None:
    run = "a/" * 500_000 + "jane@doe.org" + "/b" * 500_000
    ((start, stop),) = pii_screens.email_tokens(as_data(run))
    assert stop - start <= 2 * pii_screens.REACH + 64
    assert "jane@doe.org" in run[start:stop]
