"""From wire schemas of the native API to domain types: runs, training, optimizer steps, evaluation.

Native labels are aligned with ``input_ids``; the shift happens here: position t reads ``input_ids[t]``
and predicts ``labels[t + 1]``. A label of -100 becomes target 0 with weight 0. Values are checked here
only where the caller's own names and positions are known; the rest is admission's. Pure; called by the
routes. Sampling has its own file, ``prompts.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from eztinker.config import Limits
from eztinker.errors import InvalidRequestError, UnsupportedError
from eztinker.models import api as wire
from eztinker.service import bounds
from eztinker.types.operations import Evaluate, EvaluationItem, TrainingPass
from eztinker.types.records import BaseModelRecord
from eztinker.types.training import AdamParams, Datum, LoRAConfig, LossSpec, Reduction

IGNORED_LABEL = -100
_ALIGNED_INPUTS = ("logprobs", "advantages", "sequence_ratio_mask")
_DATUM_FIELDS = ("input_ids", "target_ids", "weights", *_ALIGNED_INPUTS)

# Runs ---------------------------------------------------------------------------------------------


def lora_config(fields: wire.LoRAFields | None) -> LoRAConfig:
    """The adapter that a run asks for."""
    fields = fields or wire.LoRAFields.model_validate({})
    modules = fields.target_modules
    return LoRAConfig(
        r=fields.r,
        lora_alpha=fields.lora_alpha,
        lora_dropout=fields.lora_dropout,
        target_modules=modules if isinstance(modules, str) else tuple(modules),
        use_rslora=fields.use_rslora,
        seed=fields.seed,
    )


def run_loss(fields: wire.LossFunctionConfig | None) -> LossSpec:
    """The loss that a run uses when a request names none."""
    if fields is None:
        return LossSpec()
    if fields.custom_code is not None:
        raise _code_refused("loss_config.custom_code")
    config = fields.model_dump(exclude={"loss_type", "reduction", "custom_code"}, exclude_none=True)
    return LossSpec(name=fields.loss_type, config=config, reduction=fields.reduction or "mean")


def request_loss(
    name: str | None, settings: Mapping[str, float | str | None] | None, default: LossSpec
) -> LossSpec:
    """The loss of one request.

    Without ``name`` the run's loss, its settings overridden one by one; with ``name`` that loss with the
    given settings alone. The reduction is the run's unless the request says otherwise.
    """
    given = {key: value for key, value in (settings or {}).items() if value is not None}
    if "custom_code" in given:
        raise _code_refused("loss_fn_config.custom_code")
    reduction = _reduction(given.pop("reduction", default.reduction))
    if name is None:
        return LossSpec(default.name, {**default.config, **given}, reduction)
    return LossSpec(name, given, reduction)


def _reduction(value: float | str) -> Reduction:
    if isinstance(value, str) and value in {"mean", "sum"}:
        return "mean" if value == "mean" else "sum"
    raise InvalidRequestError(
        f'loss_fn_config.reduction: expected "mean" or "sum", got {str(value)[:100]!r}.',
        field="loss_fn_config.reduction",
    )


def _code_refused(field: str) -> UnsupportedError:
    return UnsupportedError(
        f"{field}: code never arrives over the wire. Register the loss in the server's process with "
        "register_loss_function(name, fn) in a plugin module (setting plugins), and send its name.",
        code="custom_code_refused",
        field=field,
    )


def adam_params(body: wire.OptimStepRequest) -> AdamParams:
    """One AdamW step."""
    return AdamParams(
        learning_rate=body.learning_rate,
        weight_decay=body.weight_decay,
        beta1=body.betas[0],
        beta2=body.betas[1],
        eps=body.eps,
        grad_clip_norm=body.grad_clip_norm,
    )


# Training -----------------------------------------------------------------------------------------


def training_pass(
    body: wire.TrainingRequest,
    *,
    default_loss: LossSpec,
    base: BaseModelRecord,
    limits: Limits,
    forward_only: bool,
) -> TrainingPass:
    """A pass over one datum (fields of the body) or several (``data``).

    Raises:
        InvalidRequestError: tokens, lengths or the combination of fields are wrong.
        TooLargeError: more data than a request may have.
    """
    data = [_datum(datum, prefix, base) for prefix, datum in _data_of(body, limits)]
    _refuse_no_labels(data)
    loss = request_loss(body.loss_fn, body.loss_fn_config, default_loss)
    return TrainingPass(data=data, loss=loss, forward_only=forward_only)


def _refuse_no_labels(data: list[Datum]) -> None:
    """A native request trains something, or is a mistake; the SDK's custom losses may send zeros."""
    weights = [datum.loss_fn_inputs.get("weights") for datum in data]
    if all(w is not None and not w.any() for w in weights):
        raise InvalidRequestError(
            "weights: no label counts: all are -100 in target_ids or have weight 0. Give at least one "
            "label a weight.",
            code="no_counting_label",
            field="weights",
        )


