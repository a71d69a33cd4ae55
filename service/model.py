"""The base model that the settings name: device, dtype, threads and view template resolved."""

import os
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from adapters.base_model import BaseModel, load_base_model
from adapters.demo import MODEL_PATH
from adapters.packed_linear import pack_linears, packable
from adapters.views import ViewTemplate, template_for
from service.errors import InvalidSettings
from service.settings import Settings

SMALL_MODEL = 10_000_000
"""Parameters below which a second thread costs more than it gives."""
LITTLE_MEMORY = 0.2
"""Share of the machine's memory that a second copy of the weights may take without being asked for."""


def load_model(settings: Settings) -> BaseModel:
    """Load it. Raises ModelNotLoadable."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    if device.startswith("cuda"):
        # cuDNN plans its attention anew for every length of text that it has not seen: 4 ms a layer on an H100
        torch.backends.cuda.enable_cudnn_sdp(False)
    base = load_base_model(settings.model or str(MODEL_PATH), device, dtype)
    size = sum(p.numel() for p in base.model.parameters())
    if settings.threads or size < SMALL_MODEL:
        torch.set_num_threads(settings.threads or 1)
    return base


def serve_fast(settings: Settings, base: BaseModel) -> None:
    """Put the model's linear layers in the layout that serves fastest, in place. Whoever learns must have its own view by now."""
    size = 4 * sum(layer.weight.numel() for layer in base.model.modules() if packable(layer))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if settings.packed or (settings.packed is None and size <= LITTLE_MEMORY * memory):
        pack_linears(base.model)


def load_template(settings: Settings, base: BaseModel) -> ViewTemplate:
    """How this model is asked for views.

    Raises:
        InvalidTemplate: not a template.
        InvalidSettings: neither JSON nor a file.
    """
    given = settings.view_prompt
    if given is not None and not given.lstrip().startswith("{"):
        if not Path(given).is_file():
            raise InvalidSettings(f"view_prompt is neither JSON nor a file: {given}")
        given = Path(given).read_text()
    return template_for(base, given)
