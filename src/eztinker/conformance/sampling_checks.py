"""Checks of sampling: sequences, seeds, stops, log-probabilities and facts about prompts, many at once."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from eztinker.conformance.checks import Figures, check
from eztinker.conformance.expectations import NotOffered, expect
from eztinker.conformance.target import Target, datum, logprobs

_GROUP = "sampling"
PROMPT = [5, 6, 7]
NUM_CONCURRENT = 64
AGREEMENT = 1e-2
"""Between sampler and trainer; a server that samples in bfloat16 rounds there."""


def _tokens(sequence: Any) -> list[int]:
    return np.frombuffer(sequence.tokens, "<i4").tolist()


def _floats(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, "<f4")


@check(_GROUP)
def shape(target: Target) -> None:
    """Each sample has an id, tokens and log-probabilities."""
    sampler = target.sampler()
    promise = target.ask_sample(sampler, PROMPT, num_samples=3)
    ids = promise.get("sample_sequence_ids", [])
    expect(len(set(ids)) == 3, "three distinct sample_sequence_ids", ids)
    sequences = target.sampled(promise["request_id"]).sequences
    expect(len(sequences) == 3, "three sequences", len(sequences))
    for sequence in sequences:
        expect(len(_tokens(sequence)) == 4, "4 tokens", _tokens(sequence))
        expect(len(_floats(sequence.logprobs)) == 4, "4 log-probabilities")
        expect(sequence.stop_reason == 1, "stop_reason length", sequence.stop_reason)


@check(_GROUP)
def seeds(target: Target) -> None:
    """A seed repeats its samples, which differ among each other."""
    sampler = target.sampler()
    params = {"seed": 11, "max_tokens": 8}
    first, second = (
        [_tokens(s) for s in target.sample(sampler, PROMPT, num_samples=4, params=params).sequences]
        for _ in "ab"
    )
    expect(first == second, "the same samples again")
    expect(len({tuple(tokens) for tokens in first}) > 1, "different samples within one call")


@check(_GROUP)
def stop_token(target: Target) -> None:
    """A stop token ends a sample and belongs to it."""
    sampler = target.sampler()
    greedy = {"temperature": 0, "max_tokens": 8}
    free = _tokens(target.sample(sampler, PROMPT, params=greedy).sequences[0])
    stop = free[2]
    ended = target.sample(sampler, PROMPT, params={**greedy, "stop": [stop]}).sequences[0]
    wanted = free[: free.index(stop) + 1]
    expect(_tokens(ended) == wanted, f"tokens {wanted}", _tokens(ended))
    expect(ended.stop_reason == 0, "stop_reason stop", ended.stop_reason)


@check(_GROUP)
def agreement(target: Target) -> Figures:
    """Log-probabilities of sampler and trainer agree."""
    model = target.create_model()
    target.send_pass(model, [datum()])
    target.result(target.step(model))
    sampler = target.frozen_sampler(model)
    sequence = target.sample(sampler, PROMPT, params={"max_tokens": 8}).sequences[0]
    whole = [*PROMPT, *_tokens(sequence)]
    data = [
        (whole[:-1], {"target_tokens": np.array(whole[1:]), "weights": np.ones(len(whole) - 1)})
    ]
    trained = logprobs(target.output(target.send_pass(model, data, forward_only=True)))[0]
    sampled = _floats(sequence.logprobs)
    difference = float(abs(sampled - trained[len(PROMPT) - 1 :]).max())
    scored = target.sample(sampler, whole, params={"max_tokens": 1}, prompt_logprobs=True)
    prompt_logprobs = _floats(scored.prompt_logprobs)
    expect(len(prompt_logprobs) == len(whole), f"{len(whole)} prompt log-probabilities")
    expect(bool(np.isnan(prompt_logprobs[0])), "NaN for the first position", prompt_logprobs[0])
    scoring = float(abs(prompt_logprobs[1:] - trained).max())
    for found in (difference, scoring):
        expect(found <= AGREEMENT, f"a difference within {AGREEMENT:g}", found)
    return {"sampled": float(f"{difference:.2e}"), "scored": float(f"{scoring:.2e}")}


@check(_GROUP)
def temperature(target: Target) -> Figures:
    """Log-probabilities are those of the temperature-scaled distribution."""
    sampler = target.sampler()

    def top(temperature: float) -> dict[int, float]:
        params = {"max_tokens": 1, "temperature": temperature, "seed": 1}
        sequence = target.sample(sampler, PROMPT, params=params, topk_sample_logprobs=4).sequences[
            0
        ]
        found = sequence.topk_sampled_logprobs
        expect(found.k >= 2, "top log-probabilities of the sampled position", found.k)
        ids = np.frombuffer(found.token_ids, "<i4").tolist()
        return dict(zip(ids, _floats(found.logprobs).tolist(), strict=True))

    plain, hot = top(1.0), top(2.0)
    i, j = list(plain)[:2]
    expect(i in hot and j in hot, "the same best tokens at another temperature", (plain, hot))
    difference = abs((hot[i] - hot[j]) - (plain[i] - plain[j]) / 2.0)
    expect(difference <= AGREEMENT, f"a gap scaled by 1/T within {AGREEMENT:g}", difference)
    return {"difference": float(f"{difference:.2e}")}


@check(_GROUP)
def topk_prompt(target: Target) -> None:
    """Top-k log-probabilities of the prompt agree with its own."""
    answer = target.sample(
        target.sampler(), PROMPT, params={"max_tokens": 1}, prompt_logprobs=True,
        topk_prompt_logprobs=3,
    )  # fmt: skip
    top, own = answer.topk_prompt_logprobs, _floats(answer.prompt_logprobs)
    expect((top.length, top.k) == (3, 3), "3 x 3 values", (top.length, top.k))
    ids = np.frombuffer(top.token_ids, "<i4").reshape(3, 3)
    values = _floats(top.logprobs).reshape(3, 3)
    for position in (1, 2):
        expect(bool((np.diff(values[position]) <= 0).all()), "falling values", values[position])
        if PROMPT[position] in ids[position]:
            found = values[position][ids[position] == PROMPT[position]][0]
            expect(abs(found - own[position]) < AGREEMENT, "equal values", (found, own[position]))


@check(_GROUP)
def frozen(target: Target) -> None:
    """Frozen weights stay as they were."""
    model = target.create_model()
    sampler = target.frozen_sampler(model)

    def score(sampler_id: str) -> np.ndarray:
        answer = target.sample(sampler_id, PROMPT, params={"max_tokens": 1}, prompt_logprobs=True)
        return _floats(answer.prompt_logprobs)[1:]

    before = score(sampler)
    target.send_pass(model, [datum()])
    target.result(target.step(model, learning_rate=1e-1))
    expect(bool((score(sampler) == before).all()), "the same scores as before the step")
    after = score(target.frozen_sampler(model))
    expect(not bool((after == before).all()), "other scores for the new weights")


@check(_GROUP)
def concurrent(target: Target) -> Figures:
    """64 samples at once."""
    sampler = target.sampler()
    started_s = time.perf_counter()
    promises = [
        target.ask_sample(sampler, [5, index % 9 + 5], params={"seed": index})["request_id"]
        for index in range(NUM_CONCURRENT)
    ]
    for promise in promises:
        expect(len(target.sampled(promise).sequences) == 1, "one sequence")
    return {"all_s": round(time.perf_counter() - started_s, 3)}


@check(_GROUP)
def retrieve_futures(target: Target) -> Figures:
    """One poll tells of many samples."""
    if not target.config.get("sample_use_retrieve_futures"):
        raise NotOffered("sample_use_retrieve_futures is off in client/config")
    sampler = target.sampler()
    waiting = {target.ask_sample(sampler, PROMPT)["request_id"] for _ in range(16)}
    place = {"type": "sampling_session", "sampling_session_id": sampler, "cloned_sampler_id": 0}
    cursor, num_polls = 0, 0
    while waiting:
        told = target.asked("/retrieve_futures", {"target": place, "prev_cursor": cursor})
        expect(told["cursor"] >= cursor, "a cursor that grows", told["cursor"])
        states = {entry["state"] for entry in told["completions"]}
        expect(states <= {"finished"}, "state finished", states)
        cursor = told["cursor"]
        waiting -= {entry["request_id"] for entry in told["completions"]}
        num_polls += 1
    return {"num_samples": 16, "num_polls": num_polls}
