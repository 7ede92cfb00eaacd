"""Training a byte-level BPE: the stage, and `tokenizers` given the texts as they are."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from starloom.bench._tool import Corpus, Tool

TITLE = "train a byte-level BPE of 8,192 tokens, all cores"
VOCAB_SIZE = 8192


def _ours(corpus: Corpus) -> object:
    """Run the whole stage, with the whole corpus as the sample."""
    from starloom.tasks.frame.stage import Runtime
    from starloom.tasks.schemas import Docs
    from starloom.tasks.train_tokenizer import TrainTokenizer, train_tokenizer

    with tempfile.TemporaryDirectory() as scratch:
        return train_tokenizer.function(Docs.of(corpus.table), TrainTokenizer(vocab_size=VOCAB_SIZE), Runtime.alone(Path(scratch)))


def _tokenizers(corpus: Corpus) -> object:
    """Train with the library at the same settings, without drawing a sample."""
    from tokenizers import pre_tokenizers, trainers

    from starloom.tasks.kernels.tokens.byte_level import untrained
    from starloom.tasks.kernels.tokens.special_tokens import STARCODER

    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    model = untrained()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE, special_tokens=list(STARCODER), initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator(corpus.texts, trainer)
    return model


TOOLS = [Tool("starloom", _ours, is_ours=True), Tool("tokenizers", _tokenizers)]
