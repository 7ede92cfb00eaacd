"""Reading sources into documents: nothing lost, nothing changed, nothing absolute."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from starloom.flows.run import Request, prepare
from starloom.lineage.errors import ConfigError, InputError
from starloom.lineage.store import Store
from starloom.queries.rows import Rows
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.ingest import Directory, Ingest, PythonEnvironment, ingest, snapshot
from starloom.tasks.kernels.languages.lists import named_lists
from starloom.tasks.kernels.sources.contents import blob_id
from starloom.tasks.schemas import Repositories
from tests.corpus import run_recipe


def write(root: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def run(root: Path, **knobs):
    config = Ingest.model_validate({"sources": [{"kind": "directory", "path": str(root)}], **knobs})
    with tempfile.TemporaryDirectory() as scratch:
        docs, skipped = ingest.function(Repositories(snapshot(config.sources, 0, {})), config, Runtime.alone(Path(scratch, "s")))
    return docs.read().to_pylist(), skipped.read().to_pylist()


def test_every_kind_of_file_has_its_fate(tmp_path):
    files = {
        "r/ok.py": "\ufeffprint('é')\r\n".encode(),
        "r/empty.py": b"",
        "r/nul.py": b"ab\0c",
        "r/latin.py": b"caf\xe9",
        "r/surrogate.py": b"\xed\xa0\x80",
        "r/large.py": b"x" * 101,
        "r/edge.py": b"x" * 100,
        "r/what.unknown": b"1",
        "r/LICENSE": b"MIT",
        "r/README.md": b"# r",
        "r/_vendor/gen_pb2.py": b"1",
    }
    docs, skipped = run(write(tmp_path, files), max_file_bytes=100)
    by_path = {doc["path"]: doc for doc in docs}
    assert {path: doc["content"].encode() for path, doc in by_path.items()} == {
        path: files[f"r/{path}"].removeprefix(b"\xef\xbb\xbf")
        for path in ("ok.py", "empty.py", "edge.py", "LICENSE", "README.md", "_vendor/gen_pb2.py")
    }
    assert {row["path"]: (row["rule"], row["value"], row["threshold"]) for row in skipped} == {
        "nul.py": ("binary", 2, None),
        "latin.py": ("undecodable", 3, None),
        "surrogate.py": ("undecodable", 0, None),
        "large.py": ("too-large", 101, 100),
        "what.unknown": ("unknown-language", None, None),
    }
    assert {path: doc["kind"] for path, doc in by_path.items()} == {
        "ok.py": "code",
        "empty.py": "code",
        "edge.py": "code",
        "LICENSE": "license",
        "README.md": "documentation",
        "_vendor/gen_pb2.py": "code",
    }
    assert (by_path["_vendor/gen_pb2.py"]["is_vendor"], by_path["_vendor/gen_pb2.py"]["is_generated"]) == (True, True)
    assert (by_path["ok.py"]["is_vendor"], by_path["ok.py"]["is_generated"]) == (False, False)


@given(
    contents=st.dictionaries(
        st.sampled_from([f"{repo}/{name}" for repo in "rq" for name in ("a.py", "b.md", "c.unknown", "LICENSE", "d/e.c")]),
        st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
    )
)
def test_files_are_documents_or_skipped_rows_and_nothing_else(contents):
    with tempfile.TemporaryDirectory() as folder:
        docs, skipped = run(write(Path(folder), contents), max_file_bytes=30)
        paths = [f"{row['repo']}/{row['path']}" for row in [*docs, *skipped]]
        assert sorted(paths) == sorted(contents)
        assert [(doc["repo"], doc["path"]) for doc in docs] == sorted((doc["repo"], doc["path"]) for doc in docs)
        for doc in docs:
            content = contents[f"{doc['repo']}/{doc['path']}"]
            assert doc["content"].encode() == content if doc["encoding"] is None else doc["encoding"] not in ("utf-8", "ascii")
            assert doc["size"] == len(doc["content"].encode())
            assert doc["swhid"] == "swh:1:cnt:" + blob_id(content)
        assert len({doc["doc_id"] for doc in docs}) == len(docs)
        assert folder not in repr([docs, skipped])


def test_two_places_give_the_same_rows(tmp_path):
    files = {"r/a.py": b"1", "r/LICENSE": b"MIT", "q/b.bin": b"2", "loose.py": b"3"}
    assert run(write(tmp_path / "one", files)) == run(write(tmp_path / "two/deeper", files))


def test_an_installed_environment_becomes_documents(tmp_path):
    config = Ingest.model_validate({"sources": [{"kind": "python-environment", "sample_bytes": 300_000}]})
    found: list[Any] = snapshot(config.sources, 7, {})
    docs, skipped = ingest.function(Repositories(found), config, Runtime.alone(tmp_path / "s"))
    rows = docs.read().to_pylist()
    assert 0 < sum(row["size"] for row in rows) <= 300_000
    assert len(rows) + skipped.num_rows == sum(len(s.files) for s in found)
    assert all(row["declared_license"] is None or "\n" not in row["declared_license"] for row in rows)


def test_no_repository_at_all_gives_empty_tables(tmp_path):
    docs, skipped = ingest.function(Repositories([]), Ingest(), Runtime.alone(tmp_path / "s"))
    assert (docs.num_rows, skipped.num_rows) == (0, 0)


@pytest.mark.parametrize("change", [lambda file: file.write_bytes(b"2"), os.remove], ids=["rewritten", "removed"])
def test_a_file_that_changes_between_plan_and_reading_stops_the_run(tmp_path, change):
    config = Ingest(sources=[Directory(kind="directory", path=str(write(tmp_path / "in", {"r/a.py": b"1"})))])
    found = snapshot(config.sources, 0, {})
    change(tmp_path / "in/r/a.py")
    with pytest.raises(InputError, match=r"(?s)r/a\.py.*run again"):
        ingest.function(Repositories(found), config, Runtime.alone(tmp_path / "s"))


# ---- configuration


def test_paths_are_relative_to_the_recipe_and_no_part_of_the_identity(tmp_path):
    knobs = {"sources": [{"kind": "directory", "path": "in"}, {"kind": "python-environment", "prefix": "lib"}]}
    config = Ingest.model_validate(knobs, context={"folder": str(tmp_path)})
    directory, environment = config.sources
    assert isinstance(directory, Directory)
    assert isinstance(environment, PythonEnvironment)
    assert directory.path == str(tmp_path / "in")
    assert environment.prefix == str(tmp_path / "lib")
    assert str(tmp_path) not in repr(config.identity())
    assert config.identity() == Ingest.model_validate(knobs, context={"folder": "/elsewhere"}).identity()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"sources": []}, "at least 1"),
        ({"sources": [{"kind": "directory", "path": "a"}, {"kind": "directory", "path": "b"}]}, "two sources are named 'directory'"),
        ({"sources": [{"kind": "tarball", "path": "a"}]}, "python-environment"),
        ({"sources": [{"kind": "directory"}]}, "path"),
        ({"sources": [{"kind": "python-environment", "sample_bytes": 0}]}, "sample_bytes"),
        ({"part_bytes": 0}, "part_bytes"),
    ],
)
def test_knobs_that_mean_nothing_are_refused_by_name(knobs, message):
    with pytest.raises(ValidationError, match=message):
        Ingest.model_validate(knobs)


def test_a_missing_source_names_the_path_and_the_remedy(tmp_path):
    source = Directory(kind="directory", path=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"nowhere does not exist\n.*child folders are repositories"):
        snapshot([source], 0, {})


def test_two_distributions_of_one_name_are_refused(tmp_path):
    write(tmp_path, {"p-1.dist-info/RECORD": b"", "p-2.dist-info/RECORD": b""})
    with pytest.raises(InputError, match="holds p twice"):
        snapshot([PythonEnvironment(kind="python-environment", prefix=str(tmp_path))], 0, {})


ONE = {
    "git": {".git/HEAD": b"", "a/LICENSE": b"", "b/x.py": b"1"},
    "linked-work-tree": {".git": b"gitdir: /nowhere", "x.py": b"1"},
    "built": {"pyproject.toml": b"", "docs/README.md": b"1", "src/x.py": b"1"},
    "only-files": {"x.py": b"1", "y.py": b"2"},
    "files-and-folders": {"x.py": b"1", "inner/y.py": b"2"},
}
SEVERAL = {
    "plain": {"a/x.py": b"1", "b/y.py": b"2"},
    "readme-above": {"README.md": b"1", "a/LICENSE": b"", "a/x.py": b"1", "b/y.py": b"2"},
    "script-above": {"fetch.py": b"1", "a/.git/HEAD": b"", "a/x.py": b"1", "b/y.py": b"2"},
    "built-below": {"Makefile": b"1", "a/.git/HEAD": b"", "a/setup.py": b"1", "b/y.py": b"2"},
}


@pytest.mark.parametrize("name", ONE)
def test_a_folder_that_is_one_repository_is_taken_as_one_and_that_is_said(tmp_path, name):
    root = write(tmp_path / "mine", ONE[name])
    config = Ingest.model_validate({"sources": [{"kind": "directory", "path": str(root)}]})
    runtime = Runtime.alone(tmp_path / "s")
    docs, skipped = ingest.function(Repositories(snapshot(config.sources, 0, {})), config, runtime)
    expected = {path for path in ONE[name] if not path.startswith(".git")}
    assert {row["path"] for row in (*docs.read().to_pylist(), *skipped.read().to_pylist())} == expected
    assert set(docs.read().column("repo").to_pylist()) == {"mine"}
    assert runtime.notes["told"].startswith("the source directory is taken as one repository, mine: it has ")
    apart = Ingest.model_validate({"sources": [{"kind": "directory", "path": str(root), "holds": "repositories"}]})
    assert "mine" not in {snapshot.repo for snapshot in snapshot(apart.sources, 0, {})}


@pytest.mark.parametrize("case", SEVERAL)
def test_a_folder_of_repositories_stays_one(tmp_path, case):
    root = write(tmp_path / "many", SEVERAL[case])
    config = Ingest.model_validate({"sources": [{"kind": "directory", "path": str(root)}]})
    found = snapshot(config.sources, 0, {})
    assert {each.repo for each in found if each.repo != "."} == {"a", "b"}
    assert not [each.note for each in found if each.note]
    whole, *inner = snapshot(
        Ingest.model_validate({"sources": [{"kind": "directory", "path": str(root), "holds": "repository"}]}).sources, 0, {}
    )
    assert whole.repo == "many"
    assert [each.repo for each in inner] == [f"many/{name}" for name in "ab" if f"{name}/.git/HEAD" in SEVERAL[case]]


def test_what_parts_have_to_say_is_said_once(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, {"setup.py": b"x = 1\n" * 100})
    sources_ = ", ".join(f"{{kind: directory, name: {name}, path: {tmp_path / name}}}" for name in ("one", "two"))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"stages:\n- ingest: {{part_bytes: 10, sources: [{sources_}]}}\n")
    (look,) = prepare(Request(str(recipe), store=str(tmp_path / "store"))).outlook
    step = run_recipe(recipe, tmp_path / "store").step("ingest")
    assert sorted(look.told.split("; ")) == sorted(step.notes["told"].split("; "))
    assert step.num_actions == 2
    assert sorted(step.notes["told"].split("; ")) == [
        f"the source {name} is taken as one repository, {name}: it has setup.py" for name in ("one", "two")
    ]


@pytest.mark.parametrize("holds", ["repositories", "repository"])
def test_a_store_below_a_source_is_no_part_of_it(tmp_path, holds):
    write(tmp_path / "all", {"one/a.py": b"x = 1\n", "two/objects/b.py": b"x = 2\n", "two/store.json": b"{}\n"})
    recipe = tmp_path / "all" / "r.yaml"  # its store lies beside it, and so in the source
    recipe.write_text(f"stages:\n- ingest: {{sources: [{{kind: directory, name: a, path: {tmp_path / 'all'}, holds: {holds}}}]}}\n")
    store = str(tmp_path / "all" / ".starloom")
    first, again = (run_recipe(recipe, store) for _ in range(2))
    assert again.id == first.id, "nothing to do"
    docs = first.step("ingest").outputs["Docs"]["artifact"]
    paths = [path for _, table in Rows(Store.open(store)).tables(docs, ["path"]) for path in table["path"].to_pylist()]
    above = {"repositories": "", "repository": "two/"}[holds]
    assert {above + "objects/b.py", above + "store.json"} <= set(paths), "a store.json of somebody else's"
    assert not any("objects/docs" in path or "actions" in path for path in paths)


def test_contents_tell_languages_and_what_nothing_tells_is_left_out(tmp_path):
    files = {
        "r/a.h": b"class A {\npublic:\n};\n",
        "r/tool": b"#!/usr/bin/env python3\n",
        "r/data": b"\x01\x02 nothing",
        "r/config.h.in": b"int a;\n",
        "r/redis.conf": b"port = 1\n",
        "r/NOTICE": b"thanks",
        "r/docs/a.md": b"# a\n",
        "r/image.unknown": b"1",
    }
    docs, skipped = run(write(tmp_path, files), content_languages="off")
    assert {row["path"]: (row["kind"], row["language"], row["is_documentation"]) for row in docs} == {
        "a.h": ("code", "C++", False),
        "tool": ("code", "Python", False),
        "config.h.in": ("code", "C", False),
        "redis.conf": ("code", "INI", False),
        "NOTICE": ("license", None, False),
        "docs/a.md": ("documentation", "Markdown", True),
    }
    assert {row["path"]: row["rule"] for row in skipped} == {"data": "unknown-language", "image.unknown": "unknown-language"}


def test_files_of_languages_that_are_not_listed_are_left_out_but_licences_are_not(tmp_path):
    files = {"r/a.py": b"1", "r/b.zig": b"1", "r/c.nix": b"1", "r/LICENSE": b"MIT", "r/README.md": b"# r"}
    docs, skipped = run(write(tmp_path, files), languages=["starcoder2-17", "Zig"], content_languages="off")
    assert [row["path"] for row in docs] == ["LICENSE", "a.py", "b.zig"]
    assert [(row["path"], row["rule"], row["detail"]) for row in skipped] == [
        ("README.md", "language-not-listed", "Markdown"),
        ("c.nix", "language-not-listed", "Nix"),
    ]


def test_an_unknown_language_is_refused_with_the_nearest():
    with pytest.raises(ValidationError, match=r"unknown language 'Pyhton': did you mean 'Python'\?"):
        Ingest.model_validate({"languages": ["Pyhton"]})
    with pytest.raises(ValidationError, match=r"unknown language 'starcoder2-71': did you mean 'starcoder2-17'\?"):
        Ingest.model_validate({"languages": ["starcoder2-71"]})


def test_a_list_and_its_languages_are_one_identity():
    named, spelt = (
        Ingest.model_validate({"languages": languages}) for languages in (["starcoder2-17"], list(named_lists()["starcoder2-17"]))
    )
    assert named.identity() == spelt.identity()


def test_auto_asks_magika_where_it_is_installed_and_its_version_is_in_the_key(tmp_path, monkeypatch):
    assert Ingest.model_validate({"content_languages": "off"}).libraries() == ()
    assert Ingest.model_validate({"content_languages": "magika"}).libraries() == ("magika", "onnxruntime")
    monkeypatch.setitem(sys.modules, "magika", None)  # as if it were not installed
    assert Ingest().content_languages == "off"
    assert Ingest().libraries() == ()
    with pytest.raises(ConfigError, match=r"magika is not installed here(.|\n)*pip install 'starloom\[languages\]'"):
        run(write(tmp_path, {"r/a.py": b"1"}), content_languages="magika")
