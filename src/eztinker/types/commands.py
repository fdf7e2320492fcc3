"""What the server process tells an engine worker: its settings at birth, then one command after another.

Commands hold operations, plans and paths, never tensors of a device. Sent by ``engine/loop.py`` and those who
work for it, executed by ``engine/worker/worker.py``; each says which event of ``events.py`` answers it. Encoded by
``codec.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from eztinker.types.operations import Evaluate, OptimStep, Sample, TrainingPass
from eztinker.types.plans import PassPlan
from eztinker.types.training import LoRAConfig, Quantization


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
    """Execute a pass of a run by a plan. Answer: ``JobDone`` (with the plan as executed)."""

    job_id: str
    run_id: str
    operation: TrainingPass
    plan: PassPlan


@dataclass(frozen=True, slots=True)
class RunOptimStep:
    """Execute an optimizer step. Answer: ``JobDone``."""

    job_id: str
    run_id: str
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

COMMAND_TYPES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        WorkerSettings, LoadBaseModel, UnloadBaseModel, OpenRun, CloseRun, RunPass, RunOptimStep, WriteState, ReadState,
        ImportAdapter, RunSample, RunEvaluate, CancelJob, Shutdown,
    )
}  # fmt: skip
