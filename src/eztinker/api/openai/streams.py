"""Answers as server-sent events: a chunk for each piece of text that is settled, then the end.

The tokens come while they are drawn; ``finish_reason`` comes when the result is committed. Called by
``routes/openai.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from eztinker.api.openai.answers import Asked, chunk_choice, fingerprint, usage
from eztinker.api.openai.choices import Choice
from eztinker.api.openai.errors import error_body
from eztinker.engine.streams import DrawnTokens
from eztinker.errors import EZTinkerError
from eztinker.types.operations import SampleResult

if TYPE_CHECKING:
    from eztinker.service.service import Service

KEEP_ALIVE_S = 15.0
_KEEP_ALIVE = b": waiting\n\n"
_DONE = b"data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """A stream of events that tells someone when it is over, however it ended."""

    def __init__(
        self, events: AsyncIterator[bytes], *, at_end: Callable[[], Awaitable[None]]
    ) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, or stop at once when the client hangs up."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._at_end()


async def events(
    service: Service, asked: Asked, results: Callable[[], Awaitable[list[SampleResult]]]
) -> AsyncIterator[bytes]:
    """The stream of one request.

    Args:
        service: where the jobs run.
        asked: the request and its jobs.
        results: waits for the committed results; raises what made a job fail.
    """
    writer = _Writer(asked)
    try:
        yield writer.opening()
        async for drawn in service.jobs.follow(asked.job_ids, patience_s=KEEP_ALIVE_S):
            events = writer.pieces(drawn) if drawn else _KEEP_ALIVE
            if events:
                yield events
        yield writer.ending(await results())
    except EZTinkerError as error:
        yield _event(error_body(error))


class _Writer:
    """Turns tokens into chunks."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._choices = asked.choices()
        self._head = asked.head(is_chunk=True)
        options = asked.body.stream_options
        self._counts = options is not None and bool(options.include_usage)
        # The prompt's log-probabilities come with the result, and its text belongs beside them.
        self._waits_for_scores = asked.operations[0].prompt_logprobs

    def opening(self) -> bytes:
        """The roles of a chat's answers, or the prompts where they are echoed."""
        written = []
        for operation, row in zip(self._asked.operations, self._choices, strict=True):
            for choice in row:
                if self._asked.is_chat:
                    written.append(self._chunk(choice, "", None, role=True))
                elif self._asked.echoes and not self._waits_for_scores:
                    text, _ = choice.echo(operation, None, self._asked.tokenizer)
                    written.append(self._chunk(choice, text, None))
        return b"".join(written) or _KEEP_ALIVE

    def pieces(self, drawn: list[tuple[int, DrawnTokens]]) -> bytes:
        """One chunk for each sample that has something to say.

        Args:
            drawn: (number of the prompt, tokens).
        """
        if self._waits_for_scores:
            return b""
        told: dict[Choice, list[tuple[str, Any]]] = {}
        for prompt, new in drawn:
            choice = self._choices[prompt][new.sample]
            piece = choice.push(new.tokens, new.logprobs, new.topk_ids, new.topk_logprobs)
            if piece[0] or piece[1] is not None:
                told.setdefault(choice, []).append(piece)
        written = []
        for choice, parts in told.items():
            text = "".join(text for text, _ in parts)
            logprobs = choice.join_logprobs([logprobs for _, logprobs in parts])
            written.append(self._chunk(choice, text, logprobs))
        return b"".join(written)

    def ending(self, results: list[SampleResult]) -> bytes:
        """What was held back, why each answer ended, and the counts."""
        self._head["system_fingerprint"] = fingerprint(results)
        written = []
        rows = zip(self._asked.operations, results, self._choices, strict=True)
        for operation, result, row in rows:
            for choice, sequence in zip(row, result.sequences, strict=True):
                if self._waits_for_scores:
                    written.append(
                        self._chunk(choice, *choice.echo(operation, result, self._asked.tokenizer))
                    )
                rest = choice.finish(sequence) if operation.params.max_tokens else ("", None)
                if rest[0] or rest[1] is not None:
                    written.append(self._chunk(choice, *rest))
                written.append(self._chunk(choice, "", None, finish_reason=sequence.stop_reason))
        if self._counts:
            written.append(_event({**self._head, "choices": [], "usage": usage(results)}))
        return b"".join([*written, _DONE])

    def _chunk(self, choice: Choice, text: str, logprobs: Any, **kwargs: Any) -> bytes:
        entry = chunk_choice(self._asked, choice, text, logprobs, **kwargs)
        chunk = {**self._head, "choices": [entry]}
        return _event({**chunk, "usage": None} if self._counts else chunk)


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"
