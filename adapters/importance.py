"""Token weights: which tokens of a text are worth learning.

A small head on the base model's own hidden states (Train-Attention, Seo et al. 2024, without its second LM), or,
where none was trained, the surprise of each token. A proximal threshold makes the weights sparse.

Covered: scoring, thresholding, files of the head. Not covered: how the head is trained (`scorer_training.py`).
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from adapters.tensor_file import read_tensors, write_tensors
from adapters.workspace import Batch, Workspace

HIDDEN = 64
"""Width of the head's one hidden layer."""


class TokenScorer(nn.Module):
    """Hidden state, NLL and entropy of a token -> its weight in [0, 1]."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.layers = nn.Sequential(nn.Linear(hidden_size + 2, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1))

    def logits(self, hidden: Tensor, evidence: Tensor) -> Tensor:
        """hidden (B, T-1, H), evidence (B, T-1, 2) in nats -> (B, T-1) logits of the weights."""
        out: Tensor = self.layers(torch.cat([self.norm(hidden), evidence / 3], -1))[..., 0]
        return out

    def forward(self, hidden: Tensor, evidence: Tensor) -> Tensor:
        """As `logits`, through the sigmoid."""
        return torch.sigmoid(self.logits(hidden, evidence))

    def save(self, path: Path, digest: str) -> None:
        """Write one safetensors file that names the base model."""
        write_tensors(path, self.state_dict(), digest)

    @staticmethod
    def load(path: Path, digest: str) -> "TokenScorer":
        """Read what `save` wrote.

        Raises:
            CorruptCheckpoint: torn, or of another base model.
        """
        tensors = read_tensors(path, digest, "a scorer")
        scorer = TokenScorer(tensors["norm.weight"].numel())
        scorer.load_state_dict(tensors)
        return scorer.eval()


@torch.no_grad()
def features(workspace: Workspace, batch: Batch) -> tuple[Tensor, Tensor]:
    """What the head sees of each predicted token, at the weights installed: one forward pass. See `features_of`."""
    return features_of(workspace.outputs(batch), batch)


@torch.no_grad()
def features_of(outputs: CausalLMOutputWithPast, batch: Batch) -> tuple[Tensor, Tensor]:
    """What the head sees of each predicted token, from a forward pass that was made anyway.

    Returns hidden (B, T-1, H) from below the last layer, and evidence (B, T-1, 2): its NLL and the entropy before it, in nats.
    """
    assert outputs.logits is not None
    assert outputs.hidden_states is not None
    logp = outputs.logits[:, :-1].detach().float().log_softmax(-1)
    nll = -logp.gather(-1, batch.ids[:, 1:, None])
    entropy = -(logp.exp() * logp).sum(-1, keepdim=True)
    return outputs.hidden_states[-2][:, 1:].detach().float(), torch.cat([nll, entropy], -1)


def weigh(scorer: TokenScorer | None, hidden: Tensor, evidence: Tensor, predicted: Tensor, threshold: float) -> Tensor:
    """Weights (B, T-1) in [0, 1], the largest of each row being 1, zero below `threshold` and where nothing is predicted.

    Without a scorer the weight is the surprise, the token's NLL.
    """
    with torch.no_grad():
        raw = (evidence[..., 0] if scorer is None else scorer(hidden, evidence)) * predicted
    weights = raw / raw.amax(-1, keepdim=True).clamp(min=1e-9)
    return weights * (weights >= threshold)
