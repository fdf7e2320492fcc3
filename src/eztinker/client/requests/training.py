"""What the client asks a run to compute: passes, optimizer steps, scores of responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eztinker.client import answers
from eztinker.client.answers import Json
from eztinker.client.request import Request, mapping, plain, post, run_path
from eztinker.errors import InvalidRequestError


def forward_backward(
    run_id: str,
    input_ids: Any = None,
    target_ids: Any = None,
    weights: Any = None,
    *,
    data: Sequence[Any] | None = None,
    loss_fn: str | None = None,
    loss_fn_config: Mapping[str, Any] | None = None,
) -> Request[Json]:
    """Add the gradient of a loss to what the run has gathered since its last ``optim_step``.

    Args:
        run_id: the run.
        input_ids: token ids of one sequence [T], as a list, array or tensor.
        target_ids: labels [T] aligned with ``input_ids`` (the server shifts, -100 is ignored); default
            ``input_ids``, which is plain language modelling.
        weights: one per label [T]; default 1 each.
        data: a list of sequences as dicts of these three, instead of them; also with ``logprobs`` and
            ``advantages`` for the losses that need them.
        loss_fn: instead of the run's loss.
        loss_fn_config: settings of the loss; ``{"reduction": "sum"}`` sums instead of averaging.

    Returns:
        ``{"loss", "batches", "num_tokens", "logprobs", "metrics"}``: ``loss`` is the mean over the labels of
        the whole request, ``num_tokens`` how many count.
    """
    fields = {"input_ids": input_ids, "target_ids": target_ids, "weights": weights}
    body = _pass_body(fields, data) | {"loss_fn": loss_fn, "loss_fn_config": loss_fn_config}
    return post(run_path(run_id, "forward_backward"), body, answers.result_of)


def forward(
    run_id: str,
    input_ids: Any = None,
    target_ids: Any = None,
    weights: Any = None,
    *,
    data: Sequence[Any] | None = None,
    loss_fn: str | None = None,
    loss_fn_config: Mapping[str, Any] | None = None,
) -> Request[Json]:
    """``forward_backward`` without a gradient."""
    fields = {"input_ids": input_ids, "target_ids": target_ids, "weights": weights}
    body = _pass_body(fields, data) | {"loss_fn": loss_fn, "loss_fn_config": loss_fn_config}
    return post(run_path(run_id, "forward"), body, answers.result_of)


def _pass_body(fields: Json, data: Sequence[Any] | None) -> Json:
    """One sequence or a list of them, never both."""
    given = [name for name, value in fields.items() if value is not None]
    if data is not None and given:
        raise InvalidRequestError(
            f"Got both data and {given[0]}. Put {', '.join(given)} into the entries of data.",
            field=given[0],
        )
    if data is not None:
        return {"data": [_datum(item) for item in data]}
    if "input_ids" not in given:
        raise InvalidRequestError(
            "Expected input_ids (one sequence) or data (a list of them), got neither.",
            field="input_ids",
        )
    return _datum(fields)


def optim_step(
    run_id: str,
    learning_rate: float = 2e-4,
    weight_decay: float = 0.01,
    *,
    betas: Sequence[float] | None = None,
    eps: float | None = None,
    grad_clip_norm: float | None = None,
) -> Request[Json]:
    """One AdamW step with the gathered gradient, which is then cleared.

    Args:
        run_id: the run.
        learning_rate: greater than 0; may change from step to step, the moments stay.
        weight_decay: decoupled, at least 0.
        betas: of AdamW; default (0.9, 0.999).
        eps: of AdamW; default 1e-8.
        grad_clip_norm: bound on the L2 norm of the whole gradient; default none.

    Returns:
        ``{"status": "optimizer_step_completed", "step", "grad_norm", "learning_rate"}``.
    """
    body = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "betas": None if betas is None else list(betas),
        "eps": eps,
        "grad_clip_norm": grad_clip_norm,
    }
    return post(run_path(run_id, "optim_step"), body, answers.result_of)


def evaluate(
    run_id: str,
    batches: Sequence[Any],
    temperature: float = 1.0,
    max_new_tokens: int = 50,
    *,
    seed: int | None = None,
) -> Request[Json]:
    """Score responses under the run's current weights.

    Args:
        run_id: the run.
        batches: dicts or ``EvaluationBatch``, each with ``prompt_ids`` and ``response_ids`` (or ``input_ids``
            and ``target_ids``); without a response the run answers first.
        temperature: divides the logits; greater than 0.
        max_new_tokens: bound on the responses that the run has to write.
        seed: of those responses.

    Returns:
        ``{"scores", "log_probs", "num_tokens"}``, one each per batch: mean loss over the response, mean
        log-probability, length of the response.
    """
    body = {
        "batches": [_datum(batch) for batch in batches],
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    return post(run_path(run_id, "evaluate"), body, answers.result_of)


def _datum(item: Any) -> Json:
    return {name: plain(value) for name, value in mapping(item).items() if value is not None}
