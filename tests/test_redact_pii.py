"""Redaction: what is replaced, what is kept, and that nothing else changes."""

from __future__ import annotations

import hashlib
import hmac
import random
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.tasks.frame.stage import Runtime
from starloom.tasks.kernels.pii import rules as pii_rules
from starloom.tasks.kernels.pii.redaction import Spans, Texts, merge_overlaps, replace_spans
from starloom.tasks.kernels.pii.replacements import SYNTHETIC_IPS, synthetic_values
from starloom.tasks.redact_pii import RedactPii, redact_pii
from starloom.tasks.schemas import Docs, Verdicts
from tests.sizes import examples

AWS_ID = "AKIA" + "Q3EGRV7ZJ2KX5TNB"
GITHUB_TOKEN = "ghp_" + "k3Jx9QmZ2rT7vLp0WcYb5NdHs8GfA1uEoR4i"
BASE64_KEY = "Zk9xQ2p7TmV+4wLr1sXb/Hd8GyUoJt5EcAi3KfMv"
HEX_KEY = "9f86d081e4a7b3c25d10f6e8a2c4b7d3"


def docs_of(*contents: str, path: str = "a.py") -> Docs:
    rows = [
        {
            "doc_id": hashlib.md5(f"{number}".encode()).hexdigest(),
            "source": "test",
            "kind": "code",
            "repo": "repo",
            "path": path,
            "language": "Python",
            "content": content,
            "size": len(content.encode()),
            "swhid": "swh:1:cnt:" + "0" * 40,
            "stars": number,
            "is_vendor": False,
            "is_generated": False,
            "is_documentation": False,
        }
        for number, content in enumerate(contents)
    ]
    return Docs.of(pa.Table.from_pylist(rows, schema=Docs.SCHEMA))


def redact(docs: Docs, tmp_path: Path, **knobs: Any) -> tuple[list[str], list[dict[str, Any]]]:
    new, redactions = redact_pii.function(docs, RedactPii(**knobs), Runtime.alone(tmp_path / "scratch"))
    return new.read().column("content").to_pylist(), redactions.read().to_pylist()


def assert_only_spans_changed(old: str, new: str, redactions: list[dict[str, Any]]) -> None:
    """The law: with the spans cut out, the original and the rewritten content are the same bytes."""
    before, after, at, new_at = old.encode(), new.encode(), 0, 0
    for row in sorted(redactions, key=lambda row: row["start"]):
        assert before[at : row["start"]] == after[new_at : row["new_start"]]
        at, new_at = row["end"], row["new_end"]
    assert before[at:] == after[new_at:]


def test_each_entity_is_replaced_in_starcoders_way(tmp_path: Path) -> None:
    content = f'mail = "jane.doe@gmail.com"\nhost = "93.184.216.34"\nhost6 = "2a00:1450:4001:81b::200e"\nkey = "{AWS_ID}"\n'
    (new,), rows = redact(docs_of(content), tmp_path)
    values = [new.encode()[row["new_start"] : row["new_end"]].decode() for row in rows]
    assert [(row["entity"], row["detector"]) for row in rows] == [
        ("EMAIL", "presidio:EmailRecognizer"),
        ("IP_ADDRESS", "presidio:IpRecognizer"),
        ("IP_ADDRESS", "presidio:IpRecognizer"),
        ("KEY", "detect-secrets:AWSKeyDetector"),
    ]
    assert values[0] in synthetic_values("EMAIL", 0)
    assert values[1] in SYNTHETIC_IPS[4]
    assert values[2] in SYNTHETIC_IPS[6]
    assert values[3] in synthetic_values("KEY", 0)
    assert new == 'mail = "{}"\nhost = "{}"\nhost6 = "{}"\nkey = "{}"\n'.format(*values)


def test_synthetic_values_have_starcoders_forms() -> None:
    assert len(set(synthetic_values("EMAIL", 0))) == len(set(synthetic_values("KEY", 0))) == 10
    assert all(len(value) == 5 + len("@example.com") and value.endswith("@example.com") for value in synthetic_values("EMAIL", 0))
    assert all(len(value) == 32 and set(value) <= set(string.ascii_lowercase + string.digits) for value in synthetic_values("KEY", 0))
    assert synthetic_values("KEY", 0) != synthetic_values("KEY", 1)


