"""Train-Attention: token weights from a head that was trained by differentiating twice through an update.

For a task about a text: one gradient step on the text's weighted loss, theta' = theta - alpha grad (sum_t w_t loss_t / sum_t w_t);
the loss of the task's answer under theta' is differentiated back through that step to the head that gave the weights.
What infold replaces by a closed form; `compare_with_closed_form` sets the two side by side.

Covered: meta-training on the tasks that infold's scorer is trained on, training on each document with the weights found.
Not covered: a second language model as the head: it is infold's, on the base model's hidden states, so that what is compared
is the meta-gradient alone.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from adapters.curvature import DampedCurvature
from adapters.importance import TokenScorer, features
from adapters.measured import save_into
from adapters.scorer_training import Task, task_direction, token_derivatives
from adapters.tasks import self_written_tasks
from adapters.workspace import Workspace, token_nll
from benchmarks.learning.ground import Ground
from benchmarks.learning.methods.fine_tuning import FineTuning
from benchmarks.learning.methods.method import Knobs, mean_loss, train
from benchmarks.learning.streams import Step

TASKS = 300
WINDOW = 128
"""Tokens: sampled texts are shorter."""
SEED = 21
ALPHA = 0.1
"""Rate of the unrolled step: of 0.03 to 3 the one where one step with useful tokens alone lowers a task's loss most; above,
such a step overshoots, and the head learns to spread its weights for that reason alone."""
EPOCHS, TOGETHER, RATE = 3, 8, 3e-3
"""Of the head: passes over the tasks, tasks whose gradients are summed for one step of Adam, and its rate."""


@dataclass(frozen=True)
class TrainedHead:
    """What meta-training made."""

    scorer: TokenScorer
    tasks: int
    seconds: float
    """Of processor time, from the first task's features to the last step; writing the tasks not counted."""


class UnrolledUpdate:
    """One step of plain gradient descent on the target layers, kept differentiable."""

    def __init__(self, ground: Ground) -> None:
        self._ground, self._model = ground, ground.model().requires_grad_(False)
        names = [f"{n}.weight" for n in ground.workspace().targets.names]
        self._weights = {n: p.requires_grad_() for n, p in self._model.named_parameters() if n in names}

    def task_loss(self, task: Task, weights: Tensor) -> Tensor:
        """Mean NLL of the task's answer after the step on its text with these token weights (1, T-1)."""
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
            loss = (self._nll(self._weights, task.text) * weights).sum() / weights.sum().clamp(min=1e-6)
            gradients = torch.autograd.grad(loss, list(self._weights.values()), create_graph=True)
            changed = {n: p - ALPHA * g for (n, p), g in zip(self._weights.items(), gradients, strict=True)}
            return self._nll(changed, task.prompt + task.answer)[0, len(task.prompt) - 1 :].mean()

    def _nll(self, weights: dict[str, Tensor], row: list[int]) -> Tensor:
        batch = self._ground.batch([row])
        logits = functional_call(self._model, weights, (batch.ids,), {"attention_mask": batch.mask, "use_cache": False}).logits
        return token_nll(logits, batch.ids)


