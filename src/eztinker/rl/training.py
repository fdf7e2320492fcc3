"""Optimizer steps, sent ahead of their results.

Knows the client, how a step's data are split into requests without changing its gradient, and how many steps
may be on their way. What is in a datum and which are chosen is the caller's affair. Called by the recipes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from eztinker.errors import InvalidRequestError
from eztinker.rl.candidates import JOB_TIMEOUT_S

T = TypeVar("T")

MAX_STEPS_IN_FLIGHT = 32
MAX_DATA_PER_REQUEST = 512
"""Below the server's own limit (1,024), so that a body of long sequences stays small."""
_GROUPED_LOSSES = frozenset({"dpo"})
IGNORED_LABEL = -100
_LOG_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class AdamW:
    """What all steps of a training share; the learning rate comes with each step.

    Attributes:
        weight_decay: decoupled, at least 0.
        betas: of the moments, each in [0, 1).
        eps: above 0.
        grad_clip_norm: gradients are scaled down to this norm; None leaves them.
    """

    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    grad_clip_norm: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step to take.

    Attributes:
        data: data of ``forward_backward``; the loss is their mean, each label counting by its weight.
        learning_rate: of this step, above 0.
        loss_fn: None takes the run's.
        loss_fn_config: settings of the loss.
        is_sum: the weights carry the normalisation already: the loss is the plain sum.
        info: anything the caller wants back with the result.
    """

    data: Sequence[dict[str, Any]]
    learning_rate: float
    loss_fn: str | None = None
    loss_fn_config: Mapping[str, Any] = field(default_factory=dict)
    is_sum: bool = False
    info: Any = None


@dataclass(frozen=True, slots=True)
class TrainedStep:
    """One optimizer step that was taken.

    Attributes:
        step: its number in the run, from 1.
        loss: of its data before the step: the mean over the labels that count (or the sum, for ``is_sum``).
        grad_norm: of the gradient before clipping; None where the server does not say.
        learning_rate: that was used.
        num_tokens: labels that counted.
        logprobs: per datum and position before the step, where the server computed them (always for ``is_sum``).
        info: the step's ``info``.
    """

    step: int
    loss: float
    grad_norm: float | None = None
    learning_rate: float = 0.0
    num_tokens: int = 0
    logprobs: list[list[float | None]] = field(default_factory=list)
    info: Any = None


def in_batches(data: Sequence[T], batch_size: int) -> list[Sequence[T]]:
    """``data`` in pieces of ``batch_size``, the last one smaller."""
    return [data[start : start + batch_size] for start in range(0, len(data), batch_size)]


def train_steps(
    client: Any,
    run_id: str,
    batches: Sequence[Sequence[dict[str, Any]]],
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    grad_clip_norm: float | None = None,
) -> Iterator[TrainedStep]:
    """One forward-backward pass and one AdamW step for each batch, in order, at one learning rate."""
    adamw = AdamW(weight_decay, grad_clip_norm=grad_clip_norm)
    return run_steps(client, run_id, (Step(batch, learning_rate) for batch in batches), adamw)


def run_steps(
    client: Any,
    run_id: str,
    steps: Iterable[Step],
    adamw: AdamW,
    *,
    max_in_flight: int = MAX_STEPS_IN_FLIGHT,
) -> Iterator[TrainedStep]:
    """Take the steps in order and yield each as it is done.

    The server keeps the order of a run's operations, so up to ``max_in_flight`` steps are on their way while
    earlier results are read, and it never waits for the network.

    Raises:
        JobFailedError: a pass or step failed; the steps before it stay applied.
    """
    waiting: deque[tuple[Step, list[Any], Any]] = deque()
    for step in steps:
        if len(waiting) >= max_in_flight:
            yield _result(*waiting.popleft())
        waiting.append((step, *_submit(client, run_id, step, adamw)))
    while waiting:
        yield _result(*waiting.popleft())


def _submit(client: Any, run_id: str, step: Step, adamw: AdamW) -> tuple[list[Any], Any]:
    passes = [
        client.submit_forward_backward(run_id, **arguments) for arguments in pass_arguments(step)
    ]
    stepped = client.submit_optim_step(
        run_id,
        learning_rate=step.learning_rate,
        weight_decay=adamw.weight_decay,
        betas=adamw.betas,
        eps=adamw.eps,
        grad_clip_norm=adamw.grad_clip_norm,
    )
    return passes, stepped


def pass_arguments(step: Step) -> list[dict[str, Any]]:
    """Arguments of the ``forward_backward`` calls whose gradients add up to the step's.

    One call where the data fit into it. Otherwise each gets its part of the data and the sum instead of the
    mean, with weights divided by their total, so that the gradient is that of the one mean.

    Raises:
        InvalidRequestError: a loss over pairs with more data than one request takes.
    """
    named = {"loss_fn": step.loss_fn} if step.loss_fn else {}
    config = dict(step.loss_fn_config)
    if len(step.data) <= MAX_DATA_PER_REQUEST and not step.is_sum:
        return [{"data": list(step.data), **named, **_settings(config)}]
    if step.loss_fn in _GROUPED_LOSSES:
        raise InvalidRequestError(
            f"A step of {step.loss_fn} takes at most {MAX_DATA_PER_REQUEST} sequences, got {len(step.data)}. Lower "
            "per_device_train_batch_size or gradient_accumulation_steps.",
            field="per_device_train_batch_size",
        )
    data = list(step.data) if step.is_sum else _normalised(step.data)
    summed = _settings(config | {"reduction": "sum"})
    parts = in_batches(data, MAX_DATA_PER_REQUEST)
    return [{"data": list(part), **named, **summed} for part in parts]


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    return {"loss_fn_config": config} if config else {}


def _normalised(data: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The data with weights that add up to 1 over all labels that count."""
    total = sum(map(weight_of, data))
    return [
        {**datum, "weights": [weight / total for weight in weights_of(datum)]} for datum in data
    ]


