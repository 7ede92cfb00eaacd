"""The tokenizer: StarCoder's special tokens first, all bytes in, and the same file whatever the machine did."""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer

from starloom.tasks.frame.stage import Runtime
from starloom.tasks.kernels.tokens.special_tokens import FOR_PACKING, STARCODER, STARCODER2
from starloom.tasks.schemas import Docs
from starloom.tasks.train_tokenizer import TrainTokenizer, _allowances, _sample, train_tokenizer

SHARED = Path(__file__).parents[1].parent / "shared"
CODE = "def area_{i}(self, radius={i}):\n    return self.pi * radius ** 2  # naïve, 中文 {i}\n\n"
NAMES = [hashlib.md5(str(i).encode()).hexdigest() for i in range(200)]  # many pairs as frequent as each other: ties to break


def _docs(texts, languages=None, parts=1):
    rows = [
        {
            "doc_id": hashlib.md5(str(i).encode()).hexdigest(),
            "source": "s",
            "kind": "code",
            "repo": f"r{i % 3}",
            "path": f"{i}.py",
            "swhid": "",
            "language": languages[i] if languages else "Python",
            "content": text,
            "size": len(text.encode()),
            "is_vendor": False,
            "is_generated": False,
            "is_documentation": False,
        }
        for i, text in enumerate(texts)
    ]
    tables = [pa.Table.from_pylist(rows[i::parts], schema=Docs.SCHEMA) for i in range(parts)]
    return Docs.of_parts(tables)


def _train(docs, scratch, **knobs):
    runtime = Runtime.alone(scratch)
    tokenizer, _ = train_tokenizer.function(docs, TrainTokenizer(**{"vocab_size": 512, **knobs}), runtime)
    return tokenizer.path, runtime


TEXTS = [CODE.replace("{i}", name) for name in NAMES]


