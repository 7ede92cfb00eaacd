"""Laws that hold for every stage, found by walking the registry. A new stage is tested because it exists."""

from __future__ import annotations

import ast
import functools
import importlib
import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from starloom.lineage import keys
from starloom.lineage.errors import InputError
from starloom.lineage.views import Tabular
from starloom.tasks.frame.alone import run_alone
from starloom.tasks.frame.given import given_documents, given_rows
from starloom.tasks.frame.stage import Runtime, registry
from starloom.tasks.frame.work import sealed_tables
from starloom.tasks.schemas import Docs, Licenses, Repositories, Tokenizer, Tokens, Verdicts

STAGES = registry()
FILTERS = sorted(name for name, stage in STAGES.items() if Verdicts in stage.outputs)
JUDGES = [(name, with_optional) for name in FILTERS for with_optional in (True, False) if with_optional or STAGES[name].optional]
"""Filters, each with its optional inputs and, if it has any, without."""
REWRITERS = sorted(name for name, stage in STAGES.items() if Docs in stage.outputs and Docs in stage.inputs.values())
HOSTILE = [
    "",
    "\n",
    "\0",
    "a\0b\r\nc\r",
    "\ufeffimport os\n",
    "x" * 100_000,
    "\u202egnp.exe\u202c = 1\n",
    "e\u0301" * 50 + "👩‍👩‍👧‍👦" * 20,
    "\u2028\u2029\x85\x0b\x0c\n",
    "<|endoftext|><fim_prefix>\n",
    "mail = 'jane.doe@corp-mail.com'\nip = '81.2.69.142'\n",
    "key = 'AKIAQYLPMN5HHHFPZAM2'\n" * 3,
    "if x:\n\tpass\n" * 200,
    "# SPDX-License-Identifier: GPL-3.0-only\nx = 1\n",
    "a b c d e f g h i j\n" * 30,
    "a b c d e f g h i j\n" * 30 + "z\n",
    "\U0010ffff\ue000" * 10,
]
TEXT = st.sampled_from(HOSTILE) | st.text(st.characters(codec="utf-8"), max_size=200)


def docs_table(texts: list[str], repos: list[int]) -> pa.Table:
    rows = [
        {
            "doc_id": keys.digest([i, repo])[:32],
            "source": "s",
            "kind": "code",
            "repo": f"repo{repo}",
            "path": f"src/f{i}.py",
            "language": ["Python", "C", None][i % 3],
            "content": text,
            "size": len(text.encode()),
            "swhid": "swh:1:cnt:" + keys.digest(text)[:40],
            "declared_license": "MIT",
            "is_vendor": False,
            "is_generated": False,
            "is_documentation": False,
        }
        for i, (text, repo) in enumerate(sorted(zip(texts, repos, strict=True), key=lambda pair: pair[1]))
    ]
    return pa.Table.from_pylist(rows, schema=Docs.SCHEMA)


CORPORA = st.lists(st.tuples(TEXT, st.integers(0, 3)), max_size=12).map(
    lambda pairs: docs_table([t for t, _ in pairs], [r for _, r in pairs])
)


def cut(table: pa.Table) -> Docs:
    """The corpus with each repository in a part of its own."""
    repos = table.column("repo").to_pylist()
    return Docs.of_parts([table.filter(pa.array([r == repo for r in repos])) for repo in sorted(set(repos))] or [table])


def judged(docs: Docs, folder) -> Licenses:
    """What the licence filter finds of all but some documents, which nobody judged."""
    stage = STAGES["license_filter"]
    cfg, runtime = stage.config(), Runtime.alone(folder / "l")
    halves = [stage.prepare.function(docs=part, cfg=stage.prepared_config(cfg), runtime=runtime) for part in docs.parts]
    found = [
        stage.function(docs=part, statements=half, cfg=cfg, runtime=runtime)[1].read()
        for part, half in zip(docs.parts, halves, strict=True)
    ]
    return Licenses.of_parts([table.filter(pc.less(table.column("doc_id"), "e")) for table in found])


