"""One answer of many: its text and its log-probabilities, piece by piece as tokens settle.

Streams and whole answers are made by the same steps, so that they cannot differ. Pure. Called by ``answers.py``
and ``streams.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eztinker.models.openai import ChatCompletionRequest, CompletionRequest
from eztinker.rendering.answer_text import AnswerText, Piece
from eztinker.rendering.tokenizer import Tokenizer
from eztinker.types.operations import Sample, SampleResult
from eztinker.types.sampling import SampledSequence

LOWEST_LOGPROB = -9999.0
"""What this API says for minus infinity, which JSON cannot."""


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What is told of one token.

    Attributes:
        token: its id.
        logprob: None for the first of a prompt.
        top: the likeliest (id, log-probability) at its place, best first.
    """

    token: int
    logprob: float | None
    top: list[tuple[int, float]]


class Choice:
    """One answer to one prompt.

    Args:
        body: the request.
        operation: of the answer's prompt.
        tokenizer: of the model.
        index: its number among the answers of the request.

    Attributes:
        index: as given.
        num_tokens: drawn so far.
    """

    def __init__(
        self,
        body: ChatCompletionRequest | CompletionRequest,
        operation: Sample,
        tokenizer: Tokenizer,
        index: int,
    ) -> None:
        is_chat = isinstance(body, ChatCompletionRequest)
        stop_ids = operation.params.stop_token_ids
        self.index = index
        self.num_tokens = 0
        self._logprobs = _ChatLogprobs(tokenizer) if is_chat else _TextLogprobs(tokenizer)
        self._tells_logprobs = bool(body.logprobs) if is_chat else body.logprobs is not None
        self._facts: deque[TokenFacts] = deque()
        self._text = AnswerText(
            tokenizer,
            stop=operation.params.stop,
            end_ids=tokenizer.eos_token_ids if stop_ids is None else stop_ids,
            prompt_tokens=() if is_chat else operation.prompt_tokens.tolist(),
        )

    def push(
        self,
        tokens: Sequence[int],
        logprobs: Sequence[float],
        topk_ids: Sequence[Sequence[int]],
        topk_logprobs: Sequence[Sequence[float]],
    ) -> tuple[str, Any]:
        """Add tokens; text and log-probabilities that are settled now, both often empty.

        Args:
            tokens, logprobs: successive ones.
            topk_ids, topk_logprobs: the likeliest at each place; empty unless asked for.
        """
        self.num_tokens += len(tokens)
        if self._tells_logprobs:
            for place, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
                top = zip(topk_ids[place], topk_logprobs[place], strict=True) if topk_ids else ()
                self._facts.append(TokenFacts(token, logprob, list(top)))
        return self._settled(self._text.push(tokens))

    def finish(self, sequence: SampledSequence) -> tuple[str, Any]:
        """The rest: tokens of the result that were not pushed yet, and what was held back."""
        known = self.num_tokens
        text, told = self.push(
            sequence.tokens[known:],
            sequence.logprobs[known:],
            sequence.topk_ids[known:],
            sequence.topk_logprobs[known:],
        )
        last, told_last = self._settled(self._text.finish(stopped=sequence.stop_reason == "stop"))
        return text + last, self._logprobs.joined([told, told_last])

    def echo(
        self, operation: Sample, result: SampleResult | None, tokenizer: Tokenizer
    ) -> tuple[str, Any]:
        """The prompt's text and, when it was scored, its log-probabilities."""
        tokens = operation.prompt_tokens.tolist()
        text = tokenizer.decode(tokens)
        if result is None or result.prompt_logprobs is None or not self._tells_logprobs:
            return text, None
        logprobs = result.prompt_logprobs.tolist()
        tops = _prompt_tops(result)
        facts = [
            TokenFacts(token, None if place == 0 else logprobs[place], tops[place])
            for place, token in enumerate(tokens)
        ]
        return text, self._logprobs.told(facts)

    def join_logprobs(self, parts: list[Any]) -> Any:
        """Log-probabilities of successive parts as one."""
        return self._logprobs.joined(parts)

    def _settled(self, piece: Piece) -> tuple[str, Any]:
        if not self._tells_logprobs:
            return piece.text, None
        num_settled = min(piece.num_tokens, len(self._facts))
        facts = [self._facts.popleft() for _ in range(num_settled)]
        return piece.text, self._logprobs.told(facts) if facts else None


def _prompt_tops(result: SampleResult) -> list[list[tuple[int, float]]]:
    ids, logprobs = result.topk_prompt_ids, result.topk_prompt_logprobs
    if ids is None or logprobs is None:
        return [[] for _ in range(result.num_prompt_tokens)]
    rows = zip(ids.tolist(), logprobs.tolist(), strict=True)
    return [list(zip(*row, strict=True)) if place else [] for place, row in enumerate(rows)]


def finite(logprob: float | None) -> float | None:
    """A log-probability that JSON can carry."""
    if logprob is None or np.isnan(logprob):
        return None
    return max(logprob, LOWEST_LOGPROB)


class _ChatLogprobs:
    """``{"content": [{token, logprob, bytes, top_logprobs}]}``."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def told(self, facts: list[TokenFacts]) -> dict[str, Any]:
        """Of some tokens."""
        content = [
            {
                **self._entry(fact.token, fact.logprob),
                "top_logprobs": [self._entry(token, logprob) for token, logprob in fact.top],
            }
            for fact in facts
        ]
        return {"content": content, "refusal": None}

    def joined(self, parts: list[Any]) -> dict[str, Any] | None:
        """Of successive parts."""
        told = [entry for part in parts if part is not None for entry in part["content"]]
        return {"content": told, "refusal": None} if told else None

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        spelled = self._tokenizer.token_bytes(token)
        text = spelled.decode("utf-8", "backslashreplace")
        return {"token": text, "logprob": finite(logprob), "bytes": list(spelled)}


class _TextLogprobs:
    """``{"tokens", "token_logprobs", "top_logprobs", "text_offset"}``, lists side by side."""

    _LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes_so_far = b""

    def told(self, facts: list[TokenFacts]) -> dict[str, Any]:
        """Of some tokens; places count characters of the answer's text."""
        offsets = []
        for fact in facts:
            offsets.append(len(self._bytes_so_far.decode("utf-8", "ignore")))
            self._bytes_so_far += self._tokenizer.token_bytes(fact.token)
        return {
            "tokens": [self._spelled(fact.token) for fact in facts],
            "token_logprobs": [finite(fact.logprob) for fact in facts],
            "top_logprobs": [self._top(fact) for fact in facts],
            "text_offset": offsets,
        }

    def joined(self, parts: list[Any]) -> dict[str, Any] | None:
        """Of successive parts."""
        told = [part for part in parts if part is not None]
        if not told:
            return None
        return {name: [entry for part in told for entry in part[name]] for name in self._LISTS}

    def _top(self, fact: TokenFacts) -> dict[str, float | None] | None:
        if fact.logprob is None or not fact.top:
            return None
        pairs = [*fact.top, (fact.token, fact.logprob)]
        return {self._spelled(token): finite(logprob) for token, logprob in pairs}

    def _spelled(self, token: int) -> str:
        spelled = self._tokenizer.token_bytes(token)
        try:
            return spelled.decode("utf-8")
        except UnicodeDecodeError:
            return f"bytes:{spelled.decode('utf-8', 'backslashreplace')}"
