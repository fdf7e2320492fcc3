"""What crosses the boundary between the server process and an engine worker.

Commands go down, events come up. Every event carries the epoch that the worker was started with, so
that a late answer of a dead worker is recognised. Messages hold operations, plans and paths, never
tensors of a device. Sent by ``engine/loop.py``, executed by ``engine/worker/worker.py``; encoded by
``types/codec.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

from eztinker.errors import EZTinkerError
from eztinker.types.operations import Evaluate, OptimStep, Sample, TrainingPass
from eztinker.types.training import LoRAConfig, Quantization


@dataclass(frozen=True, slots=True)
class PassPlan:
    """How one pass is cut into micro-batches; logged, so that a replay computes the same bits.

    Attributes:
        micro_batches: indices into the operation's data; together each index exactly once.
        num_threads: torch threads; 0 before the worker has filled in its own number.
        dtype: compute type; empty before the worker has filled it in.
        checkpointing: recompute activations in the backward pass.
        may_share: micro-batches may go through the model together with those of other runs.
        frames: after such sharing, of each micro-batch (its first flat row, flat rows of the model pass, 1 if
            that was computed with half of the threads, first row and number of the stretches whose adapters were
            computed with its own), empty for one that was alone; a replay lays it out in the same way, which
            gives the same bits.
    """

    micro_batches: list[list[int]]
    num_threads: int = 0
    dtype: str = ""
    checkpointing: bool = False
    may_share: bool = False
    frames: list[list[int]] = dataclass_field(default_factory=list)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is told at birth.

    Attributes:
        epoch: number of this worker's life; every event carries it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        num_threads: torch threads; 0 takes the number of physical cores.
        plugins: modules to import at start.
        micro_batch_tokens: bound on a micro-batch when the worker plans itself (evaluation).
        kv_cache_tokens: bound on cached tokens; 0 leaves it to ``LoadBaseModel``.
        deterministic: equal work gives equal bits whatever else is being done.
        cuda_graphs: decode steps are recorded and replayed on CUDA.
        known_logits: folder for what transformers said of base models; empty keeps nothing.
    """

    epoch: int
    device: str = "auto"
    dtype: str = "auto"
    num_threads: int = 0
    plugins: tuple[str, ...] = ()
    micro_batch_tokens: int = 4096
    kv_cache_tokens: int = 0
    deterministic: bool = False
    cuda_graphs: bool = True
    known_logits: str = ""


# Commands -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoadBaseModel:
    """Read a base model's weights unless they are resident. Answer: ``BaseModelLoaded``.

    Attributes:
        num_copies: of its weights in a layout that products like, at most.
        cache_tokens: bound on its cached tokens, unless the setting ``kv_cache_tokens`` gives one; 0 derives it from
            free memory.
    """

    base_model: str
    folder: str
    quantization: Quantization = "none"
    num_copies: int = 3
    cache_tokens: int = 0


@dataclass(frozen=True, slots=True)
class UnloadBaseModel:
    """Free a base model under all its names; its runs were closed before. No answer."""

    base_model: str
    quantization: Quantization = "none"


@dataclass(frozen=True, slots=True)
class OpenRun:
    """Make a run resident: a fresh adapter from its seed, or the state in ``snapshot_folder``.

    Answer: ``JobDone`` with ``RunCreated``, or ``JobFailed``, under ``job_id``.
    """

    job_id: str
    run_id: str
    base_model: str
    lora: LoRAConfig
    seed: int
    snapshot_folder: str | None = None
    quantization: Quantization = "none"


@dataclass(frozen=True, slots=True)
class CloseRun:
    """Forget a run and free its memory. No answer."""

    run_id: str


@dataclass(frozen=True, slots=True, eq=False)
class RunPass:
    """Execute a pass of a run by a plan. Answer: ``JobDone`` (with the plan as executed).

    Attributes:
        seq: the operation's number in the run; with the run's seed it seeds dropout.
    """

    job_id: str
    run_id: str
    seq: int
    operation: TrainingPass
    plan: PassPlan


@dataclass(frozen=True, slots=True)
class RunOptimStep:
    """Execute an optimizer step. Answer: ``JobDone``."""

    job_id: str
    run_id: str
    seq: int
    operation: OptimStep


@dataclass(frozen=True, slots=True)
class WriteState:
    """Write a run's state into the existing empty ``folder`` and fsync each file.

    With ``background`` the tensors are copied at once and written by another thread (snapshots).
    Answer: ``StateWritten``, or ``JobFailed``, under ``job_id``.
    """

    job_id: str
    run_id: str
    folder: str
    with_optimizer: bool
    background: bool = False


@dataclass(frozen=True, slots=True)
class ImportAdapter:
    """Write the adapter in ``source_folder``, PEFT's layout, into the existing empty ``folder`` as ours.

    Answer: ``AdapterImported``, or ``JobFailed``, under ``job_id``.
    """

    job_id: str
    run_id: str
    base_model: str
    source_folder: str
    folder: str
    quantization: Quantization = "none"


@dataclass(frozen=True, slots=True)
class ReadState:
    """Replace a run's state with the one in ``folder``; drops its gradient. Answer: ``StateRead``."""

    job_id: str
    run_id: str
    folder: str
    with_optimizer: bool


@dataclass(frozen=True, slots=True, eq=False)
class RunSample:
    """Start sampling; other work goes on meanwhile. Answer: ``JobDone`` with ``SampleResult``.

    Attributes:
        checkpoint_folder: adapter to use instead of the run's current weights.
        quantization: of the base model, where no run's current weights say it.
        streamed: tell of its tokens while they are drawn (``TokensDrawn``).
    """

    job_id: str
    operation: Sample
    checkpoint_folder: str | None = None
    quantization: Quantization = "none"
    streamed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class RunEvaluate:
    """Score responses under a run's current weights. Answer: ``JobDone``."""

    job_id: str
    run_id: str
    operation: Evaluate
    plan: PassPlan


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Stop a job if it still runs. Answer: ``JobFailed`` with code ``cancelled``, or its result."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Leave after background writes are done."""


