"""Submitting on the Tinker wire: a promise for every operation, and a number used up for each refusal.

The client counts a number as used as soon as it sends it and goes on with the next; were a refused one
left open, the operations behind it would wait for ever. So a numbered operation is refused through its
future. Called by ``routes/tinker``.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from starlette.responses import Response

from eztinker.api.bodies import parse
from eztinker.api.tinker.endpoint import Call, answer, internal_error
from eztinker.errors import (
    CapacityError,
    ConflictError,
    EZTinkerError,
    InvalidRequestError,
    NotFoundError,
)
from eztinker.models import tinker as wire
from eztinker.types.operations import Operation
from eztinker.types.records import BaseModelRecord, JobRecord

if TYPE_CHECKING:
    from eztinker.service.service import Service

log = logging.getLogger(__name__)

M = TypeVar("M", bound=wire.TinkerModel)


async def submit_body(
    call: Call,
    model: type[M],
    make: Callable[[M], Operation | Awaitable[Operation]],
    *,
    kind: str,
) -> Response:
    """Promise the operation that a JSON body asks for.

    The number is looked for first, so that a body which does not fit its schema uses it up as well.

    Args:
        make: converts the body; what it raises is a refusal of this operation.

    Raises:
        InvalidRequestError: the body does not fit, and does not say which number that was.
        NotFoundError, ConflictError, CapacityError: as in ``submit_numbered``.
    """
    raw = await call.raw_json()
    try:
        numbered = parse(raw, wire.Place)
    except InvalidRequestError:
        parse(raw, model)  # its own complaint is the better one
        raise
    return await submit_numbered(
        call,
        lambda: make(parse(raw, model)),
        model_id=numbered.model_id,
        seq_id=numbered.seq_id,
        kind=kind,
    )


async def submit_numbered(
    call: Call,
    make: Callable[[], Operation | Awaitable[Operation]],
    *,
    model_id: str,
    seq_id: int | None,
    kind: str,
) -> Response:
    """Promise the operation that ``make`` returns.

    Args:
        make: converts the request; what it raises is a refusal of this operation.
        seq_id: the client's number; without one a refusal is answered directly.
        kind: the job kind, should there be no operation to take it from.

    Raises:
        NotFoundError: there is no such model.
        ConflictError: the number was used for another request.
        CapacityError: no room now; the number is not used up and the client tries again.
    """
    try:
        operation = make()
        if isinstance(operation, Awaitable):
            operation = await operation
        job = await call.service.submissions.submit(
            operation, run_id=model_id, seq=seq_id, request_digest=call.digest
        )
    except (CapacityError, ConflictError):
        raise
    except EZTinkerError as error:
        if seq_id is None:
            raise
        if isinstance(error, NotFoundError) and error.code == "run_not_found":
            raise
        refusal = error
    except Exception:
        if seq_id is None:
            raise
        log.exception("Operation %s of %s failed", seq_id, model_id)
        refusal = internal_error()
    else:
        return promise(job)
    return promise(
        await call.service.submissions.refuse(
            _in_words_of_this_wire(refusal),
            run_id=model_id,
            kind=kind,
            seq=seq_id,
            request_digest=call.digest,
        )
    )


def promise(job: JobRecord) -> Response:
    """The answer to a submission."""
    content = {"request_id": job.job_id}
    if job.run_id is not None:
        content["model_id"] = job.run_id
    return answer(content)


_UNLOAD = "unload:"


def unload_promise(model_id: str) -> Response:
    """The promise of an unloading that has been done: its id says whose, so nothing is kept of it."""
    return answer({"request_id": f"{_UNLOAD}{model_id}", "model_id": model_id})


def model_of_unload(request_id: str) -> str | None:
    """Whose unloading a promise is about; None for every other promise."""
    return request_id.removeprefix(_UNLOAD) if request_id.startswith(_UNLOAD) else None


def _in_words_of_this_wire(error: EZTinkerError) -> EZTinkerError:
    """Admission names fields as the native wire has them."""
    error.message = error.message.replace("].input_ids", "].model_input")
    return error


async def resolve_base(service: Service, name: str) -> BaseModelRecord:
    """A base model by its name, or by its name without the ``:variant`` that clients may put behind it.

    Raises:
        NotFoundError: code ``model_not_found``.
    """
    try:
        return await service.base_models.resolve(name)
    except NotFoundError:
        bare, colon, _ = name.partition(":")
        if not colon:
            raise
        return await service.base_models.resolve(bare)
