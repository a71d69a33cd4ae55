"""`infold versions | diff | rollback`: what was learned, what lies between, and which of it answers."""

import json
import sys

import typer
from rich.table import Table

from service.client import Client
from service.commands.common import LOCAL, AsJson, Url, out, reported

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
