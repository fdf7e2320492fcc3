"""Two halves of a decode step side by side: every row draws what it draws in one pass, the same bits each time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eztinker.engine.worker import decode_step, lanes
from eztinker.types.operations import SampleResult
from tests.worker_harness import Harness, datum, tokens


@pytest.fixture
def halves(monkeypatch):
    """Small batches are divided too; how often that happened."""
    seen, real = [], lanes.side_by_side

    def spy(tasks):
        seen.append(len(tasks))
        return real(tasks)

    monkeypatch.setattr(decode_step, "FEWEST_ROWS", 2)
    monkeypatch.setattr(lanes, "side_by_side", spy)
    before = torch.get_num_threads()
    yield seen
    torch.set_num_threads(before)


def trained(folder) -> Harness:
    harness = Harness(folder)
    harness.open_run()
    harness.forward_backward([datum(1, 12)])
    harness.optim_step(learning_rate=0.05)
    return harness


def sampled(harness, num_threads) -> list[SampleResult]:
    """Rows of a run and of the bare model, some that share a prompt across the middle, of different lengths."""
    asked = [
        harness.sample_command(tokens(1, 40), "r", num_samples=5, max_tokens=12, seed=1),
        harness.sample_command(tokens(2, 9), None, max_tokens=5, seed=2),
        harness.sample_command(tokens(3, 21), "r", max_tokens=8, seed=3, temperature=0.0),
    ]
    torch.set_num_threads(num_threads)
    found = harness.answers(*asked, cls=SampleResult)
    return [found[job_id] for job_id in sorted(found)]


def test_halves_draw_what_the_whole_draws(qwen2_folder, halves, monkeypatch):
    monkeypatch.setattr("eztinker.engine.worker.devices._FLOPS_PER_THREAD", 1.0)
    harness = trained(qwen2_folder)
    whole = sampled(harness, 1)
    assert not halves
    divided, again = (sampled(harness, 2) for _ in range(2))
    assert len(halves) >= 20
    assert set(halves) == {2}
    for one, two, three in zip(whole, divided, again, strict=True):
        assert two.sequences == three.sequences
        for a, b in zip(one.sequences, two.sequences, strict=True):
            assert a.tokens == b.tokens
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def test_prompts_are_read_in_halves_too(qwen2_folder, halves, monkeypatch):
    monkeypatch.setattr(lanes, "_SMALLEST_HALF", 1)
    monkeypatch.setattr("eztinker.engine.worker.devices._FLOPS_PER_THREAD", 1.0)
    lengths = (17, 12, 14, 16)
    answers = []
    for num_threads in (1, 2, 2):
        harness = trained(qwen2_folder)
        asked = [
            harness.sample_command(
                tokens(i, n), run, max_tokens=1, scoring={"prompt_logprobs": i == 2}
            )
            for i, (n, run) in enumerate(zip(lengths, ("r", None, "r", None), strict=True))
        ]
        torch.set_num_threads(num_threads)
        found = harness.answers(*asked, cls=SampleResult)
        answers.append([found[job_id] for job_id in sorted(found)])
    assert halves == [2, 2]
    whole, divided, again = answers
    for one, two, three in zip(whole, divided, again, strict=True):
        assert two.sequences == three.sequences
        assert one.sequences[0].tokens == two.sequences[0].tokens
        assert one.sequences[0].logprobs == pytest.approx(two.sequences[0].logprobs, abs=1e-5)
    np.testing.assert_allclose(
        whole[2].prompt_logprobs[1:], divided[2].prompt_logprobs[1:], atol=1e-5
    )


def test_a_failing_half_fails_the_step_and_the_sampler_goes_on(qwen2_folder, halves, monkeypatch):
    monkeypatch.setattr("eztinker.engine.worker.devices._FLOPS_PER_THREAD", 1.0)
    harness, real = trained(qwen2_folder), decode_step.draw_next

    def fail(rows, *rest):
        if rows[-1].request.adapter is None and len(rows[-1].tokens) == 3:
            raise RuntimeError("half a step")
        return real(rows, *rest)

    monkeypatch.setattr(decode_step, "draw_next", fail)
    torch.set_num_threads(2)
    ended = harness.do(
        *(
            harness.sample_command(tokens(i, 9), run, max_tokens=6)
            for i, run in enumerate(("r", None))
        )
    )
    assert [type(event).__name__ for event in ended] == ["JobFailed", "JobFailed"]
    assert len(halves) == 3
    monkeypatch.setattr(decode_step, "draw_next", real)
    assert len(sampled(harness, 2)[0].sequences) == 5
