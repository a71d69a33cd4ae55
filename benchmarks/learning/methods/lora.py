"""LoRA by the library that defines it in practice (PEFT), on the document or on views that the base model wrote of it."""

from peft import LoraConfig, get_peft_model
from torch import nn

from benchmarks.learning.ground import Ground
from benchmarks.learning.methods.method import Knobs, Method, mean_loss, train
from benchmarks.learning.streams import Step
from benchmarks.learning.writing import written_views

RANK = 16


class Lora(Method):
    """Rank 16 on all linear layers, trained on each document."""

    title = "LoRA"
    source = "Hu et al. 2022, by PEFT: rank 16 on all linear layers"
    grid = {"rate": (1e-3, 3e-4, 3e-3), "steps": (10, 3, 30)}

    def __init__(self, ground: Ground, knobs: Knobs) -> None:
        super().__init__(ground, knobs)
        config = LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
        self._model = get_peft_model(ground.model(), config)

    def texts(self, step: Step) -> list[list[int]]:
        """Token rows to train on."""
        return [self.ground.base.encode(step.text)]

    def learn(self, step: Step) -> None:
        """See `Method`."""
        batch = self.ground.batch(self.texts(step))
        trained = [p for p in self._model.parameters() if p.requires_grad]
        train(trained, lambda: mean_loss(self._model, batch), int(self.knobs["steps"]), self.knobs["rate"])

    @property
    def model(self) -> nn.Module:
        """See `Method`."""
        model: nn.Module = self._model
        return model


class LoraOnViews(Lora):
    """The same, trained on the views that infold would learn from."""

    title = "LoRA on self-written views"
    source = "Zweiger et al. 2025 (SEAL) without its reinforcement: PEFT LoRA on the base model's own questions and answers"
    grid = {"rate": (1e-3, 3e-4, 3e-3, 1e-4, 3e-5), "steps": (10, 3, 30)}

    def __init__(self, ground: Ground, knobs: Knobs) -> None:
        super().__init__(ground, knobs)
        self._workspace = ground.workspace()

    def texts(self, step: Step) -> list[list[int]]:
        """See `Lora`: the views, and the document if there are none."""
        views = written_views(self.ground, self._workspace, step.text)
        return [view.ids(self.ground.base, self.ground.template) for view in views] or super().texts(step)
