"""K-Adapter (Wang et al. 2020): the base model is frozen, and a small network beside it reads its layers and adds to its answer.

Covered: an adapter layer (down, a causal transformer layer, up, skip) at three depths, each fed the base model's hidden state
there and the adapter layer before; the last output is fused with the last hidden state. Differs: one adapter, for the one
stream; one transformer layer each where the paper has two; fused by a sum that starts as nothing, as the paper's new head
would have to be fitted to a task first. Not covered: models that change width before the head (OPT-350m).
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from benchmarks.learning.ground import Ground
from benchmarks.learning.methods.method import Knobs, Method, mean_loss, train
from benchmarks.learning.streams import Step

HEADS = 4


class AdapterLayer(nn.Module):
    """Down to a half, a causal transformer layer, up again, and around it all a skip."""

    def __init__(self, size: int) -> None:
        super().__init__()
        inner = max(1, size // (2 * HEADS)) * HEADS
        self.down, self.up = nn.Linear(size, inner), nn.Linear(inner, size)
        self.mixing = nn.TransformerEncoderLayer(inner, HEADS, 2 * inner, dropout=0.0, activation="gelu", batch_first=True)
        for tensor in (self.up.weight, self.up.bias):  # starts as the skip alone
            nn.init.zeros_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, size) to the same."""
        # padding is on the right, so that what is causal never sees it
        later = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        return x + self.up(self.mixing(self.down(x), src_mask=later))  # type: ignore[no-any-return]


class Adapted(nn.Module):
    """A frozen causal LM with an adapter beside it; called like the LM."""

    def __init__(self, base: PreTrainedModel) -> None:
        super().__init__()
        head = base.get_output_embeddings()  # type: ignore[no-untyped-call]
        assert isinstance(head, nn.Linear)
        self.base, self.head = base.requires_grad_(False), head
        size, layers = head.in_features, int(base.config.num_hidden_layers)
        self.depths = sorted({1, (layers + 1) // 2, layers})
        self.adapters = nn.ModuleList(AdapterLayer(size) for _ in self.depths)
        self.fusion = nn.Linear(size, size, bias=False)
        nn.init.zeros_(self.fusion.weight)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> CausalLMOutput:
        """Logits of the base model, and what the adapter adds to them."""
        with torch.no_grad():
            out = self.base(ids, attention_mask=attention_mask, use_cache=False, output_hidden_states=True)
        x = torch.zeros_like(out.hidden_states[-1])
        for depth, adapter in zip(self.depths, self.adapters, strict=True):
            x = adapter(out.hidden_states[depth] + x)
        # the head is linear: this is the head on the fused state, whatever the model does to its logits after
        return CausalLMOutput(logits=out.logits + nn.functional.linear(self.fusion(x), self.head.weight))


class KAdapter(Method):
    """AdamW on the adapter alone."""

    title = "K-Adapter"
    source = "Wang et al. 2020: frozen model, adapter layers at the first, middle and last block, summed into the last hidden state"
    grid = {"rate": (3e-4, 1e-4, 1e-3), "steps": (3, 10, 30)}

    def __init__(self, ground: Ground, knobs: Knobs) -> None:
        super().__init__(ground, knobs)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._model = Adapted(ground.model()).eval()

    def learn(self, step: Step) -> None:
        """See `Method`."""
        batch = self.ground.batch([self.ground.base.encode(step.text)])
        trained = [p for p in self._model.parameters() if p.requires_grad]
        train(trained, lambda: mean_loss(self._model, batch), int(self.knobs["steps"]), self.knobs["rate"])

    @property
    def model(self) -> nn.Module:
        """See `Method`."""
        return self._model
