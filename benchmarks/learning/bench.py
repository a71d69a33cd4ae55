"""Do the runs of a plan, several processes at a time, and keep what comes out.

Covered: progress, resuming, one fresh process for each run. Not covered: which runs (`plan.py`), what becomes of them
(`report.py`).
"""

import multiprocessing
import time
from collections.abc import MutableMapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

from rich.progress import Progress

from benchmarks.learning.plan import Plan
from benchmarks.learning.protocol import Outcome, Run, perform
from benchmarks.learning.results import Results

POLL_SECONDS = 0.5


def bench(plan: Plan, results: Results, cache: Path, jobs: int, progress: Progress) -> None:
    """Do what of `plan` was not done yet."""
    with multiprocessing.Manager() as shared:
        shares: MutableMapping[int, float] = shared.dict()
        for name, runs in plan.phases(results):
            _phase(name, [run for run in runs if results.of(run) is None], results, cache, jobs, progress, shares)


def _phase(
    name: str,
    runs: list[Run],
    results: Results,
    cache: Path,
    jobs: int,
    progress: Progress,
    shares: MutableMapping[int, float],
) -> None:
    if not runs:
        return
    shares.clear()
    bar = progress.add_task(name, total=float(sum(run.documents for run in runs)))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(_perform, run, cache, index, shares) for index, run in enumerate(runs)}
        while waiting:
            done, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
            for future in done:
                results.add(future.result())
            progress.update(bar, completed=sum(share * runs[index].documents for index, share in shares.items()))


def _perform(run: Run, cache: Path, index: int, shares: MutableMapping[int, float]) -> Outcome:
    """In a process of its own."""
    reported = [0.0]

    def report(share: float) -> None:
        if time.monotonic() - reported[0] > POLL_SECONDS or share == 1.0:
            reported[0] = time.monotonic()
            shares[index] = share

    return perform(run, cache, report)
