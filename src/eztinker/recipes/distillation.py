"""Distillation: a student learns from a teacher that lives on the same server.

Three ways (``mode``):

* ``off_policy``: the teacher answers the questions, the student learns its answers by maximum likelihood (Kim & Rush
  2016, arXiv:1606.07947); wrong answers may be left out.
* ``on_policy``: the student answers, and every token's advantage is log p_teacher − log p_student, so that the policy
  gradient is that of the reverse divergence KL(student ‖ teacher) (Agarwal et al. 2023, arXiv:2306.13649).
* ``on_policy_topk``: the student answers, and at every position learns the teacher's k likeliest tokens, −Σ_k p_k·log π(k)
  with the p_k made to add up to 1: the forward divergence on the student's own texts, cut to k tokens.

Student and teacher must share a tokenizer, except for ``off_policy``.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from eztinker.errors import InvalidRequestError
from eztinker.recipes.experiment.loop import (
    FINAL_CHECKPOINT,
    log_lost_steps,
    log_step,
    take_step,
    train,
)
from eztinker.recipes.experiment.order import batch_of_step, is_due
from eztinker.recipes.experiment.plan import SHOWN_EXAMPLES, Plan
from eztinker.recipes.experiment.session import Session, frozen_run, lora_of, open_session
from eztinker.recipes.plots import curve, plot_panels
from eztinker.recipes.question_data import QuestionConfig, Questions, read_questions
from eztinker.recipes.terminal import Progress, SilentProgress, pick
from eztinker.rl.candidates import Candidate, Example, Policy, training_datum
from eztinker.rl.policy_data import answer_weights, kl_advantages, kl_estimates, policy_datum
from eztinker.rl.rollouts import Group, RolloutParams, collect_group, read_groups, submit_groups
from eztinker.rl.scoring import answer_logprobs
from eztinker.rl.teacher import top_tokens, topk_data
from eztinker.rl.training import TrainedStep, in_batches
from eztinker.rl.training_run import find_run

NAME = "distillation"
TEACHER_FILE = "teacher.jsonl"
_QUESTIONS_AT_ONCE = 128


class DistillationConfig(QuestionConfig):
    """Settings of distillation."""

    teacher_model: str = Field(
        "", description="Teacher: a base model's name, or RUN_ID@CHECKPOINT."
    )
    mode: Literal["off_policy", "on_policy", "on_policy_topk"] = Field(
        "on_policy", description="Who answers, and what is learned of the answers."
    )
    only_correct: bool = Field(
        False, description="off_policy: leave out answers that the data set grades as wrong."
    )
    teacher_top_k: int = Field(
        8, ge=1, le=20, description="on_policy_topk: the teacher's likeliest tokens per position."
    )
    per_device_train_batch_size: int = Field(32, ge=1, description="Answers per device batch.")
    num_generations: int = Field(1, ge=1, description="Answers to each question.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate of AdamW.")

    def check_effect(self) -> None:
        """A teacher, and keys of this mode only."""
        super().check_effect()
        if not self.teacher_model:
            self.refuse(
                "teacher_model", "distillation needs teacher_model=NAME or RUN_ID@CHECKPOINT."
            )
        self.needs("only_correct", self.mode == "off_policy", f"with mode {self.mode}")
        self.needs("teacher_top_k", self.mode == "on_policy_topk", f"with mode {self.mode}")
        is_plain = (self.temperature, self.top_p, self.top_k) == (1.0, 1.0, -1)
        if self.mode == "on_policy" and not is_plain:
            self.refuse(
                "temperature",
                "on_policy compares the probabilities of the student's own distribution: temperature 1, top_p 1, top_k -1.",
            )


Config = DistillationConfig


def run(
    config: DistillationConfig, client: Any, progress: Progress | None = None
) -> dict[str, Any]:
    """Train, or continue; figures in JSON types.

    Returns:
        ``run_id``, ``checkpoint``, ``steps``, ``reverse_kl_first`` and ``reverse_kl_last`` (per token, on-policy modes),
        ``train_examples`` (off-policy), ``accuracy_before`` and ``accuracy_after`` (eval_size above 0), ``plot``.
    """
    questions = read_questions(config)
    with open_session(NAME, config, client, progress or SilentProgress()) as session:
        if session.step == 0:
            questions.evaluate(session, 0)
        if config.mode == "off_policy":
            more = _off_policy(session, config, questions)
        else:
            more = _on_policy(session, config, questions)
        return _figures(session, more)


# Off-policy -----------------------------------------------------------------------------------------------


def _off_policy(
    session: Session, config: DistillationConfig, questions: Questions
) -> dict[str, Any]:
    rows = _teacher_answers(session, config, questions)
    data = [_teacher_datum(session, questions, row) for row in rows]
    kept = [datum for datum in data if datum is not None]
    if not kept:
        raise InvalidRequestError(
            "None of the teacher's answers can be trained on. Give more questions or num_generations, or "
            "only_correct=false.",
            code="empty_dataset",
            field="only_correct",
        )

    def evaluate(step: int) -> bool:
        questions.evaluate(session, step)
        return False

    def batch(step: int) -> list[dict[str, Any]]:
        return [kept[i] for i in batch_of_step(len(kept), config.batch_size, step, config.seed)]

    train(session, config.num_steps(len(kept)), batch, between=evaluate, every=config.eval_steps)
    return {"train_examples": len(kept), "teacher_answers": len(rows)}


def _teacher_answers(
    session: Session, config: DistillationConfig, questions: Questions
) -> list[dict[str, Any]]:
    """The teacher's answers as rows, sampled once and kept; duplicates of a question's answers are left out."""
    path = session.experiment.folder / TEACHER_FILE
    done = _read(path) if path.is_file() else []
    asked = {row["example_id"] for row in done}
    left = [example for example in questions.examples if example.example_id not in asked]
    parts = in_batches(left, _QUESTIONS_AT_ONCE)
    label = pick("teacher's answers", "教师模型回答")
    with path.open("a", encoding="utf-8") as file:
        for part in session.progress.track(label, parts, len(parts)):
            rows = [
                row
                for group in _ask_teacher(session, config, part)
                for row in _rows_of(group, questions)
            ]
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            file.flush()
            done += rows
    return [row for row in done if row["is_correct"] or not config.only_correct]


def _read(path: Any) -> list[dict[str, Any]]:
    """Rows that were written whole; a torn end is cut off so that the next row starts a line."""
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.split("\n") if line]


def _ask_teacher(
    session: Session, config: DistillationConfig, examples: Sequence[Example]
) -> list[Group]:
    policy, base_model = _teacher_policy(session, config)
    tokenizer = session.client.get_tokenizer(base_model)
    pending = submit_groups(
        session.client,
        policy,
        tokenizer,
        examples,
        config.rollout_params,
        seed=config.seed,
        purpose="teacher",
    )
    return [collect_group(session.client, one) for one in pending]


def _rows_of(group: Group, questions: Questions) -> list[dict[str, Any]]:
    example = group.example
    rows = []
    for text in dict.fromkeys(rollout.text for rollout in group.rollouts_G):
        grade = questions.dataset.evaluate_answer(text, example.ground_truth, example.question)
        facts = {"example_id": example.example_id, "question": example.question, "answer": text}
        rows.append(facts | {"is_correct": bool(grade["is_correct"]), "score": grade["score"]})
    return rows


def _teacher_datum(
    session: Session, questions: Questions, row: dict[str, Any]
) -> dict[str, Any] | None:
    example = next(e for e in questions.examples if e.example_id == row["example_id"])
    if not row["answer"].strip():
        return None
    return training_datum(
        session.tokenizer, Candidate(row["answer"]), example.prompt, example.question
    )


def _teacher_policy(session: Session, config: DistillationConfig) -> tuple[Policy, str]:
    run_id, at, checkpoint = config.teacher_model.rpartition("@")
    if not at:
        return Policy(base_model=config.teacher_model), config.teacher_model
    return Policy(run_id=run_id, checkpoint=checkpoint), find_run(session.client, run_id)[
        "base_model"
    ]


# On-policy ------------------------------------------------------------------------------------------------


def _on_policy(
    session: Session, config: DistillationConfig, questions: Questions
) -> dict[str, Any]:
    teacher = _teacher_run(session, config)
    num_steps = config.num_steps(len(questions.examples) * config.num_generations)
    schedule = config.schedule(num_steps)
    log_lost_steps(session, lambda done: _figures_again(session, config, teacher, done))
    left = range(session.step, num_steps)
    for step in session.progress.track(pick("steps", "训练步"), left, len(left)):
        groups = _student_answers(session, config, questions, step)
        data, figures = _on_policy_data(session, config, teacher, groups)
        is_topk = config.mode == "on_policy_topk"
        loss_fn = "cross_entropy" if is_topk else "importance_sampling"
        done = take_step(session, data, schedule, loss_fn=loss_fn, is_sum=True)
        log_step(session, done, figures)
        if is_due(session.step, config.save_steps):
            session.save_checkpoint(f"step-{session.step}")
        if is_due(session.step, config.eval_steps):
            questions.evaluate(session, session.step)
    questions.evaluate(session, session.step)
    session.save_checkpoint(FINAL_CHECKPOINT)
    return {}


def _figures_again(
    session: Session, config: DistillationConfig, teacher: str, done: TrainedStep
) -> dict[str, Any]:
    """Figures of a step that was taken, from the answers that were kept for it."""
    groups = read_groups(session.experiment.rollouts_path(session.steps_here(done) - 1))
    return _on_policy_data(session, config, teacher, groups)[1]


def _teacher_run(session: Session, config: DistillationConfig) -> str:
    """A run that gives the teacher's log-probabilities; its tokenizer must be the student's."""
    run_id, at, _ = config.teacher_model.rpartition("@")
    source = find_run(session.client, run_id) if at else None
    base_model = source["base_model"] if source else config.teacher_model
    theirs = session.client.get_tokenizer(base_model)
    if theirs.get_vocab() != session.tokenizer.get_vocab():
        raise InvalidRequestError(
            f"Teacher {config.teacher_model} and student {config.model_name_or_path} have different tokenizers, so their "
            "probabilities cannot be compared token by token. Use mode=off_policy.",
            field="teacher_model",
        )
    checkpoint = config.teacher_model if at else None
    return frozen_run(
        session, "teacher", base_model, checkpoint, **(lora_of(source) if source else {})
    )


def _student_answers(
    session: Session, config: DistillationConfig, questions: Questions, step: int
) -> list[Group]:
    size = max(1, config.batch_size // config.num_generations)
    chosen = batch_of_step(len(questions.examples), size, step, config.seed)
    params: RolloutParams = config.rollout_params
    pending = submit_groups(
        session.client,
        Policy(run_id=session.run_id),
        session.tokenizer,
        [questions.examples[i] for i in chosen],
        params,
        seed=config.seed,
        purpose=f"step {step}",
    )
    groups = [collect_group(session.client, one) for one in pending]
    session.experiment.write_rollouts(step, (group.as_row() for group in groups))
    return groups


def _on_policy_data(
    session: Session, config: DistillationConfig, teacher: str, groups: list[Group]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rollouts = [(group.prompt_tokens, r) for group in groups for r in group.rollouts_G]
    prompts, answers = [p for p, _ in rollouts], [r.tokens_T for _, r in rollouts]
    theirs = answer_logprobs(session.client, teacher, prompts, answers)
    pairs = [(r.logprobs_T, ref) for (_, r), ref in zip(rollouts, theirs, strict=True)]
    weights = answer_weights([len(t) for t in answers], "dapo", config.max_completion_length)
    figures = _divergence(pairs)
    if config.mode == "on_policy_topk":
        tops = top_tokens(session.client, teacher, prompts, answers, config.teacher_top_k)
        figures["teacher_mass"] = statistics.fmean(
            sum(math.exp(log) for _, log in top) for row in tops for top in row
        )
        return topk_data(prompts, answers, tops, weights[0]), figures
    data = [
        policy_datum(prompt, tokens, q, kl_advantages(0.0, q, ref, 1.0), weight)
        for (prompt, tokens), (q, ref), weight in zip(
            zip(prompts, answers, strict=True), pairs, weights, strict=True
        )
    ]
    return data, figures


def _divergence(pairs: list[tuple[list[float], list[float]]]) -> dict[str, Any]:
    """Reverse KL per token on the student's samples: the mean of log q − log p, and k3, which varies less."""
    sums = [kl_estimates(q, ref) for q, ref in pairs]
    num_tokens = max(1, sum(len(q) for q, _ in pairs))
    return {
        "reverse_kl": sum(k1 for k1, _ in sums) / num_tokens,
        "reverse_kl_k3": sum(k3 for _, k3 in sums) / num_tokens,
        "completion_length": num_tokens / len(pairs),
    }


