"""Stage 2, SFT on the kept answers: each question counts once, however many right answers it has.

A step takes whole questions. With n_q right answers to question q, its loss is Σ_q Σ_answers (1/n_q) Σ_tokens −log p,
divided by the number of questions: the negative log-likelihood of an answer, averaged over the answers of a question
and over questions. So a question with eight right answers pulls no harder than one with a single one, and, since
tokens are summed, a short verdict (不违规) pulls no harder at its first token than a long one. Called by ``train/sft_train.py`` and ``eztinker recipe lawshift-sft``.
"""

from __future__ import annotations

import datetime
import itertools
import math
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from eztinker.dataset.inspection import render_masked
from eztinker.dataset.lawshift import Case, read_articles, read_cases
from eztinker.dataset.rows import read_rows
from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.recipes.experiment.loop import FINAL_CHECKPOINT, log_lost_steps, log_step
from eztinker.recipes.experiment.order import is_due, stretches
from eztinker.recipes.experiment.plan import Plan, length_facts
from eztinker.recipes.experiment.policy import context_length
from eztinker.recipes.experiment.session import Session, open_session
from eztinker.recipes.experiment.training_settings import TrackerName, TrainingConfig, as_trackers
from eztinker.recipes.lawshift.asking import Asker, told
from eztinker.recipes.terminal import Progress, pick
from eztinker.rl.candidates import training_datum
from eztinker.rl.schedule import Schedule, ScheduleName
from eztinker.rl.training import Step, run_steps

NAME = "lawshift-sft"
Datum = dict[str, list[Any]]


