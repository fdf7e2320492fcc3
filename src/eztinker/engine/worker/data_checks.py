"""Whether data fit a model and a loss, before any of them is computed.

The service refuses most of this already; a worker that trusted it would end in an index error, or in
numbers that mean nothing. Pure checks; called by ``trainer.py``, ``sampler.py`` and ``evaluation.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eztinker.engine.worker.decoder_base import Decoder
from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.ops.losses import (
    BUILT_IN,
    list_loss_functions,
    registered_loss_function,
    resolve_config,
)
from eztinker.types.losses import LOSSES
from eztinker.types.training import Datum, LossSpec


def weights_of(datum: Datum) -> np.ndarray:
    """Weights of a datum's targets: 1 where none were given."""
    weights = datum.loss_fn_inputs.get("weights")
    if weights is not None:
        return weights
    return np.ones(datum.loss_fn_inputs["target_tokens"].shape, np.float32)


def check_loss(spec: LossSpec) -> int:
    """Size of the groups of data that must stay together.

    Raises:
        NotFoundError: no such loss.
        InvalidRequestError: a setting that the loss does not have.
    """
    if spec.name in BUILT_IN:
        resolve_config(spec.name, spec.config)
        return LOSSES[spec.name].group_size
    if registered_loss_function(spec.name) is None:
        raise NotFoundError(
            f"No loss function {spec.name!r}. Known: {', '.join(list_loss_functions())}.",
            field="loss_fn",
        )
    return 1


def check_data(decoder: Decoder, data: Sequence[Datum], spec: LossSpec) -> None:
    """Refuse data that do not fit the model or the loss.

    Raises:
        InvalidRequestError: naming the datum and the input.
    """
    if not data:
        raise InvalidRequestError("The request holds no data.", field="data")
    signature = LOSSES.get(spec.name)
    group_size = signature.group_size if signature else 1
    if len(data) % group_size:
        raise InvalidRequestError(
            f"Loss {spec.name!r} takes data in groups of {group_size}, got {len(data)}.",
            field="data",
        )
    required = ("target_tokens", *(signature.required if signature else ()))
    for number, datum in enumerate(data):
        _check_datum(decoder, number, datum, required, many_targets=_takes_many(spec.name))


def _takes_many(name: str) -> bool:
    return name in LOSSES and LOSSES[name].many_targets


def _check_datum(
    decoder: Decoder, number: int, datum: Datum, required: Sequence[str], *, many_targets: bool
) -> None:
    where = f"data[{number}]"
    if not 1 <= datum.num_tokens <= decoder.context_length:
        raise InvalidRequestError(
            f"{where} has {datum.num_tokens} tokens; expected 1 to {decoder.context_length}, the model's "
            "context.",
            field="data",
        )
    for name in required:
        if name not in datum.loss_fn_inputs:
            raise InvalidRequestError(f"{where} lacks {name!r}, which this loss needs.", field=name)
    targets = datum.loss_fn_inputs["target_tokens"]
    if targets.ndim != 1 and not (many_targets and targets.ndim == 2):
        raise InvalidRequestError(
            f"{where}: this loss takes one target per position.", field="target_tokens"
        )
    for name, values in datum.loss_fn_inputs.items():
        expected = targets.shape if name == "weights" else targets.shape[:1]
        if values.shape[0] != datum.num_tokens or (
            name != "target_tokens" and values.shape != expected
        ):
            raise InvalidRequestError(
                f"{where}: {name!r} has shape {list(values.shape)}, but the datum has "
                f"{datum.num_tokens} tokens.",
                field=name,
            )
    check_token_ids(datum.tokens_T, decoder.vocab_size, f"{where}: input")
    check_token_ids(targets, decoder.vocab_size, f"{where}: target")


def check_token_ids(ids: np.ndarray, vocab_size: int, what: str) -> None:
    """Refuse ids outside the vocabulary.

    Raises:
        InvalidRequestError: naming the first such id.
    """
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= vocab_size):
        wrong = ids[(ids < 0) | (ids >= vocab_size)].flat[0]
        raise InvalidRequestError(
            f"{what} token {int(wrong)} is outside the vocabulary of {vocab_size} ids.",
            code="token_out_of_range",
            field="tokens",
        )
