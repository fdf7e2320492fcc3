"""GRPO: sample a group of answers to each question, reward them, move towards the better ones of each group.

Advantages come from the group itself, without a value model (Shao et al. 2024, arXiv:2402.03300); the loss is one of
the service's policy losses on the tokens as they were sampled; leaving the reference costs β·KL. An iteration is one
batch of rollouts and ``num_iterations`` optimizer steps on it. With ``max_staleness`` above 0 the rollouts of the next
iterations are sampled while this one is trained, by weights at most so many steps old.

What is learned from the answers is in ``grpo_data.py``; what is rewarded is a scorer's affair (``rewards.py``); the last stage of RLHF is this recipe with a reward model.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable
from typing import Any

from eztinker.recipes.experiment.loop import (
    FINAL_CHECKPOINT,
    log_lost_steps,
    log_step,
    take_step,
)
from eztinker.recipes.experiment.order import batch_of_step, is_due
from eztinker.recipes.experiment.plan import SHOWN_EXAMPLES, Plan
from eztinker.recipes.experiment.session import Session, open_session
from eztinker.recipes.grpo_config import GRPOConfig
from eztinker.recipes.grpo_data import GRPOData
from eztinker.recipes.plots import curve, plot_panels
from eztinker.recipes.question_data import Questions, read_questions
from eztinker.recipes.rewards import scorer_of
from eztinker.recipes.terminal import Progress, SilentProgress, pick
from eztinker.rl.candidates import Policy
from eztinker.rl.policy_data import (
    off_policy_figures,
)
from eztinker.rl.rollouts import (
    Group,
    PendingGroup,
    cancel_groups,
    collect_group,
    read_groups,
    submit_groups,
)
from eztinker.rl.scorers import Scorer
from eztinker.rl.training import TrainedStep

NAME = "grpo"
Config = GRPOConfig


def run(
    config: GRPOConfig,
    client: Any,
    progress: Progress | None = None,
    *,
    questions: Questions | None = None,
    make_scorer: Callable[[Session, Questions], Scorer] | None = None,
) -> dict[str, Any]:
    """Train, or continue; figures in JSON types.

    Args:
        questions: instead of the data set that the settings name.
        make_scorer: what rewards answers, instead of what the settings name.

    Returns:
        ``run_id``, ``checkpoint``, ``steps``, ``reward_first``, ``reward_last``, ``kl_last`` (beta above 0),
        ``accuracy_before``, ``accuracy_after``, ``reward_before``, ``reward_after`` (greedy held-out answers; eval_size
        above 0), ``plot``.
    """
    questions = questions or read_questions(config)
    with open_session(NAME, config, client, progress or SilentProgress()) as session:
        scorer = (
            make_scorer(session, questions)
            if make_scorer
            else scorer_of(session, config, questions)
        )
        _Iterations(session, config, questions, scorer).run()
        return _figures(session, config)


def num_iterations_of(config: GRPOConfig, num_questions: int) -> int:
    """Batches of rollouts of a whole training."""
    steps = config.num_steps(num_questions * config.num_generations)
    return -(-steps // config.num_iterations) if config.max_steps else steps


class _Iterations:
    """The loop: rollouts, advantages, steps, figures."""

    def __init__(
        self, session: Session, config: GRPOConfig, questions: Questions, scorer: Scorer
    ) -> None:
        self.session, self.config = session, config
        self.questions, self.scorer = questions, scorer
        self.num_iterations = num_iterations_of(config, len(questions.examples))
        self.num_steps = self.num_iterations * config.num_iterations
        self.schedule = config.schedule(self.num_steps)
        self.data = GRPOData(session, config, scorer)
        self.pending: deque[tuple[int, list[PendingGroup]]] = deque()

    def run(self) -> None:
        """All iterations that are left."""
        first = self.session.step // self.config.num_iterations
        log_lost_steps(self.session, self._figures_again)
        self._evaluate()
        label = pick("iterations", "迭代")
        left = range(first, self.num_iterations)
        try:
            for iteration in self.session.progress.track(label, left, len(left)):
                self._iterate(iteration)
        finally:
            for _, groups in self.pending:
                cancel_groups(groups)
        self.session.save_checkpoint(FINAL_CHECKPOINT)

    def _evaluate(self) -> None:
        step = self.session.step
        if step in (0, self.num_steps) or is_due(step, self.config.eval_steps):
            self.questions.evaluate(self.session, step, self.scorer)

    def _iterate(self, iteration: int) -> None:
        data, figures = self.data.of(iteration, self._rollouts(iteration))
        start = iteration * self.config.num_iterations
        while self.session.step < start + self.config.num_iterations:
            done = take_step(
                self.session,
                data,
                self.schedule,
                loss_fn=self.config.loss_fn,
                loss_fn_config=self.config.loss_fn_config,
                is_sum=True,
            )
            moved = off_policy_figures(done.logprobs, data, self.config.ratio_bounds)
            log_step(self.session, done, figures | moved)
        step = self.session.step
        if any(is_due(i, self.config.save_steps) for i in range(start + 1, step + 1)):
            self.session.save_checkpoint(f"step-{step}")
        self._evaluate()

    def _figures_again(self, done: TrainedStep) -> dict[str, Any]:
        """Figures of a step that was taken, from the answers that were kept for it."""
        iteration = (self.session.steps_here(done) - 1) // self.config.num_iterations
        path = self.session.experiment.rollouts_path(iteration)
        data, figures = self.data.of(iteration, read_groups(path))
        return figures | off_policy_figures(done.logprobs, data, self.config.ratio_bounds)

    # Rollouts -----------------------------------------------------------------------------------------

    def _rollouts(self, iteration: int) -> list[Group]:
        """Scored groups of an iteration: those kept by an interrupted program, else fresh ones."""
        path = self.session.experiment.rollouts_path(iteration)
        if path.is_file():
            return read_groups(path)
        self._submit_until(iteration)
        number, pending = self.pending.popleft()
        assert number == iteration
        groups = self._scored([collect_group(self.session.client, one) for one in pending])
        self.session.experiment.write_rollouts(iteration, (one.as_row() for one in groups))
        # Asked for before this iteration is trained, the next ones are sampled meanwhile.
        self._submit_until(iteration + self.config.max_staleness)
        return groups

    def _submit_until(self, iteration: int) -> None:
        """Have the rollouts of every iteration up to this one on their way."""
        last = min(iteration, self.num_iterations - 1)
        start = self.pending[-1][0] + 1 if self.pending else self._next_iteration()
        for number in range(start, last + 1):
            chosen = batch_of_step(
                len(self.questions.examples),
                self.config.questions_per_step,
                number,
                self.config.seed,
            )
            groups = submit_groups(
                self.session.client,
                Policy(run_id=self.session.run_id),
                self.session.tokenizer,
                [self.questions.examples[i] for i in chosen],
                self.config.rollout_params,
                seed=self.config.seed,
                purpose=f"iteration {number}",
            )
            self.pending.append((number, groups))

    def _next_iteration(self) -> int:
        """The first iteration without rollouts."""
        number = self.session.step // self.config.num_iterations
        while self.session.experiment.rollouts_path(number).is_file():
            number += 1
        return number

    def _scored(self, groups: list[Group]) -> list[Group]:
        answers = [(group.example, r.text) for group in groups for r in group.rollouts_G]
        grades = iter(self.scorer.score(answers))
        return [
            Group(
                group.example,
                group.prompt_tokens,
                [
                    r.scored(grade["score"], grade)
                    for r, grade in zip(group.rollouts_G, grades, strict=False)
                ],
                group.weights_step,
            )
            for group in groups
        ]


def _figures(session: Session, config: GRPOConfig) -> dict[str, Any]:
    experiment = session.experiment
    steps, evaluations = experiment.metrics("train"), experiment.metrics("eval")
    panels = {
        "Mean reward": {
            "sampled": curve(steps, "reward"),
            "held out, greedy": curve(evaluations, "reward"),
        },
        "Held-out accuracy": {"": curve(evaluations, "accuracy")},
        "KL to the reference, per token": {"": curve(steps, "kl")},
        "Loss": {"": curve(steps, "loss")},
    }
    title = f"GRPO of {config.model_name_or_path}"
    plot = plot_panels(experiment.folder / "grpo.png", panels, title=title)
    tail = steps[-max(1, len(steps) // 10) :]
    figures: dict[str, Any] = {
        "run_id": session.run_id,
        "checkpoint": f"{session.run_id}@{FINAL_CHECKPOINT}",
        "steps": session.step,
        "reward_first": steps[0]["reward"],
        "reward_last": statistics.fmean(line["reward"] for line in tail),
    }
    if config.beta:
        figures["kl_last"] = statistics.fmean(line["kl"] for line in tail)
    if evaluations:
        figures["reward_before"] = evaluations[0]["reward"]
        figures["reward_after"] = evaluations[-1]["reward"]
        figures["accuracy_before"] = evaluations[0]["accuracy"]
        figures["accuracy_after"] = evaluations[-1]["accuracy"]
        figures["accuracy_after_ci95"] = evaluations[-1]["ci95"]
    return figures | {"plot": str(plot)}


def plan(config: GRPOConfig, client: Any) -> Plan:
    """What ``run`` would do."""
    questions = read_questions(config)
    iterations = num_iterations_of(config, len(questions.examples))
    num_steps = iterations * config.num_iterations
    schedule = config.schedule(num_steps)
    first = batch_of_step(len(questions.examples), config.questions_per_step, 0, config.seed)
    facts = {
        "model": config.model_name_or_path,
        "questions": len(questions.examples),
        "held_out_questions": len(questions.held_out_examples),
        "iterations": iterations,
        "steps": num_steps,
        "questions_per_step": config.questions_per_step,
        "answers_per_step": config.batch_size,
        "answers_in_all": iterations * config.batch_size,
        "learning_rate_first_peak_last": [
            schedule.rate(0),
            schedule.peak,
            schedule.rate(num_steps - 1),
        ],
    }
    shown = [questions.examples[i].prompt for i in first[:SHOWN_EXAMPLES]]
    return Plan(NAME, facts, shown, [], config.resolved())