class Config(TrainingConfig):
    """What the training can be told: the documented names and defaults, and those that every training has."""

    may_change = TrainingConfig.may_change | {"resume"}

    model_name_or_path: str = Field("Qwen/Qwen3-0.6B", min_length=1, description="Base model.")
    sampled_data: Path = Field(Path("train/sampled_data.json"), description="Kept answers.")
    articles_path: Path = Field(
        Path("LawShift/term_up/articles_original.json"), description="Statutes."
    )
    output_dir: Path = Field(Path("train/checkpoints"), description="Holds sft_<timestamp>/.")
    max_length: int = Field(4096, ge=128, description="Most tokens of prompt and answer.")
    train_on_prompt: bool = Field(False, description="Let the prompt carry loss too.")
    strict: bool = Field(
        False, description="Stop at a case whose statutes are missing or do not fit."
    )
    resume: bool = Field(False, description="Continue the newest unfinished sft_<timestamp>/.")

    lora_r: int = Field(64, ge=1, description="Rank of the adapter.")
    lora_alpha: float | None = Field(16, gt=0, description="Scaling of the adapter.")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="On the adapter's input.")
    load_in_4bit: bool = Field(True, description="NF4 base weights (QLoRA).")
    learning_rate: float = Field(2e-4, gt=0, description="Peak learning rate of AdamW.")
    lr_scheduler_type: ScheduleName = Field("cosine", description="After the warm-up.")
    warmup_steps: int = Field(
        100, ge=0, description="Optimizer steps of linear warm-up; at most half of all steps."
    )
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay.")
    num_train_epochs: float = Field(3.0, gt=0, description="Passes over the questions.")
    per_device_train_batch_size: int = Field(2, ge=1, description="Answers per device batch.")
    gradient_accumulation_steps: int = Field(8, ge=1, description="Batches per optimizer step.")
    logging_steps: int = Field(10, ge=1, description="Steps between two lines of the trackers.")
    save_steps: int | None = Field(100, ge=1, description="Steps between checkpoints.")
    report_to: Annotated[list[TrackerName], BeforeValidator(as_trackers)] = Field(
        default_factory=lambda: ["tensorboard"], description="Trackers, or none."
    )

    def schedule(self, num_steps: int) -> Schedule:
        """As in ``TrainingConfig``, with a warm-up that leaves at least half of the steps."""
        warmup = self.warmup_steps or math.ceil(self.warmup_ratio * num_steps)
        warmup = 0 if self.lr_scheduler_type == "constant" else min(warmup, num_steps // 2)
        return Schedule(self.lr_scheduler_type, self.learning_rate, num_steps, warmup)


@dataclass(frozen=True, slots=True)
class Question:
    """A question with all its right answers as training data.

    Attributes:
        data: one for each answer, with 1/n as the weight of every token.
        num_missing: statutes that were not found.
        is_shortened: whether the facts of any prompt were shortened.
        is_too_long: its statutes leave no room for facts and answer, so it has no data.
    """

    data: list[Datum]
    num_missing: int
    is_shortened: bool
    is_too_long: bool = False


# Data ---------------------------------------------------------------------------------------------


def read_questions(config: Config, tokenizer: Any, context: int | None) -> list[Question]:
    """The rows of ``sampled_data``, gathered by question, as training data.

    Raises:
        InvalidRequestError: there is no row, a row has no response, or an answer alone is too long.
    """
    cases = read_cases(config.sampled_data)
    responses = [_response(row) for row in read_rows(config.sampled_data)]
    if not cases:
        raise InvalidRequestError(
            f"{config.sampled_data} holds no answer to train on. Run the rejection sampling first.",
            code="empty_dataset",
            field="sampled_data",
        )
    articles = read_articles(config.articles_path)
    room = config.max_length if context is None else min(config.max_length, context)
    answers: dict[tuple[Any, ...], dict[str, Case]] = {}
    for case, response in zip(cases, responses, strict=True):
        answers.setdefault(_identity(case), {})[response] = case
    questions = [_question(config, tokenizer, articles, room, found) for found in answers.values()]
    if not any(question.data for question in questions):
        raise InvalidRequestError(
            f"The statutes of all {len(questions)} questions leave no room within {room} tokens. Raise max_length.",
            code="prompt_too_long",
            field="max_length",
        )
    return questions


def _identity(case: Case) -> tuple[Any, ...]:
    """Rows of one question share everything but the response."""
    return case.fact, case.relevant_articles, case.charge, str(case.prison_time)


def _response(row: Any) -> str:
    response = row.data.get("response")
    if not isinstance(response, str) or not response.strip():
        raise InvalidRequestError(
            f"{row.where}: response: expected a non-empty text, got {response!r:.80}.",
            field="response",
        )
    return response


def _question(
    config: Config, tokenizer: Any, articles: Any, room: int, answers: dict[str, Case]
) -> Question:
    data, num_missing, is_shortened = [], 0, False
    for response, case in answers.items():
        num_answer = len(tokenizer.encode(response, add_special_tokens=False)) + 1
        if num_answer > room // 2:
            raise InvalidRequestError(
                f"Case {case.case_id}: its answer has {num_answer} tokens, more than half of the {room} there is "
                "room for, and answers are never cut. Raise max_length or take the row out.",
                code="answer_too_long",
                field="max_length",
            )
        asked = Asker(tokenizer, room - num_answer, is_strict=config.strict).ask(case, articles)
        if not asked.fits:
            return Question([], len(asked.missing), is_shortened=False, is_too_long=True)
        datum = training_datum(tokenizer, response, asked.prompt, "")
        assert datum is not None  # the response is not empty
        data.append(weighted(datum, 1 / len(answers), train_on_prompt=config.train_on_prompt))
        num_missing, is_shortened = len(asked.missing), is_shortened or asked.is_shortened
    return Question(data, num_missing, is_shortened)


def weighted(datum: Datum, weight: float, *, train_on_prompt: bool = False) -> Datum:
    """The datum with ``weight`` on each label of the answer.

    Args:
        datum: labels of the prompt are -100, as ``training_datum`` makes it.
        weight: 1/n.
        train_on_prompt: the prompt's labels count as well.
    """
    tokens = datum["input_ids"]
    counts = [bool(w) or train_on_prompt for w in datum["weights"]]
    counts[0] = False  # nothing precedes the first token
    targets = [token if is_in else -100 for token, is_in in zip(tokens, counts, strict=True)]
    weights = [weight if is_in else 0.0 for is_in in counts]
    return {"input_ids": tokens, "target_ids": targets, "weights": weights}


def steps_of(questions: Sequence[Question], config: Config) -> list[list[Question]]:
    """The questions of every optimizer step, by seed alone.

    Each epoch goes through all questions that have data, in an order of its own; a step takes whole questions until it has
    ``batch_size`` answers or more.
    """
    usable = [question for question in questions if question.data]
    epochs = (_epoch(usable, config, number) for number in itertools.count())
    if config.max_steps is not None:
        return list(itertools.islice(itertools.chain.from_iterable(epochs), config.max_steps))
    num_whole, rest = int(config.num_train_epochs), config.num_train_epochs % 1
    steps = list(itertools.chain.from_iterable(itertools.islice(epochs, num_whole)))
    if rest:
        last = next(epochs)
        steps += last[: max(1, round(len(last) * rest))]
    return steps


def _epoch(questions: Sequence[Question], config: Config, number: int) -> list[list[Question]]:
    order = list(questions)
    random.Random(f"{config.seed}/{number}").shuffle(order)  # noqa: S311  an order, not a secret
    return list(_packed(order, config.batch_size))


def _packed(order: Sequence[Question], batch_size: int) -> Iterator[list[Question]]:
    batch: list[Question] = []
    for question in order:
        batch.append(question)
        if sum(len(one.data) for one in batch) >= batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def step_data(questions: Sequence[Question]) -> list[Datum]:
    """Data of one step, for the summed loss: weights 1/n, divided by the number of questions."""
    return [
        {**datum, "weights": [w / len(questions) for w in datum["weights"]]}
        for question in questions
        for datum in question.data
    ]


# Work ---------------------------------------------------------------------------------------------


def plan(config: Config, client: Any) -> Plan:
    """What the training would do."""
    tokenizer = client.get_tokenizer(config.model_name_or_path)
    context = context_length(client, config.model_name_or_path)
    questions = read_questions(config, tokenizer, context)
    data = [datum for question in questions for datum in question.data]
    facts: dict[str, Any] = {
        **_counts(questions),
        "steps": len(steps_of(questions, config)),
        **length_facts([len(datum["input_ids"]) for datum in data]),
    }
    first = [render_masked(tokenizer, datum) for datum in data[:2]]
    return Plan(NAME, facts, first, settings=config.resolved())


def _counts(questions: Sequence[Question]) -> dict[str, int]:
    return {
        "questions": sum(bool(question.data) for question in questions),
        "answers": sum(len(question.data) for question in questions),
        "cases_with_missing_articles": sum(bool(question.num_missing) for question in questions),
        "shortened_facts": sum(question.is_shortened for question in questions),
        "cases_too_long": sum(question.is_too_long for question in questions),
    }


def run(config: Config, client: Any, progress: Progress) -> dict[str, Any]:
    """Train, and bring the adapter home as ``final_model``."""
    config = config.model_copy(update={"output_dir": _folder(config)})
    context = context_length(client, config.model_name_or_path)
    questions = read_questions(config, client.get_tokenizer(config.model_name_or_path), context)
    with open_session(NAME, config, client, progress) as session:
        steps = steps_of(questions, config)
        _tell(questions, progress)
        _train(session, steps, config.schedule(len(steps)))
        final = _bring_home(session, FINAL_CHECKPOINT, config.output_dir / "final_model")
        last = session.experiment.last("train") or {}
        return {
            "final_model": str(final),
            "steps": session.step,
            "final_loss": last.get("loss"),
            "run_id": session.run_id,
            **_counts(questions),
        }


def _folder(config: Config) -> Path:
    """A new ``sft_<timestamp>``, or with ``resume`` the newest that has no final model yet."""
    if not config.resume:
        return config.output_dir / f"sft_{datetime.datetime.now().strftime('%Y%m%d_%H%M%S')}"
    begun = sorted(path.parent for path in config.output_dir.glob("sft_*/state.json"))
    left = [folder for folder in begun if not (folder / "final_model").exists()]
    if not left:
        raise NotFoundError(
            f"{config.output_dir} holds no unfinished training. Leave out --resume to begin one.",
            code="experiment_not_found",
            field="resume",
        )
    return left[-1]


def _tell(questions: Sequence[Question], progress: Progress) -> None:
    counts = _counts(questions)
    progress.say(
        pick("{answers} answers to {questions} questions.", "{questions} 个问题共 {answers} 个回答。").format(**counts)
    )  # fmt: skip
    progress.say(told(counts))


def _train(session: Session, steps: Sequence[Sequence[Question]], schedule: Schedule) -> None:
    config = session.config
    log_lost_steps(session, lambda _: {})
    label = pick(f"training, {len(steps)} steps", f"训练，共 {len(steps)} 步")
    _save_step(session)  # interrupted just before it
    for first, last in stretches(session.step, len(steps), config.save_steps):
        planned = (
            Step(step_data(steps[i]), schedule.rate(i), is_sum=True) for i in range(first, last)
        )
        taken = run_steps(session.client, session.run_id, planned, config.adamw)
        for done in session.progress.track(label, taken, last - first):
            session.step = session.steps_here(done)
            log_step(session, done, {})
        _save_step(session)
    session.save_checkpoint(FINAL_CHECKPOINT)


def _save_step(session: Session) -> None:
    """A checkpoint on the server, and its copy ``checkpoint-<step>`` in the folder, where one is due and not there."""
    folder = session.experiment.folder / f"checkpoint-{session.step}"
    if not is_due(session.step, session.config.save_steps) or folder.exists():
        return
    session.client.save_checkpoint(session.run_id, "latest", overwrite=True)
    _bring_home(session, "latest", folder)
    limit = session.config.save_total_limit
    kept = sorted(folder.parent.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    for old in kept[:-limit] if limit else []:
        shutil.rmtree(old)


def _bring_home(session: Session, name: str, folder: Path) -> Path:
    if folder.exists():
        return folder
    return session.client.download_checkpoint(session.run_id, name, folder)
