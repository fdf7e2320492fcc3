"""What training is about: a datum, an adapter, a loss, an optimizer step.

Knows nothing of wires, files or tensors on a device. Made by ``api/convert.py``, executed by
``engine/worker``.

Axes: T positions of one sequence, K alternative targets per position.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Reduction = Literal["sum", "mean"]
Quantization = Literal["none", "nf4", "int8"]


def resident_key(base_model: str, quantization: Quantization) -> str:
    """What a base model is called among those in memory: each quantization is a copy of its own."""
    return base_model if quantization == "none" else f"{base_model}\n{quantization}"


MISSING_QLORA = (
    "quantization: bitsandbytes is not installed where the server runs. Install it there with: "
    'pip install "eztinker[qlora]", or leave quantization out.'
)


@dataclass(frozen=True, slots=True, eq=False)
class Datum:
    """One training example, aligned: position t of ``tokens_T`` predicts target t.

    Attributes:
        tokens_T: int32 token ids the model reads, shape [T].
        loss_fn_inputs: per-position inputs of the loss, each of length T. ``target_tokens`` int64
            [T] or [T, K]; ``weights`` float32 of the same shape (absent: all ones);
            ``logprobs``, ``advantages``, ``sequence_ratio_mask`` float32 [T].
    """

    tokens_T: np.ndarray
    loss_fn_inputs: dict[str, np.ndarray]

    @property
    def num_tokens(self) -> int:
        """Length of the sequence, T."""
        return int(self.tokens_T.shape[0])


@dataclass(frozen=True, slots=True)
class LossSpec:
    """Which loss, its settings, and what the pass reports.

    Attributes:
        name: a loss of ``ops/losses.py`` or a registered one.
        config: the loss's own settings; unknown keys are refused.
        reduction: ``sum`` reports and differentiates Σ w·loss (the Tinker protocol); ``mean``
            divides by Σ w over the whole request (the native API).
    """

    name: str = "cross_entropy"
    config: dict[str, float | str] = field(default_factory=dict)
    reduction: Reduction = "mean"


@dataclass(frozen=True, slots=True)
class LoRAConfig:
    """The adapter of a run (Hu et al. 2021, arXiv:2106.09685), in PEFT's words.

    Attributes:
        r: rank, at least 1.
        lora_alpha: scaling numerator; the update is scaled by alpha/r, or alpha/sqrt(r) with
            ``use_rslora`` (Kalajdzievski 2023, arXiv:2312.03732).
        lora_dropout: probability in [0, 1) on the adapter's input while training.
        target_modules: ``all-linear`` (every linear module but the vocabulary head) or module names
            as PEFT matches them (the last part of the path, or a suffix of it).
        train_attn, train_mlp, train_unembed: narrow or widen ``all-linear`` by part of the model;
            they have no effect on an explicit list.
        seed: of the initial weights; None lets the server choose and remember one.
    """

    r: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.05
    target_modules: str | tuple[str, ...] = "all-linear"
    use_rslora: bool = False
    train_attn: bool = True
    train_mlp: bool = True
    train_unembed: bool = False
    seed: int | None = None

    @property
    def scaling(self) -> float:
        """Factor on B·A·x."""
        return self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r)


@dataclass(frozen=True, slots=True)
class AdamParams:
    """One AdamW step (Loshchilov & Hutter 2017, arXiv:1711.05101).

    Attributes:
        learning_rate: at least 0; 0 changes nothing but the moments.
        weight_decay: decoupled, at least 0.
        beta1, beta2: in [0, 1).
        eps: greater than 0.
        grad_clip_norm: bound on the global L2 norm of the run's gradient; None leaves it alone.
    """

    learning_rate: float = 2e-4
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    grad_clip_norm: float | None = None