def test_placeholders(tmp_path: Path) -> None:
    (new,), _ = redact(docs_of(f"jane@doe.org 93.184.216.34 '{GITHUB_TOKEN}'"), tmp_path, style="placeholder")
    email, ip, key = new.split(" ")
    assert (email, key) == ("<EMAIL>", "'<KEY>'")
    assert ip in SYNTHETIC_IPS[4]


def test_only_the_entities_asked_for(tmp_path: Path) -> None:
    content = f"jane@doe.org 93.184.216.34 '{GITHUB_TOKEN}'"
    for entity in ("EMAIL", "IP_ADDRESS", "KEY"):
        _, rows = redact(docs_of(content), tmp_path, entities=(entity,))
        assert [row["entity"] for row in rows] == [entity]
    assert redact(docs_of(content), tmp_path, entities=())[0] == [content]


@pytest.mark.parametrize(
    "secret",
    [
        f'id = "{AWS_ID}"',
        f"aws_secret_key = '{BASE64_KEY}'",
        f'token = "{GITHUB_TOKEN}"',
        f'key = "{BASE64_KEY}"',
        f'api_key = "{HEX_KEY}"',
        'STRIPE = "sk_live_' + 'zK4q8WcN2xVb7Tr9Lm3Yh6Jd"',
        'hook = "xoxb-' + '263594206564-FGqddMF8t08v8N7Oq4i57vs1"',
        'mail = "SG.' + 'ngeVfQFYQlKU0ufo8x5d1A.TwL2iGABf9DHoTf-09kqeF8tAmbihYzrnopKc-1s5cr"',
        'npm = "//registry/:_authToken=' + 'npm_zK4q8WcN2xVb7Tr9Lm3Yh6JdQwErTy5uI1oP"',
        'chimp = "' + '343ea45721923ed956e2b38c31db76aa-us30"',
        'sid = "' + 'SK7f3d9a1c5e8b2460f7d9a3c1e5b80246"',
    ],
)
def test_keys_of_every_kind_are_replaced(secret: str, tmp_path: Path) -> None:
    (new,), rows = redact(docs_of("x = 1\n" + secret + "\ny = 2\n"), tmp_path)
    assert rows
    assert {row["entity"] for row in rows} == {"KEY"}
    assert_only_spans_changed("x = 1\n" + secret + "\ny = 2\n", new, rows)
    assert new.count('"') + new.count("'") == secret.count('"') + secret.count("'"), "the quotes are code"


def test_a_github_token_is_replaced_whole(tmp_path: Path) -> None:
    # detect-secrets 1.5 reports only its prefix, `ghp`
    content = f'TOKEN = "{GITHUB_TOKEN}"  # a ghp token'
    (new,), (row,) = redact(docs_of(content), tmp_path)
    assert content[row["start"] : row["end"]] == GITHUB_TOKEN
    assert new.endswith('"  # a ghp token')


def test_delimiters_and_names_that_plugins_report_with_a_secret_stay(tmp_path: Path) -> None:
    azure = "AccountKey=" + "lJzRc1YdHaAA2KCNJJ1tkYwF/+mKK6Ygw0NGe170Xu592euJv2wYUtBlV8z+qnlcNQSnIYVTkLWntUO1F8j8rQ" + "=="
    (new,), (row,) = redact(docs_of(f"x {azure};"), tmp_path, style="placeholder")
    assert new == "x AccountKey=<KEY>;"
    assert row["detector"] == "detect-secrets:AzureStorageKeyDetector"
    (new,), _ = redact(docs_of('auth = "AKCp5zXq9WvKt3bN7mRd"'), tmp_path, style="placeholder")
    assert new == 'auth = "<KEY>"'


