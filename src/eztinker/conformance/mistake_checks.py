"""Checks of mistakes: each surfaces at once, as the user's, and never with a status that is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np

from eztinker.conformance.checks import Figures, check
from eztinker.conformance.expectations import Mismatch, expect
from eztinker.conformance.target import REFUSALS, Refused, Target, datum

_GROUP = "mistakes"
SURFACE_S = 1.0
"""How long a mistake may take to reach the user."""
HUB_S = 10.0
"""The same for the name of a model, which a server may look for in a hub."""


def _is_refused(
    answer: httpx.Response, started_s: float, *, within_s: float = SURFACE_S
) -> Figures:
    seconds = time.perf_counter() - started_s
    expect(answer.status_code in REFUSALS, f"one of {sorted(REFUSALS)}", answer.status_code)
    kind = answer.headers.get("content-type", "")
    expect(kind.startswith("application/json") and bool(answer.content), "a JSON body", kind)
    expect(seconds < within_s, f"an answer within {within_s} s", f"{seconds:.2f} s")
    return {"milliseconds": round(seconds * 1e3, 1)}


def _fails(target: Target, submit: Callable[[], str], *, within_s: float = SURFACE_S) -> Figures:
    started_s = time.perf_counter()
    try:
        target.response(submit())
    except Refused as error:
        seconds = time.perf_counter() - started_s
        expect(error.category == "user", "category user", f"{error.category}: {error}")
        expect(seconds < within_s, f"an error within {within_s} s", f"{seconds:.2f} s")
        return {"milliseconds": round(seconds * 1e3, 1)}
    raise Mismatch("expected the promise to fail, got a result")


def _bad_pass(target: Target, loss: str = "cross_entropy", **inputs: Any) -> Figures:
    model = target.create_model()
    target.run_pass(model, [datum()])
    found = _fails(target, lambda: target.send_pass(model, [datum(**inputs)], loss))
    target.run_pass(model, [datum()])  # the client goes on
    return found


@check(_GROUP)
def malformed(target: Target) -> Figures:
    """A body that is no protobuf."""
    started_s = time.perf_counter()
    return _is_refused(target.send_bytes(b"\xff\xff\xff"), started_s)


@check(_GROUP)
def unknown_token(target: Target) -> Figures:
    """A token outside the vocabulary."""
    return _bad_pass(target, target_tokens=np.array([11, 12, 13, 14, 15, 2**30]))


@check(_GROUP)
def lengths(target: Target) -> Figures:
    """Inputs of different lengths."""
    return _bad_pass(target, weights=[1.0, 1.0])


@check(_GROUP)
def missing_input(target: Target) -> Figures:
    """An input that is missing."""
    return _bad_pass(target, "importance_sampling")


@check(_GROUP)
def unknown_loss(target: Target) -> Figures:
    """An unknown loss."""
    return _bad_pass(target, "no_such_loss")


@check(_GROUP)
def slash(target: Target) -> Figures:
    """A name with a slash."""
    model = target.create_model()
    body = {"model_id": model.model_id, "seq_id": model.next_seq(), "path": "a/b"}
    return _fails(target, lambda: target.promise("/save_weights", body))


@check(_GROUP)
def existing_name(target: Target) -> Figures:
    """A name that exists."""
    model = target.create_model()
    target.save("/save_weights", model, path="twice")
    body = {"model_id": model.model_id, "seq_id": model.next_seq(), "path": "twice"}
    return _fails(target, lambda: target.promise("/save_weights", body))


@check(_GROUP)
def unknown_path(target: Target) -> Figures:
    """An unknown path."""
    body = {"session_id": target.session_id, "sampling_session_seq_id": 10**6}
    path = f"tinker://{target.session_id}:train:999999/sampler_weights/none"
    started_s = time.perf_counter()
    return _is_refused(
        target.post("/create_sampling_session", {**body, "model_path": path}), started_s
    )


@check(_GROUP)
def unknown_model(target: Target) -> Figures:
    """An unknown model."""
    body = {"session_id": target.session_id, "model_seq_id": 10**6, "base_model": "no/such-model"}
    started_s = time.perf_counter()
    answer = target.post("/create_model", {**body, "lora_config": {"rank": 4}})
    if answer.status_code == 200:
        return _fails(target, lambda: answer.json()["request_id"], within_s=HUB_S)
    return _is_refused(answer, started_s, within_s=HUB_S)


@check(_GROUP)
def unknown_ids(target: Target) -> None:
    """Ids that do not exist."""
    for path in ("/training_runs/nobody", "/sessions/nobody", "/samplers/nobody"):
        started_s = time.perf_counter()
        answer = target.http.get(path)
        expect(answer.status_code == 404, f"404 for {path}", answer.status_code)
        _is_refused(answer, started_s)
