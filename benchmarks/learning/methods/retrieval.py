"""The weights stay as they are: a document found and put in the prompt, the right one put there (the ceiling), nothing (the floor).

Covered: BM25 by bm25s, one document, the prompt that the model itself is asked for views with. Not covered: dense
retrieval (names decide here), chat templates.
"""

import bm25s
from torch import nn

from adapters.views import View, names_stand_in
from benchmarks.learning.ground import Ground
from benchmarks.learning.methods.method import Knobs, Method
from benchmarks.learning.streams import Step


class Untouched(Method):
    """Learns nothing."""

    title = "base model"
    source = "the floor: the base model as it is"

    def learn(self, step: Step) -> None:
        """See `Method`."""

    @property
    def model(self) -> nn.Module:
        """See `Method`."""
        return self.ground.base.model

    def with_document(self, document: str, question: str) -> str:
        """The prompt for a question about a document."""
        template = self.ground.template
        lead = template.view_prompt.replace("{document}", self.ground.base.inert(document))
        return f"{lead} {question}{template.view_answer}"


class Retrieval(Untouched):
    """Keeps all documents; the best that BM25 finds for a question is put before it."""

    title = "retrieval (BM25)"
    source = "bm25s (Lù 2024): of the best ten documents the first that holds every name of the question; if none, no document"
    reads_documents = True

    def __init__(self, ground: Ground, knobs: Knobs) -> None:
        super().__init__(ground, knobs)
        self._documents: list[str] = []
        self._index: bm25s.BM25 | None = None

    def learn(self, step: Step) -> None:
        """See `Method`."""
        self._documents.append(step.text)
        self._index = None

    def prompt(self, question: str) -> str:
        """See `Method`."""
        asked = View(question, "")
        # BM25 always finds something, and a model believes what it is given
        document = next((text for text in self._ranked(question) if names_stand_in(asked, text)), None)
        return super().prompt(question) if document is None else self.with_document(document, question)

    def _ranked(self, question: str) -> list[str]:
        """The documents most like the question, the most like it first."""
        if not self._documents:
            return []
        if self._index is None:  # when asked, not at each document
            self._index = bm25s.BM25()
            self._index.index(bm25s.tokenize(self._documents, show_progress=False), show_progress=False)
        words = bm25s.tokenize(question, return_ids=False, show_progress=False)
        found = self._index.retrieve(words, self._documents, k=min(10, len(self._documents)), show_progress=False)
        return [str(text) for text in found.documents[0]]


class InContext(Untouched):
    """The document that answers a question is put before it; a question that no document answers is asked plainly."""

    title = "document in context"
    source = "the ceiling: told which document, if any, answers the question"
    reads_documents = True
    uses_oracle = True

    def __init__(self, ground: Ground, knobs: Knobs) -> None:
        super().__init__(ground, knobs)
        self._answering: dict[str, str] = {}

    def learn(self, step: Step) -> None:
        """See `Method`."""
        self._answering |= {asked.question: step.text for asked in step.asked}

    def prompt(self, question: str) -> str:
        """See `Method`."""
        document = self._answering.get(question)
        return super().prompt(question) if document is None else self.with_document(document, question)
