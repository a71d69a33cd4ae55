"""The guard: what it measures, and each reason for which it says no."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.base_model import BaseModel
from adapters.config import CurvatureConfig, GuardConfig
from adapters.curvature import Curvature, measure_curvature
from adapters.delta import Delta, DeltaSum
from adapters.drift import RAW_TURNS, TURNS, UNTOUCHED, Drift, Guard, Probed
from adapters.memory import Memory
from adapters.sampling import continue_rows
from adapters.workspace import Workspace

MakeWorkspace = Callable[..., Workspace]
Measure = Callable[[Workspace], Curvature]
CONFIG = GuardConfig(probes=4, raw_probes=4, kl_step=0.02, kl_total=0.5, retention_loss=0.5)


class Guarded:
    """A workspace with a guard."""

    def __init__(self, workspace: Workspace, held_out: torch.Tensor, config: GuardConfig = CONFIG) -> None:
        self.workspace, self.held_out = workspace, held_out
        self.guard = Guard(workspace, held_out, config, workspace.targets.highest(1))

    def disturb(self, scale: float, seed: int = 0) -> None:
        """Install base weights with noise."""
        generator = torch.Generator().manual_seed(seed)
        base = self.workspace.base_weights
        self.workspace.install({n: w + scale * torch.randn(w.shape, generator=generator) for n, w in base.items()})

    def kl(self, turn: int = 0) -> float:
        """On the probes of the `turn`-th group of updates from raw text."""
        return self.guard.measure([], [], turn * RAW_TURNS).kl


@pytest.fixture(scope="module")
def guarded(make_workspace: MakeWorkspace, measure: Measure) -> Guarded:
    workspace = make_workspace()
    return Guarded(workspace, measure(workspace).held_out)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gemma3_text"])
def test_the_base_model_has_not_drifted_from_itself(kind: str, make_workspace: MakeWorkspace, measure: Measure) -> None:
    workspace = make_workspace(kind)
    at = Guarded(workspace, measure(workspace).held_out)
    for turn in range(5):
        assert at.guard.measure([], [], turn * RAW_TURNS) == UNTOUCHED


@settings(max_examples=30)
@given(scale=st.sampled_from([0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-2, 0.3, 3.0]), seed=st.integers(0, 100), turn=st.integers(0, 100))
def test_drift_is_never_negative(guarded: Guarded, scale: float, seed: int, turn: int) -> None:
    guarded.disturb(scale, seed)
    assert guarded.kl(turn) >= 0


@pytest.mark.parametrize("scale", [1e-8, 1e-7, 1e-6, 1e-5])
def test_the_least_drift_of_a_sure_model_is_not_negative(
    scale: float, reader: BaseModel, make_workspace: MakeWorkspace, measure: Measure
) -> None:
    """Where probabilities are near 1, losses differ by less than single precision tells of their ratio."""
    workspace = make_workspace(reader)
    at = Guarded(workspace, measure(workspace).held_out)
    for seed in range(10):
        at.disturb(scale, seed)
        assert at.kl(seed) >= 0


def test_drift_grows_with_the_change(guarded: Guarded) -> None:
    drifts = []
    for scale in (0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1):
        guarded.disturb(scale)
        drifts.append(guarded.kl())
    assert drifts == sorted(drifts)
    assert drifts[0] == 0 < drifts[1]


def test_drift_estimates_the_divergence_from_the_base_model(make_workspace: MakeWorkspace) -> None:
    """Against the exact KL(base || candidate) of every next token's distribution on the same text."""
    workspace = make_workspace()
    text = measure_curvature(workspace, CurvatureConfig(samples=1, length=16, batch=1, held_out=400)).held_out
    at = Guarded(workspace, text, GuardConfig(probes=400, raw_probes=400))
    batch = workspace.batch(text.tolist())
    base = workspace.logits(batch)[:, :-1].log_softmax(-1)
    at.disturb(0.02)
    candidate = workspace.logits(batch)[:, :-1].log_softmax(-1)
    exact = float((base.exp() * (base - candidate)).sum(-1).mean())
    assert at.kl() == pytest.approx(exact, rel=0.25)


