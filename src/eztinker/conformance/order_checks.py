"""Checks of promises and of their order: numbers, retries, refusals that use their number up, waiting."""

from __future__ import annotations

import statistics
import time

import httpx

from eztinker.conformance.checks import Figures, check
from eztinker.conformance.expectations import Mismatch, expect
from eztinker.conformance.target import Refused, Target, datum, logprobs, pass_message, request_id

_GROUP = "promises"
NUM_ROUND_TRIPS = 20
HELD_S = 2.0
"""A poll that is answered earlier than this without news keeps the client busy."""


@check(_GROUP)
def model_and_info(target: Target) -> None:
    """A model has the id that the client puts together, and tells of itself."""
    model = target.create_model()
    info = target.asked("/get_info", {"model_id": model.model_id, "type": "get_info"})
    expect(info.get("lora_rank") == 4, "lora_rank 4", info)
    expect(bool(info["model_data"].get("model_name")), "a model_name in model_data", info)


@check(_GROUP)
def round_trip(target: Target) -> Figures:
    """A pass of one token comes back."""
    model = target.create_model()
    names = list(target.run_pass(model, [datum(1)]).metrics)
    durations_s = []
    for _ in range(NUM_ROUND_TRIPS):
        started_s = time.perf_counter()
        target.run_pass(model, [datum(1)])
        durations_s.append(time.perf_counter() - started_s)
    expect("loss:sum" in names, "loss:sum among the metrics", names)
    expect(all(n.count(":") == 1 for n in names), "one colon in each metric's name", names)
    return {"p50_ms": round(statistics.median(durations_s) * 1e3, 2)}


@check(_GROUP)
def out_of_order(target: Target) -> None:
    """Requests that arrive out of order run in order."""
    model = target.create_model()
    step = target.step(model, seq_id=2)
    passed = target.send_pass(model, [datum()], seq_id=1)
    target.output(passed)
    target.result(step)


@check(_GROUP)
def retries(target: Target) -> None:
    """The same number again is the same promise, and runs once."""
    once, twice = target.create_model(), target.create_model()
    for model, times in ((once, 1), (twice, 3)):
        message = pass_message(model, [datum()], "cross_entropy", 1, {}).SerializeToString()
        ids = {request_id(target.send_bytes(message)) for _ in range(times)}
        expect(len(ids) == 1, "one promise for copies of a pass", ids)
        steps = {target.step(model, seq_id=2) for _ in range(times)}
        expect(len(steps) == 1, "one promise for copies of a step", steps)
        target.result(steps.pop())
    scored = [
        logprobs(target.output(target.send_pass(m, [datum()], seq_id=3, forward_only=True)))[0]
        for m in (once, twice)
    ]
    expect(bool((abs(scored[0] - scored[1]) < 1e-4).all()), "equal weights", scored)


@check(_GROUP)
def refused_number(target: Target) -> None:
    """A refused number is used up, and the next one runs."""
    model = target.create_model()
    later = target.step(model, seq_id=3)
    bad = target.send_pass(model, [datum()], "no_such_loss", seq_id=1)
    try:
        target.response(bad)
    except Refused as error:
        expect(error.category == "user", "category user", error.category)
    else:
        raise Mismatch("expected an unknown loss to fail")
    target.output(target.send_pass(model, [datum()], seq_id=2))
    target.result(later)


@check(_GROUP)
def long_poll(target: Target) -> Figures:
    """A poll for what is not ready is held open."""
    model = target.create_model()
    promise = target.step(model, seq_id=2)  # number 1 never comes
    started_s = time.perf_counter()
    try:
        answer = target.poll(promise, timeout_s=HELD_S)
    except httpx.ReadTimeout:
        return {"held_s": HELD_S}
    seconds = time.perf_counter() - started_s
    said = f"{answer.status_code} after {seconds:.2f} s"
    raise Mismatch(f"expected a poll to be held for {HELD_S} s or more, got {said}")
