"""One request of each kind, in a fixed order, and what the server says to each.

Seeds are fixed, so that two servers on equal machines answer with equal numbers. Used by the tests
that disturb the server meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eztinker import EZTinkerClient

RUN = "scripted"
DATA = [[(7 * i + 3 * j) % 200 + 20 for j in range(14 + i % 5)] for i in range(8)]
Numbers = Any
Step = tuple[str, Callable[[EZTinkerClient], Numbers]]


def _pass(client: EZTinkerClient, *indices: int) -> Numbers:
    done = client.forward_backward(RUN, data=[{"input_ids": DATA[index]} for index in indices])
    return done["loss"], done["logprobs"]


def _step(client: EZTinkerClient) -> Numbers:
    done = client.optim_step(RUN, learning_rate=5e-3)
    return done["step"], done["grad_norm"]


def _pipelined(client: EZTinkerClient) -> Numbers:
    """Three jobs on their way at once: two passes and the step that uses both."""
    passes = [client.submit_forward_backward(RUN, DATA[index]) for index in (3, 4)]
    step = client.submit_optim_step(RUN, learning_rate=5e-3)
    losses = [handle.result(timeout=120)["loss"] for handle in passes]
    return losses, step.result(timeout=120)["grad_norm"]


def _sample(client: EZTinkerClient) -> Numbers:
    return client.sample(DATA[1], run_id=RUN, max_new_tokens=6, num_samples=2, seed=3)


def _evaluate(client: EZTinkerClient) -> Numbers:
    batch = {"prompt_ids": DATA[0][:6], "response_ids": DATA[0][6:]}
    done = client.evaluate(RUN, [batch])
    return done["scores"], done["log_probs"]


def _create(client: EZTinkerClient) -> Numbers:
    return client.create_run("nano", lora_rank=2, run_id=RUN, seed=7)


def _count(client: EZTinkerClient) -> Numbers:
    """What happened, as the server tells it: nothing lost, nothing twice."""
    jobs = client.get_jobs(RUN)
    kinds = sorted((job["kind"], job["status"]) for job in jobs)
    steps = [run["step"] for run in client.get_runs()]
    return kinds, steps, [entry["name"] for entry in client.get_checkpoints(RUN)]


STEPS: tuple[Step, ...] = (
    ("create_run", _create),
    ("forward_backward", lambda client: _pass(client, 0, 1)),
    ("optim_step", _step),
    ("forward_backward", lambda client: _pass(client, 2)),
    ("forward", lambda client: client.forward(RUN, DATA[5])["logprobs"]),
    ("sample", _sample),
    ("save_checkpoint", lambda client: client.save_checkpoint(RUN, "a")["step"]),
    ("optim_step", _step),
    ("load_checkpoint", lambda client: client.load_checkpoint(RUN, "a")["step"]),
    ("pipelined", _pipelined),
    ("evaluate", _evaluate),
    ("save_checkpoint", lambda client: client.save_checkpoint(RUN, "b")["step"]),
    ("delete_checkpoint", lambda client: client.delete_checkpoint(RUN, "a")["status"]),
    ("forward", lambda client: client.forward(RUN, DATA[6])["logprobs"]),
    ("count", _count),
    ("delete_run", lambda client: client.delete_run(RUN)["status"]),
    ("count", lambda client: (client.get_runs(), len(client.get_checkpoints()))),
)


def play(client: EZTinkerClient, begun: Callable[[str], None] = lambda _: None) -> list[Numbers]:
    """Ask everything; returns the answers. ``begun`` is told the kind of each request."""
    answers = []
    for kind, ask in STEPS:
        begun(kind)
        answers.append((kind, ask(client)))
    return answers
