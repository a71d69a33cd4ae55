"""Token weights: their range, their zeros, and that a row's weights are its own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import CorruptCheckpoint
from adapters.importance import TokenScorer, features, weigh
from adapters.targets import DOWN_PROJECTIONS
from adapters.workspace import Batch, Workspace

MakeWorkspace = Callable[..., Workspace]
TEXTS = ["Mira Holm was born in Oslo.", "Anna Berg", "Q: Where was Jon Vik born? A: Graz."]
HIDDEN = 32


def some_batch(workspace: Workspace) -> Batch:
    return workspace.batch([workspace.base.encode(text) for text in TEXTS])


@pytest.fixture(params=["surprise", "scorer"])
def scorer(request: pytest.FixtureRequest) -> TokenScorer | None:
    if request.param == "surprise":
        return None
    scorer = TokenScorer(HIDDEN)
    for parameter in scorer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return scorer.eval().requires_grad_(False)


@given(st.floats(0, 0.99), st.integers(0, 20), st.lists(st.integers(1, 12), min_size=1, max_size=4), st.booleans())
def test_weights_are_shares_of_the_largest_of_their_row(threshold: float, seed: int, lengths: list[int], trained: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(lengths), 12, HIDDEN, generator=generator)
    evidence = 3 * torch.rand(len(lengths), 12, 2, generator=generator) + 1e-3
    predicted = torch.zeros(len(lengths), 12)
    for row, length in enumerate(lengths):
        predicted[row, :length] = 1
    weights = weigh(TokenScorer(HIDDEN) if trained else None, hidden, evidence, predicted, threshold)
    assert weights.shape == (len(lengths), 12)
    assert float(weights.min()) >= 0
    torch.testing.assert_close(weights.amax(-1), torch.ones(len(lengths)))
    assert not weights[predicted == 0].any()
    assert not ((weights > 0) & (weights < threshold - 1e-6)).any()


def test_without_a_scorer_the_weight_is_the_surprise() -> None:
    evidence = torch.tensor([[[4.0, 9.0], [1.0, 9.0], [2.0, 9.0], [8.0, 9.0]]])
    predicted = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert weigh(None, torch.zeros(1, 4, HIDDEN), evidence, predicted, 0.3).tolist() == [[1.0, 0.0, 0.5, 0.0]]


def test_a_row_that_predicts_nothing_weighs_nothing(scorer: TokenScorer | None) -> None:
    weights = weigh(scorer, torch.randn(1, 3, HIDDEN), torch.rand(1, 3, 2), torch.zeros(1, 3), 0.2)
    assert weights.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("kind", sorted(DOWN_PROJECTIONS))
def test_weights_in_a_padded_batch_are_those_of_the_text_alone(
    kind: str, scorer: TokenScorer | None, make_workspace: MakeWorkspace
) -> None:
    workspace = make_workspace(kind)
    batch = some_batch(workspace)
    together = weigh(scorer, *features(workspace, batch), batch.predicted, 0.2)
    for row, text in enumerate(TEXTS):
        alone = workspace.batch([workspace.base.encode(text)])
        expected = weigh(scorer, *features(workspace, alone), alone.predicted, 0.2)[0]
        torch.testing.assert_close(together[row, : len(expected)], expected, rtol=1e-4, atol=1e-5)
        assert not together[row, len(expected) :].any()


@pytest.mark.parametrize("kind", sorted(DOWN_PROJECTIONS))
def test_features_are_the_state_at_a_token_and_the_evidence_before_it(kind: str, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(kind)
    batch = some_batch(workspace)
    hidden, evidence = features(workspace, batch)
    shape = (len(TEXTS), batch.ids.shape[1] - 1)
    assert hidden.shape == (*shape, HIDDEN)
    torch.testing.assert_close(evidence[..., 0], workspace.nll(batch))
    probabilities = workspace.logits(batch)[:, :-1].softmax(-1)
    entropy = torch.special.entr(probabilities).sum(-1)
    torch.testing.assert_close(evidence[..., 1], entropy, rtol=1e-4, atol=1e-5)


def test_the_state_of_a_token_depends_on_it_and_its_evidence_does_not_depend_on_what_follows(workspace: Workspace) -> None:
    one, other = (workspace.batch([[*workspace.base.encode("Mira Holm was born in"), last]]) for last in (70, 71))
    (hidden, evidence), (changed_hidden, changed) = features(workspace, one), features(workspace, other)
    assert torch.equal(hidden[:, :-1], changed_hidden[:, :-1])
    assert not torch.equal(hidden[:, -1], changed_hidden[:, -1])
    assert torch.equal(evidence[:, :-1], changed[:, :-1])
    assert float(evidence[0, -1, 1]) == float(changed[0, -1, 1])


def test_features_need_no_gradient(workspace: Workspace) -> None:
    assert not any(t.requires_grad for t in features(workspace, some_batch(workspace)))


def test_a_scorer_survives_a_file_bit_for_bit(tmp_path: Path) -> None:
    scorer = TokenScorer(HIDDEN)
    scorer.save(tmp_path / "scorer.safetensors", "digest")
    loaded = TokenScorer.load(tmp_path / "scorer.safetensors", "digest")
    hidden, evidence = torch.randn(2, 5, HIDDEN), torch.rand(2, 5, 2)
    assert torch.equal(loaded(hidden, evidence), scorer(hidden, evidence))
    assert not loaded.training


def test_a_scorer_of_another_model_is_refused(tmp_path: Path) -> None:
    TokenScorer(HIDDEN).save(tmp_path / "scorer.safetensors", "digest")
    with pytest.raises(CorruptCheckpoint, match="of base model digest, not of other"):
        TokenScorer.load(tmp_path / "scorer.safetensors", "other")


@pytest.mark.parametrize("keep", [0, 4, 100])
def test_a_torn_scorer_is_refused(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "scorer.safetensors"
    TokenScorer(HIDDEN).save(path, "digest")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptCheckpoint, match="cannot read"):
        TokenScorer.load(path, "digest")
