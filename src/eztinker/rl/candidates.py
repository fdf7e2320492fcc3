"""Candidates: answers sampled from a run, which remember the tokens they were sampled as.

Samples many prompts at once and turns answers into training data with the prompt masked. It knows the client
and a tokenizer; it grades nothing and chooses nothing. Called by ``rejection_sampler.py``, ``evaluation.py`` and
the recipes.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from eztinker.errors import EZTinkerError, InvalidRequestError
from eztinker.rendering.supervised import SupervisedExample

DEFAULT_STOP = ("\nQuestion:",)
"""A base model likes to go on with a question of its own after its answer; this ends it there."""
JOB_TIMEOUT_S = 86_400.0
"""A job may wait behind a long queue; a client that gives up would only ask again."""
MAX_IN_FLIGHT = 128
"""Prompts at the server at one time: enough for it to decode them together, few enough for its queue."""


class Candidate(str):
    """An answer as text, without the prompt: a plain string to everyone who does not ask further.

    Attributes:
        prompt_tokens: ids that it continues; empty when it was not sampled by this module.
        tokens: ids that were sampled, the end token included; empty when a stop text cut the answer, for then
            they say more than the text.
        stop_reason: ``stop`` or ``length``.
    """

    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    stop_reason: str

    def __new__(
        cls,
        text: str,
        prompt_tokens: Sequence[int] = (),
        tokens: Sequence[int] = (),
        stop_reason: str = "stop",
    ) -> Candidate:
        """Make one from its text and tokens."""
        candidate = super().__new__(cls, text)
        candidate.prompt_tokens = tuple(prompt_tokens)
        candidate.tokens = tuple(tokens)
        candidate.stop_reason = stop_reason
        return candidate


@dataclass(frozen=True, slots=True)
class Example:
    """A row of a data set, as ``get_example_question`` gives it, with its place."""

    example_id: int
    question: str
    prompt: str
    ground_truth: str


@dataclass(frozen=True, slots=True)
class Policy:
    """Whose weights answer: a run as it is now, a checkpoint of it, or a bare base model.

    Attributes:
        run_id: the run; None for a base model.
        checkpoint: name of one of its checkpoints; None for its current weights.
        base_model: name of the base model; None for a run.
    """

    run_id: str | None = None
    checkpoint: str | None = None
    base_model: str | None = None

    def as_arguments(self) -> dict[str, str]:
        """Arguments of ``client.sample``."""
        named = {
            "run_id": self.run_id,
            "checkpoint": self.checkpoint,
            "base_model": self.base_model,
        }
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class CandidateParams:
    """How to sample candidates; what is not named here (top_k) is the API's default.

    Attributes:
        num_candidates: answers for each prompt, at least 1.
        temperature: 0 is greedy.
        max_new_tokens: most tokens of one answer.
        stop: texts that end an answer, beside the model's end tokens.
        max_length: most tokens of prompt and answer together; a longer prompt loses its oldest tokens. None: the
            server refuses what does not fit the model.
        top_p: nucleus mass, above 0 up to 1.
    """

    num_candidates: int = 8
    temperature: float = 0.8
    max_new_tokens: int = 256
    stop: tuple[str, ...] = DEFAULT_STOP
    max_length: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.num_candidates < 1:
            raise InvalidRequestError(
                f"num_candidates must be at least 1, got {self.num_candidates}.",
                field="num_candidates",
            )
        if self.max_length is not None and self.max_length <= self.max_new_tokens:
            raise InvalidRequestError(
                f"max_length ({self.max_length}) must exceed max_new_tokens ({self.max_new_tokens}): the rest is "
                "the room for the prompt.",
                field="max_length",
            )

    def greedy(self) -> CandidateParams:
        """One answer, always the likeliest token."""
        return replace(self, num_candidates=1, temperature=0.0, top_p=1.0)


def examples_of(dataset: Any, limit: int | None = None) -> list[Example]:
    """The first ``limit`` rows of a data set (all when None or when it has fewer)."""
    size = len(dataset) if limit is None else min(limit, len(dataset))
    return [Example(i, *dataset.get_example_question(i)) for i in range(size)]


def encode_prompt(tokenizer: Any, prompt: str | None, question: str) -> list[int]:
    """Token ids of a prompt; without one, ``question`` becomes a user turn in the model's chat template."""
    turn = [{"role": "user", "content": question}]
    text: str = prompt or tokenizer.apply_chat_template(
        turn, tokenize=False, add_generation_prompt=True
    )
    # A prompt rendered from a chat template may hold its start token already.
    start = getattr(tokenizer, "bos_token", None)
    has_start = bool(start) and text.startswith(start)
    return list(tokenizer.encode(text, add_special_tokens=not has_start))


def prompt_tokens_of(tokenizer: Any, example: Example, params: CandidateParams) -> list[int]:
    """Token ids of an example's prompt, shortened to the room that ``params.max_length`` leaves."""
    prompt_tokens = encode_prompt(tokenizer, example.prompt, example.question)
    if params.max_length is None:
        return prompt_tokens
    return prompt_tokens[-(params.max_length - params.max_new_tokens) :]


