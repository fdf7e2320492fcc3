"""Checkpoints: saving, loading, listing and deleting them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import FileResponse, Response

from eztinker.api.answers import checkpoint_fields, json_response
from eztinker.api.deps import (
    CheckpointName,
    FileName,
    RunId,
    ServiceDep,
    SubmissionDep,
    Wait,
    body_of,
)
from eztinker.api.openapi import takes
from eztinker.api.submit import submit
from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.ids import check_name, check_reference
from eztinker.models.answers import (
    CheckpointAnswer,
    CheckpointDeletedAnswer,
    CheckpointsAnswer,
    FilesAnswer,
    JobSubmittedAnswer,
    PruneAnswer,
)
from eztinker.models.api import KeepRequest, LoadRequest, PruneRequest, SaveRequest
from eztinker.types.operations import LoadCheckpoint, SaveCheckpoint

router = APIRouter(tags=["checkpoints"])

SaveBody = Annotated[SaveRequest, Depends(body_of(SaveRequest))]
KeepBody = Annotated[KeepRequest, Depends(body_of(KeepRequest))]
PruneBody = Annotated[PruneRequest, Depends(body_of(PruneRequest))]
LoadBody = Annotated[LoadRequest, Depends(body_of(LoadRequest))]


@router.post(
    "/v1/runs/{run_id}/save",
    response_model=JobSubmittedAnswer,
    **takes(SaveRequest, required=False),
)
async def save(
    run_id: RunId,
    body: SaveBody,
    submission: SubmissionDep,
    service: ServiceDep,
    name: Annotated[str | None, Query(description="Instead of name in the body.")] = None,
    wait: Wait = None,
) -> Response:
    """Write the run's adapter and optimizer under a name."""
    operation = SaveCheckpoint(
        name=check_name(_one_name(body.name, name), field="name"),
        with_optimizer=body.with_optimizer,
        overwrite=body.overwrite,
    )
    return await submit(service, operation, run_id=run_id, submission=submission, wait_s=wait)


def _one_name(in_body: str | None, in_query: str | None) -> str:
    if in_body is not None and in_query is not None and in_body != in_query:
        raise InvalidRequestError(
            f"name: {in_body[:100]!r} in the body and {in_query[:100]!r} in the query. Send one.",
            field="name",
        )
    name = in_body if in_body is not None else in_query
    if name is None:
        raise InvalidRequestError(
            'name: missing. Send {"name": "…"} or ?name=….', code="missing_field", field="name"
        )
    return name


@router.post("/v1/runs/{run_id}/load", response_model=JobSubmittedAnswer, **takes(LoadRequest))
async def load(
    run_id: RunId, body: LoadBody, submission: SubmissionDep, service: ServiceDep, wait: Wait = None
) -> Response:
    """Replace the run's state with one of its checkpoints, or with another run's of the same shape."""
    source = body.source_run_id
    operation = LoadCheckpoint(
        source_run_id=run_id if source is None else check_reference(source, field="source_run_id"),
        name=check_reference(body.name, field="name"),
        with_optimizer=body.with_optimizer,
    )
    return await submit(service, operation, run_id=run_id, submission=submission, wait_s=wait)


@router.get("/v1/checkpoints", response_model=CheckpointsAnswer)
async def list_all_checkpoints(service: ServiceDep) -> Response:
    """Checkpoints of all runs, oldest first."""
    return _listed(await service.checkpoints.list(run_id=None))


@router.get("/v1/runs/{run_id}/checkpoints", response_model=CheckpointsAnswer)
async def list_checkpoints(run_id: RunId, service: ServiceDep) -> Response:
    """Checkpoints of one run, oldest first; they outlive the run."""
    found = await service.checkpoints.list(run_id=run_id)
    if not found:
        await service.runs.get(run_id)  # an unknown run is an error, not an empty list
    return _listed(found)


def _listed(checkpoints: list) -> Response:
    return json_response({"checkpoints": [checkpoint_fields(entry) for entry in checkpoints]})


@router.get("/v1/runs/{run_id}/checkpoints/{name}/files", response_model=FilesAnswer)
async def list_files(run_id: RunId, name: CheckpointName, service: ServiceDep) -> Response:
    """What a checkpoint consists of: an adapter in PEFT's layout, and ``eztinker.json`` with its checksums."""
    contents = await service.checkpoints.contents(run_id, name)
    files = [{"name": path.name, "size_bytes": path.stat().st_size} for path in contents.values()]
    return json_response({"files": files})


@router.get(
    "/v1/runs/{run_id}/checkpoints/{name}/files/{file}",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
async def get_file(
    run_id: RunId, name: CheckpointName, file: FileName, service: ServiceDep
) -> Response:
    """One file of a checkpoint."""
    contents = await service.checkpoints.contents(run_id, name)
    if file not in contents:
        raise NotFoundError(
            f"Checkpoint {name!r} has no file {file!r}. It has: {', '.join(contents)}.",
            code="file_not_found",
            field="file",
        )
    return FileResponse(contents[file], media_type="application/octet-stream")


@router.patch(
    "/v1/runs/{run_id}/checkpoints/{name}", response_model=CheckpointAnswer, **takes(KeepRequest)
)
async def keep_checkpoint(
    run_id: RunId, name: CheckpointName, body: KeepBody, service: ServiceDep
) -> Response:
    """Pin a checkpoint, or say how good it is."""
    kept = await service.checkpoints.keep(run_id, name, is_pinned=body.pinned, score=body.score)
    return json_response(checkpoint_fields(kept))


@router.post(
    "/v1/checkpoints/prune", response_model=PruneAnswer, **takes(PruneRequest, required=False)
)
async def prune(body: PruneBody, submission: SubmissionDep, service: ServiceDep) -> Response:
    """Delete checkpoints by rules and budgets, or say what would be deleted; again, it finds the rest."""
    del submission  # its key is checked like any other; a repetition has nothing left to do
    run_id = None if body.run_id is None else check_reference(body.run_id, field="run_id")
    doomed = await service.checkpoints.prune(
        run_id=run_id, keep_last=body.keep_last, keep_best=body.keep_best, is_dry=body.dry_run
    )
    found = [
        {
            "run_id": entry.checkpoint.run_id,
            "name": entry.checkpoint.name,
            "size_bytes": entry.checkpoint.size_bytes,
            "reason": entry.reason,
        }
        for entry in doomed
    ]
    freed_bytes = sum(entry["size_bytes"] for entry in found)
    return json_response(
        {"dry_run": body.dry_run, "checkpoints": found, "freed_bytes": freed_bytes}
    )


@router.delete("/v1/runs/{run_id}/checkpoints/{name}", response_model=CheckpointDeletedAnswer)
async def delete_checkpoint(run_id: RunId, name: CheckpointName, service: ServiceDep) -> Response:
    """Delete a checkpoint and its files."""
    await service.checkpoints.delete(run_id, name)
    return json_response({"status": "deleted", "run_id": run_id, "name": name})