def applied(name: str, docs: Docs, folder, *, with_optional: bool = True, **more) -> dict[str, list[pa.Table]]:
    """A stage over all parts of a corpus, as the frame would: type name → a table for each part."""
    stage = STAGES[name]
    config = stage.config()
    inputs = {"docs": docs, **more}
    for parameter, kind in stage.inputs.items():
        if kind is Licenses:
            inputs[parameter] = judged(docs, folder) if with_optional or parameter not in stage.optional else None
    if stage.prepare is not None:
        halves = [
            stage.prepare.function(**calls, cfg=stage.prepared_config(config), runtime=Runtime.alone(folder / "p"))
            for calls in _calls(stage.prepare, inputs)
        ]
        parameter = next(p for p, kind in stage.inputs.items() if kind is stage.prepare.outputs[0])
        inputs[parameter] = type(halves[0])([source for half in halves for source in half.sources])
    found: dict[str, list[pa.Table]] = {kind.__name__: [] for kind in stage.outputs}
    for i, calls in enumerate(_calls(stage, inputs)):
        result = stage.function(**calls, cfg=config, runtime=Runtime.alone(folder / str(i)))
        for output in result if isinstance(result, tuple) else (result,):
            seen = calls.get("docs")
            found[type(output).__name__] += [table for table, _, _ in sealed_tables(name, output, seen)]
    return found


def _calls(stage, inputs):
    wanted = {name: inputs[name] for name in stage.inputs}
    if stage.over == "whole":
        return [wanted]
    count = max(len(value.sources) for value in wanted.values() if isinstance(value, Tabular))
    return [{name: value.parts[i] if isinstance(value, Tabular) else value for name, value in wanted.items()} for i in range(count)]


def fates(verdicts: list[pa.Table]) -> dict[str, tuple[Any, ...]]:
    return {row["doc_id"]: (row["keep"], row["rule"], row["value"], row["detail"]) for table in verdicts for row in table.to_pylist()}


LAWS = settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "with_optional"), JUDGES)
@LAWS
@given(CORPORA)
def test_a_filter_judges_every_document_and_cutting_the_corpus_differently_changes_no_verdict(name, with_optional, tmp_path, table):
    whole = applied(name, Docs.of(table), tmp_path, with_optional=with_optional)["Verdicts"]
    parts = applied(name, cut(table), tmp_path, with_optional=with_optional)["Verdicts"]
    assert fates(whole) == fates(parts)
    assert sum(t.num_rows for t in parts) == table.num_rows
    assert all(keep is not None for keep, *_ in fates(whole).values())
    assert all(rule for keep, rule, *_ in fates(whole).values() if not keep)  # nothing is dropped without a reason


@pytest.mark.slow
@pytest.mark.parametrize("name", FILTERS + REWRITERS)
@LAWS
@given(CORPORA)
def test_the_same_input_gives_the_same_tables(name, tmp_path, table):
    first, second = applied(name, cut(table), tmp_path), applied(name, cut(table), tmp_path)
    assert {kind: [t.to_pylist() for t in ts] for kind, ts in first.items()} == {
        kind: [t.to_pylist() for t in ts] for kind, ts in second.items()
    }


@pytest.mark.parametrize("name", REWRITERS)
@LAWS
@given(CORPORA)
def test_a_rewriter_changes_only_what_it_says(name, tmp_path, table):
    made = applied(name, Docs.of(table), tmp_path)
    (docs,), (redactions,) = made["Docs"], made["Redactions"]
    assert docs.drop(["content", "size"]).equals(table.drop(["content", "size"]))
    for before, after, doc_id in zip(table["content"].to_pylist(), docs["content"].to_pylist(), table["doc_id"].to_pylist(), strict=True):
        spans = [row for row in redactions.to_pylist() if row["doc_id"] == doc_id]
        assert outside(before.encode(), spans, "start", "end") == outside(after.encode(), spans, "new_start", "new_end")


def outside(data: bytes, spans: list[dict[str, Any]], start: str, end: str) -> bytes:
    kept, position = b"", 0
    for span in sorted(spans, key=lambda s: s[start]):
        kept, position = kept + data[position : span[start]], span[end]
    return kept + data[position:]


@functools.cache
def tokenizer(folder) -> Tokenizer:
    stage = STAGES["train_tokenizer"]
    docs = docs_table(["def f(x):\n    return x + 1\n" * 20] * 4, [0, 1, 2, 3])
    runtime = Runtime.alone(folder)
    return stage.function(docs=Docs.of(docs), cfg=stage.config.model_validate({"vocab_size": 400}), runtime=runtime)[0]


