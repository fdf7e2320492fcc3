"""Sampling through the official SDK."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.wire.conftest import MODEL
from tests.wire.data import datum, logprobs, prompt

CE = "cross_entropy"


@pytest.fixture
def sampler(service):
    """A client of the bare base model."""
    return service.create_sampling_client(base_model=MODEL).result()


def test_samples_have_ids_tokens_and_logprobs(sdk, sampler) -> None:
    params = sdk.SamplingParams(max_tokens=5, seed=3, stop=[])
    answer = sampler.sample(prompt(5, 6, 7), 3, params).result()
    assert len({s.sequence_id for s in answer.sequences}) == 3
    assert [len(s.tokens) for s in answer.sequences] == [5, 5, 5]
    assert all(len(s.logprobs) == 5 and s.stop_reason == "length" for s in answer.sequences)
    again = sampler.sample(prompt(5, 6, 7), 3, params).result()
    assert [s.tokens for s in again.sequences] == [s.tokens for s in answer.sequences]
    assert len({tuple(s.tokens) for s in answer.sequences}) > 1


def test_a_stop_token_ends_and_belongs_to_the_answer(sdk, sampler) -> None:
    params = sdk.SamplingParams(max_tokens=20, temperature=0, stop=[])
    free = sampler.sample(prompt(5, 6, 7), 1, params).result().sequences[0]
    stop = free.tokens[2]
    params = sdk.SamplingParams(max_tokens=20, temperature=0, stop=[stop])
    ended = sampler.sample(prompt(5, 6, 7), 1, params).result().sequences[0]
    assert (ended.stop_reason, ended.tokens[-1]) == ("stop", stop)
    assert ended.tokens == free.tokens[: free.tokens.index(stop) + 1]
    assert len(ended.logprobs) == len(ended.tokens)


def test_without_max_tokens_the_context_is_filled(sdk, sampler) -> None:
    answer = sampler.sample(prompt(5, 6), 1, sdk.SamplingParams(stop=[])).result()
    assert len(answer.sequences[0].tokens) == 94


def test_logprobs_of_sampler_and_trainer_agree(sdk, model) -> None:
    model.forward_backward([datum()], CE)
    model.optim_step(sdk.AdamParams(learning_rate=1e-2))
    client = model.save_weights_and_get_sampling_client().result()
    sequence = (
        client.sample(prompt(5, 6, 7), 1, sdk.SamplingParams(max_tokens=8, stop=[]))
        .result()
        .sequences[0]
    )
    whole = [5, 6, 7, *sequence.tokens]
    d = sdk.Datum(
        model_input=sdk.ModelInput.from_ints(whole[:-1]),
        loss_fn_inputs={"target_tokens": whole[1:], "weights": [1.0] * 10},
    )
    trained = logprobs(model.forward([d], CE).result())
    np.testing.assert_allclose(sequence.logprobs, trained[2:], atol=2e-4)
    scored = client.compute_logprobs(prompt(*whole)).result()
    assert scored[0] is None
    np.testing.assert_allclose(scored[1:], trained, atol=2e-4)


def test_a_frozen_sampler_keeps_its_weights(sdk, model) -> None:
    before = model.save_weights_and_get_sampling_client().result()
    old = before.compute_logprobs(prompt(5, 6, 7)).result()
    model.forward_backward([datum()], CE)
    model.optim_step(sdk.AdamParams(learning_rate=1e-1)).result()
    after = model.save_weights_and_get_sampling_client().result()
    assert before.compute_logprobs(prompt(5, 6, 7)).result() == old
    assert after.compute_logprobs(prompt(5, 6, 7)).result() != old


def test_named_weights_are_sampled_by_path(sdk, service, model) -> None:
    path = model.save_weights_for_sampler("named").result().path
    assert path == f"tinker://{model.model_id}/sampler_weights/named"
    model.save_state("named").result()  # another kind, another name
    client = service.create_sampling_client(model_path=path).result()
    assert client.get_base_model() == MODEL
    assert len(client.compute_logprobs(prompt(5, 6, 7)).result()) == 3


def test_logprobs_scale_with_temperature(sdk, sampler) -> None:
    def draw(temperature: float) -> tuple[int, float]:
        params = sdk.SamplingParams(max_tokens=1, temperature=temperature, seed=1, top_k=1, stop=[])
        sequence = sampler.sample(prompt(5, 6, 7), 1, params).result().sequences[0]
        return sequence.tokens[0], sequence.logprobs[0]

    (hot_token, hot), (token, plain), (greedy_token, greedy) = draw(2.0), draw(1.0), draw(0.0)
    assert hot_token == token == greedy_token
    assert hot < plain
    assert greedy == pytest.approx(plain, abs=1e-5)


def test_top_prompt_logprobs(sdk, sampler) -> None:
    answer = sampler.sample(
        prompt(5, 6, 7),
        1,
        sdk.SamplingParams(max_tokens=1),
        include_prompt_logprobs=True,
        topk_prompt_logprobs=4,
    ).result()
    assert answer.topk_prompt_logprobs[0] is None
    for position, token in ((1, 6), (2, 7)):
        top = answer.topk_prompt_logprobs[position]
        assert len(top) == 4
        assert [p for _, p in top] == sorted((p for _, p in top), reverse=True)
        for known, p in top:
            if known == token:
                assert p == pytest.approx(answer.prompt_logprobs[position], abs=1e-5)


def test_a_full_context_can_be_scored(sampler) -> None:
    tokens = [(i * 7) % 250 + 3 for i in range(96)]
    assert len(sampler.compute_logprobs(prompt(*tokens)).result()) == 96


def test_many_samples_at_once(sdk, sampler) -> None:
    params = [sdk.SamplingParams(max_tokens=4, seed=i) for i in range(64)]
    futures = [sampler.sample(prompt(5, i % 9 + 5), 1, p) for i, p in enumerate(params)]
    assert all(1 <= len(f.result().sequences[0].tokens) <= 4 for f in futures)


@pytest.mark.parametrize(
    ("tokens", "params", "words"),
    [
        ([9999], {"max_tokens": 1}, "9999 is no token"),
        ([], {"max_tokens": 1}, "at least one token"),
        ([5] * 90, {"max_tokens": 20}, "do not fit the context"),
        ([5], {"max_tokens": 1, "temperature": -1.0}, "temperature"),
        ([5], {"max_tokens": 1, "top_p": 2.0}, "top_p"),
        ([5], {"max_tokens": 0}, "max_tokens"),
    ],
)
def test_a_mistake_surfaces_within_a_second(sdk, sampler, tokens, params: dict, words: str) -> None:
    start_s = time.monotonic()
    with pytest.raises((sdk.BadRequestError, sdk.RequestFailedError), match=words):
        sampler.sample(prompt(*tokens), 1, sdk.SamplingParams(**params)).result()
    assert time.monotonic() - start_s < 1


def test_unknown_weights_are_refused(sdk, service) -> None:
    with pytest.raises(sdk.NotFoundError, match="no checkpoint named"):
        service.create_sampling_client(model_path="tinker://nobody/sampler_weights/x").result()
