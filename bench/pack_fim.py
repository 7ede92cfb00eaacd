"""Fill-in-the-middle and packing of encoded documents: the stage, and the plain method of Megatron-LM, before and after packing.

Encoding the documents is not timed. Tokens are those of the documents, before fill-in-the-middle adds any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starloom.bench._tool import BYTES_PER_MB, Corpus, Tool
from starloom.bench.encode import tokenizer_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.random import RandomState
    from tokenizers import Tokenizer

    from starloom.bench._measure import Timing
    from starloom.tasks.schemas import Tokens

TITLE = "fill-in-the-middle at rate 0.5 and packing, one core"
SEQUENCE_LENGTH = 2048
RATE = 0.5
EOD, PREFIX, MIDDLE, SUFFIX, PAD = range(5)


def _encoded(corpus: Corpus, _folder: Path | None = None) -> Tokens:
    """Return the corpus as token ids, with StarCoder's metadata."""
    from starloom.tasks.encode import Encode, encode
    from starloom.tasks.frame.stage import Runtime
    from starloom.tasks.schemas import Docs, Tokenizer

    folder = tokenizer_folder()
    tokens: Tokens = encode.function(Docs.of(corpus.table), Tokenizer.of(folder), Encode(), Runtime.alone(folder))
    return tokens


def _ours(**knobs: Any) -> Callable[[Tokens], object]:
    """Run the whole stage, spans included."""

    def run(tokens: Tokens) -> object:
        from starloom.tasks.frame.stage import Runtime
        from starloom.tasks.pack_fim import PackFim, held_out, pack_fim
        from starloom.tasks.schemas import Tokenizer

        tokenizer = Tokenizer.of(tokenizer_folder())
        config, runtime = PackFim(sequence_length=SEQUENCE_LENGTH, fim_rate=RATE, **knobs), Runtime.alone(tokenizer.path)
        heldout = held_out.function(tokens, tokenizer, config, runtime)
        return pack_fim.function(tokens, tokenizer, heldout, config, runtime)

    return run


def _id_lists(corpus: Corpus, _folder: Path) -> list[list[int]]:
    """Return the token ids as lists, which the plain method starts from."""
    ids: list[list[int]] = _encoded(corpus).read().column("tokens").to_pylist()
    return ids


def _plain(documents: list[list[int]]) -> object:
    """Permute chosen documents and concatenate; keeps no origins."""
    import numpy as np

    model, random = _model(), np.random.RandomState(0)
    stream: list[int] = []
    for ids in documents:
        stream += [*_permuted(ids, model, random), EOD]
    return np.array(stream[: len(stream) // SEQUENCE_LENGTH * SEQUENCE_LENGTH], np.uint16).reshape(-1, SEQUENCE_LENGTH)


def _plain_after_packing(documents: list[list[int]]) -> object:
    """Concatenate, cut, and permute what lies between two ends of text in each sequence; keeps no origins."""
    import numpy as np

    model, random = _model(), np.random.RandomState(0)
    stream = [i for ids in documents for i in (*ids, EOD)]
    rows = []
    for start in range(0, len(stream), SEQUENCE_LENGTH):
        row: list[int] = []
        segment: list[int] = []
        for i in [*stream[start : start + SEQUENCE_LENGTH], None]:
            if i is not None and i != EOD:
                segment.append(i)
            else:
                row += _permuted(segment, model, random) + ([EOD] if i == EOD else [])
                segment = []
        rows.append((row + [PAD] * SEQUENCE_LENGTH)[:SEQUENCE_LENGTH])
    return np.array(rows, np.uint16)


def _model() -> Tokenizer:
    from tokenizers import Tokenizer

    model = Tokenizer.from_file(str(tokenizer_folder() / "tokenizer.json"))
    model.encode_special_tokens = True
    return model


def _permuted(ids: list[int], model: Tokenizer, random: RandomState) -> list[int]:
    """Decode at the rate, cut the text, encode three pieces, in the order of PSM or of the second variant of SPM."""
    if not random.binomial(1, RATE):
        return ids
    text = model.decode(ids, skip_special_tokens=False)
    low, high = sorted(random.randint(0, len(text) + 1, 2).tolist())
    prefix, middle, suffix = (model.encode(piece).ids for piece in (text[:low], text[low:high], text[high:]))
    if random.binomial(1, 0.5):
        return [PREFIX, SUFFIX, *suffix, MIDDLE, *prefix, *middle]
    return [PREFIX, *prefix, SUFFIX, *suffix, MIDDLE, *middle]


def judge(corpus: Corpus, _timings: list[Timing]) -> dict[str, Any]:
    """Count the tokens of the documents."""
    import pyarrow.compute as pc

    return {"tokens": pc.sum(pc.list_value_length(_encoded(corpus).read()["tokens"])).as_py()}


def lines(report: dict[str, Any]) -> str:
    """Format the report as a table."""
    head = (
        f"{report['bench']}: {report['title']}\n{report['documents']:,} documents, {report['bytes'] / BYTES_PER_MB:.1f} MB, "
        f"{report['tokens']:,} tokens, best of {report['rounds']}, {report['cores']} cores, load {report['load_average']}"
    )
    return "\n".join([head, *(_line(tool, report["tokens"]) for tool in report["tools"])])


def _line(tool: dict[str, Any], num_tokens: int) -> str:
    name = f"{'*' if tool['name'].startswith('starloom') else ' '} {tool['name']:<38}"
    if tool["problem"]:
        return f"{name} {tool['problem']}"
    speed = f"{num_tokens / min(tool['seconds']) / 1e6:8.2f} M tokens/s {tool['mb_per_second']:8.2f} MB/s"
    return f"{name} {speed} {tool['peak_bytes'] / BYTES_PER_MB:8.0f} MB peak {tool['ratio_to_ours'] or 1:9.3f} of the first"


TOOLS = [
    Tool("starloom", _ours(), is_ours=True, prepare=_encoded),
    Tool("starloom, best fit", _ours(packing="best_fit"), prepare=_encoded),
    Tool("starloom, after packing", _ours(fim_level="context"), prepare=_encoded),
    Tool("plain (Megatron-LM)", _plain, prepare=_id_lists),
    Tool("plain, after packing (Megatron-LM)", _plain_after_packing, prepare=_id_lists),
]
