"""Answers to one prompt: the prompt goes through the model once, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eztinker.engine.worker import micro_batch
from eztinker.ops.packing import MIN_PREFIX, pack_shared
from eztinker.types.training import Datum
from tests.model_factory import write_model
from tests.worker_harness import Harness, tokens


def answers(seed: int, num_prompt: int, lengths: list[int]) -> list[Datum]:
    """A group as GRPO trains it: only the answers count."""
    prompt = tokens(seed, num_prompt)
    data = []
    for number, length in enumerate(lengths):
        ids = np.concatenate([prompt, tokens(100 * seed + number, length + 1)])
        size = len(ids) - 1
        counts = np.arange(size) >= num_prompt - 1
        data.append(
            Datum(
                ids[:-1],
                {
                    "target_tokens": ids[1:].astype(np.int64),
                    "weights": counts.astype(np.float32),
                    "logprobs": np.full(size, -5, np.float32),
                    "advantages": np.full(size, number - 1.0, np.float32),
                },
            )
        )
    return data


GROUPS = answers(1, 30, [9, 4, 17]) + answers(2, 20, [5, 6, 1]) + answers(3, 8, [12])


@pytest.fixture
def num_rows(monkeypatch):
    """Rows of every model pass."""
    seen: list[int] = []
    real = micro_batch._hidden

    def hidden(half):
        seen.append(half.packing.num_rows)
        return real(half)

    monkeypatch.setattr(micro_batch, "_hidden", hidden)
    return seen


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("model", ["qwen2_folder", "gpt2_folder"])
def test_gradients_and_logprobs_are_those_of_whole_sequences(model, reduction, request, num_rows):
    harness = Harness(request.getfixturevalue(model))
    results = {}
    for run_id, plan in (("once", [list(range(7))]), ("apart", [[i] for i in range(7)])):
        harness.open_run(run_id)
        for _ in range(2):
            harness.forward_backward(
                GROUPS, run_id=run_id, plan=plan, name="importance_sampling", reduction=reduction
            )
            harness.optim_step(run_id, learning_rate=1e-3)
        results[run_id] = harness.forward_backward(
            GROUPS, run_id=run_id, plan=plan, name="importance_sampling", reduction=reduction
        )
    num_tokens = sum(d.num_tokens for d in GROUPS)
    assert min(num_rows[:1]) == num_tokens - 2 * 30 - 2 * 20
    assert results["once"].loss == pytest.approx(results["apart"].loss, rel=1e-5)
    for ours, theirs in zip(results["once"].logprobs, results["apart"].logprobs, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    once, apart = (harness.run_state(r).gradient_P for r in ("once", "apart"))
    assert float((once - apart).norm()) <= 2e-5 * float(apart.norm())


def test_a_sliding_window_counts_from_the_position_in_the_sequence(tmp_path):
    folder = write_model(tmp_path, "mistral")
    harness = Harness(folder)
    gradients = []
    for run_id, plan in (("once", [[0, 1, 2]]), ("apart", [[0], [1], [2]])):
        harness.open_run(run_id)
        harness.forward_backward(GROUPS[:3], run_id=run_id, plan=plan)
        gradients.append(harness.run_state(run_id).gradient_P)
    assert float((gradients[0] - gradients[1]).norm()) <= 2e-5 * float(gradients[1].norm())


def test_with_dropout_every_sequence_keeps_its_own_prompt(harness, num_rows):
    harness.open_run(lora_dropout=0.1)
    harness.forward_backward(GROUPS)
    assert num_rows[0] >= sum(d.num_tokens for d in GROUPS)


def test_checkpointing_changes_nothing(harness):
    for run_id in "ab":
        harness.open_run(run_id)
    plain, recomputed = (harness.pass_command(GROUPS, run_id=run_id) for run_id in "ab")
    object.__setattr__(recomputed.plan, "checkpointing", True)
    harness.do(plain, recomputed)
    torch.testing.assert_close(*(harness.run_state(r).gradient_P for r in "ab"))


def test_every_position_has_its_row():
    sequences = [d.tokens_T for d in GROUPS]
    packing = pack_shared(sequences)
    assert packing is not None
    for i, sequence in enumerate(sequences):
        rows = packing.rows_of(i)
        np.testing.assert_array_equal(packing.tokens_BT[0][rows], sequence)
        np.testing.assert_array_equal(packing.positions_BT[0][rows], np.arange(len(sequence)))


def test_little_in_common_is_not_shared():
    prompt = tokens(5, MIN_PREFIX - 1)
    short = [np.concatenate([prompt, tokens(i, 20)]) for i in range(4)]
    assert pack_shared(short) is None
    assert pack_shared([tokens(i, 50) for i in range(4)]) is None


def test_equal_sequences_keep_a_token_each():
    packing = pack_shared([tokens(1, 40)] * 3)
    assert packing is not None
    assert packing.num_rows == 39 + 3
