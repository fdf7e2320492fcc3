"""What the store remembers and the API shows: runs, jobs, checkpoints.

Plain facts without behaviour. Times are seconds since the epoch (UTC).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from eztinker.types.error_info import ErrorInfo
from eztinker.types.operations import Result
from eztinker.types.principal import LOCAL_OWNER, Scope
from eztinker.types.training import LoRAConfig, LossSpec, Quantization

JobStatus = Literal["queued", "running", "completed", "failed", "cancelled"]
FINAL_STATUSES: frozenset[str] = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run: an adapter with its optimizer.

    Attributes:
        loss: what ``forward_backward`` uses when the request names no loss.
        status: ``creating`` until operation 0 is done, then ``ready``.
        step: optimizer steps done and committed.
        user_metadata: the creator's own strings.
        from_checkpoint: it began with a checkpoint's weights and not with those of its seed.
        base_folder, base_fingerprint: what ``base_model`` meant when the run was made; empty if unknown.
        owner: whose it is.
    """

    run_id: str
    base_model: str
    lora: LoRAConfig
    loss: LossSpec
    seed: int
    quantization: Quantization
    status: Literal["creating", "ready"]
    created_at_s: float
    step: int = 0
    device: str = ""
    num_trainable_parameters: int = 0
    target_modules: list[str] = field(default_factory=list)
    user_metadata: dict[str, str] = field(default_factory=dict)
    from_checkpoint: bool = False
    base_folder: str = ""
    base_fingerprint: str = ""
    owner: str = LOCAL_OWNER


@dataclass(frozen=True, slots=True, eq=False)
class JobRecord:
    """An accepted operation and, when it has ended, its result or error.

    Attributes:
        run_id: None for sampling from a bare base model.
        seq: number of the operation in its run; None for operations outside the order (sampling).
        queue_position: jobs of its run ahead of it, the running one included; None unless queued.
        wait_reason: why it is not running yet, in words; None unless queued.
        estimated_wait_s: about how long it will wait; None unless queued, and while nothing is known.
        owner: whose it is: of a run's job, the run's owner.
    """

    job_id: str
    run_id: str | None
    seq: int | None
    kind: str
    status: JobStatus
    created_at_s: float
    started_at_s: float | None = None
    finished_at_s: float | None = None
    result: Result | None = None
    error: ErrorInfo | None = None
    queue_position: int | None = None
    wait_reason: str | None = None
    estimated_wait_s: float | None = None
    owner: str = LOCAL_OWNER


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A named, durable state of a run.

    Attributes:
        is_sampler: holds weights only, no optimizer.
        folder: where it lies, in PEFT's layout.
        expires_at_s: when it is deleted; None for never.
        is_public: marked as published by its owner.
        user_metadata: the owner's own strings.
        is_pinned: no rule and no budget deletes it.
        score: how good its owner found it; more is better. None if nobody said.
        owner: whose it is.
        quantization: of the base model that it was trained on.
    """

    run_id: str
    name: str
    base_model: str
    lora: LoRAConfig
    created_at_s: float
    size_bytes: int
    is_sampler: bool
    step: int
    folder: str
    expires_at_s: float | None = None
    is_public: bool = False
    user_metadata: dict[str, str] = field(default_factory=dict)
    owner: str = LOCAL_OWNER
    quantization: Quantization = "none"
    is_pinned: bool = False
    score: float | None = None


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session of the Tinker wire: what one client object makes belongs to it.

    Attributes:
        tags, user_metadata, display_name, project_id: the client's own words.
        status: ``running`` until the client says how it ended.
        owner: whose it is.
    """

    session_id: str
    created_at_s: float
    tags: list[str]
    user_metadata: dict[str, str]
    display_name: str | None = None
    project_id: str | None = None
    status: str = "running"
    owner: str = LOCAL_OWNER


@dataclass(frozen=True, slots=True)
class SamplerRecord:
    """Weights that a client samples from, by a name of their own (the Tinker wire).

    Attributes:
        session_id: the session it was made in.
        run_id, checkpoint: whose adapter; both None for the bare base model.
        owner: whose it is.
    """

    sampler_id: str
    session_id: str
    base_model: str
    created_at_s: float
    run_id: str | None = None
    checkpoint: str | None = None
    owner: str = LOCAL_OWNER


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as it is remembered: never the key itself.

    Attributes:
        key_id: the part of the key that may be shown.
        name: what it is for, in its maker's words.
        owner: whose things it reaches.
        scopes: what it allows; see ``types/principal.py``.
        digest: sha256 of the whole key, in hex.
        expires_at_s: when it stops working by itself; None for never.
        revoked_at_s: when it was taken back; None while it holds.
    """

    key_id: str
    name: str
    owner: str
    scopes: tuple[Scope, ...]
    digest: str
    created_at_s: float
    expires_at_s: float | None = None
    revoked_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class JobSpan:
    """The times of a job that has ended, for a timeline.

    Attributes:
        lane: the run or sampler it belongs to.
        started_at_s: None if it never ran.
    """

    job_id: str
    lane: str
    kind: str
    status: JobStatus
    seq: int | None
    created_at_s: float
    started_at_s: float | None
    finished_at_s: float


@dataclass(frozen=True, slots=True)
class BaseModelRecord:
    """A base model by name: where it lies and what its config says, without its weights.

    Attributes:
        name: as the user says it (``nano``, an alias, a hub id, a folder, each also with ``:nf4`` or ``:int8``).
        folder: local folder with ``config.json`` and safetensors files.
        context_length: most tokens of a sequence.
        vocab_size: ids run from 0 to vocab_size - 1.
        quantization: how its linear layers are held when it is used by this name alone.
    """

    name: str
    folder: str
    architecture: str
    context_length: int
    vocab_size: int
    resident: bool = False
    quantization: Quantization = "none"

    @property
    def bare_name(self) -> str:
        """The name without its quantization."""
        return self.name.removesuffix(f":{self.quantization}")


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A run's whole state on disk, taken after the operation ``seq``."""

    run_id: str
    seq: int
    step: int
    folder: str
    created_at_s: float
    size_bytes: int
