"""Supervised fine-tuning: maximum likelihood of given answers, −Σ log p(y_t | x, y_<t) over the answers' tokens.

Reads records of any known format, trains on the assistant's turns in batches that the server packs, measures the
loss on held-out examples, and stops early when it no longer falls. What all recipes share is in ``experiment/``.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from eztinker.recipes.experiment.loop import train
from eztinker.recipes.experiment.order import batch_of_step
from eztinker.recipes.experiment.plan import SHOWN_EXAMPLES, Plan
from eztinker.recipes.experiment.session import Session, open_session
from eztinker.recipes.plots import curve, plot_panels
from eztinker.recipes.supervised_data import Datum, SupervisedConfig, read_supervised
from eztinker.recipes.terminal import Progress, SilentProgress, pick
from eztinker.rl.candidates import JOB_TIMEOUT_S
from eztinker.rl.training import in_batches

NAME = "sft"
BEST_CHECKPOINT = "best"
EVALUATION_BATCH = 64


class SFTConfig(SupervisedConfig):
    """Settings of supervised fine-tuning."""

    eval_steps: int | None = Field(
        None, ge=1, description="Steps between evaluations; always one before and one after."
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, description="Evaluations without improvement after which training ends."
    )
    early_stopping_threshold: float = Field(
        0.0, ge=0, description="Fall of the held-out loss that counts as improvement."
    )
    load_best_model_at_end: bool = Field(
        False, description="End with the weights of the best evaluation."
    )

    def check_effect(self) -> None:
        """What evaluates needs evaluations."""
        super().check_effect()
        for key in ("early_stopping_patience", "load_best_model_at_end"):
            if self.is_given(key) and getattr(self, key) and self.eval_steps is None:
                self.refuse(key, f"{key} needs eval_steps.")
        patient = self.early_stopping_patience is not None
        self.needs("early_stopping_threshold", patient, "without early_stopping_patience")


Config = SFTConfig


def run(config: SFTConfig, client: Any, progress: Progress | None = None) -> dict[str, Any]:
    """Train, or continue; figures in JSON types.

    Returns:
        ``run_id``, ``checkpoint`` (as ``init_from`` takes it), ``steps``, ``eval_loss_before``, ``eval_loss``,
        ``eval_perplexity``, ``train_examples``, ``plot``.
    """
    progress = progress or SilentProgress()
    # Before there is a run: data that cannot be used leave nothing behind.
    data = read_supervised(config, client.get_tokenizer(config.model_name_or_path), progress)
    with open_session(NAME, config, client, progress) as session:
        num_steps = config.num_steps(len(data.train))

        def batch(step: int) -> list[Datum]:
            chosen = batch_of_step(len(data.train), config.batch_size, step, config.seed)
            return [data.train[i] for i in chosen]

        def evaluate(step: int) -> bool:
            evaluate_held_out(session, data.held_out, step)
            return is_stalled(session, config)

        if not session.experiment.state.get("is_done"):
            evaluate(0) if session.step == 0 else None
            train(session, num_steps, batch, between=evaluate, every=config.eval_steps)
            if config.load_best_model_at_end:
                client.load_checkpoint(session.run_id, BEST_CHECKPOINT)
                session.save_checkpoint("final")
            session.experiment.save_state(is_done=True)
        return _figures(session, len(data.train))


def evaluate_held_out(session: Session, held_out: list[Datum], step: int) -> None:
    """Mean loss per answer token on held-out data, once for each step; the best weights are kept."""
    experiment, config = session.experiment, session.config
    if experiment.has("eval", step):
        return
    best = min((line["loss"] for line in experiment.metrics("eval")), default=math.inf)
    loss, num_tokens = held_out_loss(session, held_out)
    if getattr(config, "load_best_model_at_end", False) and loss < best:
        session.save_checkpoint(BEST_CHECKPOINT)
    experiment.log(
        "eval", step, loss=loss, perplexity=math.exp(min(loss, 50)), num_tokens=num_tokens
    )


def held_out_loss(session: Session, held_out: list[Datum]) -> tuple[float, int]:
    """Mean loss over all counting labels of the data, and how many there are."""
    handles = [
        session.client.submit_forward(session.run_id, data=list(part), loss_fn="cross_entropy")
        for part in in_batches(held_out, EVALUATION_BATCH)
    ]
    label = pick("evaluation", "评估")
    results = [
        handle.result(JOB_TIMEOUT_S)
        for handle in session.progress.track(label, handles, len(handles))
    ]
    num_tokens = sum(result["num_tokens"] for result in results)
    return sum(result["loss"] * result["num_tokens"] for result in results) / num_tokens, num_tokens


def is_stalled(session: Session, config: SFTConfig) -> bool:
    """Whether the last ``early_stopping_patience`` evaluations brought no improvement; read from the figures."""
    patience = config.early_stopping_patience
    if patience is None:
        return False
    best, since = math.inf, 0
    for line in session.experiment.metrics("eval"):
        improved = line["loss"] < best - config.early_stopping_threshold
        best, since = (line["loss"], 0) if improved else (best, since + 1)
    if since >= patience:
        session.progress.say(
            pick(
                f"No improvement in {since} evaluations: stopping.",
                f"{since} 次评估没有改善，停止训练。",
            )
        )
    return since >= patience


def _figures(session: Session, num_examples: int) -> dict[str, Any]:
    experiment = session.experiment
    evaluations = experiment.metrics("eval")
    plot = plot_panels(
        experiment.folder / "sft.png",
        {
            "Loss per answer token": {
                "train": curve(experiment.metrics("train"), "loss"),
                "held out": curve(evaluations, "loss"),
            },
            "Learning rate": {"": curve(experiment.metrics("train"), "learning_rate")},
        },
        title=f"SFT of {session.config.model_name_or_path}",
    )
    best = min(line["loss"] for line in evaluations)
    loss = (
        best
        if getattr(session.config, "load_best_model_at_end", False)
        else evaluations[-1]["loss"]
    )
    return {
        "run_id": session.run_id,
        "checkpoint": f"{session.run_id}@final",
        "steps": max((line["step"] for line in experiment.metrics("train")), default=session.step),
        "train_examples": num_examples,
        "eval_loss_before": evaluations[0]["loss"],
        "eval_loss": loss,
        "eval_perplexity": math.exp(min(loss, 50)),
        "plot": str(plot),
    }


def plan(config: SFTConfig, client: Any) -> Plan:
    """What ``run`` would do: data, steps, learning rates, the first batch with its loss mask."""
    tokenizer = client.get_tokenizer(config.model_name_or_path)
    data = read_supervised(config, tokenizer, SilentProgress())
    num_steps = config.num_steps(len(data.train))
    schedule = config.schedule(num_steps)
    first = batch_of_step(len(data.train), config.batch_size, 0, config.seed)
    facts = {
        "model": config.model_name_or_path,
        "steps": num_steps,
        "examples_per_step": config.batch_size,
        **data.facts(),
        "learning_rate_first_peak_last": [
            schedule.rate(0),
            schedule.peak,
            schedule.rate(num_steps - 1),
        ],
    }
    return Plan(
        NAME, facts, data.rendered(tokenizer, first[:SHOWN_EXAMPLES]), data.notes, config.resolved()
    )
