"""What exists, on the Tinker wire: training runs and checkpoints."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from eztinker.api.answers import iso_time
from eztinker.api.tinker.endpoint import (
    CHECKPOINT,
    Call,
    answer,
    endpoint,
    named_checkpoint,
    nothing,
)
from eztinker.api.tinker.paths import (
    TYPE_OF_KIND,
    is_listed,
    parse_path,
    path_of_stored,
)
from eztinker.errors import InvalidRequestError
from eztinker.models import tinker as wire
from eztinker.service.sessions import run_id_of
from eztinker.types.records import CheckpointRecord, RunRecord


async def list_runs(call: Call) -> Response:
    """Training runs, newest first."""
    limit, offset = call.page(20)
    runs, total = await call.service.runs.list(limit=limit, offset=offset, base_model=None)
    checkpoints = await call.service.checkpoints.list(run_id=None)
    used = await call.service.runs.last_used([run.run_id for run in runs])
    return answer(
        {
            "training_runs": [_run_fields(run, checkpoints, used) for run in runs],
            "cursor": _cursor(limit, offset, total),
        }
    )


async def get_run(call: Call) -> Response:
    """One training run."""
    run = await call.service.runs.get(call.path("run_id"))
    checkpoints = await call.service.checkpoints.list(run_id=run.run_id)
    return answer(_run_fields(run, checkpoints, await call.service.runs.last_used([run.run_id])))


def _run_fields(
    run: RunRecord, checkpoints: list[CheckpointRecord], used: dict[str, float]
) -> dict[str, Any]:
    own = [entry for entry in checkpoints if entry.run_id == run.run_id and is_listed(entry)]
    newest = {path_of_stored(entry.run_id, entry.name).kind: entry for entry in own}
    fields: dict[str, Any] = {
        "training_run_id": run.run_id,
        "base_model": run.base_model,
        "model_owner": run.owner,
        "is_lora": True,
        "lora_rank": run.lora.r,
        "corrupted": False,
        "last_request_time": iso_time(used.get(run.run_id, run.created_at_s)),
        "user_metadata": run.user_metadata,
    }
    if "weights" in newest:
        fields["last_checkpoint"] = _checkpoint_fields(newest["weights"])
    if "sampler_weights" in newest:
        fields["last_sampler_checkpoint"] = _checkpoint_fields(newest["sampler_weights"])
    return fields


def _cursor(limit: int, offset: int, total: int) -> dict[str, int]:
    return {"offset": offset, "limit": limit, "total_count": total}


# Checkpoints --------------------------------------------------------------------------------------


async def list_checkpoints(call: Call) -> Response:
    """Checkpoints of all runs, newest first."""
    limit, offset = call.page(100)
    listed = (await _listed(call, None))[::-1]
    page = listed[offset : offset + limit]
    return answer(
        {
            "checkpoints": [_checkpoint_fields(checkpoint) for checkpoint in page],
            "cursor": _cursor(limit, offset, len(listed)),
        }
    )


async def list_run_checkpoints(call: Call) -> Response:
    """Checkpoints of one run, oldest first."""
    run_id = call.path("run_id")
    listed = await _listed(call, run_id)
    if not listed:
        await call.service.runs.get(run_id)
    return answer({"checkpoints": [_checkpoint_fields(checkpoint) for checkpoint in listed]})


async def _listed(call: Call, run_id: str | None) -> list[CheckpointRecord]:
    """What lists show the caller, oldest first."""
    return [
        checkpoint
        for checkpoint in await call.service.checkpoints.list(run_id=run_id)
        if is_listed(checkpoint)
        and (
            call.knows_exports
            or path_of_stored(checkpoint.run_id, checkpoint.name).kind != "external_weights"
        )
    ]


def _checkpoint_fields(checkpoint: CheckpointRecord) -> dict[str, Any]:
    path = path_of_stored(checkpoint.run_id, checkpoint.name)
    fields = {
        "checkpoint_id": path.checkpoint_id,
        "checkpoint_type": TYPE_OF_KIND[path.kind],
        "time": iso_time(checkpoint.created_at_s),
        "tinker_path": str(path),
        "size_bytes": checkpoint.size_bytes,
        "public": checkpoint.is_public,
        "user_metadata": checkpoint.user_metadata,
    }
    if checkpoint.expires_at_s is not None:
        fields["expires_at"] = iso_time(checkpoint.expires_at_s)
    return fields


async def delete_checkpoint(call: Call) -> Response:
    """Delete a checkpoint."""
    path = named_checkpoint(call)
    await call.service.checkpoints.delete(path.run_id, path.stored_name)
    return nothing()


async def publish(call: Call) -> Response:
    """Mark a checkpoint as public."""
    path = named_checkpoint(call)
    await call.service.checkpoints.set_public(path.run_id, path.stored_name, True)
    return nothing()


async def unpublish(call: Call) -> Response:
    """Take that back."""
    path = named_checkpoint(call)
    await call.service.checkpoints.set_public(path.run_id, path.stored_name, False)
    return nothing()


async def set_ttl(call: Call) -> Response:
    """Have a checkpoint deleted after a while, or never."""
    path, body = named_checkpoint(call), await call.body(wire.SetTtl)
    await call.service.checkpoints.set_ttl(path.run_id, path.stored_name, body.ttl_seconds)
    return nothing()


async def weights_info(call: Call) -> Response:
    """What a checkpoint belongs to and how its adapter is made."""
    body = await call.body(wire.WeightsInfo)
    path = parse_path(body.tinker_path, field="tinker_path")
    checkpoint = await call.service.checkpoints.get(path.run_id, path.stored_name)
    lora = checkpoint.lora
    return answer(
        {
            "base_model": checkpoint.base_model,
            "is_lora": True,
            "lora_rank": lora.r,
            "train_unembed": lora.train_unembed,
            "train_mlp": lora.train_mlp,
            "train_attn": lora.train_attn,
            "optimizer_config": {"type": "adamw"},
        }
    )


async def copy_weights(call: Call) -> Response:
    """Copy a checkpoint into a slot of a session, or into a slot of its own."""
    body = await call.body(wire.CopyWeights)
    source = parse_path(body.source_path, field="source_path")
    if body.session_id is not None and body.model_seq_id is not None:
        await call.service.sessions.need(body.session_id)
        target_run_id = run_id_of(body.session_id, body.model_seq_id)
    elif body.destination_project_id is not None:
        # A repeated request, known by its digest, must not copy twice.
        identity = f"{call.service.principal.owner} {call.digest}"
        target_run_id = run_id_of(str(uuid.uuid5(uuid.NAMESPACE_OID, identity)), 0)
    else:
        raise InvalidRequestError(
            "copy_weights: expected session_id with model_seq_id, or destination_project_id.",
            field="session_id",
        )
    await call.service.checkpoints.copy(
        source.run_id, source.stored_name, target_run_id=target_run_id, ttl_s=body.ttl_seconds
    )
    return answer({"tinker_path": str(replace(source, run_id=target_run_id))})


ROUTES = (
    endpoint("GET", "/training_runs", list_runs),
    endpoint("GET", "/training_runs/{run_id}", get_run),
    endpoint("GET", "/training_runs/{run_id}/checkpoints", list_run_checkpoints),
    endpoint("GET", "/checkpoints", list_checkpoints),
    endpoint("DELETE", CHECKPOINT, delete_checkpoint),
    endpoint("POST", f"{CHECKPOINT}/publish", publish),
    endpoint("DELETE", f"{CHECKPOINT}/publish", unpublish),
    endpoint("PUT", f"{CHECKPOINT}/ttl", set_ttl),
    endpoint("POST", "/weights_info", weights_info),
    endpoint("POST", "/copy_weights", copy_weights),
)
