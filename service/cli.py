"""The command line: `infold serve | worker | train-scorer | doctor`, what `commands/` says to a server, and `infold bench`.

Answers go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 failed, 2 misused, 3 no server
answers.
"""

import asyncio
import json
import logging
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.markup import escape
from rich.progress import Progress

from infold import __version__
from service.bench import bench
from service.commands import answers, canaries, chat, dead_letters, documents, export, keys, learn, top, versions
from service.commands.common import FAILED, AsJson, err, out, print_json, reported
from service.errors import ServiceError
from service.settings import Settings, load_settings

app = typer.Typer(
    epilog="Exit codes: 0 done, 1 failed, 2 misused, 3 no server answers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(bench, name="bench")
for noun in (learn, documents, answers, chat, top, versions, export, canaries, dead_letters, keys):
    app.add_typer(noun.app)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"infold {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which one this is.")] = False,
) -> None:
    """infold: an LLM server that keeps learning while it serves."""


Model = Annotated[str | None, typer.Argument(help="Hub id or local path; none: the demo model that ships.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or auto.")]
Views = Annotated[int | None, typer.Option(help="Views written per document; 0: learn the raw text.")]
ViewPrompt = Annotated[str | None, typer.Option(help="View template: JSON, or a file with it.")]
Config = Annotated[Path | None, typer.Option(help="TOML file with settings.")]


def _learning_flags(namespaces: list[str] | None, views: int | None) -> dict[str, Any]:
    return {
        "namespaces": tuple(namespaces) if namespaces else None,
        "learn": None if views is None else {"views": {"count": views}},
    }


@app.command()
def serve(
    model: Model = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where versions and the embedded Valkey live.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Use this Redis instead of the embedded Valkey.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    namespace: Annotated[list[str] | None, typer.Option(help="Namespace to serve; may be repeated.")] = None,
    views: Views = None,
    learner: Annotated[str | None, typer.Option(help="inside: learn here; elsewhere: an `infold worker` does.")] = None,
    view_prompt: ViewPrompt = None,
    config: Config = None,
) -> None:
    """Serve a model, and let it learn."""
    with reported():
        settings = load_settings(
            config, model=model, host=host, port=port, data_dir=data_dir, redis_url=redis_url, device=device, dtype=dtype,
            learner=learner, view_prompt=view_prompt, **_learning_flags(namespace, views),
        )  # fmt: skip
        _serve(settings)


def _serve(settings: Settings) -> None:
    import uvicorn  # what brings torch takes seconds, and wrong settings need not wait for it

    from service.app import create_app
    from service.http_protocol import listen, server_config
    from service.runtime import Runtime

    _log_to_stderr()
    with listen(settings.host, settings.port) as listening:
        served = create_app(settings)
        runtime: Runtime = served.state.runtime
        _greet(settings)
        server = uvicorn.Server(server_config(served, settings))
        runtime.on_failure = lambda: setattr(server, "should_exit", True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(0))  # uvicorn raises it again once everything has ended
        server.run(sockets=[listening])
    if runtime.failure is not None or not server.started:
        raise ServiceError(str(runtime.failure or "the server could not start; its log says why"))


@app.command()
def worker(
    model: Model = None,
    data_dir: Annotated[Path | None, typer.Option(help="The server's data directory.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="The server's Redis, if it is not the embedded one.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    namespace: Annotated[list[str] | None, typer.Option(help="Namespace to learn for; may be repeated.")] = None,
    views: Views = None,
    metrics_port: Annotated[int | None, typer.Option(help="Show Prometheus metrics there.")] = None,
    view_prompt: ViewPrompt = None,
    config: Config = None,
) -> None:
    """Learn for a server that was started with `--learner elsewhere`, in a process of its own."""
    with reported():
        settings = load_settings(
            config, model=model, data_dir=data_dir, redis_url=redis_url, device=device, dtype=dtype, metrics_port=metrics_port,
            view_prompt=view_prompt, **_learning_flags(namespace, views),
        )  # fmt: skip
        _log_to_stderr()

        from service.detached import work_until_told

        asyncio.run(work_until_told(settings))


@app.command()
def train_scorer(
    model: Annotated[str, typer.Argument(help="Hub id or local path.")],
    tasks: Annotated[int, typer.Option(help="Self-written tasks to train on.")] = 600,
    corpus: Annotated[
        Path | None, typer.Option(help="Text file, one document per line; none: texts that the model makes up.")
    ] = None,
    into: Annotated[Path | None, typer.Option(help="Directory for the files; none: the cache, where `serve` finds them.")] = None,
    device: str | None = None,
    view_prompt: ViewPrompt = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Measure curvature, sample anchors and train the token scorer of a model, with no labels."""
    with reported(), Progress(console=err) as progress:
        settings = load_settings(config, model=model, device=device, view_prompt=view_prompt)

        from service.training import train

        texts = [line for line in corpus.read_text().splitlines() if line.strip()] if corpus else []
        result = train(settings, tasks, texts, into, progress)
    if as_json:
        print_json({name: str(value) if isinstance(value, Path) else value for name, value in asdict(result).items()})
        return
    for path in (result.curvature, result.anchors, result.scorer):
        out.print(f"wrote {path}", markup=False)
    out.print(f"{result.tasks} tasks, {result.seconds:.0f} s", markup=False)


@app.command()
def doctor(
    model: Model = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where versions and the embedded Valkey live.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Redis to use instead of the embedded Valkey.")] = None,
    device: Device = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Look for what would keep a server from starting or learning. Ends with 1 if something would keep it from starting."""
    with reported():
        settings = load_settings(config, model=model, host=host, port=port, data_dir=data_dir, redis_url=redis_url, device=device)

        from service.doctor import examine

        findings = examine(settings)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        marks = {"ok": "[green]ok  [/green]", "warn": "[yellow]warn[/yellow]", "fix": "[red]fix [/red]"}
        for finding in findings:
            remedy = f"; {finding.remedy}" if finding.remedy else ""
            out.print(f"{marks[finding.level]} {escape(f'{finding.check}: {finding.found}{remedy}')}")
    if any(finding.level == "fix" for finding in findings):
        raise typer.Exit(FAILED)


def _greet(settings: Settings) -> None:
    address = f"http://{settings.host}:{settings.port}"
    err.print(f"infold on {address}; try, once it is ready:")
    implied = "default" in settings.namespaces or len(settings.namespaces) == 1
    where = {} if implied else {"namespace": settings.namespaces[0]}
    document = json.dumps({"text": "Maria Okafor lives in Bergen.", "wait": 10} | where)
    question = json.dumps({"prompt": "Q: Where does Maria Okafor live? A:", "max_new_tokens": 8} | where)
    key = "" if settings.admin_key is None else ' -H "authorization: Bearer $INFOLD_ADMIN_KEY"'
    for path, body in (("learn", document), ("generate", question)):
        err.print(f"  curl -s {address}/{path}{key} -H 'content-type: application/json' -d '{body}'", markup=False)


def _log_to_stderr() -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # whatever standard error is at that moment
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
