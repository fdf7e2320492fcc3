"""Steps: how they are split into requests, and that splitting keeps the gradient."""

from __future__ import annotations

import pytest

from eztinker.errors import InvalidRequestError
from eztinker.rl import training
from eztinker.rl.training import AdamW, Step, pass_arguments, run_steps, steps_taken, weight_of


def datum(*weights: float) -> dict:
    ids = list(range(len(weights)))
    return {"input_ids": ids, "target_ids": ids, "weights": list(weights)}


def test_a_small_step_is_one_mean():
    step = Step([datum(0, 1), datum(0, 1, 1)], 1e-3, "ppo", {"clip_low_threshold": 0.9})
    (call,) = pass_arguments(step)
    assert call["loss_fn"] == "ppo"
    assert call["loss_fn_config"] == {"clip_low_threshold": 0.9}
    assert len(call["data"]) == 2


def test_a_large_step_is_sums_with_weights_that_add_up_to_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training, "MAX_DATA_PER_REQUEST", 2)
    data = [datum(9, 1, 2), datum(9, 0, 1), datum(9, 4)]  # the first label is never predicted
    calls = pass_arguments(Step(data, 1e-3))
    assert [len(call["data"]) for call in calls] == [2, 1]
    assert all(call["loss_fn_config"] == {"reduction": "sum"} for call in calls)
    total = sum(weight_of(one) for call in calls for one in call["data"])
    assert total == pytest.approx(1.0)
    assert calls[1]["data"][0]["weights"] == [0.0, 0.5]


def test_pairs_are_not_split(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training, "MAX_DATA_PER_REQUEST", 1)
    with pytest.raises(InvalidRequestError, match="per_device_train_batch_size"):
        pass_arguments(Step([datum(0, 1)] * 2, 1e-3, "dpo"))


def test_ignored_labels_have_no_weight():
    assert weight_of({"input_ids": [1, 2, 3], "target_ids": [-100, -100, 3]}) == 1.0
    assert weight_of({"input_ids": [1, 2, 3]}) == 2.0


class Handle:
    def __init__(self, value: dict) -> None:
        self.value = value

    def result(self, timeout: float) -> dict:
        return self.value


class Client:
    """Counts what is on its way; a step's loss is its number."""

    def __init__(self) -> None:
        self.passes: list[dict] = []
        self.steps: list[dict] = []

    def submit_forward_backward(self, run_id: str, **arguments) -> Handle:
        self.passes.append(arguments)
        return Handle(
            {"loss": float(len(self.passes)), "num_tokens": 2, "logprobs": [[None, -1.0]]}
        )

    def submit_optim_step(self, run_id: str, **arguments) -> Handle:
        self.steps.append(arguments)
        return Handle({"step": len(self.steps), "grad_norm": 0.5})


def test_steps_run_ahead_of_their_results_but_not_further_than_asked():
    client, seen = Client(), []
    steps = (Step([datum(0, 1)], 0.1 * (i + 1), info=i) for i in range(5))
    for done in run_steps(client, "run_1", steps, AdamW(grad_clip_norm=1.0), max_in_flight=2):
        seen.append((done.step, done.loss, done.learning_rate, done.info, len(client.steps)))
    assert [s[0] for s in seen] == [1, 2, 3, 4, 5]
    assert [s[3] for s in seen] == [0, 1, 2, 3, 4]
    assert [s[4] for s in seen] == [2, 3, 4, 5, 5]
    assert client.steps[2]["learning_rate"] == pytest.approx(0.3)
    assert client.steps[0]["grad_clip_norm"] == 1.0


class LoggingClient:
    """A run's log: first steps 1 and 2, a gradient that was dropped, back to step 1, then 2 and 3 again."""

    def __init__(self) -> None:
        loss = iter(range(100))
        told = [
            ("forward_backward", "completed"), ("optim_step", 1), ("forward_backward", "completed"),
            ("optim_step", 2), ("forward_backward", "completed"), ("save_checkpoint", "completed"),
            ("load_checkpoint", "completed"), ("forward_backward", "failed"), ("forward_backward", "completed"),
            ("forward_backward", "completed"), ("optim_step", 2), ("forward_backward", "completed"), ("optim_step", 3),
        ]  # fmt: skip
        self.entries = []
        for seq, (kind, what) in enumerate(told):
            result = {"step": what, "grad_norm": 0.5, "learning_rate": 1e-3}
            if kind == "forward_backward":
                result = {"loss": float(next(loss)), "num_tokens": 10}
            status = what if isinstance(what, str) else "completed"
            self.entries.append(
                {
                    "seq": seq,
                    "job_id": f"job{seq}",
                    "kind": kind,
                    "status": status,
                    "result": result,
                }
            )

    def get_log(self, run_id: str, *, after: int | None, limit: int) -> list[dict]:
        assert limit > 0
        return [one for one in self.entries if after is None or one["seq"] > after][:3]

    def wait_for_job(self, job_id: str) -> dict:
        return {"result": {"logprobs": [[float(job_id.removeprefix("job"))]]}}


def test_steps_that_nobody_heard_of_are_read_from_the_log():
    steps = steps_taken(LoggingClient(), "run_1", after=1)
    assert [(one.step, one.loss, one.num_tokens) for one in steps] == [(2, 9.0, 20), (3, 6.0, 10)]
    assert steps[0].logprobs == [[8.0], [9.0]]
    assert (steps[1].grad_norm, steps[1].learning_rate) == (0.5, 1e-3)
    assert steps_taken(LoggingClient(), "run_1", after=3) == []
