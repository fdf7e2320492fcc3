"""Admission of sampling and evaluation: prompts, lengths, parameters, stops.

Pure. Called by ``admission.py``.
"""

from __future__ import annotations

import numpy as np

from eztinker.config import Limits
from eztinker.errors import InvalidRequestError
from eztinker.ids import check_reference
from eztinker.service.bounds import (
    check_length,
    check_limit,
    check_not_empty,
    check_num_data,
    check_number,
    check_seed,
    check_tokens,
)
from eztinker.types.operations import Evaluate, Sample
from eztinker.types.records import BaseModelRecord
from eztinker.types.sampling import SamplingParams

MAX_TOPK_PROMPT_LOGPROBS = 100
MAX_PROMPT_ALTERNATIVES = 64


def check_sample(operation: Sample, base: BaseModelRecord, limits: Limits) -> None:
    """Prompt, number of samples, lengths and parameters; errors as in ``admission.check``."""
    for name, field in (
        (operation.weights.run_id, "run_id"),
        (operation.weights.checkpoint, "checkpoint"),
    ):
        if name is not None:
            check_reference(name, field=field)
    check_not_empty(operation.prompt_tokens, field="prompt")
    check_tokens(operation.prompt_tokens, field="prompt", base=base)
    num_samples = operation.num_samples
    check_number(num_samples, "num_samples", "an integer of at least 1", num_samples >= 1)
    check_limit(
        num_samples,
        limits.max_num_samples,
        field="num_samples",
        setting="max_num_samples",
        what="samples",
    )
    fewest = 0 if operation.prompt_logprobs or operation.topk_prompt_logprobs else 1
    check_sampling_params(operation.params, limits=limits, base=base, fewest_tokens=fewest)
    k, most = operation.topk_prompt_logprobs, min(MAX_TOPK_PROMPT_LOGPROBS, base.vocab_size)
    check_number(k, "topk_prompt_logprobs", f"an integer from 0 to {most}", 0 <= k <= most)
    check_number(
        operation.topk_sample_logprobs,
        "topk_sample_logprobs",
        f"an integer from 0 to {most}",
        0 <= operation.topk_sample_logprobs <= most,
    )
    _check_prompt_options(operation, base)
    num_prompt = int(operation.prompt_tokens.shape[0])
    check_length(num_prompt, field="prompt", base=base, new_tokens=operation.params.max_tokens)


def _check_prompt_options(operation: Sample, base: BaseModelRecord) -> None:
    num_prompt = int(operation.prompt_tokens.shape[0])
    last_n, k = operation.prompt_logprobs_last_n, operation.num_prompt_alternatives
    if last_n is not None:
        expected = f"an integer from 1 to {num_prompt - 1}, together with prompt_logprobs"
        fits = operation.prompt_logprobs and 1 <= last_n < num_prompt
        check_number(last_n, "prompt_logprobs_last_n", expected, fits)
    most = MAX_PROMPT_ALTERNATIVES
    check_number(k, "prompt_alt_tokens_k", f"an integer from 0 to {most}", 0 <= k <= most)
    targets = operation.target_prompt_ids
    if targets is None:
        return
    field = "target_prompt_logprobs"
    if targets.ndim != 2 or targets.shape[0] != num_prompt - 1 or targets.shape[1] == 0:
        raise InvalidRequestError(
            f"{field}: expected a tensor of {num_prompt - 1} x K ids, one row for each position after the "
            f"first, got {' x '.join(map(str, targets.shape))}.",
            code="length_mismatch",
            field=field,
        )
    check_tokens(np.maximum(targets, 0), field=field, base=base)


def check_sampling_params(
    params: SamplingParams, *, limits: Limits, base: BaseModelRecord, fewest_tokens: int = 1
) -> None:
    """Ranges of temperature, top-p, top-k, seed and lengths; stop strings and ids."""
    max_tokens, top_k = params.max_tokens, params.top_k
    check_number(
        max_tokens,
        "max_tokens",
        f"an integer of at least {fewest_tokens}",
        max_tokens >= fewest_tokens,
    )
    temperature, top_p = params.temperature, params.top_p
    check_number(
        temperature, "temperature", "a number of at least 0 (0 is greedy)", temperature >= 0
    )
    check_number(top_p, "top_p", "a number above 0, up to 1", 0 < top_p <= 1)
    check_number(top_k, "top_k", "-1 or 0 (off), or an integer of at least 1", top_k >= -1)
    if temperature == 0 and top_p < 1:
        raise InvalidRequestError(
            f"temperature 0 takes the likeliest token, so top_p={top_p} would have no effect. Leave top_p "
            "out, or set a temperature above 0.",
            field="top_p",
        )
    check_seed(params.seed, field="seed")
    for name in ("presence_penalty", "frequency_penalty"):
        penalty = getattr(params, name)
        check_number(penalty, name, "a number from -2 to 2", -2 <= penalty <= 2)
    _check_stop(params, limits, base)


def _check_stop(params: SamplingParams, limits: Limits, base: BaseModelRecord) -> None:
    ids = params.stop_token_ids or ()
    check_limit(
        max(len(params.stop), len(ids)),
        limits.max_stop_strings,
        field="stop",
        setting="max_stop_strings",
        what="stop strings or ids",
    )
    for index, text in enumerate(params.stop):
        if not text:
            raise InvalidRequestError(
                f"stop[{index}]: an empty text is in every text. Leave it out to stop at the end token.",
                field=f"stop[{index}]",
            )
        check_limit(
            len(text),
            limits.max_stop_length,
            field=f"stop[{index}]",
            setting="max_stop_length",
            what="characters in a stop string",
        )
    for index, token in enumerate(ids):
        if not 0 <= token < base.vocab_size:
            raise InvalidRequestError(
                f"stop[{index}]: {token} is no token of {base.name}, expected ids from 0 to "
                f"{base.vocab_size - 1}.",
                code="unknown_token",
                field=f"stop[{index}]",
            )


def check_evaluate(operation: Evaluate, base: BaseModelRecord, limits: Limits) -> None:
    """Items, lengths and parameters; errors as in ``admission.check``."""
    check_num_data(len(operation.items), field="batches", limits=limits)
    temperature, new_tokens = operation.temperature, operation.max_new_tokens
    check_number(temperature, "temperature", "a number above 0", temperature > 0)
    check_number(new_tokens, "max_new_tokens", "an integer of at least 1", new_tokens >= 1)
    check_seed(operation.seed, field="seed")
    for index, item in enumerate(operation.items):
        where = f"batches[{index}]"
        check_not_empty(item.prompt_tokens, field=f"{where}.prompt_ids")
        check_tokens(item.prompt_tokens, field=f"{where}.prompt_ids", base=base)
        check_tokens(item.response_tokens, field=f"{where}.response_ids", base=base)
        num_response = int(item.response_tokens.size)
        num_given = int(item.prompt_tokens.size) + num_response
        check_length(
            num_given, field=where, base=base, new_tokens=0 if num_response else new_tokens
        )
