"""Settings: sane by default, frozen, and refused outside their ranges."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, is_dataclass, replace
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from adapters import config
from adapters.config import (
    CurvatureConfig,
    FoldConfig,
    GuardConfig,
    LearnConfig,
    ReflectionConfig,
    TargetConfig,
    ViewConfig,
    WeighConfig,
)
from adapters.errors import AdapterError, InvalidConfig

BAD: list[tuple[Callable[..., Any], dict[str, float], str]] = [
    (TargetConfig, {"last_layers": 0}, "targets.last_layers"),
    (CurvatureConfig, {"samples": 0}, "curvature"),
    (CurvatureConfig, {"held_out": 0}, "curvature"),
    (CurvatureConfig, {"length": 1}, "curvature.length"),
    (CurvatureConfig, {"batch": 0}, "curvature.batch"),
    (ViewConfig, {"count": -1}, "views.count"),
    (ViewConfig, {"max_new_tokens": 0}, "views.max_new_tokens"),
    (ViewConfig, {"temperature": 0}, "views.temperature"),
    (ViewConfig, {"plausible": 1}, "views.plausible"),
    (ViewConfig, {"plausible": -0.1}, "views.plausible"),
    (WeighConfig, {"threshold": 1}, "weigh.threshold"),
    (WeighConfig, {"threshold": -0.1}, "weigh.threshold"),
    (FoldConfig, {"input_damping": 0}, "fold dampings"),
    (FoldConfig, {"output_damping": 0}, "fold dampings"),
    (FoldConfig, {"iterations": 0}, "fold.iterations"),
    (FoldConfig, {"kl_budget": 0}, "fold.kl_budget"),
    (FoldConfig, {"kl_budget": float("nan")}, "fold.kl_budget"),
    (FoldConfig, {"target_nll": 0}, "fold.target_nll"),
    (FoldConfig, {"required_nll": 0}, "fold.required_nll"),
    (FoldConfig, {"backtracks": -1}, "fold.backtracks"),
    (FoldConfig, {"keep": 1}, "fold.keep"),
    (FoldConfig, {"singular": 1}, "fold.singular"),
    (FoldConfig, {"raw_iterations": 0}, "fold.raw_iterations"),
    (ReflectionConfig, {"recalled": -1}, "reflection.recalled"),
    (GuardConfig, {"probes": 0}, "guard.probes"),
    (GuardConfig, {"raw_probes": 0}, "guard.raw_probes"),
    (GuardConfig, {"kl_step": 0}, "guard budgets"),
    (GuardConfig, {"kl_total": 0}, "guard budgets"),
    (GuardConfig, {"retention_loss": 1.5}, "guard.retention_loss"),
]


@pytest.mark.parametrize(("kind", "values", "name"), BAD, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_value_outside_its_range_is_refused(kind: Callable[..., Any], values: dict[str, float], name: str) -> None:
    with pytest.raises(InvalidConfig) as refusal:
        kind(**values)
    assert isinstance(refusal.value, AdapterError)
    assert isinstance(refusal.value, ValueError)
    assert name in str(refusal.value)


def test_the_defaults_are_in_range() -> None:
    assert LearnConfig() == LearnConfig()


def test_settings_cannot_be_changed_after_they_were_checked() -> None:
    with pytest.raises(FrozenInstanceError):
        FoldConfig().kl_budget = -1  # type: ignore[misc]
    with pytest.raises(InvalidConfig):
        replace(FoldConfig(), kl_budget=-1)


@pytest.mark.parametrize("values", [{"fold": {"iteration": 3}}, {"folds": {}}])
def test_a_misspelt_key_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"iteration|folds"):
        TypeAdapter(LearnConfig).validate_python(values)


def test_settings_are_read_from_a_mapping() -> None:
    read = TypeAdapter(LearnConfig).validate_python({"fold": {"iterations": 3}, "targets": {"last_layers": 2}})
    assert read == LearnConfig(fold=FoldConfig(iterations=3), targets=TargetConfig(2))


def test_every_settings_class_forbids_unknown_keys() -> None:
    classes = [value for value in vars(config).values() if isinstance(value, type) and is_dataclass(value)]
    assert LearnConfig in classes
    assert all(cls.__pydantic_config__ == {"extra": "forbid"} for cls in classes)  # type: ignore[attr-defined]
