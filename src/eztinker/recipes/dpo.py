"""DPO: learn from pairs of replies directly, −log σ(β·(Δ_chosen − Δ_rejected)) with Δ = log π(y|x) − log π_ref(y|x).

Rafailov et al. 2023, arXiv:2305.18290, eq. 7: the service's ``dpo`` loss. The reference's log-probabilities do not
change, so they are computed once, by a run that is never stepped, and kept in the experiment's folder.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from eztinker.dataset.inspection import render_masked
from eztinker.dataset.preference import PreferencePair
from eztinker.dataset.supervision import reply_example
from eztinker.recipes.experiment.loop import FINAL_CHECKPOINT, train
from eztinker.recipes.experiment.order import batch_of_step
from eztinker.recipes.experiment.plan import SHOWN_EXAMPLES, Plan, length_facts
from eztinker.recipes.experiment.session import Session, frozen_run, lora_of, open_session
from eztinker.recipes.plots import curve, plot_panels
from eztinker.recipes.preference_data import PairConfig, read_pairs, usable
from eztinker.recipes.terminal import Progress, SilentProgress, pick
from eztinker.rl.candidates import JOB_TIMEOUT_S
from eztinker.rl.durable import write_text
from eztinker.rl.scoring import label_logprobs
from eztinker.rl.training import IGNORED_LABEL, TrainedStep, in_batches
from eztinker.rl.training_run import find_run

NAME = "dpo"
REFERENCE_FILE = "reference.jsonl"
EVALUATION_PAIRS = 32

PairData = tuple[dict[str, list[Any]], dict[str, list[Any]]]
"""The chosen datum and the rejected one, with the reference's log-probabilities."""


class DPOConfig(PairConfig):
    """Settings of DPO."""

    learning_rate: float = Field(5e-5, gt=0, description="Peak learning rate of AdamW.")
    beta: float = Field(0.1, gt=0, description="How closely the reference is kept to.")
    ref_model: str | None = Field(
        None, description="Reference RUN_ID@CHECKPOINT; default the weights at the start."
    )


Config = DPOConfig


def run(config: DPOConfig, client: Any, progress: Progress | None = None) -> dict[str, Any]:
    """Train, or continue; figures in JSON types.

    Returns:
        ``run_id``, ``checkpoint``, ``steps``, ``train_pairs``, ``eval_accuracy`` (held-out pairs whose chosen reply
        gained more than the rejected one), ``eval_margin``, ``eval_loss_before``, ``eval_loss``, ``plot``.
    """
    progress = progress or SilentProgress()
    pairs = read_pairs(config, progress)
    with open_session(NAME, config, client, progress) as session:
        data, refused = usable(pairs.train, lambda pair: pair_data(session.tokenizer, pair, config))
        held_out, more = usable(
            pairs.held_out, lambda pair: pair_data(session.tokenizer, pair, config)
        )
        if refused + more:
            session.progress.say(
                f"{refused + more} pairs left out: the chat template refused them."
            )
        data, held_out = _with_reference(session, config, data, held_out)
        num_steps = config.num_steps(len(data))

        def batch(step: int) -> list[dict[str, Any]]:
            chosen = batch_of_step(len(data), config.batch_size, step, config.seed)
            return [side for i in chosen for side in data[i]]

        def evaluate(step: int) -> bool:
            _evaluate(session, held_out, config.beta, step)
            return False

        if session.step == 0:
            evaluate(0)
        train(
            session,
            num_steps,
            batch,
            loss_fn="dpo",
            loss_fn_config={"beta": config.beta},
            figures_of=lambda done: _step_figures(done, config.beta),
            between=evaluate,
            every=config.eval_steps,
        )
        return _figures(session, len(data))


def pair_data(tokenizer: Any, pair: PreferencePair, config: PairConfig) -> PairData:
    """Both replies as data, without reference yet."""
    chosen, rejected = (
        reply_example(tokenizer, pair.prompt, reply, max_length=config.max_length).as_dict()
        for reply in (pair.chosen, pair.rejected)
    )
    return chosen, rejected


def _with_reference(
    session: Session, config: DPOConfig, data: list[PairData], held_out: list[PairData]
) -> tuple[list[PairData], list[PairData]]:
    """The pairs with the reference's log-probabilities: from the folder, else computed and kept there."""
    sides = [side for pair in [*data, *held_out] for side in pair]
    path = session.experiment.folder / REFERENCE_FILE
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        reference = _reference(session, config)
        session.progress.say(
            pick("Computing the reference's log-probabilities", "计算参考模型的对数概率")
        )
        rows = label_logprobs(session.client, reference, sides)
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    whole = [
        {**side, "logprobs": _aligned(row, side["target_ids"])}
        for side, row in zip(sides, rows, strict=True)
    ]
    pairs = list(zip(whole[::2], whole[1::2], strict=True))
    return pairs[: len(data)], pairs[len(data) :]


