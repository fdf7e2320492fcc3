"""Passes and steps through the worker: what changes a run, and what must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eztinker.engine.worker import micro_batch
from eztinker.ops import losses
from eztinker.types.commands import CancelJob, RunOptimStep
from eztinker.types.events import JobDone, JobFailed
from eztinker.types.operations import OptimStep
from eztinker.types.plans import PassPlan
from eztinker.types.training import AdamParams, Datum
from tests.worker_harness import Harness, datum

DATA = [datum(1, 12, 4), datum(2, 20), datum(3, 5), datum(4, 17, 16)]


def same_state(before, after) -> bool:
    """Whether two states are the same bits."""
    tensors = [
        (before.weights.flat_P, after.weights.flat_P),
        (before.adam.exp_avg_P, after.adam.exp_avg_P),
        (before.adam.exp_avg_sq_P, after.adam.exp_avg_sq_P),
        (before.gradient_P, after.gradient_P),
    ]
    return before.step == after.step and all(
        a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in tensors
    )


@pytest.fixture
def trained(harness):
    """A run with a step and a gradient behind it."""
    harness.open_run(lora_dropout=0.2)
    harness.forward_backward(DATA)
    harness.optim_step()
    harness.forward_backward(DATA[:2])
    return harness


def test_mean_is_the_sum_over_the_weights(harness):
    harness.open_run()
    mean = harness.forward(DATA)
    total = harness.forward(DATA, reduction="sum")
    num_labels = 8 + 20 + 5 + 1
    assert mean.num_tokens == total.num_tokens == num_labels
    assert mean.loss == pytest.approx(total.loss / num_labels, rel=1e-6)
    assert mean.metrics["loss:sum"] == pytest.approx(total.loss, rel=1e-6)
    for d, ours, all_of_them in zip(DATA, mean.logprobs, total.logprobs, strict=True):
        counts = d.loss_fn_inputs["weights"] != 0
        assert ours.shape == (d.num_tokens,)
        np.testing.assert_allclose(ours[counts], all_of_them[counts], atol=1e-5)
        assert np.isnan(ours[~counts]).all()
        assert np.isfinite(all_of_them).all()


def test_the_cut_into_micro_batches_does_not_matter(harness):
    harness.open_run("a")
    harness.open_run("b")
    whole = harness.forward_backward(DATA, run_id="a")
    parts = harness.forward_backward(DATA, run_id="b", plan=[[3], [0, 2], [1]])
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    gradients = [harness.run_state(r).gradient_P for r in "ab"]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_two_passes_add_up_to_one(harness):
    for run_id in "ab":
        harness.open_run(run_id)
    harness.forward_backward(DATA, run_id="a", reduction="sum")
    harness.forward_backward(DATA[:2], run_id="b", reduction="sum")
    harness.forward_backward(DATA[2:], run_id="b", reduction="sum")
    gradients = [harness.run_state(r).gradient_P for r in "ab"]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_the_same_plan_from_the_same_state_gives_the_same_bits(qwen2_folder):
    states = []
    for neighbours in (0, 2):
        harness = Harness(qwen2_folder)
        for i in range(neighbours):
            harness.open_run(f"other{i}", seed=i)
            harness.forward_backward(DATA[i:], run_id=f"other{i}")
        harness.open_run(lora_dropout=0.3)
        event = harness.do(harness.pass_command(DATA, plan=[[0, 1, 2], [3]]))[-1]
        harness.do(harness.pass_command(DATA, plan=event.executed_plan.micro_batches))
        harness.optim_step(learning_rate=1e-2)
        states.append(harness.run_state())
    assert same_state(*states)


def test_dropout_follows_from_seed_step_and_pass_and_is_off_without_gradient(harness):
    def losses(run_id: str) -> list[float]:
        harness.forward_backward(DATA, run_id=run_id)
        harness.optim_step(run_id, learning_rate=0.1)
        told = [harness.forward_backward(DATA, run_id=run_id).loss for _ in range(2)]
        harness.optim_step(run_id, learning_rate=1e-30)  # the weights stay, the step is another
        return [*told, harness.forward_backward(DATA, run_id=run_id).loss]

    for run_id, seed in (("a", 7), ("b", 7), ("c", 8)):
        harness.open_run(run_id, seed=seed, lora_dropout=0.5)
    told = losses("a")
    assert len(set(told)) == 3
    evaluated = {harness.forward(DATA, run_id="a").loss for _ in range(2)}
    assert len(evaluated) == 1
    assert evaluated.isdisjoint(told)
    harness.forward(DATA, run_id="b")  # what takes no part in training changes nothing
    assert losses("b") == told
    assert set(losses("c")).isdisjoint(told)


def test_a_failed_pass_changes_no_mask_of_the_next(harness):
    for run_id in "ab":
        harness.open_run(run_id, lora_dropout=0.5)
    harness.failure(harness.pass_command(DATA, run_id="a", name="no such loss"))
    for run_id in "ab":
        harness.forward_backward(DATA, run_id=run_id)
    gradients = [harness.run_state(run_id).gradient_P for run_id in "ab"]
    assert torch.equal(*gradients)


def test_checkpointing_gives_the_same_gradient(harness):
    for run_id in "ab":
        harness.open_run(run_id, lora_dropout=0.3)
    plain = harness.pass_command(DATA, run_id="a")
    recomputed = harness.pass_command(DATA, run_id="b")
    recomputed = type(recomputed)(
        recomputed.job_id,
        "b",
        recomputed.operation,
        PassPlan(plain.plan.micro_batches, checkpointing=True),
    )
    harness.do(plain, recomputed)
    gradients = [harness.run_state(r).gradient_P for r in "ab"]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_executed_plan_says_how_it_was_computed(harness):
    harness.open_run()
    event = harness.do(harness.pass_command(DATA))[-1]
    assert event.executed_plan == PassPlan([[0, 1, 2, 3]], num_threads=1, dtype="float32")
    assert event.epoch == 3
    assert event.compute_s > 0


def test_a_step_without_gradient_is_refused(trained):
    trained.optim_step()
    before = trained.run_state()
    event = trained.failure(RunOptimStep("j", "r", OptimStep(AdamParams())))
    assert event.error.code == "no_gradient"
    assert event.error.category == "user"
    assert same_state(before, trained.run_state())


@pytest.mark.parametrize(
    ("data", "loss", "code"),
    [
        ([DATA[0], datum(9, 5, weights=np.full(5, np.inf, np.float32))], {}, "not_finite"),
        (
            [DATA[0], datum(9, 5, weights=np.full(5, 3e38, np.float32))],
            {"reduction": "sum"},
            "not_finite",
        ),
        ([datum(9, 5, weights=np.zeros(5, np.float32))], {}, "no_labels"),
        (
            [Datum(np.array([1, 900], np.int32), {"target_tokens": np.array([1, 2])})],
            {},
            "token_out_of_range",
        ),
        (
            [Datum(np.array([1, 2], np.int32), {"target_tokens": np.array([1, -100])})],
            {},
            "token_out_of_range",
        ),
        ([datum(9, 97)], {}, "invalid_request"),
        ([datum(9, 5)], {"name": "ppo"}, "invalid_request"),
        ([datum(9, 5)], {"name": "nonsense"}, "not_found"),
        ([datum(9, 5, logprobs=np.zeros(5, np.float32))], {"name": "dpo"}, "invalid_request"),
        ([datum(9, 5, weights=np.ones(4, np.float32))], {}, "invalid_request"),
        ([datum(9, 5)], {"config": {"beta": 1.0}}, "invalid_request"),
    ],
)
def test_a_failed_pass_leaves_the_run_as_it_was(trained, data, loss, code):
    before = trained.run_state()
    event = trained.failure(
        trained.pass_command(data, plan=[[i] for i in range(len(data))], **loss)
    )
    assert event.error.code == code
    assert same_state(before, trained.run_state())
    trained.forward_backward(DATA)


def test_a_step_that_is_not_finite_changes_nothing(trained):
    before = trained.run_state()
    for learning_rate, code in ((3e37, "not_finite"), (1e39, "invalid_request")):
        command = RunOptimStep("j", "r", OptimStep(AdamParams(learning_rate=learning_rate)))
        assert trained.failure(command).error.code == code
        assert same_state(before, trained.run_state())


def test_out_of_memory_halves_the_micro_batch_and_redoes_only_it(trained, monkeypatch):
    reference = Harness(trained.run_state().base.folder)
    reference.open_run(lora_dropout=0.2)
    trained.open_run("oom", lora_dropout=0.2)
    real = micro_batch._hidden
    calls = []

    def limited(half):
        calls.append(half.packing.lengths)
        if len(half.packing.lengths) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 1e12 bytes")
        return real(half)

    monkeypatch.setattr(micro_batch, "_hidden", limited)
    event = trained.do(trained.pass_command(DATA, run_id="oom", plan=[[2], [0, 1, 3]]))[-1]
    assert isinstance(event, JobDone)
    assert event.executed_plan.micro_batches == [[2], [0], [1], [3]]
    assert calls == [[5], [12, 20, 17], [12], [20, 17], [20], [17]]
    monkeypatch.undo()
    # A replay of the plan as executed gives the same bits.
    reference.forward_backward(DATA, plan=event.executed_plan.micro_batches)
    assert torch.equal(trained.run_state("oom").gradient_P, reference.run_state().gradient_P)


def test_a_datum_that_does_not_fit_fails_alone(trained, monkeypatch):
    before = trained.run_state()

    def exhausted(half):
        raise MemoryError

    monkeypatch.setattr(micro_batch, "_hidden", exhausted)
    event = trained.failure(trained.pass_command(DATA))
    assert (event.error.code, event.error.category) == ("out_of_memory", "capacity")
    assert same_state(before, trained.run_state())


def test_pairs_stay_together_when_memory_runs_out(harness, monkeypatch):
    harness.open_run()
    pairs = [datum(i, 6, logprobs=np.full(6, -5, np.float32)) for i in range(4)]
    real = micro_batch._hidden

    def limited(half):
        if len(half.packing.lengths) > 2:
            raise MemoryError
        return real(half)

    whole = harness.forward(pairs, name="dpo", reduction="sum")
    monkeypatch.setattr(micro_batch, "_hidden", limited)
    event = harness.do(harness.pass_command(pairs, name="dpo", reduction="sum"))[-1]
    assert event.executed_plan.micro_batches == [[0, 1], [2, 3]]
    mean = harness.forward(pairs, name="dpo")
    assert mean.loss == pytest.approx(whole.loss / 2, rel=1e-5)


def test_cancelling_drops_a_pass_between_micro_batches(trained):
    before = trained.run_state()
    command = trained.pass_command(DATA, plan=[[0], [1], [2], [3]])
    trained.worker.submit(command)
    assert trained.worker.step()
    assert trained.worker.step()
    events = trained.do(CancelJob(command.job_id))
    assert [(type(e), e.error.code) for e in events] == [(JobFailed, "cancelled")]
    assert same_state(before, trained.run_state())
    trained.forward_backward(DATA)


def test_cancelling_a_queued_job_lets_the_others_run(trained):
    commands = [trained.pass_command(DATA) for _ in range(3)]
    events = trained.do(*commands, CancelJob(commands[1].job_id), CancelJob("unknown"))
    done = [e.job_id for e in events if isinstance(e, JobDone)]
    failed = [(e.job_id, e.error.code) for e in events if isinstance(e, JobFailed)]
    assert done == [commands[0].job_id, commands[2].job_id]
    assert failed == [(commands[1].job_id, "cancelled")]


def test_an_unexpected_exception_fails_the_job_only(trained, monkeypatch, caplog):
    before = trained.run_state()

    def broken(half):
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(micro_batch, "_hidden", broken)
    event = trained.failure(trained.pass_command(DATA))
    assert (event.error.code, event.error.category) == ("internal_error", "server")
    assert "surprise" in caplog.text
    monkeypatch.undo()
    assert same_state(before, trained.run_state())
    trained.forward_backward(DATA)


def test_a_plan_that_misses_a_datum_is_refused(trained):
    for plan in ([[0], [1]], [[0, 1, 2, 3, 3]], [[0, 1, 2, 3], []]):
        event = trained.failure(trained.pass_command(DATA, plan=plan))
        assert event.error.code == "internal_error"


def test_runs_do_not_disturb_each_other(qwen2_folder):
    def train(harness, run_id, seed, data):
        harness.forward_backward(data, run_id=run_id)
        return harness.optim_step(run_id, learning_rate=1e-2)

    together = Harness(qwen2_folder)
    for i, run_id in enumerate("ab"):
        together.open_run(run_id, seed=i, r=2 + i)
    for _ in range(3):
        for i, run_id in enumerate("ab"):
            train(together, run_id, i, DATA[i:])
    for i, run_id in enumerate("ab"):
        alone = Harness(qwen2_folder)
        alone.open_run(run_id, seed=i, r=2 + i)
        for _ in range(3):
            train(alone, run_id, i, DATA[i:])
        assert same_state(alone.run_state(run_id), together.run_state(run_id))


def test_a_registered_loss_trains_like_the_built_in_one(harness, monkeypatch):
    monkeypatch.setattr(losses, "_registered", type(losses._registered)())

    def mean_loss(logits, labels, weights=None, factor=1.0):
        return factor * torch.nn.functional.cross_entropy(logits[0], labels[0])

    def per_position(logits, labels, weights=None):
        p = torch.log_softmax(logits, -1).gather(2, labels.clamp_min(0)[..., None])[..., 0]
        return -p * weights

    losses.register_loss_function("mean_loss", mean_loss)
    losses.register_loss_function("per_position", per_position)
    results = {}
    for name, config in (
        ("cross_entropy", {}),
        ("mean_loss", {"factor": 1.0}),
        ("per_position", {}),
    ):
        harness.open_run(name)
        result = harness.forward_backward(DATA, run_id=name, name=name, config=config)
        results[name] = (result.loss, harness.run_state(name).gradient_P)
        for d, logprobs in zip(DATA, result.logprobs, strict=True):
            assert (np.isfinite(logprobs) == (d.loss_fn_inputs["weights"] != 0)).all()
    for name in ("mean_loss", "per_position"):
        assert results[name][0] == pytest.approx(results["cross_entropy"][0], rel=1e-5)
        torch.testing.assert_close(
            results[name][1], results["cross_entropy"][1], rtol=1e-4, atol=1e-6
        )


def test_several_targets_per_position(harness):
    harness.open_run()
    ids = datum(1, 6)
    first = ids.loss_fn_inputs["target_tokens"]
    targets = np.stack([first, (first + 5) % 300], axis=1)
    weights = np.tile(np.array([0.75, 0.25], np.float32), (6, 1))
    both = harness.forward(
        [Datum(ids.tokens_T, {"target_tokens": targets, "weights": weights})], reduction="sum"
    )
    single = [
        harness.forward([Datum(ids.tokens_T, {"target_tokens": t})], reduction="sum")
        for t in targets.T
    ]
    assert both.logprobs[0].shape == (6, 2)
    for k in range(2):
        np.testing.assert_allclose(both.logprobs[0][:, k], single[k].logprobs[0], atol=1e-5)
    assert both.loss == pytest.approx(0.75 * single[0].loss + 0.25 * single[1].loss, rel=1e-5)


def test_negative_weights_reverse_the_gradient(harness):
    for run_id, sign in (("plus", 1), ("minus", -1)):
        harness.open_run(run_id)
        signed = datum(1, 6, weights=np.full(6, sign, np.float32))
        harness.forward_backward([signed], run_id=run_id, reduction="sum")
    plus, minus = (harness.run_state(r).gradient_P for r in ("plus", "minus"))
    torch.testing.assert_close(plus, -minus)
