"""Who answers the test questions: a model of the service, or an OpenAI-compatible server such as vLLM.

Both take questions by their places and give back whole outputs; neither grades. Called by stage 6 and the ablation.
"""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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
from eztinker.recipes.finance.deployment import merged_folder, vllm_command
from eztinker.recipes.finance.models import ServedModel
from eztinker.recipes.finance.parts import EvaluationConfig
from eztinker.recipes.terminal import Progress
from eztinker.rendering.finance import finance_request
from eztinker.rendering.tokenizer import Tokenizer
from eztinker.rl.candidates import sample_candidates, seed_of

NUM_IN_FLIGHT = 16
ANSWER_TIMEOUT_S = 3_600.0
START_TIMEOUT_S = 1_200.0


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
        with ThreadPoolExecutor(NUM_IN_FLIGHT) as pool:
            yield from pool.map(lambda one: (one[0], self._ask(*one)), questions.items())

    def _ask(self, place: int, question: str) -> list[Output]:
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
        answer = _post(f"{self.base_url}/v1/chat/completions", body)
        return [
            Output(self.opening + (one["message"]["content"] or ""), one["finish_reason"])
            for one in answer["choices"]
        ]


def _post(url: str, body: dict[str, Any]) -> Any:
    import httpx

    try:
        answer = httpx.post(url, json=body, timeout=ANSWER_TIMEOUT_S)
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
        InvalidRequestError: the folder is an adapter.
        NotFoundError: there is no model in it.
        UnsupportedError: no URL, and vLLM is not installed.
    """
    evaluation = config.evaluation
    name = model_path or str(config.paths.merged_model)
    is_name_only = evaluation.vllm_url is not None and not Path(name).exists()
    folder = None if is_name_only else merged_folder(config, model_path)
    opening = "" if folder is None else _opening(folder)
    if evaluation.vllm_url is not None:
        base_url = evaluation.vllm_url.rstrip("/").removesuffix("/v1")
        yield EndpointAnswerer(base_url, name, evaluation, opening)
        return
    assert folder is not None  # without a URL it was looked at
    port = _free_port()
    command = vllm_command(
        config.with_parts(deploy={"host": "127.0.0.1", "port": port}), folder, name
    )
    base_url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        progress.say(" ".join(command))
        with subprocess.Popen(command, stdout=log, stderr=log) as process:  # noqa: S603  ours
            try:
                _wait_until_ready(base_url, process)
                yield EndpointAnswerer(base_url, name, evaluation, opening)
            finally:
                process.terminate()


def _opening(folder: Path) -> str:
    prompt = Tokenizer.from_folder(folder).render_chat(
        [{"role": "user", "content": "?"}], add_generation_prompt=True
    )
    return THINK if prompt.rstrip().endswith(THINK) else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_ready(base_url: str, process: subprocess.Popen[bytes]) -> None:
    import httpx

    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise ServerUnreachableError(
                f"vLLM ended at its start with exit code {process.returncode}. Run the printed command to see why."
            )
        with suppress(httpx.TransportError):  # it is not listening yet
            if httpx.get(f"{base_url}/health", timeout=2).is_success:
                return
        time.sleep(1)
    raise ServerUnreachableError(f"vLLM was not ready within {START_TIMEOUT_S:.0f} s.")