def written_tasks(ground: Ground, wanted: int, seed: int) -> list[Task]:
    """The base model's own questions about its own texts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return self_written_tasks(ground.workspace(), ground.template, ground.config.views, wanted, WINDOW)


def trained_head(ground: Ground, wanted: int = TASKS) -> TrainedHead:
    """Meta-train a head."""
    tasks = written_tasks(ground, wanted, SEED)
    started = time.process_time()
    workspace, update = ground.workspace(), UnrolledUpdate(ground)
    seen = [features(workspace, workspace.batch([task.text])) for task in tasks]
    order = torch.Generator().manual_seed(SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        scorer = TokenScorer(seen[0][0].shape[-1])
    optimizer = torch.optim.Adam(scorer.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        shuffled = torch.randperm(len(tasks), generator=order).tolist()
        for chosen in (shuffled[start : start + TOGETHER] for start in range(0, len(tasks), TOGETHER)):
            optimizer.zero_grad()
            for index in chosen:
                loss = update.task_loss(tasks[index], scorer(*seen[index])) / len(chosen)
                loss.backward(inputs=list(scorer.parameters()))  # type: ignore[no-untyped-call]
            optimizer.step()
    return TrainedHead(scorer.eval().requires_grad_(False), len(tasks), time.process_time() - started)


def kept_head(ground: Ground) -> TokenScorer:
    """The head for this base model, trained once and kept in the cache."""
    digest = ground.base.digest
    path = ground.cache / digest / f"train-attention-{TASKS}.safetensors"
    if not path.is_file():
        save_into(path.parent, path.name, lambda unfinished: trained_head(ground).scorer.save(unfinished, digest))
    return TokenScorer.load(path, digest).requires_grad_(False)


@dataclass(frozen=True)
class Comparison:
    """Of second-order weights with the closed form, means over tasks that neither head has seen."""

    head_correlation: float
    """Between the head's weights and the closed-form targets max(s_t, 0) of a text."""
    head_top: float
    """Share of tasks whose heaviest token is the same for both."""
    gradient_correlation: float
    """Between the exact meta-gradient of each token's weight, at equal weights, and s_t: no head between them."""
    gradient_top: float
    """Share of tasks where the most useful token is the same for both."""
    second_order_seconds: float
    """Of processor time, for one task's exact meta-gradient."""
    closed_form_seconds: float
    """The same for one task's s_t."""
    meta_training: TrainedHead


def compare_with_closed_form(ground: Ground, tasks: Sequence[Task], trained: TrainedHead | None = None) -> Comparison:
    """Measure on held-out `tasks`; meta-trains a head if none is given."""
    trained = trained or trained_head(ground)
    workspace, update = ground.workspace(), UnrolledUpdate(ground)
    curvature = DampedCurvature(ground.curvature, ground.config.fold, ground.base.device)
    heads, exact, closed = [], [], []
    seconds = [0.0, 0.0]
    for task in tasks:
        started = time.process_time()
        exact.append(_meta_gradient(update, task))
        between = time.process_time()
        closed.append(_closed_form(workspace, task, curvature))
        seconds = [seconds[0] + between - started, seconds[1] + time.process_time() - between]
        heads.append(trained.scorer(*features(workspace, workspace.batch([task.text])))[0])
    targets = [s.clamp(min=0) for s in closed]
    return Comparison(
        *_agreement(heads, targets), *_agreement(exact, closed), seconds[0] / len(tasks), seconds[1] / len(tasks), trained
    )


def _meta_gradient(update: UnrolledUpdate, task: Task) -> Tensor:
    """(T-1,): how much a little more weight on each token lowers the task's loss."""
    weights = torch.ones(1, len(task.text) - 1, requires_grad=True)
    return -torch.autograd.grad(update.task_loss(task, weights), weights)[0][0]


def _closed_form(workspace: Workspace, task: Task, curvature: DampedCurvature) -> Tensor:
    """s_t (T-1,)."""
    return token_derivatives(workspace, task.text, task_direction(workspace, task, curvature))[0]


def _agreement(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> tuple[float, float]:
    """Mean correlation over the tokens of a text, and how often the largest is the same; texts without any spread left out."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if len(a) > 1 and float(a.std()) > 0 and float(b.std()) > 0]
    return (
        fmean(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs),
        fmean(float(a.argmax() == b.argmax()) for a, b in pairs),
    )


class TrainAttention(FineTuning):
    """A few steps on each document, every token weighted by the head."""

    title = "Train-Attention"
    source = (
        "Seo et al. 2024; the head is infold's small one instead of a second LM, meta-trained on self-written tasks with one "
        "unrolled step on the MLP down projections; then all weights are trained, which scored better here than the paper's LoRA"
    )
    grid = {"rate": (3e-4, 1e-4, 1e-3), "steps": (3, 10, 30)}

    def __init__(self, ground: Ground, knobs: Knobs) -> None:
        super().__init__(ground, knobs)
        self._workspace = ground.workspace()
        self._scorer = kept_head(ground)

    def learn(self, step: Step) -> None:
        """See `Method`."""
        batch = self.ground.batch([self.ground.base.encode(step.text)])
        weights = self._scorer(*features(self._workspace, batch))
        train(
            self._model.parameters(), lambda: mean_loss(self._model, batch, weights), int(self.knobs["steps"]), self.knobs["rate"]
        )