Command = (
    LoadBaseModel
    | UnloadBaseModel
    | OpenRun
    | CloseRun
    | RunPass
    | RunOptimStep
    | WriteState
    | ReadState
    | ImportAdapter
    | RunSample
    | RunEvaluate
    | CancelJob
    | Shutdown
)


# Events -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """An ``EZTinkerError`` as plain data."""

    code: str
    message: str
    category: str = "server"
    field: str | None = None
    details: dict[str, Any] = dataclass_field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """The worker imported torch and listens.

    Attributes:
        loss_functions: names registered by plugins, beyond those of ``types/losses.py``.
        memory_bytes: of the device, or of the machine as far as this process may use it; 0 if unknown.
    """

    epoch: int
    pid: int
    device: str
    num_threads: int
    loss_functions: list[str] = dataclass_field(default_factory=list)
    versions: dict[str, str] = dataclass_field(default_factory=dict)
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StartRefused:
    """The worker cannot start with these settings, now or later; it ends."""

    epoch: int
    error: ErrorInfo


def start_refused(epoch: int, error: Exception) -> StartRefused:
    """What a worker says that its settings keep from starting: a device, a plugin."""
    if isinstance(error, EZTinkerError):
        info = ErrorInfo(error.code, error.message, error.category, error.field, error.details)
    else:
        what = f"The engine cannot start: {error}. Mend the setting plugins or the installation."
        info = ErrorInfo("cannot_start", what, "user")
    return StartRefused(epoch, info)


@dataclass(frozen=True, slots=True)
class BaseModelLoaded:
    """A base model is resident (also the answer when it already was)."""

    epoch: int
    base_model: str
    architecture: str
    num_parameters: int
    context_length: int
    vocab_size: int
    dtype: str
    device: str
    size_bytes: int
    quantization: Quantization = "none"

    @property
    def label(self) -> str:
        """Its name for people, with how it is held."""
        is_whole = self.quantization == "none"
        bare = self.base_model.removesuffix(f":{self.quantization}")
        return self.base_model if is_whole else f"{bare} ({self.quantization})"


@dataclass(frozen=True, slots=True)
class BaseModelFailed:
    """A base model could not be loaded."""

    epoch: int
    base_model: str
    error: ErrorInfo
    quantization: Quantization = "none"


@dataclass(frozen=True, slots=True, eq=False)
class JobDone:
    """A job's result; not visible to anyone before it is committed.

    Attributes:
        result: the encoded answer (the class that ``RESULT_TYPES`` gives for the job's kind), stored
            as it comes.
        executed_plan: the plan as it was really executed (finer than asked for after an
            out-of-memory); None where there was no plan.
        compute_s: seconds of the device spent on the job.
    """

    epoch: int
    job_id: str
    result: bytes
    executed_plan: PassPlan | None = None
    compute_s: float = 0.0


@dataclass(frozen=True, slots=True)
class JobFailed:
    """A job ended without effect: the run is as it was before."""

    epoch: int
    job_id: str
    error: ErrorInfo


@dataclass(frozen=True, slots=True)
class StateWritten:
    """Files of a checkpoint or snapshot are on disk, each fsynced.

    Attributes:
        files: name relative to the folder -> sha256 in hex.
        step: optimizer steps done at that state.
    """

    epoch: int
    job_id: str
    run_id: str
    step: int
    files: dict[str, str]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StateRead:
    """A run now has the state of a folder."""

    epoch: int
    job_id: str
    run_id: str
    step: int


@dataclass(frozen=True, slots=True)
class AdapterImported:
    """A foreign adapter is on disk in our form, each file fsynced.

    Attributes:
        lora: the configuration of a run that can take it.
        files: name relative to the folder -> sha256 in hex.
    """

    epoch: int
    job_id: str
    lora: LoRAConfig
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class TokensDrawn:
    """Tokens of streamed jobs, drawn in one step or a few; entry i of every list belongs to one sequence.

    Attributes:
        job_ids, samples: whose tokens they are.
        places: of the first of them in its sequence, from 0.
        tokens, logprobs: ids and log-probabilities.
        topk_ids, topk_logprobs: the likeliest tokens at each place, best first; empty where nobody asked.
    """

    epoch: int
    job_ids: list[str]
    samples: list[int]
    places: list[int]
    tokens: list[list[int]]
    logprobs: list[list[float]]
    topk_ids: list[list[list[int]]]
    topk_logprobs: list[list[list[float]]]


@dataclass(frozen=True, slots=True)
class Progress:
    """A sign of life from inside long work: at least one a second while the worker is busy."""

    epoch: int
    busy_with: str
    num_running_samples: int = 0


Event = (
    WorkerReady
    | StartRefused
    | BaseModelLoaded
    | BaseModelFailed
    | JobDone
    | JobFailed
    | StateWritten
    | StateRead
    | AdapterImported
    | TokensDrawn
    | Progress
)

COMMAND_TYPES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        WorkerSettings, LoadBaseModel, UnloadBaseModel, OpenRun, CloseRun, RunPass, RunOptimStep, WriteState, ReadState,
        ImportAdapter, RunSample, RunEvaluate, CancelJob, Shutdown,
    )
}  # fmt: skip
EVENT_TYPES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        WorkerReady, StartRefused, BaseModelLoaded, BaseModelFailed, JobDone, JobFailed, StateWritten, StateRead,
        AdapterImported, TokensDrawn, Progress,
    )
}  # fmt: skip
