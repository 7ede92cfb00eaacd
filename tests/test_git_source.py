"""Git repositories as sources: what git itself says of a commit is what is read, and nothing that git forbids breaks it."""

import datetime
import os
import socket
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest
from swh.model.from_disk import Directory as SwhDirectory
from swh.model.model import Snapshot

from starloom.lineage.errors import InputError
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.ingest import Ingest, ingest, snapshot
from starloom.tasks.kernels.sources.git_places import parse_place, public_address
from starloom.tasks.kernels.sources.git_trees import MissingObject, Objects, measure
from starloom.tasks.kernels.sources.swhids import object_id, snapshot_id
from starloom.tasks.kernels.sources.units import Cache, SourceError
from starloom.tasks.schemas import Repositories

FILES = {
    "a.py": b"print(1)\n",
    "docs/LICENSE.txt": b"MIT License\n",
    "src/deep/b.c": b"int x;\n",
    "what.unknown": b"?",
    "nul.py": b"a\0b",
    "pointer.py": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 99\n",
    "big.py": b"x" * 2000,
}


def git(folder: Path, *words: str, when: int = 1_600_000_000, data: bytes | None = None) -> str:
    names = {f"GIT_{who}_{what}": "a" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    times = {"GIT_AUTHOR_DATE": f"{when} +0200", "GIT_COMMITTER_DATE": f"{when + 60} +0000", "GIT_CONFIG_GLOBAL": "/dev/null"}
    argv = ["git", "-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false", *words]
    return (
        subprocess.run(argv, cwd=folder, env={**os.environ, **names, **times}, input=data, check=True, capture_output=True)
        .stdout.decode()
        .strip()
    )


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A repository with two commits, a branch, a tag, links and a submodule."""
    root = tmp_path_factory.mktemp("git")
    inner, outer = root / "inner", root / "outer"
    for folder, files in ((inner, {"sub.py": b"1"}), (outer, FILES)):
        folder.mkdir()
        git(folder, "init", "-q")
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        git(folder, "add", ".")
        git(folder, "commit", "-qm", "one")
    git(outer, "tag", "-am", "first", "v1")
    git(outer, "submodule", "add", "-q", f"file://{inner}", "vendor/inner")
    for name, target in (("LICENSE", "docs/LICENSE.txt"), ("COPYING", "LICENSE"), ("link.py", "a.py"), ("NOTICE", "../../etc/passwd")):
        (outer / name).symlink_to(target)
    git(outer, "add", ".")
    git(outer, "commit", "-qm", "two", when=1_700_000_000)
    git(outer, "branch", "side")
    return outer


def config(*places: object, **knobs) -> Ingest:
    return Ingest.model_validate({"sources": [{"kind": "git", "repositories": [str(p) for p in places], **knobs}], "max_file_bytes": 1000})


def listed(cfg: Ingest, cache: Cache) -> list[Any]:
    """Return the units of the sources, whatever their kind."""
    return list(snapshot(cfg.sources, 0, cache))


def read(cfg: Ingest, tmp_path: Path, cache=None) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    units = snapshot(cfg.sources, 0, {} if cache is None else cache)
    docs, skipped = ingest.function(Repositories(units), cfg, Runtime.alone(tmp_path / "scratch"))
    return {d["path"]: d for d in docs.read().to_pylist()}, {s["path"]: s for s in skipped.read().to_pylist()}


def test_a_commit_is_what_git_says_of_it(clone, tmp_path):
    docs, skipped = read(config(clone), tmp_path)
    listed = [line.split(None, 3) for line in git(clone, "ls-tree", "-r", "-z", "HEAD").split("\0") if line]
    assert {*docs, *skipped} == {path for *_, path in listed}
    assert not {*docs} & {*skipped}
    blobs = {path: blob for _, _, blob, path in listed}
    plain = {path for mode, _, _, path in listed if mode == "100644"}
    assert {path: doc["swhid"] for path, doc in docs.items() if path in plain} == {
        path: f"swh:1:cnt:{blobs[path]}" for path in docs if path in plain
    }
    assert {doc["revision"] for doc in docs.values()} == {git(clone, "rev-parse", "HEAD")}
    assert {doc["committed_at"].timestamp() for doc in docs.values()} == {1_700_000_000}
    assert {path: (docs[path]["content"], docs[path]["kind"]) for path in ("LICENSE", "COPYING")} == dict.fromkeys(
        ("LICENSE", "COPYING"), ("MIT License\n", "license")
    )
    assert {path: row["rule"] for path, row in skipped.items() if path != ".gitmodules"} == {
        "what.unknown": "unknown-language",
        "nul.py": "binary",
        "pointer.py": "lfs-pointer",
        "big.py": "too-large",
        "link.py": "symlink",
        "NOTICE": "symlink",
        "vendor/inner": "submodule",
    }
    assert skipped["vendor/inner"]["detail"].endswith(git(clone.parent / "inner", "rev-parse", "HEAD"))


@pytest.mark.parametrize("form", ["bare", "mirror", "linked", "shallow", "dot-git", "packed"])
def test_every_form_of_a_repository_gives_the_same_rows(clone, tmp_path, form):
    words = {
        "bare": ["clone", "-q", "--bare", str(clone), "outer.git"],
        "mirror": ["clone", "-q", "--mirror", str(clone), "outer.git"],
        "shallow": ["clone", "-q", "--depth=1", f"file://{clone}", "outer"],
        "packed": ["clone", "-q", f"file://{clone}", "outer"],
    }
    place = clone / ".git" if form == "dot-git" else tmp_path / ("outer.git" if form in ("bare", "mirror") else "outer")
    if form in words:
        git(tmp_path, *words[form])
    if form == "linked":
        git(clone, "worktree", "add", "-q", "--detach", str(place))
    if form == "packed":
        git(place, "gc", "-q")
    assert read(config(place), tmp_path) == read(config(clone), tmp_path)


def test_revisions_tags_and_dates_name_commits(clone, tmp_path):
    first, second = git(clone, "rev-list", "--reverse", "HEAD").split()
    for knobs, commit in (
        ({"revision": "v1"}, first),
        ({"revision": "side"}, second),
        ({"revision": first[:10]}, first),
        ({"date": "2020-12-31"}, first),
        ({"date": datetime.date(2023, 12, 31)}, second),
        ({"date": "2020-09-13T12:27:40+00:00"}, first),
    ):
        (unit,) = listed(config(clone, **knobs), {})
        assert unit.revision == commit
    assert git(clone, "rev-list", "-1", "--before=2020-12-31T23:59:59Z", "HEAD") == first
    (unit,) = listed(config(f"{clone}@v1"), {})
    assert unit.revision == first


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"revision": "sied"}, "no commit sied.*(?s:.)*did you mean 'side'"),
        ({"revision": "v1:a.py"}, "no commit"),
        ({"date": "1999-01-01"}, "no commit before"),
    ],
)
def test_what_names_no_commit_is_refused_with_the_nearest(clone, knobs, message):
    with pytest.raises(InputError, match=message):
        listed(config(clone, **knobs), {})


def test_an_unchanged_commit_is_not_walked_again(clone, monkeypatch):
    cache: Cache = {}
    first = listed(config(clone), cache)
    monkeypatch.setattr("starloom.tasks.kernels.sources.git.measure", lambda *_: pytest.fail("walked again"))
    assert listed(config(clone), cache) == first
    assert cache[f"git:{first[0].revision}"][-1] == first[0].num_bytes


def test_identifiers_are_those_of_software_heritage(clone, tmp_path):
    (unit,) = listed(config(clone, revision="v1"), {})
    git(tmp_path, "clone", "-q", "-b", "v1", str(clone), "tree")
    (tmp_path / "tree/.git").rename(tmp_path / "aside")
    tree = SwhDirectory.from_disk(path=os.fsencode(tmp_path / "tree"), max_content_length=None)
    targets = {line.split()[1]: line.split()[0] for line in git(clone, "show-ref", "--head").splitlines()}
    kinds = {"commit": "revision", "tag": "release"}
    branches = {
        name.encode(): {"target": bytes.fromhex(target), "target_type": kinds[git(clone, "cat-file", "-t", target)]}
        for name, target in targets.items()
        if name != "HEAD"
    }
    branches[b"HEAD"] = {"target": b"refs/heads/main", "target_type": "alias"}
    expected = Snapshot.from_dict({"branches": branches})
    assert unit.swhids == [str(tree.swhid()), f"swh:1:rev:{git(clone, 'rev-parse', 'v1^{}')}", str(expected.swhid())]
    assert object_id("blob", FILES["a.py"]) == git(clone, "hash-object", "a.py")
    assert snapshot_id({}) == Snapshot(branches={}).id.hex()


def test_a_folder_of_repositories_and_a_list_of_them(clone, tmp_path):
    for name in ("one/x.git", "two.git"):
        git(tmp_path, "clone", "-q", "--bare", str(clone), name)
    (tmp_path / "empty").mkdir()
    git(tmp_path, "init", "-q", "--bare", "unborn.git")
    units = listed(config(tmp_path), {})
    assert [(unit.repo, unit.note is None) for unit in units] == [("empty", False), ("one/x", True), ("two", True), ("unborn", False)]
    docs, skipped = read(config(tmp_path), tmp_path / "w")
    assert {row["rule"] for row in [skipped["."]]} == {"unreadable-repository"}
    (tmp_path / "list.txt").write_text("# mine\none/x.git\n\ntwo.git@v1\nfile:///nowhere/at/all\n")
    cfg = Ingest.model_validate(
        {"sources": [{"kind": "git", "list_file": "list.txt", "mirrors": "mirrors"}]}, context={"folder": str(tmp_path)}
    )
    found = {unit.repo: unit for unit in listed(cfg, {})}
    assert found["two"].revision == git(clone, "rev-parse", "v1^{}")
    assert str(tmp_path) not in repr([(u.repo, u.digest, u.files) for u in found.values() if u.repo == "all"])
    assert found.keys() == {"x", "two", "all"}
    assert docs


def test_a_remote_is_mirrored_pinned_and_not_asked_again_for_a_commit_that_is_there(clone, tmp_path):
    origin = tmp_path / "origin.git"
    git(tmp_path, "clone", "-q", "--bare", str(clone), str(origin))
    cfg = config(f"file://{origin}", mirrors=str(tmp_path / "m"))
    (unit,) = listed(cfg, {})
    assert (unit.repo, unit.revision, unit.url) == ("origin", git(clone, "rev-parse", "HEAD"), None)
    assert read(cfg, tmp_path)[0].keys() == read(config(clone), tmp_path)[0].keys()
    subprocess.run(["rm", "-rf", str(tmp_path / "m")], check=True)
    docs, _ = ingest.function(Repositories([unit]), cfg, Runtime.alone(tmp_path / "s"))
    assert docs.num_rows, "another machine fetches what it has not"
    origin.rename(tmp_path / "gone")
    with pytest.raises(InputError, match="cannot be fetched(?s:.)*URL@COMMIT"):
        listed(cfg, {})
    (pinned,) = listed(config(f"file://{origin}@{unit.revision}", mirrors=str(tmp_path / "m")), {})
    assert pinned.digest == unit.digest


@pytest.mark.slow
def test_a_daemon_is_cloned_over_the_network(clone, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = ["git", "daemon", "--export-all", f"--base-path={clone.parent}", "--listen=127.0.0.1", f"--port={port}", "--reuseaddr"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as daemon:
        try:
            cfg = config(f"git://127.0.0.1:{port}/outer@v1", mirrors=str(tmp_path / "m"))
            for attempt in range(50):
                try:
                    (unit,) = listed(cfg, {})
                    break
                except InputError:
                    assert attempt < 49
                    subprocess.run(["sleep", "0.1"], check=True)
        finally:
            daemon.terminate()
    assert (unit.revision, unit.url) == (git(clone, "rev-parse", "v1^{}"), f"git://127.0.0.1:{port}/outer")


def stored(repository: Path, kind: Any, data: bytes) -> str:
    """Write an object as it is, whatever git would say of it."""
    name = object_id(kind, data)
    path = repository / "objects" / name[:2] / name[2:]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zlib.compress(b"%s %d\0" % (kind.encode(), len(data)) + data))
    return name


def entry(mode: str, name: bytes, target: str) -> bytes:
    return f"{mode} ".encode() + name + b"\0" + bytes.fromhex(target)


def hostile(tmp_path: Path, make) -> Path:
    repository = tmp_path / "h.git"
    git(tmp_path, "init", "-q", "--bare", str(repository))
    tree = make(repository)
    commit = stored(repository, "commit", f"tree {tree}\nauthor a <a> 1 +0000\ncommitter a <a> 1 +0000\n\nm".encode())
    (repository / "refs/heads/main").write_text(commit + "\n")
    return repository


def test_absurd_names_twins_and_missing_objects_are_left_out_with_their_reasons(tmp_path):
    def make(repository: Path) -> str:
        blob = stored(repository, "blob", b"x = 1\n")
        names = [b"../up.py", b"..", b"\xff.py", b"a.py", b"a.py", b"gone.py"]
        return stored(repository, "tree", b"".join(entry("100644", name, "1" * 40 if name == b"gone.py" else blob) for name in names))

    with pytest.raises(InputError, match="not whole"):
        listed(config(hostile(tmp_path, make)), {})
    (tmp_path / "2").mkdir()

    def whole(repository: Path) -> str:
        blob = stored(repository, "blob", b"x = 1\n")
        names = [b"../up.py", b"..", b"\xff.py", b"a.py", b"a.py"]
        return stored(repository, "tree", b"".join(entry("100644", name, blob) for name in names))

    repository = hostile(tmp_path / "2", whole)
    units = listed(config(repository), {})
    docs, skipped = ingest.function(Repositories(units), config(repository), Runtime.alone(tmp_path / "s"))
    assert docs.read().column("path").to_pylist() == ["a.py"]
    assert [(row["path"], row["rule"]) for row in skipped.read().to_pylist()] == [
        ("..", "undecodable-path"),
        ("../up.py", "undecodable-path"),
        ("\\xff.py", "undecodable-path"),
        ("a.py", "repeated-path"),
    ]


def test_a_tree_of_a_thousand_million_files_is_refused_in_no_time(tmp_path):
    def make(repository: Path) -> str:
        inner = stored(repository, "blob", b"x")
        tree = stored(repository, "tree", b"".join(entry("100644", b"%d.py" % i, inner) for i in range(10)))
        for _ in range(9):
            tree = stored(repository, "tree", b"".join(entry("40000", b"%d" % i, tree) for i in range(10)))
        return tree

    with pytest.raises(InputError, match="10,000,000,000 files"):
        listed(config(hostile(tmp_path, make)), {})


def test_a_damaged_object_is_never_read_as_what_it_says(tmp_path):
    import pygit2

    repository = hostile(tmp_path, lambda at: stored(at, "tree", entry("100644", b"a.py", stored(at, "blob", b"true\n"))))
    name = object_id("blob", b"true\n")
    path = repository / "objects" / name[:2] / name[2:]
    path.write_bytes(zlib.compress(b"blob 5\0fals\n"))
    objects = Objects(pygit2.Repository(str(repository)))
    with pytest.raises(MissingObject, match="damaged"):
        objects.read(name, "blob")
    assert measure(objects, object_id("tree", entry("100644", b"a.py", name))) == 5
    assert read(config(repository), tmp_path)[1]["a.py"]["rule"] == "unreadable"


@pytest.mark.parametrize(
    ("word", "address", "name", "revision"),
    [
        ("https://github.com/o/n.git", "https://github.com/o/n.git", "o/n", None),
        ("https://u:p@h/o/n@feature/x", "https://u:p@h/o/n", "o/n", "feature/x"),
        ("git@github.com:o/n.git@v1", "git@github.com:o/n.git", "o/n", "v1"),
        ("file:///a/b.git", "file:///a/b.git", "b", None),
        ("x/y.git@v2", "/f/x/y.git", "y", "v2"),
        ("x@y", "/f/x", "x", "y"),
    ],
)
def test_places_are_parsed(word, address, name, revision):
    assert parse_place(word, "/f")[:3] == (address, name, revision)


def test_addresses_are_published_without_secrets():
    assert public_address("https://me:token@h:8080/o/n.git?x=1") == "https://h:8080/o/n"
    assert public_address("git@h:o/n.git") == "ssh://h/o/n"
    assert public_address("file:///home/me/x") is None
    with pytest.raises(SourceError, match="ext:// is no address"):
        parse_place("ext://sh -c x/y", "/f")
