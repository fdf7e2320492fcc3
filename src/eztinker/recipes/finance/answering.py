"""Who answers the test questions: a model of the service, or an OpenAI-compatible server such as vLLM.

Both take questions by their places and give back whole outputs; neither grades. Called by stage 6 and the ablation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eztinker.client.transport import LOOPBACK_HOSTS
from eztinker.errors import InvalidRequestError, ServerUnreachableError
from eztinker.recipes.finance.asking import (
    THINK,
    answer_params,
    ask,
    examples,
    output_text,
    room_for_answers,
)
from eztinker.recipes.finance.config import FinanceConfig
from eztinker.recipes.finance.deployment import DEFAULT_NAME, merged_folder
from eztinker.recipes.finance.models import ServedModel
from eztinker.recipes.finance.parts import EvaluationConfig
from eztinker.recipes.finance.vllm_server import vllm_command, vllm_running
from eztinker.recipes.terminal import Progress
from eztinker.rendering.finance import finance_request
from eztinker.rendering.tokenizer import Tokenizer
from eztinker.rl.candidates import sample_candidates, seed_of

if TYPE_CHECKING:
    import httpx

NUM_IN_FLIGHT = 16
ANSWER_TIMEOUT_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Output:
    """One answer.

    Attributes:
        text: whole, tags included; empty where the question was not asked.
        reason: ``stop``, ``length`` (the limit of tokens cut it), or ``prompt_too_long``.
    """

    text: str
    reason: str


class Answerer(Protocol):
    """Answers questions."""

    @property
    def identity(self) -> str:
        """What tells it from another; a half-done evaluation goes on only with the same."""
        ...

    def outputs(self, questions: Mapping[int, str]) -> Iterator[tuple[int, list[Output]]]:
        """``num_samples`` outputs for each question, under its place, as they come."""
        ...


@dataclass(frozen=True)
class ServiceAnswerer:
    """A model of the service, many questions at one time.

    Attributes:
        client: of the server.
        model: who answers.
        config: how it is asked.
        max_length: most tokens of prompt and answer.
    """

    client: Any
    model: ServedModel
    config: EvaluationConfig
    max_length: int

    @property
    def identity(self) -> str:
        """Base model and, with an adapter, the run that holds it."""
        policy = self.model.policy
        parts = (self.model.name, policy.run_id, policy.checkpoint)
        return " ".join(part for part in parts if part)

    def outputs(self, questions: Mapping[int, str]) -> Iterator[tuple[int, list[Output]]]:
        """Outputs; a question too long for the model has empty ones."""
        config, tokenizer, model = self.config, self.model.tokenizer, self.model
        places = list(questions)
        asked = [ask(tokenizer, questions[place]) for place in places]
        longest = self.max_length if model.context is None else min(self.max_length, model.context)
        fitting, room = room_for_answers(tokenizer, asked, config.max_new_tokens, longest)
        for i in sorted(set(range(len(asked))) - set(fitting)):
            yield places[i], [Output("", "prompt_too_long")] * config.num_samples
        params = answer_params(room, config.temperature, config.top_p, config.num_samples)
        by_place = dict(zip(places, asked, strict=True))
        wanted = [
            type(one)(places[one.example_id], "", one.prompt, "")
            for one in examples(asked, fitting)
        ]
        for example, candidates in sample_candidates(
            self.client, model.policy, tokenizer, wanted, params, seed=config.seed, purpose="evaluation"
        ):  # fmt: skip
            one = by_place[example.example_id]
            outputs = [Output(output_text(tokenizer, c, one), c.stop_reason) for c in candidates]
            yield example.example_id, outputs


@dataclass(frozen=True)
class EndpointAnswerer:
    """A model behind an OpenAI-compatible server.

    Attributes:
        base_url: up to ``/v1``.
        name: of the model there.
        config: how it is asked.
        opening: what its chat template opens of the answer (``<think>``).
    """

    base_url: str
    name: str
    config: EvaluationConfig
    opening: str = ""

    @property
    def identity(self) -> str:
        """The model's name; the address may change between two starts."""
        return f"{self.name} (OpenAI-compatible server)"

    def outputs(self, questions: Mapping[int, str]) -> Iterator[tuple[int, list[Output]]]:
        """Outputs, ``NUM_IN_FLIGHT`` questions at one time.

        Raises:
            ServerUnreachableError: nobody answers there.
            InvalidRequestError: it refused; the message is its own.
        """
        import httpx

        # A proxy of the environment cannot reach this machine's own loopback address.
        is_here = httpx.URL(self.base_url).host in LOOPBACK_HOSTS
        with (
            httpx.Client(timeout=ANSWER_TIMEOUT_S, trust_env=not is_here) as client,
            ThreadPoolExecutor(NUM_IN_FLIGHT) as pool,
        ):
            yield from pool.map(lambda one: (one[0], self._ask(client, *one)), questions.items())

    def _ask(self, client: httpx.Client, place: int, question: str) -> list[Output]:
        config = self.config
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": finance_request(question)}],
            "max_tokens": config.max_new_tokens,
            "temperature": config.temperature,
            "n": config.num_samples,
            "seed": seed_of(config.seed, "evaluation", place),
        }
        if config.temperature:
            body["top_p"] = config.top_p
        answer = _post(client, f"{self.base_url}/v1/chat/completions", body)
        return [
            Output(self.opening + (one["message"]["content"] or ""), one["finish_reason"])
            for one in answer["choices"]
        ]