@pytest.mark.parametrize(
    "path", [".env", "config/.env.production", "setup.cfg", "app.ini", "deploy/values.yaml", "x.properties", "home/.npmrc", "my.toml"]
)
def test_settings_files_need_no_quotes(path: str, tmp_path: Path) -> None:
    sign = ": " if path.endswith("yaml") else "="
    content = f"debug{sign}true\nsession_secret{sign}{BASE64_KEY}\r\nnumber{sign}6364136223846793005\n"
    (new,), _ = redact(docs_of(content, path=path), tmp_path, style="placeholder")
    assert new == content.replace(BASE64_KEY, "<KEY>")
    assert redact(docs_of(content, path="a.py"), tmp_path)[0] == [content]


@pytest.mark.parametrize(
    "content",
    [
        "x[::2] + x[1::2]; std::vector<int> a; A::B; dead::beef; time = '12:34:56'; mac = 'aa:bb:cc:dd:ee:ff'",
        "127.0.0.1 10.1.2.3 192.168.0.1 172.16.0.1 0.0.0.0 255.255.255.0 ::1 fe80::1 224.0.0.251",
        "8.8.8.8 1.1.1.1 208.67.222.222",
        "version = '1.2.3.4'",
        "released 12.10.20.15",
        "a@b @property\n@app.route('/')\nW @ x.T; y@z.mean",
        "git@github.com:owner/repo.git user@example.com xyzab@example.com me@mail.example.org",
        "f'{user}@gmail.com' '%s@gmail.com'",
        "https://github.com/rust-lang/crates.io-index#cfg-if@1.0.0",
        "alphabet = 'abcdefghijklmnopqrstuvwxyz'; name = 'cudaOccupancyMaxPotentialBlockSizeVariableSMemWithFlags'",
        "revision = '7495a5013e7e'",
        "sha256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'",
        "integrity = 'sha512-" + "Zk9xQ2p7TmV4wLr1sXb/Hd8GyUoJt5EcAi3KfMvZk9xQ2p7TmV4wLr1sXbHd8GyUoJt5EcAi3KfMvQ=='",
        "request_id = '" + HEX_KEY + "'",
        "key = '123e4567-e89b-12d3-a456-426614174000'",
        "key = '${" + BASE64_KEY + "}'",
        "",
    ],
)
def test_what_is_nobodys_is_kept(content: str, tmp_path: Path) -> None:
    assert redact(docs_of(content), tmp_path) == ([content], [])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("email=jane@doe.org", "email=<EMAIL>"),
        ("f'jane@doe.org'", "f'<EMAIL>'"),
        ('"\\njane@doe.org\\n"', '"\\n<EMAIL>\\n"'),
        ("\\u003cjane@doe.org\\u003e", "\\u003c<EMAIL>\\u003e"),
        ("https://host/jane@doe.org", "https://host/<EMAIL>"),
        ("//github.com/index#crate@1.0.0", "//github.com/index#crate@1.0.0"),
        ("*jane@doe.org*", "*<EMAIL>*"),
        ("…jane.doe+tag@mail.doe.org.", "…<EMAIL>."),
        ("jöhn@döe.de", "<EMAIL>"),
        ("邮箱 jane@doe.org。", "邮箱 <EMAIL>。"),
        ("jane@doe.org,joe@doe.org", "<EMAIL>,<EMAIL>"),
    ],
)
def test_addresses_are_cut_out_of_the_code_around_them(content: str, expected: str, tmp_path: Path) -> None:
    (new,), rows = redact(docs_of(content), tmp_path, style="placeholder")
    assert new == expected
    assert_only_spans_changed(content, new, rows)


@pytest.mark.parametrize("content", ["服务器{}在", "é{}é", "# {}。", "{}", "12.10.20.15 {} 25.12.20.19"])
@pytest.mark.parametrize("address", ["93.184.216.34", "12.34.56.78", "2a00:1450:4001:81b::200e"])
def test_an_address_ends_where_another_script_begins_and_is_no_impossible_date(content: str, address: str, tmp_path: Path) -> None:
    content = content.format(address)
    (new,), rows = redact(docs_of(content), tmp_path)
    assert [content.encode()[row["start"] : row["end"]].decode() for row in rows] == [address]
    assert address not in new


