"""Futures of the Tinker wire, which are our jobs: polls that are held open, one by one or for all of a
sampling client's at once, and cancelling.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from eztinker.api.tinker import passes, samples
from eztinker.api.tinker.endpoint import PROTOBUF, Call, answer, endpoint, nothing
from eztinker.api.tinker.errors import future_category
from eztinker.api.tinker.paths import EPHEMERAL, path_of_stored, sampler_number
from eztinker.api.tinker.submit import model_of_unload
from eztinker.models import tinker as wire
from eztinker.service.sessions import sampler_id_of
from eztinker.types.operations import (
    CheckpointLoaded,
    CheckpointSaved,
    EvaluationResult,
    PassResult,
    RunCreated,
    Sample,
    SampleResult,
    StepResult,
)
from eztinker.types.records import FINAL_STATUSES, JobRecord

POLL_S = 20.0
"""How long a poll is held: the client gives up after 45 s and asks again without a pause."""


async def retrieve_future(call: Call) -> Response:
    """The result of an operation, its error, or after a while that it is not there yet."""
    body = await call.body(wire.RetrieveFuture)
    unloaded = model_of_unload(body.request_id)
    if unloaded is not None:
        return answer({"type": "unload_model", "model_id": unloaded})
    job = await call.service.jobs.wait(body.request_id, POLL_S)
    if job.status not in FINAL_STATUSES:
        return _try_again(job)
    if job.error is not None:
        return answer({"error": job.error.message, "category": future_category(job.error.category)})
    assert job.result is not None
    if isinstance(job.result, SampleResult):
        return await _answer_sample(call, job.job_id, job.result)
    if isinstance(job.result, PassResult):
        return _answer_pass(call, job.result)
    return answer(_fields(job.result))


def _try_again(job: JobRecord) -> Response:
    content = {"type": "try_again", "request_id": job.job_id, "queue_state": "active"}
    if job.wait_reason is not None:
        about = "" if job.estimated_wait_s is None else f"; about {job.estimated_wait_s:.0f} s"
        content["queue_state_reason"] = job.wait_reason + about
    return answer(content, 408)


async def _answer_sample(call: Call, job_id: str, result: SampleResult) -> Response:
    if not call.takes_protobuf:
        return answer(samples.json_result(result))
    operation = None
    if result.target_prompt_logprobs is not None:
        asked = await call.service.jobs.operation(job_id)
        operation = asked if isinstance(asked, Sample) else None
    return Response(samples.encode_result(result, operation), media_type=PROTOBUF)


def _answer_pass(call: Call, result: PassResult) -> Response:
    if not call.takes_protobuf:
        return answer(passes.json_result(result))
    return Response(passes.encode_result(result), media_type=PROTOBUF)


def _fields(
    result: RunCreated | StepResult | CheckpointSaved | CheckpointLoaded | EvaluationResult,
) -> dict[str, Any]:
    match result:
        case RunCreated():
            return _created_fields(result)
        case StepResult():
            return {
                "type": "optim_step",
                "metrics": {
                    "step:max": float(result.step),
                    "grad_norm:mean": result.grad_norm,
                    "learning_rate:mean": result.learning_rate,
                },
            }
        case CheckpointSaved():
            return _saved_fields(result)
        case CheckpointLoaded():
            return {"type": "load_weights", "model_id": result.run_id}
        case EvaluationResult():
            return {"type": "evaluate", "scores": result.scores}


def _created_fields(created: RunCreated) -> dict[str, Any]:
    if created.source_run_id is None or created.source_name is None:
        return {"type": "create_model", "model_id": created.run_id}
    path = path_of_stored(created.source_run_id, created.source_name)
    return {"type": "load_weights", "model_id": created.run_id, "path": str(path)}


def _saved_fields(saved: CheckpointSaved) -> dict[str, Any]:
    path = path_of_stored(saved.run_id, saved.name)
    if path.kind == EPHEMERAL:
        session_id = saved.run_id.partition(":")[0]
        sampler_id = sampler_id_of(session_id, sampler_number(path))
        return {"type": "save_weights_for_sampler", "sampling_session_id": sampler_id}
    kind = {
        "weights": "save_weights",
        "sampler_weights": "save_weights_for_sampler",
        "external_weights": "save_weights_external",
    }[path.kind]
    return {"type": kind, "path": str(path), "size_bytes": saved.size_bytes}


async def retrieve_futures(call: Call) -> Response:
    """Which samples of one client have ended since it last asked; their results are fetched one by one.

    What the client has retrieved is not told again. Its results stay: a lost answer may be asked for.
    """
    body = await call.body(wire.RetrieveFutures)
    sampler = await call.service.samplers.get(body.target.sampling_session_id)
    ended, cursor = await call.service.completions.wait(
        sampler,
        body.target.cloned_sampler_id,
        after=body.prev_cursor,
        known=frozenset(body.retrieved_request_ids),
        timeout_s=POLL_S if body.timeout is None else min(body.timeout, POLL_S),
    )
    completions = [
        {"state": "finished" if one.ok else "failed", "request_id": one.job_id} for one in ended
    ]
    return answer({"completions": completions, "cursor": cursor})


async def cancel_future(call: Call) -> Response:
    """Stop an operation that nobody waits for any more."""
    body = await call.body(wire.CancelFuture)
    await call.service.jobs.cancel(body.request_id)
    return nothing()


ROUTES = (
    endpoint("POST", "/retrieve_future", retrieve_future),
    endpoint("POST", "/retrieve_futures", retrieve_futures),
    endpoint("POST", "/cancel_future", cancel_future),
)
