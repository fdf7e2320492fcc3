"""Stage 5, GRPO from the SFT adapter: groups of answers, rewarded for form and accuracy, with a price on leaving it.

The training is the recipe ``grpo`` in the experiment folder ``logs/grpo_train``, with its log beside it: the SFT policy is
where it begins and the reference of the KL divergence, and ``rollouts/`` keeps every answer with the parts of its reward.
The adapter comes home as ``ckpts/grpo_lora``. Called by ``scripts/5_train_grpo.py``, the recipe and the ablation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eztinker.dataset.finance import RLRow, read_records
from eztinker.grading.finance import grade_finance
from eztinker.grading.reasoning_form import read_form
from eztinker.recipes.catalogue import get_recipe
from eztinker.recipes.experiment.policy import ADAPTER_WEIGHTS
from eztinker.recipes.experiment.session import lora_of
from eztinker.recipes.experiment.settings import make_settings
from eztinker.recipes.finance.adapter_folder import begin, bring_home, finish, finished_figures
from eztinker.recipes.finance.asking import THINK, ask
from eztinker.recipes.finance.config import FinanceConfig
from eztinker.recipes.finance.held_models import training_settings
from eztinker.recipes.finance.judging import Judge, JudgeRequest, ModelJudge
from eztinker.recipes.finance.models import adapter_model
from eztinker.recipes.finance.reward import FinanceScorer, Marks, RewardWeights
from eztinker.recipes.finance.tracking import tracking_settings
from eztinker.recipes.question_data import Questions
from eztinker.recipes.terminal import Progress
from eztinker.rendering.finance import LARGEST_MARK
from eztinker.rl.candidates import Example
from eztinker.rl.training_run import find_run

NAME = "finance-grpo"
FILTER = "stage 3 (python scripts/3_filter_data.py)"


def folder_of(config: FinanceConfig) -> Path:
    """The experiment's folder; its log lies beside it as ``logs/grpo_train.log``."""
    return config.paths.logs / "grpo_train"


def run(
    config: FinanceConfig, client: Any, progress: Progress, *, judge: Judge | None = None
) -> dict[str, Any]:
    """Train, or continue; figures in JSON types.

    Args:
        judge: who marks answers; None takes the model of ``config.judge``, unless ``config.use_judge`` is false.

    Returns:
        ``adapter`` (the PEFT folder), ``steps``, ``reward_first``, ``reward_last``, ``kl_last`` (per token, kl_coef above
        0), ``run_id``, ``plot``.

    Raises:
        NotFoundError: stage 3 or 4 has not run; the message says which.
        InvalidRequestError: the adapter exists already (``code="output_exists"``).
    """
    rows = _rows(config)
    start = config.adapter("sft")
    folder = folder_of(config)
    is_afresh = begin(
        folder,
        config.paths.grpo_lora,
        [config.paths.rl_rows, start / ADAPTER_WEIGHTS],
        overwrite=config.overwrite,
    )
    checkpoint = import_start(client, start, config)
    settings = _settings(config, folder, client, progress, checkpoint, is_afresh=is_afresh)
    tokenizer = client.get_tokenizer(config.model.base_model)
    if not config.use_judge or not config.grpo.judge_share:
        judge = None
    elif judge is None:
        judge = ModelJudge(client, config.judge)
    trained = get_recipe("grpo").run(
        settings,
        client,
        progress,
        questions=questions_of(rows, tokenizer),
        make_scorer=lambda _session, _questions: scorer_of(config, judge),
    )
    bring_home(client, trained["checkpoint"], config.paths.grpo_lora)
    names = ("steps", "reward_first", "reward_last", "kl_last", "run_id", "plot")
    figures = {name: trained[name] for name in names if name in trained}
    figures = {"adapter": str(config.paths.grpo_lora), **figures}
    finish(folder, figures)
    return figures


def check(config: FinanceConfig) -> None:
    """Refuse to begin without rows, or without the adapter of stage 4."""
    _rows(config)
    config.adapter("sft")


def _rows(config: FinanceConfig) -> list[RLRow]:
    return read_records(config.paths.rl_rows, RLRow, made_by=FILTER)


