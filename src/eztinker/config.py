"""Settings of a server: typed, strict, resolved once and then frozen.

Layers, strongest first: command-line flag, ``EZTINKER_*`` variable, ``eztinker.yaml`` in the working
directory (or ``--config FILE``), the user's file, default. Unknown keys are refused with the nearest
known one. Knows nothing of what the settings do. Called by the CLI, ``launch.py`` and tests.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from eztinker.errors import InvalidRequestError

ENV_PREFIX = "EZTINKER_"
PROJECT_FILE = "eztinker.yaml"

CLIENT_VARIABLES = frozenset(
    {
        "EZTINKER_BASE_URL",
        "EZTINKER_API_KEY",
        "EZTINKER_DATA_DIR",
        "EZTINKER_FAILPOINT",
        "EZTINKER_LANG",
    }
)
"""Variables with the same prefix that are not server settings."""

_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
_LISTS = frozenset({"models", "plugins", "allowed_hosts"})
_MAPPINGS = frozenset({"aliases", "limits"})


class Limits(BaseModel):
    """Bounds that a refusal names by these names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_rank: int = Field(256, ge=1)
    """LoRA rank."""
    max_num_samples: int = Field(256, ge=1)
    """Continuations per sampling request."""
    max_body_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    """Size of one HTTP request body."""
    max_body_values: int = Field(8 * 1024 * 1024, ge=1024)
    """Values (token ids, weights, …) in one JSON body; parsing more would hold up all others."""
    max_bodies_bytes: int = Field(1024 * 1024 * 1024, ge=1024)
    """Size of all bodies that are held at one time; beyond it 429."""
    max_import_bytes: int = Field(1024 * 1024 * 1024, ge=1024)
    """Size of an adapter that is imported; ``max_bodies_bytes`` bounds it too."""
    max_data: int = Field(1024, ge=1)
    """Data (sequences) per training request."""
    max_stop_strings: int = Field(16, ge=1)
    """Stop strings or stop token ids per sampling request."""
    max_stop_length: int = Field(256, ge=1)
    """Characters in one stop string."""
    max_storage_bytes: int = Field(0, ge=0)
    """Checkpoints and snapshots of all runs; the oldest checkpoints go. 0: no bound."""
    max_run_storage_bytes: int = Field(0, ge=0)
    """The same for each run."""
    keep_last_checkpoints: int = Field(0, ge=0)
    """Newest checkpoints of each run that stay; older ones go. 0: all stay."""
    keep_best_checkpoints: int = Field(0, ge=0)
    """Checkpoints with the highest scores of each run that stay beside the newest. 0: none for that."""
    max_runs: int = Field(1000, ge=1)
    """Runs that exist at one time."""
    max_runs_per_owner: int = Field(200, ge=1)
    """Runs of one owner of keys at one time."""
    max_sessions_per_owner: int = Field(1000, ge=1)
    """Clients of one owner of keys that hold a session of the Tinker protocol at one time; beyond it 429."""
    max_connections: int = Field(4096, ge=16)
    """Open connections; one more is answered 429 and closed."""
    max_queued_jobs_per_run: int = Field(1000, ge=1)
    """Jobs of one run that wait or run; beyond it 429."""
    max_held_jobs_per_run: int = Field(4096, ge=1)
    """Jobs of one run that wait for a lower number which has not arrived; beyond it refused."""
    max_hold_s: float = Field(3600.0, gt=0)
    """How long such a job waits before it fails."""
    max_queued_jobs: int = Field(10_000, ge=1)
    """Jobs of all runs that wait or run; beyond it 429."""
    max_queued_jobs_per_owner: int = Field(2500, ge=1)
    """Jobs of one owner of keys that wait or run; beyond it 429."""
    max_requests_per_s: float = Field(200.0, gt=0)
    """Requests of one key in a second, on average; twice as many at once. Beyond it 429."""


class ServerConfig(BaseModel):
    """Everything a server can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    insecure: bool = False
    """Answer other machines although no key is asked for."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which browsers may call this server, besides localhost and plain addresses."""
    port: int = Field(8000, ge=0, le=65535)
    """0 takes a free port."""
    workers: int = Field(4, ge=1, le=256)
    """Threads that prepare requests (tokenizing, checksums). The engine and its models exist once."""
    state_dir: Path = Path("eztinker-data")
    """Database, snapshots and, unless ``checkpoints_dir`` says otherwise, ``checkpoints/``."""
    checkpoints_dir: Path | None = None
    models: tuple[str, ...] = ()
    """Base models to load at start; the first is the default model."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """Public name -> name or folder."""

    executor: Literal["subprocess", "inline"] = "subprocess"
    """Where the engine worker lives; ``inline`` is for tests."""
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``; whether it is there, only the worker can tell."""
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        BeforeValidator(lambda name: _DTYPES.get(name, name)),
    ] = "auto"
    """What models compute in, also ``fp32`` and ``bf16``; ``auto`` is float32 for a model of under 300 M
    parameters on a CPU, else bfloat16."""
    num_threads: int = Field(0, ge=0)
    """Torch threads of the worker; 0 takes the number of physical cores."""
    plugins: tuple[str, ...] = ()
    """Python modules the worker imports at start, to register loss functions."""
    micro_batch_tokens: int = Field(4096, ge=1)
    """Most tokens (padding included) in one training micro-batch."""
    memory_budget_gb: float = Field(0, ge=0)
    """Memory for the engine, its models and runs, in GB (10^9 bytes); 0 takes 80 % of the machine's memory,
    or 90 % of a device's. Idle models are unloaded for others; what never fits is refused with the sum."""
    kv_cache_tokens: int = Field(0, ge=0)
    """Most tokens held in the key-value cache; 0 derives it from free memory."""
    deterministic: bool = False
    """Equal work gives equal bits whatever else is being done: nothing shares a pass. Slower. Replays after
    a crash have the same bits in either case."""

    cuda_graphs: bool = True
    """On CUDA decode steps are recorded and replayed, which takes some memory for each size of batch. No
    effect on a CPU, with quantised models and with ``deterministic``."""

    default_wait_s: float = Field(5.0, ge=0, le=60)
    """How long a POST waits for its job when the request does not say."""
    hub_timeout_s: float = Field(3.0, gt=0, le=60)
    """How long to wait for a first answer of the model hub."""
    replay_budget_s: float = Field(2.0, ge=0)
    """Compute since the last snapshot of a run after which the next one is due."""
    snapshot_cost_share: float = Field(0.02, gt=0, le=1)
    """Bound on the share of time spent writing snapshots."""
    durability: Literal["full", "normal"] = "full"
    """``full`` survives a power cut; ``normal`` only the death of processes."""
    worker_hang_timeout_s: float = Field(60.0, gt=0)
    """A busy worker without a sign of life for so long is replaced."""
    shutdown_timeout_s: float = Field(15.0, gt=0)
    """How long running work may go on after SIGTERM."""
    limits: Limits = Field(default_factory=lambda: Limits.model_validate({}))

    @property
    def checkpoints_path(self) -> Path:
        """Folder that holds ``<run_id>/<checkpoint name>``."""
        return self.checkpoints_dir or self.state_dir / "checkpoints"


