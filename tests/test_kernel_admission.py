"""Admission of contents: the same verdicts as reading each content by itself, whatever the chunks."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.tasks.kernels.sources.admission import admit
from starloom.tasks.kernels.sources.contents import FOUND, Collector, blob_id, whole, with_blobs
from starloom.tasks.kernels.text.encodings import decode

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
CONTENTS = (
    st.binary(max_size=12)
    | st.text(max_size=6).map(lambda text: text.encode("utf-16"))
    | st.text(max_size=6).map(str.encode)
    | st.sampled_from([POINTER, POINTER + b"\0", POINTER + b"x" * 1000])
)


def table(contents: list[bytes]) -> pa.Table:
    return whole(FOUND, {"source": "s", "repo": "r", "path": [f"{i}.py" for i in range(len(contents))], "content": contents}, len(contents))


def verdict(content: bytes) -> str | None:
    """Look at one content by itself."""
    if content.startswith(POINTER[:40]) and len(content) < 1024:
        return "lfs-pointer"
    if b"\0" in content and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "binary"
    try:
        content.decode()
    except UnicodeDecodeError:
        found = decode(content)
        return "undecodable" if found is None else "binary" if "\0" in found.text else None
    return None


def text(content: bytes) -> bytes:
    try:
        return content.removeprefix(b"\xef\xbb\xbf").decode().encode()
    except UnicodeDecodeError:
        return decode(content).text.encode()


@given(contents=st.lists(CONTENTS, max_size=12), cut=st.integers(0, 12))
def test_each_content_is_admitted_or_left_out_as_if_it_were_alone(contents, cut):
    found = pa.concat_tables([table(contents).slice(0, cut), table(contents).slice(cut)])
    admitted, left_out = admit(found)
    expected = {f"{i}.py": verdict(content) for i, content in enumerate(contents)}
    assert [(row["path"], row["content"].encode()) for row in admitted.select(["path", "content"]).to_pylist()] == [
        (f"{i}.py", text(content)) for i, content in enumerate(contents) if verdict(content) is None
    ]
    assert {row["path"]: row["rule"] for row in left_out.to_pylist()} == {path: rule for path, rule in expected.items() if rule}
    assert left_out.column("size").to_pylist() == [len(content) for content in contents if verdict(content)]


def test_a_pointer_says_what_it_points_to():
    (row,) = admit(table([POINTER]))[1].to_pylist()
    assert (row["rule"], row["value"], row["detail"]) == ("lfs-pointer", 12345, "stored elsewhere as sha256:4d7a2146")


@pytest.mark.parametrize("size", ["", "size many", "size ²"])
def test_a_pointer_without_a_size_is_still_one(size):
    (row,) = admit(table([POINTER[:43] + size.encode()]))[1].to_pylist()
    assert (row["rule"], row["value"]) == ("lfs-pointer", None)


def test_hashes_that_a_source_does_not_tell_are_gits():
    found = table([b"a", b""]).set_column(5, "blob", pa.array(["told", None]))
    assert with_blobs(found).column("blob").to_pylist() == ["told", blob_id(b"")]


def test_collected_files_come_in_batches_and_none_twice():
    files = Collector("s", "r", revision="1")
    files.add("a.py", b"1", "x")
    files.leave_out("b", 7, "too-large", value=7, threshold=5)
    first, second = files.batch(), files.batch()
    assert (first.found.num_rows, first.left_out.num_rows, second.found.num_rows, second.left_out.num_rows) == (1, 1, 0, 0)
    assert first.found.select(["repo", "revision", "path"]).to_pylist() == [{"repo": "r", "revision": "1", "path": "a.py"}]
    assert (first.found.schema, second.found.schema) == (FOUND, FOUND)


def test_the_text_of_another_encoding_is_admitted_in_its_place_with_its_encoding():
    contents = [b"a", "é\n".encode("utf-16"), b"c", "\ufeffd".encode(), b"caf\xe9", "l\0".encode("utf-16")]
    admitted, left_out = admit(table(contents))
    assert [(row["content"], row["encoding"]) for row in admitted.to_pylist()] == [
        ("a", None),
        ("é\n", "utf-16-le"),
        ("c", None),
        ("d", "utf-8-sig"),
    ]
    assert [(row["path"], row["rule"], row["size"]) for row in left_out.to_pylist()] == [("4.py", "undecodable", 4), ("5.py", "binary", 6)]


def test_what_a_source_declares_is_believed_and_a_licence_is_always_read():
    rows = {
        "source": "s",
        "repo": "r",
        "path": ["a.py", "LICENSE"],
        "content": [b"caf\xe9", b"\xa9 Jos\xe9"],
        "encoding": ["latin-1", None],
    }
    admitted, _ = admit(whole(FOUND, rows, 2))
    assert admitted.column("content").to_pylist() == ["café", "© José"]
    assert admitted.column("encoding").to_pylist() == ["cp1252", "cp1252"]
