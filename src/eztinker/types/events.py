"""What an engine worker tells the server process: that it is ready, what it has done, what failed.

Every event carries the epoch that the worker was started with, so that a late answer of a dead worker is
recognised. Sent through ``engine/worker/outbox.py``, received by ``engine/supervisor.py``; encoded by ``codec.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from eztinker.errors import EZTinkerError
from eztinker.types.error_info import ErrorInfo
from eztinker.types.plans import PassPlan
from eztinker.types.training import LoRAConfig, Quantization


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
    loss_functions: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StartRefused:
    """The worker cannot start with these settings, now or later; it ends."""

    epoch: int
    error: ErrorInfo


def start_refused(epoch: int, error: Exception) -> StartRefused:
    """What a worker says that its settings keep from starting: a device, a plugin."""
    if isinstance(error, EZTinkerError):
        info = ErrorInfo.of(error)
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
class SignOfLife:
    """Sent from inside long work: at least one a second while the worker is busy."""

    epoch: int


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
    | SignOfLife
)

EVENT_TYPES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        WorkerReady, StartRefused, BaseModelLoaded, BaseModelFailed, JobDone, JobFailed, StateWritten, StateRead,
        AdapterImported, TokensDrawn, SignOfLife,
    )
}  # fmt: skip