def _data_of(
    body: wire.TrainingRequest, limits: Limits
) -> list[tuple[str, wire.TrainingDatum | wire.TrainingRequest]]:
    if body.data is None:
        if body.input_ids is None:
            raise InvalidRequestError(
                "input_ids: missing. Send input_ids (and target_ids, weights), or a list of such objects "
                "under data.",
                code="missing_field",
                field="input_ids",
            )
        return [("", body)]
    beside = next((name for name in _DATUM_FIELDS if getattr(body, name) is not None), None)
    if beside is not None:
        raise InvalidRequestError(
            f"{beside}: given beside data. Send either single fields or a list under data, not both.",
            field=beside,
        )
    bounds.check_num_data(len(body.data), field="data", limits=limits)
    return [(f"data[{index}].", datum) for index, datum in enumerate(body.data)]


def _datum(
    fields: wire.TrainingDatum | wire.TrainingRequest, prefix: str, base: BaseModelRecord
) -> Datum:
    tokens = _tokens(fields.input_ids or [], f"{prefix}input_ids", base)
    labels = tokens
    if fields.target_ids is not None:
        labels = _labels(fields.target_ids, len(tokens), f"{prefix}target_ids", base)
    if len(tokens) == 1:
        raise InvalidRequestError(
            f"{prefix}input_ids: one token leaves no label to predict. Send at least two.",
            code="no_counting_label",
            field=f"{prefix}input_ids",
        )
    counts = labels[1:] != IGNORED_LABEL
    inputs = {"target_tokens": np.where(counts, labels[1:], 0)}
    weights = _aligned(fields.weights, len(tokens), f"{prefix}weights")
    if weights is not None or not counts.all():
        inputs["weights"] = counts.astype(np.float32) * (1.0 if weights is None else weights)
        inputs["weights"] = inputs["weights"].astype(np.float32)
    for name in _ALIGNED_INPUTS:
        values = _aligned(getattr(fields, name), len(tokens), f"{prefix}{name}")
        if values is not None:
            inputs[name] = values
    return Datum(tokens_T=tokens[:-1].astype(np.int32), loss_fn_inputs=inputs)


def _integers(values: list[int], field: str) -> np.ndarray:
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        index = next(i for i, value in enumerate(values) if not -(2**63) <= value < 2**63)
        raise InvalidRequestError(
            f"{field}[{index}]: {values[index]} is no token id. Send ids of this model's tokenizer.",
            code="unknown_token",
            field=f"{field}[{index}]",
        ) from None


def _tokens(values: list[int], field: str, base: BaseModelRecord) -> np.ndarray:
    # First the length: making an array of millions of numbers would hold everyone else up.
    bounds.check_length(len(values), field=field, base=base)
    tokens = _integers(values, field)
    bounds.check_tokens(tokens, field=field, base=base)
    return tokens


def _labels(values: list[int], length: int, field: str, base: BaseModelRecord) -> np.ndarray:
    _check_aligned(len(values), length, field)
    labels = _integers(values, field)
    bounds.check_tokens(np.where(labels == IGNORED_LABEL, 0, labels), field=field, base=base)
    return labels


def _aligned(values: list[float] | None, length: int, field: str) -> np.ndarray | None:
    """A loss input aligned with labels, shifted like them; float32."""
    if values is None:
        return None
    _check_aligned(len(values), length, field)
    with np.errstate(over="ignore"):  # an overflow becomes inf and is refused by name
        array = np.array(values, dtype=np.float64).astype(np.float32)
    bounds.check_finite(array, field=field)
    return array[1:]


