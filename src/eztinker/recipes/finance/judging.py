"""The judge: four marks and a reason for an output, as a base model of the service gives them, or anything alike.

Clarity, accuracy, completeness and concision, 0 to 10 each. A verdict that cannot be read has no marks, and whoever asked
counts it. Knows no files. Called by the filter, the evaluation and the rewards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

from eztinker.grading.judge import read_marks, read_reason
from eztinker.recipes.finance.asking import (
    answer_params,
    examples,
    opened,
    output_text,
    room_for_answers,
)
from eztinker.recipes.finance.models import ServedModel, base_model
from eztinker.recipes.finance.parts import JudgeConfig
from eztinker.rendering.finance import LARGEST_MARK, MARKS, judgement_request
from eztinker.rl.candidates import sample_candidates


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """An output to be judged.

    Attributes:
        index: its place; comes back with the verdict.
        question: with its options.
        gold_answer: the right answer.
        output: what is judged, tags included.
    """

    index: int
    question: str
    gold_answer: str
    output: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge said.

    Attributes:
        index: of the request.
        marks: name -> 0 to 10; None when the verdict cannot be read or was not given.
        reason: in the judge's words.
        text: the whole verdict.
    """

    index: int
    marks: dict[str, float] | None
    reason: str = ""
    text: str = ""

    @property
    def score(self) -> float | None:
        """Mean of the marks, 0 to 10; None without marks."""
        return None if self.marks is None else fmean(self.marks.values())


class Judge(Protocol):
    """Judges outputs."""

    @property
    def identity(self) -> str:
        """What tells this judge from another; half-done work goes on only with the same."""
        ...

    def verdicts(self, requests: Sequence[JudgeRequest]) -> Iterator[Verdict]:
        """One verdict for each request, in any order, as they come."""
        ...


class ModelJudge:
    """A base model of the service, asked greedily, many outputs at one time.

    Args:
        client: of the server.
        config: which model, and how much it may write.
    """

    def __init__(self, client: Any, config: JudgeConfig) -> None:
        self._client, self._config = client, config
        self._model: ServedModel = base_model(client, config.model_name, config.quantization)

    @property
    def identity(self) -> str:
        """The model as the server holds it."""
        return self._model.name

    def verdicts(self, requests: Sequence[JudgeRequest]) -> Iterator[Verdict]:
        """Verdicts; what is too long for the judge has no marks."""
        tokenizer = self._model.tokenizer
        asked = [
            opened(tokenizer, judgement_request(one.question, one.gold_answer, one.output))
            for one in requests
        ]
        fitting, room = room_for_answers(
            tokenizer, asked, self._config.max_new_tokens, self._model.context
        )
        for place in sorted(set(range(len(asked))) - set(fitting)):
            yield Verdict(requests[place].index, None, text="prompt_too_long")
        for example, (candidate,) in sample_candidates(
            self._client,
            self._model.policy,
            tokenizer,
            examples(asked, fitting),
            answer_params(room, 0.0, 1.0),
            seed=0,
            purpose="judge",
        ):
            text = output_text(tokenizer, candidate, asked[example.example_id])
            yield read_judgement(requests[example.example_id].index, text)


def read_judgement(index: int, text: str) -> Verdict:
    """Marks and reason of a verdict's text."""
    return Verdict(index, read_marks(text, MARKS, LARGEST_MARK), read_reason(text), text)