@pytest.mark.parametrize(("preset", "names"), [("starcoder", STARCODER), ("starcoder2", STARCODER2)])
def test_special_tokens_come_first_and_any_text_survives(tmp_path, preset, names):
    folder, runtime = _train(_docs(TEXTS), tmp_path, special_tokens=preset)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert [tokenizer.id_to_token(i) for i in range(len(names))] == list(names)
    assert tokenizer.get_vocab_size() == runtime.notes["vocab_size"] == 512
    for text in ("", "\x00\r\n\u202e👩‍👩‍👧 ²½", "def area(self):\n\n        return 1"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert [tokenizer.id_to_token(i) for i in tokenizer.encode("12 3").ids] == ["1", "2", "Ġ", "3"], "digits stand apart"
    assert tokenizer.encode("<fim_middle>").ids == [2], "a prompt may use the special tokens"


def test_the_files_that_transformers_loads_agree(tmp_path):
    folder, _ = _train(_docs(TEXTS), tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["eos_token"] == config["bos_token"] == config["unk_token"] == "<|endoftext|>"
    assert config["clean_up_tokenization_spaces"] is False
    assert config["pad_token"] == "<fim_pad>", "the one that packing pads with: without one, transformers refuses to pad a batch"
    special = json.loads((folder / "special_tokens_map.json").read_text())
    assert {special["eos_token"], special["pad_token"], *special["additional_special_tokens"]} == set(STARCODER)


def _digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_same_files_however_the_corpus_is_cut(tmp_path):
    whole, _ = _train(_docs(TEXTS), tmp_path / "1", sample_bytes=3000)
    cut, _ = _train(_docs(TEXTS, parts=3), tmp_path / "3", sample_bytes=3000)
    assert _digests(whole) == _digests(cut)
    other, _ = _train(_docs(TEXTS), tmp_path / "seed", sample_bytes=3000, seed=1)
    assert _digests(whole) != _digests(other)


SCRIPT = """
import sys, os
from pathlib import Path
from tests_of_tokenizer import TEXTS, _docs, _train
print(_train(_docs(TEXTS), Path(sys.argv[1]))[0])
"""


@pytest.mark.slow
def test_the_same_files_on_any_number_of_threads(tmp_path):
    (tmp_path / "tests_of_tokenizer.py").write_text(Path(__file__).read_text())
    root = Path(__file__).parents[1]
    folders = []
    for threads in ("1", "5"):
        env = {"RAYON_NUM_THREADS": threads, "PYTHONPATH": f"{root}:{tmp_path}", "PATH": ""}
        argv = [sys.executable, "-c", SCRIPT, str(tmp_path / threads)]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
        folders.append(Path(done.stdout.strip()))
    assert _digests(folders[0]) == _digests(folders[1])


def test_a_corpus_too_small_for_the_vocabulary_gives_a_smaller_one_and_says_so(tmp_path):
    folder, runtime = _train(_docs(["ab ab", ""]), tmp_path)
    assert runtime.notes == {"vocab_size": 19 + 256 + 2, "requested_vocab_size": 512, "sample_bytes": 5}
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode("ab ab").tokens == ["ab", "Ġab"]


@pytest.mark.parametrize("docs", [_docs([]), _docs([""]), Docs.of_parts([]), _docs([], parts=2)])
def test_no_text_gives_the_bytes_alone(tmp_path, docs):
    folder, runtime = _train(docs, tmp_path)
    assert runtime.notes["vocab_size"] == 19 + 256
    assert len(Tokenizer.from_file(str(folder / "tokenizer.json")).encode("é<").ids) == 3


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValidationError, match="vocab_size"):
        TrainTokenizer(vocab_size=200)


def test_the_presets_are_those_of_the_reference_page():
    page = SHARED / "reference" / "starcoder.md"
    if not page.exists():
        pytest.skip("the reference page is kept outside the repository")
    section = page.read_text().partition("### 1.10 Special tokens")[2]
    first, second = section.strip().splitlines()[:2]
    for text, names in ((first, STARCODER), (second, STARCODER2)):
        named = text.partition("SantaCoder")[0].partition(", plus PII")
        ids = {int(index): name for name, index in re.findall(r"`(<[^`]+>)`(\d+)", named[0])}
        ids |= dict(enumerate(re.findall(r"<\w+>", named[2]), len(ids)))
        assert ids == dict(enumerate(names))


def test_the_presets_have_the_published_ids():
    assert TrainTokenizer().vocab_size == 49_152
    assert (len(STARCODER), len(STARCODER2)) == (19, 38)
    for names in (STARCODER, STARCODER2):
        assert names[:5] == FOR_PACKING
        assert len(set(names)) == len(names)
    assert [STARCODER.index(name) for name in ("<filename>", "<gh_stars>", "<reponame>")] == [5, 6, 18]
    assert [STARCODER2.index(name) for name in ("<repo_name>", "<file_sep>", "<jupyter_script>", "<pr>", "<NAME>")] == [5, 6, 14, 18, 34]


def test_the_sample_says_which_documents_were_learnt_from(tmp_path):
    docs = _docs(TEXTS, ["Python", "C"] * 100, parts=3)
    _, sample = train_tokenizer.function(docs, TrainTokenizer(vocab_size=300, sample_bytes=3000), Runtime.alone(tmp_path))
    assert len(sample.parts) == 3
    allowances = _allowances(docs, TrainTokenizer(sample_bytes=3000))
    for rows, part, allowance in zip(sample.parts, docs.parts, allowances, strict=True):
        wanted = zip(*part.read(["doc_id", "language"]).to_pydict().values(), allowance.tolist(), strict=True)
        assert [tuple(row[name] for name in ("doc_id", "language", "num_bytes")) for row in rows.read().to_pylist()] == [
            w for w in wanted if w[2]
        ]
    assert 2900 < sum(sample.read()["num_bytes"].to_pylist()) <= 3000


documents = st.lists(st.tuples(st.text(max_size=30), st.sampled_from(["Python", "C", None])), max_size=12)


@settings(deadline=None)
@given(documents=documents, sample_bytes=st.integers(1, 200), parts=st.integers(1, 3))
def test_the_sample_keeps_to_its_bound_and_to_the_shares_of_languages(tmp_path_factory, documents, sample_bytes, parts):
    texts, languages = [text for text, _ in documents], [language for _, language in documents]
    cfg = TrainTokenizer(sample_bytes=sample_bytes)
    docs = _docs(texts, languages, parts)
    allowances = _allowances(docs, cfg)
    sample = [text for batch in _sample(docs, allowances, Runtime(tmp_path_factory.getbasetemp())) for text in batch]
    corpus, got = Counter(), Counter()
    read = docs.read().to_pylist()
    for row, allowed in zip(read, [int(a) for part in allowances for a in part], strict=True):
        assert 0 <= allowed <= row["size"]
        corpus[row["language"]] += row["size"]
        got[row["language"]] += allowed
    total = sum(corpus.values())
    for language, size in corpus.items():
        assert got[language] == int(size * min(1.0, sample_bytes / max(total, 1)))
    assert sum(len(text.encode()) for text in sample) <= min(sample_bytes, total)
    if sample_bytes >= total:
        assert sorted(sample) == sorted(text for text in texts if text)
    whole = dict(
        zip(_docs(texts, languages).read().column("doc_id").to_pylist(), _allowances(_docs(texts, languages), cfg)[0].tolist(), strict=True)
    )
    assert {row["doc_id"]: int(a) for row, a in zip(read, (a for part in allowances for a in part), strict=True)} == whole
