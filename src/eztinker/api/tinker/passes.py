"""``forward_backward`` on the Tinker wire: its message to ``TrainingPass``, its result to bytes.

Every loss is a sum here, as the protocol has it. Provenance spans describe where tokens came from and
only ``stable_reinforce`` would use them. Pure; called by ``routes/tinker/training.py`` and
``routes/tinker/futures.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from eztinker.api.tinker.tensors import from_bytes, from_json, from_message, to_json
from eztinker.errors import InvalidRequestError, UnsupportedError
from eztinker.models import tinker as wire
from eztinker.models.proto.tinker_public import DTYPES, ForwardBackwardOutput
from eztinker.types.operations import PassResult, TrainingPass
from eztinker.types.training import Datum, LossSpec

_TOKEN = np.dtype("<i4")
_REFUSED_LOSSES = {
    "stable_reinforce": "its formula is not published. Use loss_fn=importance_sampling",
    "custom": "losses are not uploaded to this server. Use forward_backward_custom, which computes them "
    "on the client",
}


def training_pass(message: Any) -> TrainingPass:
    """The operation that a ``ForwardBackwardRequest`` asks for.

    Raises:
        InvalidRequestError: a tensor or setting cannot be read, or a datum lacks its weights.
        UnsupportedError: images, audio, or a loss that is not here.
    """
    loss = _loss(message)
    data = [_datum(datum, index, loss.name) for index, datum in enumerate(message.data)]
    return TrainingPass(data, loss, forward_only=message.forward_only)


def training_pass_from_json(body: wire.PassInput, *, forward_only: bool) -> TrainingPass:
    """The same from the JSON of clients before protobuf; errors as in ``training_pass``."""
    loss = _loss_spec(body.loss_fn, dict(body.loss_fn_config))
    data = []
    for index, datum in enumerate(body.data):
        where = f"data[{index}]"
        tensors = {
            name: from_json(tensor, field=f"{where}.loss_fn_inputs.{name}")
            for name, tensor in datum.loss_fn_inputs.items()
        }
        tokens = tokens_from_json(datum.model_input, field=f"{where}.model_input")
        data.append(Datum(tokens, _inputs(tensors, where, loss.name)))
    return TrainingPass(data, loss, forward_only=forward_only)


def _loss(message: Any) -> LossSpec:
    config: dict[str, float | str] = dict(message.loss_fn_config)
    for key, value in message.loss_fn_config_v2.items():
        config[key] = value.text if value.WhichOneof("value") == "text" else value.number
    return _loss_spec(message.loss_fn, config)


def _loss_spec(name: str, config: dict[str, float | str]) -> LossSpec:
    if name in _REFUSED_LOSSES:
        raise UnsupportedError(f"loss_fn {name}: {_REFUSED_LOSSES[name]}.", field="loss_fn")
    return LossSpec(name, config, "sum")


def _datum(datum: Any, index: int, loss: str) -> Datum:
    where = f"data[{index}]"
    tensors = {
        name: from_message(tensor, field=f"{where}.loss_fn_inputs.{name}")
        for name, tensor in datum.loss_fn_inputs.items()
    }
    return Datum(_tokens(datum.model_input, f"{where}.model_input"), _inputs(tensors, where, loss))


def _inputs(tensors: dict[str, np.ndarray], where: str, loss: str) -> dict[str, np.ndarray]:
    inputs = {
        name: _input(name, values, f"{where}.loss_fn_inputs.{name}")
        for name, values in tensors.items()
    }
    if loss == "cross_entropy" and "weights" not in inputs:
        field = f"{where}.loss_fn_inputs.weights"
        raise InvalidRequestError(
            f"{field}: missing. cross_entropy needs target_tokens and weights, one per token.",
            code="missing_loss_input",
            field=field,
        )
    return inputs


def _tokens(chunks: Sequence[Any], field: str) -> np.ndarray:
    parts = []
    for chunk in chunks:
        kind = chunk.WhichOneof("chunk")
        if kind != "encoded_text":
            raise only_text(kind, field)
        parts.append(from_bytes(chunk.encoded_text.tokens, _TOKEN, field=field))
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, np.int32)


def tokens_from_json(prompt: wire.ModelInput, *, field: str) -> np.ndarray:
    """Token ids of a prompt in JSON, its text chunks one after another.

    Raises:
        UnsupportedError: a chunk that is not text.
        InvalidRequestError: a number that no int32 holds.
    """
    for chunk in prompt.chunks:
        if chunk.type != "encoded_text":
            raise only_text(chunk.type, field)
    try:
        return np.array([t for chunk in prompt.chunks for t in chunk.tokens], dtype=np.int32)
    except OverflowError:
        raise InvalidRequestError(
            f"{field}: contains a number beyond 32 bits, which is no token id.",
            code="unknown_token",
            field=field,
        ) from None


def only_text(kind: str | None, field: str) -> UnsupportedError:
    """The refusal of a chunk that is not text."""
    return UnsupportedError(
        f"{field}: a chunk of type {kind or 'nothing'!r}. This server's models read text only; send encoded_text "
        "chunks.",
        field=field,
    )


def _input(name: str, values: np.ndarray, field: str) -> np.ndarray:
    if name != "target_tokens":
        return values.astype(np.float32, copy=False)
    if values.dtype.kind != "i":
        raise InvalidRequestError(f"{field}: expected int64 token ids, got float32.", field=field)
    return values.astype(np.int64, copy=False)


def encode_result(result: PassResult) -> bytes:
    """``ForwardBackwardOutput``: the targets' log-probabilities of each datum, and the metrics."""
    output = ForwardBackwardOutput(loss_fn_output_type="ArrayRecord", metrics=result.metrics)
    # One record holds data of one trailing shape.
    for trailing_shape, group in itertools.groupby(
        result.logprobs, lambda values: values.shape[1:]
    ):
        arrays = [np.ascontiguousarray(values, dtype="<f4") for values in group]
        record = output.loss_fn_outputs.add(type_tag="ArrayRecord", num_datums=len(arrays))
        field = record.fields["logprobs"]
        field.data = b"".join(array.tobytes() for array in arrays)
        ends = np.cumsum([0, *(array.nbytes for array in arrays)], dtype="<i8")
        field.offsets = ends.tobytes()
        field.dtype = DTYPES["float32"]
        field.trailing_shape.extend(trailing_shape)
    return output.SerializeToString()


def json_result(result: PassResult) -> dict[str, Any]:
    """The same for clients before protobuf."""
    return {
        "loss_fn_output_type": "TensorData",
        "loss_fn_outputs": [{"logprobs": to_json(values)} for values in result.logprobs],
        "metrics": result.metrics,
    }