def _aligned(logprobs: Sequence[float], labels: Sequence[int]) -> list[float]:
    """One value per label; 0 where the label does not count."""
    values = iter(logprobs)
    return [
        next(values) if place and label != IGNORED_LABEL else 0.0
        for place, label in enumerate(labels)
    ]


def _reference(session: Session, config: DPOConfig) -> str:
    checkpoint = config.ref_model or config.init_from
    lora = {}
    if checkpoint is not None:
        lora = lora_of(find_run(session.client, checkpoint.rpartition("@")[0]))
    return frozen_run(
        session,
        "reference",
        config.model_name_or_path,
        checkpoint,
        quantization=config.run_arguments["quantization"],
        **lora,
    )


def pair_margins(
    logprobs: Sequence[Sequence[float | None]], sides: Sequence[dict[str, Any]], beta: float
) -> list[float]:
    """β·(Δ_chosen − Δ_rejected) of every pair.

    Args:
        logprobs: the policy's, per datum and label.
        sides: chosen and rejected in turn, with the reference's ``logprobs``.
    """
    gains = [
        sum(
            p - q
            for p, q, label in zip(row, side["logprobs"], side["target_ids"], strict=True)
            if p is not None and label != IGNORED_LABEL
        )
        for row, side in zip(logprobs, sides, strict=True)
    ]
    return [beta * (c - r) for c, r in zip(gains[::2], gains[1::2], strict=True)]


def margin_figures(margins: Sequence[float]) -> dict[str, float]:
    """Share of pairs in the right order, mean margin, and the loss that they have."""
    losses = [math.log1p(math.exp(-abs(m))) + max(0.0, -m) for m in margins]
    return {
        "accuracy": statistics.fmean(margin > 0 for margin in margins),
        "margin": statistics.fmean(margins),
        "pair_loss": statistics.fmean(losses),
    }


def _step_figures(done: TrainedStep, beta: float) -> dict[str, float]:
    return margin_figures(pair_margins(done.logprobs, done.info, beta))


def _evaluate(session: Session, held_out: list[PairData], beta: float, step: int) -> None:
    if session.experiment.has("eval", step):
        return
    parts = in_batches(held_out, EVALUATION_PAIRS)
    handles = [
        session.client.submit_forward(
            session.run_id,
            data=[side for pair in part for side in pair],
            loss_fn="dpo",
            loss_fn_config={"beta": beta, "reduction": "sum"},
        )
        for part in parts
    ]
    label, margins = pick("evaluation", "评估"), []
    for part, handle in session.progress.track(label, zip(parts, handles, strict=True), len(parts)):
        sides = [side for pair in part for side in pair]
        margins += pair_margins(handle.result(JOB_TIMEOUT_S)["logprobs"], sides, beta)
    figures = margin_figures(margins)
    session.experiment.log("eval", step, loss=figures.pop("pair_loss"), **figures)


def _figures(session: Session, num_pairs: int) -> dict[str, Any]:
    experiment = session.experiment
    steps, evaluations = experiment.metrics("train"), experiment.metrics("eval")
    both = {"Preference accuracy": "accuracy", "Margin": "margin", "Loss": "loss"}
    panels = {
        title: {"train": curve(steps, key), "held out": curve(evaluations, key)}
        for title, key in both.items()
    }
    title = f"DPO of {session.config.model_name_or_path}"
    return {
        "run_id": session.run_id,
        "checkpoint": f"{session.run_id}@{FINAL_CHECKPOINT}",
        "steps": session.step,
        "train_pairs": num_pairs,
        "eval_loss_before": evaluations[0]["loss"],
        "eval_loss": evaluations[-1]["loss"],
        "eval_accuracy": evaluations[-1]["accuracy"],
        "eval_margin": evaluations[-1]["margin"],
        "plot": str(plot_panels(experiment.folder / "dpo.png", panels, title=title)),
    }


def plan(config: DPOConfig, client: Any) -> Plan:
    """What ``run`` would do."""
    tokenizer = client.get_tokenizer(config.model_name_or_path)
    pairs = read_pairs(config, SilentProgress())
    data, refused = usable(pairs.train, lambda pair: pair_data(tokenizer, pair, config))
    num_steps = config.num_steps(len(data))
    facts = {
        "model": config.model_name_or_path,
        "train_pairs": len(data),
        "held_out_pairs": len(pairs.held_out),
        "pairs_refused_by_template": refused,
        "steps": num_steps,
        "pairs_per_step": config.batch_size,
        **length_facts([len(side["input_ids"]) for pair in data for side in pair]),
    }
    first = batch_of_step(len(data), config.batch_size, 0, config.seed)[:SHOWN_EXAMPLES]
    shown = [
        f"chosen: {render_masked(tokenizer, data[i][0])}\nrejected: {render_masked(tokenizer, data[i][1])}"
        for i in first
    ]
    return Plan(NAME, facts, shown, pairs.notes, config.resolved())