def _check_aligned(num_values: int, length: int, field: str) -> None:
    if num_values != length:
        raise InvalidRequestError(
            f"{field}: expected {length} values, one per entry of input_ids, got {num_values}. "
            f"Labels are not shifted by the caller; use {IGNORED_LABEL} for labels that do not count.",
            code="length_mismatch",
            field=field,
        )


# Evaluation ---------------------------------------------------------------------------------------


def evaluation(
    body: wire.EvaluationRequest, *, base: BaseModelRecord, limits: Limits, seed: int
) -> Evaluate:
    """Responses to score; an item without a response is answered by the run first."""
    bounds.check_num_data(len(body.batches), field="batches", limits=limits)
    items = [_item(batch, f"batches[{index}]", base) for index, batch in enumerate(body.batches)]
    return Evaluate(
        items=items, temperature=body.temperature, max_new_tokens=body.max_new_tokens, seed=seed
    )


def _item(batch: wire.EvaluationBatch, where: str, base: BaseModelRecord) -> EvaluationItem:
    if batch.prompt_ids is not None:
        prompt = _tokens(batch.prompt_ids, f"{where}.prompt_ids", base)
        response = _tokens(batch.response_ids or [], f"{where}.response_ids", base)
        whole = np.concatenate([prompt, response])
        _check_same_sequence(batch, where, whole)
    elif batch.response_ids:
        raise InvalidRequestError(
            f"{where}.response_ids: given without prompt_ids. Send the prompt's tokens too.",
            field=f"{where}.prompt_ids",
        )
    else:
        prompt, response = _split_by_labels(batch, where, base)
    return EvaluationItem(
        prompt_tokens=prompt.astype(np.int32), response_tokens=response.astype(np.int32)
    )


def _check_same_sequence(batch: wire.EvaluationBatch, where: str, whole: np.ndarray) -> None:
    """``input_ids`` and ``target_ids`` beside ``prompt_ids`` must say the same."""
    if batch.input_ids is not None and list(whole) != batch.input_ids:
        raise InvalidRequestError(
            f"{where}.input_ids: differs from prompt_ids followed by response_ids. Send one form only.",
            field=f"{where}.input_ids",
        )
    if batch.target_ids is not None:
        _check_aligned(len(batch.target_ids), len(whole), f"{where}.target_ids")
        labels = _integers(batch.target_ids, f"{where}.target_ids")
        _check_labels_repeat(labels, whole, where)


def _split_by_labels(
    batch: wire.EvaluationBatch, where: str, base: BaseModelRecord
) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and response of ``input_ids``: the response is what ``target_ids`` labels."""
    if batch.input_ids is None:
        raise InvalidRequestError(
            f"{where}.prompt_ids: missing. Send prompt_ids and response_ids, or input_ids and target_ids.",
            code="missing_field",
            field=f"{where}.prompt_ids",
        )
    tokens = _tokens(batch.input_ids, f"{where}.input_ids", base)
    if batch.target_ids is None:
        return tokens, tokens[:0]
    labels = _labels(batch.target_ids, len(tokens), f"{where}.target_ids", base)
    _check_labels_repeat(labels, tokens, where)
    ignored = np.flatnonzero(labels == IGNORED_LABEL)
    start = max(1, int(ignored[-1]) + 1) if ignored.size else 1
    if start == len(tokens) or np.any(labels[1:start] != IGNORED_LABEL):
        raise InvalidRequestError(
            f"{where}.target_ids: expected {IGNORED_LABEL} on the prompt and the response's ids up to the end, "
            "at least one. Send prompt_ids and response_ids instead if that does not fit.",
            code="no_counting_label",
            field=f"{where}.target_ids",
        )
    return tokens[:start], tokens[start:]


def _check_labels_repeat(labels: np.ndarray, tokens: np.ndarray, where: str) -> None:
    wrong = np.flatnonzero((labels != IGNORED_LABEL) & (labels != tokens))
    if wrong.size:
        index = int(wrong[0])
        raise InvalidRequestError(
            f"{where}.target_ids[{index}]: {labels[index]} differs from input_ids[{index}], {tokens[index]}. "
            f"Labels repeat input_ids (the server shifts), or are {IGNORED_LABEL}.",
            field=f"{where}.target_ids[{index}]",
        )
