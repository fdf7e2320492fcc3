"""``chat``: a conversation in the terminal with one model, or with two that answer one after the other.

Keeps the messages of each; the server applies the model's chat template. Answers are printed as they are drawn.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eztinker.cli.options import (
    DEFAULT_TIMEOUT_S,
    ApiKey,
    BaseUrl,
    Checkpoint,
    MaxTokens,
    Model,
    RunId,
    Seed,
    Temperature,
    Timeout,
)
from eztinker.cli.output import note, print_piece, print_text
from eztinker.cli.texts import say
from eztinker.errors import InvalidRequestError

if TYPE_CHECKING:
    from eztinker.client.streams import ChatStream

TOP_K = 50
"""Likeliest tokens to draw from, as the native API has it."""


def chat(
    name: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help=say("chat model"), show_default=False)
    ] = None,
    other: Annotated[str | None, typer.Option("--vs", metavar="OTHER", help=say("chat vs"))] = None,
    run_id: RunId = None,
    checkpoint: Checkpoint = None,
    model: Model = None,
    system: Annotated[str | None, typer.Option("--system", help=say("chat system"))] = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.7,
    seed: Seed = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Read messages from the terminal (or a pipe, one a line) and print the answers."""
    weights = {"run_id": run_id, "checkpoint": checkpoint, "base_model": model}
    if name is not None and any(weights.values()):
        raise InvalidRequestError(
            "MODEL: given beside --run-id, --checkpoint or --model. Name the weights once.",
            field="model",
        )
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_k": TOP_K, "seed": seed}
    opening = [{"role": "system", "content": system}] if system else []
    from eztinker.client.streams import ChatStream

    with contextlib.closing(ChatStream(base_url, api_key, timeout)) as stream:
        speakers = [_Speaker(name or _model_of(run_id, checkpoint, model), opening)]
        if other is not None:
            speakers.append(_Speaker(other, opening))
        for speaker in speakers:
            speaker.look_up(stream)
        note(say("chat hint"))
        _converse(stream, speakers, sampling)


def _model_of(run_id: str | None, checkpoint: str | None, base_model: str | None) -> str | None:
    """What the server calls the weights that the options name; None for its default model."""
    if checkpoint is not None and run_id is None:
        raise InvalidRequestError(
            "--checkpoint: given without --run-id. Name the run that the checkpoint belongs to.",
            field="checkpoint",
        )
    if run_id is not None and base_model is not None:
        raise InvalidRequestError(
            "--model: given beside --run-id, which has a base model already. Send one of them.",
            field="base_model",
        )
    return f"{run_id}@{checkpoint}" if checkpoint is not None else run_id or base_model


class _Speaker:
    """One side of a chat: whose weights, and what was said with them.

    Attributes:
        model: a base model, a run or ``RUN@CHECKPOINT``; None until ``look_up`` asked for the server's default.
    """

    def __init__(self, model: str | None, opening: Sequence[dict[str, str]]) -> None:
        self.model = model
        self._opening = list(opening)
        self.reset()

    def look_up(self, stream: ChatStream) -> None:
        """Find out what answers; a name that the server does not know is refused before anybody types."""
        if self.model is None:
            self.model = stream.default_model()
        else:
            stream.check_model(self.model)

    def reset(self) -> None:
        """Start over."""
        self._messages = list(self._opening)

    def answer(self, stream: ChatStream, line: str, sampling: dict[str, Any]) -> None:
        """Print what this side says to the next message, as it comes."""
        assert self.model is not None
        asked = {"role": "user", "content": line}
        said = ""
        for piece in stream.pieces(self.model, [*self._messages, asked], **sampling):
            # Many models begin with a space or a line's end, which belongs to nothing on a terminal.
            print_piece(piece if said.strip() else piece.lstrip())
            said += piece
        print_piece("\n")
        self._messages += [asked, {"role": "assistant", "content": said}]


def _converse(stream: ChatStream, speakers: Sequence[_Speaker], sampling: dict[str, Any]) -> None:
    while (line := _read_line()) is not None and line not in ("/exit", "/quit"):
        if line == "/reset":
            for speaker in speakers:
                speaker.reset()
            note(say("chat reset"))
        elif line.startswith("/") and line[1:].isalpha():  # /help, or mistyped
            note(say("chat hint"))
        elif line:
            for speaker in speakers:
                if len(speakers) > 1:
                    print_text(f"[{speaker.model}]")
                speaker.answer(stream, line, sampling)


def _read_line() -> str | None:
    """The next message without its line end; None at the end of the input."""
    if sys.stdin.isatty():
        sys.stderr.write(f"{say('you')}> ")
        sys.stderr.flush()
    line = sys.stdin.readline()
    return line.strip() if line else None
