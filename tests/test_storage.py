import os
import resource
import subprocess
import sys
import textwrap
import uuid

import pytest

from starloom.lineage.errors import StoreError
from starloom.lineage.storage import LocalStorage, open_storage


@pytest.fixture(params=["local", "file", "memory"])
def storage(request, tmp_path):
    if request.param == "memory":
        return open_storage(f"memory://{uuid.uuid4().hex}")
    return open_storage(str(tmp_path / "s") if request.param == "local" else f"file://{tmp_path}/s")


def test_what_is_written_is_read(storage):
    storage.write("a/b.json", b"1")
    storage.write("a/b.json", b"2")
    assert storage.read("a/b.json") == b"2"
    assert storage.exists("a/b.json")
    assert not storage.exists("a/c.json")
    assert storage.num_bytes("a/b.json") == 1


def test_create_lets_the_first_stand(storage):
    assert storage.create("x", b"first")
    assert not storage.create("x", b"second")
    assert storage.read("x") == b"first"


def test_put_moves_a_file_in_and_local_gives_it_back(storage, tmp_path):
    with storage.making() as aside:
        aside.write_bytes(b"part")
        storage.put("objects/p", aside)
    assert storage.local("objects/p").read_bytes() == b"part"


def test_names_are_sorted_and_below_the_prefix(storage):
    for name in ("b/2", "b/1", "a/1", "c"):
        storage.write(name, b"")
    assert list(storage.names("b")) == ["b/1", "b/2"]
    assert list(storage.names("nothing")) == []


def test_delete_forgives_what_is_gone(storage):
    storage.write("x", b"")
    storage.delete("x")
    storage.delete("x")
    assert not storage.exists("x")


def test_missing_is_file_not_found(storage):
    with pytest.raises(FileNotFoundError):
        storage.read("nothing")


def test_a_failed_write_leaves_nothing(tmp_path):
    storage = LocalStorage(tmp_path)

    class Stopped(Exception):
        pass

    with pytest.raises(Stopped), storage.making() as aside:
        aside.write_bytes(b"half")
        raise Stopped
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_full_disk_is_a_clear_error_and_nothing_is_half_written(tmp_path):
    """The kernel refuses the write: a limit on the size of files is as real as a full disk and needs no mount."""
    script = textwrap.dedent(f"""
        import resource, signal
        from starloom.lineage.errors import StoreError
        from starloom.lineage.storage import LocalStorage
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        storage = LocalStorage(__import__("pathlib").Path({str(tmp_path)!r}))
        storage.write("kept", b"before")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))
        try:
            storage.write("kept", b"x" * 5000)
        except StoreError as error:
            assert "no space left" in str(error) and "starloom gc" in str(error), error
        else:
            raise SystemExit("the write was accepted")
        assert storage.read("kept") == b"before"
    """)
    subprocess.run([sys.executable, "-c", script], check=True)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["kept"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_may_not_be_written_says_so(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises((StoreError, PermissionError)):
        LocalStorage(tmp_path).write("x", b"")
    tmp_path.chmod(0o700)
