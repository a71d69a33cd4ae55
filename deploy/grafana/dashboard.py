"""The Grafana dashboards as code: `python deploy/grafana/dashboard.py [DIRECTORY]` writes them all, by default into `dashboards/`.

Covered: which dashboards there are. Not covered: each of them (a file of its own), alerts (`../prometheus/alerts.yml`), and how
Grafana finds the files (`provisioning/`).
"""

import sys
from pathlib import Path

import drift
import learning
import overview
from grafana_foundation_sdk.cog.encoder import JSONEncoder

DASHBOARDS = {"overview": overview, "learning": learning, "drift": drift}
"""By file."""


def render(name: str) -> str:
    """One dashboard's file."""
    return JSONEncoder(sort_keys=True, indent=2).encode(DASHBOARDS[name].dashboard().build()) + "\n"


if __name__ == "__main__":
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "dashboards"
    for name in DASHBOARDS:
        (directory / f"{name}.json").write_text(render(name))
