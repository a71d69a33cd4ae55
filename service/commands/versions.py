"""`infold versions | diff | rollback | collect`: what was learned, what lies between, which of it answers, and what may go."""

from typing import Annotated

import typer

from service.commands.common import LOCAL, AsJson, Key, Namespace, Url, err, out, print_json, print_wide, server, table

app = typer.Typer()


@app.command()
def versions(url: Url = LOCAL, api_key: Key = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """All versions of a namespace."""
    with server(url, api_key) as client:
        found = client.versions(namespace=namespace)
    if as_json:
        print_json(found)
        return
    rows = table("version", "parent", "documents", "drift (nats)", "bytes")
    for v in found:
        drift = "" if v.drift is None else f"{v.drift['kl']:.5f}"
        rows.add_row(v.version + (" (live)" if v.live else ""), v.parent or "", ", ".join(v.documents), drift, str(v.bytes))
    print_wide(rows)


@app.command()
def diff(old: str, new: str, url: Url = LOCAL, api_key: Key = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """What lies between two versions: documents, weights, probes."""
    with server(url, api_key) as client:
        found = client.diff(old, new, namespace=namespace)
    if as_json:
        print_json(found)
        return
    for what, sign in (("added", "+"), ("removed", "-")):
        for document in found["documents"][what]:
            out.print(f"{sign} {document}", markup=False)
    layers = table("layer", "change", "of the base weight")
    for layer in found["layers"]:
        layers.add_row(layer["layer"], f"{layer['norm']:.4g}", f"{layer['relative']:.2%}")
    probes = table("probe", old, new, "change")
    for probe, seen in found["drift"].items():
        probes.add_row(probe, *("" if seen[k] is None else f"{seen[k]:.5f}" for k in ("from", "to", "change")))
    print_wide(layers)
    print_wide(probes)


@app.command()
def rollback(
    version: str,
    url: Url = LOCAL,
    api_key: Key = None,
    namespace: Namespace = None,
    expected: Annotated[str | None, typer.Option(help="Only if this is the version that answers now.")] = None,
    as_json: AsJson = False,
) -> None:
    """Answer from an earlier version."""
    with server(url, api_key) as client:
        found = client.rollback(version, expected=expected, namespace=namespace)
    if as_json:
        print_json(found)
    else:
        out.print(f"{found.version} answers now")


@app.command()
def collect(
    keep: Annotated[int, typer.Option(help="Newest versions that stay, beside the live one.")],
    dry_run: Annotated[bool, typer.Option(help="Only say what would go.")] = False,
    url: Url = LOCAL,
    api_key: Key = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Drop old versions, and what nothing is made of any more."""
    with server(url, api_key) as client, err.status("collecting"):
        found = client.collect(keep, dry_run=dry_run, namespace=namespace)
    if as_json:
        print_json(found)
        return
    gone = found if dry_run else found["report"]
    versions = len(gone["versions"]) if dry_run else gone["versions"]
    verb = "would be dropped" if dry_run else "dropped"
    out.print(f"{versions} versions and {gone['removed']} directories ({gone['bytes']} bytes) {verb}")
