"""Training texts packed whole into rows of one length.

Covered: which texts share a row, padding, labels. Not covered: which texts there are (`corpus.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from adapters.demo.corpus import Text

IGNORED_LABEL = -100
"""Label of padding and of what is given: no loss there."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of one text, and as many labels."""

    ids: list[int]
    labels: list[int]


class PackedRows:
    """Rows of `length` tokens, each holding whole texts that start with `<s>`, then padding.

    Texts are never cut: a question whose document lies in the row before would teach the model to guess. Of a
    window of `window` waiting texts the oldest opens a row, and the longest that still fit fill it up.
    """

    def __init__(self, texts: Iterator[Text], tokenizer: PreTrainedTokenizerBase, length: int, window: int = 256) -> None:
        self.texts, self.tokenizer, self.length, self.window = texts, tokenizer, length, window
        self._waiting: list[Encoded] = []

    def batch(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Input ids and labels, both (rows, length)."""
        packed = [self._row() for _ in range(rows)]
        ids = torch.tensor([ids for ids, _ in packed])
        labels = torch.tensor([labels for _, labels in packed])
        return ids, labels

    def _row(self) -> tuple[list[int], list[int]]:
        """Ids and labels of one row, padded to its length."""
        self._refill()
        chosen = [self._waiting.pop(0)]
        room = self.length - len(chosen[0].ids)
        while fitting := [index for index, text in enumerate(self._waiting) if len(text.ids) <= room]:
            chosen.append(self._waiting.pop(max(fitting, key=lambda index: len(self._waiting[index].ids))))
            room -= len(chosen[-1].ids)
        ids = [token for text in chosen for token in text.ids]
        labels = [label for text in chosen for label in text.labels]
        return ids + [self.tokenizer.pad_token_id] * room, labels + [IGNORED_LABEL] * room

    def _refill(self) -> None:
        """Encode as many texts as the window lacks, once half of it is used up: batches encode faster."""
        if len(self._waiting) > self.window // 2:
            return
        texts = [next(self.texts) for _ in range(self.window - len(self._waiting))]
        encoded = self.tokenizer([str(text) for text in texts])["input_ids"]
        given = self.tokenizer([text.given for text in texts])["input_ids"]
        for text, ids, opening in zip(texts, encoded, given, strict=True):
            unlearned = len(opening) if text.given else 0
            if len(ids) <= self.length:
                self._waiting.append(Encoded(ids, [IGNORED_LABEL] * unlearned + ids[unlearned:]))
