"""From domain types to answers of the native API, as plain dictionaries for orjson.

The other direction is ``convert.py``. Arrays stay numpy (orjson writes them; NaN becomes null), times
become ISO 8601 in UTC. The result of sampling needs the operation that was asked: the text of its
prompt, its stops. Knows no service; called by the routes.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response

from eztinker.api.errors import error_fields
from eztinker.rendering.stops import cut_at_stop
from eztinker.rendering.tokenizer import Tokenizer
from eztinker.types.error_info import ErrorInfo
from eztinker.types.operations import (
    CheckpointLoaded,
    CheckpointSaved,
    EvaluationResult,
    PassResult,
    Result,
    RunCreated,
    Sample,
    SampleResult,
    StepResult,
)
from eztinker.types.records import CheckpointRecord, JobRecord, KeyRecord, RunRecord
from eztinker.types.sampling import SampledSequence, SamplingParams
from eztinker.types.training import LoRAConfig, LossSpec


def json_response(content: Mapping[str, Any], status: int = 200) -> Response:
    """An answer; NaN and infinity become null, as JSON has no word for them."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, media_type="application/json")


def iso_time(time_s: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC, to the millisecond."""
    if time_s is None:
        return None
    moment = datetime.datetime.fromtimestamp(time_s, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# Records ------------------------------------------------------------------------------------------


def run_fields(run: RunRecord) -> dict[str, Any]:
    """A run."""
    return {
        "run_id": run.run_id,
        "base_model": run.base_model,
        "device": run.device,
        "status": run.status,
        "step": run.step,
        "created_at": iso_time(run.created_at_s),
        "seed": run.seed,
        "quantization": run.quantization,
        "lora_config": _lora_fields(run.lora),
        "loss_config": _loss_fields(run.loss),
        "num_trainable_parameters": run.num_trainable_parameters,
        "target_modules": run.target_modules,
        "user_metadata": run.user_metadata,
    }


def _lora_fields(lora: LoRAConfig) -> dict[str, Any]:
    names = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "seed")
    return {name: getattr(lora, name) for name in names}


def _loss_fields(loss: LossSpec) -> dict[str, Any]:
    return {"loss_type": loss.name, **loss.config, "reduction": loss.reduction}


def key_fields(key: KeyRecord) -> dict[str, Any]:
    """A key, as far as it may be shown."""
    return {
        "key_id": key.key_id,
        "name": key.name,
        "owner": key.owner,
        "scopes": list(key.scopes),
        "created_at": iso_time(key.created_at_s),
        "expires_at": iso_time(key.expires_at_s),
        "revoked_at": iso_time(key.revoked_at_s),
    }


def checkpoint_fields(checkpoint: CheckpointRecord) -> dict[str, Any]:
    """A checkpoint."""
    return {
        "name": checkpoint.name,
        "run_id": checkpoint.run_id,
        "base_model": checkpoint.base_model,
        "created_at": iso_time(checkpoint.created_at_s),
        "size_bytes": checkpoint.size_bytes,
        "is_sampler": checkpoint.is_sampler,
        "step": checkpoint.step,
        "path": checkpoint.folder,
        "quantization": checkpoint.quantization,
        "pinned": checkpoint.is_pinned,
        "score": checkpoint.score,
        "expires_at": None
        if checkpoint.expires_at_s is None
        else iso_time(checkpoint.expires_at_s),
    }


def job_summary(job: JobRecord) -> dict[str, Any]:
    """A job without its result."""
    return {
        "job_id": job.job_id,
        "run_id": job.run_id,
        "kind": job.kind,
        "status": job.status,
        "created_at": iso_time(job.created_at_s),
        "started_at": iso_time(job.started_at_s),
        "finished_at": iso_time(job.finished_at_s),
        "queue_position": job.queue_position,
        "wait_reason": job.wait_reason,
        "estimated_wait_s": None
        if job.estimated_wait_s is None
        else round(job.estimated_wait_s, 3),
        "error": None if job.error is None else _job_error_fields(job.error),
    }


def log_fields(job: JobRecord) -> dict[str, Any]:
    """A line of a run's log: when and how an operation ended, with the numbers of its result."""
    result = {} if job.result is None else _log_result(job.result)
    return {
        "seq": job.seq,
        "job_id": job.job_id,
        "kind": job.kind,
        "status": job.status,
        "started_at": iso_time(job.started_at_s),
        "finished_at": iso_time(job.finished_at_s),
        "result": result,
        "error": None if job.error is None else _job_error_fields(job.error),
    }


def _log_result(result: Result) -> dict[str, Any]:
    """What fits on a line; the arrays stay with the job."""
    match result:
        case PassResult():
            num_data = len(result.logprobs)
            return {"loss": result.loss, "batches": num_data, "num_tokens": result.num_tokens}
        case SampleResult() | EvaluationResult():
            return {}
        case _:
            return dataclasses.asdict(result)


def _job_error_fields(error: ErrorInfo) -> dict[str, Any]:
    return {**error_fields(error), "category": error.category}


# Results ------------------------------------------------------------------------------------------


def result_fields(
    result: Result, sample: Sample | None = None, tokenizer: Tokenizer | None = None
) -> dict[str, Any]:
    """A job's result.

    Args:
        result: of the job.
        sample: what was asked; needed for ``SampleResult``.
        tokenizer: of the base model; needed for ``SampleResult``.
    """
    match result:
        case PassResult():
            return _pass_fields(result)
        case SampleResult():
            assert sample is not None
            assert tokenizer is not None
            return _sample_fields(result, sample, tokenizer)
        case StepResult():
            return {"status": "optimizer_step_completed", **dataclasses.asdict(result)}
        case EvaluationResult() | CheckpointSaved() | CheckpointLoaded() | RunCreated():
            return dataclasses.asdict(result)


def _pass_fields(result: PassResult) -> dict[str, Any]:
    return {
        "loss": result.loss,
        "batches": len(result.logprobs),
        "num_tokens": result.num_tokens,
        "logprobs": [_aligned_logprobs(logprobs_T) for logprobs_T in result.logprobs],
        "metrics": result.metrics,
    }


def _aligned_logprobs(logprobs_T: np.ndarray) -> np.ndarray:
    """One per label of the request; null at position 0, which nothing predicts."""
    return np.concatenate([np.full(1, np.nan, dtype=np.float32), logprobs_T])


def _sample_fields(result: SampleResult, operation: Sample, tokenizer: Tokenizer) -> dict[str, Any]:
    sequences = [_sequence_fields(sequence, operation, tokenizer) for sequence in result.sequences]
    prompt = operation.prompt_text
    if prompt is None:
        prompt = tokenizer.decode(operation.prompt_tokens.tolist())
    num_generated = sum(len(sequence.tokens) for sequence in result.sequences)
    return {
        "topk_prompt_logprobs": _topk_rows(result),
        "generated_text": prompt + sequences[0]["text"],
        "sequences": sequences,
        "model": operation.weights.base_model,
        "run_id": operation.weights.run_id,
        "checkpoint": operation.weights.checkpoint,
        "step": result.step,
        "seed": operation.params.seed,
        "usage": {
            "prompt_tokens": result.num_prompt_tokens,
            "completion_tokens": num_generated,
            "total_tokens": result.num_prompt_tokens + num_generated,
        },
    }


def _topk_rows(result: SampleResult) -> list[list[tuple[int, float]] | None] | None:
    """Per prompt position (id, log-probability) pairs, best first; null at position 0."""
    ids_TK, logprobs_TK = result.topk_prompt_ids, result.topk_prompt_logprobs
    if ids_TK is None or logprobs_TK is None:
        return None
    rows = zip(ids_TK.tolist(), logprobs_TK.tolist(), strict=True)
    pairs = [list(zip(ids, logprobs, strict=True)) for ids, logprobs in rows]
    return [None, *pairs[1:]]


def _sequence_fields(
    sequence: SampledSequence, operation: Sample, tokenizer: Tokenizer
) -> dict[str, Any]:
    return {
        "text": visible_text(sequence, operation.params, tokenizer),
        "tokens": sequence.tokens,
        "logprobs": sequence.logprobs,
        "stop_reason": sequence.stop_reason,
    }


def visible_text(sequence: SampledSequence, params: SamplingParams, tokenizer: Tokenizer) -> str:
    """Text of an answer without its stop string or stop token and without special tokens.

    The stop string is looked for where the sampler saw it, in the text with special tokens; the cut may
    fall inside a token, whose kept part is then taken from that text.
    """
    tokens = sequence.tokens
    if sequence.stop_reason != "stop":
        return tokenizer.decode(tokens)
    ends = params.stop_token_ids if params.stop_token_ids is not None else tokenizer.eos_token_ids
    if tokens and tokens[-1] in ends:
        return tokenizer.decode(tokens[:-1])
    kept = cut_at_stop(tokenizer.decode(tokens, skip_special_tokens=False), params.stop)
    num_whole = len(tokens)
    while not kept.startswith(
        prefix := tokenizer.decode(tokens[:num_whole], skip_special_tokens=False)
    ):
        num_whole -= 1
    return tokenizer.decode(tokens[:num_whole]) + kept[len(prefix) :]
