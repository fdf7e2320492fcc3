"""Prompts that begin like earlier ones, and prompts read in several chunks, give the same answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eztinker.engine.worker.kv_cache import PromptKV
from eztinker.engine.worker.prefix_cache import BLOCK, PrefixCache, joined
from eztinker.types.codec import decode
from eztinker.types.events import JobDone
from eztinker.types.operations import SampleResult
from tests.unit.worker.test_training import DATA
from tests.worker_harness import Harness, tokens

BEGINNING = tokens(1, 40)
GREEDY = {"max_tokens": 12, "temperature": 0.0, "stop_token_ids": ()}


@pytest.fixture
def fresh(qwen2_folder):
    """Nothing reused: the answers to compare with."""
    harness = Harness(qwen2_folder)
    harness.open_run()
    return harness


def forget(harness) -> None:
    harness.worker._residents.samplers["m"]._prefixes.clear()


def compare(ours: SampleResult, expected: SampleResult) -> None:
    for a, b in zip(ours.sequences, expected.sequences, strict=True):
        assert a.tokens == b.tokens
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


def test_a_known_beginning_is_reused_with_the_same_answer(harness, fresh):
    harness.open_run()
    first, second = (np.concatenate([BEGINNING, tokens(i, 7)]) for i in (2, 3))
    assert harness.sample(first, **GREEDY).num_reused_prompt_tokens == 0
    again = harness.sample(second, num_samples=2, **GREEDY)
    assert again.num_reused_prompt_tokens == 32
    compare(again, fresh.sample(second, num_samples=2, **GREEDY))


def test_the_next_turn_of_a_dialogue_reuses_the_answer_too(harness, fresh):
    harness.open_run()
    answer = harness.sample(BEGINNING, **GREEDY).sequences[0].tokens
    turn = np.concatenate([BEGINNING, answer, tokens(5, 3)]).astype(np.int32)
    second = harness.sample(turn, **GREEDY)
    assert second.num_reused_prompt_tokens == 48
    compare(second, fresh.sample(turn, **GREEDY))


def test_new_weights_reuse_nothing_of_the_old(harness):
    harness.open_run()
    harness.sample(BEGINNING, **GREEDY)
    assert harness.sample(BEGINNING, **GREEDY).num_reused_prompt_tokens == 32
    harness.forward_backward(DATA)
    harness.optim_step(learning_rate=0.05)
    trained = harness.sample(BEGINNING, **GREEDY)
    assert trained.num_reused_prompt_tokens == 0
    assert harness.sample(BEGINNING, run_id=None, **GREEDY).num_reused_prompt_tokens == 0
    forget(harness)
    compare(harness.sample(BEGINNING, **GREEDY), trained)


def test_old_weights_take_their_blocks_along(harness):
    harness.open_run()
    harness.sample(BEGINNING, **GREEDY)
    prefixes = harness.worker._residents.samplers["m"]._prefixes
    assert prefixes.num_tokens == 48
    harness.forward_backward(DATA)
    harness.optim_step(learning_rate=0.05)
    assert prefixes.num_tokens == 0


def test_a_scored_prompt_is_read_whole(harness):
    scoring = {"prompt_logprobs": True}
    first = harness.sample(BEGINNING, run_id=None, scoring=scoring, **GREEDY)
    again = harness.sample(BEGINNING, run_id=None, scoring=scoring, **GREEDY)
    assert again.num_reused_prompt_tokens == 0
    np.testing.assert_array_equal(first.prompt_logprobs, again.prompt_logprobs)


def test_equal_prompts_that_come_together_are_read_once(harness, fresh):
    harness.open_run()
    commands = [harness.sample_command(BEGINNING, seed=i, max_tokens=8) for i in range(4)]
    answers = harness.answers(*commands, cls=SampleResult)
    reused = sorted(answer.num_reused_prompt_tokens for answer in answers.values())
    assert reused == [0, 32, 32, 32]
    for i, command in enumerate(commands):
        compare(answers[command.job_id], fresh.sample(BEGINNING, seed=i, max_tokens=8))


@pytest.mark.parametrize("chunk_tokens", [1, 7, 16, 50])
def test_a_prompt_read_in_chunks_gives_the_same(harness, fresh, chunk_tokens):
    harness.open_run()
    harness.worker._residents.samplers["m"]._reader.chunk_tokens = chunk_tokens
    scoring = {"prompt_logprobs": True, "topk_prompt_logprobs": 2}
    commands = [
        harness.sample_command(tokens(1, 40), **GREEDY),
        harness.sample_command(tokens(2, 33), run_id=None, num_samples=3, max_tokens=6, seed=2),
        harness.sample_command(tokens(3, 21), scoring=scoring, **GREEDY),
    ]
    answers = harness.answers(*commands, cls=SampleResult)
    for command in commands:
        ours, expected = answers[command.job_id], fresh.answer(command, SampleResult)
        compare(ours, expected)
        if expected.prompt_logprobs is not None:
            np.testing.assert_allclose(ours.prompt_logprobs, expected.prompt_logprobs, atol=1e-4)
            np.testing.assert_array_equal(ours.topk_prompt_ids, expected.topk_prompt_ids)


def test_running_rows_go_on_between_the_chunks_of_a_long_prompt(harness):
    sampler = harness.worker._residents.samplers["m"]
    sampler._reader.chunk_tokens = 4
    harness.worker.submit(harness.sample_command(tokens(1, 4), run_id=None, **GREEDY))
    harness.worker.step()
    sampler._owed_s = 1e9  # as if reading had taken long
    harness.worker.submit(harness.sample_command(tokens(2, 60), run_id=None, **GREEDY))
    while not any(isinstance(event, JobDone) for event in harness.events):
        harness.worker.step()
    assert sampler._reader.queue[0].num_left == 60
    harness.do()


def test_deterministic_reuses_nothing_and_runs_requests_apart(qwen2_folder):
    harness = Harness(qwen2_folder, deterministic=True)
    commands = [
        harness.sample_command(BEGINNING, run_id=None, num_samples=2, seed=i % 2, max_tokens=20)
        for i in range(4)
    ]
    for command in commands:
        harness.worker.submit(command)
    most = 0
    while harness.worker.step():
        most = max(most, harness.worker._residents.samplers["m"].num_rows)
    assert most == 2
    done = [event for event in harness.events if isinstance(event, JobDone)][-4:]
    results = {event.job_id: decode(event.result, SampleResult) for event in done}
    answers = [results[command.job_id] for command in commands]
    assert answers[0].sequences == answers[2].sequences
    assert answers[1].sequences == answers[3].sequences
    assert {a.num_reused_prompt_tokens for a in answers} == {0}


class Weights:
    """Something to hold blocks by."""


texts = st.lists(st.integers(0, 1), min_size=0, max_size=4).map(
    lambda bits: np.repeat(np.array(bits, np.int32), BLOCK)
)
uses = st.lists(st.tuples(st.integers(0, 2), texts, st.integers(0, BLOCK - 1)), max_size=20)


@settings(max_examples=60)
@given(uses, st.integers(0, 6))
def test_what_is_found_is_what_was_stored(uses, max_blocks):
    """Against a model: values are a function of weights and of all tokens up to a position."""
    weights = [None, Weights(), Weights()]
    cache = PrefixCache(max_blocks * BLOCK)
    for which, text, extra in uses:
        whole = np.concatenate([text, np.full(extra, 9, np.int32)])
        marks = [hash((which, tuple(whole[: i + 1].tolist()))) % 997 for i in range(len(whole))]
        found = cache.find(weights[which], whole)
        if found:
            keys, values = joined(found)
            assert keys[0, 0, :, 0].tolist() == marks[: BLOCK * len(found)]
            assert values[0, 0, :, 0].tolist() == keys[0, 0, :, 0].tolist()
        if len(whole):
            kv = PromptKV(1, len(whole), torch.float32, torch.device("cpu"))
            states = torch.tensor(marks, dtype=torch.float32).view(1, -1, 1)
            kv.write(0, 0, states, states)
            cache.add(weights[which], whole, kv)
        assert cache.num_tokens <= max_blocks * BLOCK
        kept = min(len(whole) // BLOCK, max_blocks)
        assert len(cache.find(weights[which], whole)) == kept
