"""What the client asks a model to write or to score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eztinker.client import answers
from eztinker.client.answers import Json
from eztinker.client.request import Request, mapping, plain, post

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
"""Text, token ids, or the messages of a chat."""
Stop = str | Sequence[str] | Sequence[int]
"""Texts that end an answer, or token ids that do."""


def sample(
    prompt: Prompt,
    max_new_tokens: int = 100,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 50,
    do_sample: bool = True,
    *,
    run_id: str | None = None,
    checkpoint: str | None = None,
    base_model: str | None = None,
    num_samples: int | None = None,
    stop: Stop | None = None,
    seed: int | None = None,
    topk_prompt_logprobs: int | None = None,
) -> Request[Any]:
    """Continue a prompt.

    Args:
        prompt: text, token ids, or a list of ``{"role", "content"}`` messages.
        max_new_tokens: most tokens of an answer.
        temperature: 0 takes the likeliest token.
        top_p: nucleus mass in (0, 1].
        top_k: number of likeliest tokens to draw from; 0 or -1 is off.
        do_sample: False is temperature 0.
        run_id: that run's current weights answer.
        checkpoint: one of that run's checkpoints answers instead.
        base_model: that model answers, without an adapter. With none of these three the server's
            default model does.
        num_samples: that many independent answers.
        stop: texts (or token ids) that end an answer.
        seed: equal requests on equal weights give equal answers.
        topk_prompt_logprobs: also report so many likeliest tokens of every prompt position, in the job's
            result under this name.

    Returns:
        Without ``num_samples`` one text that **begins with the prompt**, as the HTTP API documents its
        ``generated_text``. With ``num_samples`` a list of the answers **without the prompt**. Tokens and
        log-probabilities: ``wait_for_job(submit_sample(…).job_id)["result"]["sequences"]``.
    """
    body = {
        **_prompt(prompt),
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "do_sample": do_sample,
        "run_id": run_id,
        "checkpoint": checkpoint,
        "base_model": base_model,
        "num_samples": num_samples,
        "stop": stop if stop is None or isinstance(stop, str) else list(stop),
        "seed": seed,
        "topk_prompt_logprobs": topk_prompt_logprobs,
    }
    return post(
        "/v1/sample", body, answers.generated_text if num_samples is None else answers.texts
    )


def get_logprobs(model: str, prompt: str | Sequence[int]) -> Request[list[float]]:
    """Log-probabilities of a prompt's tokens from the second on.

    Args:
        model: a base model, a run, or ``RUN@CHECKPOINT``.
        prompt: text or token ids, at least two tokens.
    """
    body = {"model": model, "prompt": plain(prompt), "echo": True, "max_tokens": 0, "logprobs": 0}
    return post("/v1/completions", body, answers.prompt_logprobs)


def _prompt(prompt: Any) -> Json:
    """A list of ``{"role", "content"}`` goes as ``messages``, anything else as ``prompt``."""
    prompt = plain(prompt)
    if isinstance(prompt, Sequence) and not isinstance(prompt, str) and prompt:
        if not isinstance(prompt[0], int):
            return {"messages": [mapping(message) for message in prompt]}
        return {"prompt": list(prompt)}
    return {"prompt": prompt}
