"""Under fire: server, worker and store are killed at random moments, hundreds of times, while documents and questions come.

In the end every accepted document was learned exactly once, versions form one chain, nothing unfinished is left, and every answer
that was given came from a version that was published, and is what that version answers.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from conftest import Taught
from serving import COMMAND, Http, each_learned_once, eventually, finals, free_port, shut_down_valkey, valkey_of, valkey_pid

from adapters.demo.world import World, document, question
from service import keys

DOCUMENTS = KILLS = int(os.environ.get("CHAOS_KILLS", "300"))
"""Both; fewer for a first look."""
SEED = 17
AWAY = (httpx2.TransportError, redis.ConnectionError, redis.BusyLoadingError)
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "INFOLD_MAX_ATTEMPTS": "1000"}
"""A kill counts as an attempt, for the document may be what kills; here it is not."""


class Fleet:
    """A server, a worker and their store; what dies is started again."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir, self.rng = data_dir, random.Random(SEED)
        self.port, self.kills, self.stopping = free_port(), dict.fromkeys(("server", "worker", "store", "connections"), 0), False
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.logs = {name: (data_dir.with_name(f"{name}.log")).open("ab") for name in ("server", "worker")}
        self.keep_up()

    def keep_up(self) -> None:
        """Start what does not run."""
        where = ["--data-dir", str(self.data_dir)]
        commands = {"server": ["serve", *where, "--port", str(self.port), "--learner", "elsewhere"], "worker": ["worker", *where]}
        for name, command in commands.items():
            if name not in self.processes or self.processes[name].poll() is not None:
                self.processes[name] = subprocess.Popen(
                    [str(COMMAND), *command], stdout=self.logs[name], stderr=self.logs[name], start_new_session=True,
                    env=os.environ | ENVIRONMENT,
                )  # fmt: skip

    def kill(self, name: str) -> None:
        """Kill -9; what it was writing may be torn."""
        with suppress(*AWAY, ProcessLookupError):
            if name == "store":
                os.kill(valkey_pid(self.data_dir), signal.SIGKILL)
                self.tear_log()
            elif name == "connections":
                with valkey_of(self.data_dir) as store:
                    store.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            else:
                self.processes[name].kill()
                self.processes[name].wait()
                if name == "worker":
                    self.tear_version()
            self.kills[name] += 1

    def tear_log(self) -> None:
        """As if the store had died in the middle of a command that it had not answered."""
        for log in sorted(self.data_dir.glob("valkey/appendonlydir/*.incr.aof"))[-1:]:
            with log.open("ab") as file:
                file.write(b"*3\r\n$3\r\nSET\r\n$9\r\nnobo")

    def tear_version(self) -> None:
        """Cut what is unfinished in half."""
        for path in self.data_dir.glob("versions/.writing-*/*"):
            with suppress(FileNotFoundError):
                os.truncate(path, path.stat().st_size // 2)

    def learns(self) -> bool:
        """Whether a worker holds the namespace."""
        with suppress(*AWAY), valkey_of(self.data_dir) as store:
            return self.processes["worker"].poll() is None and store.exists(keys.writer("default")) == 1
        return False

    def redeliver(self, jobs: list[dict[str, Any]]) -> None:
        """Put a job into the queue once more."""
        with suppress(*AWAY), valkey_of(self.data_dir) as store:
            if jobs:
                store.xadd(keys.jobs("default"), {"job": self.rng.choice(jobs)["job_id"]})

    def remove(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        shut_down_valkey(self.data_dir)
        for log in self.logs.values():
            log.close()


class Client(threading.Thread):
    """Posts documents and asks questions as long as it may, whoever is dead at the moment."""

    def __init__(self, fleet: Fleet, facts: list[Taught]) -> None:
        super().__init__(daemon=True)
        self.fleet, self.facts = fleet, facts
        self.http = Http(f"http://127.0.0.1:{fleet.port}")
        self.jobs: list[dict[str, Any]] = []
        self.answers: list[tuple[str, str, str]] = []
        """Prompt, version, text."""

    def run(self) -> None:
        rng = random.Random(SEED + 1)
        while len(self.jobs) < len(self.facts) and not self.fleet.stopping:
            with suppress(*AWAY):
                killed = sum(self.fleet.kills.values())
                if len(self.jobs) * KILLS <= killed * len(self.facts):
                    fact = self.facts[len(self.jobs)]
                    answer = self.http.learn(text=fact.text, id=f"doc-{len(self.jobs):03}")
                    if answer.status_code == 202:
                        self.jobs += answer.json()["jobs"]
                else:
                    prompt = rng.choice(self.facts[: len(self.jobs) + 1]).prompt
                    found = self.http.post("/generate", json={"prompt": prompt, "max_new_tokens": 8})
                    if found.status_code == 200:
                        self.answers.append((prompt, found.json()["version"], found.json()["text"]))
            self.fleet_pause(rng)

    def fleet_pause(self, rng: random.Random) -> None:
        """Clients are not all there is to do on two cores."""
        threading.Event().wait(rng.uniform(0.0, 0.2))


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_every_document_is_learned_exactly_once_whatever_is_killed(tmp_path: Path) -> None:
    rng, world = random.Random(SEED), World(SEED, new=DOCUMENTS)
    facts = [Taught(document(rng, [f], 0), f"Q: {question(f)} A:", f" {f.object}.") for f in world.one_fact_each[:DOCUMENTS]]
    fleet = Fleet(tmp_path / "data")
    client = Client(fleet, facts)
    try:
        client.start()
        while sum(fleet.kills[name] for name in ("server", "worker", "store")) < KILLS or client.is_alive():
            if fleet.rng.random() < 0.7:  # else while something still starts
                eventually(lambda: answers(client.http) and fleet.learns(), 300)
            time.sleep(fleet.rng.expovariate(1.0))
            fleet.kill(fleet.rng.choice(("server", "worker", "worker", "store", "store", "connections")))
            if fleet.rng.random() < 0.2:
                fleet.redeliver(client.jobs)
            fleet.keep_up()
        sys.stderr.write(f"{fleet.kills}, {len(client.answers)} answers\n")
        http = client.http
        eventually(lambda: answers(http) and fleet.learns(), 120)
        assert len(client.jobs) == DOCUMENTS
        ended = eventually(lambda: finals(http, client.jobs), 1800) or []
        last = max((job["version"] for job in ended), key=lambda name: int(name[1:]))
        eventually(lambda: http.live() == last)  # it hears of it a moment later
        each_learned_once(http, client.jobs)
        published = {version["version"] for version in http.versions()}
        assert {version for _, version, _ in client.answers} <= published
        for prompt, version, text in rng.sample(client.answers, min(100, len(client.answers))):
            again = http.generate(prompt, version=version, max_new_tokens=8)
            assert again["text"] == text, "the version has changed since it answered"
        assert not list((tmp_path / "data").rglob(".writing-*")), "what is unfinished is removed by whoever comes next"
        assert http.get("/dead-letters").json()["total"] == 0
        with valkey_of(tmp_path / "data") as store:
            assert eventually(lambda: store.xlen(keys.jobs("default")) == 0)
    finally:
        fleet.stopping = True
        client.join(60)
        client.http.close()
        fleet.remove()


def answers(http: Http) -> bool:
    with suppress(httpx2.TransportError):
        return http.get("/readyz").status_code == 200
    return False
