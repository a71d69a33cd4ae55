"""Samples of a server's metrics: its gauges at one moment, and what happened between two.

Covered: Prometheus' text, rates, quantiles of histograms. Not covered: fetching it, showing it (`commands/top.py`).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Sample:
    """All values at one moment."""

    at: float
    """Seconds since 1970."""
    values: Mapping[tuple[str, Labels], float] = field(default_factory=dict)

    def get(self, name: str, **labels: str) -> float | None:
        """One value, or nothing if it has not been measured."""
        return self.values.get((name, frozenset(labels.items())))

    def total(self, name: str) -> float:
        """Over all labels."""
        return sum(value for (found, _), value in self.values.items() if found == name)

    def by(self, name: str, label: str) -> dict[str, float]:
        """Values by one label."""
        return {dict(labels)[label]: value for (found, labels), value in self.values.items() if found == name}

    @property
    def start(self) -> "Sample":
        """As it was when the server started: nothing had happened."""
        return Sample(self.get("process_start_time_seconds") or self.at)


def read_sample(text: str) -> Sample:
    """A sample from Prometheus' text. Raises ValueError."""
    families = text_string_to_metric_families(text)
    return Sample(time.time(), {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples})


def rate(before: Sample, after: Sample, name: str) -> float:
    """Of a counter, a second."""
    grown = after.total(name) - before.total(name)
    return max(0.0, grown) / max(1e-6, after.at - before.at)  # a server that was started again counts from 0


def quantile(before: Sample, after: Sample, name: str, share: float) -> float | None:
    """Of what a histogram saw between two samples, as Prometheus reckons it; None: it saw nothing."""
    counts = {float(le): count for le, count in after.by(f"{name}_bucket", "le").items()}
    earlier = {float(le): count for le, count in before.by(f"{name}_bucket", "le").items()}
    edges = sorted(counts)
    grown = [counts[edge] - earlier.get(edge, 0) for edge in edges]
    if not grown or grown[-1] <= 0:
        return None
    rank = share * grown[-1]
    place = next(i for i, count in enumerate(grown) if count >= rank)
    if edges[place] == float("inf"):
        return edges[place - 1] if place else None
    low, below = (edges[place - 1], grown[place - 1]) if place else (0.0, 0.0)
    within = grown[place] - below
    return low + (edges[place] - low) * ((rank - below) / within if within else 1.0)
