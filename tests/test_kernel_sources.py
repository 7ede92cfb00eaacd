"""Snapshots of source repositories: what is listed, what is skipped, what identity they have."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.tasks.kernels.sources import languages
from starloom.tasks.kernels.sources.contents import blob_id
from starloom.tasks.kernels.sources.environments import list_environment
from starloom.tasks.kernels.sources.files import RepositorySnapshot
from starloom.tasks.kernels.sources.folders import list_directory
from starloom.tasks.kernels.sources.units import Cache, SourceError, document_id, partition

OLD = 1_600_000_000


def write(root: Path, files: dict[str, bytes]) -> None:
    """Files with an old time, so that the cache trusts them."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        os.utime(root / path, (OLD, OLD))


def install(prefix: Path, name: str, version: str, files: dict[str, bytes], metadata: str = "", **extra: bytes) -> None:
    """A distribution as pip leaves it: its files, metadata, and RECORD with sizes."""
    dist_info = f"{name}-{version}.dist-info"
    own = {f"{dist_info}/METADATA": f"Metadata-Version: 2.4\nName: {name}\n{metadata}\n\nA long story".encode(), **files}
    own |= {f"{dist_info}/{path}": content for path, content in extra.items()}
    write(prefix, own)
    lines = [f"{path},sha256=x,{len(content)}" for path, content in own.items()]
    lines += [f"{dist_info}/INSTALLER,,", "../../../bin/tool,sha256=x,7", "pkg/__pycache__/a.pyc,,", f"{dist_info}/RECORD,,"]
    write(prefix, {f"{dist_info}/RECORD": "\n".join(lines).encode(), f"{dist_info}/INSTALLER": b"pip"})


def environment(prefix: Path, sample_bytes: int | None = None, exclude: tuple[str, ...] = (), seed: int = 0):
    found = list_environment(str(prefix), {}, source="env", sample_bytes=sample_bytes, exclude=exclude, seed=seed)
    return {snapshot.repo: snapshot for snapshot in found}


def git(folder: Path, *arguments: str) -> str:
    names = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


# ---- identity


def test_blob_id_is_gits(tmp_path):
    (tmp_path / "a").write_bytes(b"caf\xc3\xa9\r\n\0")
    assert blob_id(b"caf\xc3\xa9\r\n\0") == git(tmp_path, "hash-object", "--no-filters", "a")


def test_document_ids_are_not_fooled_by_where_one_field_ends():
    fields = [
        ("s", "a", "b", "c"),
        ("s", "ab", "", "c"),
        ("s", "a", None, "c"),
        ("s", "a", "", "c"),
        ("sa", "", "b", "c"),
        ("s", "a", "bc", ""),
    ]
    ids = {document_id(*each) for each in fields}
    assert len(ids) == len(fields)
    assert {len(each) for each in ids} == {32}


def test_the_same_tree_in_two_places_is_the_same_snapshot(tmp_path):
    files = {"r/a.py": b"1", "r/sub/b.c": b"2", "q/LICENSE": b"MIT", "q/x.bin": b"\0"}
    found = []
    for place in ("here", "there/deeper"):
        write(tmp_path / place, files)
        found.append(list_directory(str(tmp_path / place), {}, source="d"))
    assert [s.digest for s in found[0]] == [s.digest for s in found[1]]
    assert [s.files for s in found[0]] == [s.files for s in found[1]]
    assert str(tmp_path) not in repr([(s.source, s.repo, s.revision, s.files) for s in found[0]])


@pytest.mark.parametrize("change", ["content", "name", "gone", "new"])
def test_any_change_changes_the_digest(tmp_path, change):
    write(tmp_path, {"r/a.py": b"1", "r/b.py": b"2"})
    (before,) = list_directory(str(tmp_path), {}, source="d")
    {
        "content": lambda: write(tmp_path, {"r/a.py": b"3"}),
        "name": lambda: (tmp_path / "r/a.py").rename(tmp_path / "r/c.py"),
        "gone": (tmp_path / "r/a.py").unlink,
        "new": lambda: write(tmp_path, {"r/c.py": b""}),
    }[change]()
    (after,) = list_directory(str(tmp_path), {}, source="d")
    assert before.digest != after.digest


# ---- the cache


def test_untouched_files_are_taken_from_the_cache_and_touched_ones_read(tmp_path):
    write(tmp_path, {"r/a.py": b"1", "r/b.py": b"2"})
    cache: Cache = {}
    (first,) = list_directory(str(tmp_path), cache, source="d")
    cache = json.loads(json.dumps(cache))
    assert sorted(cache) == [str(tmp_path / "r/a.py"), str(tmp_path / "r/b.py")]
    cache[str(tmp_path / "r/a.py")][4] = "from the cache"
    (tmp_path / "r/b.py").write_bytes(b"3")
    os.utime(tmp_path / "r/b.py", (OLD + 1, OLD + 1))
    (second,) = list_directory(str(tmp_path), cache, source="d")
    assert [file.blob for file in second.files] == ["from the cache", blob_id(b"3")]
    assert [file.blob for file in first.files] == [blob_id(b"1"), blob_id(b"2")]


