"""Sampling on the Tinker wire: sampling sessions, and samples from them."""

from __future__ import annotations

from starlette.responses import Response

from eztinker.api.tinker import samples
from eztinker.api.tinker.endpoint import Call, answer, endpoint
from eztinker.api.tinker.paths import parse_path, path_of_stored
from eztinker.api.tinker.submit import resolve_base
from eztinker.errors import InvalidRequestError
from eztinker.models import tinker as wire
from eztinker.service.quantized_names import check_quantization
from eztinker.service.samplers import PUBLISHED
from eztinker.types.sampling import WeightsRef


async def create_sampling_session(call: Call) -> Response:
    """A sampler of a base model or of saved weights."""
    body = await call.body(wire.CreateSamplingSession)
    await call.service.sessions.need(body.session_id)
    weights = await _weights(call, body)
    sampler = await call.service.samplers.create(
        body.session_id, body.sampling_session_seq_id, weights
    )
    return answer({"type": "create_sampling_session", "sampling_session_id": sampler.sampler_id})


async def _weights(call: Call, body: wire.CreateSamplingSession) -> WeightsRef:
    if body.model_path is None:
        if body.base_model is None:
            raise InvalidRequestError(
                "model_path: expected a tinker:// path or base_model, got neither.",
                field="model_path",
            )
        base = await resolve_base(call.service, body.base_model)
        check_quantization(base.quantization)
        return WeightsRef(base.name)
    path = parse_path(body.model_path, field="model_path")
    checkpoint = await call.service.checkpoints.get(path.run_id, path.stored_name)
    if body.base_model is not None:
        wanted = await resolve_base(call.service, body.base_model)
        held = await resolve_base(call.service, checkpoint.base_model)
        if wanted.folder != held.folder:
            raise InvalidRequestError(
                f"base_model: {path} belongs to {checkpoint.base_model}, got {body.base_model[:200]}. Leave "
                "base_model out.",
                field="base_model",
            )
    return WeightsRef(checkpoint.base_model, path.run_id, path.stored_name)


async def asample(call: Call) -> Response:
    """Promise ``num_samples`` continuations of a prompt."""
    body = await call.body(wire.AskSample)
    sampler = await call.service.samplers.get(body.sampling_session_id)
    base = await resolve_base(call.service, sampler.base_model)
    weights = await call.service.samplers.weights(sampler)
    job = await call.service.submissions.submit(
        samples.sample(body, weights, base),
        run_id=sampler.run_id,
        idempotency_key=samples.identity(body),
        request_digest=call.digest,
    )
    await call.service.completions.expect(sampler, body.seq_id, job)
    ids = [f"{job.job_id}-{index}" for index in range(body.num_samples)]
    return answer({"request_id": job.job_id, "sample_sequence_ids": ids})


async def join_sampling_session(call: Call) -> Response:
    """A number for one more client of a sampler, such as a copy in another process."""
    body = await call.body(wire.JoinSamplingSession)
    counter = await call.service.samplers.join(body.sampling_session_id)
    return answer({"type": "join_sampling_session", "client_counter": counter})


async def get_sampler(call: Call) -> Response:
    """What a sampler stands for."""
    sampler = await call.service.samplers.get(call.path("sampler_id"))
    content = {"sampler_id": sampler.sampler_id, "base_model": sampler.base_model}
    is_fixed = sampler.checkpoint is not None and sampler.checkpoint != PUBLISHED
    if sampler.run_id is not None and sampler.checkpoint is not None and is_fixed:
        content["model_path"] = str(path_of_stored(sampler.run_id, sampler.checkpoint))
    return answer(content)


ROUTES = (
    endpoint("POST", "/create_sampling_session", create_sampling_session),
    endpoint("POST", "/asample", asample),
    endpoint("POST", "/join_sampling_session", join_sampling_session),
    endpoint("GET", "/samplers/{sampler_id}", get_sampler),
)