def sample_candidates(
    client: Any,
    policy: Policy | str,
    tokenizer: Any,
    examples: Iterable[Example],
    params: CandidateParams,
    *,
    seed: int | None,
    purpose: str = "",
) -> Iterator[tuple[Example, list[Candidate]]]:
    """Sample candidates for each example from the policy's weights, in the order of the examples.

    Up to ``MAX_IN_FLIGHT`` prompts are at the server while results are read, so it decodes them together and
    each prompt once for all its candidates.

    Args:
        policy: who answers; a run's id is short for its current weights.
        seed: equal seeds, purposes and weights give equal candidates; None draws anew.
        purpose: what the samples are for (such as an epoch's name); purposes do not share random numbers.
    """
    if isinstance(policy, str):
        policy = Policy(run_id=policy)
    waiting: deque[tuple[Example, list[int], Any]] = deque()
    try:
        for example in examples:
            if len(waiting) >= MAX_IN_FLIGHT:
                yield _collect(client, tokenizer, params, *waiting.popleft())
            prompt_tokens = prompt_tokens_of(tokenizer, example, params)
            drawn = None if seed is None else seed_of(seed, purpose, example.example_id)
            handle = _submit(client, policy, prompt_tokens, params, drawn)
            waiting.append((example, prompt_tokens, handle))
        while waiting:
            yield _collect(client, tokenizer, params, *waiting.popleft())
    finally:
        for _, _, handle in waiting:  # only when interrupted: nobody will read these
            with suppress(EZTinkerError, TimeoutError):
                handle.cancel()


def seed_of(seed: int, purpose: str, example_id: int) -> int:
    """A seed of its own for each request, the same on every machine; 0 to 2^31 - 1."""
    return zlib.crc32(f"{seed}/{purpose}/{example_id}".encode()) & 0x7FFF_FFFF


def _submit(
    client: Any,
    policy: Policy,
    prompt_tokens: list[int],
    params: CandidateParams,
    seed: int | None,
) -> Any:
    return client.submit_sample(
        prompt_tokens,
        max_new_tokens=params.max_new_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        **policy.as_arguments(),
        num_samples=params.num_candidates,
        stop=list(params.stop) or None,
        seed=seed,
    )


def _collect(
    client: Any,
    tokenizer: Any,
    params: CandidateParams,
    example: Example,
    prompt_tokens: list[int],
    handle: Any,
) -> tuple[Example, list[Candidate]]:
    job = client.wait_for_job(handle.job_id, timeout=JOB_TIMEOUT_S, polling_interval=0.05)
    candidates: list[Candidate] = []
    for sequence in job["result"]["sequences"]:
        tokens = () if _is_cut(tokenizer, sequence, params.stop) else sequence["tokens"]
        text, reason = sequence["text"], sequence["stop_reason"]
        candidates.append(Candidate(text, prompt_tokens, tokens, reason))
    return example, candidates


def _is_cut(tokenizer: Any, sequence: dict[str, Any], stop: tuple[str, ...]) -> bool:
    """Whether a stop text ended the answer: it is in the tokens, but not in the text."""
    if not stop or sequence["stop_reason"] != "stop":
        return False
    whole = tokenizer.decode(
        sequence["tokens"], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return any(text in whole for text in stop)


def whole_text(tokenizer: Any, candidate: Candidate) -> str:
    """An answer with its think marks, which count as special tokens in some vocabularies, without end tokens."""
    if not candidate.tokens:
        return str(candidate)
    tokens = list(candidate.tokens)
    if candidate.stop_reason == "stop":
        tokens = tokens[:-1]
    return tokenizer.decode(
        tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
    ).strip()


def training_datum(
    tokenizer: Any, answer: str, prompt: str | None, question: str
) -> dict[str, list[Any]] | None:
    """One datum for ``forward_backward``: loss on the answer and its end token, none on the prompt.

    A ``Candidate`` is trained as the very tokens that were sampled. A plain string, or a candidate that a stop
    text cut short, is encoded anew and ended with the end token.

    Returns:
        ``input_ids``, ``target_ids`` (-100 on the prompt), ``weights``; None when the answer has no token.
    """
    prompt_tokens = list(getattr(answer, "prompt_tokens", ())) or encode_prompt(
        tokenizer, prompt, question
    )
    answer_tokens = _answer_tokens(tokenizer, answer)
    if not answer_tokens:
        return None
    weights = [0.0] * len(prompt_tokens) + [1.0] * len(answer_tokens)
    return SupervisedExample(prompt_tokens + answer_tokens, weights).as_dict()


def _answer_tokens(tokenizer: Any, answer: str) -> list[int]:
    sampled: list[int] = list(getattr(answer, "tokens", ()))
    if sampled:
        return sampled
    end = tokenizer.eos_token_id
    encoded: list[int] = list(tokenizer.encode(str(answer), add_special_tokens=False))
    return encoded if end is None else [*encoded, end]
