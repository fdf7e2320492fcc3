"""``export`` and ``push``: a run or checkpoint as a folder for others, and such a folder to a hub.

The checkpoint comes from the server, the base model is found on this machine, and the work is done here
(``deploy/``). Knows no tensors.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eztinker.cli.merge import BaseFolder, DTypeOption, base_folder, checked_dtype
from eztinker.cli.options import ApiKey, AsJson, BaseUrl, connect
from eztinker.cli.output import note, print_json, print_text
from eztinker.cli.texts import say

if TYPE_CHECKING:
    from eztinker.client.client import EZTinkerClient
    from eztinker.deploy.export import Served

PROMPTS = (
    "Question: Anna has 12 apples and gives away 5. How many are left?\nAnswer:",
    "The weather was fine, and so they",
    "问题：小明有十二个苹果，送出五个，还剩多少？\n答案：",
)
"""What an export is compared on, unless the user has prompts of his own."""


class Format(StrEnum):
    """Kinds of folders."""

    PEFT = "peft"
    MERGED = "merged"


def export(
    model: Annotated[
        str,
        typer.Argument(metavar="RUN[@CHECKPOINT]", help=say("export model"), show_default=False),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help=say("option target"), show_default=False)
    ],
    kind: Annotated[Format, typer.Option("--format", help=say("export format"))] = Format.PEFT,
    base_model: BaseFolder = None,
    dtype: DTypeOption = None,
    name: Annotated[str | None, typer.Option("--name", help=say("export name"))] = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help=say("export prompt"))] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print the folder on stdout, and the difference from the server on stderr."""
    from eztinker.deploy.export import Origin
    from eztinker.deploy.export import export as export_folder
    from eztinker.deploy.folders import check_free

    check_free(target)
    with connect(base_url, api_key) as client, _checkpoint(client, model) as facts:
        folder = base_folder(base_model or facts["base_model"])
        origin = Origin(
            name=name or target.name,
            run_id=facts["run_id"],
            checkpoint=facts["name"],
            step=facts["step"],
            base_model=facts["base_model"],
            base_folder=folder.absolute(),
            quantization=facts.get("quantization", "none"),
        )
        source = f"{facts['run_id']}@{facts['name']}"
        served = [_served(client, source, folder, text) for text in prompt or PROMPTS]
        with tempfile.TemporaryDirectory() as temporary:
            checkpoint = Path(temporary) / "checkpoint"
            client.download_checkpoint(facts["run_id"], facts["name"], checkpoint)
            report = export_folder(
                checkpoint, target.absolute(), origin, kind.value, served, checked_dtype(dtype)
            )
    logprobs = report["logprobs"]
    difference = f"{logprobs['max_difference']:.2g}"
    key = "exported" if logprobs["within_tolerance"] else "exported with difference"
    note(say(key, difference=difference, tolerance=f"{logprobs['tolerance']:.2g}"))
    if report["format"] == "peft" and report["quantization"] != "none":
        note(say("exported quantised", quantization=report["quantization"]))
    note(report["vllm"])
    if as_json:
        print_json({"folder": str(target), **report})
    else:
        print_text(str(target))


@contextlib.contextmanager
def _checkpoint(client: EZTinkerClient, model: str) -> Iterator[dict[str, Any]]:
    """The named checkpoint, or one of the run's current weights that goes when the block ends."""
    run_id, separator, name = model.partition("@")
    if separator:
        yield _facts(client, run_id, name)
        return
    name = f"export-{secrets.token_hex(4)}"
    client.save_checkpoint(run_id, name)
    try:
        yield _facts(client, run_id, name)
    finally:
        client.delete_checkpoint(run_id, name)


def _facts(client: EZTinkerClient, run_id: str, name: str) -> dict[str, Any]:
    from eztinker.errors import NotFoundError

    found = client.get_checkpoints(run_id)
    facts = next((entry for entry in found if entry["name"] == name), None)
    if facts is None:
        names = ", ".join(entry["name"] for entry in found) or "none"
        raise NotFoundError(
            f"Run {run_id!r} has no checkpoint named {name!r}. It has: {names}.",
            code="checkpoint_not_found",
        )
    return facts


def _served(client: EZTinkerClient, source: str, folder: Path, text: str) -> Served:
    import numpy as np

    from eztinker.deploy.export import Served
    from eztinker.errors import InvalidRequestError
    from eztinker.rendering.tokenizer import Tokenizer

    tokens = Tokenizer.from_folder(folder).encode(text)
    if len(tokens) < 2:
        raise InvalidRequestError(
            f"--prompt: {text!r} is {len(tokens)} token(s); expected at least 2.", field="prompt"
        )
    return Served(text, tokens, np.array(client.get_logprobs(source, tokens), np.float32))


def push(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help=say("push folder"), show_default=False)
    ],
    repo_id: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help=say("push repo"), show_default=False)
    ],
    public: Annotated[bool, typer.Option("--public", help=say("push public"))] = False,
    revision: Annotated[str | None, typer.Option("--revision", help=say("push revision"))] = None,
) -> None:
    """Print the address on stdout."""
    from eztinker.deploy.push import push as push_folder

    print_text(push_folder(folder, repo_id, private=not public, revision=revision))
