"""Checks of the numbers: losses against their formulas, sums, accumulation, the optimizer, saved states."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eztinker.conformance.checks import Figures, check
from eztinker.conformance.expectations import expect, expect_close
from eztinker.conformance.target import Model, Target, datum, logprobs

_GROUP = "training"
LOSS_TOLERANCE = 1e-3
"""Relative; a server that computes in bfloat16 may round the result."""
SAME_TOLERANCE = 1e-4
"""Of log-probabilities that two ways of training should give alike."""

_A = np.array([1.0, -0.5, 0.25, 2.0, -1.0, 0.5])
_Q = np.full(6, -2.0)


def _check_loss(
    target: Target, name: str, formula: Callable[[np.ndarray], float], **config: float
) -> Figures:
    model = target.create_model()
    data = [datum(weights=None, logprobs=_Q, advantages=_A)]
    output = target.output(target.send_pass(model, data, name, config=config))
    p = logprobs(output)[0].astype(np.float64)
    expect(p.shape == (6,), "6 log-probabilities", p.shape)
    expected = formula(p)
    difference = expect_close(
        output.metrics["loss:sum"], expected, within=LOSS_TOLERANCE, what="loss:sum"
    )
    return {"relative_difference": float(f"{difference:.2e}")}


@check(_GROUP)
def cross_entropy(target: Target) -> Figures:
    """Cross_entropy is the weighted sum, with weights of any sign."""
    weights = np.array([1.0, 0.0, -2.0, 0.5, 3.0, 1.0])
    output = target.run_pass(target.create_model(), [datum(weights=weights), datum(3)])
    first, second = logprobs(output)
    expect((len(first), len(second)) == (6, 3), "one entry per datum, in order")
    expected = float(-(weights * first).sum() - second.sum())
    difference = expect_close(
        output.metrics["loss:sum"], expected, within=LOSS_TOLERANCE, what="loss:sum"
    )
    return {"relative_difference": float(f"{difference:.2e}")}


@check(_GROUP)
def several_targets(target: Target) -> None:
    """Cross_entropy takes several targets per position."""
    targets = np.array([[11, 7], [12, 8], [13, 9]])
    weights = np.array([[1.0, 0.5], [0.0, 2.0], [1.0, 0.0]])
    output = target.run_pass(
        target.create_model(), [datum(3, target_tokens=targets, weights=weights)]
    )
    p = logprobs(output)[0]
    expect(p.shape == (3, 2), "log-probabilities of shape 3 x 2", p.shape)
    expected = float(-(weights * p).sum())
    expect_close(output.metrics["loss:sum"], expected, within=LOSS_TOLERANCE, what="loss:sum")


@check(_GROUP)
def importance_sampling(target: Target) -> Figures:
    """Importance_sampling follows its formula."""
    return _check_loss(target, "importance_sampling", lambda p: -(np.exp(p - _Q) * _A).sum())


@check(_GROUP)
def ppo(target: Target) -> Figures:
    """Ppo follows its formula, with thresholds as bounds of the ratio."""

    def formula(p: np.ndarray) -> float:
        r = np.exp(p - _Q)
        return -np.minimum(r * _A, np.clip(r, 0.9, 1.1) * _A).sum()

    return _check_loss(target, "ppo", formula, clip_low_threshold=0.9, clip_high_threshold=1.1)


@check(_GROUP)
def cispo(target: Target) -> Figures:
    """Cispo follows its formula."""

    def formula(p: np.ndarray) -> float:
        return -(np.clip(np.exp(p - _Q), 0.5, 2.0) * p * _A).sum()

    return _check_loss(target, "cispo", formula, clip_low_threshold=0.5, clip_high_threshold=2.0)


@check(_GROUP)
def dro(target: Target) -> Figures:
    """Dro follows its formula."""
    return _check_loss(
        target, "dro", lambda p: -(p * _A - 0.5 * 0.1 * (p - _Q) ** 2).sum(), beta=0.1
    )


@check(_GROUP)
def accumulation(target: Target) -> Figures:
    """Two accumulated passes equal one joined pass."""
    parts, joined = target.create_model(), target.create_model()
    data = [datum(5), datum(4, first=30)]
    for entry in data:
        target.send_pass(parts, [entry])
    target.send_pass(joined, data)
    for model in (parts, joined):
        target.result(target.step(model))
    return _same(target, parts, joined, data)


@check(_GROUP)
def learning(target: Target) -> Figures:
    """Steps lower the loss."""
    model = target.create_model()
    losses = []
    for _ in range(4):
        losses.append(target.run_pass(model, [datum()]).metrics["loss:sum"])
        target.result(target.step(model))
    expect(losses[-1] < losses[0], "a loss below the first", losses)
    return {"first_loss": round(losses[0], 4), "last_loss": round(losses[-1], 4)}


@check(_GROUP)
def isolation(target: Target) -> None:
    """Two clients do not disturb each other."""
    one, other = target.create_model(), target.create_model()
    before = _score(target, one, [datum()])
    target.send_pass(other, [datum()])
    target.result(target.step(other))
    expect(bool((_score(target, one, [datum()]) == before).all()), "equal log-probabilities")


@check(_GROUP)
def saved_state(target: Target) -> Figures:
    """A state saved with its optimizer continues as if nothing had been."""
    model = target.create_model()
    target.send_pass(model, [datum()])
    target.result(target.step(model))
    path = target.save("/save_weights", model, path="conformance")["path"]
    expect(path == f"tinker://{model.model_id}/weights/conformance", "a path of three parts", path)
    twin = target.create_from(path, optimizer=True)
    for client in (model, twin):
        target.send_pass(client, [datum()])
        target.result(target.step(client))
    return _same(target, model, twin, [datum()])


def _score(target: Target, model: Model, data: list) -> np.ndarray:
    promise = target.send_pass(model, data, forward_only=True)
    return np.concatenate(logprobs(target.output(promise)))


def _same(target: Target, one: Model, other: Model, data: list) -> Figures:
    difference = float(abs(_score(target, one, data) - _score(target, other, data)).max())
    expect(difference <= SAME_TOLERANCE, f"a difference within {SAME_TOLERANCE:g}", difference)
    return {"largest_difference": float(f"{difference:.2e}")}
