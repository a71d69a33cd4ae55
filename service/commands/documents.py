"""`infold forget | status`: take documents back, and see what has been learned."""

from typing import Annotated

import typer
from rich.markup import escape

from service.commands.common import FAILED, LOCAL, AsJson, Key, Namespace, Url, Wait, err, out, print_json, server

app = typer.Typer()
SHOWN = 5
"""Documents that are named."""


@app.command()
def forget(
    document: Annotated[str, typer.Argument(help="Id of the document.")],
    exact: Annotated[bool, typer.Option(help="Learn anew what came after it.")] = False,
    url: Url = LOCAL,
    api_key: Key = None,
    namespace: Namespace = None,
    wait: Wait = 600,
    as_json: AsJson = False,
) -> None:
    """Take a document back: out of the weights, and its text out of every store."""
    with server(url, api_key) as client, err.status(f"forgetting {escape(document)}"):
        job = client.forget(document, exact=exact, namespace=namespace, wait=wait)
    if as_json:
        print_json(job)
    elif job.status == "succeeded" and job.report is not None:
        report, others = job.report, job.report["others"]
        out.print(f"{document}: forgotten, {job.version} answers now", markup=False)
        out.print(f"  of its {report['forgotten']['asked']} questions {report['left']} are still answered as it taught")
        out.print(f"  of {others['asked']} questions of other documents {others['after']} are answered; before: {others['before']}")
        if again := report.get("queued_again"):
            out.print(f"  {len(again)} that came to nothing after it are tried again: {', '.join(again[:SHOWN])}", markup=False)
        if lost := report.get("lost"):
            out.print(f"  {len(lost)} are in no version any more, post them again: {', '.join(lost[:SHOWN])}", markup=False)
    else:
        out.print(f"{document}: {job.status}, see /learn/{job.job_id}", markup=False)
    if job.status in ("failed", "rejected"):
        raise typer.Exit(FAILED)


@app.command()
def status(url: Url = LOCAL, api_key: Key = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """What the server serves and has learned."""
    with server(url, api_key) as client:
        ready = client.ready()
        namespace = namespace or client.access()["namespace"]
        live = next(version.version for version in client.versions(namespace=namespace) if version.live)
        total = client.documents(namespace=namespace, limit=1).total
    shown = {**ready, "namespace": namespace, "version": live, "documents": total}
    if as_json:
        print_json(shown)
        return
    for key, value in shown.items():
        out.print(f"{key:10} {value}", markup=False)