def _post(client: httpx.Client, url: str, body: dict[str, Any]) -> Any:
    import httpx

    try:
        answer = client.post(url, json=body)
    except httpx.TransportError as error:
        raise ServerUnreachableError(
            f"No OpenAI-compatible server answers at {url}: {error}. Start it, or set EVAL_CONFIG.vllm_url."
        ) from error
    if answer.is_error:
        raise InvalidRequestError(
            f"{url} refused with {answer.status_code}: {answer.text[:500]}", field="vllm_url"
        )
    return json.loads(answer.text)


@contextmanager
def vllm_answerer(
    config: FinanceConfig, model_path: str | None, progress: Progress
) -> Iterator[EndpointAnswerer]:
    """The model behind ``EVAL_CONFIG.vllm_url``, else behind a vLLM started here, which ends with the block.

    Args:
        model_path: folder of a whole model, or with a URL the model's name there; None takes the merged model.

    Raises:
        ServerUnreachableError: the vLLM that was started here ended, or was not ready in time.
        EZTinkerError: as of ``check_vllm``.
    """
    evaluation = config.evaluation
    name = model_path or DEFAULT_NAME  # as stage 7 serves it
    folder = _folder(config, model_path)
    opening = "" if folder is None else _opening(folder)
    if evaluation.vllm_url is not None:
        base_url = evaluation.vllm_url.rstrip("/").removesuffix("/v1")
        yield EndpointAnswerer(base_url, name, evaluation, opening)
        return
    assert folder is not None  # without a URL it was looked at
    with vllm_running(config, folder, name, progress) as base_url:
        yield EndpointAnswerer(base_url, name, evaluation, opening)


def check_vllm(config: FinanceConfig, model_path: str | None) -> None:
    """Refuse what ``vllm_answerer`` cannot serve, before anything is started; arguments as there.

    Raises:
        InvalidRequestError: the folder is an adapter, or the interpreter is not there.
        NotFoundError: there is no model in it.
        UnsupportedError: no URL, and vLLM is not installed.
    """
    folder = _folder(config, model_path)
    if folder is not None and config.evaluation.vllm_url is None:
        vllm_command(config, folder, DEFAULT_NAME)


def _folder(config: FinanceConfig, model_path: str | None) -> Path | None:
    """Where the whole model lies; None when only the server at the URL knows it."""
    place = config.paths.merged_model if model_path is None else Path(model_path)
    is_name_only = config.evaluation.vllm_url is not None and not place.exists()
    return None if is_name_only else merged_folder(config, model_path)


def _opening(folder: Path) -> str:
    prompt = Tokenizer.from_folder(folder).render_chat(
        [{"role": "user", "content": "?"}], add_generation_prompt=True
    )
    return THINK if prompt.rstrip().endswith(THINK) else ""
