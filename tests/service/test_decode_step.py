"""Steps of fixed shapes: which models can have them, and, where there is a GPU, that graphs say what steps without one say.

That a fixed step sees what an ordinary one sees is tested with the cache (`test_slot_cache.py`).
"""

from collections.abc import Callable

import pytest
import torch

from adapters.base_model import BaseModel
from adapters.targets import find_targets
from adapters.versioned_linear import BASE, VersionTable
from service.decode_step import GraphedStep, LaunchedStep, decode_step, recordable
from service.reading import Reading
from service.slot_cache import SlotCache

MakeBase = Callable[..., BaseModel]
ROWS = 4


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "opt"])
def test_models_that_attend_to_everything_can_be_recorded(tiny: MakeBase, kind: str) -> None:
    assert recordable(tiny(kind))


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text"])
def test_models_with_sliding_windows_are_never_recorded(tiny: MakeBase, kind: str) -> None:
    assert not recordable(tiny(kind))


def test_nothing_is_recorded_on_a_cpu(tiny: MakeBase) -> None:
    base = tiny("llama")
    assert isinstance(decode_step(base, VersionTable(base.model, find_targets(base.model))), LaunchedStep)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("own_stream", [False, True])
def test_a_graph_says_what_a_pass_over_the_whole_text_says_on_every_version(tiny: MakeBase, own_stream: bool) -> None:
    base = tiny("llama")
    base.model.to("cuda")  # type: ignore[arg-type]
    targets = find_targets(base.model)
    weights = {name: base.model.get_submodule(name).weight.detach() for name in targets.names}
    table = VersionTable(base.model, targets)
    table.install("v1", {name: w + 0.05 * torch.randn_like(w) for name, w in weights.items()})
    step = decode_step(base, table)
    assert isinstance(step, GraphedStep)
    layers = int(base.model.config.num_hidden_layers)
    with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream() if own_stream else torch.cuda.default_stream()):
        for version in (BASE, "v1", BASE):
            cache, rows = SlotCache(layers, ROWS, columns=16), list[list[int]]()  # so few that buffers move, and graphs with them
            for length in (3, 9, 14):
                table.route([version])
                prompt = tuple(range(3, 3 + length))
                reading = Reading(base, [prompt], [None])
                reading.read(length)
                cache.join(reading.cache, 0, length)
                rows.append([*prompt, 5])
                for _ in range(12):
                    logits = step.logits(cache, [row[-1] for row in rows], [version] * len(rows)).clone()
                    table.route([version])
                    for row, found in zip(rows, logits, strict=True):
                        alone = base.model(torch.tensor([row], device="cuda"), use_cache=False).logits[0, -1]
                        torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)
                        row.append(int(found.argmax()))
    assert step.recorded
