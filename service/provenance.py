"""Provenance: which version stands for a document once the one that it names is withdrawn.

A document names the version that learned it. One that came to nothing, because what it says was known already or the guard
rejected it, names the version that it was read on: what that knew made it so. Where a version that is kept knows the same, the
document names that from then on. Where none does, one that came to nothing is tried again, on top of what answers then.

Covered: the choice. Not covered: finding such documents (`documents.py`), queueing them (`withdrawal.py`).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from adapters.checkpoint import VersionStore
from service.documents import Mark

ANSWERING = ""
"""In place of a name: the version that answers then, which may have no name yet."""


@dataclass(frozen=True)
class Provenance:
    """What becomes of documents whose versions are withdrawn."""

    moved: Mapping[str, str] = field(default_factory=dict)
    """Id -> name of the version that it names from now on."""
    again: tuple[str, ...] = ()
    """Ids of those that are queued again."""
    lost: tuple[str, ...] = ()
    """Ids of those that were learned by what goes, and by nothing that stays: posted again, they are learned again."""

    @property
    def report(self) -> dict[str, list[str]]:
        """Those whose version is no more."""
        return {"lost": list(self.lost), "queued_again": list(self.again)}

    def with_lost_again(self) -> "Provenance":
        """The same, but what is lost is queued again too."""
        return replace(self, again=(*self.again, *self.lost))


def trace(
    store: VersionStore,
    base: str,
    marks: Iterable[Mark],
    kept: Iterable[tuple[str, str | None]],
    outdated: Collection[str] = (),
    answered: Collection[str] = (),
) -> Provenance:
    """Of documents that name a version which goes.

    kept: names and digests of versions that stay, what answers first. outdated: digests of links that stay, but were added to what
    goes: what came to nothing on them did so on something else. answered: documents that were in what answered until now.
    """
    marks = list(marks)
    links = _links(store, base, kept) if marks else {}
    learned: dict[str, str] = {}
    for link, name in links.items():
        for document in store.read(link).documents:
            learned.setdefault(document, name)
    moved: dict[str, str] = {}
    again, lost = [], []
    for mark in marks:
        home = learned.get(mark.document_id)
        if mark.nothing is not None:
            home = None if mark.nothing in outdated else links.get(mark.nothing)
        if home is not None:
            moved[mark.document_id] = home
        elif not mark.leaving and (mark.nothing is not None or mark.document_id in answered):
            again.append(mark.document_id)
        else:
            lost.append(mark.document_id)
    return Provenance(moved, tuple(again), tuple(lost))


def _links(store: VersionStore, base: str, kept: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """Digests of what these versions are made of, each with the name of the first of them that is."""
    found: dict[str, str] = {}
    for name, digest in kept:
        if digest is not None and digest not in found:
            for link in store.lineage(digest, base):
                found.setdefault(link, name)
    return found
