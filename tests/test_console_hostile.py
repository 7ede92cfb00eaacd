"""A corpus that tries to be markup, script, template or terminal control: on the console's pages it is text."""

from __future__ import annotations

import re

import pytest

from starloom.lineage.store import Store
from starloom.queries.rows import Rows
from tests.console_client import client_of, parse
from tests.corpus import function, make_repositories, run_recipe, write_recipe

pytestmark = pytest.mark.slow

OURS = "xq7"
"""Stands in everything planted: whichever element or attribute holds it as a name, or runs it, is not ours."""
ATTACKS = [
    f"<script>{OURS}()</script>",
    f"</code></td></table><img src=x onerror={OURS}()>",
    f'" onmouseover="{OURS}()" x="',
    f"' onfocus='{OURS}()' autofocus='",
    f'<a href="javascript:{OURS}()">{OURS}</a>',
    f"javascript:{OURS}()",
    f"{{{{7*7}}}}{OURS}{{% for x in 1 %}}",
    f"<{OURS} style='x'>",
    f"\u202e{OURS}\u2066\u200b",
    f"\x1b[31m{OURS}\x1b]0;title\x07\x1b[2J",
    f"&lt;script&gt;{OURS}",
    f"<!-- {OURS} --><![CDATA[ {OURS} ]]>",
    f"<svg><style>{OURS}</style></svg>",
]
STAGES = """\
- license_filter
- quality_filter: {rules: [{signal: max_line_length, max: 2000}]}
- exact_dedup
- near_dedup
- redact_pii
- train_tokenizer: {vocab_size: 400}
- encode: {metadata_rate: 1.0}
- pack_fim: {sequence_length: 64}
"""
NAMES = [
    "<img src=x onerror=xq7()>.py",
    '"onmouseover="xq7()".py',
    "{{7*7}}xq7.py",
    "\u202exq7.py",
    "\x1b[31mxq7.py",
    "javascript:xq7().py",
]
REPO = 'r<script>xq7()<b>"onload="xq7()\u202e'


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    repositories = make_repositories(root / "repositories", num_repos=2, files=2)
    attack = "\n".join(f"# {line}\nx = '''{line}'''" for line in ATTACKS)
    for number, name in enumerate(NAMES):
        (repositories / "repo0" / "src" / name).write_text(f"{attack}\n{function(f'f{number}', 900 + number)}")
    source = repositories / "repo0" / "src"
    (source / "near.py").write_text((source / NAMES[0]).read_text() + f"\n# {ATTACKS[0]} one more\n")
    (source / "copy.py").write_text((source / NAMES[0]).read_text())
    (source / "long.py").write_text(f"x = '{ATTACKS[1] * 60}'\n")
    (source / "gpl<b>.py").write_text(f"# SPDX-License-Identifier: GPL-3.0-only {ATTACKS[0]}\n" + function("gpl", 999))
    (repositories / "repo0").rename(repositories / REPO)
    recipe = write_recipe(root / "recipe.yaml", repositories, STAGES, part_bytes=100_000)
    run_recipe(recipe, root / "store")
    return Store.open(str(root / "store"))


@pytest.fixture(scope="module")
def client(store):
    return client_of(store.url)


@pytest.fixture(scope="module")
def pages(store, client):
    """Address → HTML of every page that shows something of the corpus, and of those that repeat what was asked."""
    run = store.run("latest")
    addresses = ["/runs", "/runs/latest", "/conflicts", "/api"]
    for step in run.steps:
        addresses.append(f"/runs/latest/steps/{step.name}")
        addresses += [f"/artifacts/{out['artifact']}" for out in step.outputs.values()]
        if "Verdicts" in step.outputs:
            addresses += [f"/runs/latest/steps/{step.name}/sample?kept={kept}&n=50" for kept in (0, 1)]
    for _, docs in Rows(store).tables(run.step("ingest").outputs["Docs"]["artifact"], ["doc_id"]):
        addresses += [f"/documents/{doc_id}" for doc_id in docs.column("doc_id").to_pylist()]
    for number, part in enumerate(store.artifact(run.step("pack_fim").outputs["Packed"]["artifact"]).parts):
        addresses += [f"/sequences/{number}:{row}" for row in range(min(part.num_rows, 12))]
    for _, table in Rows(store).tables(run.step("near_dedup").outputs["Clusters"]["artifact"], ["cluster_id"]):
        addresses += [f"/clusters/{name}" for name in set(table.column("cluster_id").to_pylist())]
    from urllib.parse import quote

    addresses.append(f"/repositories/{quote(REPO, safe='')}")
    for word in (*ATTACKS, *NAMES):
        quoted = quote(word, safe="")
        addresses += [f"/find?q={quoted}", f"/runs/{quoted}", f"/runs/latest/steps/{quoted}", f"/nowhere/{quoted}", f"/documents/{quoted}"]
        addresses += [f"/runs?recipe={quoted}&status={quoted}", f"/runs?store={quoted}", f"/runs?page={quoted}", f"/clusters/{quoted}"]
        addresses += [f"/repositories/{quoted}", f"/runs/latest/steps/quality_filter/sample?rule={quoted}", f"/artifacts/{quoted}"]
    return {address: client.get(address, follow_redirects=True).text for address in addresses}


