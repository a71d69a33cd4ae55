"""What is exported: names, units, and the version that is served."""

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics

PROMISED = (
    "learn_to_live_seconds",
    "update_operation_duration_seconds",
    "updates",
    "queue_depth",
    "queue_oldest_age_seconds",
    "dead_letters",
    "writer",
    "drift_kl_nats",
    "canary_accuracy_ratio",
    "retention_ratio",
    "rollbacks",
    "taylor_remainder_ratio",
    "tokens_kept_ratio",
    "decode_stall_seconds",
    "weight_version_info",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "e2e_request_latency_seconds",
    "num_requests_running",
    "num_requests_waiting",
    "prompt_tokens",
    "generation_tokens",
)
"""The design's section 3, and who writes.

The parser strips `_total`.
"""


def families(metrics: Metrics) -> dict[str, list[tuple[str, dict[str, str], float]]]:
    found = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return {family.name: [(s.name, s.labels, s.value) for s in family.samples] for family in found}


@pytest.mark.parametrize("name", PROMISED)
def test_every_promised_metric_is_exported_from_the_start(name: str) -> None:
    assert f"infold_{name}" in families(Metrics())


@pytest.mark.parametrize("operation", ["view", "score", "fold", "guard", "publish", "rollback"])
def test_every_stage_of_an_update_is_exported_before_the_first_update(operation: str) -> None:
    samples = families(Metrics())["infold_update_operation_duration_seconds"]
    assert any(labels.get("operation") == operation for _, labels, _ in samples)


def test_servers_of_one_process_do_not_share_their_metrics() -> None:
    one, other = Metrics(), Metrics()
    one.prompt_tokens.inc(5)
    assert ("infold_prompt_tokens_total", {}, 0.0) in families(other)["infold_prompt_tokens"]


def test_only_the_version_that_is_served_is_shown() -> None:
    metrics = Metrics()
    metrics.show_version("default", "v1", None)
    metrics.show_version("other", "v7", None)
    metrics.show_version("default", "v2", None)
    shown = [labels for _, labels, value in families(metrics)["infold_weight_version_info"] if value == 1]
    assert sorted((labels["namespace"], labels["version"]) for labels in shown) == [("default", "v2"), ("other", "v7")]


def test_showing_the_same_version_again_keeps_it() -> None:
    metrics = Metrics()
    metrics.show_version("default", "v1", None)
    metrics.show_version("default", "v1", None)
    assert len(families(metrics)["infold_weight_version_info"]) == 1


def test_what_is_counted_of_a_namespace_is_counted_from_the_start() -> None:
    shown = families(Metrics(["default", "other"]))
    for namespace in ("default", "other"):
        for name in ("updates", "rollbacks"):
            values = [value for _, labels, value in shown[f"infold_{name}"] if labels.get("namespace") == namespace]
            assert values, name
            assert set(values) == {0}
        assert ("infold_learn_to_live_seconds_count", {"namespace": namespace}, 0.0) in shown["infold_learn_to_live_seconds"]


def test_what_was_measured_of_the_served_version_is_shown_with_it_and_stays_if_the_next_was_not_probed() -> None:
    metrics = Metrics(["default"])
    assert not families(metrics)["infold_drift_kl_nats"]
    for version, measured in (("v1", {"kl": 0.25, "retained": 0.5}), ("v2", None)):
        metrics.show_version("default", version, measured)
        shown = families(metrics)
        assert shown["infold_drift_kl_nats"] == [("infold_drift_kl_nats", {"namespace": "default", "probe": "held_out"}, 0.25)]
        assert shown["infold_retention_ratio"] == [("infold_retention_ratio", {"namespace": "default"}, 0.5)]
