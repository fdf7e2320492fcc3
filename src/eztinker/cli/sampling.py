"""``sample``: one prompt, one or several answers."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eztinker.cli.options import (
    DEFAULT_TIMEOUT_S,
    ApiKey,
    AsJson,
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
from eztinker.cli.output import note, print_json, print_text
from eztinker.cli.texts import say
from eztinker.errors import EZTinkerError

if TYPE_CHECKING:
    from eztinker.client.client import EZTinkerClient
    from eztinker.client.jobs import JobHandle

BETWEEN_ANSWERS = "---"


def sample(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help=say("sample prompt"), show_default=False)
    ],
    max_tokens: MaxTokens = 100,
    temperature: Temperature = 1.0,
    top_p: Annotated[float, typer.Option("--top-p", help=say("sample top-p"))] = 1.0,
    top_k: Annotated[int, typer.Option("--top-k", help=say("sample top-k"))] = 50,
    run_id: RunId = None,
    checkpoint: Checkpoint = None,
    model: Model = None,
    num_samples: Annotated[
        int | None, typer.Option("--num-samples", min=1, help=say("sample num-samples"))
    ] = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help=say("sample stop"))] = None,
    seed: Seed = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print the prompt and its continuation; with ``--num-samples`` the answers alone."""
    with connect(base_url, api_key, timeout) as client:
        handle = client.submit_sample(
            sys.stdin.read() if prompt == "-" else prompt,
            max_tokens,
            temperature,
            top_p,
            top_k,
            run_id=run_id,
            checkpoint=checkpoint,
            base_model=model,
            num_samples=num_samples,
            stop=stop or None,
            seed=seed,
        )
        note(say("submitted", job_id=handle.job_id))
        job = _wait(client, handle, timeout)
    if as_json:
        print_json({"job_id": job["job_id"], **job["result"]})
    elif num_samples is None:
        print_text(job["result"]["generated_text"])
    else:
        texts = [sequence["text"] for sequence in job["result"]["sequences"]]
        print_text(f"\n{BETWEEN_ANSWERS}\n".join(texts))


def _wait(client: EZTinkerClient, handle: JobHandle[Any], timeout_s: float) -> dict[str, Any]:
    """The ended job; whoever stops waiting with Ctrl-C does not want the answer, so it is cancelled."""
    try:
        return client.wait_for_job(handle.job_id, timeout_s)
    except KeyboardInterrupt:
        with contextlib.suppress(EZTinkerError, TimeoutError):
            handle.cancel()
        raise