def test_a_file_written_just_now_is_not_trusted_to_the_cache(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/a.py").write_bytes(b"1")
    cache: Cache = {}
    list_directory(str(tmp_path), cache, source="d")
    assert cache == {}


# ---- directories


def test_what_cannot_be_used_is_listed_with_its_reason(tmp_path):
    write(tmp_path, {"r/a.py": b"1", "r/x.unknown": b"1", "r/.git/config": b"", "r/__pycache__/a.py": b"", "loose.py": b"1"})
    (tmp_path / "r/link.py").symlink_to("a.py")
    (tmp_path / "r/up").symlink_to("..")
    os.mkfifo(tmp_path / "r/pipe.py")
    (tmp_path / "linked").symlink_to("r")
    (Path(os.fsdecode(os.fsencode(tmp_path / "r") + b"/\xff.py"))).write_bytes(b"1")
    outside, repository = list_directory(str(tmp_path), {}, source="d")
    assert {file.path: file.reason for file in repository.files} == {
        "a.py": None,
        "x.unknown": "unknown-language",
        "link.py": "symlink",
        "up": "symlink",
        "pipe.py": "not-a-regular-file",
        "\\xff.py": "undecodable-path",
    }
    assert outside.repo == "."
    assert {file.path: file.reason for file in outside.files} == {"loose.py": "outside-repository", "linked": "outside-repository"}
    assert repository.num_bytes == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_listed_with_the_systems_words(tmp_path):
    write(tmp_path, {"r/a.py": b"1"})
    (tmp_path / "r/a.py").chmod(0)
    ((file,),) = (repository.files for repository in list_directory(str(tmp_path), {}, source="d"))
    assert (file.reason, file.detail) == ("unreadable", "Permission denied")


def test_a_missing_folder_says_which(tmp_path):
    with pytest.raises(SourceError, match="nowhere does not exist"):
        list_directory(str(tmp_path / "nowhere"), {}, source="d")


@pytest.mark.parametrize("state", ["loose", "packed", "detached", "worktree"])
def test_revision_is_the_commit_that_git_names(tmp_path, state):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    repository = tmp_path / "repos" / "r"
    write(repository, {"a.py": b"1"})
    git(repository, "init", "-q")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "one")
    if state == "packed":
        git(repository, "pack-refs", "--all")
    if state == "detached":
        git(repository, "checkout", "-q", "--detach")
    if state == "worktree":
        git(repository, "worktree", "add", "-q", "../w")
        repository = tmp_path / "repos" / "w"
    found = {s.repo: s for s in list_directory(str(tmp_path / "repos"), {}, source="d")}
    assert found[repository.name].revision == git(repository, "rev-parse", "HEAD")
    assert [file.path for file in found[repository.name].files] == ["a.py"]


@pytest.mark.parametrize(
    "git_files",
    [
        {},
        {".git/HEAD": b"ref: refs/heads/main\n"},
        {".git/HEAD": b"ref: refs/heads", ".git/packed-refs": b"# pack-refs\n\n"},
        {".git/HEAD": b"ref: \0"},
        {".git/HEAD": b"\xff\xfe"},
        {".git/HEAD/x": b""},
        {".git": b"gitdir: /nowhere"},
        {".git": b"gitdir: \0"},
    ],
)
def test_a_folder_that_is_no_work_tree_has_no_revision(tmp_path, git_files):
    write(tmp_path / "r", {"a.py": b"1", **git_files})
    assert [s.revision for s in list_directory(str(tmp_path), {}, source="d")] == [None]


def test_a_link_under_the_name_of_a_licence_is_read_as_its_target_inside_the_repository_and_no_other(tmp_path):
    write(tmp_path, {"r/docs/LICENSE.txt": b"MIT", "r/.git/COPYING": b"no", "outside": b"no", "r/a.py": b"1"})
    links = {"LICENSE": "docs/LICENSE.txt", "COPYING": ".git/COPYING", "NOTICE": "../outside", "UNLICENSE": "gone", "b.py": "a.py"}
    for name, target in links.items():
        (tmp_path / "r" / name).symlink_to(target)
    found = {file.path: file for unit in list_directory(str(tmp_path), {}, source="d", holds="repositories") for file in unit.files}
    assert (found["LICENSE"].blob, found["LICENSE"].local) == (blob_id(b"MIT"), "docs/LICENSE.txt")
    assert {name for name in links if found[name].reason == "symlink"} == {"COPYING", "NOTICE", "UNLICENSE", "b.py"}


