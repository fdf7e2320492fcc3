"""``chat``: a conversation in the terminal, one answer at a time.

Keeps the messages; the server applies the model's chat template. Answers come whole.
"""

from __future__ import annotations

import sys
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

if TYPE_CHECKING:
    from eztinker.client.client import EZTinkerClient


def chat(
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
    sampling = {
        "max_new_tokens": max_tokens,
        "temperature": temperature,
        "run_id": run_id,
        "checkpoint": checkpoint,
        "base_model": model,
        "seed": seed,
    }
    opening = [{"role": "system", "content": system}] if system else []
    with connect(base_url, api_key, timeout) as client:
        note(say("chat hint"))
        _converse(client, opening, sampling)


def _converse(
    client: EZTinkerClient, opening: list[dict[str, str]], sampling: dict[str, Any]
) -> None:
    messages = list(opening)
    while (line := _read_line()) is not None and line != "/exit":
        if line == "/reset":
            messages = list(opening)
            note(say("chat reset"))
        elif line:
            messages.append({"role": "user", "content": line})
            answer = client.sample(messages, num_samples=1, **sampling)[0]
            messages.append({"role": "assistant", "content": answer})
            print_text(answer.strip())


def _read_line() -> str | None:
    """The next message without its line end; None at the end of the input."""
    if sys.stdin.isatty():
        sys.stderr.write(f"{say('you')}> ")
        sys.stderr.flush()
    line = sys.stdin.readline()
    return line.strip() if line else None