def test_turns_go_through_all_held_out_text(guarded: Guarded) -> None:
    samples = len(guarded.held_out)
    guarded.disturb(0.0)
    whole = Guarded(guarded.workspace, guarded.held_out, GuardConfig(probes=1000, raw_probes=1000))
    guarded.disturb(0.05)
    turns = [guarded.kl(turn) for turn in range(samples // CONFIG.probes)]
    assert len(set(turns)) == len(turns) > 1
    assert sum(turns) / len(turns) == pytest.approx(whole.kl(), rel=1e-4)


def test_a_guard_may_have_fewer_samples_than_probes(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace()
    at = Guarded(workspace, torch.tensor([[1, 40, 41, 42]]))
    assert at.kl(3) == 0


def lesson(workspace: Workspace, prompt: str, right: bool) -> Memory:
    """A memory whose answer is what greedy decoding writes, or is not."""
    row = workspace.base.encode(prompt)
    (answer,) = continue_rows(workspace, [row], 3, [0.0])
    if not right:
        answer[1] = (answer[1] + 1) % 300
    ids = (*row, *answer)
    required = (False,) * (len(row) - 1) + (True,) * 3
    return Memory(ids, tuple(map(float, required)), required)


def test_lessons_count_as_known_when_all_of_their_answer_is_the_likeliest(guarded: Guarded) -> None:
    guarded.disturb(0.0)
    known = [lesson(guarded.workspace, prompt, True) for prompt in ("Mira Holm", "Q: Where was Jon Vik born? A:", "x")]
    unknown = [lesson(guarded.workspace, prompt, False) for prompt in ("Anna", "News: Lund")]
    measure = guarded.guard.measure
    assert measure(known, unknown, 0) == Drift(0.0, 1.0, 0.0)
    assert measure(unknown, known, 0) == Drift(0.0, 0.0, 1.0)
    assert measure([*known, *unknown], [known[0], unknown[0]], 0) == Drift(0.0, 0.6, 0.5)


def test_off_the_fast_path_a_document_without_lessons_is_measured_as_well_as_others(guarded: Guarded) -> None:
    config = GuardConfig(probes=8, raw_probes=1, raw_tokens=2)
    guard = Guard(guarded.workspace, guarded.held_out, config, None)
    guarded.disturb(0.05)
    known = [lesson(guarded.workspace, "Mira Holm", True)]
    assert [guard.measure([], [], turn).kl for turn in range(3)] == [guard.measure(known, [], turn).kl for turn in range(3)]


def test_raw_text_has_its_own_number_of_probes(guarded: Guarded) -> None:
    few = Guarded(guarded.workspace, guarded.held_out, GuardConfig(probes=8, raw_probes=1))
    known = [lesson(guarded.workspace, "Mira Holm", True)]
    few.disturb(0.05)
    drifts = [few.kl(turn) for turn in range(8)]
    assert sum(drifts) / 8 == pytest.approx(few.guard.measure(known, [], 0).kl, rel=1e-4)
    assert len(set(drifts)) == 8


def test_successive_updates_from_raw_text_share_their_probes(guarded: Guarded) -> None:
    """So that one is measured only once, as what was reached and as where the next begins."""
    few = Guarded(guarded.workspace, guarded.held_out, GuardConfig(probes=8, raw_probes=1))
    few.disturb(0.05)
    drifts = [few.guard.measure([], [], turn).kl for turn in range(2 * RAW_TURNS)]
    assert len(set(drifts[:RAW_TURNS])) == len(set(drifts[RAW_TURNS:])) == 1 < len(set(drifts))


def test_what_one_update_reached_is_not_measured_again_as_where_the_next_begins(
    make_workspace: MakeWorkspace, measure: Measure
) -> None:
    """But once for every group of updates that share their probes: each measures its candidate, and the first where it began."""
    workspace = make_workspace()
    held_out = measure(workspace).held_out
    known, current = [lesson(workspace, "Mira Holm", True)], DeltaSum(workspace.base_weights)
    current.add(noise(workspace, 0.05))
    guard = Guarded(workspace, held_out).guard
    spent = min(guard.probe(current, Probed(known), turn)[0].kl for turn in range(2 * TURNS))
    guard = Guarded(workspace, held_out, GuardConfig(probes=4, kl_step=0.5 * spent, kl_total=1e9)).guard
    seen: list[torch.Tensor] = []
    with workspace.model.register_forward_pre_hook(lambda _, args: seen.append(args[0])):
        for turn in range(2 * TURNS):
            candidate = current.copy()
            candidate.add(noise(workspace, 0.0001))
            assert guard.judge(current, candidate, Probed(known), turn)[1] is None
            current = candidate
    probes = [ids for ids in seen if ids.shape == (4, held_out.shape[1])]
    assert len(probes) == 2 * (TURNS + 1)


def test_what_was_measured_of_other_weights_is_not_taken_for_these(guarded: Guarded) -> None:
    few = Guarded(guarded.workspace, guarded.held_out, GuardConfig(probes=8, raw_probes=1))
    drifts = []
    for scale in (0.01, 0.02, 0.0, 0.02):
        few.disturb(scale)
        drifts.append(few.kl())
    assert drifts[2] == 0 < drifts[0] < drifts[1] == drifts[3]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gemma3_text", "phi", "gpt_neox"])
def test_what_raw_text_does_not_change_runs_once_for_shared_probes(
    kind: str, make_workspace: MakeWorkspace, measure: Measure
) -> None:
    workspace = make_workspace(kind)
    at = Guarded(workspace, measure(workspace).held_out)
    lowest, highest = workspace.targets.names[0], workspace.targets.names[-1]
    ran: list[str] = []
    layers = workspace.model.get_submodule(workspace.targets.layers_path)
    layers.get_submodule("0").register_forward_pre_hook(lambda *_: ran.append("lowest"))

    def drift(scale: float, changed: str, turn: int = 1) -> float:
        ran.clear()
        base = workspace.base_weights
        noise = scale * torch.randn(base[changed].shape, generator=torch.Generator().manual_seed(1))
        workspace.install({**base, changed: base[changed] + noise})
        return at.kl(turn)

    first, again = drift(0.05, highest), drift(0.1, highest)
    assert 0 < first < again
    assert not ran
    assert drift(0.05, lowest) > 0
    assert ran, "the lowest layer was changed"
    assert drift(0.1, lowest) > 0
    assert drift(0.1, highest) == again
    assert ran, "the lowest layer was changed back"
    other = drift(0.1, highest, turn=2)
    assert ran, "the probes are others"
    assert drift(0.05, highest, turn=2) < other
    assert not ran


def test_raw_text_is_measured_on_the_beginning_of_each_sample(guarded: Guarded) -> None:
    lengths = {}
    for tokens in (2, 4, 999):
        few = Guarded(guarded.workspace, guarded.held_out, GuardConfig(probes=8, raw_probes=8, raw_tokens=tokens))
        few.disturb(0.05)
        lengths[tokens] = few.guard.measure([], [], 0).kl
    known = [lesson(guarded.workspace, "Mira Holm", True)]
    assert lengths[999] == pytest.approx(few.guard.measure(known, [], 0).kl, rel=1e-4)
    assert len(set(lengths.values())) == 3


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_rejected(number: float, guarded: Guarded) -> None:
    base = guarded.workspace.base_weights
    guarded.workspace.install({name: torch.full_like(weight, number) for name, weight in base.items()})
    verdict = guarded.guard.verdict(UNTOUCHED, guarded.guard.measure([], [], 0))
    assert verdict == "the candidate's probabilities are not finite"


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (Drift(0.0, 1.0, 1.0), Drift(0.021, 1.0, 1.0), "drift of this update 0.0210 nats per token exceeds the budget of 0.02"),
        (Drift(0.495, 1.0, 1.0), Drift(0.51, 1.0, 1.0), "total drift 0.5100 nats per token exceeds the budget of 0.5"),
        (Drift(0.1, 1.0, 1.0), Drift(0.1, 1.0, 0.4), "retention of earlier documents fell from 1.00 to 0.40"),
        (Drift(0.0, 1.0, 1.0), Drift(float("nan"), 1.0, 1.0), "the candidate's probabilities are not finite"),
        (Drift(0.0, 1.0, 1.0), Drift(float("inf"), 1.0, 1.0), "the candidate's probabilities are not finite"),
    ],
)
def test_each_budget_that_is_exceeded_is_named(before: Drift, after: Drift, reason: str, guarded: Guarded) -> None:
    assert guarded.guard.verdict(before, after) == reason


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (UNTOUCHED, UNTOUCHED),
        (UNTOUCHED, Drift(0.019, 0.0, 0.5)),
        (Drift(0.49, 1.0, 1.0), Drift(0.5, 1.0, 1.0)),
        (Drift(0.1, 1.0, 0.2), Drift(0.05, 1.0, 0.2)),
    ],
)
def test_within_all_budgets_there_is_nothing_to_say(before: Drift, after: Drift, guarded: Guarded) -> None:
    assert guarded.guard.verdict(before, after) is None