def test_a_web_token_is_replaced_with_its_signature(tmp_path: Path) -> None:
    token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
    (new,), _ = redact(docs_of(f"Authorization: Bearer {token}\nx = 1"), tmp_path, style="placeholder")
    assert new == "Authorization: Bearer <KEY>\nx = 1"


def test_of_an_ip_with_a_mask_only_the_address_goes(tmp_path: Path) -> None:
    content = "route 93.184.216.0/24 via 2a00:1450:4001:81b::200e%eth0; dns server 4.5.6.7"
    (new,), rows = redact(docs_of(content), tmp_path)
    assert [content[row["start"] : row["end"]] for row in rows] == ["93.184.216.0", "2a00:1450:4001:81b::200e", "4.5.6.7"]
    assert "/24 via " in new
    assert "%eth0; dns server " in new


def test_a_key_found_once_is_replaced_wherever_it_stands(tmp_path: Path) -> None:
    content = f"key = '{BASE64_KEY}'\n# the old one was {BASE64_KEY}, see docs\n"
    (new,), rows = redact(docs_of(content), tmp_path)
    assert len(rows) == 2
    assert BASE64_KEY not in new
    first, second = (new.encode()[row["new_start"] : row["new_end"]] for row in rows)
    assert first == second


def test_a_table_of_digests_is_no_bunch_of_keys(tmp_path: Path) -> None:
    draw = random.Random(0)
    lines = [f"'{draw.getrandbits(128):032x}'," for _ in range(20)]
    assert redact(docs_of("\n".join(lines)), tmp_path)[1] == []
    assert len(redact(docs_of("\n".join(lines[:3])), tmp_path)[1]) == 3


def test_same_value_same_replacement_in_a_file_and_not_beyond(tmp_path: Path) -> None:
    new, rows = redact(docs_of(*["a@b.org c@d.org a@b.org"] * 12), tmp_path)
    for content in new:
        first, _, third = content.split(" ")
        assert first == third
    assert len(set(new)) > 1, "the draw depends on the document"
    assert len(rows) == 36


def test_overlaps_are_joined_and_named_by_the_longest(tmp_path: Path) -> None:
    hook = "https://hooks.slack.com/services/" + "T0000/B0000/zK4q8WcN2xVb7Tr9"
    content = f"url = '{hook}' or jane@93.184.216.34.doe.org"
    (new,), rows = redact(docs_of(content), tmp_path)
    assert [(content[row["start"] : row["end"]], row["entity"]) for row in rows] == [(hook, "KEY"), ("jane@93.184.216.34.doe.org", "EMAIL")]
    assert_only_spans_changed(content, new, rows)


def test_the_ledger_keeps_a_keyed_hash_and_no_secret(tmp_path: Path) -> None:
    docs = docs_of(f"jane@doe.org '{GITHUB_TOKEN}'")
    _, rows = redact(docs, tmp_path, hash_key="ours")
    assert [row["value_hmac"] for row in rows] == [
        hmac.new(b"ours", value.encode(), hashlib.sha256).hexdigest() for value in ("jane@doe.org", GITHUB_TOKEN)
    ]
    assert "jane@doe.org" not in repr(rows)
    assert GITHUB_TOKEN not in repr(rows)
    assert "ours" not in repr(RedactPii.model_validate({"hash_key": "ours"}))


def test_only_live_rows_are_written_and_all_columns_carried(tmp_path: Path) -> None:
    docs = docs_of("a@b.org", "nothing", "c@d.org")
    doc_ids = docs.read().column("doc_id").to_pylist()
    nulls = dict.fromkeys(("rule", "value", "threshold", "detail"), pa.nulls(3))
    verdicts = Verdicts.of(pa.table({"doc_id": doc_ids, "keep": [True, None, True], **nulls}))
    live = Docs([type(docs.sources[0])(docs.sources[0].data, verdicts.sources[0].data)])
    new, redactions = redact_pii.function(live, RedactPii(), Runtime.alone(tmp_path / "scratch"))
    old, table = live.read(), new.read()
    assert table.drop_columns(["content", "size"]).equals(old.drop_columns(["content", "size"]))
    assert table.column("size").to_pylist() == [len(content.encode()) for content in table.column("content").to_pylist()]
    assert set(redactions.read().column("doc_id").to_pylist()) == {doc_ids[0], doc_ids[2]}


