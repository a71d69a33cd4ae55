"""The command line: `infold serve | worker | learn | ask | status | versions | rollback | train-scorer | bench | doctor`.

Answers go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 failed, 2 misused.
"""

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from adapters.errors import AdapterError
from service.bench import bench
from service.client import Client
from service.errors import ServiceError
from service.settings import Settings, load_settings

app = typer.Typer(
    help="infold: an LLM server that keeps learning while it serves.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.add_typer(bench, name="bench")
out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)

Url = Annotated[str, typer.Option(envvar="INFOLD_URL", help="Address of the server.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str | None, typer.Argument(help="Hub id or local path; none: the demo model that ships.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or auto.")]
Views = Annotated[int | None, typer.Option(help="Views written per document; 0: learn the raw text.")]
ViewPrompt = Annotated[str | None, typer.Option(help="View template: JSON, or a file with it.")]
Config = Annotated[Path | None, typer.Option(help="TOML file with settings.")]
LOCAL = "http://127.0.0.1:8000"


@contextmanager
def _reported() -> Iterator[None]:
    """Errors of ours in one line, without a traceback."""
    try:
        yield
    except (ServiceError, AdapterError, OSError) as error:
        err.print(f"[red]error:[/red] {escape(str(error))}")
        raise typer.Exit(1) from None


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
    import uvicorn

    from service.app import create_app
    from service.runtime import Runtime

    flags = _learning_flags(namespace, views)
    with _reported():
        settings = load_settings(
            config, model=model, host=host, port=port, data_dir=data_dir, redis_url=redis_url, device=device, dtype=dtype,
            learner=learner, view_prompt=view_prompt, **flags,
        )  # fmt: skip
        _log_to_stderr()
        served = create_app(settings)
        _greet(settings)
        server = uvicorn.Server(uvicorn.Config(
            served, host=settings.host, port=settings.port, log_config=None, access_log=False,
            loop="asyncio", http="httptools",  # uvloop was seen to hang after a restart on the same data directory
            timeout_graceful_shutdown=int(settings.drain_seconds) + 1,
        ))  # fmt: skip
        runtime: Runtime = served.state.runtime
        runtime.on_failure = lambda: setattr(server, "should_exit", True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(0))  # uvicorn raises it again once everything has ended
        server.run()
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
    from service.detached import work_until_told

    flags = _learning_flags(namespace, views)
    with _reported():
        settings = load_settings(
            config, model=model, data_dir=data_dir, redis_url=redis_url, device=device, dtype=dtype, metrics_port=metrics_port,
            view_prompt=view_prompt, **flags,
        )  # fmt: skip
        _log_to_stderr()
        asyncio.run(work_until_told(settings))


@app.command()
def learn(
    files: Annotated[list[str], typer.Argument(help="Files to learn; - for standard input.")],
    url: Url = LOCAL,
    namespace: str = "default",
    wait: Annotated[float, typer.Option(help="Seconds to wait for each document to be live.")] = 60,
    as_json: AsJson = False,
) -> None:
    """Teach documents, one per file."""
    client, failed = Client(url), False
    with _reported():
        for name in files:
            text = _read(name)
            if wait:
                with err.status(f"learning {escape(name)}"):
                    job = client.post("/learn", {"text": text, "namespace": namespace, "wait": wait})["jobs"][0]
            else:
                job = client.post("/learn", {"text": text, "namespace": namespace})["jobs"][0]
            failed |= job["status"] in ("failed", "rejected")
            if as_json:
                sys.stdout.write(json.dumps(job) + "\n")
                continue
            out.print(f"{name}: {job['status']}" + (f", {job['version']} answers" if job.get("version") else ""), markup=False)
            for view in (job.get("report") or {}).get("views", []):
                out.print(f"  {view}", markup=False)
    if failed:
        raise typer.Exit(1)


@app.command()
def ask(
    prompt: str,
    url: Url = LOCAL,
    namespace: str = "default",
    version: Annotated[str | None, typer.Option(help="Version to ask; none: the live one.")] = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    as_json: AsJson = False,
) -> None:
    """Ask the model; its answer comes as it is written."""
    body: dict[str, Any] = {"prompt": prompt, "namespace": namespace, "max_new_tokens": max_new_tokens, "temperature": temperature}
    if version:
        body["version"] = version
    with _reported():
        if as_json:
            sys.stdout.write(json.dumps(Client(url).post("/generate", body)) + "\n")
            return
        for event in Client(url).stream("/generate", body | {"stream": True}):
            sys.stdout.write(event["text"])
            sys.stdout.flush()
        sys.stdout.write("\n")


@app.command()
def status(url: Url = LOCAL, namespace: str = "default", as_json: AsJson = False) -> None:
    """What the server serves and has learned."""
    with _reported():
        client = Client(url)
        ready = client.get("/readyz")
        live = next(v for v in client.get("/versions", namespace=namespace)["versions"] if v["live"])
        total = client.get("/documents", namespace=namespace, limit=1)["total"]
    shown = {**ready, "namespace": namespace, "version": live["version"], "documents": total}
    if as_json:
        sys.stdout.write(json.dumps(shown) + "\n")
        return
    for key, value in shown.items():
        out.print(f"{key:10} {value}", markup=False)


@app.command()
def versions(url: Url = LOCAL, namespace: str = "default", as_json: AsJson = False) -> None:
    """All versions of a namespace."""
    with _reported():
        found = Client(url).get("/versions", namespace=namespace)["versions"]
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    table = Table("version", "parent", "documents", "drift (nats)", "bytes")
    for v in found:
        drift = "" if v["drift"] is None else f"{v['drift']['kl']:.5f}"
        table.add_row(
            v["version"] + (" (live)" if v["live"] else ""), v["parent"] or "", ", ".join(v["documents"]), drift, str(v["bytes"])
        )
    out.print(table)


@app.command()
def rollback(version: str, url: Url = LOCAL, namespace: str = "default", expected: str | None = None) -> None:
    """Answer from an earlier version."""
    body = {"to": version, "namespace": namespace} | ({"expected": expected} if expected else {})
    with _reported():
        out.print(f"{Client(url).post('/versions/rollback', body)['version']} answers now")


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
) -> None:
    """Measure curvature, sample anchors and train the token scorer of a model, with no labels."""
    from service.training import train

    with _reported(), Progress(console=err) as progress:
        settings = load_settings(config, model=model, device=device, view_prompt=view_prompt)
        texts = [line for line in corpus.read_text().splitlines() if line.strip()] if corpus else []
        result = train(settings, tasks, texts, into, progress)
    for path in (result.curvature, result.anchors, result.scorer):
        out.print(f"wrote {path}", markup=False)
    out.print(f"{result.tasks} tasks, {result.seconds:.0f} s", markup=False)


@app.command()
def doctor(config: Config = None) -> None:
    """Look for what would keep a server from starting or learning."""
    from service.doctor import examine

    with _reported():
        findings = examine(load_settings(config))
    for finding in findings:
        mark = "[green]ok[/green]  " if finding.fine else "[red]fix[/red] "
        out.print(mark, escape(finding.text))
    if not all(f.fine for f in findings):
        raise typer.Exit(1)


def _read(name: str) -> str:
    raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes() if Path(name).is_file() else None
    if raw is None:
        raise ServiceError(f"there is no file {name}")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ServiceError(f"{name} is not UTF-8 text: {error}") from error


def _greet(settings: Settings) -> None:
    address = f"http://{settings.host}:{settings.port}"
    err.print(f"infold on {address}; try, once it is ready:")
    document = '{"text": "Maria Okafor lives in Bergen.", "wait": 10}'
    question = '{"prompt": "Q: Where does Maria Okafor live? A:", "max_new_tokens": 8}'
    for path, body in (("learn", document), ("generate", question)):
        err.print(f"  curl -s {address}/{path} -H 'content-type: application/json' -d '{body}'", markup=False)


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
