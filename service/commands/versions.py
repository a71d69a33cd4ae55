"""`infold versions | diff | rollback | collect`: what was learned, what lies between, which of it answers, and what may go."""

import json
import sys
from typing import Annotated

import typer
from rich.table import Table

from service.client import Client
from service.commands.common import LOCAL, AsJson, Url, err, out, reported

app = typer.Typer()


@app.command()
def versions(url: Url = LOCAL, namespace: str = "default", as_json: AsJson = False) -> None:
    """All versions of a namespace."""
    with reported():
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
def diff(old: str, new: str, url: Url = LOCAL, namespace: str = "default", as_json: AsJson = False) -> None:
    """What lies between two versions: documents, weights, probes."""
    with reported():
        found = Client(url).get("/versions/diff", **{"from": old, "to": new, "namespace": namespace})
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for what, sign in (("added", "+"), ("removed", "-")):
        for document in found["documents"][what]:
            out.print(f"{sign} {document}", markup=False)
    layers = Table("layer", "change", "of the base weight")
    for layer in found["layers"]:
        layers.add_row(layer["layer"], f"{layer['norm']:.4g}", f"{layer['relative']:.2%}")
    probes = Table("probe", old, new, "change")
    for probe, seen in found["drift"].items():
        probes.add_row(probe, *("" if seen[k] is None else f"{seen[k]:.5f}" for k in ("from", "to", "change")))
    out.print(layers)
    out.print(probes)


@app.command()
def rollback(version: str, url: Url = LOCAL, namespace: str = "default", expected: str | None = None) -> None:
    """Answer from an earlier version."""
    body = {"to": version, "namespace": namespace} | ({"expected": expected} if expected else {})
    with reported():
        out.print(f"{Client(url).post('/versions/rollback', body)['version']} answers now")


@app.command()
def collect(
    keep: Annotated[int, typer.Option(help="Newest versions that stay, beside the live one.")],
    dry_run: Annotated[bool, typer.Option(help="Only say what would go.")] = False,
    url: Url = LOCAL,
    namespace: str = "default",
    as_json: AsJson = False,
) -> None:
    """Drop old versions, and what nothing is made of any more."""
    body = {"keep": keep, "namespace": namespace, "dry_run": dry_run, "wait": 600}
    with reported(), err.status("collecting"):
        found = Client(url).post("/versions/collect", body)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    gone = found if dry_run else found["report"]
    versions = len(gone["versions"]) if dry_run else gone["versions"]
    verb = "would be dropped" if dry_run else "dropped"
    out.print(f"{versions} versions and {gone['removed']} directories ({gone['bytes']} bytes) {verb}")
