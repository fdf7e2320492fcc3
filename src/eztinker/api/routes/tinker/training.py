"""Ordered operations of a model on the Tinker wire: passes, optimizer steps, saving."""

from __future__ import annotations

from starlette.responses import Response

from eztinker.api.tinker.endpoint import Call, endpoint
from eztinker.api.tinker.passes import training_pass, training_pass_from_json
from eztinker.api.tinker.paths import ephemeral_checkpoint, new_checkpoint
from eztinker.api.tinker.submit import submit_body, submit_numbered
from eztinker.errors import InvalidRequestError, UnsupportedError
from eztinker.models import tinker as wire
from eztinker.models.proto.tinker_public import ForwardBackwardRequest
from eztinker.service.samplers import PUBLISHED
from eztinker.types.operations import OptimStep, SaveCheckpoint
from eztinker.types.sampling import WeightsRef
from eztinker.types.training import AdamParams

_SAVE = "save_checkpoint"

EPHEMERAL_TTL_S = 24 * 3600
"""How long weights without a name are kept: longer than any client samples from one step's."""


async def forward_backward(call: Call) -> Response:
    """A pass over data, in protobuf or in older clients' JSON; with ``forward_only`` without a gradient."""
    if not call.sends_protobuf:
        return await submit_body(
            call,
            wire.ForwardBackward,
            lambda body: training_pass_from_json(body.forward_backward_input, forward_only=False),
            kind="forward_backward",
        )
    message = await call.message(ForwardBackwardRequest)
    if not message.model_id:
        raise InvalidRequestError("model_id: missing.", code="missing_field", field="model_id")
    if message.seq_id < 1:
        raise InvalidRequestError(
            f"seq_id: expected 1 or more, got {message.seq_id}.", field="seq_id"
        )
    return await submit_numbered(
        call,
        lambda: training_pass(message),
        model_id=message.model_id,
        seq_id=message.seq_id,
        kind="forward" if message.forward_only else "forward_backward",
    )


async def forward(call: Call) -> Response:
    """A pass without a gradient, as clients before protobuf ask for it."""
    return await submit_body(
        call,
        wire.Forward,
        lambda body: training_pass_from_json(body.forward_input, forward_only=True),
        kind="forward",
    )


async def optim_step(call: Call) -> Response:
    """One AdamW step."""
    return await submit_body(
        call, wire.OptimStep, lambda body: OptimStep(_adam(body)), kind="optim_step"
    )


def _adam(body: wire.OptimStep) -> AdamParams:
    if body.optimizer_params is not None:
        raise UnsupportedError(
            f"optimizer_params.type: {body.optimizer_params.type[:100]!r} is not implemented. Send "
            "adam_params.",
            field="optimizer_params.type",
        )
    if body.adam_params is None:
        raise InvalidRequestError(
            "adam_params: missing. Send at least a learning_rate.",
            code="missing_field",
            field="adam_params",
        )
    adam = body.adam_params
    return AdamParams(
        learning_rate=adam.learning_rate,
        weight_decay=adam.weight_decay,
        beta1=adam.beta1,
        beta2=adam.beta2,
        eps=adam.eps,
        grad_clip_norm=adam.grad_clip_norm if adam.grad_clip_norm > 0 else None,
    )


async def save_weights(call: Call) -> Response:
    """Save weights and optimizer state under a name."""

    def operation(body: wire.SaveWeights) -> SaveCheckpoint:
        path = new_checkpoint(body.model_id, "weights", body.path)
        return SaveCheckpoint(
            path.stored_name,
            overwrite=body.overwrite,
            ttl_s=body.ttl_seconds,
            user_metadata=body.user_metadata,
        )

    return await submit_body(call, wire.SaveWeights, operation, kind=_SAVE)


async def save_weights_for_sampler(call: Call) -> Response:
    """Save weights to sample from: under a name, or as a sampling session."""

    async def operation(body: wire.SaveWeightsForSampler) -> SaveCheckpoint:
        if body.path is None:
            return await _ephemeral(call, body)
        path = new_checkpoint(body.model_id, "sampler_weights", body.path)
        return SaveCheckpoint(
            path.stored_name,
            with_optimizer=False,
            ttl_s=body.ttl_seconds,
            user_metadata=body.user_metadata,
        )

    return await submit_body(call, wire.SaveWeightsForSampler, operation, kind=_SAVE)


async def _ephemeral(call: Call, body: wire.SaveWeightsForSampler) -> SaveCheckpoint:
    if body.sampling_session_seq_id is None:
        raise InvalidRequestError(
            "path: missing. Send a name, or sampling_session_seq_id for weights without one.",
            code="missing_field",
            field="path",
        )
    run = await call.service.runs.get(body.model_id)
    session_id = body.model_id.partition(":")[0]
    seq_id = body.sampling_session_seq_id
    is_shared = body.kind == "inflight"
    path = ephemeral_checkpoint(run.run_id, seq_id, is_shared=is_shared)
    weights = PUBLISHED if is_shared else path.stored_name
    await call.service.samplers.create(
        session_id, seq_id, WeightsRef(run.base_model, run.run_id, weights)
    )
    return SaveCheckpoint(path.stored_name, with_optimizer=False, ttl_s=EPHEMERAL_TTL_S)


async def save_weights_external(call: Call) -> Response:
    """Save the adapter for use elsewhere, in PEFT's layout."""

    def operation(body: wire.SaveWeightsExternal) -> SaveCheckpoint:
        path = new_checkpoint(body.model_id, "external_weights", body.path)
        return SaveCheckpoint(path.stored_name, with_optimizer=False, ttl_s=body.ttl_seconds)

    return await submit_body(call, wire.SaveWeightsExternal, operation, kind=_SAVE)


ROUTES = (
    endpoint("POST", "/forward_backward", forward_backward),
    endpoint("POST", "/forward", forward),
    endpoint("POST", "/optim_step", optim_step),
    endpoint("POST", "/save_weights", save_weights),
    endpoint("POST", "/save_weights_for_sampler", save_weights_for_sampler),
    endpoint("POST", "/save_weights_external", save_weights_external),
)