def test_the_pages_show_the_corpus(pages):
    assert sum(OURS in html for html in pages.values()) > 40
    shown = [parse(html).text for address, html in pages.items() if address.startswith("/documents")]
    assert any(all(attack in text for attack in ATTACKS[:3]) for text in shown)


def test_no_element_or_attribute_is_of_the_corpus(pages):
    ours = {"html", "head", "meta", "title", "link", "script", "body", "a", "header", "div", "svg", "path", "nav", "form", "label", "input"}
    ours |= {
        "main",
        "ol",
        "li",
        "span",
        "section",
        "p",
        "h1",
        "h2",
        "h3",
        "footer",
        "code",
        "select",
        "option",
        "button",
        "table",
        "caption",
        "colgroup",
        "col",
    }
    ours |= {"thead", "tbody", "tr", "th", "td", "dl", "dt", "dd", "figure", "figcaption", "g", "rect", "text", "line", "time", "mark"}
    ours |= {"details", "summary", "article", "b"}
    attributes_of_ours = {
        "lang",
        "charset",
        "name",
        "content",
        "rel",
        "href",
        "type",
        "src",
        "defer",
        "class",
        "aria-label",
        "aria-current",
    }
    attributes_of_ours |= {"aria-hidden", "viewbox", "d", "action", "role", "for", "id", "placeholder", "autocomplete", "spellcheck"}
    attributes_of_ours |= {
        "maxlength",
        "value",
        "selected",
        "scope",
        "tabindex",
        "colspan",
        "title",
        "x",
        "y",
        "x1",
        "x2",
        "y1",
        "y2",
        "rx",
    }
    attributes_of_ours |= {
        "width",
        "height",
        "open",
        "data-copy",
        "method",
        "min",
        "size",
        "autofocus",
        "stroke-width",
        "cx",
        "cy",
        "r",
        "points",
    }
    ours |= {"circle", "polyline", "progress", "colgroup", "col", "del", "ins", "pre"}
    for address, html in pages.items():
        for name, attributes in parse(html).elements:
            assert name in ours, (address, name)
            assert attributes.keys() <= attributes_of_ours, (address, name, attributes)
            assert not attributes.get("style")
            assert OURS not in attributes.get("class", "") + attributes.get("id", "") + attributes.get("src", "")
        scripts = [attributes for name, attributes in parse(html).elements if name == "script"]
        assert scripts == [{"src": "/static/console.js", "defer": ""}], address


def test_links_and_forms_lead_to_our_own_pages_only(pages):
    for address, html in pages.items():
        places = {attributes["id"] for _, attributes in parse(html).elements if "id" in attributes}
        for _, attributes in parse(html).elements:
            for target in (attributes[name] for name in ("href", "src", "action") if name in attributes):
                assert re.fullmatch(r"/(?![/\\])[!-~]*", target) or (target[:1] == "#" and target[1:] in places), (address, target)


def test_templates_in_the_corpus_are_not_evaluated(pages):
    assert not [address for address, html in pages.items() if f"49{OURS}" in html]


def test_controls_and_invisible_characters_are_spelt(pages):
    for address, html in pages.items():
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]", html), address
        assert not re.search(r"&#(x0*(1b|0|202e)|0*(27|0|8238));", html, re.IGNORECASE), address
    chips = {text for html in pages.values() for text in re.findall(r'<span class="chip"[^>]*>([^<]*)</span>', html)}
    assert {"U+202E", "U+2066", "U+200B", "U+001B", "U+0007"} <= chips


def test_data_of_a_hostile_corpus_cannot_be_taken_for_a_page(store, client):
    doc_id = Rows(store).table(store.run("latest").step("ingest").outputs["Docs"]["artifact"], 0, ["doc_id"]).column("doc_id")[0].as_py()
    for form, kind in {"json": "application/json", "csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}.items():
        answer = client.get(f"/documents/{doc_id}?format={form}")
        assert answer.headers["content-type"] == kind
        assert answer.headers["x-content-type-options"] == "nosniff"
        if form != "json":
            assert re.fullmatch(r'attachment; filename="[A-Za-z0-9.-]+"', answer.headers["content-disposition"])