@pytest.mark.parametrize(
    "contents",
    [[], [""], ["\0\0a@b.org\0"], ["\u202e a@b.org \u202c"], ["a@b.org\r\nc@d.org\r\n"], ["", "a@b.org", ""]],
)
def test_hostile_and_empty_input(contents: list[str], tmp_path: Path) -> None:
    new, rows = redact(docs_of(*contents), tmp_path, style="placeholder")
    assert new == [content.replace("a@b.org", "<EMAIL>").replace("c@d.org", "<EMAIL>") for content in contents]
    assert len(rows) == sum(content.count("@") for content in contents)


def test_a_line_of_ten_megabytes(tmp_path: Path) -> None:
    filler = "var a=function(b){return b.c/d*'e'};" * 140_000
    content = f"{filler}mail='jane@doe.org';token='{GITHUB_TOKEN}';ip='93.184.216.34';{filler}"
    (new,), rows = redact(docs_of(content), tmp_path)
    assert [row["entity"] for row in rows] == ["EMAIL", "KEY", "IP_ADDRESS"]
    assert_only_spans_changed(content, new, rows)


PIECES = st.sampled_from(
    ["jane@doe.org", "joe@sub.doe.co.uk", "93.184.216.34", "2a00:1450:4001:81b::200e", f"'{AWS_ID}'", f'"{GITHUB_TOKEN}"',
     f'key="{BASE64_KEY}"', f"'{HEX_KEY}'", "@", "=", "'", '"', "/", "\\", "\n", "\r\n", " ", "é", "例え", "\0", "::", ".", "x", "sha256"]
)  # fmt: skip


@settings(deadline=None, max_examples=examples(150))
@given(st.lists(st.lists(PIECES, max_size=14).map("".join), max_size=5), st.sampled_from(["starcoder", "placeholder"]))
def test_text_outside_the_spans_is_untouched(contents: list[str], style: Any) -> None:
    docs = docs_of(*contents)
    new, redactions = redact_pii.function(docs, RedactPii(style=style), Runtime.alone(Path("unused")))
    rows = redactions.read().to_pylist()
    for old_row, new_row in zip(docs.read().to_pylist(), new.read().to_pylist(), strict=True):
        mine = [row for row in rows if row["doc_id"] == old_row["doc_id"]]
        assert mine == sorted(mine, key=lambda row: row["start"])
        assert all(row["start"] < row["end"] for row in mine)
        assert_only_spans_changed(old_row["content"], new_row["content"], mine)
        assert new_row["size"] == len(new_row["content"].encode())


@settings(deadline=None, max_examples=examples(50))
@given(st.lists(st.lists(PIECES, max_size=10).map("".join), min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_a_document_is_rewritten_alike_whatever_stands_beside_it(contents: list[str], draw: random.Random) -> None:
    table = docs_of(*contents).read()
    order = draw.sample(range(len(contents)), len(contents))
    cut = draw.randrange(len(contents))
    parts = [table.take(pa.array(rows, pa.int64())) for rows in (order[:cut], order[cut:])]
    runtime, together, apart = Runtime.alone(Path("unused")), {}, {}
    for seen, tables in ((together, [table]), (apart, parts)):
        for part in tables:
            new, redactions = redact_pii.function(Docs.of(part), RedactPii(), runtime)
            rows = redactions.read().to_pylist()
            seen |= {row["doc_id"]: (row, [r for r in rows if r["doc_id"] == row["doc_id"]]) for row in new.read().to_pylist()}
    assert together == apart


SPAN_LISTS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12), st.integers(1, 6), st.integers(0, 3)), max_size=8)


