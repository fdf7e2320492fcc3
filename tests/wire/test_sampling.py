"""Sampling through the official SDK."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.wire.conftest import MODEL
from tests.wire.data import crowding, datum, logprobs, prompt

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


def test_inflight_samplers_of_a_run_move_together(sdk, model, http) -> None:
    def scores(sampler) -> list[float]:
        return sampler.compute_logprobs(prompt(5, 6, 7)).result()

    def train() -> None:
        model.forward_backward([datum()], CE)
        model.optim_step(sdk.AdamParams(learning_rate=1e-1)).result()

    older = model.save_weights_and_get_sampling_client(kind="inflight").result()
    frozen = model.save_weights_and_get_sampling_client().result()
    old = scores(older)
    assert scores(frozen) == old
    train()
    assert scores(older) == old  # nothing was published since
    newer = model.save_weights_and_get_sampling_client(kind="inflight").result()
    assert scores(newer) == scores(older) != old
    assert scores(frozen) == old
    train()
    model.save_weights_and_get_sampling_client(kind="inflight").result()
    assert scores(older) == scores(newer) != old
    listed = http.get(f"/training_runs/{model.model_id}/checkpoints").json()["checkpoints"]
    assert listed == []


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
    assert time.monotonic() - start_s < 1 * crowding()


def test_unknown_weights_are_refused(sdk, service) -> None:
    with pytest.raises(sdk.NotFoundError, match="no checkpoint named"):
        service.create_sampling_client(model_path="tinker://nobody/sampler_weights/x").result()


# Further facts ------------------------------------------------------------------------------------


def test_the_last_positions_alone_are_scored(sdk, sampler) -> None:
    def score(**options):
        return sampler.sample(
            prompt(5, 6, 7, 8), 1, sdk.SamplingParams(max_tokens=1),
            include_prompt_logprobs=True, topk_prompt_logprobs=2, **options,
        ).result()  # fmt: skip

    part, whole = score(prompt_logprobs_last_n=2), score()
    assert part.prompt_logprobs[:2] == [None, None]
    assert part.prompt_logprobs[2:] == pytest.approx(whole.prompt_logprobs[2:], abs=1e-5)
    assert part.topk_prompt_logprobs[1] is None
    assert [i for i, _ in part.topk_prompt_logprobs[3]] == [
        i for i, _ in whole.topk_prompt_logprobs[3]
    ]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_top_logprobs_of_generated_positions(sdk, sampler, temperature: float) -> None:
    params = sdk.SamplingParams(max_tokens=5, temperature=temperature, seed=1, stop=[])
    answer = sampler.sample(prompt(5, 6), 2, params, topk_sample_logprobs=100).result()
    seen = 0
    for sequence in answer.sequences:
        assert len(sequence.topk_logprobs) == 5
        for token, p, top in zip(
            sequence.tokens, sequence.logprobs, sequence.topk_logprobs, strict=True
        ):
            assert [value for _, value in top] == sorted((v for _, v in top), reverse=True)
            if token in dict(top):
                seen += 1
                assert dict(top)[token] == pytest.approx(p, abs=1e-5)
            assert temperature > 0 or token == top[0][0]
    assert seen > 0


def test_logprobs_of_chosen_ids(sdk, sampler) -> None:
    ids = np.array([[6, 9], [-1, 7]])
    dense = sdk.TensorData(data=ids.ravel().tolist(), dtype="int64", shape=[2, 2])
    sparse = sdk.TensorData(
        data=[6, 9, 7], dtype="int64", shape=[2, 2],
        sparse_crow_indices=[0, 2, 3], sparse_col_indices=[0, 1, 1],
    )  # fmt: skip

    def score(targets):
        return sampler.sample(
            prompt(5, 6, 7), 1, sdk.SamplingParams(max_tokens=1),
            include_prompt_logprobs=True, target_prompt_logprobs=targets,
        ).result()  # fmt: skip

    answer = score(dense)
    found = answer.target_prompt_logprobs.to_numpy()
    assert found[1, 0] == 0
    assert found[0, 0] == pytest.approx(answer.prompt_logprobs[1], abs=1e-5)
    assert found[1, 1] == pytest.approx(answer.prompt_logprobs[2], abs=1e-5)
    listed = score(sparse).target_prompt_logprobs
    assert (listed.sparse_crow_indices, listed.sparse_col_indices) == ([0, 2, 3], [0, 1, 1])
    np.testing.assert_allclose(listed.data, found[ids >= 0], atol=1e-5)
    wrong = sdk.TensorData(data=[6], dtype="int64", shape=[1, 1])
    with pytest.raises(sdk.BadRequestError, match="2 x K"):
        score(wrong)


def test_alternatives_to_the_prompt(sdk, sampler) -> None:
    def draw(temperature: float, k: int, seed: int = 1):
        params = sdk.SamplingParams(max_tokens=1, temperature=temperature, seed=seed)
        answer = sampler.sample(
            prompt(5, 6, 7), 1, params, prompt_alt_tokens_k=k, topk_prompt_logprobs=1
        ).result()
        return answer.prompt_alt_tokens.tokens.to_numpy(), answer

    tokens, answer = draw(1.0, 8)
    assert tokens.shape == answer.prompt_alt_tokens.logprobs.to_numpy().shape == (2, 8)
    assert len(set(tokens[0])) > 1
    np.testing.assert_array_equal(draw(1.0, 8)[0], tokens)
    assert not np.array_equal(draw(1.0, 8, seed=2)[0], tokens)
    greedy, answer = draw(0.0, 2)
    best = [entry[0] for entry in answer.topk_prompt_logprobs[1:]]
    assert greedy.tolist() == [[token, token] for token, _ in best]
    found = answer.prompt_alt_tokens.logprobs.to_numpy()[:, 0]
    np.testing.assert_allclose(found, [p for _, p in best], atol=1e-5)


def test_stability_info_is_refused_with_the_way_out(sdk, service) -> None:
    client = service.create_sampling_client(base_model=MODEL, record_stability_info=True).result()
    with pytest.raises(sdk.BadRequestError, match="importance_sampling"):
        client.sample(prompt(5), 1, sdk.SamplingParams(max_tokens=1)).result()
