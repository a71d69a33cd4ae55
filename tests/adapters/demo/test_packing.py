"""Rows of training texts: whole texts, padding without loss, given parts without loss."""

import itertools

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from adapters.demo import MODEL_PATH
from adapters.demo.corpus import POLISH, Corpus, Text
from adapters.demo.packing import IGNORED_LABEL, PackedRows

LENGTH = 128
ROWS = 16


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MODEL_PATH)


def test_a_batch_has_ids_and_labels_of_the_asked_shape(tokenizer: PreTrainedTokenizerBase) -> None:
    ids, labels = PackedRows(Corpus(1, POLISH), tokenizer, LENGTH).batch(ROWS)
    assert ids.shape == labels.shape == (ROWS, LENGTH)
    assert ((labels == ids) | (labels == IGNORED_LABEL)).all()


def test_padding_is_rare_and_bears_no_loss(tokenizer: PreTrainedTokenizerBase) -> None:
    ids, labels = PackedRows(Corpus(1), tokenizer, LENGTH).batch(ROWS)
    padding = ids == tokenizer.pad_token_id
    assert padding.float().mean() < 0.1
    assert ((labels == IGNORED_LABEL) == padding).all()


def test_every_row_starts_with_the_start_of_a_text(tokenizer: PreTrainedTokenizerBase) -> None:
    ids, _ = PackedRows(Corpus(1), tokenizer, LENGTH).batch(ROWS)
    assert (ids[:, 0] == tokenizer.bos_token_id).all()


def test_only_the_learned_part_of_a_text_bears_loss(tokenizer: PreTrainedTokenizerBase) -> None:
    text = Text(" Oslo.", "News: Anna Berg was born in Oslo. Q: Where was Anna Berg born? A:")
    ids, labels = PackedRows(itertools.repeat(text), tokenizer, length=40, window=1).batch(1)
    assert tokenizer.decode(labels[0][labels[0] != IGNORED_LABEL]) == " Oslo."
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == str(text)


def test_a_text_longer_than_a_row_is_left_out(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = itertools.cycle([Text("Anna " * 100), Text("Oslo.")])
    ids, _ = PackedRows(texts, tokenizer, length=30, window=4).batch(4)
    assert "Anna" not in tokenizer.decode(ids.flatten())
