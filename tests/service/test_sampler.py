"""Which token is next."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.sampler import Sampling, choose

VOCABULARY = 50


def logits(rows: int = 1, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def drawn(sampling: Sampling, count: int = 300) -> set[int]:
    row, [generator] = logits(), generators(0)
    return {choose(row.clone(), [sampling], [generator])[0] for _ in range(count)}


def test_temperature_zero_takes_the_likeliest() -> None:
    rows = logits(4)
    assert choose(rows, [Sampling()] * 4, generators(0, 1, 2, 3)) == rows.argmax(-1).tolist()


def test_the_likeliest_of_one_is_the_likeliest() -> None:
    assert drawn(Sampling(temperature=5, top_k=1)) == {int(logits().argmax())}


def test_top_k_leaves_the_k_likeliest() -> None:
    assert drawn(Sampling(temperature=10, top_k=3)) == set(logits()[0].topk(3).indices.tolist())


def test_top_p_leaves_the_fewest_whose_probabilities_reach_it() -> None:
    probabilities, order = logits()[0].softmax(-1).sort(descending=True)
    kept = int((probabilities.cumsum(-1) < 0.7).sum()) + 1
    assert drawn(Sampling(temperature=1, top_p=0.7), 2000) == set(order[:kept].tolist())


@pytest.mark.parametrize("temperature", [1e-300, 1e-45, 1e-40, 1e-10, 1e-5, 1e-4])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_a_temperature_near_zero_is_as_good_as_zero(temperature: float, scale: float) -> None:
    row = scale * logits()
    assert choose(row.clone(), [Sampling(temperature)], generators(1)) == [int(row.argmax())]


@pytest.mark.parametrize("top_p", [1e-300, 1e-45, 1e-10])
def test_a_top_p_near_zero_leaves_the_likeliest(top_p: float) -> None:
    assert drawn(Sampling(temperature=1, top_p=top_p), 20) == {int(logits().argmax())}


def test_the_same_seed_draws_the_same_tokens() -> None:
    def sequence(seed: int) -> list[int]:
        [generator] = generators(seed)
        return [choose(logits(seed=n), [Sampling(temperature=2)], [generator])[0] for n in range(20)]

    assert sequence(7) == sequence(7)
    assert sequence(7) != sequence(8)


def test_without_limits_the_draws_follow_the_probabilities() -> None:
    row = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    [generator] = generators(0)
    found = [choose(row.clone(), [Sampling(temperature=1)], [generator])[0] for _ in range(4000)]
    shares = torch.bincount(torch.tensor(found)) / len(found)
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.04, rtol=0)


@given(
    st.lists(st.builds(Sampling, st.floats(0, 10), st.floats(0, 1, exclude_min=True), st.integers(0, 60)), min_size=1, max_size=5)
)
def test_a_row_does_not_depend_on_what_is_beside_it(samplings: list[Sampling]) -> None:
    rows, seeds = logits(len(samplings), seed=3), range(len(samplings))
    together = choose(rows.clone(), samplings, generators(*seeds))
    alone = [choose(rows[n : n + 1].clone(), [samplings[n]], generators(n))[0] for n in seeds]
    assert together == alone
    assert all(0 <= token < VOCABULARY for token in together)