@settings(deadline=None)
@given(SPAN_LISTS)
def test_merged_spans_cover_the_same_bytes_and_are_disjoint(rows: list[tuple[int, int, int, int]]) -> None:
    text, start, length, rank = np.array(rows, np.int64).reshape(-1, 4).T
    spans, representatives = merge_overlaps(start, start + length, text, rank)
    merged = list(zip(spans.text.tolist(), spans.start.tolist(), spans.end.tolist(), strict=True))
    covered = {(t, byte) for t, s, n, _ in rows for byte in range(s, s + n)}
    assert {(t, byte) for t, s, e in merged for byte in range(s, e)} == covered
    assert merged == sorted(merged)
    assert len(covered) == sum(e - s for _, s, e in merged), "disjoint"
    for (t, s, e), representative in zip(merged, representatives, strict=True):
        inside = [row for row in rows if row[0] == t and s <= row[1] and row[1] + row[2] <= e]
        best = max(inside, key=lambda row: (row[2], -row[3]))
        assert (rows[representative][2], rows[representative][3]) == (best[2], best[3])


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20), max_size=5), st.data())
def test_replace_spans_is_slicing(contents: list[bytes], data: st.DataObject) -> None:
    expected, rows, new_rows = [], [], []
    for number, content in enumerate(contents):
        cuts = sorted(data.draw(st.sets(st.integers(0, len(content)), max_size=6)))
        new, at = b"", 0
        for start, end in zip(cuts[::2], cuts[1::2], strict=False):
            piece = data.draw(st.binary(max_size=5))
            new += content[at:start]
            rows.append((number, start, end, piece))
            new_rows.append((number, len(new), len(new) + len(piece)))
            new, at = new + piece, end
        expected.append(new + content[at:])

    def texts(values: list[bytes]) -> Texts:
        offsets = np.cumsum([0] + [len(value) for value in values]).astype(np.int64)
        return Texts(offsets, np.frombuffer(b"".join(values), np.uint8))

    columns = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3).T
    made, spans = replace_spans(texts(contents), Spans(*columns), texts([row[3] for row in rows]))
    assert [made.data[a:b].tobytes() for a, b in zip(made.offsets, made.offsets[1:], strict=False)] == expected
    assert list(zip(*[column.tolist() for column in spans], strict=True)) == new_rows


def test_random_keys_score_as_gibberish_and_identifiers_do_not() -> None:
    from starloom.tasks.kernels.pii.detectors import pair_scores

    scores, draw = pair_scores(), random.Random(0)
    keys = ["".join(draw.choices(string.ascii_letters + string.digits, k=40)) for _ in range(500)]
    recognised = sum(pii_rules.gibberish_score(key, scores) > 3.7 for key in keys)
    assert recognised > 485
    for name in ("test_merged_spans_cover_the_same_bytes", "getDefaultAuthenticationProvider", "x", "", "0123"):
        assert pii_rules.gibberish_score(name, scores) <= 3.7


ALONE = """
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("asked the network")
socket.socket.connect = socket.getaddrinfo = refuse
from starloom.tasks.kernels.pii.detectors import email_matches, ip_matches, key_plugins, recognizers, secrets_on
assert email_matches("jane@doe.org") == ((0, 12),)
assert ip_matches("93.184.216.34") == ((0, 13),)
assert secrets_on("id = 'AKIAQ3EGRV7ZJ2KX5TNB'", key_plugins(4.5, 3.0)["AWSKeyDetector"]) == ["AKIAQ3EGRV7ZJ2KX5TNB"]
heavy = {"spacy", "thinc", "torch", "presidio_analyzer"} & set(sys.modules)
assert not heavy, heavy
import warnings; warnings.simplefilter("ignore")
from presidio_analyzer.predefined_recognizers import EmailRecognizer, IpRecognizer
assert "torch" in sys.modules or "spacy" in sys.modules, "whoever imports Presidio later gets the whole"
ours = recognizers()
assert [p.regex for p in EmailRecognizer().patterns] == [p.regex for p in ours["EMAIL"].patterns]
assert [p.regex for p in IpRecognizer().patterns if p.name != "IPv6_unspecified"] == [p.regex for p in ours["IP_ADDRESS"].patterns]
"""


@pytest.mark.slow
def test_no_network_no_cache_no_language_model(tmp_path: Path) -> None:
    environment = {"PATH": "", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert not [path for path in tmp_path.rglob("*") if "tldextract" in str(path)]
