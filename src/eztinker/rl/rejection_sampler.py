"""Rejection sampling, step by step: create a run, sample candidates, keep the best, train on it.

The functions of the documented loop, each usable alone::

    run_id = create_training_run("Qwen/Qwen2-0.5B-Instruct", lora_rank=1)
    for i in range(len(dataset)):
        question, prompt, ground_truth = dataset.get_example_question(i)
        candidates = generate_candidates(prompt, question, run_id, num_candidates=4)
        result = select_best_candidate_and_train(
            run_id, prompt, candidates, ground_truth, question, dataset
        )

All of them take ``client=``; without it they use the shared client of ``EZTINKER_BASE_URL``. Whole runs with
epochs, evaluation and resumption are in ``recipes/rejection_sft.py``, which is built of the same parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eztinker.client.default import default_client
from eztinker.errors import InvalidRequestError
from eztinker.rl.buffer import Row, append_rows, load_buffer, save_buffer
from eztinker.rl.candidates import (
    DEFAULT_STOP,
    CandidateParams,
    Example,
    examples_of,
    sample_candidates,
    training_datum,
)
from eztinker.rl.training_run import create_training_run, tokenizer_of_run

__all__ = [
    "create_training_run",
    "generate_candidates",
    "load_buffer",
    "populate_buffer",
    "save_buffer",
    "select_best",
    "select_best_candidate_and_train",
]


@dataclass(frozen=True, slots=True)
class Selection:
    """The best of some candidates.

    Attributes:
        index: its place among them.
        text: the candidate itself.
        grade: what the data set says about it (``score``, ``is_correct``, ``confidence``, …).
        num_correct: how many of the candidates were correct.
        num_candidates: how many there were.
    """

    index: int
    text: str
    grade: dict[str, Any]
    num_correct: int
    num_candidates: int

    @property
    def is_correct(self) -> bool:
        """Whether the best candidate counts as right."""
        return bool(self.grade["is_correct"])


def generate_candidates(
    prompt: str | None,
    question: str,
    run_id: str,
    num_candidates: int = 8,
    temperature: float = 0.8,
    *,
    max_new_tokens: int = 256,
    stop: Sequence[str] = DEFAULT_STOP,
    seed: int | None = None,
    client: Any = None,
) -> list[str]:
    """Sample answers to one prompt from the run's current weights, in one request.

    Args:
        prompt: the text to continue. None or empty: ``question`` is put to the model in its chat template.
        question: the question itself.
        run_id: whose weights answer.
        num_candidates: how many answers.
        temperature: 0 is greedy.
        max_new_tokens: most tokens of one answer.
        stop: texts that end an answer; they are not part of it.
        seed: equal seeds give equal candidates; None draws anew.

    Returns:
        The answers, without the prompt. They also remember their tokens (``Candidate``), so that
        ``select_best_candidate_and_train`` trains exactly what was sampled.
    """
    client = client or default_client()
    params = CandidateParams(num_candidates, temperature, max_new_tokens, tuple(stop))
    example = Example(0, question, prompt or "", "")
    tokenizer = tokenizer_of_run(client, run_id)
    sampled = sample_candidates(client, run_id, tokenizer, [example], params, seed=seed)
    return [candidate for _, candidates in sampled for candidate in candidates]


def select_best(
    candidates: Sequence[str], ground_truth: str, question: str, dataset: Any
) -> Selection:
    """Grade all candidates and take the best: correct before wrong, then score, then confidence.

    Among equals the first that ended by itself wins, else the first.

    Raises:
        InvalidRequestError: there are no candidates.
    """
    if not candidates:
        raise InvalidRequestError("Expected at least one candidate, got none.", field="candidates")
    texts = [str(text) for text in candidates]
    if hasattr(
        dataset, "evaluate_answers"
    ):  # a scorer that asks a model grades all of them at once
        grades = dataset.evaluate_answers(texts, ground_truth, question)
    else:
        grades = [dataset.evaluate_answer(text, ground_truth, question) for text in texts]

    def rank(index: int) -> tuple[Any, ...]:
        grade = grades[index]
        has_ended = getattr(candidates[index], "stop_reason", "stop") == "stop"
        return bool(grade["is_correct"]), grade["score"], grade["confidence"], has_ended, -index

    best = max(range(len(candidates)), key=rank)
    num_correct = sum(bool(grade["is_correct"]) for grade in grades)
    return Selection(best, candidates[best], grades[best], num_correct, len(candidates))


def select_best_candidate_and_train(
    run_id: str,
    prompt: str | None,
    candidates: Sequence[str],
    ground_truth: str,
    question: str,
    dataset: Any,
    learning_rate: float = 2e-4,
    *,
    train_on_incorrect: bool = False,
    client: Any = None,
) -> dict[str, Any]:
    """Grade the candidates, and take one optimizer step on the best one if it is correct.

    Args:
        prompt: what the candidates continue; it is part of the input, without loss.
        candidates: from ``generate_candidates``, or any texts.
        dataset: its ``evaluate_answer`` grades.
        learning_rate: of the AdamW step.
        train_on_incorrect: train on the best one even when it is wrong.

    Returns:
        ``selected_index``, ``selected_score``, ``selected_is_correct``, ``confidence``, ``selected_text``,
        ``trained`` and, where not trained, ``skip_reason``.
    """
    client = client or default_client()
    best = select_best(candidates, ground_truth, question, dataset)
    result = {
        "selected_index": best.index,
        "selected_score": best.grade["score"],
        "selected_is_correct": best.is_correct,
        "confidence": best.grade["confidence"],
        "selected_text": str(best.text),
        "trained": False,
    }
    if not (best.is_correct or train_on_incorrect):
        return {**result, "skip_reason": f"none of the {len(candidates)} candidates is correct"}
    datum = training_datum(tokenizer_of_run(client, run_id), best.text, prompt, question)
    if datum is None:
        return {**result, "skip_reason": "the best candidate is empty"}
    client.forward_backward(run_id, data=[datum])
    client.optim_step(run_id, learning_rate=learning_rate, weight_decay=0.0)
    return {**result, "trained": True}


def populate_buffer(
    dataset: Any,
    run_id: str,
    buffer_path: str | Path,
    num_examples: int = 50,
    candidates_per_example: int = 8,
    temperature: float = 0.8,
    *,
    max_new_tokens: int = 256,
    stop: Sequence[str] = DEFAULT_STOP,
    seed: int | None = None,
    client: Any = None,
) -> list[Row]:
    """Sample and grade candidates for the first examples and keep the best of each in a file.

    Rows are appended one by one; called again after an interruption it continues with what is missing.
    Nothing is trained.

    Args:
        num_examples: rows of the data set to take; all of them when it has fewer.
        seed: equal seeds and weights give an equal buffer.

    Returns:
        All rows of the buffer, those found in the file included.

    Raises:
        InvalidRequestError: the file holds rows of other questions or of another sampling.
    """
    client = client or default_client()
    params = CandidateParams(candidates_per_example, temperature, max_new_tokens, tuple(stop))
    examples = missing_examples(examples_of(dataset, num_examples), buffer_path, params)
    tokenizer = tokenizer_of_run(client, run_id)
    rows = buffer_rows(client, run_id, tokenizer, dataset, examples, params, seed=seed)
    append_rows(rows, buffer_path)
    return load_buffer(buffer_path)


def missing_examples(
    examples: Sequence[Example], buffer_path: str | Path, params: CandidateParams
) -> list[Example]:
    """The examples that a buffer does not hold yet; all of them when there is no file.

    Raises:
        InvalidRequestError: the buffer was made of other questions or with other sampling.
    """
    rows = load_buffer(buffer_path) if Path(buffer_path).is_file() else []
    by_id = {example.example_id: example for example in examples}
    for row in rows:
        example = by_id.get(row["example_id"])
        is_same = example is not None and (example.question, example.ground_truth) == (
            row["question"],
            row["ground_truth"],
        )
        if not is_same:
            _refuse(buffer_path, f"its example {row['example_id']} is not this data set's")
        if row["temperature"] != params.temperature:
            _refuse(buffer_path, f"temperature {row['temperature']}, asked {params.temperature}")
        if row.get("num_candidates", params.num_candidates) != params.num_candidates:
            _refuse(
                buffer_path, f"{row['num_candidates']} candidates, asked {params.num_candidates}"
            )
    done = {row["example_id"] for row in rows}
    return [example for example in examples if example.example_id not in done]


def _refuse(buffer_path: str | Path, difference: str) -> None:
    raise InvalidRequestError(
        f"The buffer {buffer_path} was made differently: {difference}. Use another file, or start afresh "
        "(--reset-buffer, or delete it).",
        code="buffer_mismatch",
        field="buffer_path",
    )


def buffer_rows(
    client: Any,
    run_id: str,
    tokenizer: Any,
    dataset: Any,
    examples: Iterable[Example],
    params: CandidateParams,
    *,
    seed: int | None,
    purpose: str = "buffer",
) -> Iterator[Row]:
    """Buffer rows of the examples, in order, as they are sampled and graded; see ``sample_candidates``."""
    sampled = sample_candidates(
        client, run_id, tokenizer, examples, params, seed=seed, purpose=purpose
    )
    for example, candidates in sampled:
        best = select_best(candidates, example.ground_truth, example.question, dataset)
        yield buffer_row(example, best, params.temperature)


def buffer_row(example: Example, best: Selection, temperature: float) -> Row:
    """One row: the example and the best of its candidates."""
    return {
        "example_id": example.example_id,
        "question": example.question,
        "ground_truth": example.ground_truth,
        "prompt": example.prompt,
        "best_response": str(best.text),
        "best_score": best.grade["score"],
        "is_correct": best.is_correct,
        "confidence": best.grade["confidence"],
        "trained": False,
        "temperature": temperature,
        "num_correct": best.num_correct,
        "num_candidates": best.num_candidates,
        "best_tokens": list(getattr(best.text, "tokens", ())),
    }
