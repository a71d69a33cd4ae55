"""A safetensors file of ours that names the base model it was measured on, and is refused for any other.

Covered: writing and reading. Not covered: versions (`checkpoint.py`), whose names vouch for their content.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from adapters.errors import CorruptCheckpoint


def write_tensors(path: Path, tensors: Mapping[str, Tensor], digest: str) -> None:
    """Write `tensors`, measured on the base model `digest`."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"digest": digest})


def read_tensors(path: Path, digest: str, what: str) -> dict[str, Tensor]:
    """Read what `write_tensors` wrote. what: names the content in errors.

    Raises:
        CorruptCheckpoint: torn, or of another base model.
    """
    try:
        with safe_open(path, "pt") as file:
            found = (file.metadata() or {}).get("digest")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise CorruptCheckpoint(f"cannot read {what} from {path}: {error}") from error
    if found != digest:
        raise CorruptCheckpoint(f"{path} is {what} of base model {found}, not of {digest}")
    return tensors
