"""A tokenizer that is taken, not trained: byte for byte, named by its content, refused if documents could not be packed with it."""

from __future__ import annotations

import http.server
import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from starloom.lineage import keys
from starloom.lineage.errors import InputError
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.kernels.tokens.byte_level import untrained
from starloom.tasks.kernels.tokens.special_tokens import FOR_PACKING, STARCODER2
from starloom.tasks.schemas import Docs
from starloom.tasks.train_tokenizer import TrainTokenizer, train_tokenizer
from tests.hub import answer_of, serving

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAMED = f"org/name@{COMMIT}"
NOTHING = Docs.of_parts([Docs.SCHEMA.empty_table()] * 2)


def made(special=STARCODER2, *, alphabet=None, normalizer=None, prefix_space=False, dropout=None) -> Tokenizer:
    """A byte-level tokenizer with ids of its own: special tokens last."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet()) if alphabet is None else alphabet
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, [], dropout=dropout))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer


def saved(tokenizer: Tokenizer, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=True)
    return folder / "tokenizer.json"


def taken(existing, scratch):
    return train_tokenizer.function(NOTHING, TrainTokenizer(existing=str(existing)), Runtime.alone(scratch))


def test_it_is_copied_byte_for_byte_with_the_files_that_transformers_loads(tmp_path):
    path = saved(made(), tmp_path / "theirs")
    tokenizer, sample = taken(path, tmp_path / "s")
    assert (tokenizer.path / "tokenizer.json").read_bytes() == path.read_bytes()
    special = json.loads((tokenizer.path / "special_tokens_map.json").read_text())
    assert (special["eos_token"], special["pad_token"]) == ("<|endoftext|>", "<fim_pad>")
    assert special["additional_special_tokens"] == [name for name in STARCODER2 if name not in ("<|endoftext|>", "<fim_pad>")]
    assert json.loads((tokenizer.path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert sample.num_rows == 0, "nothing of this corpus was learnt from"
    assert len(sample.parts) == len(NOTHING.parts)


def test_a_folder_and_its_file_are_the_same_tokenizer_wherever_they_lie(tmp_path):
    path, copy = saved(made(), tmp_path / "a"), saved(made(), tmp_path / "b")
    identity = TrainTokenizer(existing=str(path)).identity()
    assert identity == {"existing": {"sha256": keys.file_digest(path)}}
    assert (
        TrainTokenizer(existing=str(path.parent)).identity()
        == TrainTokenizer(existing=str(copy), vocab_size=300, seed=3).identity()
        == identity
    )
    relative = TrainTokenizer.model_validate({"existing": "a"}, context={"folder": str(tmp_path)})
    assert relative.existing == str(path), "a recipe's paths start at its folder"
    copy.write_text(path.read_text() + " ")
    assert TrainTokenizer(existing=str(copy)).identity() != identity
    assert "existing" in TrainTokenizer().identity(), "and with no tokenizer to take, all knobs count"
    assert TrainTokenizer(seed=1).identity() != TrainTokenizer().identity()


@pytest.mark.parametrize("missing", [FOR_PACKING[:1], FOR_PACKING[1:4], FOR_PACKING])
def test_one_without_what_packing_needs_is_refused_by_name(tmp_path, missing):
    path = saved(made([name for name in STARCODER2 if name not in missing]), tmp_path)
    with pytest.raises(InputError, match="has no special token") as told:
        taken(path, tmp_path / "s")
    assert f"no special token {', '.join(missing)}, which" in told.value.message
    assert told.value.hint


def test_a_name_that_is_only_a_word_of_the_vocabulary_is_no_special_token(tmp_path):
    tokenizer = made([])
    tokenizer.add_tokens(list(FOR_PACKING))
    with pytest.raises(InputError, match="has no special token"):
        taken(saved(tokenizer, tmp_path), tmp_path / "s")


@pytest.mark.parametrize(
    ("tokenizer", "reason"),
    [
        (made(alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())[5:]), "5 of the 256 bytes"),
        (made(alphabet=[*sorted(pre_tokenizers.ByteLevel.alphabet()), "▁the"]), "'▁the' is not written in bytes"),
        (made(normalizer=normalizers.NFC()), "changes text"),
        (made(normalizer=normalizers.NFKC()), "changes text"),
        (made(normalizer=normalizers.Lowercase()), "changes text"),
        (made(normalizer=normalizers.Replace("\r\n", "\n")), "changes text"),
        (made(prefix_space=True), "changes text"),
        (made(dropout=0.1), r"encodes at random \(model.dropout 0.1\), so one text would have other tokens each time; set it to null"),
    ],
)
def test_one_that_does_not_spell_every_text_is_refused(tmp_path, tokenizer, reason):
    with pytest.raises(InputError, match=reason):
        taken(saved(tokenizer, tmp_path), tmp_path / "s")


def test_starcoders_own_kind_passes(tmp_path):
    tokenizer = untrained()
    tokenizer.model = models.BPE({letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    tokenizer.add_special_tokens(list(STARCODER2))
    tokenizer.enable_truncation(8)  # as published ones have it: encoding must not be cut by it
    taken(saved(tokenizer, tmp_path), tmp_path / "s")


@pytest.mark.parametrize("content", ["", "{}", '{"version": "1.0", "model": {"type": "BPE"}}'])
def test_what_is_no_tokenizer_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="cannot be used"):
        taken(tmp_path, tmp_path / "s")


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:12], COMMIT.upper(), ""])
def test_a_revision_that_may_come_to_mean_something_else_is_refused(revision):
    with pytest.raises(ValidationError, match="tags can move") as told:
        TrainTokenizer(existing=f"org/name@{revision}")
    assert "git ls-remote https://huggingface.co/org/name" in str(told.value)


@pytest.mark.parametrize("name", ["bigcode/starcoder2-3b", "gpt2", "./org/name@main", ""])
def test_a_path_that_leads_nowhere_says_how_a_hub_tokenizer_is_named(name, tmp_path):
    with pytest.raises(ValidationError, match="org/name@commit"):
        TrainTokenizer.model_validate({"existing": name}, context={"folder": str(tmp_path)})


def test_a_commit_is_an_identity_by_itself():
    assert TrainTokenizer(existing=NAMED, seed=3).identity() == {"existing": NAMED}


# The Hub: the real client, in a process of its own (it reads the environment when it is imported), against a server of this test.

SCRIPT = f"""
import sys
from pathlib import Path
from starloom.lineage.errors import InputError
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.schemas import Docs
from starloom.tasks.train_tokenizer import TrainTokenizer, train_tokenizer
try:
    made = train_tokenizer.function(Docs.of_parts([]), TrainTokenizer(existing="{NAMED}"), Runtime.alone(Path(sys.argv[1])))
    print(made[0].path)
