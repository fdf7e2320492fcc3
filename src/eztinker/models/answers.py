"""Answers of the native API (``/v1``), field by field, for the OpenAPI document and for clients.

Times are ISO 8601 in UTC. The server builds its answers as plain dictionaries (``api/answers.py``) and
does not run them through these classes; a test holds the two together.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Answer):
    """What went wrong: expected, came, and what to do."""

    code: str = Field(description="Stable; scripts may test it.")
    message: str
    field: str | None = None
    details: dict[str, Any] | None = None


class JobErrorDetail(ErrorDetail):
    """Why a job failed."""

    category: str = Field(description="user, capacity or server: who can mend it.")


class ErrorAnswer(Answer):
    """Every answer with a status of 400 or more."""

    error: ErrorDetail
    request_id: str


class HealthAnswer(BaseModel):
    """``GET /health``."""

    status: Literal["ok"]
    version: str
    timestamp: str
    engine: str
    engine_error: str | None = None
    warnings: list[str] = Field([], description="What whoever runs the server should mend.")


class RunCreatedAnswer(Answer):
    """``POST /v1/runs``."""

    run_id: str
    status: Literal["created"]
    message: str


class RunAnswer(Answer):
    """A run."""

    run_id: str
    base_model: str
    device: str
    status: Literal["creating", "ready"]
    step: int = Field(description="Optimizer steps done.")
    created_at: str
    seed: int
    quantization: str
    lora_config: dict[str, Any]
    loss_config: dict[str, Any]
    num_trainable_parameters: int
    target_modules: list[str]
    user_metadata: dict[str, str]


class RunsAnswer(Answer):
    """``GET /v1/runs``, newest first."""

    runs: list[RunAnswer]
    total: int


class RunDeletedAnswer(Answer):
    """``DELETE /v1/runs/{run_id}``."""

    status: Literal["deleted"]
    run_id: str


class PassAnswer(Answer):
    """Result of forward_backward and forward."""

    loss: float
    batches: int = Field(description="Number of data.")
    num_tokens: int = Field(description="Labels that count.")
    logprobs: list[list[Any]] = Field(
        description="Per datum one per label, aligned with input_ids; null at position 0 and where it was not computed: at labels that do not count, with reduction mean."
    )
    metrics: dict[str, float | None]


class StepAnswer(Answer):
    """Result of optim_step."""

    status: Literal["optimizer_step_completed"]
    step: int
    grad_norm: float | None = Field(description="Before clipping.")
    learning_rate: float


class SequenceAnswer(Answer):
    """One sampled sequence, without the prompt."""

    text: str = Field(description="Without stop text and special tokens.")
    tokens: list[int] = Field(description="With the stop tokens.")
    logprobs: list[float | None]
    stop_reason: Literal["stop", "length"]


class SampleAnswer(Answer):
    """Result of sample."""

    generated_text: str = Field(description="The prompt and the first answer.")
    sequences: list[SequenceAnswer]
    model: str = Field(description="The base model.")
    run_id: str | None
    checkpoint: str | None
    step: int = Field(description="Optimizer steps behind the weights.")
    seed: int
    usage: dict[str, int]
    topk_prompt_logprobs: list[Any] | None = Field(
        None,
        description="Per prompt position [id, log-probability] pairs, best first; null at position 0, and without being asked for.",
    )


class SaveAnswer(Answer):
    """Result of save."""

    run_id: str
    name: str
    path: str
    step: int
    size_bytes: int


class LoadAnswer(Answer):
    """Result of load."""

    run_id: str
    name: str
    step: int
    with_optimizer: bool


class EvaluationAnswer(Answer):
    """Result of evaluate, per batch over the response's tokens."""

    scores: list[float | None] = Field(description="Mean loss.")
    log_probs: list[float | None] = Field(description="Mean log-probability.")
    num_tokens: list[int]


class RunCreatedResult(Answer):
    """Result of the job that made a run."""

    run_id: str
    device: str
    num_trainable_parameters: int
    target_modules: list[str]


JobStatusField = Literal["queued", "running", "completed", "failed", "cancelled"]
ResultField = (
    PassAnswer
    | StepAnswer
    | SampleAnswer
    | SaveAnswer
    | LoadAnswer
    | EvaluationAnswer
    | RunCreatedResult
)


