"""`infold top`: the queue, the versions, drift, throughput and latency of a server, live."""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Annotated, Any

import typer
from rich.columns import Columns
from rich.console import Group
from rich.live import Live
from rich.markup import escape

from infold import Client, Unavailable, UnexpectedAnswer, Unreachable, Version
from service.commands.common import LOCAL, AsJson, Key, Namespace, Url, in_words, out, print_json, print_wide, server, table
from service.sample import Sample, quantile, rate, read_sample

app = typer.Typer()
LATENCIES = {
    "learn to live": "infold_learn_to_live_seconds",
    "first token": "infold_time_to_first_token_seconds",
    "between tokens": "infold_inter_token_latency_seconds",
    "whole answer": "infold_e2e_request_latency_seconds",
    "decode stall": "infold_decode_stall_seconds",
}
RATES = {
    "tokens written": "infold_generation_tokens_total",
    "tokens read": "infold_prompt_tokens_total",
    "requests": "infold_requests_total",
    "documents": "infold_updates_total",
}
LATEST = 5


@app.command()
def top(
    url: Url = LOCAL,
    api_key: Key = None,
    namespace: Namespace = None,
    interval: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between looks.")] = 2,
    once: Annotated[bool, typer.Option("--once", help="Look once: rates and latencies since the server started.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch a server; q or Ctrl-C ends. With --json, an object a look."""
    live = None if once or as_json or not out.is_terminal else Live(console=out, screen=True, auto_refresh=False)
    with server(url, api_key) as client, suppress(KeyboardInterrupt), _keys() as key, live or nullcontext():
        now, found = _look(client, namespace)
        seen = show(now.start, now, found)
        while True:
            if as_json:
                print_json(seen)
            elif live is not None:
                live.update(_drawn(seen), refresh=True)
            else:
                print_wide(_drawn(seen))
            if once or (live is None and not as_json) or key(interval) in ("q", "Q"):
                return
            try:
                before, (now, found) = now, _look(client, namespace)
                seen = show(before, now, found)
            except (Unreachable, Unavailable) as error:  # it may come back
                seen = {**seen, "error": in_words(error)}


def _look(client: Client, namespace: str | None) -> tuple[Sample, list[Version]]:
    versions = client.versions(namespace=namespace)
    try:
        return read_sample(client.metrics()), versions
    except ValueError as error:
        raise UnexpectedAnswer(f"what answers at {client.url}/metrics are no metrics: {error}") from error


def show(before: Sample, now: Sample, versions: list[Version]) -> dict[str, Any]:
    """What is to be seen, as JSON: gauges as they are, the rest over the time between two samples."""
    live = {
        dict(labels)["namespace"]: dict(labels)["version"] for name, labels in now.values if name == "infold_weight_version_info"
    }
    oldest, dead, canaries = (
        now.by(name, "namespace")
        for name in ("infold_queue_oldest_age_seconds", "infold_dead_letters", "infold_canary_accuracy_ratio")
    )
    queues = [
        {"namespace": name, "version": live.get(name), "queued": int(depth), "oldest_seconds": oldest.get(name, 0.0)}
        | {"dead_letters": int(dead.get(name, 0)), "canaries": canaries.get(name)}
        for name, depth in sorted(now.by("infold_queue_depth", "namespace").items(), key=lambda one: -one[1])
    ]
    latency = {
        what: {f"p{int(100 * share)}": quantile(before, now, name, share) for share in (0.5, 0.95, 0.99)}
        for what, name in LATENCIES.items()
    }
    latest = [
        {"version": v.version, "live": v.live, "documents": v.documents, "drift": v.drift and v.drift.get("kl")}
        for v in reversed(versions)
    ]
    return {
        "seconds": now.at - before.at,
        "redis_up": bool(now.get("infold_redis_up")),
        "running": int(now.total("infold_num_requests_running")),
        "waiting": int(now.total("infold_num_requests_waiting")),
        "drift_kl_nats": now.by("infold_drift_kl_nats", "probe"),
        "retention": now.get("infold_retention_ratio"),
        "updates": {result: int(count) for result, count in now.by("infold_updates_total", "result").items()},
        "per_second": {what: rate(before, now, name) for what, name in RATES.items()},
        "latency_seconds": latency,
        "namespaces": queues,
        "versions": latest[:LATEST],
    }


def _drawn(seen: dict[str, Any]) -> Group:
    queues = table("namespace", "answers", "queued", "oldest", "dead letters", "canaries", title="queue")
    for q in seen["namespaces"]:
        canaries = "" if q["canaries"] is None else f"{q['canaries']:.0%}"
        queues.add_row(
            q["namespace"], q["version"] or "", str(q["queued"]), f"{q['oldest_seconds']:.0f} s", str(q["dead_letters"]), canaries
        )
    versions = table("version", "documents", "drift (nats)", title="versions")
    for v in seen["versions"]:
        drift = "" if v["drift"] is None else f"{v['drift']:.5f}"
        versions.add_row(v["version"] + (" (live)" if v["live"] else ""), escape(", ".join(v["documents"])), drift)
    rates = table("", "a second", title="throughput")
    for what, number in seen["per_second"].items():
        rates.add_row(what, f"{number:.2f}")
    latency = table("", "p50", "p95", "p99", title="latency")
    for what, shares in seen["latency_seconds"].items():
        latency.add_row(what, *("" if s is None else f"{1000 * s:.1f} ms" for s in shares.values()))
    drift = ", ".join(f"{probe.replace('_', ' ')} {kl:.5f} nats" for probe, kl in seen["drift_kl_nats"].items())
    first = f"{seen['running']} running, {seen['waiting']} waiting; drift: {drift or 'none'}; over {seen['seconds']:.0f} s"
    if not seen["redis_up"]:
        first += "; [red]Redis does not answer[/red]"
    if "error" in seen:
        first = f"[red]{escape(seen['error'])}[/red]"
    return Group(first, Columns([rates, latency]), versions, queues)  # what can be long comes last: a screen is cut off below


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Waits so many seconds for a key, where there is a keyboard."""
    if not sys.stdin.isatty():
        yield _sleep
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield lambda seconds: os.read(terminal, 1).decode("latin-1") if select.select([terminal], [], [], seconds)[0] else ""
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _sleep(seconds: float) -> str:
    time.sleep(seconds)
    return ""
