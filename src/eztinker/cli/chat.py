"""``chat``: a conversation in the terminal with one model, or with two that answer one after the other.

Keeps the messages of each; the server applies the model's chat template. Answers come whole.
"""

from __future__ import annotations

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
    connect,
)
from eztinker.cli.output import note, print_text
from eztinker.cli.texts import say
from eztinker.errors import InvalidRequestError

if TYPE_CHECKING:
    from eztinker.client.client import EZTinkerClient


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
    sampling = {"max_new_tokens": max_tokens, "temperature": temperature, "seed": seed}
    opening = [{"role": "system", "content": system}] if system else []
    with connect(base_url, api_key, timeout) as client:
        if name is not None:
            weights = _weights(client, name)
        speakers = [_Speaker(name or say("chat first"), weights, opening)]
        if other is not None:
            speakers.append(_Speaker(other, _weights(client, other), opening))
        note(say("chat hint"))
        _converse(client, speakers, sampling)


class _Speaker:
    """One side of a chat: whose weights, and what was said with them.

    Attributes:
        name: shown above the answers where there are two sides.
        weights: the fields of a sampling request that name them.
    """

    def __init__(
        self, name: str, weights: dict[str, Any], opening: Sequence[dict[str, str]]
    ) -> None:
        self.name = name
        self.weights = weights
        self._opening = list(opening)
        self.reset()

    def reset(self) -> None:
        """Start over."""
        self._messages = list(self._opening)

    def answer(self, client: EZTinkerClient, line: str, sampling: dict[str, Any]) -> str:
        """What this side says to the next message."""
        asked = {"role": "user", "content": line}
        said = client.sample([*self._messages, asked], num_samples=1, **self.weights, **sampling)[0]
        self._messages += [asked, {"role": "assistant", "content": said}]
        return said.strip()


def _weights(client: EZTinkerClient, name: str) -> dict[str, Any]:
    """The fields of a sampling request for a base model, a run, or ``RUN@CHECKPOINT``."""
    entry = next((entry for entry in client.get_models() if entry["id"] == name), None)
    kind = entry["kind"] if entry else "base_model"
    if kind == "run":
        return {"run_id": name}
    if kind == "checkpoint" and entry is not None:
        return {"run_id": entry["run_id"], "checkpoint": entry["checkpoint"]}
    return {"base_model": name}


def _converse(
    client: EZTinkerClient, speakers: Sequence[_Speaker], sampling: dict[str, Any]
) -> None:
    while (line := _read_line()) is not None and line != "/exit":
        if line == "/reset":
            for speaker in speakers:
                speaker.reset()
            note(say("chat reset"))
        elif line:
            for speaker in speakers:
                if len(speakers) > 1:
                    print_text(f"[{speaker.name}]")
                print_text(speaker.answer(client, line, sampling))


def _read_line() -> str | None:
    """The next message without its line end; None at the end of the input."""
    if sys.stdin.isatty():
        sys.stderr.write(f"{say('you')}> ")
        sys.stderr.flush()
    line = sys.stdin.readline()
    return line.strip() if line else None
