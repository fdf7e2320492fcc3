"""``asample`` on the Tinker wire: its body to ``Sample``, its result to bytes.

Pure; called by ``routes/tinker/sampling.py`` and ``routes/tinker/futures.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from eztinker.api.prompts import chosen_seed
from eztinker.api.tinker.passes import tokens_from_json
from eztinker.api.tinker.tensors import from_json, to_message, to_sparse_message
from eztinker.errors import InvalidRequestError, UnsupportedError
from eztinker.models import tinker as wire
from eztinker.models.proto.tinker_public import STOP_REASONS, SampleResponse
from eztinker.types.operations import Sample, SampleResult
from eztinker.types.records import BaseModelRecord
from eztinker.types.sampling import SampledSequence, SamplingParams, WeightsRef


def identity(body: wire.AskSample) -> str:
    """What names the request over its retries: two clients of one session have numbers apart."""
    return f"{body.sampling_session_id}/{body.seq_id}"


def sample(body: wire.AskSample, weights: WeightsRef, base: BaseModelRecord) -> Sample:
    """The operation that an ``asample`` request asks for.

    Raises:
        InvalidRequestError: a prompt without tokens, or one that leaves no room for an answer.
        UnsupportedError: images, audio, or an option that is not here.
    """
    _refuse_stability_info(body)
    tokens = tokens_from_json(body.prompt, field="prompt")
    return Sample(
        weights=weights,
        prompt_tokens=tokens,
        params=_params(body, len(tokens), base),
        num_samples=body.num_samples,
        prompt_logprobs=body.prompt_logprobs,
        topk_prompt_logprobs=body.topk_prompt_logprobs,
        prompt_logprobs_last_n=body.prompt_logprobs_last_n,
        topk_sample_logprobs=body.topk_sample_logprobs,
        target_prompt_ids=_targets(body.target_prompt_logprobs),
        sparse_targets=_is_sparse(body.target_prompt_logprobs),
        num_prompt_alternatives=body.prompt_alt_tokens_k,
    )


def _refuse_stability_info(body: wire.AskSample) -> None:
    if body.record_stability_info:
        raise UnsupportedError(
            "record_stability_info: stable_reinforce is not here. Use loss_fn=importance_sampling.",
            field="record_stability_info",
        )


def _targets(tensor: wire.TensorData | None) -> np.ndarray | None:
    if tensor is None:
        return None
    ids = from_json(tensor, field="target_prompt_logprobs", fill=-1)
    if ids.dtype.kind != "i":
        raise InvalidRequestError(
            "target_prompt_logprobs: expected int64 token ids, got float32.",
            field="target_prompt_logprobs",
        )
    return ids


def _is_sparse(tensor: wire.TensorData | None) -> bool:
    return tensor is not None and tensor.sparse_crow_indices is not None


def _params(body: wire.AskSample, num_prompt: int, base: BaseModelRecord) -> SamplingParams:
    params = body.sampling_params
    stop, stop_token_ids = _stops(params.stop)
    return SamplingParams(
        max_tokens=_max_tokens(body, num_prompt, base),
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k if params.top_k < base.vocab_size else -1,
        seed=chosen_seed(params.seed, identity(body)),
        stop=stop,
        stop_token_ids=stop_token_ids,
    )


def _max_tokens(body: wire.AskSample, num_prompt: int, base: BaseModelRecord) -> int:
    """As asked for, or what the context has room for.

    A full context can still be scored: the client's ``compute_logprobs`` asks for one token that it
    does not read.
    """
    asked, room = body.sampling_params.max_tokens, base.context_length - num_prompt
    if asked is None:
        return max(room, 1)
    scores_only = body.prompt_logprobs and asked == 1 and body.num_samples == 1
    return 0 if scores_only and room == 0 else asked


def _stops(
    stop: str | list[int] | list[str] | None,
) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """Stop strings beside the model's own end, or ids instead of it; an empty list is no end at all."""
    if stop is None:
        return (), None
    if isinstance(stop, str):
        return (stop,), None
    texts = tuple(entry for entry in stop if isinstance(entry, str))
    return texts, None if texts else tuple(entry for entry in stop if isinstance(entry, int))


def encode_result(result: SampleResult, operation: Sample | None = None) -> bytes:
    """``SampleResponse``.

    Args:
        operation: what was asked; needed only where targets were.
    """
    response = SampleResponse(prompt_cache_hit_tokens=result.num_reused_prompt_tokens)
    for sequence in result.sequences:
        _add_sequence(response, sequence)
    if result.prompt_logprobs is not None:
        response.prompt_logprobs = np.asarray(result.prompt_logprobs, dtype="<f4").tobytes()
    ids, logprobs = result.topk_prompt_ids, result.topk_prompt_logprobs
    if ids is not None and logprobs is not None:
        _fill_top(response.topk_prompt_logprobs, ids, logprobs)
    if result.target_prompt_logprobs is not None and operation is not None:
        target = _target_logprobs(result.target_prompt_logprobs, operation)
        response.target_prompt_logprobs.CopyFrom(target)
    ids, logprobs = result.alternative_ids, result.alternative_logprobs
    if ids is not None and logprobs is not None:
        response.prompt_alt_tokens.tokens.CopyFrom(to_message(ids))
        response.prompt_alt_tokens.logprobs.CopyFrom(to_message(logprobs))
    return response.SerializeToString()


def _add_sequence(response: Any, sequence: SampledSequence) -> None:
    message = response.sequences.add(
        stop_reason=STOP_REASONS[sequence.stop_reason],
        tokens=np.array(sequence.tokens, dtype="<i4").tobytes(),
        logprobs=np.array(sequence.logprobs, dtype="<f4").tobytes(),
    )
    if sequence.topk_ids:
        ids, logprobs = np.array(sequence.topk_ids), np.array(sequence.topk_logprobs)
        _fill_top(message.topk_sampled_logprobs, ids, logprobs)


def _fill_top(message: Any, ids: np.ndarray, logprobs: np.ndarray) -> None:
    message.length, message.k = ids.shape
    message.token_ids = np.ascontiguousarray(ids, dtype="<i4").tobytes()
    message.logprobs = np.ascontiguousarray(logprobs, dtype="<f4").tobytes()


def _target_logprobs(logprobs: np.ndarray, operation: Sample) -> Any:
    ids = operation.target_prompt_ids
    if operation.sparse_targets and ids is not None:
        return to_sparse_message(logprobs, ids >= 0)
    return to_message(logprobs)


def json_result(result: SampleResult) -> dict[str, Any]:
    """The same for clients before protobuf, which know no further facts about a prompt."""
    fields: dict[str, Any] = {
        "type": "sample",
        "sequences": [
            {
                "stop_reason": sequence.stop_reason,
                "tokens": sequence.tokens,
                "logprobs": sequence.logprobs,
            }
            for sequence in result.sequences
        ],
    }
    if result.prompt_logprobs is not None:
        fields["prompt_logprobs"] = result.prompt_logprobs.tolist()  # NaN becomes null
    ids, logprobs = result.topk_prompt_ids, result.topk_prompt_logprobs
    if ids is not None and logprobs is not None:
        rows = (
            list(zip(*row, strict=True))
            for row in zip(ids.tolist(), logprobs.tolist(), strict=True)
        )
        fields["topk_prompt_logprobs"] = [None, *list(rows)[1:]]
    return fields