def import_start(client: Any, adapter: Path, config: FinanceConfig) -> str:
    """The SFT adapter as ``RUN_ID@CHECKPOINT`` on the server; imported once for each content."""
    part = config.model
    run_id = adapter_model(client, str(adapter), part.base_model, part.quantization).policy.run_id
    (checkpoint,) = client.get_checkpoints(run_id)
    return f"{run_id}@{checkpoint['name']}"


def _settings(
    config: FinanceConfig,
    folder: Path,
    client: Any,
    progress: Progress,
    checkpoint: str,
    *,
    is_afresh: bool,
) -> Any:
    part, size = config.grpo, config.grpo.num_sample_generations
    lora = lora_of(find_run(client, checkpoint.rpartition("@")[0]))
    is_plain = (part.temperature, part.top_p) == (1.0, 1.0)
    values = {
        "model_name_or_path": config.model.base_model,
        "init_from": checkpoint,
        "output_dir": folder,
        "overwrite_output_dir": is_afresh,
        "dataset_name": "finance",
        "data_path": config.paths.rl_rows,
        "eval_size": 0,  # stage 6 measures
        # The adapter's own shape: the settings may have changed since stage 4.
        "lora_r": lora["r"],
        "lora_alpha": lora["lora_alpha"],
        "lora_target_modules": lora["target_modules"],
        "lora_dropout": config.lora.lora_dropout,
        "num_generations": size,
        "per_device_train_batch_size": size * part.prompts_per_step,
        "max_completion_length": part.max_new_tokens,
        "temperature": part.temperature,
        "top_p": part.top_p,
        "stop": [],
        "logprobs_from": "sampler" if is_plain else "trainer",
        "beta": part.kl_coef,
        **({"max_steps": part.max_steps} if part.max_steps else {"num_train_epochs": part.num_train_epochs}),
        **{name: getattr(part, name) for name in ("learning_rate", "lr_scheduler_type", "max_grad_norm",
                                                  "logging_steps", "save_steps", "seed")},
        **training_settings(config.model.quantization),
        **tracking_settings(config.wandb, progress),
    }  # fmt: skip
    return make_settings(get_recipe("grpo").config_class, values)


def questions_of(rows: Sequence[RLRow], tokenizer: Any) -> Questions:
    """The rows as questions in the model's chat template, asked as in stage 4; none is held out."""
    examples = [
        Example(index, row.prompt, ask(tokenizer, row.prompt).prompt, row.gold_answer)
        for index, row in enumerate(rows)
    ]
    return Questions(None, examples, None, [])


def scorer_of(config: FinanceConfig, judge: Judge | None) -> FinanceScorer:
    """What rewards answers: the rules, and with a judge its share of the accuracy."""
    part = config.grpo
    share = part.judge_share if judge else 0.0
    return FinanceScorer(
        RewardWeights(part.format_reward_weight, part.accuracy_reward_weight, share),
        is_formed=lambda text: read_form(text).is_complete,
        is_right=lambda example, text: (
            grade_finance(text, example.ground_truth, example.question).is_correct
        ),
        judge=marks_of(judge) if judge else None,
        whole=_whole,
    )


def marks_of(judge: Judge) -> Marks:
    """A judge's mean marks as 0 to 1; None for a verdict that cannot be read."""

    def marks(answers: Sequence[tuple[Example, str]]) -> list[float | None]:
        requests = [
            JudgeRequest(place, example.question, example.ground_truth, text)
            for place, (example, text) in enumerate(answers)
        ]
        scores = {verdict.index: verdict.score for verdict in judge.verdicts(requests)}
        shares = (scores.get(place) for place in range(len(requests)))
        return [None if score is None else score / LARGEST_MARK for score in shares]

    return marks


def _whole(example: Example, text: str) -> str:
    """The output with the think tag that its prompt may have opened."""
    return (THINK if example.prompt.rstrip().endswith(THINK) else "") + text


def figures_of(config: FinanceConfig) -> dict[str, Any]:
    """What this stage reported when it finished; empty when it did not run here."""
    return finished_figures(folder_of(config))
