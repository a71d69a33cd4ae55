"""Settings of the server, and the only place that reads the environment.

Precedence: flags (constructor arguments) > environment (`INFOLD_` prefix, nested with `__`) > a TOML file (`--config`).
Unknown keys are refused wherever they come from.
"""

import os
import re
from collections.abc import Iterable
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from adapters.config import LearnConfig
from service.errors import InvalidSettings


def _strong(key: SecretStr) -> SecretStr:
    """A key that nobody guesses, and that fits into a header."""
    if not re.fullmatch(r"[\x21-\x7e]{32,}", key.get_secret_value()):
        raise ValueError("give at least 32 characters, without spaces: the output of `openssl rand -hex 32`, say")
    return key


AdminKey = Annotated[SecretStr, AfterValidator(_strong)]
Namespace = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class Settings(BaseSettings):
    """Everything that an operator can choose."""

    model_config = SettingsConfigDict(env_prefix="INFOLD_", env_nested_delimiter="__", extra="forbid", frozen=True)

    model: str | None = None
    """Hub id or path of the base model; None: the demo model that ships."""
    served_name: Annotated[str, StringConstraints(pattern=r"^[^:@\s]{1,200}$")] | None = None
    """What the model is called in the OpenAI API; None: its hub id, or the name of its directory."""
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    admin_key: AdminKey | None = None
    """With it every request needs a key: this one, which may do everything, or one that it has created; None: none does."""
    allow_open: bool = False
    """Let others reach a server without keys: something else keeps strangers out."""
    receive_seconds: float = Field(60, gt=0)
    """How long the head of a request may take to arrive, and how long its body."""
    data_dir: Path = Path("infold-data")
    cache_dir: Path = Field(default_factory=lambda: Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "infold")
    """Curvature and scorers, by the digest of the base model."""
    redis_url: str | None = None
    """Any Redis 6.2 or newer, or Valkey; None: the embedded Valkey in the data directory."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto: a GPU if one is seen."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on a GPU, float32 on CPU."""
    threads: int | None = Field(None, ge=1)
    """Threads of one matrix product; None: one for models below 10M parameters, else torch's own choice."""
    packed: bool | None = None
    """On CPU: serve from a second copy of the weights, in a layout that is read faster; None: if it takes little of the memory."""
    graphs: bool = True
    """On a GPU: decode steps are recorded as CUDA graphs when they are first needed, for 1, 2, 4, ... rows."""
    namespaces: tuple[Namespace, ...] = Field(("default",), min_length=1)
    learner: Literal["inside", "elsewhere"] = "inside"
    """inside: this server learns beside decoding; elsewhere: an `infold worker` with the same data directory does."""
    metrics_port: int | None = Field(None, ge=0, le=65535)
    """Where a worker shows its metrics; None: nowhere. A server shows its own at /metrics."""
    traces: Annotated[str, StringConstraints(pattern=r"^https?://")] | None = Field(
        default_factory=lambda: os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    """Where traces are sent, by OTLP over HTTP: http://localhost:4318; None: none are made."""
    view_prompt: str | None = None
    """A view template as JSON, or the path of a file with one; None: `infold.json` beside the weights, else a default."""

    max_queue: int = Field(1000, ge=1)
    """Jobs that may wait per namespace; more are refused with 429."""
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1024)
    max_document_tokens: int = Field(32_768, ge=8)
    max_canaries: int = Field(1000, ge=0)
    """Canaries per namespace; every update asks all of them."""
    canary_floor: float = Field(0.9, ge=0, le=1)
    """Least share of the canaries that the live version must answer; below it goes back to an earlier one that does."""
    publish: Literal["live", "shadow"] = "live"
    """live: what passed the guard answers at once; shadow: it is learned, measured and kept, and answers when asked for by name."""
    max_attempts: int = Field(3, ge=1)
    """Deliveries of a job before it goes to the dead letters."""
    lease_seconds: float = Field(15, ge=1)
    """How long after its last sign of life a worker on another data directory keeps others from writing its namespaces."""

    slots: int = Field(32, ge=1)
    """Requests that decode in one batch."""
    max_waiting: int = Field(1024, ge=1)
    """Requests of one namespace that may wait for a slot; more are refused with 429."""
    prefix_cache_mb: int = Field(256, ge=0)
    """Memory for prompts read lately, so that what begins like them is not read again; 0: none."""
    read_seconds: float = Field(0.25, gt=0)
    """How long running requests wait, about, for prompts that are read beside them, before each goes on by a token."""
    resident_versions: int = Field(4, ge=2)
    """Versions whose weights are kept in memory beside the base model."""
    keep_versions: int | None = Field(None, ge=1)
    """Newest versions of a namespace that stay, beside the live one and what they are made of; None: all."""
    snapshot_every: int = Field(64, ge=0)
    """Versions of one chain after which their sum is written to disk, so that a start need not add them up; 0: never."""
    explain_cache_mb: int = Field(256, ge=0)
    """Memory for what documents changed, so that answers are explained without reading it again."""
    drain_seconds: float = Field(30, ge=0)
    """How long running requests and the running job may take to end after SIGTERM."""

    learn: LearnConfig = Field(default_factory=LearnConfig)

    @property
    def model_name(self) -> str:
        """What clients call the model."""
        if self.served_name is not None or self.model is None:
            return self.served_name or "infold-demo"
        return Path(self.model).resolve().name if Path(self.model).exists() else self.model

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, file; no .env."""
        sources, config = (init_settings, env_settings), _file.get()
        return sources if config is None else (*sources, TomlConfigSettingsSource(settings_cls, config))


_file: ContextVar[Path | None] = ContextVar("file", default=None)
"""The settings file, while settings are loaded."""


def load_settings(config: Path | None = None, **flags: Any) -> Settings:
    """Settings from flags that are not None, the environment, and a file (`config`, or what `INFOLD_CONFIG` names).

    Raises:
        InvalidSettings: a value out of range, an unknown key, an unreadable file.
    """
    named = os.environ.get("INFOLD_CONFIG")
    config = Path(named) if config is None and named else config
    if config is not None and not config.is_file():
        raise InvalidSettings(f"there is no settings file {config}")
    _refuse_unknown(os.environ)
    token = _file.set(config)
    try:
        return Settings(**{key: value for key, value in flags.items() if value is not None})
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InvalidSettings("; ".join(wrong)) from error
    except ValueError as error:
        raise InvalidSettings(str(error)) from error
    finally:
        _file.reset(token)


_OTHERS = {"config", "api_key", "url"}
"""Names after `INFOLD_` that are not settings of a server: the file of settings, and what commands ask with."""
_LINK = re.compile(r"SERVICE_(HOST|PORT)|PORT_\d+_")
"""What Kubernetes puts into the environment of pods beside a service `infold`."""


def _refuse_unknown(names: Iterable[str]) -> None:
    """Raises InvalidSettings: a name that begins as settings in the environment do, and is none."""
    known = {*Settings.model_fields, *_OTHERS}
    for name in names:
        prefix, _, rest = name.partition("_")
        key = rest.lower().partition("__")[0]
        if prefix == "INFOLD" and key not in known and not _LINK.match(rest):
            close = get_close_matches(key, known, n=1)
            hint = f"; did you mean INFOLD_{close[0].upper()}?" if close else ""
            raise InvalidSettings(f"{name} is set in the environment, and there is no such setting{hint}")
