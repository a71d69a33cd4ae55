"""What two samples of a server's metrics say: as Prometheus would."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from service.sample import Sample, quantile, rate, read_sample


def test_rates_and_quantiles_are_of_what_happened_in_between() -> None:
    registry = CollectorRegistry()
    counter = Counter("infold_requests", "", ["finish_reason"], registry=registry)
    histogram = Histogram("infold_wait_seconds", "", registry=registry, buckets=(1, 2, 4))

    def sample(at: float) -> Sample:
        return Sample(at, read_sample(generate_latest(registry).decode()).values)

    counter.labels("stop").inc(100)
    histogram.observe(0.5)
    before = sample(1000)
    counter.labels("stop").inc(6)
    counter.labels("length").inc(4)
    for seconds in (1.5, 1.5, 3, 3):
        histogram.observe(seconds)
    after = sample(1005)
    assert rate(before, after, "infold_requests_total") == 2
    assert quantile(before, after, "infold_wait_seconds", 0.5) == pytest.approx(2)
    assert quantile(before, after, "infold_wait_seconds", 0.75) == pytest.approx(3)
    assert quantile(after, after, "infold_wait_seconds", 0.5) is None
    assert quantile(before, after, "infold_none", 0.5) is None
    histogram.observe(100)
    assert quantile(after, sample(1006), "infold_wait_seconds", 0.5) == 4
    assert rate(after, before, "infold_requests_total") == 0
