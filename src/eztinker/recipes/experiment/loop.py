"""The training loop: steps sent ahead, figures logged, something done between stretches of steps.

Knows the schedule, the order of steps and where checkpoints are due; the data of a step come from the recipe.
Called by recipes whose data do not depend on the weights (SFT, DPO, reward model, off-policy distillation);
recipes that sample call ``take_step`` themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eztinker.recipes.experiment.order import is_due, stretches
from eztinker.recipes.experiment.session import Session
from eztinker.recipes.terminal import pick
from eztinker.rl.schedule import Schedule
from eztinker.rl.training import Step, TrainedStep, run_steps, steps_taken

Datum = dict[str, Any]
FINAL_CHECKPOINT = "final"


def train(
    session: Session,
    num_steps: int,
    data_of: Callable[[int], Sequence[Datum]],
    *,
    loss_fn: str | None = None,
    loss_fn_config: Mapping[str, Any] | None = None,
    figures_of: Callable[[TrainedStep], Mapping[str, Any]] | None = None,
    between: Callable[[int], bool] | None = None,
    every: int | None = None,
) -> int:
    """Take the steps that are left, and save the run as ``final``.

    Args:
        session: the experiment; its ``step`` says where it stands.
        num_steps: optimizer steps in all.
        data_of: data of a step, counted from 0; asked in order and ahead of time.
        loss_fn: of every step; None takes the run's.
        loss_fn_config: its settings.
        figures_of: further figures of a step for ``metrics.jsonl``; its ``info`` is its data.
        between: called with the steps done, after every ``every`` of them and after the last; True ends the
            training (early stopping). Called again for the same step when the experiment is continued there.
        every: see ``between``.

    Returns:
        Steps done: ``num_steps``, or fewer when ``between`` ended it.
    """
    schedule = session.config.schedule(num_steps)
    log_lost_steps(
        session,
        lambda done: (
            figures_of(replace(done, info=data_of(session.steps_here(done) - 1)))
            if figures_of
            else {}
        ),
    )
    left = list(stretches(session.step, num_steps, every, session.config.save_steps))
    is_at_end = session.step == num_steps or is_due(session.step, every)
    if session.step and is_at_end and between is not None and between(session.step):
        left = []  # interrupted just before it, or ended by it already
    for first, last in left:
        steps = (
            Step(data, schedule.rate(i), loss_fn, loss_fn_config or {}, info=data)
            for i in range(first, last)
            for data in [data_of(i)]
        )
        _take(session, steps, last - first, num_steps, figures_of)
        if is_due(last, session.config.save_steps):
            session.save_checkpoint(f"step-{last}")
        if between is not None and (is_due(last, every) or last == num_steps) and between(last):
            break
    session.save_checkpoint(FINAL_CHECKPOINT)
    return session.step


def _take(
    session: Session,
    steps: Iterable[Step],
    count: int,
    num_steps: int,
    figures_of: Callable[[TrainedStep], Mapping[str, Any]] | None,
) -> None:
    label = pick(f"training, {num_steps} steps", f"训练，共 {num_steps} 步")
    taken = run_steps(session.client, session.run_id, steps, session.config.adamw)
    for done in session.progress.track(label, taken, count):
        session.step = session.steps_here(done)
        log_step(session, done, figures_of(done) if figures_of else {})


def take_step(
    session: Session,
    data: Sequence[Datum],
    schedule: Schedule,
    *,
    loss_fn: str | None = None,
    loss_fn_config: Mapping[str, Any] | None = None,
    is_sum: bool = False,
) -> TrainedStep:
    """Take one step and wait for it; its figures are the caller's to log."""
    step = Step(data, schedule.rate(session.step), loss_fn, loss_fn_config or {}, is_sum)
    (done,) = run_steps(session.client, session.run_id, [step], session.config.adamw)
    session.step = session.steps_here(done)
    return done


def log_lost_steps(
    session: Session, figures_of: Callable[[TrainedStep], Mapping[str, Any]]
) -> None:
    """Lines of steps that the run has taken, and that an interrupted program did not live to write.

    Args:
        session: of a continued experiment.
        figures_of: further figures of a step; its ``info`` is None.
    """
    last = session.experiment.last("train")
    logged = 0 if last is None else last["step"]
    if session.step <= logged:
        return
    start = session.experiment.state["start_step"]
    for done in steps_taken(session.client, session.run_id, start + logged):
        if session.steps_here(done) <= session.step:
            log_step(session, done, figures_of(done))


def log_step(session: Session, done: TrainedStep, figures: Mapping[str, Any]) -> None:
    """One line of ``metrics.jsonl`` about a step."""
    session.experiment.log(
        "train",
        session.steps_here(done),
        loss=done.loss,
        learning_rate=done.learning_rate,
        grad_norm=math.nan if done.grad_norm is None else done.grad_norm,
        num_tokens=done.num_tokens,
        **figures,
    )
