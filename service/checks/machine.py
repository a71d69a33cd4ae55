"""The machine: versions of what infold stands on, the GPU, threads, file descriptors, the port."""

import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement

from service.checks.finding import Check, Finding
from service.settings import Settings

LEAST_PYTHON = (3, 11)
SPARE_DESCRIPTORS = 200
"""Beside one for each request and one for each that waits: Redis, files, the listening socket."""


def versions(_: Settings) -> list[Finding]:
    """Python, and every package that infold requires."""
    if sys.version_info < LEAST_PYTHON:
        return [Finding("fix", "versions", f"Python {platform.python_version()}", "infold needs Python 3.11 or newer")]
    wrong = [finding for requirement in metadata.requires("infold") or () if (finding := required(Requirement(requirement)))]
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers") if _installed(name))
    return wrong or [Finding("ok", "versions", f"Python {platform.python_version()}, {shown}")]


def required(requirement: Requirement) -> Finding | None:
    """What is wrong with one package, if it is asked for here."""
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    found = _installed(requirement.name)
    if found is not None and requirement.specifier.contains(found, prereleases=True):
        return None
    shown = f"{requirement.name} {found or 'is not there'}; infold needs {requirement.specifier or 'it'}"
    return Finding("fix", "versions", shown, f"pip install '{requirement.name}{requirement.specifier}'")


def gpu(settings: Settings) -> list[Finding]:
    """Whether torch sees the GPU that is there, and the device that is asked for."""
    if torch.cuda.is_available():
        return [Finding("ok", "GPU", torch.cuda.get_device_name())]
    asked = settings.device.startswith("cuda")
    built = torch.version.cuda
    if _nvidia():
        remedy = (
            "install the CUDA build of torch: CUDA=1 make install, after make clean"
            if built is None
            else f"torch was built for CUDA {built}: update the driver, or see whether CUDA_VISIBLE_DEVICES hides the GPU"
        )
        return [Finding("fix" if asked else "warn", "GPU", f"nvidia-smi sees one, torch {torch.__version__} does not", remedy)]
    if asked:
        return [Finding("fix", "GPU", f"{settings.device} is asked for and there is no GPU", "leave --device out")]
    return [Finding("ok", "GPU", f"none; torch {torch.__version__} runs on the CPU")]


def threads(settings: Settings) -> list[Finding]:
    """Whether there are more threads than cores: each then waits for the others."""
    wanted, cores = settings.threads or torch.get_num_threads(), _cores()
    if wanted > cores:
        shown = f"{wanted} threads on {cores:g} cores"
        return [Finding("warn", "threads", shown, f"set OMP_NUM_THREADS={max(1, int(cores))}, and --threads no higher")]
    return [Finding("ok", "threads", f"{wanted} on {cores:g} cores")]


def descriptors(settings: Settings) -> list[Finding]:
    """Whether all requests that may run and wait can have a connection."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.slots + settings.max_waiting + SPARE_DESCRIPTORS
    if most != resource.RLIM_INFINITY and most < wanted:
        shown = (
            f"{most} open files allowed, {wanted} wanted for {settings.slots} running and {settings.max_waiting} waiting requests"
        )
        return [Finding("warn", "open files", shown, f"ulimit -n {2 * wanted}, or LimitNOFILE={2 * wanted} in the systemd unit")]
    return [Finding("ok", "open files", f"{most} allowed")]


def port(settings: Settings) -> list[Finding]:
    """Whether it can be listened on."""
    address = f"{settings.host}:{settings.port}"
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        return [
            Finding(
                "fix", "port", f"cannot listen on {address}: {error}", "choose another --port or --host, or stop what listens there"
            )
        ]
    return [Finding("ok", "port", f"{address} is free")]


CHECKS: tuple[Check, ...] = (versions, gpu, threads, descriptors, port)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _nvidia() -> bool:
    """Whether the driver's own tool sees a GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        return b"GPU" in subprocess.run([tool, "-L"], capture_output=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False


def _cores() -> float:
    """That this process may use: of the machine, of its affinity, of its container."""
    cores = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else min(cores, int(quota) / int(period))
    except (OSError, ValueError):
        return cores