def noise(workspace: Workspace, scale: float) -> Delta:
    generator = torch.Generator().manual_seed(3)
    shapes = {name: weight.shape for name, weight in workspace.base_weights.items()}
    return Delta(
        {
            n: (scale * torch.randn(o, 4, generator=generator), torch.randn(i, 4, generator=generator))
            for n, (o, i) in shapes.items()
        }
    )


@pytest.mark.parametrize("spent", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("added", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("loss", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("step", [1e-4, 1e-2, 1e9])
def test_a_verdict_is_as_if_all_had_been_measured_before_and_after(
    spent: float, added: float, loss: float, step: float, guarded: Guarded
) -> None:
    guarded.disturb(0.0)
    workspace = guarded.workspace
    earlier = [lesson(workspace, prompt, known) for prompt in ("Mira Holm", "Anna", "x") for known in (True, False)]
    current = DeltaSum(workspace.base_weights)
    current.add(noise(workspace, spent))
    candidate = current.copy()
    candidate.add(noise(workspace, added))
    guard = Guarded(workspace, guarded.held_out, GuardConfig(kl_step=step, kl_total=1e9, retention_loss=loss)).guard
    drift, reason = guard.judge(current, candidate, Probed((), earlier), 3)
    measured = []
    for total in (current, candidate):
        workspace.install(total.weights())
        measured.append(guard.measure((), earlier, 3))
    assert (drift, reason) == (measured[1], guard.verdict(*measured))


def test_canaries_whose_answers_change_reject_a_candidate_and_are_named(guarded: Guarded) -> None:
    guarded.disturb(0.0)
    workspace = guarded.workspace
    canaries = [lesson(workspace, prompt, True) for prompt in ("Mira Holm", "Q: Where was Jon Vik born? A:", "x", "Anna")]
    current = DeltaSum(workspace.base_weights)
    candidate = current.copy()
    candidate.add(noise(workspace, 0.05))
    wide = GuardConfig(kl_step=1e9, kl_total=1e9, probes=4)
    strict, loose = (
        Guarded(workspace, guarded.held_out, wide),
        Guarded(workspace, guarded.held_out, GuardConfig(kl_step=1e9, kl_total=1e9, canary_loss=1.0)),
    )
    drift, reason = strict.guard.judge(current, candidate, Probed(canaries[:1], (), canaries), 0)
    assert drift.canaries < 1, "the noise was too weak for this test"
    assert reason is not None
    lost = round((1 - drift.canaries) * 4)
    assert reason.startswith(f"{lost} of 4 canaries would no longer be answered as they must be: ")
    assert loose.guard.judge(current, candidate, Probed(canaries[:1], (), canaries), 0) == (drift, None)


def test_canaries_that_did_not_hold_before_cannot_be_lost(guarded: Guarded) -> None:
    guarded.disturb(0.0)
    workspace = guarded.workspace
    current = DeltaSum(workspace.base_weights)
    wrong = [lesson(workspace, prompt, False) for prompt in ("Mira Holm", "Anna")]
    drift, reason = guarded.guard.judge(current, current.copy(), Probed(wrong[:1], (), wrong), 0)
    assert (drift.canaries, reason) == (0.0, None)
