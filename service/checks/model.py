"""The model: there, of a supported architecture, small enough, and measured."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from adapters.demo import MODEL_PATH
from adapters.errors import AdapterError
from adapters.measured import find_anchors, find_curvature, find_scorer
from adapters.targets import find_targets
from service.checks.finding import Check, Finding
from service.errors import ServiceError
from service.model import load_model, load_template
from service.settings import Settings


def model(settings: Settings) -> list[Finding]:
    """Its shape first, which costs nothing; then the weights, if there is room for them."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    source = settings.model or str(MODEL_PATH)
    try:
        with torch.device("meta"):
            shape = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source))  # type: ignore[no-untyped-call]
        targets = find_targets(shape, settings.learn.targets)
    except (OSError, ValueError, KeyError, ImportError) as error:
        remedy = "give a hub id that can be reached (HF_HUB_OFFLINE, HF_TOKEN?), or a directory with config.json and safetensors"
        return [Finding("fix", "model", f"cannot load a causal LM from {source!r}: {_first_line(error)}", remedy)]
    except AdapterError as error:
        return [Finding("fix", "model", str(error), "choose a model of one of these architectures")]
    total = sum(p.numel() for p in shape.parameters())
    changing = sum(shape.get_submodule(name).weight.numel() for name in targets.names)
    memory = _memory(settings, total, changing)
    return memory if memory[0].level == "fix" else memory + _measured(settings)


CHECKS: tuple[Check, ...] = (model,)


def needed_bytes(settings: Settings, total: int, changing: int, width: int) -> int:
    """What a server holds: the weights, and the target layers of each resident version and of the learner's own view."""
    return total * width + changing * (settings.resident_versions * width + 4)


def free_bytes() -> int:
    """Memory that this process may still take: of the machine, and of its container."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    free = next(1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:")
    try:
        most, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        return free if most == "max" else max(0, min(free, int(most) - int(used)))
    except (OSError, ValueError):
        return free


def _memory(settings: Settings, total: int, changing: int) -> list[Finding]:
    on_gpu = torch.cuda.is_available() and settings.device != "cpu"
    narrow = settings.dtype == "bfloat16" or (settings.dtype == "auto" and on_gpu)
    needed = needed_bytes(settings, total, changing, 2 if narrow else 4)
    free = torch.cuda.mem_get_info()[0] if on_gpu else free_bytes()
    shown = f"{total / 1e6:,.0f}M parameters want {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
    if needed <= free:
        return [Finding("ok", "memory", shown)]
    remedy = "choose a smaller model" + ("" if narrow else ", or --dtype bfloat16") + ", or free some memory"
    return [Finding("fix", "memory", shown, remedy)]


def _measured(settings: Settings) -> list[Finding]:
    """The weights, the view template, and what is known of them."""
    before = torch.get_num_threads()
    try:
        base = load_model(settings)
        targets = find_targets(base.model, settings.learn.targets)
        load_template(settings, base)
    except (AdapterError, ServiceError) as error:
        return [Finding("fix", "model", _first_line(error), "mend or choose another --model, or --view-prompt")]
    finally:
        torch.set_num_threads(before)
    train = f"infold train-scorer {base.source}"
    found = [Finding("ok", "model", f"{base.source}: {len(targets.names)} target layers, context {base.context}")]
    for check, there in (
        ("curvature", find_curvature(base, settings.cache_dir, targets.names) is not None),
        ("anchors", find_anchors(base, settings.cache_dir) is not None),
    ):
        later = "not there: measured at the first start, which takes minutes"
        found.append(Finding("ok", check, "there") if there else Finding("warn", check, later, f"run `{train}` before"))
    if find_scorer(base, settings.cache_dir) is not None:
        return [*found, Finding("ok", "scorer", "there")]
    return [*found, Finding("warn", "scorer", "not there: tokens are weighted by surprise", f"run `{train}`")]


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
