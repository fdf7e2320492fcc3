"""Sampling through the worker: reproducible, shared, cancellable, bounded."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from eztinker.engine.worker.sampler import Sampler
from eztinker.types.codec import decode
from eztinker.types.commands import CancelJob, OpenRun, RunEvaluate, RunOptimStep, RunSample
from eztinker.types.events import JobDone, JobFailed, SignOfLife, TokensDrawn
from eztinker.types.operations import (
    Evaluate,
    EvaluationItem,
    EvaluationResult,
    OptimStep,
    Sample,
    SampleResult,
)
from eztinker.types.plans import PassPlan
from eztinker.types.sampling import SamplingParams, WeightsRef
from eztinker.types.training import AdamParams, Datum, LoRAConfig
from tests.unit.worker.test_training import DATA
from tests.worker_harness import Harness, datum, tokens

PROMPT = tokens(5, 11)


@pytest.fixture
def trained(harness):
    harness.open_run()
    harness.forward_backward(DATA)
    harness.optim_step(learning_rate=0.05)
    return harness


def test_samples_of_a_request_differ_and_repeat(trained):
    first = trained.sample(PROMPT, num_samples=4, max_tokens=10, seed=1)
    again = trained.sample(PROMPT, num_samples=4, max_tokens=10, seed=1)
    other = trained.sample(PROMPT, num_samples=4, max_tokens=10, seed=2)
    assert first.sequences == again.sequences
    assert len({tuple(s.tokens) for s in first.sequences}) == 4
    assert first.sequences != other.sequences
    assert (first.step, first.num_prompt_tokens) == (1, 11)
    assert all(len(s.tokens) == len(s.logprobs) for s in first.sequences)


def test_weights_that_were_sampled_from_first_train_all_the_same(harness, qwen2_folder):
    other = Harness(qwen2_folder)
    for each in (harness, other):
        each.open_run()
    harness.sample(PROMPT, num_samples=2, max_tokens=3)
    for each in (harness, other):
        each.forward_backward(DATA)
        each.optim_step(learning_rate=0.05)
    answers = [each.sample(PROMPT, max_tokens=12, seed=3).sequences for each in (harness, other)]
    assert answers[0] == answers[1]


def penalised_greedily(trained, num_tokens, presence, frequency):
    """Token by token with the prompt grown by hand: what the two penalties mean."""
    text, held = list(PROMPT), Counter()
    for _ in range(num_tokens):
        scored = trained.sample(
            text, max_tokens=1, temperature=0, scoring={"topk_sample_logprobs": 100}
        ).sequences[0]
        logprobs = dict(zip(scored.topk_ids[0], scored.topk_logprobs[0], strict=True))
        for token, number in held.items():
            if token in logprobs:
                logprobs[token] -= presence + frequency * number
        best = max(logprobs, key=lambda token: logprobs[token])
        held[best] += 1
        text.append(best)
    return text[len(PROMPT) :]


@pytest.mark.parametrize(("presence", "frequency"), [(2.0, 0.0), (0.0, 1.5), (-2.0, -2.0)])
def test_penalties_are_taken_from_what_a_row_holds(trained, presence, frequency):
    params = {"max_tokens": 12, "temperature": 0}
    plain = trained.sample_command(PROMPT, **params)
    asked = trained.sample_command(
        PROMPT, presence_penalty=presence, frequency_penalty=frequency, **params
    )
    answers = trained.answers(plain, asked, cls=SampleResult)
    found = {job_id: answer.sequences[0].tokens for job_id, answer in answers.items()}
    assert found[plain.job_id] == penalised_greedily(trained, 12, 0, 0)
    assert found[asked.job_id] == penalised_greedily(trained, 12, presence, frequency)
    assert found[asked.job_id] != found[plain.job_id]


def test_a_streamed_request_tells_of_each_token_once_and_in_order(trained):
    scoring = {"topk_sample_logprobs": 2}
    quiet = trained.sample_command(PROMPT, max_tokens=7, seed=3)
    command = trained.sample_command(PROMPT, num_samples=3, max_tokens=9, seed=1, scoring=scoring)
    events = trained.do(quiet, replace(command, streamed=True))
    told = [event for event in events if isinstance(event, TokensDrawn)]
    done = next(e for e in events if isinstance(e, JobDone) and e.job_id == command.job_id)
    assert events.index(done) > events.index(told[-1])
    rows: dict[int, list] = {}
    for event in told:
        assert set(event.job_ids) == {command.job_id}
        columns = (event.samples, event.places, event.tokens, event.logprobs, event.topk_ids)
        for sample, place, *told_T in zip(*columns, strict=True):
            assert place == len(rows.setdefault(sample, []))
            rows[sample] += map(list, zip(*told_T, strict=True))
    for sample, sequence in enumerate(decode(done.result, SampleResult).sequences):
        columns = (sequence.tokens, sequence.logprobs, sequence.topk_ids)
        assert rows[sample] == [list(token) for token in zip(*columns, strict=True)]


def test_tokens_of_many_streamed_sequences_are_told_of_a_few_at_a_time(trained):
    command = trained.sample_command(PROMPT, num_samples=12, max_tokens=20, seed=1)
    told = [
        event
        for event in trained.do(replace(command, streamed=True))
        if isinstance(event, TokensDrawn)
    ]
    assert set(told[0].places) == {0}
    assert {len(tokens) for tokens in told[0].tokens} == {1}  # the first ones wait for nothing
    assert 1 < max(len(tokens) for event in told for tokens in event.tokens) <= 8
    assert len(told) < 20


def test_a_request_is_the_same_alone_and_in_company(trained):
    trained.open_run("other", r=2)
    mixed = [
        trained.sample_command(PROMPT, num_samples=3, max_tokens=12, seed=4),
        trained.sample_command(
            PROMPT[:4], num_samples=2, max_tokens=20, run_id=None, temperature=0.7
        ),
        trained.sample_command(PROMPT, run_id="other", num_samples=2, max_tokens=5, top_k=7),
        trained.sample_command(PROMPT[3:], max_tokens=15, top_p=0.8, seed=9),
        trained.sample_command(PROMPT[3:], max_tokens=15, temperature=0),
    ]
    answers = trained.answers(*mixed, cls=SampleResult)
    for command in mixed:
        together, alone = answers[command.job_id], trained.answer(command, SampleResult)
        for a, b in zip(together.sequences, alone.sequences, strict=True):
            assert a.tokens == b.tokens
            assert a.stop_reason == b.stop_reason
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


def test_a_request_joins_a_running_batch(trained):
    long = trained.sample_command(PROMPT, num_samples=2, max_tokens=40, stop_token_ids=())
    short = trained.sample_command(PROMPT[:5], max_tokens=3, stop_token_ids=())
    trained.worker.submit(long)
    for _ in range(3):
        trained.worker.step()
    events = trained.do(short)
    assert [e.job_id for e in events] == [short.job_id, long.job_id]


def test_little_cache_means_waiting_not_failing(trained, qwen2_folder):
    small = Harness(qwen2_folder, kv_cache_tokens=50)
    command = RunSample(
        "j", Sample(WeightsRef("m"), PROMPT, SamplingParams(max_tokens=12, seed=3), num_samples=7)
    )
    expected = trained.answer(command, SampleResult)
    small.worker.submit(command)
    most = 0
    while small.worker.step():
        most = max(most, small.worker._residents.samplers["m"].num_rows)
    assert most == 2
    result = decode(small.events[-1].result, SampleResult)
    assert [s.tokens for s in result.sequences] == [s.tokens for s in expected.sequences]


def test_what_can_never_fit_is_refused_by_name(qwen2_folder):
    tiny = Harness(qwen2_folder, kv_cache_tokens=16)
    error = tiny.failure(tiny.sample_command(PROMPT, run_id=None, max_tokens=6)).error
    assert (error.code, error.field) == ("too_large", "max_tokens")
    assert "kv_cache_tokens" in error.message
    result = tiny.sample(PROMPT, run_id=None, max_tokens=5, num_samples=2, stop_token_ids=())
    assert [len(s.tokens) for s in result.sequences] == [5, 5]


def test_stops_at_the_models_end_token_or_those_given(trained):
    free = trained.sample(PROMPT, max_tokens=30, seed=8, stop_token_ids=()).sequences[0]
    assert (len(free.tokens), free.stop_reason) == (30, "length")
    stop = free.tokens[4]
    first = free.tokens.index(stop)
    stopped = trained.sample(PROMPT, max_tokens=30, seed=8, stop_token_ids=(stop,)).sequences[0]
    assert (stopped.tokens, stopped.stop_reason) == (free.tokens[: first + 1], "stop")
    trained.worker._residents.base_models["m"].stop_token_ids = (stop,)
    assert trained.sample(PROMPT, max_tokens=30, seed=8).sequences[0] == stopped


def test_stop_strings_end_with_the_token_that_completes_them(trained):
    free = trained.sample(PROMPT, max_tokens=40, seed=8, stop_token_ids=()).sequences[0]
    tokenizer = trained.worker._residents.base_models["m"].tokenizer
    printable = next(i for i in range(2, 39) if all(34 <= t < 128 for t in free.tokens[i : i + 2]))
    stop = tokenizer.decode(free.tokens[printable : printable + 2])
    stopped = trained.sample(
        PROMPT, max_tokens=40, seed=8, stop_token_ids=(), stop=(stop,)
    ).sequences[0]
    assert stopped.stop_reason == "stop"
    assert stopped.tokens == free.tokens[: printable + 2]


def test_the_context_ends_generation(trained):
    result = trained.sample(tokens(1, 90), max_tokens=50, stop_token_ids=())
    assert [len(s.tokens) for s in result.sequences] == [6]
    assert result.sequences[0].stop_reason == "length"
    full = trained.sample(tokens(1, 96), max_tokens=50)
    assert full.sequences[0].tokens == []
    command = trained.sample_command(tokens(1, 97), max_tokens=5)
    assert trained.failure(command).error.code == "invalid_request"


def test_sampled_logprobs_are_those_of_the_forward_pass(trained):
    sequence = trained.sample(PROMPT, max_tokens=9, seed=2, stop_token_ids=()).sequences[0]
    whole = np.concatenate([PROMPT, sequence.tokens]).astype(np.int32)
    scored = trained.forward(
        [Datum(whole[:-1], {"target_tokens": whole[1:].astype(np.int64)})], reduction="sum"
    )
    np.testing.assert_allclose(sequence.logprobs, scored.logprobs[0][10:], atol=2e-4)
    prompt_only = trained.sample(
        whole,
        max_tokens=0,
        num_samples=2,
        scoring={"prompt_logprobs": True, "topk_prompt_logprobs": 3},
    )
    assert np.isnan(prompt_only.prompt_logprobs[0])
    np.testing.assert_allclose(prompt_only.prompt_logprobs[1:], scored.logprobs[0], atol=2e-4)
    assert [s.tokens for s in prompt_only.sequences] == [[], []]
    assert prompt_only.topk_prompt_ids.shape == (len(whole), 3)
    assert prompt_only.topk_prompt_logprobs[0].tolist() == [-99999.0] * 3
    assert (np.diff(prompt_only.topk_prompt_logprobs[1:]) <= 0).all()
    best = prompt_only.topk_prompt_logprobs[1:, 0]
    assert (best >= prompt_only.prompt_logprobs[1:] - 1e-5).all()


def test_temperature_scales_the_reported_logprobs(trained):
    hot = trained.sample(PROMPT, max_tokens=1, temperature=2.0, seed=1)
    scored = trained.sample(
        PROMPT.tolist() + hot.sequences[0].tokens,
        max_tokens=0,
        scoring={"prompt_logprobs": True, "topk_prompt_logprobs": 300},
    )
    at_one = np.zeros(300)
    at_one[scored.topk_prompt_ids[-1]] = scored.topk_prompt_logprobs[-1]
    halved = at_one / 2
    expected = halved - np.log(np.exp(halved).sum())
    token = hot.sequences[0].tokens[0]
    assert hot.sequences[0].logprobs[0] == pytest.approx(expected[token], abs=1e-4)


def test_running_samples_keep_the_weights_they_started_with(trained):
    # Whose turn it is follows from time taken: on a busy machine the answer may be through before the step.
    for number in range(1, 6):
        command = trained.sample_command(PROMPT, max_tokens=80, seed=6, stop_token_ids=())
        expected = trained.answer(command, SampleResult)
        trained.worker.submit(command)
        trained.worker.step()
        trained.worker.step()
        step = RunOptimStep("s", "r", OptimStep(AdamParams(learning_rate=0.5)))
        events = trained.do(trained.pass_command(DATA), step)
        ends = [event for event in events if not isinstance(event, SignOfLife)]
        result = next(e for e in ends if e.job_id == command.job_id)
        assert decode(result.result, SampleResult).sequences == expected.sequences
        later = trained.sample(PROMPT, max_tokens=80, seed=6, stop_token_ids=())
        assert later.sequences != expected.sequences
        assert (expected.step, later.step) == (number, number + 1)
        if ends[-1].job_id != "s":
            return
    pytest.fail("training did not interleave")


def test_sampling_pins_a_run_opened_just_before(qwen2_folder):
    harness = Harness(qwen2_folder)
    command = harness.sample_command(PROMPT, run_id="new", max_tokens=2)
    early = harness.sample_command(PROMPT, run_id="new", max_tokens=2)
    assert harness.failure(early).error.code == "not_found"
    events = harness.do(OpenRun("o", "new", "m", LoRAConfig(), 1), command)
    assert [type(e) for e in events] == [JobDone, JobDone]


def test_cancelling_frees_the_rows_at_once(trained):
    long = trained.sample_command(PROMPT, num_samples=6, max_tokens=80, stop_token_ids=())
    other = trained.sample_command(PROMPT[:3], max_tokens=60, seed=5, stop_token_ids=())
    expected = trained.answer(other, SampleResult)
    for command in (long, other):
        trained.worker.submit(command)
    trained.worker.step()
    trained.worker.step()
    trained.worker.submit(CancelJob(long.job_id))
    trained.worker.step()
    assert trained.worker._residents.samplers["m"].num_rows == 1
    events = trained.do()
    ends = [type(e) for e in trained.events if not isinstance(e, SignOfLife)]
    assert ends[-2:] == [JobFailed, JobDone]
    result = decode(events[-1].result, SampleResult)
    assert result.sequences[0].tokens == expected.sequences[0].tokens


def test_a_failing_step_fails_its_requests_only(trained, monkeypatch):
    def broken(self):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "_decode", broken)
        patch.setattr(
            Sampler, "in_step", property(lambda s: s.requests(), lambda s, v: None), raising=False
        )
        event = trained.failure(trained.sample_command(PROMPT, max_tokens=5))
    assert event.error.code == "out_of_memory"
    assert trained.worker._residents.samplers["m"].num_rows == 0
    assert len(trained.sample(PROMPT, max_tokens=5, stop_token_ids=()).sequences[0].tokens) == 5


def test_a_busy_worker_shows_that_it_lives(trained, monkeypatch):
    monkeypatch.setattr("eztinker.engine.worker.outbox._QUIET_S", 0.0)
    events = trained.do(
        trained.sample_command(PROMPT, max_tokens=40, num_samples=3, stop_token_ids=())
    )
    assert any(isinstance(event, SignOfLife) for event in events)


def evaluate(harness, items, **kwargs) -> EvaluationResult:
    command = RunEvaluate(harness.job_id(), "r", Evaluate(items, **kwargs), PassPlan([]))
    return harness.answer(command, EvaluationResult)


def test_evaluation_scores_the_response(trained):
    response = tokens(8, 6)
    items = [EvaluationItem(PROMPT, response), EvaluationItem(PROMPT[:2], response[:1])]
    result = evaluate(trained, items)
    scored = trained.sample(
        np.concatenate([PROMPT, response]), max_tokens=0, scoring={"prompt_logprobs": True}
    )
    assert result.log_probs[0] == pytest.approx(scored.prompt_logprobs[11:].mean(), abs=1e-4)
    assert result.scores[0] == -result.log_probs[0]
    assert result.num_tokens == [6, 1]
    assert evaluate(trained, items, temperature=2.0).log_probs[0] != pytest.approx(
        result.log_probs[0]
    )


def test_evaluation_writes_missing_responses_itself(trained):
    empty = np.zeros(0, np.int32)
    items = [EvaluationItem(PROMPT, empty), EvaluationItem(PROMPT, tokens(8, 6))]
    result = evaluate(trained, items, max_new_tokens=7, seed=3, temperature=0.5)
    written = trained.sample(PROMPT, max_tokens=7, seed=3, temperature=0.5).sequences[0]
    assert result.num_tokens == [len(written.tokens), 6]
    assert result.log_probs[0] == pytest.approx(np.mean(written.logprobs), abs=2e-4)


def test_a_cancelled_evaluation_leaves_nothing_behind(trained):
    item = EvaluationItem(PROMPT, np.zeros(0, np.int32))
    command = RunEvaluate("e", "r", Evaluate([item], max_new_tokens=60), PassPlan([]))
    trained.worker.submit(command)
    trained.worker.step()
    trained.worker.step()
    events = trained.do(CancelJob("e"))
    assert [(e.job_id, e.error.code) for e in events] == [("e", "cancelled")]
    assert not trained.worker._residents.samplers["m"].has_work


@pytest.mark.parametrize(
    ("prompt", "temperature", "field"),
    [([], 1.0, "batches"), ([1], 0.0, "temperature"), ([999], 1.0, "tokens")],
)
def test_evaluation_refuses_what_cannot_be_scored(trained, prompt, temperature, field):
    item = EvaluationItem(np.array(prompt, np.int32), tokens(8, 6))
    command = RunEvaluate("e", "r", Evaluate([item], temperature=temperature), PassPlan([]))
    assert trained.failure(command).error.field == field


def test_an_evaluation_takes_turns_with_passes(trained):
    items = [EvaluationItem(PROMPT, tokens(8, 6)) for _ in range(12)]
    plan = PassPlan([[i] for i in range(len(items))])
    evaluation = RunEvaluate("e", "r", Evaluate(items), plan)
    data = [datum(i, 9) for i in range(4)]
    training = trained.pass_command(data, plan=[[i] for i in range(len(data))])
    events = trained.do(evaluation, training)
    ended = [event.job_id for event in events if isinstance(event, JobDone)]
    assert ended == [training.job_id, "e"], "four units and twelve, by turns"