def user_file() -> Path:
    """The user's settings, below ``$XDG_CONFIG_HOME`` or ``~/.config``."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "eztinker" / "config.yaml"


def load_config(
    flags: Mapping[str, Any] | None = None,
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> ServerConfig:
    """Resolve all layers into one frozen ``ServerConfig``.

    Args:
        flags: values given on the command line; None values count as not given.
        config_file: used instead of ``eztinker.yaml``; must exist.
        environ: environment to read (default: the process's).

    Raises:
        InvalidRequestError: unknown key, wrong value, or unreadable file, naming its origin.
    """
    environ = os.environ if environ is None else environ
    layers = (
        _from_file(user_file(), required=False),
        _from_file(config_file or Path(PROJECT_FILE), required=config_file is not None),
        _from_environ(environ),
        {key: value for key, value in (flags or {}).items() if value is not None},
    )
    merged: dict[str, Any] = {}
    for layer in layers:
        _lay_over(merged, layer)
    return _validate({key: _split(key, value) for key, value in merged.items()})


def _lay_over(merged: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Add a stronger layer; settings that are mappings (limits, aliases) meet entry by entry."""
    for key, value in layer.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = {**below, **value}
        else:
            merged[key] = value


def _split(key: str, value: Any) -> Any:
    """A list setting may be written as one comma-separated string."""
    if key in _LISTS and isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _from_file(path: Path, *, required: bool) -> dict[str, Any]:
    if not path.is_file():
        if required:
            raise InvalidRequestError(f"Settings file {path} does not exist.", field="config")
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InvalidRequestError(f"{path} is not readable YAML: {error}", field="config") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidRequestError(
            f"{path}: expected 'name: value' lines at the top level, got {type(content).__name__}.",
            field="config",
        )
    _refuse_unknown(content, origin=str(path))
    return content


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    found = {
        key.removeprefix(ENV_PREFIX).lower(): text
        for key, text in environ.items()
        if key.startswith(ENV_PREFIX) and key not in CLIENT_VARIABLES
    }
    _refuse_unknown(found, origin="the environment", prefix=ENV_PREFIX)
    return {key: _parse_variable(key, text) for key, text in found.items()}


def _parse_variable(key: str, text: str) -> Any:
    """Mappings and bracketed lists are YAML; anything else is taken as it stands.

    A folder named ``2024`` or a host ``::1`` must not turn into a number or a mapping.
    """
    is_list = key in _LISTS and text.lstrip().startswith("[")
    if key not in _MAPPINGS and not is_list:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidRequestError(
            f"{ENV_PREFIX}{key.upper()} is not readable YAML: {error}", field=key
        ) from None


def _refuse_unknown(content: Mapping[Any, Any], *, origin: str, prefix: str = "") -> None:
    known = list(ServerConfig.model_fields)
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = (
                f" Did you mean {prefix}{near[0].upper() if prefix else near[0]}?" if near else ""
            )
            shown = f"{prefix}{str(key).upper()}" if prefix else key
            raise InvalidRequestError(
                f"Unknown setting {shown!r} in {origin}.{hint}",
                code="unknown_field",
                field=str(key),
            )


def _refuse_unknown_limit(limits: Mapping[Any, Any]) -> None:
    for key in limits:
        if key not in Limits.model_fields:
            near = difflib.get_close_matches(str(key), list(Limits.model_fields), n=1)
            hint = f" Did you mean 'limits.{near[0]}'?" if near else ""
            raise InvalidRequestError(
                f"Unknown setting 'limits.{key}'.{hint}",
                code="unknown_field",
                field=f"limits.{key}",
            )


def _validate(values: Mapping[str, Any]) -> ServerConfig:
    if isinstance(values.get("limits"), Mapping):
        _refuse_unknown_limit(values["limits"])
    try:
        return ServerConfig.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidRequestError(
            f"Setting {where!r}: {first['msg']}; got {first['input']!r}.", field=where
        ) from None
