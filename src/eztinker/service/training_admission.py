"""Admission of a training pass: its loss, its data, and whether the two belong together.

Pure; asks ``types/losses.py`` what each loss takes. Called by ``admission.py``.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from eztinker.config import Limits
from eztinker.errors import InvalidRequestError
from eztinker.service.bounds import (
    check_finite,
    check_length,
    check_not_empty,
    check_num_data,
    check_number,
    check_tokens,
    hint,
    refuse_unknown,
)
from eztinker.types.losses import LOSSES, LossSignature
from eztinker.types.operations import TrainingPass
from eztinker.types.records import BaseModelRecord
from eztinker.types.training import Datum, LossSpec

_INPUTS = ("target_tokens", "weights", "logprobs", "advantages", "sequence_ratio_mask")


def check_pass(
    operation: TrainingPass, base: BaseModelRecord, limits: Limits, extra_losses: Collection[str]
) -> None:
    """Loss, data, and for a mean at least one label that counts; errors as in ``admission.check``."""
    check_loss(operation.loss, extra_losses=extra_losses)
    check_num_data(len(operation.data), field="data", limits=limits)
    signature = LOSSES.get(operation.loss.name)
    for index, datum in enumerate(operation.data):
        _check_datum(datum, f"data[{index}]", base)
        if signature is not None:
            _check_inputs_for_loss(datum, f"data[{index}]", operation.loss.name, signature)
    _check_groups(len(operation.data), operation.loss.name, signature)
    _check_counting(operation)


def _check_datum(datum: Datum, where: str, base: BaseModelRecord) -> None:
    check_not_empty(datum.tokens_T, field=f"{where}.input_ids")
    check_length(datum.num_tokens, field=f"{where}.input_ids", base=base)
    check_tokens(datum.tokens_T, field=f"{where}.input_ids", base=base)
    inputs = datum.loss_fn_inputs
    if "target_tokens" not in inputs:
        raise InvalidRequestError(
            f"{where}.target_tokens: missing. Send one target per token.",
            field=f"{where}.target_tokens",
        )
    refuse_unknown(inputs, _INPUTS, where=where, what="loss input")
    targets = inputs["target_tokens"]
    for name, values in inputs.items():
        wanted = targets.shape if name == "weights" else (datum.num_tokens,)
        _check_shape(values, wanted, f"{where}.{name}", many=name == "target_tokens")
        if name != "target_tokens":
            check_finite(values, field=f"{where}.{name}")
    check_tokens(targets, field=f"{where}.target_tokens", base=base)


def _check_shape(values: np.ndarray, wanted: tuple[int, ...], field: str, *, many: bool) -> None:
    shape = values.shape[:1] if many and values.ndim == 2 and values.shape[1] > 0 else values.shape
    if shape != wanted:
        raise InvalidRequestError(
            f"{field}: expected {' x '.join(map(str, wanted))} values, one per token, got "
            f"{' x '.join(map(str, values.shape)) or 'one'}.",
            code="length_mismatch",
            field=field,
        )


def _check_inputs_for_loss(datum: Datum, where: str, loss: str, signature: LossSignature) -> None:
    given = set(datum.loss_fn_inputs) - {"target_tokens"}
    missing = next((name for name in signature.required if name not in given), None)
    if missing is not None:
        raise InvalidRequestError(
            f"{where}.{missing}: missing. loss_fn {loss} needs {', '.join(signature.required)} for every datum.",
            code="missing_loss_input",
            field=f"{where}.{missing}",
        )
    unused = next(iter(sorted(given - {*signature.required, *signature.optional})), None)
    if unused is not None:
        raise InvalidRequestError(
            f"{where}.{unused}: loss_fn {loss} does not use it, so it would have no effect. Leave it out.",
            code="unused_loss_input",
            field=f"{where}.{unused}",
        )
    if datum.loss_fn_inputs["target_tokens"].ndim == 2 and not signature.many_targets:
        raise InvalidRequestError(
            f"{where}.target_tokens: loss {loss} takes one target per token, got "
            f"{datum.loss_fn_inputs['target_tokens'].shape[1]}.",
            field=f"{where}.target_tokens",
        )


def _check_groups(num_data: int, loss: str, signature: LossSignature | None) -> None:
    size = signature.group_size if signature is not None else 1
    if num_data % size:
        raise InvalidRequestError(
            f"data: loss {loss} takes data in groups of {size} (chosen, rejected, chosen, …), got {num_data}. "
            "Send complete groups in one request.",
            code="incomplete_group",
            field="data",
        )


def _check_counting(operation: TrainingPass) -> None:
    """A mean needs positive weight altogether; a sum may be of nothing."""
    if operation.loss.reduction != "mean":
        return
    weights = [datum.loss_fn_inputs.get("weights") for datum in operation.data]
    if any(w is None for w in weights):
        return
    total = sum(float(np.sum(w, dtype=np.float64)) for w in weights if w is not None)
    if total <= 0:
        raise InvalidRequestError(
            f"weights: they add up to {total:g}, and a mean divides by that. Send positive weights, or "
            'loss_fn_config {"reduction": "sum"}.',
            code="no_counting_label",
            field="weights",
        )


def check_loss(
    loss: LossSpec,
    *,
    extra_losses: Collection[str] = (),
    name_field: str = "loss_fn",
    config_field: str = "loss_fn_config",
) -> None:
    """The loss is known, and so are its settings.

    Args:
        loss: what a request or a run names.
        extra_losses: names registered by plugins; their settings are their own affair.
        name_field, config_field: where the caller wrote the name and the settings.

    Raises:
        InvalidRequestError: code ``unknown_loss``, ``unknown_field`` or ``invalid_request``.
    """
    signature = LOSSES.get(loss.name)
    if signature is None and loss.name not in extra_losses:
        known = [*LOSSES, *sorted(extra_losses)]
        raise InvalidRequestError(
            f"{name_field}: {loss.name[:100]!r} is no loss of this server.{hint(loss.name, known)} "
            f"Known: {', '.join(known)}.",
            code="unknown_loss",
            field=name_field,
        )
    if loss.reduction not in {"mean", "sum"}:
        raise InvalidRequestError(
            f'{config_field}.reduction: expected "mean" or "sum", got {loss.reduction!r}.',
            field=f"{config_field}.reduction",
        )
    for name, value in loss.config.items():
        if isinstance(value, float | int):
            check_number(value, f"{config_field}.{name}", "a finite number", True)
    if signature is not None:
        what = f"setting of {loss.name}"
        refuse_unknown(loss.config, list(signature.config), where=config_field, what=what)
        _check_settings(loss, signature, config_field)


def _check_settings(loss: LossSpec, signature: LossSignature, where: str) -> None:
    settings = {**signature.config, **loss.config}
    for name, value in settings.items():
        if value is None or isinstance(value, str):
            got = "nothing" if value is None else repr(value[:100])
            raise InvalidRequestError(
                f"{where}.{name}: expected a number, got {got}.", field=f"{where}.{name}"
            )
        # Every setting of a built-in loss is a scale, an exponent or a ratio: none may be negative.
        check_number(value, f"{where}.{name}", "a number of at least 0", value >= 0)
    low, high = settings.get("clip_low_threshold"), settings.get("clip_high_threshold")
    if isinstance(low, float | int) and isinstance(high, float | int) and low > high:
        raise InvalidRequestError(
            f"{where}.clip_low_threshold: {low:g} is above clip_high_threshold, {high:g}. Both are bounds "
            "on the probability ratio; swap or adjust them.",
            field=f"{where}.clip_low_threshold",
        )
