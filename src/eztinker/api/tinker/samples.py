"""``asample`` on the Tinker wire: its body to ``Sample``, its result to bytes.

Pure; called by ``routes/tinker/sampling.py`` and ``routes/tinker/futures.py``.
"""

from __future__ import annotations

import numpy as np

from eztinker.api.prompts import chosen_seed
from eztinker.api.tinker.passes import only_text
from eztinker.errors import InvalidRequestError, UnsupportedError
from eztinker.models import tinker as wire
from eztinker.models.proto.tinker_public import STOP_REASONS, SampleResponse
from eztinker.types.operations import Sample, SampleResult
from eztinker.types.records import BaseModelRecord
from eztinker.types.sampling import SamplingParams, WeightsRef


def identity(body: wire.AskSample) -> str:
    """What names the request over its retries: two clients of one session have numbers apart."""
    return f"{body.sampling_session_id}/{body.seq_id}"


def sample(body: wire.AskSample, weights: WeightsRef, base: BaseModelRecord) -> Sample:
    """The operation that an ``asample`` request asks for.

    Raises:
        InvalidRequestError: a prompt without tokens, or one that leaves no room for an answer.
        UnsupportedError: images, audio, or an option that is not here.
    """
    _refuse_unsupported(body)
    tokens = _prompt(body.prompt)
    return Sample(
        weights=weights,
        prompt_tokens=tokens,
        params=_params(body, len(tokens), base),
        num_samples=body.num_samples,
        prompt_logprobs=body.prompt_logprobs,
        topk_prompt_logprobs=body.topk_prompt_logprobs,
    )


def _refuse_unsupported(body: wire.AskSample) -> None:
    if body.record_stability_info:
        raise UnsupportedError(
            "record_stability_info: stable_reinforce is not here. Use loss_fn=importance_sampling.",
            field="record_stability_info",
        )
    for name in (
        "topk_sample_logprobs",
        "target_prompt_logprobs",
        "prompt_alt_tokens_k",
        "prompt_logprobs_last_n",
    ):
        if getattr(body, name):
            raise UnsupportedError(
                f"{name}: not implemented on this server yet. Leave it out.", field=name
            )


def _prompt(prompt: wire.ModelInput) -> np.ndarray:
    for chunk in prompt.chunks:
        if chunk.type != "encoded_text":
            raise only_text(chunk.type, "prompt")
    try:
        return np.array(
            [token for chunk in prompt.chunks for token in chunk.tokens], dtype=np.int32
        )
    except OverflowError:
        raise InvalidRequestError(
            "prompt: contains a number beyond 32 bits, which is no token id.",
            code="unknown_token",
            field="prompt",
        ) from None


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


def encode_result(result: SampleResult) -> bytes:
    """``SampleResponse``."""
    response = SampleResponse()
    for sequence in result.sequences:
        response.sequences.add(
            stop_reason=STOP_REASONS[sequence.stop_reason],
            tokens=np.array(sequence.tokens, dtype="<i4").tobytes(),
            logprobs=np.array(sequence.logprobs, dtype="<f4").tobytes(),
        )
    if result.prompt_logprobs is not None:
        response.prompt_logprobs = np.asarray(result.prompt_logprobs, dtype="<f4").tobytes()
    ids, logprobs = result.topk_prompt_ids, result.topk_prompt_logprobs
    if ids is not None and logprobs is not None:
        top = response.topk_prompt_logprobs
        top.length, top.k = ids.shape
        top.token_ids = np.ascontiguousarray(ids, dtype="<i4").tobytes()
        top.logprobs = np.ascontiguousarray(logprobs, dtype="<f4").tobytes()
    return response.SerializeToString()
