"""Teachers: who writes reasoning and answer to a question. A base model of the service, or anything with ``answers``.

Knows no files. Called by stage 2; a program may pass a teacher of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from eztinker.recipes.finance.asking import (
    Asked,
    answer_params,
    ask,
    examples,
    output_text,
    room_for_answers,
)
from eztinker.recipes.finance.models import ServedModel, base_model
from eztinker.recipes.finance.parts import TeacherConfig
from eztinker.rl.candidates import sample_candidates


@dataclass(frozen=True, slots=True)
class TeacherRequest:
    """A question put to the teacher.

    Attributes:
        index: its place in the data.
        question: with its options.
        attempt: 1 for the first time; later ones follow an answer without the form.
    """

    index: int
    question: str
    attempt: int


@dataclass(frozen=True, slots=True)
class TeacherAnswer:
    """What came back.

    Attributes:
        index: of the request.
        text: the whole output, tags included.
        is_cut: whether the limit of tokens ended it.
        num_tokens: that it took.
        refusal: why the question was not asked at all (``prompt_too_long``); empty when it was.
    """

    index: int
    text: str
    is_cut: bool = False
    num_tokens: int = 0
    refusal: str = ""


class Teacher(Protocol):
    """Answers questions with their reasoning."""

    @property
    def identity(self) -> str:
        """What tells this teacher from another; a half-done distillation goes on only with the same."""
        ...

    def answers(self, requests: Sequence[TeacherRequest]) -> Iterator[TeacherAnswer]:
        """One answer for each request, in any order, as they come."""
        ...


class ModelTeacher:
    """A base model of the service; many questions are at the server at one time.

    Args:
        client: of the server.
        config: which model, and how it is asked.
        seed: of its answers.
    """

    def __init__(self, client: Any, config: TeacherConfig, seed: int) -> None:
        self._client, self._config, self._seed = client, config, seed
        self._model: ServedModel = base_model(client, config.model_name, config.quantization)

    @property
    def identity(self) -> str:
        """The model as the server holds it."""
        return self._model.name

    def answers(self, requests: Sequence[TeacherRequest]) -> Iterator[TeacherAnswer]:
        """Sampled answers; the same seed gives the same ones."""
        tokenizer, config = self._model.tokenizer, self._config
        asked = [ask(tokenizer, one.question, is_reminder=one.attempt > 1) for one in requests]
        fitting, room = room_for_answers(
            tokenizer, asked, config.max_new_tokens, self._model.context
        )
        for place in sorted(set(range(len(asked))) - set(fitting)):
            yield TeacherAnswer(requests[place].index, "", refusal="prompt_too_long")
        params = answer_params(room, config.temperature, config.top_p)
        for attempt in sorted({one.attempt for one in requests}):
            places = [i for i in fitting if requests[i].attempt == attempt]
            yield from self._sampled(requests, asked, places, params, f"distil {attempt}")

    def _sampled(
        self,
        requests: Sequence[TeacherRequest],
        asked: Sequence[Asked],
        places: Sequence[int],
        params: Any,
        purpose: str,
    ) -> Iterator[TeacherAnswer]:
        # The example's number seeds its answer, so it is the question's place, whatever is asked beside it.
        by_index = {requests[i].index: i for i in places}
        wanted = [
            type(one)(requests[one.example_id].index, "", one.prompt, "")
            for one in examples(asked, places)
        ]
        for example, (candidate,) in sample_candidates(
            self._client, self._model.policy, self._model.tokenizer, wanted, params, seed=self._seed, purpose=purpose
        ):  # fmt: skip
            place = by_index[example.example_id]
            text = output_text(self._model.tokenizer, candidate, asked[place])
            is_cut = candidate.stop_reason == "length"
            yield TeacherAnswer(example.example_id, text, is_cut, len(candidate.tokens))
