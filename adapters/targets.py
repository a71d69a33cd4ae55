"""Which linear layers of which architecture may change: the MLP down projections.

Covered: the causal LMs of transformers named in `DOWN_PROJECTIONS`. Not covered: mixtures of experts, encoders.
The down projection is where ROME/MEMIT (Meng et al. 2022) and the design's own measurements locate recalled facts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from adapters.config import TargetConfig
from adapters.errors import UnsupportedArchitecture

_LLAMA_LIKE = ("model.layers", "mlp.down_proj")

DOWN_PROJECTIONS: Mapping[str, tuple[str, str]] = {
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "gemma": _LLAMA_LIKE,
    "gemma2": _LLAMA_LIKE,
    "gemma3_text": _LLAMA_LIKE,
    "phi3": _LLAMA_LIKE,
    "phi": ("model.layers", "mlp.fc2"),
    "gpt2": ("transformer.h", "mlp.c_proj"),
    "gpt_neox": ("gpt_neox.layers", "mlp.dense_4h_to_h"),
    "opt": ("model.decoder.layers", "fc2"),
}
"""model_type -> (path of the list of decoder layers, path of the down projection inside one)."""


@dataclass(frozen=True)
class Targets:
    """The target layers of one model, from the lowest to the highest."""

    layers_path: str
    """Path of the list of decoder layers."""
    first_layer: int
    """Index of the lowest decoder layer that holds a target."""
    names: tuple[str, ...]
    """Module paths of the target layers."""

    def highest(self, count: int) -> "Targets":
        """The `count` highest of them; all of them if they are fewer."""
        names = self.names[-count:]
        return Targets(self.layers_path, self.first_layer + len(self.names) - len(names), names)


def find_targets(model: nn.Module, config: TargetConfig | None = None) -> Targets:
    """Return the target layers of `model`, a causal LM of transformers.

    Raises:
        UnsupportedArchitecture: unknown `model_type`, or its layers are not linear; the message lists what was found.
    """
    config = config or TargetConfig()
    model_type = str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
    if model_type not in DOWN_PROJECTIONS:
        raise UnsupportedArchitecture(
            f"no target layers are known for model_type {model_type!r}; known: {', '.join(sorted(DOWN_PROJECTIONS))}. "
            f"Linear layers found: {_describe_linear_layers(model)}"
        )
    layers_path, inner = DOWN_PROJECTIONS[model_type]
    depth = len(model.get_submodule(layers_path))  # type: ignore[arg-type]
    first = depth // 2 if config.last_layers is None else max(0, depth - config.last_layers)
    names = tuple(f"{layers_path}.{i}.{inner}" for i in range(first, depth))
    modules = dict(model.named_modules())
    for name in names:
        if not isinstance(modules.get(name), nn.Linear | Conv1D):
            raise UnsupportedArchitecture(
                f"{name} of this {model_type} is {type(modules.get(name)).__name__}, not a linear layer. "
                f"Linear layers found: {_describe_linear_layers(model)}"
            )
    return Targets(layers_path, first, names)


def _describe_linear_layers(model: nn.Module) -> str:
    """Names of the linear layers with layer numbers folded into `*`, each once."""
    found = {re.sub(r"\.\d+\.", ".*.", n) for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    return ", ".join(sorted(found)) or "none"
