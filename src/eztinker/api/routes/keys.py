"""``/v1/keys``: making, listing and revoking keys."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from eztinker.api.answers import json_response, key_fields
from eztinker.api.deps import ServiceDep, SubmissionDep, body_of
from eztinker.api.openapi import takes
from eztinker.ids import check_reference
from eztinker.models.answers import KeyAnswer, KeyCreatedAnswer, KeysAnswer
from eztinker.models.api import CreateKeyRequest

router = APIRouter(tags=["keys"])

CreateBody = Annotated[CreateKeyRequest, Depends(body_of(CreateKeyRequest))]


@router.post("/v1/keys", response_model=KeyCreatedAnswer, **takes(CreateKeyRequest))
async def create_key(body: CreateBody, submission: SubmissionDep, service: ServiceDep) -> Response:
    """Make a key. The answer is the only place where it is ever shown."""
    record, key = await service.accounts.create(
        body.name,
        owner=body.owner,
        scopes=body.scopes,
        expires_in_s=body.expires_in_s,
        idempotency_key=submission.idempotency_key,
    )
    return json_response({**key_fields(record), "key": key})


@router.get("/v1/keys", response_model=KeysAnswer)
async def list_keys(service: ServiceDep) -> Response:
    """All keys, revoked ones included, oldest first."""
    return json_response({"keys": [key_fields(key) for key in service.accounts.list()]})


@router.delete("/v1/keys/{key_id}", response_model=KeyAnswer)
async def revoke_key(key_id: str, service: ServiceDep) -> Response:
    """Take a key back; from now on it is refused."""
    check_reference(key_id, field="key_id")
    return json_response(key_fields(await service.accounts.revoke(key_id)))
