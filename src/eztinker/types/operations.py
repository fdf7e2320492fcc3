"""What a run can be asked to do, and the answers: the payload of the log.

An accepted operation becomes a job. Replaying a run's completed operations of the kinds in
``STATE_KINDS`` over its newest snapshot gives its state. Knows nothing of scheduling or execution.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from eztinker.types.sampling import SampledSequence, SamplingParams, WeightsRef
from eztinker.types.training import AdamParams, Datum, LoRAConfig, LossSpec, Quantization


@dataclass(frozen=True, slots=True)
class CreateRun:
    """Make the adapter of a new run; always the run's operation number 0.

    Attributes:
        source_run_id, source_name: a checkpoint whose weights the run begins with; both or neither.
        with_optimizer: also take over its Adam moments and step.
    """

    base_model: str
    lora: LoRAConfig
    seed: int
    quantization: Quantization = "none"
    source_run_id: str | None = None
    source_name: str | None = None
    with_optimizer: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class TrainingPass:
    """A pass over data; unless ``forward_only`` its gradient is added to the run's."""

    data: list[Datum]
    loss: LossSpec
    forward_only: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens the model reads, over all data."""
        return sum(datum.num_tokens for datum in self.data)


@dataclass(frozen=True, slots=True)
class OptimStep:
    """Apply the accumulated gradient and clear it."""

    adam: AdamParams


@dataclass(frozen=True, slots=True)
class SaveCheckpoint:
    """Write the run's adapter (and optimizer) under a name.

    Attributes:
        ttl_s: seconds after which it is deleted; None keeps it.
        user_metadata: the caller's own strings.
    """

    name: str
    with_optimizer: bool = True
    overwrite: bool = False
    ttl_s: int | None = None
    user_metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadCheckpoint:
    """Replace the run's state with a checkpoint's; drops an accumulated gradient.

    Attributes:
        source_run_id: the run that the checkpoint belongs to.
        name: of the checkpoint.
        with_optimizer: also restore Adam moments and step; False starts a fresh optimizer.
    """

    source_run_id: str
    name: str
    with_optimizer: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Continue a prompt ``num_samples`` times.

    Attributes:
        weights: whose weights.
        prompt_tokens: int32 ids [T], at least one.
        params: how to draw.
        num_samples: independent continuations of the one prompt.
        prompt_logprobs: also report log p of every prompt token (NaN at position 0).
        topk_prompt_logprobs: also report the k likeliest tokens of every prompt position; 0 is off.
        prompt_text: the text the caller sent, echoed into the native answer; None for token prompts.
        prompt_logprobs_last_n: score only the last n positions of the prompt; None scores all.
        topk_sample_logprobs: also report the k likeliest tokens of every generated position; 0 is off.
        target_prompt_ids: int64 [T - 1, K], ids to score at positions 1 to T - 1; -1 asks nothing.
        sparse_targets: those came in compressed rows, and so shall the answer.
        num_prompt_alternatives: independent draws at every position of the prompt after the first.
    """

    weights: WeightsRef
    prompt_tokens: np.ndarray
    params: SamplingParams
    num_samples: int = 1
    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = 0
    prompt_text: str | None = None
    prompt_logprobs_last_n: int | None = None
    topk_sample_logprobs: int = 0
    target_prompt_ids: np.ndarray | None = None
    sparse_targets: bool = False
    num_prompt_alternatives: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationItem:
    """One response to score. ``response_tokens`` empty: the run answers the prompt first."""

    prompt_tokens: np.ndarray
    response_tokens: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Evaluate:
    """Score responses under the run's current weights.

    Attributes:
        temperature: log-probabilities are those of log softmax(logits / temperature); also the
            sampling temperature of responses that the run has to write itself. Greater than 0.
        max_new_tokens: bound on those responses.
        seed: of those responses.
    """

    items: list[EvaluationItem]
    temperature: float = 1.0
    max_new_tokens: int = 50
    seed: int = 0


Operation = (
    CreateRun | TrainingPass | OptimStep | SaveCheckpoint | LoadCheckpoint | Sample | Evaluate
)

