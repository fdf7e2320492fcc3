"""What routes depend on, as types: the service, a parsed body, a checked name, a submission.

Knows FastAPI and no resource. Used in the signatures of ``routes/``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Depends, Header, Path, Query, Request

from eztinker.api.bodies import parse, read_raw
from eztinker.api.errors import unknown_parameter
from eztinker.ids import check_reference
from eztinker.models.api import WireModel

if TYPE_CHECKING:
    from eztinker.service.service import Service
else:
    # FastAPI evaluates annotations at run time; the service is not imported for its type.
    Service = Any

M = TypeVar("M", bound=WireModel)

MAX_WAIT_S = 60.0
MAX_PAGE = 1000
MAX_OFFSET = 2**63 - 1


# Every dependency is a coroutine: FastAPI sends plain functions to a thread, a detour of a fifth of a
# millisecond each, five times per request.


async def get_service(request: Request) -> Service:
    """The service as whoever asks sees it: what belongs to others does not exist there."""
    return request.state.service


ServiceDep = Annotated[Service, Depends(get_service)]


async def get_raw_body(request: Request) -> bytes:
    """The body's bytes, read once per request."""
    return await read_raw(request, request.state.service.config.limits)


RawBody = Annotated[bytes, Depends(get_raw_body)]


def body_of(model: type[M]) -> Callable[[RawBody], Coroutine[Any, Any, M]]:
    """A dependency that parses the body as ``model``."""

    async def read_body(raw: RawBody) -> M:
        return parse(raw, model)

    return read_body


async def _run_id(run_id: Annotated[str, Path(description="A run's id.")]) -> str:
    return check_reference(run_id, field="run_id")


async def _job_id(job_id: Annotated[str, Path(description="A job's id.")]) -> str:
    return check_reference(job_id, field="job_id")


async def _checkpoint_name(name: Annotated[str, Path(description="A checkpoint's name.")]) -> str:
    return check_reference(name, field="name")


async def _file_name(file: Annotated[str, Path(description="A file's name.")]) -> str:
    return check_reference(file, field="file")


FileName = Annotated[str, Depends(_file_name)]
RunId = Annotated[str, Depends(_run_id)]
JobId = Annotated[str, Depends(_job_id)]
CheckpointName = Annotated[str, Depends(_checkpoint_name)]

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Entries of one page.")]
Offset = Annotated[int, Query(ge=0, le=MAX_OFFSET, description="Entries to skip.")]
Wait = Annotated[
    float | None,
    Query(
        ge=0,
        le=MAX_WAIT_S,
        allow_inf_nan=False,
        description="Seconds to hold the answer until the job ends.",
    ),
]

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Identifies the request over its retries.",
    ),
]


@dataclass(frozen=True, slots=True)
class Submission:
    """How a POST identifies itself over its retries.

    Attributes:
        idempotency_key: the same key again answers with the same job; None: every request is new.
        request_digest: sha256 of method, path, query (but ``wait``) and body.
    """

    idempotency_key: str | None
    request_digest: str


async def _submission(
    request: Request,
    raw: RawBody,
    idempotency_key: IdempotencyKey = None,
) -> Submission:
    query = sorted(pair for pair in request.query_params.multi_items() if pair[0] != "wait")
    head = f"{request.method}\n{request.url.path}\n{query}\n".encode("utf-8", "replace")
    return Submission(idempotency_key, hashlib.sha256(head + raw).hexdigest())


SubmissionDep = Annotated[Submission, Depends(_submission)]


async def refuse_unknown_query(request: Request) -> None:
    """Refuse a query parameter that the route does not declare, and one given twice.

    What a route declares is read from the OpenAPI document, so that the two cannot differ.
    """
    if not request.query_params:
        return
    methods = request.app.openapi()["paths"].get(request.scope["route"].path_format, {})
    parameters = methods.get(request.method.lower(), {}).get("parameters", ())
    known = [parameter["name"] for parameter in parameters if parameter["in"] == "query"]
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in known or name in seen:
            raise unknown_parameter(name, known, repeated=name in seen)
        seen.add(name)
