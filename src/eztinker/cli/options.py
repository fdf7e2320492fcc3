"""Options that many commands share, each written once, and the client they ask for.

Called by the command files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from eztinker.cli.texts import say

if TYPE_CHECKING:
    from eztinker.client.client import EZTinkerClient

BaseUrl = Annotated[
    str | None,
    typer.Option("--base-url", envvar="EZTINKER_BASE_URL", help=say("option base-url")),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key", envvar="EZTINKER_API_KEY", show_envvar=True, help=say("option api-key")
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help=say("option json"))]
RunId = Annotated[str | None, typer.Option("--run-id", help=say("option run"))]
Checkpoint = Annotated[str | None, typer.Option("--checkpoint", help=say("option checkpoint"))]
Model = Annotated[str | None, typer.Option("--model", help=say("option model"))]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help=say("option max-tokens"))]
Temperature = Annotated[
    float, typer.Option("--temperature", min=0.0, help=say("option temperature"))
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help=say("option seed"))]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help=say("option timeout"))]

DEFAULT_TIMEOUT_S = 600.0


def connect(
    base_url: str | None, api_key: str | None, timeout_s: float = DEFAULT_TIMEOUT_S
) -> EZTinkerClient:
    """The client of the server that the options name."""
    from eztinker.client.client import EZTinkerClient

    return EZTinkerClient(base_url, api_key, timeout_s)