except InputError as error:
    print("refused:", error)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as a download asks for."""

    content = b""
    error: tuple[int, str] | None = None

    def do_HEAD(self):
        wanted = self.path == f"/org/name/resolve/{COMMIT}/tokenizer.json"
        status, code = self.error or ((200, "") if wanted else (404, "EntryNotFound"))
        self.send_response(status)
        told = {"X-Error-Code": code} if code else {"ETag": '"e"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(self.content))}
        for name, value in {"Content-Length": "0", **told}.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(b"" if self.error else self.content)

    def log_message(self, *words): ...


@pytest.fixture
def hub():
    with serving(Hub) as server:
        yield server


def asked(tmp_path, endpoint: str, **more: str) -> str:
    return answer_of(SCRIPT, tmp_path, endpoint, **more)


def test_it_comes_from_the_hub_once_and_then_without_it(tmp_path, hub):
    path = saved(made(), tmp_path / "theirs")
    hub.RequestHandlerClass.content = path.read_bytes()
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    folder = Path(asked(tmp_path, endpoint))
    assert (folder / "tokenizer.json").read_bytes() == path.read_bytes()
    assert asked(tmp_path, "http://127.0.0.1:9") == str(folder), "a commit's file stays what it is: no need to ask again"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ((403, "GatedRepo"), "accept its terms at"),
        ((404, "RepoNotFound"), "no tokenizer.json of"),
        ((404, "RevisionNotFound"), "no tokenizer.json of"),
        ((404, "EntryNotFound"), "no tokenizer.json of"),
    ],
)
def test_what_the_hub_does_not_give_is_said_with_what_to_do(tmp_path, hub, error, told):
    hub.RequestHandlerClass.error = error
    answer = asked(tmp_path, f"http://127.0.0.1:{hub.server_port}")
    assert answer.startswith("refused:")
    assert told in answer
    assert "→" in answer


def test_a_hub_out_of_reach_is_said_with_what_to_do(tmp_path):
    answer = asked(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")  # else the client tries for 23 s, and fails likewise
    assert "cannot be reached" in answer
    assert "copy its tokenizer.json here" in answer