@LAWS
@given(CORPORA)
def test_no_byte_is_lost_between_document_and_token(tmp_path_factory, table):
    made = tokenizer(tmp_path_factory.getbasetemp() / "tokenizer")
    folder = tmp_path_factory.mktemp("tokens")
    (tokens,) = applied("encode", Docs.of(table), folder, tokenizer=made)["Tokens"]
    packed = applied("pack_fim", Docs.of(table), folder, tokens=Tokens.of(tokens), tokenizer=made)
    (spans,) = packed["Spans"]
    covered = {doc_id: [] for doc_id in table["doc_id"].to_pylist()}
    for span in spans.to_pylist():
        if span["byte_start"] is not None:
            covered[span["doc_id"]].append((span["byte_start"], span["byte_end"]))
    for doc_id, size in zip(table["doc_id"].to_pylist(), table["size"].to_pylist(), strict=True):
        ranges = sorted(r for r in covered[doc_id] if r[0] != r[1])
        assert sum(end - start for start, end in ranges) == size
        assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))


@pytest.mark.parametrize("name", sorted(STAGES))
def test_an_unknown_knob_is_refused_by_name(name):
    with pytest.raises(ValueError, match="no_such_knob"):
        STAGES[name].config.model_validate({"no_such_knob": 1})


KNOBS = [(name, knob) for name, stage in STAGES.items() for knob in stage.config.model_fields]


@pytest.mark.parametrize(("name", "knob"), KNOBS)
def test_a_knob_of_the_wrong_kind_is_refused_by_name(name, knob):
    with pytest.raises(ValueError, match=knob):
        STAGES[name].config.model_validate({knob: {"not": {"a": "value"}}})


@pytest.mark.parametrize(("name", "knob"), KNOBS)
def test_every_knob_says_what_it_is(name, knob):
    assert STAGES[name].config.model_fields[knob].description, f"{name}.{knob} has no sentence under it"


@pytest.mark.parametrize("name", sorted(STAGES))
def test_every_stage_says_what_it_reads_and_writes(name):
    stage = STAGES[name]
    first, *rest = stage.document.strip().splitlines()
    assert first.endswith("."), "the first line is a sentence"
    text = "\n".join(rest)
    assert "Reads" in text
    assert "Writes" in text
    for kind in (
        *stage.outputs,
        *(k for k in stage.inputs.values() if k is not Repositories and not (stage.prepare and k in stage.prepare.outputs)),
    ):
        assert kind.__name__ in text, f"{name} does not mention {kind.__name__}"


NEEDED = {"import_checkpoint": {"checkpoint": "org/name@" + "0" * 40}}
"""Knobs without which a stage does nothing."""


@pytest.mark.parametrize("name", sorted(STAGES))
def test_every_config_has_stable_bytes(name):
    keys.digest(STAGES[name].config.model_validate(NEEDED.get(name, {})).identity())


@pytest.mark.parametrize("name", STAGES)
def test_no_stage_imports_another(name):
    source = Path(importlib.import_module(f"starloom.tasks.{name}").__file__ or "").read_text()
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    named = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in imports if isinstance(node, ast.ImportFrom)}
    named |= {f"{node.module}.{alias.name}" for node in imports if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert named.isdisjoint(f"starloom.tasks.{other}" for other in STAGES)


# What somebody hands to a stage alone

KINDS = sorted({kind for stage in STAGES.values() for kind in stage.inputs.values() if issubclass(kind, Tabular)}, key=lambda k: k.__name__)
COLUMNS = [(kind, name) for kind in KINDS for name in kind.SCHEMA.names]
BROKEN = pa.Array.from_buffers(pa.string(), 3, pa.array([b"ok", b"a\xff", b"\xed\xa0\x80"]).buffers())
ODD_COLUMNS = {
    "no type": pa.nulls(3),
    "integers": pa.array([1, 2, -3]),
    "too great": pa.array([2**63] * 3, pa.uint64()),
    "fractions": pa.array([0.5, float("nan"), float("inf")]),
    "truths": pa.array([True, False, None]),
    "words": pa.array(["a", "", None]),
    "bytes": pa.array([b"a", b"\xff", None]),
    "broken": BROKEN,
    "broken words of a dictionary": pa.DictionaryArray.from_arrays(pa.array([0, 1, 1]), BROKEN),
    "times": pa.array([0, 1, None], pa.timestamp("ns")),
    "lists of words": pa.array([["a"], [], None]),
    "lists with a null": pa.array([[1, None], [], [2]]),
    "lists of lists": pa.array([[[1]], [], [[]]]),
    "lists of one length": pa.array([[1, 2]] * 3, pa.list_(pa.int64(), 2)),
    "structs": pa.array([{"a": 1}] * 3),
    "mappings": pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64())),
}