def test_a_submodule_is_a_repository_of_its_own_at_its_own_commit(tmp_path):
    for path in ("r", "r/deps/inner"):
        write(tmp_path / path, {"a.py": path.encode()})
        git(tmp_path / path, "init", "-q")
        git(tmp_path / path, "add", "a.py")
        git(tmp_path / path, "commit", "-qm", path)
    outer, inner = list_directory(str(tmp_path), {}, source="d")
    assert [(unit.repo, [file.path for file in unit.files]) for unit in (outer, inner)] == [("r", ["a.py"]), ("r/deps/inner", ["a.py"])]
    assert [unit.revision for unit in (outer, inner)] == [git(tmp_path / path, "rev-parse", "HEAD") for path in ("r", "r/deps/inner")]


# ---- Python environments


def test_a_distribution_is_a_repository_of_its_own_files(tmp_path):
    files = {"my_pkg/a.py": b"1", "my_pkg/data.unknown": b"22", "my_pkg/LICENSE": b"own"}
    licenses = {"licenses/LICENSE": b"MIT", "licenses/my_pkg/LICENSE": b"copy", "licenses/third/COPYING": b"BSD", "LICENSE.old": b"L"}
    install(tmp_path, "My_Pkg", "1.2+cpu", files, "License-Expression: MIT OR BSD-3-Clause\nLicense: other", **licenses)
    snapshot = environment(tmp_path)["my-pkg"]
    assert (snapshot.source, snapshot.revision, snapshot.declared_license) == ("env", "1.2+cpu", "MIT OR BSD-3-Clause")
    assert [(file.path, file.reason) for file in snapshot.files] == [
        ("LICENSE", None),
        ("LICENSE.old", None),
        ("my_pkg/LICENSE", "repeated-path"),
        ("my_pkg/LICENSE", None),
        ("my_pkg/a.py", None),
        ("my_pkg/data.unknown", "unknown-language"),
        ("third/COPYING", None),
    ]
    (own,) = [file for file in snapshot.files if file.path == "my_pkg/LICENSE" and file.reason is None]
    assert own.blob == blob_id(b"own")


@pytest.mark.parametrize(
    ("metadata", "declared"),
    [
        ("License: MIT", "MIT"),
        ("License: Proprietary", "Proprietary"),
        (
            "License: GNU GENERAL PUBLIC LICENSE\n   Version 3" + "\n   more" * 500,
            ("GNU GENERAL PUBLIC LICENSE Version 3" + " more" * 500)[:1000],
        ),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License", "License :: OSI Approved :: MIT License"),
        (
            "License: Copyright somebody\n   line two\nClassifier: License :: A\nClassifier: Topic :: B\nClassifier: License :: C",
            "License :: A; License :: C",
        ),
        ("Summary: nothing", None),
    ],
)
def test_the_declared_license_comes_from_the_metadata(tmp_path, metadata, declared):
    install(tmp_path, "p", "1", {}, metadata)
    assert environment(tmp_path)["p"].declared_license == declared


def test_what_came_from_a_folder_or_without_record_is_left_out_and_recorded(tmp_path):
    install(tmp_path, "ours", "1", {"ours.py": b"1"}, "", **{"direct_url.json": b'{"url": "file:///home/me"}'})
    write(tmp_path, {"bare-2.dist-info/METADATA": b"Name: bare"})
    found = environment(tmp_path)
    assert [(file.path, file.reason) for file in found["ours"].files] == [(".", "direct-url")]
    assert [(file.path, file.reason) for file in found["bare"].files] == [(".", "no-record")]
    assert found["ours"].revision is None


def test_a_file_that_record_names_and_nobody_has_is_unreadable(tmp_path):
    install(tmp_path, "p", "1", {"p.py": b"1"})
    (tmp_path / "p.py").unlink()
    assert [(file.reason, file.detail) for file in environment(tmp_path)["p"].files] == [("unreadable", "No such file or directory")]


def test_a_record_that_no_installer_would_write_stops_nothing(tmp_path):
    install(tmp_path, "p", "1", {"p.py": b"1", "q.py": b"22"})
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "folder.py").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.py")).write_bytes(b"1")
    record = tmp_path / "p-1.dist-info/RECORD"
    record.write_bytes(record.read_bytes() + b"\n\npipe.py,,\nfolder.py,,\n\xff.py,,1\ngone\xff.py,,1\np.py,,many\n\n")
    found = environment(tmp_path, sample_bytes=100)["p"].files
    assert {file.path: file.reason for file in found if file.local != "p.py"} == {
        "q.py": None,
        "pipe.py": "not-a-regular-file",
        "folder.py": "not-a-regular-file",
        "\\xff.py": "undecodable-path",
        "gone\\xff.py": "unreadable",
    }
    assert [file.reason for file in found if file.local == "p.py"].count(None) == 1


