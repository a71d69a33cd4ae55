"""Every row of the table of architectures, on a real, tiny model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from adapters.base_model import BaseModel
from adapters.config import TargetConfig
from adapters.errors import UnsupportedArchitecture
from adapters.targets import DOWN_PROJECTIONS, find_targets
from adapters.workspace import Workspace

MakeBase = Callable[..., BaseModel]
KINDS = sorted(DOWN_PROJECTIONS)
EVERY = TargetConfig(last_layers=99)


def unknown_model() -> Any:
    config = AutoConfig.for_model("bloom", hidden_size=16, n_layer=2, n_head=2, vocab_size=64)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_of_the_table_has_one_linear_target_in_each_layer(kind: str, make_base: MakeBase) -> None:
    model = make_base(kind).model
    targets = find_targets(model, EVERY)
    assert len(targets.names) == model.config.num_hidden_layers
    assert all(isinstance(model.get_submodule(name), nn.Linear | Conv1D) for name in targets.names)
    assert targets.first_layer == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_leads_from_the_inner_width_to_the_hidden_width(kind: str, make_workspace: Callable[..., Workspace]) -> None:
    workspace = make_workspace(kind)
    hidden = workspace.base.model.config.hidden_size
    shapes = {tuple(weight.shape) for weight in workspace.base_weights.values()}
    assert shapes == {(hidden, 48)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("last", [1, 2, 3, 99])
def test_last_layers_are_counted_from_the_top(kind: str, last: int, make_base: MakeBase) -> None:
    model = make_base(kind).model
    every, top = find_targets(model, EVERY), find_targets(model, TargetConfig(last))
    assert top.names == every.names[-last:]
    assert top.first_layer == max(0, len(every.names) - last)


@pytest.mark.parametrize(("depth", "half"), [(1, 1), (2, 1), (3, 2), (4, 2)])
def test_the_upper_half_of_the_layers_may_change_unless_told_otherwise(depth: int, half: int, make_base: MakeBase) -> None:
    model = make_base("llama", num_hidden_layers=depth).model
    assert find_targets(model) == find_targets(model, TargetConfig(half))


def test_an_unknown_architecture_is_refused_with_the_linear_layers_that_it_has() -> None:
    model = unknown_model()
    with pytest.raises(UnsupportedArchitecture) as refusal:
        find_targets(model)
    message = str(refusal.value)
    assert "'bloom'" in message
    assert all(kind in message for kind in KINDS)
    assert "transformer.h.*.mlp.dense_4h_to_h" in message
    assert "transformer.h.1" not in message


def test_a_module_without_configuration_is_refused_by_its_class() -> None:
    with pytest.raises(UnsupportedArchitecture, match=r"'Sequential'.*found: none"):
        find_targets(nn.Sequential(nn.ReLU()))


def test_a_target_that_is_no_linear_layer_is_refused(make_base: MakeBase) -> None:
    model = make_base("llama").model
    model.model.layers[1].mlp.down_proj = nn.Bilinear(2, 2, 2)
    with pytest.raises(UnsupportedArchitecture, match=r"layers\.1\.mlp\.down_proj of this llama is Bilinear"):
        find_targets(model)


def test_finding_targets_changes_nothing(make_base: MakeBase) -> None:
    base = make_base("gpt2")
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    find_targets(base.model)
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())


def test_the_highest_targets_are_counted_from_the_top(make_base: MakeBase) -> None:
    model = make_base().model
    found = find_targets(model)
    assert found.highest(1) == find_targets(model, TargetConfig(last_layers=1))
    assert found.highest(len(found.names)) == found == found.highest(99)
