"""The losses: values and gradients as functions of the targets' log-probabilities.

Pure tensor functions. They know no model and no request; ``engine/worker/trainer.py`` hands them the
log-probabilities of one micro-batch. ``types/losses.py`` says which inputs and settings each one takes.
Users add their own with ``register_loss_function``.

Axes: N positions that take part, in the order of the data; K alternative targets per position.
Names in the formulas: p the model's log-probability of the target, q ``logprobs`` (those of the policy
that sampled, or of the reference model), A ``advantages``, w ``weights``, r = exp(p - q), sg stop-gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eztinker.errors import AlreadyExistsError, InvalidRequestError, NotFoundError
from eztinker.types.losses import LOSSES

# Above this log-ratio exp() nears the end of float32; clipping losses would turn inf into nan there.
_MAX_LOG_RATIO = 80.0


@dataclass(frozen=True, slots=True)
class LossInputs:
    """What a loss may look at beside the log-probabilities.

    Attributes:
        weights: w, shape of the log-probabilities.
        lengths: positions of each datum; they add up to N.
        logprobs, advantages, sequence_ratio_mask: [N], where the loss takes them.
    """

    weights: Tensor
    lengths: Sequence[int]
    logprobs: Tensor | None = None
    advantages: Tensor | None = None
    sequence_ratio_mask: Tensor | None = None


Loss = Callable[[Tensor, LossInputs, Mapping[str, float]], Tensor]
"""``(p_N or p_NK, inputs, config) -> scalar``, the sum over positions and data."""


def cross_entropy(p: Tensor, inputs: LossInputs, config: Mapping[str, float]) -> Tensor:
    """−Σ w·p; with K targets per position that is the cross entropy against the weights of the K."""
    return -(inputs.weights * p).sum()


def focal_loss(p: Tensor, inputs: LossInputs, config: Mapping[str, float]) -> Tensor:
    """−Σ w·α·(1 − e^p)^γ·p (Lin et al. 2017, arXiv:1708.02002, eq. 5)."""
    # A sure target has distance 0, where the power's slope is infinite for γ < 1.
    distance = (-torch.expm1(p)).clamp_min(torch.finfo(p.dtype).tiny)
    modulated = config["focal_alpha"] * distance.pow(config["focal_gamma"]) * p
    return -(inputs.weights * modulated).sum()


def importance_sampling(p: Tensor, inputs: LossInputs, config: Mapping[str, float]) -> Tensor:
    """−Σ w·r·A, the policy gradient corrected for the sampling policy."""
    advantages = _given(inputs.advantages)
    return -(inputs.weights * _ratio(p, inputs) * advantages).sum()


def ppo(p: Tensor, inputs: LossInputs, config: Mapping[str, float]) -> Tensor:
    """−Σ w·min(r·A, clip(r, low, high)·A) (Schulman et al. 2017, arXiv:1707.06347, eq. 7).

    ``clip_low_threshold`` and ``clip_high_threshold`` bound r itself; they are not distances from 1.
    """
    return _clipped(_ratio(p, inputs), inputs, config)


def cispo(p: Tensor, inputs: LossInputs, config: Mapping[str, float]) -> Tensor:
    """−Σ w·sg(clip(r, low, high))·p·A (MiniMax-M1 2025, arXiv:2506.13585, eq. 4)."""
    low, high = config["clip_low_threshold"], config["clip_high_threshold"]
    bounded = _ratio(p, inputs).detach().clamp(low, high)
    return -(inputs.weights * bounded * p * _given(inputs.advantages)).sum()


def dro(p: Tensor, inputs: LossInputs, config: Mapping[str, float]) -> Tensor:
    """−Σ w·(p·A − ½·β·(p − q)²) (Richemond et al. 2024, arXiv:2405.19107).

    The quadratic term acts where A is 0 too; weight 0 takes a position out.
    """
    distance = p - _given(inputs.logprobs)
    value = p * _given(inputs.advantages) - 0.5 * config["beta"] * distance.square()
    return -(inputs.weights * value).sum()


def gspo(p: Tensor, inputs: LossInputs, config: Mapping[str, float]) -> Tensor:
    """−Σ w·min(s·A, clip(s, low, high)·A) (Zheng et al. 2025, arXiv:2507.18071, eq. 14, token form).

    s_t = sg(exp(mean of p − q over the datum's positions with ``sequence_ratio_mask`` ≠ 0))·e^(p − sg(p)):
    the value of the sequence's ratio, the gradient of the token's. A datum without such a position has
    ratio 1.
    """
    log_ratio = (p.detach() - _given(inputs.logprobs)).split(list(inputs.lengths))
    masks = (_given(inputs.sequence_ratio_mask) != 0).split(list(inputs.lengths))
    means = [
        torch.where(mask, ratio, 0).sum() / mask.sum().clamp_min(1)
        for ratio, mask in zip(log_ratio, masks, strict=True)
    ]
    sequence_log_ratio = torch.cat(
        [mean.expand(len(mask)) for mean, mask in zip(means, masks, strict=True)]
    )
    ratio = torch.exp(sequence_log_ratio.clamp_max(_MAX_LOG_RATIO) + (p - p.detach()))
    return _clipped(ratio, inputs, config)


def dpo(p: Tensor, inputs: LossInputs, config: Mapping[str, float]) -> Tensor:
    """−Σ log σ(β·(Δ_chosen − Δ_rejected)), Δ = Σ w·(p − q) over a datum (Rafailov et al. 2023,
    arXiv:2305.18290, eq. 7). Data come in pairs (chosen, rejected); the sum runs over pairs.
    """
    gain = inputs.weights * (p - _given(inputs.logprobs))
    per_datum = torch.stack([part.sum() for part in gain.split(list(inputs.lengths))])
    chosen, rejected = per_datum.view(-1, 2).unbind(1)
    return -torch.nn.functional.logsigmoid(config["beta"] * (chosen - rejected)).sum()


def _given(value: Tensor | None) -> Tensor:
    if value is None:
        raise InvalidRequestError("This loss needs an input that the data do not carry.")
    return value


def _ratio(p: Tensor, inputs: LossInputs) -> Tensor:
    """r where it counts, 1 where A or w is 0: the ratio there is arbitrary and may overflow."""
    counts = (_given(inputs.advantages) != 0) & (inputs.weights != 0)
    log_ratio = torch.where(counts, p - _given(inputs.logprobs), 0)
    return torch.exp(log_ratio.clamp_max(_MAX_LOG_RATIO))


def _clipped(ratio: Tensor, inputs: LossInputs, config: Mapping[str, float]) -> Tensor:
    advantages = _given(inputs.advantages)
    bounded = ratio.clamp(config["clip_low_threshold"], config["clip_high_threshold"])
    return -(inputs.weights * torch.minimum(ratio * advantages, bounded * advantages)).sum()


BUILT_IN: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "weighted_cross_entropy": cross_entropy,
    "focal_loss": focal_loss,
    "importance_sampling": importance_sampling,
    "ppo": ppo,
    "cispo": cispo,
    "dro": dro,
    "gspo": gspo,
    "dpo": dpo,
}


def resolve_config(name: str, config: Mapping[str, float | str]) -> dict[str, float]:
    """Settings of a built-in loss: its defaults, overridden by ``config``.

    Raises:
        InvalidRequestError: unknown setting, missing setting, or not a number.
    """
    defaults = LOSSES[name].config
    unknown = sorted(set(config) - set(defaults))
    if unknown:
        raise InvalidRequestError(
            f"Loss {name!r} has no setting {unknown[0]!r}. It takes: {', '.join(defaults) or 'none'}.",
            field="loss_fn_config",
        )
    merged = {**defaults, **config}
    return {key: _number(name, key, value) for key, value in merged.items()}


def _number(name: str, key: str, value: float | str | None) -> float:
    if isinstance(value, (int, float)) and value == value:
        return float(value)
    came = "nothing" if value is None else repr(value)
    raise InvalidRequestError(
        f"Loss {name!r}: setting {key!r} must be a number, got {came}.", field="loss_fn_config"
    )


# Losses on logits -----------------------------------------------------------------------------------

LossFunction = Callable[..., Tensor]
"""``(logits, labels, weights=None, **kwargs) -> Tensor``."""


@dataclass(slots=True)
class _Registry:
    functions: dict[str, LossFunction] = field(default_factory=dict)


_registered = _Registry()


def register_loss_function(name: str, fn: LossFunction) -> None:
    """Make ``loss_fn=name`` work in this process (in a worker: from a module named in ``plugins``).

    ``fn(logits, labels, weights=None, **kwargs)`` gets one datum at a time: logits [1, T, V] already
    aligned with labels [1, T] (no shift is left to do), −100 where a label does not count, weights
    [1, T], and the request's ``loss_fn_config`` as keywords. It returns either a scalar, the weighted
    mean over the labels that count (it is multiplied by Σ w of the datum before it is added up), or one
    value per position [1, T] with the weights already applied.

    Raises:
        AlreadyExistsError: a loss of that name exists.
        InvalidRequestError: ``fn`` cannot be called.
    """
    if name in BUILT_IN or name in _registered.functions:
        raise AlreadyExistsError(f"A loss function named {name!r} exists.", field="name")
    if not callable(fn):
        raise InvalidRequestError(f"fn must be callable, got {type(fn).__name__}.", field="fn")
    _registered.functions[name] = fn


def registered_loss_function(name: str) -> LossFunction | None:
    """The user's function of that name, or None; built-in names are not among them."""
    return _registered.functions.get(name)


def list_loss_functions() -> list[str]:
    """Every known name, sorted."""
    return sorted([*BUILT_IN, *_registered.functions])


def get_loss_function(name: str) -> LossFunction:
    """The function of that name in the signature ``(logits, labels, weights=None, **kwargs) -> Tensor``.

    A built-in one takes logits [..., V] aligned with labels [...] (label t is what position t predicts;
    −100 does not count), weights of the labels' shape, and as keywords its settings, its inputs
    (``logprobs``, ``advantages``, ``sequence_ratio_mask``) and ``reduction`` (``mean``: Σ w·loss / Σ w,
    the default; ``sum``). Each row of labels is one datum.

    Raises:
        NotFoundError: no loss has that name.
    """
    if name in _registered.functions:
        return _registered.functions[name]
    if name not in BUILT_IN:
        raise NotFoundError(
            f"No loss function {name!r}. Known: {', '.join(list_loss_functions())}.",
            field="loss_fn",
        )

    def on_logits(
        logits: Tensor, labels: Tensor, weights: Tensor | None = None, **kwargs: object
    ) -> Tensor:
        return _loss_on_logits(name, logits, labels, weights, dict(kwargs))

    on_logits.__name__ = name
    return on_logits


def _loss_on_logits(
    name: str,
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    kwargs: dict[str, object],
) -> Tensor:
    reduction = kwargs.pop("reduction", "mean")
    given = {key: kwargs.pop(key) for key in _INPUT_NAMES if key in kwargs}
    config = resolve_config(name, kwargs)  # type: ignore[arg-type]
    rows = labels.reshape(-1, labels.shape[-1])
    counts = (rows != -100).flatten()
    all_logprobs = torch.log_softmax(logits.float(), dim=-1).reshape(-1, logits.shape[-1])
    p = all_logprobs.gather(1, rows.clamp_min(0).flatten()[:, None])[:, 0]
    w = torch.ones_like(p) if weights is None else weights.to(p.dtype).flatten()
    w = torch.where(counts, w, 0)
    inputs = LossInputs(
        weights=w,
        lengths=[rows.shape[1]] * rows.shape[0],
        **{key: torch.as_tensor(value, dtype=p.dtype).flatten() for key, value in given.items()},
    )
    total = BUILT_IN[name](p, inputs, config)
    return total if reduction == "sum" else total / _normaliser(name, w, rows.shape[0])


def _normaliser(name: str, weights: Tensor, num_data: int) -> Tensor | float:
    return num_data / LOSSES[name].group_size if name == "dpo" else weights.sum()


_INPUT_NAMES = ("logprobs", "advantages", "sequence_ratio_mask")
