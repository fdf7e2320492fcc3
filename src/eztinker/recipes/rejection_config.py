"""Settings of rejection-sampling SFT, and what of them a found buffer must agree with.

Plain data. Made by the doors and the demo, read by ``rejection_sft.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eztinker.errors import InvalidRequestError
from eztinker.rl.candidates import DEFAULT_STOP, CandidateParams, Example

_SHAPING = (
    "num_candidates",
    "temperature",
    "max_new_tokens",
    "max_length",
    "seed",
    "learning_rate",
    "batch_size",
    "weight_decay",
    "grad_clip_norm",
    "train_on_incorrect",
    "evaluate_sampled",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
)
"""Settings that the buffer and the finished epochs depend on. More epochs may follow later: not in it."""


@dataclass(frozen=True)
class RejectionSFTConfig:
    """Everything a run can be told.

    Attributes:
        base_model: name of the base model, as the server knows it.
        max_samples: training examples, the first ones of the data set.
        num_candidates: answers sampled for each example, 1 and up.
        epochs: passes over the examples, 1 and up.
        learning_rate: of AdamW, constant.
        temperature: of the candidates.
        eval_size: held-out problems, the first ones of the evaluation set.
        checkpoint: save ``rejection_sft_epoch_<k>`` after each epoch.
        output_dir: folder of buffer, results and plot.
        reset_buffer: start afresh although the folder holds an unfinished run.
        seed: of candidates, adapter and batch order.
        lora_rank: rank of the adapter.
        lora_alpha: the adapter is scaled by alpha/rank; None takes twice the rank.
        lora_dropout: on the adapter's input while training.
        batch_size: answers per optimizer step.
        max_new_tokens: most tokens of an answer.
        max_length: most tokens of prompt and answer; longer prompts lose their beginning. None: no limit here.
        stop: texts that end an answer.
        weight_decay: of AdamW.
        grad_clip_norm: gradients are scaled down to this norm; None leaves them.
        train_on_incorrect: train on the best answer of every example, whatever its grade.
        evaluate_sampled: measure answers at temperature 1 as well, one to each held-out problem.
    """

    base_model: str = "Qwen/Qwen2-0.5B-Instruct"
    max_samples: int = 100
    num_candidates: int = 4
    epochs: int = 3
    learning_rate: float = 2e-4
    temperature: float = 0.8
    eval_size: int = 100
    checkpoint: bool = False
    output_dir: str | Path = "data"
    reset_buffer: bool = False
    seed: int = 0
    lora_rank: int = 1
    lora_alpha: float | None = None
    lora_dropout: float = 0.05
    batch_size: int = 8
    max_new_tokens: int = 256
    max_length: int | None = None
    stop: tuple[str, ...] = DEFAULT_STOP
    weight_decay: float = 0.0
    grad_clip_norm: float | None = 1.0
    train_on_incorrect: bool = False
    evaluate_sampled: bool = False

    def __post_init__(self) -> None:
        for name in ("max_samples", "num_candidates", "epochs", "eval_size", "batch_size"):
            if getattr(self, name) < 1:
                raise InvalidRequestError(
                    f"{name} must be at least 1, got {getattr(self, name)}.", field=name
                )

    @property
    def candidate_params(self) -> CandidateParams:
        """How candidates are sampled."""
        return CandidateParams(
            self.num_candidates, self.temperature, self.max_new_tokens, self.stop, self.max_length
        )

    def made_with(
        self, examples: Sequence[Example], eval_examples: Sequence[Example]
    ) -> dict[str, Any]:
        """What the buffer and the finished epochs depend on, in JSON types."""
        return {
            "base_model": self.base_model,
            "training_data": _fingerprint(examples),
            "held_out_data": _fingerprint(eval_examples),
            "stop": list(self.stop),
            **{name: getattr(self, name) for name in _SHAPING},
        }


def _fingerprint(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.question, example.prompt, example.ground_truth)).encode())
    return f"{len(examples)} examples, {digest.hexdigest()[:12]}"