def weights_of(datum: Mapping[str, Any]) -> list[float]:
    """One weight per label: 0 on ignored ones, and on the first, which nothing precedes."""
    labels = datum.get("target_ids", datum["input_ids"])
    weights = datum.get("weights") or [1.0] * len(labels)
    counting = [
        0.0 if label == IGNORED_LABEL else float(weight)
        for label, weight in zip(labels, weights, strict=True)
    ]
    return [0.0, *counting[1:]]


def weight_of(datum: Mapping[str, Any]) -> float:
    """Sum of a datum's weights."""
    return sum(weights_of(datum))


def steps_taken(
    client: Any, run_id: str, after: int, *, has_logprobs: bool = True
) -> list[TrainedStep]:
    """Steps that a run has taken, as its log on the server tells them: for a program that did not live to hear of them.

    Args:
        after: number of the last step that is known.
        has_logprobs: fetch the log-probabilities of their data too.

    Returns:
        One for each step above ``after``, in order; of steps that were taken twice (a checkpoint was loaded between) the
        later one. ``info`` is None.
    """
    found: dict[int, TrainedStep] = {}
    passes: list[dict[str, Any]] = []
    seen = None
    while entries := client.get_log(run_id, after=seen, limit=_LOG_PAGE):
        seen = entries[-1]["seq"]
        for entry in entries:
            is_done = entry["status"] == "completed"
            if entry["kind"] == "load_checkpoint":
                passes = []  # their gradient went with it
            elif entry["kind"] == "forward_backward" and is_done:
                passes.append(entry)
            elif entry["kind"] == "optim_step" and is_done:
                number = entry["result"]["step"]
                if number > after and passes:
                    found[number] = _taken(client, passes, entry["result"], has_logprobs)
                passes = []
    return [found[number] for number in sorted(found)]


def _taken(
    client: Any,
    passes: Sequence[Mapping[str, Any]],
    stepped: Mapping[str, Any],
    has_logprobs: bool,
) -> TrainedStep:
    fetched = passes if has_logprobs else []
    whole = [client.wait_for_job(one["job_id"])["result"] for one in fetched]
    return TrainedStep(
        step=stepped["step"],
        loss=sum(one["result"]["loss"] for one in passes),
        grad_norm=stepped.get("grad_norm"),
        learning_rate=stepped.get("learning_rate", 0.0),
        num_tokens=sum(one["result"].get("num_tokens", 0) for one in passes),
        logprobs=[row for result in whole for row in result.get("logprobs", [])],
    )


def _result(step: Step, passes: list[Any], stepped: Any) -> TrainedStep:
    results = [handle.result(JOB_TIMEOUT_S) for handle in passes]
    done = stepped.result(JOB_TIMEOUT_S)
    return TrainedStep(
        step=done["step"],
        loss=sum(result["loss"] for result in results),
        grad_norm=done.get("grad_norm"),
        learning_rate=step.learning_rate,
        num_tokens=sum(result.get("num_tokens", 0) for result in results),
        logprobs=[row for result in results for row in result.get("logprobs", [])],
        info=step.info,
    )
