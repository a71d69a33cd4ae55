"""What taking a document back changes, as measured on a model that reads."""

from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st

from adapters.anchors import Anchors
from adapters.delta import Delta, DeltaSum
from adapters.memory import Memory, of_answer
from adapters.sampling import continue_rows
from adapters.unlearning import Answered, Life, ask_after, without
from adapters.workspace import Workspace

lessons = st.lists(st.integers(0, 5).map(lambda n: of_answer((1, 40 + n), (9,))), max_size=12)


@given(lessons, lessons)
def test_taking_lessons_out_undoes_putting_them_in_whatever_was_there(kept: list[Memory], forgotten: list[Memory]) -> None:
    """As a multiset: what two documents taught stays once."""
    left = without([*forgotten, *kept], forgotten)
    assert sorted(left, key=lambda m: m.ids) == sorted(kept, key=lambda m: m.ids)
    assert without(kept, []) == kept


def test_questions_are_counted_with_the_document_without_it_and_before_it(make_workspace: Callable[..., Workspace]) -> None:
    workspace = make_workspace()
    row = workspace.base.encode("Mira Holm")
    shape = {name: weight.shape for name, weight in workspace.base_weights.items()}
    base, full = DeltaSum(workspace.base_weights), DeltaSum(workspace.base_weights)
    generator = torch.Generator().manual_seed(7)

    def draw(size: int) -> torch.Tensor:
        return torch.randn(size, 2, generator=generator)

    full.add(Delta({name: (draw(o), draw(i)) for name, (o, i) in shape.items()}))
    workspace.install(full.weights())
    (new,) = continue_rows(workspace, [row], 3, [0.0])
    workspace.install(base.weights())
    (old,) = continue_rows(workspace, [row], 3, [0.0])
    assert new != old, "the change was too small for this test"
    learned, known = of_answer(row, new), of_answer(row, old)
    report = ask_after(workspace, Anchors((), "base"), Life(base, full, base.copy()), [learned], [known])
    assert (report.forgotten, report.left) == (Answered(1, 1, 0), 0)
    assert report.others == Answered(1, 0, 1)
    kept = ask_after(workspace, Anchors((), "base"), Life(base, full, full.copy()), [learned], [])
    assert (kept.forgotten, kept.left, kept.others) == (Answered(1, 1, 1), 1, Answered(0, 0, 0))
