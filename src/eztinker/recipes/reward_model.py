"""Reward model: a run that scores answers, trained on pairs so that the chosen reply scores higher.

The score is the log-probability of one token after the answer, and the loss −log σ(r_chosen − r_rejected) of Bradley
and Terry; ``rl/reward_token.py`` says why that needs nothing of the service but its ``dpo`` loss. The result is an
ordinary checkpoint, used by GRPO (``reward=reward_model``), by RLHF and as a scorer of rejection sampling.
"""

from __future__ import annotations

import statistics
from typing import Any

from pydantic import Field

from eztinker.dataset.preference import PreferencePair
from eztinker.dataset.supervision import reply_tokens
from eztinker.recipes.experiment.loop import FINAL_CHECKPOINT, train
from eztinker.recipes.experiment.order import batch_of_step
from eztinker.recipes.experiment.plan import SHOWN_EXAMPLES, Plan, length_facts
from eztinker.recipes.experiment.session import Session, open_session
from eztinker.recipes.plots import curve, plot_panels
from eztinker.recipes.preference_data import PairConfig, read_pairs, usable
from eztinker.recipes.terminal import Progress, SilentProgress
from eztinker.rl.evaluation import wilson_interval
from eztinker.rl.reward_token import reward_datum, reward_scores, reward_token_id
from eztinker.rl.training import TrainedStep

NAME = "reward_model"


class RewardModelConfig(PairConfig):
    """Settings of reward modelling."""

    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate of AdamW.")
    reward_token: str | None = Field(
        None, description="Token whose log-probability is the score; default Yes or the like."
    )


Config = RewardModelConfig
PairTokens = tuple[list[int], list[int]]


def run(config: RewardModelConfig, client: Any, progress: Progress | None = None) -> dict[str, Any]:
    """Train, or continue; figures in JSON types.

    Returns:
        ``run_id``, ``checkpoint``, ``reward_token`` (id), ``steps``, ``train_pairs``, ``eval_accuracy_before``,
        ``eval_accuracy`` (held-out pairs in the right order) with ``eval_accuracy_ci95``, ``eval_margin``, ``plot``.
    """
    progress = progress or SilentProgress()
    pairs = read_pairs(config, progress)
    with open_session(NAME, config, client, progress) as session:
        token = reward_token_id(session.tokenizer, config.reward_token)
        train_pairs, _ = usable(
            pairs.train, lambda pair: pair_tokens(session.tokenizer, pair, config)
        )
        held_out, _ = usable(
            pairs.held_out, lambda pair: pair_tokens(session.tokenizer, pair, config)
        )

        def batch(step: int) -> list[dict[str, Any]]:
            chosen = batch_of_step(len(train_pairs), config.batch_size, step, config.seed)
            return [reward_datum(tokens, token) for i in chosen for tokens in train_pairs[i]]

        def evaluate(step: int) -> bool:
            _evaluate(session, held_out, token, step)
            return False

        if session.step == 0:
            evaluate(0)
        train(
            session,
            config.num_steps(len(train_pairs)),
            batch,
            loss_fn="dpo",
            loss_fn_config={"beta": 1.0},
            figures_of=_step_figures,
            between=evaluate,
            every=config.eval_steps,
        )
        return _figures(session, len(train_pairs), token)


def pair_tokens(tokenizer: Any, pair: PreferencePair, config: RewardModelConfig) -> PairTokens:
    """Both replies behind their prompt, as token ids with room for the reward token."""
    chosen, rejected = (
        reply_tokens(tokenizer, pair.prompt, reply, max_length=config.max_length - 1)
        for reply in (pair.chosen, pair.rejected)
    )
    return chosen, rejected


def _step_figures(done: TrainedStep) -> dict[str, float]:
    scores = [row[-1] or 0.0 for row in done.logprobs]
    margins = [c - r for c, r in zip(scores[::2], scores[1::2], strict=True)]
    return {
        "accuracy": statistics.fmean(margin > 0 for margin in margins),
        "margin": statistics.fmean(margins),
    }


def _evaluate(session: Session, held_out: list[PairTokens], token: int, step: int) -> None:
    if session.experiment.has("eval", step):
        return
    sequences = [tokens for pair in held_out for tokens in pair]
    scores = reward_scores(session.client, session.run_id, sequences, token)
    margins = [c - r for c, r in zip(scores[::2], scores[1::2], strict=True)]
    num_right = sum(margin > 0 for margin in margins)
    session.experiment.log(
        "eval",
        step,
        accuracy=num_right / len(margins),
        ci95=list(wilson_interval(num_right, len(margins))),
        margin=statistics.fmean(margins),
        score_chosen=statistics.fmean(scores[::2]),
        score_rejected=statistics.fmean(scores[1::2]),
    )


def _figures(session: Session, num_pairs: int, token: int) -> dict[str, Any]:
    experiment = session.experiment
    steps, evaluations = experiment.metrics("train"), experiment.metrics("eval")
    panels = {
        "Pairs in the right order": {
            "train": curve(steps, "accuracy"),
            "held out": curve(evaluations, "accuracy"),
        },
        "Score": {
            "chosen": curve(evaluations, "score_chosen"),
            "rejected": curve(evaluations, "score_rejected"),
        },
        "Loss": {"": curve(steps, "loss")},
    }
    title = f"Reward model on {session.config.model_name_or_path}"
    return {
        "run_id": session.run_id,
        "checkpoint": f"{session.run_id}@{FINAL_CHECKPOINT}",
        "reward_token": token,
        "steps": session.step,
        "train_pairs": num_pairs,
        "eval_accuracy_before": evaluations[0]["accuracy"],
        "eval_accuracy": evaluations[-1]["accuracy"],
        "eval_accuracy_ci95": evaluations[-1]["ci95"],
        "eval_margin": evaluations[-1]["margin"],
        "plot": str(plot_panels(experiment.folder / "reward_model.png", panels, title=title)),
    }


def plan(config: RewardModelConfig, client: Any) -> Plan:
    """What ``run`` would do."""
    tokenizer = client.get_tokenizer(config.model_name_or_path)
    pairs = read_pairs(config, SilentProgress())
    data, refused = usable(pairs.train, lambda pair: pair_tokens(tokenizer, pair, config))
    facts = {
        "model": config.model_name_or_path,
        "reward_token": tokenizer.decode([reward_token_id(tokenizer, config.reward_token)]),
        "train_pairs": len(data),
        "held_out_pairs": len(pairs.held_out),
        "pairs_refused_by_template": refused,
        "steps": config.num_steps(len(data)),
        "pairs_per_step": config.batch_size,
        **length_facts([len(tokens) for pair in data for tokens in pair]),
    }
    shown = [
        f"chosen: {tokenizer.decode(c)}\nrejected: {tokenizer.decode(r)}"
        for c, r in data[:SHOWN_EXAMPLES]
    ]
    return Plan(NAME, facts, shown, pairs.notes, config.resolved())