OPERATION_TYPES: dict[str, type[Operation]] = {
    "create_run": CreateRun,
    "forward_backward": TrainingPass,
    "forward": TrainingPass,
    "optim_step": OptimStep,
    "save_checkpoint": SaveCheckpoint,
    "load_checkpoint": LoadCheckpoint,
    "sample": Sample,
    "evaluate": Evaluate,
}

STATE_KINDS = frozenset({"forward_backward", "optim_step", "load_checkpoint"})
"""Kinds that change a run's state and are therefore replayed."""


def kind_of(operation: Operation) -> str:
    """The job kind of an operation, a key of ``OPERATION_TYPES``."""
    if isinstance(operation, TrainingPass):
        return "forward" if operation.forward_only else "forward_backward"
    return next(kind for kind, cls in OPERATION_TYPES.items() if cls is type(operation))


# Answers ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunCreated:
    """Facts about the new adapter.

    Attributes:
        source_run_id, source_name: the checkpoint it began with; None for fresh weights.
    """

    run_id: str
    device: str
    num_trainable_parameters: int
    target_modules: list[str]
    source_run_id: str | None = None
    source_name: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PassResult:
    """Answer of ``TrainingPass``.

    Attributes:
        loss: Σ w·loss, or that over Σ w, as ``LossSpec.reduction`` asks.
        num_tokens: positions that count (weight not 0).
        logprobs: per datum, float32 log p of the targets, the shape of ``target_tokens``; NaN where it was
            not computed (weight 0 with reduction ``mean``).
        metrics: further figures, keys ``name:reduction``; contains ``loss:sum``.
    """

    loss: float
    num_tokens: int
    logprobs: list[np.ndarray]
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepResult:
    """Answer of ``OptimStep``: steps done so far, gradient norm before clipping."""

    step: int
    grad_norm: float
    learning_rate: float


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """Answer of ``SaveCheckpoint``; paths as the operator's file system knows them."""

    run_id: str
    name: str
    path: str
    size_bytes: int
    step: int


@dataclass(frozen=True, slots=True)
class CheckpointLoaded:
    """Answer of ``LoadCheckpoint``."""

    run_id: str
    name: str
    step: int
    with_optimizer: bool


@dataclass(frozen=True, slots=True, eq=False)
class SampleResult:
    """Answer of ``Sample``.

    Attributes:
        sequences: ``num_samples`` of them.
        step: optimizer steps behind the weights used; 0 for the bare base model.
        num_prompt_tokens: length of the prompt.
        num_reused_prompt_tokens: those of them whose keys and values were known from earlier requests.
        prompt_logprobs: float32 [T], NaN at position 0; None unless asked for.
        topk_prompt_ids, topk_prompt_logprobs: [T, k]; None unless asked for.
        target_prompt_logprobs: float32, as ``Sample.target_prompt_ids``; 0 where nothing was asked.
        alternative_ids, alternative_logprobs: [T - 1, k]; None unless asked for.
    """

    sequences: list[SampledSequence]
    step: int
    num_prompt_tokens: int
    prompt_logprobs: np.ndarray | None = None
    topk_prompt_ids: np.ndarray | None = None
    topk_prompt_logprobs: np.ndarray | None = None
    target_prompt_logprobs: np.ndarray | None = None
    alternative_ids: np.ndarray | None = None
    alternative_logprobs: np.ndarray | None = None
    num_reused_prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Answer of ``Evaluate``: per item, over the response tokens."""

    scores: list[float]
    log_probs: list[float]
    num_tokens: list[int]


Result = (
    RunCreated
    | PassResult
    | StepResult
    | CheckpointSaved
    | CheckpointLoaded
    | SampleResult
    | EvaluationResult
)

RESULT_TYPES: dict[str, type] = {
    "create_run": RunCreated,
    "forward_backward": PassResult,
    "forward": PassResult,
    "optim_step": StepResult,
    "save_checkpoint": CheckpointSaved,
    "load_checkpoint": CheckpointLoaded,
    "sample": SampleResult,
    "evaluate": EvaluationResult,
}
