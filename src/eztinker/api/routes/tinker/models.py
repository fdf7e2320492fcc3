"""Models of the Tinker wire, which are our runs: making one, fresh or from a checkpoint; facts about one."""

from __future__ import annotations

import secrets

from starlette.responses import Response

from eztinker.api.bodies import parse
from eztinker.api.tinker.endpoint import Call, answer, endpoint
from eztinker.api.tinker.metadata import (
    AdapterSettings,
    adapter_settings,
    as_strings,
    quantization_of,
)
from eztinker.api.tinker.paths import parse_path
from eztinker.api.tinker.submit import promise, resolve_base, submit_body, unload_promise
from eztinker.errors import InvalidRequestError, UnsupportedError
from eztinker.models import tinker as wire
from eztinker.service.sessions import run_id_of
from eztinker.types.operations import CreateRun, LoadCheckpoint
from eztinker.types.records import CheckpointRecord
from eztinker.types.training import LossSpec

_LOSS = LossSpec(reduction="sum")


async def create_model(call: Call) -> Response:
    """Make a model with a fresh adapter."""
    body = await call.body(wire.CreateModel)
    await call.service.sessions.need(body.session_id)
    _need_adamw(body.optimizer_config)
    settings = adapter_settings(body.lora_config, body.user_metadata)
    base = await resolve_base(call.service, body.base_model)
    operation = CreateRun(base.name, settings.lora, _seed(settings), settings.quantization)
    job = await call.service.runs.begin(
        operation,
        run_id=run_id_of(body.session_id, body.model_seq_id),
        loss=_LOSS,
        user_metadata=as_strings(body.user_metadata),
        request_digest=call.digest,
        seq=0,
    )
    return promise(job)


def _seed(settings: AdapterSettings) -> int:
    seed = settings.lora.seed
    return secrets.randbelow(2**31) if seed is None else seed


def _need_adamw(config: wire.OptimizerConfig) -> None:
    if config.type != "adamw":
        raise UnsupportedError(
            f"optimizer_config.type: {config.type[:100]!r} is not implemented. Use adamw.",
            field="optimizer_config.type",
        )


async def load_weights(call: Call) -> Response:
    """Load a checkpoint into a model, or make a new model of it."""
    raw = await call.raw_json()
    if parse(raw, wire.LoadPlace).model_id is not None:
        return await submit_body(call, wire.LoadWeights, _load_into, kind="load_checkpoint")
    body = parse(raw, wire.LoadWeights)
    if body.session_id is None or body.model_seq_id is None:
        raise InvalidRequestError(
            "load_weights: expected model_id with seq_id (load into a model), or session_id with "
            "model_seq_id (make a model), got neither.",
            field="model_id",
        )
    _need_adamw(body.optimizer_config)
    return await _create_from(call, body, body.session_id, body.model_seq_id)


def _load_into(body: wire.LoadWeights) -> LoadCheckpoint:
    _need_adamw(body.optimizer_config)
    path = parse_path(body.path, field="path")
    return LoadCheckpoint(path.run_id, path.stored_name, body.optimizer)


async def _create_from(
    call: Call, body: wire.LoadWeights, session_id: str, model_seq_id: int
) -> Response:
    await call.service.sessions.need(session_id)
    path = parse_path(body.path, field="path")
    checkpoint = await call.service.checkpoints.get(path.run_id, path.stored_name)
    _check_source(body, checkpoint)
    if body.base_model is not None:
        await _check_base(call, body.base_model, checkpoint)
    job = await call.service.runs.begin(
        CreateRun(
            checkpoint.base_model,
            checkpoint.lora,
            secrets.randbelow(2**31),
            quantization_of(body.user_metadata, checkpoint.quantization),
            source_run_id=path.run_id,
            source_name=path.stored_name,
            with_optimizer=body.optimizer,
        ),
        run_id=run_id_of(session_id, model_seq_id),
        loss=_LOSS,
        user_metadata=as_strings(body.user_metadata),
        request_digest=call.digest,
        seq=0,
    )
    return promise(job)


def _check_source(body: wire.LoadWeights, checkpoint: CheckpointRecord) -> None:
    if body.optimizer and checkpoint.is_sampler:
        raise InvalidRequestError(
            f"path: {body.path} holds weights without optimizer state. Load it without the optimizer, or "
            "give a path of save_state.",
            field="optimizer",
        )


async def _check_base(call: Call, base_model: str, checkpoint: CheckpointRecord) -> None:
    wanted = await resolve_base(call.service, base_model)
    held = await resolve_base(call.service, checkpoint.base_model)
    if wanted.folder != held.folder:
        raise InvalidRequestError(
            f"base_model: the checkpoint belongs to {checkpoint.base_model}, got {base_model[:200]}. Leave "
            "base_model out.",
            field="base_model",
        )


async def get_info(call: Call) -> Response:
    """Facts about a model."""
    body = await call.body(wire.ModelReference)
    run = await call.service.runs.get(body.model_id)
    base = await resolve_base(call.service, run.base_model)
    return answer(
        {
            "type": "get_info",
            "model_id": run.run_id,
            "model_name": run.base_model,
            "is_lora": True,
            "lora_rank": run.lora.r,
            "optimizer_config": {"type": "adamw"},
            "model_data": {
                "arch": base.architecture,
                "model_name": run.base_model,
                # A client on this machine finds the tokenizer where we do, without a hub.
                "tokenizer_id": base.folder if call.is_local else run.base_model,
            },
        }
    )


async def unload_model(call: Call) -> Response:
    """Free what a model holds on the device; its next operation takes it up again.

    Clients before protobuf can ask for it.
    """
    body = await call.body(wire.UnloadModel)
    await call.service.runs.unload(body.model_id)
    return unload_promise(body.model_id)


ROUTES = (
    endpoint("POST", "/create_model", create_model),
    endpoint("POST", "/load_weights", load_weights),
    endpoint("POST", "/get_info", get_info),
    endpoint("POST", "/unload_model", unload_model),
)