# Figures --------------------------------------------------------------------------------------------------


def _figures(session: Session, more: dict[str, Any]) -> dict[str, Any]:
    experiment = session.experiment
    steps, evaluations = experiment.metrics("train"), experiment.metrics("eval")
    panels = {
        "Reverse KL per token": {"": curve(steps, "reverse_kl")},
        "Loss": {"": curve(steps, "loss")},
        "Held-out accuracy": {"": curve(evaluations, "accuracy")},
    }
    title = f"Distillation into {session.config.model_name_or_path}"
    figures: dict[str, Any] = {
        "run_id": session.run_id,
        "checkpoint": f"{session.run_id}@{FINAL_CHECKPOINT}",
        "steps": session.step,
        **more,
    }
    if steps and "reverse_kl" in steps[0]:
        tail = steps[-max(1, len(steps) // 5) :]
        figures["reverse_kl_first"] = steps[0]["reverse_kl"]
        figures["reverse_kl_last"] = statistics.fmean(line["reverse_kl"] for line in tail)
    if evaluations:
        figures["accuracy_before"] = evaluations[0]["accuracy"]
        figures["accuracy_after"] = evaluations[-1]["accuracy"]
    plot = plot_panels(experiment.folder / "distillation.png", panels, title=title)
    return figures | {"plot": str(plot)}


def plan(config: DistillationConfig, client: Any) -> Plan:
    """What ``run`` would do."""
    questions = read_questions(config)
    num_answers = len(questions.examples) * config.num_generations
    facts = {
        "student": config.model_name_or_path,
        "teacher": config.teacher_model,
        "mode": config.mode,
        "questions": len(questions.examples),
        "held_out_questions": len(questions.held_out_examples),
        "answers_in_all": num_answers,
        "steps_at_most": config.num_steps(num_answers),
    }
    shown = [example.prompt for example in questions.examples[:SHOWN_EXAMPLES]]
    return Plan(NAME, facts, shown, [], config.resolved())
