"""Every Prometheus metric, declared once. Base units, bounded labels; request metrics with vLLM's stems and buckets."""

import math
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2.5, 5, 10, 30, 60, 120, 300)
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
_BETWEEN_TOKENS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
_END_TO_END = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240)
_STALLS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1)
_REMAINDERS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """One server's metrics, on a registry of their own, so that several servers fit into one process."""

    def __init__(self, namespaces: Sequence[str] = ()) -> None:
        """namespaces: counted for from the first scrape on; what is measured of versions is shown once one answers."""
        self.registry = r = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=r)
        PlatformCollector(registry=r)
        GCCollector(registry=r)

        self.learn_to_live = Histogram(
            "infold_learn_to_live_seconds", "From accepting a document to serving it.", ["namespace"], registry=r, buckets=_SECONDS
        )
        self.operation = Histogram(
            "infold_update_operation_duration_seconds", "Stages of an update.", ["operation"], registry=r, buckets=_SECONDS
        )
        self.updates = Counter("infold_updates", "Documents by outcome.", ["namespace", "result"], registry=r)
        self.tokens_kept = Histogram(
            "infold_tokens_kept_ratio", "Tokens with a weight, of those read.", registry=r, buckets=_SHARES
        )
        self.taylor_remainder = Histogram(
            "infold_taylor_remainder_ratio",
            "|actual - predicted| / |predicted| change of the loss.",
            registry=r,
            buckets=_REMAINDERS,
        )
        self.drift = Gauge(
            "infold_drift_kl_nats",
            "KL from the base model, per token, of the version served, or learned in its shadow since.",
            ["namespace", "probe"],
            registry=r,
        )
        self.canary_accuracy = Gauge(
            "infold_canary_accuracy_ratio", "Canaries that the live version answers as it must.", ["namespace"], registry=r
        )
        self.rollbacks = Counter("infold_rollbacks", "Aliases moved back.", ["namespace", "reason"], registry=r)
        self.retention = Gauge(
            "infold_retention_ratio", "Earlier documents asked that this version still answers.", ["namespace"], registry=r
        )

        self.queue_depth = Gauge("infold_queue_depth", "Jobs queued or running.", ["namespace"], registry=r)
        self.queue_oldest_age = Gauge("infold_queue_oldest_age_seconds", "Age of the oldest of them.", ["namespace"], registry=r)
        self.dead_letters = Gauge("infold_dead_letters", "Jobs given up.", ["namespace"], registry=r)
        self.writer = Gauge(
            "infold_writer", "1 while this process holds the lease to write the namespace.", ["namespace"], registry=r
        )
        self.redis_up = Gauge("infold_redis_up", "1 while Redis answers.", registry=r)
        self.redis_up.set(math.nan)  # not asked yet is not down
        self.version_info = Gauge("infold_weight_version_info", "1 for the version served.", ["namespace", "version"], registry=r)
        self.resident_versions = Gauge("infold_resident_versions", "Versions in memory beside the base model.", registry=r)

        self.first_token = Histogram("infold_time_to_first_token_seconds", "Of requests.", registry=r, buckets=_FIRST_TOKEN)
        self.between_tokens = Histogram("infold_inter_token_latency_seconds", "Of requests.", registry=r, buckets=_BETWEEN_TOKENS)
        self.end_to_end = Histogram("infold_e2e_request_latency_seconds", "Of requests.", registry=r, buckets=_END_TO_END)
        self.decode_stall = Histogram(
            "infold_decode_stall_seconds",
            "Waits of a decode step for a quantum of learning; none where both have cores of their own.",
            registry=r,
            buckets=_STALLS,
        )
        self.requests_running = Gauge("infold_num_requests_running", "Requests that hold a slot.", registry=r)
        self.requests_waiting = Gauge("infold_num_requests_waiting", "Requests that wait for one.", registry=r)
        self.requests = Counter("infold_requests", "Requests by how they ended.", ["finish_reason"], registry=r)
        self.prompt_tokens = Counter("infold_prompt_tokens", "Tokens of prompts.", registry=r)
        self.prefix_tokens = Counter("infold_prefix_cache_hit_tokens", "Those of them that were known already.", registry=r)
        self.generation_tokens = Counter("infold_generation_tokens", "Tokens written.", registry=r)
        self._shown: dict[str, str] = {}
        for operation in ("view", "score", "fold", "guard", "publish", "rollback", "forget"):
            self.operation.labels(operation)
        for reason in ("stop", "length", "cancelled", "error"):
            self.requests.labels(reason)
        for namespace in namespaces:
            self._show_from_the_start(namespace)

    def _show_from_the_start(self, namespace: str) -> None:
        self.learn_to_live.labels(namespace)
        for result in ("succeeded", "unchanged", "rejected", "failed", "forgotten"):
            self.updates.labels(namespace, result)
        for reason in ("operator", "canaries"):
            self.rollbacks.labels(namespace, reason)

    def show_probes(self, namespace: str, measured: Mapping[str, float] | None) -> None:
        """Export what was measured of a version; None: nothing was, and what was measured before it stays."""
        if measured is not None:
            self.drift.labels(namespace, "held_out").set(measured["kl"])
            self.retention.labels(namespace).set(measured["retained"])

    def show_version(self, namespace: str, version: str, measured: Mapping[str, float] | None) -> None:
        """Export `version` as the one served, instead of the one before, and what was measured of it."""
        self.show_probes(namespace, measured)
        before, self._shown[namespace] = self._shown.get(namespace), version
        self.version_info.labels(namespace, version).set(1)  # first, so that no scrape finds none
        if before not in (None, version):
            self.version_info.remove(namespace, before)
