"""Admission: whether an operation may enter the log, decided from its own fields, a base model and limits.

Pure checks; each raises by field name before anything is written, so that a refused request leaves no
trace. It knows no runs, no files and no wire: names of runs and checkpoints are checked for shape only.
Passes and sampling have files of their own. Called by ``Jobs.submit`` and ``Runs.create``.
"""

from __future__ import annotations

from collections.abc import Collection

from eztinker.config import Limits
from eztinker.errors import InvalidRequestError
from eztinker.ids import check_reference
from eztinker.service.bounds import check_limit, check_metadata, check_number, check_seed
from eztinker.service.quantized_names import check_quantization
from eztinker.service.sampling_admission import check_evaluate, check_sample
from eztinker.service.training_admission import check_loss, check_pass
from eztinker.types.operations import (
    CreateRun,
    Evaluate,
    LoadCheckpoint,
    Operation,
    OptimStep,
    Sample,
    SaveCheckpoint,
    TrainingPass,
)
from eztinker.types.records import BaseModelRecord
from eztinker.types.training import AdamParams, LoRAConfig

__all__ = ["check", "check_adam", "check_lora", "check_loss"]


def check(
    operation: Operation,
    *,
    base: BaseModelRecord,
    limits: Limits,
    extra_losses: Collection[str] = (),
) -> None:
    """Refuse an operation that cannot succeed.

    Args:
        operation: what was asked.
        base: the base model it concerns.
        limits: bounds of this server.
        extra_losses: names registered by plugins; their inputs and settings are their own affair.

    Raises:
        InvalidRequestError: a wrong value, length or combination, with ``field``.
        TooLargeError: a limit was passed; names limit and setting.
        UnsupportedError: understood, but not implemented.
    """
    match operation:
        case CreateRun():
            check_lora(operation.lora, limits)
            check_seed(operation.seed, field="seed")
            check_quantization(operation.quantization)
        case TrainingPass():
            check_pass(operation, base, limits, extra_losses)
        case OptimStep():
            check_adam(operation.adam)
        case SaveCheckpoint():
            check_reference(operation.name, field="name")
            check_metadata(operation.user_metadata, field="user_metadata")
        case LoadCheckpoint():
            check_reference(operation.source_run_id, field="run_id")
            check_reference(operation.name, field="name")
        case Sample():
            check_quantization(base.quantization)
            check_sample(operation, base, limits)
        case Evaluate():
            check_evaluate(operation, base, limits)


def check_lora(lora: LoRAConfig, limits: Limits) -> None:
    """Rank, scaling, dropout and target modules of an adapter."""
    check_number(lora.r, "lora_config.r", "an integer of at least 1", lora.r >= 1)
    check_limit(
        lora.r, limits.max_rank, field="lora_config.r", setting="max_rank", what="is the rank"
    )
    check_number(lora.lora_alpha, "lora_config.lora_alpha", "a number above 0", lora.lora_alpha > 0)
    dropout = lora.lora_dropout
    check_number(
        dropout, "lora_config.lora_dropout", "a number from 0 to below 1", 0 <= dropout < 1
    )
    check_seed(lora.seed, field="lora_config.seed")
    _check_target_modules(lora.target_modules)


def _check_target_modules(modules: str | tuple[str, ...]) -> None:
    field = "lora_config.target_modules"
    if isinstance(modules, str) and modules != "all-linear":
        raise InvalidRequestError(
            f'{field}: expected "all-linear" or a list of module names, got {modules[:100]!r}. '
            "Put a single module into a list.",
            field=field,
        )
    if not modules or not all(modules):
        raise InvalidRequestError(
            f'{field}: expected at least one module name, none of them empty. Send "all-linear" to '
            "adapt every linear module.",
            field=field,
        )


def check_adam(adam: AdamParams) -> None:
    """Ranges of one AdamW step."""
    rate, decay, clip = adam.learning_rate, adam.weight_decay, adam.grad_clip_norm
    # A schedule may begin or end at 0; the native wire asks for more than that by itself.
    check_number(rate, "learning_rate", "a number of at least 0", rate >= 0)
    check_number(decay, "weight_decay", "a number of at least 0", decay >= 0)
    for index, beta in enumerate((adam.beta1, adam.beta2)):
        check_number(beta, f"betas[{index}]", "a number from 0 to below 1", 0 <= beta < 1)
    check_number(adam.eps, "eps", "a number above 0", adam.eps > 0)
    if clip is not None:
        check_number(clip, "grad_clip_norm", "a number above 0, or nothing", clip > 0)