def test_excluded_distributions_are_not_taken_whatever_the_spelling(tmp_path):
    install(tmp_path, "My_Pkg", "1", {})
    install(tmp_path, "other", "1", {})
    assert list(environment(tmp_path, exclude=("my.PKG",))) == ["other"]


def test_an_empty_environment_is_refused(tmp_path):
    with pytest.raises(SourceError, match="no distribution"):
        environment(tmp_path)


@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=8), limit=st.integers(1, 120), seed=st.integers(0, 3))
def test_a_sample_fits_and_nothing_left_out_would_have_fitted(sizes, limit, seed):
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder)
        for number, size in enumerate(sizes):
            install(prefix, f"p{number}", "1", {f"p{number}.py": b"x" * size, f"p{number}.so": b"y" * 1000})
        found = environment(prefix, sample_bytes=limit, seed=seed)
        taken = sum(snapshot.num_bytes for snapshot in found.values())
        assert taken <= limit
        assert all(taken + size > limit for number, size in enumerate(sizes) if f"p{number}" not in found)
        assert found == environment(prefix, sample_bytes=limit, seed=seed)


# ---- parts


def repository(name: str, num_bytes: int) -> RepositorySnapshot:
    return RepositorySnapshot("s", name, None, None, "", (), num_bytes, hashlib.sha256(name.encode()).hexdigest())


REPOSITORIES = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=4), st.integers(0, 100), min_size=1, max_size=40)


@given(sizes=REPOSITORIES, limit=st.integers(1, 300))
def test_parts_hold_every_repository_once_and_keep_the_limit(sizes, limit):
    parts = partition([repository(*each) for each in sizes.items()], limit)
    assert sorted(s.repo for part in parts for s in part) == sorted(sizes)
    assert all(part for part in parts)
    assert all(len(part) == 1 or sum(s.num_bytes for s in part) <= limit for part in parts)


@given(sizes=REPOSITORIES, limit=st.integers(1, 300), order=st.randoms(use_true_random=False))
def test_parts_do_not_depend_on_the_order_in_which_repositories_are_found(sizes, limit, order):
    found = [repository(*each) for each in sizes.items()]
    parts = partition(found, limit)
    order.shuffle(found)
    assert partition(found, limit) == parts


@given(sizes=REPOSITORIES, limit=st.integers(1, 300), name=st.text("xyz", min_size=1, max_size=4), size=st.integers(0, 100))
def test_a_new_repository_changes_only_the_part_that_it_falls_into(sizes, limit, name, size):
    before = {frozenset(s.repo for s in part) for part in partition([repository(*each) for each in sizes.items()], limit)}
    after = {frozenset(s.repo for s in part) for part in partition([repository(*each) for each in {**sizes, name: size}.items()], limit)}
    gone, made = before - after, after - before
    assert len(gone) <= 1
    assert frozenset[str]().union(*made) == frozenset[str]({name}).union(*gone)


def test_no_repository_is_no_part():
    assert partition([], 1) == []


# ---- names


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.py", ("code", "Python")),
        ("types.d.ts", ("code", "TypeScript")),
        ("view.blade.php", ("code", "Blade")),
        ("CMakeLists.txt", ("code", "CMake")),
        ("notes.txt", ("documentation", "Text")),
        ("README", ("documentation", "Text")),
        ("README.md", ("documentation", "Markdown")),
        ("nb.ipynb", ("notebook", "Jupyter Notebook")),
        ("LICENSE", ("license", "Text")),
        ("NOTICE", ("license", None)),
        ("src/COPYING.LESSER", ("license", None)),
        ("License.md", ("license", "Markdown")),
        ("licenses/GPL-3.0.txt", ("license", "Text")),
        ("license.py", ("code", "Python")),
        ("licenses/index.js", ("code", "JavaScript")),
        ("mitigate.unknown", None),
        ("libz.so.1", None),
        ("ls.1", ("documentation", "Roff Manpage")),
        ("archive.tar.gz", None),
        (".gitignore", ("code", "Ignore List")),
    ],
)
def test_kind_and_language_follow_from_the_name(path, expected):
    assert languages.classify(path) == expected


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("LICENSE", ""),
        ("a/LICENSE", "a/"),
        ("licenses/MIT", ""),
        ("a/LICENSES/MIT", "a/"),
        ("a/b/NOTICE", "a/b/"),
        ("v/x_y-1.0.dist-info/LICENSE", "v/x_y/"),
        ("v/x.y-1.0.dist-info/licenses/LICENSE", "v/x/y/"),
        ("x-1.dist-info/licenses/x/_vendor/COPYING", "x/_vendor/"),
    ],
)
def test_a_license_file_speaks_for_its_folder_or_the_one_above_a_licenses_folder(path, scope):
    assert languages.license_scope(path) == scope