def rows_of(kind: type[Tabular]) -> pa.Table:
    """Three rows as they should be."""
    if kind is Docs:
        return docs_table(["a", "b", "c"], [0, 1, 2])
    values = {"string": ["a", "b", "c"], "bool": [True, False, True], "double": [0.0, 0.5, 1.0]}
    return pa.table(
        [pa.array(values.get(str(f.type), [[1]] * 3 if pa.types.is_list(f.type) else [0, 1, 2]), f.type) for f in kind.SCHEMA], kind.SCHEMA
    )


def handed_over(kind: type[Tabular], table: pa.Table) -> tuple[pa.Table | None, pa.Table | None, str]:
    """What a stage reads, the rows that it does not, and what is said where it reads nothing."""
    try:
        return (*given_documents(table, Path("x")), "") if kind is Docs else (given_rows(kind, table, Path("x")), None, "")
    except InputError as error:
        return None, None, str(error)


@pytest.mark.parametrize(("kind", "name"), COLUMNS)
def test_a_column_is_made_fit_refused_by_name_or_costs_its_rows(kind, name):
    table, place = rows_of(kind), kind.SCHEMA.names.index(name)
    holey = pa.array([None, *table.column(name).to_pylist()[1:]], kind.SCHEMA.field(name).type)
    for odd in ({} if kind.SCHEMA.field(name).nullable else {"null": holey}) | ODD_COLUMNS:
        given = table.set_column(place, name, holey if odd == "null" else ODD_COLUMNS[odd])
        fit, skipped, refusal = handed_over(kind, given)
        if fit is None:
            assert name in refusal, odd
            continue
        fit.validate(full=True)
        fit.to_pylist()  # all text is text
        assert fit.num_rows == 3 - (skipped.num_rows if skipped else 0)
        assert all(f.nullable or not fit.column(f.name).null_count for f in kind.SCHEMA)
        assert not any(pc.list_flatten(fit.column(f.name)).null_count for f in kind.SCHEMA if pa.types.is_list(f.type))
        assert all(name in detail for detail in (skipped.column("detail").to_pylist() if skipped else ()))


ALONE = sorted(n for n, s in STAGES.items() if not s.runs and s.inputs and {k.__name__ for k in s.inputs.values()} <= {
    "Docs", "Licenses", "Signals", "Signatures", "Tokenizer", "TokenizerSample", "Tokens"})  # fmt: skip
"""Stages that can be run by themselves in a moment."""


@pytest.mark.parametrize("name", ALONE)
def test_a_stage_alone_drops_what_is_no_document_with_a_reason_and_needs_nothing_that_may_be_null(name, tmp_path, tmp_path_factory):
    made = tokenizer(tmp_path_factory.getbasetemp() / "tokenizer")
    whole = docs_table(["def f(x):\n    return x\n" * 9, "", "c"], [0, 1, 2])
    tokens = STAGES["encode"].function(
        docs=Docs.of(whole), tokenizer=made, cfg=STAGES["encode"].config(), runtime=Runtime.alone(tmp_path / "e")
    )
    tables = {Docs: whole, Licenses: judged(Docs.of(whole), tmp_path).read(), Tokens: tokens.read()}
    files: dict[type, Path] = {Tokenizer: made.path}
    for kind, table in tables.items():
        columns = {f.name: pa.nulls(len(table), f.type) if f.nullable else table.column(f.name) for f in kind.SCHEMA}
        if kind is Docs:
            columns["content"] = pa.array([b"def f(): pass\n", None, b"\xff"])
            del columns["size"], columns["swhid"]
        files[kind] = tmp_path / f"{kind.__name__}.parquet"
        pq.write_table(pa.table(columns), files[kind])
    stage = STAGES[name]
    given = {parameter: files[kind] for parameter, kind in stage.inputs.items() if kind in files}
    told, _ = run_alone(stage, stage.config(), given, tmp_path / "out")
    if Docs in stage.inputs.values():
        facts = told["skipped.parquet"]
        assert (facts["seen"], facts["kept"], facts["rules"]) == (3, 1, {"null": 1, "undecodable": 1})
        assert pq.read_table(tmp_path / "out" / "skipped.parquet")["detail"].to_pylist() == ["row 1: content", "row 2: content"]
