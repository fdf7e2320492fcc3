"""The OpenAI-compatible routes: chat completions, completions, one model. The list is in ``models.py``.

Each request becomes one job for each prompt, logged like any other. A client that hangs up cancels them, unless
it sent an ``Idempotency-Key`` and may therefore come back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi import Path as PathParameter
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from eztinker.api.answers import json_response
from eztinker.api.deps import ServiceDep, Submission, SubmissionDep, body_of
from eztinker.api.openai import requests
from eztinker.api.openai.answers import Asked, whole_answer
from eztinker.api.openai.errors import OpenAIRoute
from eztinker.api.openai.model_ids import resolve_model
from eztinker.api.openai.streams import EventStream, events
from eztinker.api.openapi import takes
from eztinker.api.prompts import chosen_seed
from eztinker.api.routes.models import list_models, model_fields
from eztinker.errors import EZTinkerError, StorageError
from eztinker.models.answers import ModelAnswer
from eztinker.models.openai import (
    ChatCompletionAnswer,
    ChatCompletionRequest,
    CompletionAnswer,
    CompletionRequest,
)
from eztinker.types.operations import Sample, SampleResult
from eztinker.types.records import FINAL_STATUSES, JobRecord

T = TypeVar("T")

ALIAS = "/oai/api/v1"
"""Where the Tinker service has this API."""

router = APIRouter(tags=["openai"], route_class=OpenAIRoute)

ChatBody = Annotated[ChatCompletionRequest, Depends(body_of(ChatCompletionRequest))]
CompletionBody = Annotated[CompletionRequest, Depends(body_of(CompletionRequest))]


@router.post(
    "/v1/chat/completions", response_model=ChatCompletionAnswer, **takes(ChatCompletionRequest)
)
@router.post(f"{ALIAS}/chat/completions", include_in_schema=False)
async def create_chat_completion(
    request: Request, body: ChatBody, submission: SubmissionDep, service: ServiceDep
) -> Response:
    """Answer a conversation, in OpenAI's shape; with ``stream``, as server-sent events."""
    return await _answer(request, body, submission, service)


@router.post("/v1/completions", response_model=CompletionAnswer, **takes(CompletionRequest))
@router.post(f"{ALIAS}/completions", include_in_schema=False)
async def create_completion(
    request: Request, body: CompletionBody, submission: SubmissionDep, service: ServiceDep
) -> Response:
    """Continue prompts, in OpenAI's shape; with ``stream``, as server-sent events."""
    return await _answer(request, body, submission, service)


router.add_api_route(f"{ALIAS}/models", list_models, include_in_schema=False)


@router.get("/v1/models/{model:path}", response_model=ModelAnswer)
@router.get(f"{ALIAS}/models/{{model:path}}", include_in_schema=False)
async def get_model(
    request: Request,
    model: Annotated[str, PathParameter(description="As in a request.")],
    service: ServiceDep,
) -> Response:
    """One model by any of its names."""
    weights = await resolve_model(service, model)
    return json_response(await model_fields(request, service, model, weights))


async def _answer(
    request: Request,
    body: ChatCompletionRequest | CompletionRequest,
    submission: Submission,
    service: ServiceDep,
) -> Response:
    requests.check_supported(body)
    asked = await _submit(body, submission, service)

    async def end() -> None:
        if submission.idempotency_key is None:
            await _cancel(service, asked.job_ids)

    if body.stream:
        return EventStream(events(service, asked, lambda: _results(service, asked)), at_end=end)
    try:
        results = await _unless_gone(request, _results(service, asked))
    finally:
        await end()
    return json_response(await asyncio.to_thread(whole_answer, asked, results))


async def _submit(
    body: ChatCompletionRequest | CompletionRequest, submission: Submission, service: ServiceDep
) -> Asked:
    """Log all jobs of a request, or none that goes on."""
    weights = await resolve_model(service, body.model)
    base = await service.base_models.resolve(weights.base_model)
    tokenizer = await service.base_models.tokenizer(weights.base_model)
    seed = chosen_seed(body.seed, submission.idempotency_key)
    operations: list[Sample]
    if isinstance(body, ChatCompletionRequest):
        chat = asyncio.to_thread(requests.chat_operation, body, weights, base, tokenizer, seed)
        operations = [await chat]
    else:
        operations = await asyncio.to_thread(
            requests.completion_operations, body, weights, base, tokenizer, seed
        )
    jobs: list[JobRecord] = []
    try:
        for index, operation in enumerate(operations):
            key = submission.idempotency_key
            jobs.append(
                await service.submissions.submit(
                    operation,
                    run_id=weights.run_id,
                    idempotency_key=f"{key}#{index}" if key and index else key,
                    request_digest=submission.request_digest,
                    streamed=bool(body.stream),
                )
            )
    except BaseException:
        await _cancel(service, [job.job_id for job in jobs])
        raise
    return Asked(body, operations, [job.job_id for job in jobs], tokenizer, jobs[0].created_at_s)


async def _results(service: ServiceDep, asked: Asked) -> list[SampleResult]:
    """Results of all jobs, when all are committed."""
    results = []
    for job_id in asked.job_ids:
        job = await service.jobs.wait_for_end(job_id)
        if job.error is not None:
            raise job.error.as_error()
        if not isinstance(job.result, SampleResult):
            raise StorageError(f"Job {job_id} ended without an answer.")
        results.append(job.result)
    return results


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The outcome of ``work``, given up when the client hangs up."""
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        listening.cancel()


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _cancel(service: ServiceDep, job_ids: list[str]) -> None:
    """Stop what still runs; called on the way out, so it must not fail."""
    for job_id in job_ids:
        with contextlib.suppress(EZTinkerError):
            job: Any = await service.jobs.get(job_id)
            if job.status not in FINAL_STATUSES:
                await asyncio.shield(service.jobs.cancel(job_id))