class JobSubmittedAnswer(Answer):
    """Answer of a POST that makes a job; ``result`` or ``error`` when it has ended already."""

    job_id: str
    status: JobStatusField
    result: ResultField | None = None
    error: JobErrorDetail | None = None


class JobSummary(Answer):
    """A job without its result."""

    job_id: str
    run_id: str | None
    kind: str
    status: JobStatusField
    created_at: str
    started_at: str | None
    finished_at: str | None
    queue_position: int | None = Field(description="Jobs ahead of it; null unless queued.")
    wait_reason: str | None = Field(description="Why it is not running yet; null unless queued.")
    estimated_wait_s: float | None = Field(
        description="About how long it will wait; null unless queued, and while nothing is known."
    )
    error: JobErrorDetail | None


class JobAnswer(JobSummary):
    """``GET /v1/jobs/{job_id}``."""

    result: ResultField | None


class JobsAnswer(Answer):
    """``GET /v1/jobs``, newest first; results only with the single job."""

    jobs: list[JobSummary]
    total: int


class LogEntry(Answer):
    """One operation of a run that has ended."""

    seq: int = Field(description="The operation's number in its run.")
    job_id: str
    kind: str
    status: JobStatusField
    started_at: str | None
    finished_at: str
    result: dict[str, Any] = Field(
        description="The result's numbers; its arrays stay with the job."
    )
    error: JobErrorDetail | None


class LogAnswer(Answer):
    """``GET /v1/runs/{run_id}/log``, oldest first."""

    entries: list[LogEntry]


class CheckpointAnswer(Answer):
    """A checkpoint."""

    name: str
    run_id: str
    base_model: str
    created_at: str
    size_bytes: int
    is_sampler: bool = Field(description="Holds weights only, no optimizer.")
    step: int
    path: str
    quantization: str = Field(description="Of the base model it was trained on.")
    pinned: bool
    score: float | None
    expires_at: str | None


class CheckpointsAnswer(Answer):
    """``GET /v1/checkpoints`` and ``GET /v1/runs/{run_id}/checkpoints``."""

    checkpoints: list[CheckpointAnswer]


class PrunedCheckpoint(Answer):
    """A checkpoint that a rule or budget deletes."""

    run_id: str
    name: str
    size_bytes: int
    reason: str = Field(description="The rule or budget, as the settings name it.")


class PruneAnswer(Answer):
    """``POST /v1/checkpoints/prune``."""

    dry_run: bool
    checkpoints: list[PrunedCheckpoint]
    freed_bytes: int


class FileEntry(Answer):
    """A file of a checkpoint."""

    name: str
    size_bytes: int


class FilesAnswer(Answer):
    """``GET /v1/runs/{run_id}/checkpoints/{name}/files``."""

    files: list[FileEntry]


class CheckpointDeletedAnswer(Answer):
    """``DELETE /v1/runs/{run_id}/checkpoints/{name}``."""

    status: Literal["deleted"]
    run_id: str
    name: str


class ModelAnswer(BaseModel):
    """Something that can be sampled, in OpenAI's shape with further fields."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: Literal["base_model", "run", "checkpoint"]
    base_model: str


class ModelsAnswer(Answer):
    """``GET /v1/models``."""

    object: Literal["list"]
    data: list[ModelAnswer]
    default: str = Field(description="The base model that answers when a request names none.")


class TokenizerAnswer(Answer):
    """``GET /v1/base_models/{name}/tokenizer``."""

    model: str
    encoding: Literal["utf-8"]
    files: dict[str, str] = Field(description="File name -> text.")


class KeyAnswer(Answer):
    """A key as it is remembered, without the key itself."""

    key_id: str
    name: str
    owner: str
    scopes: list[str]
    created_at: str
    expires_at: str | None
    revoked_at: str | None


class KeyCreatedAnswer(KeyAnswer):
    """``POST /v1/keys``."""

    key: str = Field(description="Shown here and never again.")


class KeysAnswer(Answer):
    """``GET /v1/keys``."""

    keys: list[KeyAnswer]
