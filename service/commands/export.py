"""`infold export`: a version as a PEFT adapter, in a directory."""

import io
import json
import zipfile
from pathlib import Path
from typing import Annotated, Any

import typer

from infold import UnexpectedAnswer
from service.commands.common import LOCAL, AsJson, Key, Namespace, Url, err, out, print_json, print_wide, server, table
from service.errors import ServiceError

app = typer.Typer()
ACCOUNT = "infold.json"
"""The file of the archive that says what it is."""


@app.command()
def export(
    version: str,
    directory: Annotated[Path, typer.Argument(help="Directory for the adapter: one that is empty, or not there yet.")],
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapter.")] = 16,
    url: Url = LOCAL,
    api_key: Key = None,
    namespace: Namespace = None,
    force: Annotated[bool, typer.Option("--force", help="Write into a directory that has something in it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a version as a LoRA adapter that PEFT loads, and say what the truncation to that rank costs."""
    with server(url, api_key) as client:
        if directory.exists() and (not directory.is_dir() or (any(directory.iterdir()) and not force)):
            raise ServiceError(f"{directory} is not an empty directory; choose another, or give --force")
        with err.status(f"truncating {version} to rank {rank}"):
            archive = client.export(version, rank=rank, namespace=namespace)
        account = unpack(archive, directory)
    if as_json:
        print_json(account)
        return
    layers = table("layer", "left out, in the metric", "left out, Frobenius")
    for layer, residual in account["residuals"].items():
        layers.add_row(layer, f"{residual['metric']:.2%}", f"{residual['frobenius']:.2%}")
    own, left = account["probes"]["version"], account["probes"]["adapter"]
    probes = table("probe", version, f"rank {account['rank']}")
    probes.add_row("drift from the base model (nats)", f"{own['kl']:.5f}", f"{left['kl']:.5f}")
    probes.add_row(f"answered of {account['memories']} lessons", f"{own['answered']:.1%}", f"{left['answered']:.1%}")
    print_wide(layers)
    print_wide(probes)
    out.print(f"wrote {directory}", markup=False)


def unpack(archive: bytes, directory: Path) -> dict[str, Any]:
    """Write the archive's files into `directory`, and return its account. Nothing is written unless all of it may be.

    Raises:
        UnexpectedAnswer: it is no archive of ours, or names a file outside of the directory.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            files = {name: packed.read(name) for name in packed.namelist()}
        account: dict[str, Any] = json.loads(files[ACCOUNT])
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UnexpectedAnswer(f"what the server sent is no adapter: {error}") from error
    for name in files:
        if name in (".", "..") or any(sign in name for sign in "/\\:\0"):
            raise UnexpectedAnswer(f"the archive names a file outside of the directory: {name!r}")
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return account
