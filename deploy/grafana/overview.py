"""The dashboard *Overview*: is what is posted learned, how fast, and how do those fare who are being answered.

Covered: the service as its users see it, and its process. Not covered: why learning is slow (`learning.py`), what it costs the
model (`drift.py`).
"""

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models import units
from panels import GREEN, LEARNING, NAMESPACE, ORANGE, OURS, PLAIN, QUARTER, RED, Panel, board, graph, quantiles, rate, stat, words
from shared import dead_letters, drift, live_in_time, outcomes, served_versions, update_latency


def headline() -> list[Panel]:
    """The two numbers that matter, and what would make someone get up."""
    served = "max by (namespace) (infold_queue_depth)"
    firing = 'count(ALERTS{alertname=~"Infold.*", alertstate="firing"}) or vector(0)'
    return [
        update_latency(),
        drift(),
        live_in_time(4),
        outcomes(8),
        stat(
            "Alerts", "Firing now; Prometheus' page /alerts says which, and docs/runbook.md what to do about each.",
            units.Short, firing, 3, ((None, GREEN), (1, RED)),
        ),
        dead_letters(3),
        words(
            stat(
                "Redis",
                "up while the job queue answers. Down: /learn answers 503 and /generate goes on; start Redis or mend the network, "
                "and learning resumes where it stopped.",
                units.Short, "min(infold_redis_up)", 3, ((None, RED), (1, GREEN)),
            ),
            down="down", up="up",
        ),
        stat(
            "Without a writer",
            "Namespaces that no worker holds the lease of: what is posted to them waits. A server takes it once its curvature is "
            "loaded or measured; with `--learner elsewhere` start `infold worker`, and let Prometheus scrape its --metrics-port.",
            units.Short, f"count({served}) - (count(max by (namespace) (infold_writer) == 1) or vector(0))", 3,
            ((None, GREEN), (1, RED)),
        ),
    ]  # fmt: skip


def requests() -> list[Panel]:
    """How requests fare while it learns."""
    finished = f"sum by (finish_reason) ({rate('infold_requests_total')})"
    return [
        graph(
            "Time to first token",
            "From accepting a request to its first token. High with requests waiting: all slots are taken. High without: "
            "long prompts, or a quantum of learning (decode stalls).",
            units.Seconds, quantiles("infold_time_to_first_token_seconds", 0.5, 0.99), bad=((1, ORANGE), (5, RED)),
        ),
        graph(
            "Between tokens",
            "From one token of a request to its next. Rises with the batch (running requests), with prompts read beside it, "
            "and with learning (decode stalls).",
            units.Seconds, quantiles("infold_inter_token_latency_seconds", 0.5, 0.99), bad=((0.1, ORANGE), (0.5, RED)),
        ),
        graph(
            "Whole request",
            "From accepting a request to its last token. Grows with the tokens asked for: compare time to first token and between "
            "tokens before blaming the server.",
            units.Seconds, quantiles("infold_e2e_request_latency_seconds", 0.5, 0.99), bad=((10, ORANGE), (60, RED)),
        ),
        graph(
            "Decode stalls",
            "Waits of a decode step for a quantum of learning. Above 100 ms readers notice: a larger GPU, fewer views, or "
            "learning at quiet hours.",
            units.Seconds, quantiles("infold_decode_stall_seconds", 0.5, 0.99), QUARTER, ((0.1, ORANGE), (0.5, RED)),
        ),
        graph(
            "Requests",
            "Running requests hold a slot (INFOLD_SLOTS, 32); waiting ones do not yet. Waiting for long: add slots if memory "
            "allows, else send fewer requests.",
            units.Short, {"running": "sum(infold_num_requests_running)", "waiting": "sum(infold_num_requests_waiting)"}, QUARTER,
        ),
        graph(
            "Tokens per second",
            "Prompt tokens read, those of them that were known already, and tokens written. Written ones falling with the same "
            "requests running: learning or another process takes the cores.",
            units.Short,
            {
                "prompt": f"sum({rate('infold_prompt_tokens_total')})",
                "known already": f"sum({rate('infold_prefix_cache_hit_tokens_total')})",
                "generation": f"sum({rate('infold_generation_tokens_total')})",
            },
            QUARTER,
        ),
        graph(
            "Finished requests",
            "By why they ended. error: see the server's log. Many cancelled: clients give up, see the latencies. Mostly length: "
            "max_new_tokens cuts answers short.",
            units.RequestsPerSecond, {"{{finish_reason}}": finished}, QUARTER,
        ),
    ]  # fmt: skip


def versions() -> list[Panel]:
    """What answers, and from where."""
    published = rate("infold_updates_total", LEARNING, f'result="succeeded", {NAMESPACE}')
    return [
        served_versions(),
        graph(
            "Versions per minute",
            "Updates that were published. None while documents come in: see what became of them (Documents), and whether the queue "
            "moves (dashboard Learning).",
            units.Short, {"{{namespace}}": f"60 * sum by (namespace) ({published})"},
        ),
        graph(
            "Resident versions",
            "Versions in memory beside the base model. At INFOLD_RESIDENT_VERSIONS (4) the longest unused is dropped, and a "
            "request for it waits until it is rebuilt from disk; raise it if clients pin many versions and memory allows.",
            units.Short, {"{{instance}}": "max by (instance) (infold_resident_versions)"},
        ),
    ]  # fmt: skip


def process() -> list[Panel]:
    """What the server takes from the machine."""
    opened = f"max(process_open_fds{{{OURS}}} / process_max_fds{{{OURS}}})"
    return [
        graph(
            "Memory",
            "Resident memory of the server. Grows with resident versions and running requests, and stays level otherwise; "
            "steady growth is a fault worth reporting.",
            units.BytesIEC, {"{{instance}}": f"process_resident_memory_bytes{{{OURS}}}"},
        ),
        graph(
            "CPU",
            "Cores in use. At the machine's limit, learning and decoding slow each other down.",
            units.Short, {"{{instance}}": rate("process_cpu_seconds_total", where=OURS)},
        ),
        stat(
            "Open files", "Of those allowed. Near one: connections leak or the limit is low; raise `ulimit -n`.",
            units.PercentUnit, opened, 4, ((None, GREEN), (0.7, ORANGE), (0.9, RED)), 8,
        ),
        stat(
            "Up for", "Shorter than you expect: it was restarted; every accepted document is still learned exactly once.",
            units.Seconds, f"time() - max(process_start_time_seconds{{{OURS}}})", 4, ((None, PLAIN),), 8,
        ),
    ]  # fmt: skip


def dashboard() -> Dashboard:
    """All rows."""
    rows = {"Headline": headline(), "Requests": requests(), "Versions": versions(), "Process": process()}
    return board("infold", "infold", "An LLM server that keeps learning while it serves: the whole of it at a glance.", rows)
