"""The arms of the ablation: what each leaves out or changes, and how one that must be trained is.

A trained arm has a root of its own below ``ckpts/ablation``, with its data, adapters and logs; it is not trained again
unless what it was made from has changed, and an interrupted one continues. No test question is trained on in any arm.
Called by the ablation.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eztinker.dataset.finance import (
    DistilledRow,
    RLRow,
    SFTRow,
    as_jsonl,
    normalised_question,
    read_records,
)
from eztinker.errors import EZTinkerError, InvalidRequestError
from eztinker.recipes.experiment.policy import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from eztinker.recipes.finance import grpo, sft
from eztinker.recipes.finance.config import FinanceConfig
from eztinker.recipes.finance.filter import KEPT, rule_reasons
from eztinker.recipes.finance.judging import Judge
from eztinker.recipes.finance.outputs import digest_of
from eztinker.recipes.terminal import Progress
from eztinker.rl.durable import write_text

MADE_FROM_FILE = "made_from.json"
Kind = Literal["base", "sft", "grpo"]


@dataclass(frozen=True, slots=True)
class Arm:
    """One experiment of the ablation.

    Attributes:
        name: in table, plot and report.
        says: what it is, in words.
        kind: whose weights answer: the base model, an SFT adapter, a GRPO adapter.
        is_trained_here: the ablation trains it; else the pipeline has.
        is_unjudged: its SFT rows passed the rules alone.
        without_kl: there is no price on leaving the SFT policy.
        swaps_weights: the weights of form and accuracy change places.
    """

    name: str
    says: str
    kind: Kind = "grpo"
    is_trained_here: bool = False
    is_unjudged: bool = False
    without_kl: bool = False
    swaps_weights: bool = False


ARMS = (
    Arm("base", "the base model as it is", "base"),
    Arm("sft", "stage 4 alone", "sft"),
    Arm("sft_grpo", "stages 4 and 5, the whole pipeline", "grpo"),
    Arm(
        "no_judge_filter",
        "the whole pipeline on rows that passed the rules alone",
        is_trained_here=True,
        is_unjudged=True,
    ),
    Arm("no_kl", "stage 5 without a price on KL", is_trained_here=True, without_kl=True),
    Arm(
        "swapped_weights",
        "stage 5 with the weights of form and accuracy swapped",
        is_trained_here=True,
        swaps_weights=True,
    ),
)
NAMES = tuple(arm.name for arm in ARMS)


def chosen_arms(names: str | None) -> list[Arm]:
    """The arms of a text such as ``base,sft,sft_grpo``; None is all.

    Raises:
        InvalidRequestError: an unknown name.
    """
    wanted = list(NAMES) if names is None else [name.strip() for name in names.split(",")]
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        raise InvalidRequestError(
            f"arms: expected names of {', '.join(NAMES)}, got {unknown[0]!r}.", field="arms"
        )
    return [arm for arm in ARMS if arm.name in wanted]


def config_of(config: FinanceConfig, arm: Arm) -> FinanceConfig:
    """The settings of an arm; a trained one has its own root."""
    if not arm.is_trained_here:
        return config
    root = config.output_dir / "ablation" / arm.name
    part, changes = config.grpo, {}
    if arm.without_kl:
        changes["kl_coef"] = 0.0
    if arm.swaps_weights:
        changes["format_reward_weight"] = part.accuracy_reward_weight
        changes["accuracy_reward_weight"] = part.format_reward_weight
    return config.model_copy(update={"root": root, "overwrite": False}).with_parts(grpo=changes)


def train_arm(
    config: FinanceConfig, arm: Arm, client: Any, progress: Progress, judge: Judge | None
) -> None:
    """Train an arm, or continue; what is finished is not trained again.

    Args:
        config: of the pipeline.
        judge: as in stage 5.

    Raises:
        NotFoundError: what it is made from is missing; the message says which stage to run.
    """
    own = config_of(config, arm)
    _make_inputs(config, own, arm)
    if arm.is_unjudged:
        _unless_finished(lambda: sft.run(own, client, progress))
    _unless_finished(lambda: grpo.run(own, client, progress, judge=judge))


def _unless_finished(work: Callable[[], Any]) -> None:
    try:
        work()
    except EZTinkerError as error:
        if error.code != "output_exists":
            raise


def _make_inputs(config: FinanceConfig, own: FinanceConfig, arm: Arm) -> None:
    """The arm's data and, unless it trains its own, its SFT adapter; an arm made from others begins afresh."""
    made_from = _made_from(config, own, arm)
    note = own.root / MADE_FROM_FILE
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) == made_from:
        return
    shutil.rmtree(own.root, ignore_errors=True)
    if arm.is_unjudged:
        _write_unjudged(config, own)
    else:
        shutil.copytree(config.adapter("sft"), own.paths.sft_lora)
        write_text(own.paths.rl_rows, config.paths.rl_rows.read_text(encoding="utf-8"))
    write_text(note, json.dumps(made_from, indent=1) + "\n")


def _made_from(config: FinanceConfig, own: FinanceConfig, arm: Arm) -> dict[str, Any]:
    """Digests of the inputs and of the settings."""
    inputs = [config.paths.distilled, config.paths.test_rows]
    if not arm.is_unjudged:
        folder = config.adapter("sft")
        inputs = [config.paths.rl_rows, folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS]
    settings = own.model_dump_json(exclude={"root", "overwrite", "evaluation", "deploy", "stages"})  # type: ignore[arg-type]
    return {
        "settings": hashlib.sha256(settings.encode()).hexdigest()[:16],
        **{path.name: digest_of(path) for path in inputs},
    }


def _write_unjudged(config: FinanceConfig, own: FinanceConfig) -> None:
    """Rows that pass the rules, whatever the judge said, without those of the test set."""
    rows = read_records(
        config.paths.distilled,
        DistilledRow,
        made_by="stage 2 (python scripts/2_distill_data.py)",
    )
    held_out = held_out_questions(config.paths.test_rows)
    kept = [
        row
        for row, reason in zip(rows, rule_reasons(rows, config.filter), strict=True)
        if reason == KEPT and normalised_question(row.question) not in held_out
    ]
    responses = [SFTRow(row.id, row.question, row.teacher_output, row.type) for row in kept]
    asked = [RLRow(row.id, row.question, row.gold_answer, row.type) for row in kept]
    write_text(own.paths.sft_rows, as_jsonl(responses))
    write_text(own.paths.rl_rows, as_jsonl(asked))


def held_out_questions(path: Path) -> set[str]:
    """The questions of the test set, normalised."""
    rows = read_records(path, RLRow, made_by="stage 3 (python scripts/3_filter_data.py)")
    return {normalised_question(row.prompt) for row in rows}
