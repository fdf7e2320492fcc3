"""Stage 7, deployment: merge the adapter into its base model, serve it, ask it.

Each action is a command of its own process: ``eztinker merge`` and ``eztinker serve`` (tensors and servers are not a
recipe's affair), vLLM (``vllm_server.py``), and one request to whoever answers. Called by ``scripts/7_deploy.py`` and the recipe.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import httpx

from eztinker.errors import (
    InvalidRequestError,
    NotFoundError,
    ServerUnreachableError,
)
from eztinker.recipes.experiment.policy import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from eztinker.recipes.finance.config import FinanceConfig
from eztinker.recipes.finance.outputs import (
    MADE_FROM_FILE,
    digests_of,
    read_json,
    refuse_present,
)
from eztinker.recipes.finance.vllm_server import vllm_command
from eztinker.recipes.terminal import Progress, pick
from eztinker.rendering.finance import finance_request
from eztinker.rl.durable import draft_of, put_in_place, write_text

NAME = "finance-deploy"
DEFAULT_NAME = "ckpts/merged_model"
"""What the merged model is called by whoever asks it, wherever the root lies."""
ACTIONS = ("merge", "serve", "simple", "test")
QUESTION = "某公司2023年营收1000万元，同比增长25%，请计算2022年营收。"
REQUEST_TIMEOUT_S = 600.0
MERGE = "python scripts/7_deploy.py --action merge"


# Merge --------------------------------------------------------------------------------------------


def run(config: FinanceConfig, client: Any, progress: Progress) -> dict[str, Any]:
    """Stage 7 of the recipe: merge what stage 5 left."""
    return merge(config, progress)


def act(
    config: FinanceConfig,
    client: Any,
    progress: Progress,
    *,
    action: str = "merge",
    model_path: str | None = None,
) -> dict[str, Any]:
    """One action of ``scripts/7_deploy.py``; a serving one does not return.

    Args:
        action: of ``ACTIONS``.
        model_path: an adapter to merge, a whole model to serve, or the name of one to ask.
    """
    if action == "merge":
        return merge(config, progress, None if model_path is None else Path(model_path))
    name = model_path or DEFAULT_NAME
    if action in ("serve", "simple"):
        folder = merged_folder(config, model_path)
        check_port(config)
        make = vllm_command if action == "serve" else simple_command
        become(make(config, folder, name), progress)
    return ask(config, name)


def merge(config: FinanceConfig, progress: Progress, adapter: Path | None = None) -> dict[str, Any]:
    """Write ``ckpts/merged_model``; one that is there stays until the new one is whole.

    Args:
        adapter: PEFT folder; None takes that of stage 5.

    Raises:
        NotFoundError: no adapter; the message says which stage to run.
        InvalidRequestError: there is a merged model, and nothing is to be overwritten (``code="output_exists"``, or
            ``output_stale`` when another adapter was merged); or the command refused; the message is its own.
    """
    source, target = adapter or config.adapter("grpo"), config.paths.merged_model
    _refuse_whole_model(source)
    weights = source / ADAPTER_WEIGHTS
    made_from = digests_of([weights] if weights.is_file() else [])  # the command says what is amiss
    if target.exists() and not config.overwrite:
        refuse_present(target, read_json(target / MADE_FROM_FILE), made_from)
    progress.say(pick(f"Merging {source} into its base model", f"合并 {source} 到基础模型"))
    draft = draft_of(target)
    done = _merged(source, draft)
    write_text(draft / MADE_FROM_FILE, json.dumps(made_from, indent=1) + "\n")
    put_in_place(draft, target)
    return {**done, "folder": str(target), "adapter": str(source)}


def _merged(source: Path, target: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "eztinker", "merge", str(source), str(target), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  ours
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InvalidRequestError(
            f"{source} was not merged: {said[-1]}", code="merge_failed", field="model_path"
        )
    return json.loads(done.stdout)


def _refuse_whole_model(folder: Path) -> None:
    if not (folder / ADAPTER_CONFIG).is_file():
        kind = "a whole model" if (folder / "config.json").is_file() else "no adapter"
        raise InvalidRequestError(
            f"{folder} is {kind}; merge takes a PEFT folder such as ckpts/grpo_lora.",
            code="not_an_adapter",
            field="model_path",
        )


# Serve --------------------------------------------------------------------------------------------


def merged_folder(config: FinanceConfig, model_path: str | None) -> Path:
    """The whole model to serve.

    Raises:
        InvalidRequestError: an adapter (``code="is_adapter"``).
        NotFoundError: nothing there yet.
    """
    folder = config.paths.merged_model if model_path is None else Path(model_path)
    if (folder / ADAPTER_CONFIG).is_file():
        raise InvalidRequestError(
            f"{folder} is a LoRA adapter, and a whole model is served. Merge it first: {MERGE} "
            f"--model_path {folder}; then serve ckpts/merged_model.",
            code="is_adapter",
            field="model_path",
        )
    if not (folder / "config.json").is_file():
        raise NotFoundError(
            f"{folder} holds no model. Merge one first: {MERGE}",
            code="stage_missing",
            field="model_path",
        )
    return folder


def check_port(config: FinanceConfig) -> None:
    """Refuse an address that is taken, or not this machine's, before a model is read for it.

    Raises:
        InvalidRequestError: code ``port_in_use`` or ``bad_address``.
    """
    host, port = config.deploy.host, config.deploy.port
    try:
        with socket.create_server((host, port), family=_family(host)):
            return
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE
        why = (error.strerror or str(error)).partition(" (while")[0]
        raise InvalidRequestError(
            f"Cannot listen at {host}:{port}: {why}. --port names another port, --host another address "
            "(DEPLOY_CONFIG).",
            code="port_in_use" if is_taken else "bad_address",
            field="port" if is_taken else "host",
        ) from None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def simple_command(config: FinanceConfig, folder: Path, name: str) -> list[str]:
    """The command that serves a folder with this package's OpenAI-compatible server."""
    return [
        *(sys.executable, "-m", "eztinker", "serve", name, "--alias", f"{name}={folder.resolve()}"),
        *("--host", config.deploy.host, "--port", str(config.deploy.port)),
        *("--state-dir", str(config.output_dir / "serving")),
    ]


def become(command: list[str], progress: Progress) -> NoReturn:
    """Become a serving command: signals reach it and its exit code is ours."""
    progress.say(" ".join(command))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)  # noqa: S606  ours


# Test ---------------------------------------------------------------------------------------------


def ask(config: FinanceConfig, name: str, question: str = QUESTION) -> dict[str, Any]:
    """Ask the model that is served at the configured address.

    Args:
        name: of the model, as it is served.

    Returns:
        ``model``, ``question``, ``answer``, ``usage``.

    Raises:
        ServerUnreachableError: nobody answers there.
        InvalidRequestError: the server refused; the message is its own.
    """
    request = finance_request(question)
    host = "127.0.0.1" if config.deploy.host in ("0.0.0.0", "::") else config.deploy.host  # noqa: S104
    base_url = f"http://{host}:{config.deploy.port}/v1"
    try:
        with httpx.Client(timeout=REQUEST_TIMEOUT_S, trust_env=False) as client:
            body = {"model": name, "messages": [{"role": "user", "content": request}]}
            found = _checked(client.post(f"{base_url}/chat/completions", json=body))
    except httpx.TransportError as error:
        raise ServerUnreachableError(
            f"Nobody answers at {base_url} ({error}). Start one: python scripts/7_deploy.py --action serve (vLLM) or "
            "--action simple; --host and --port name another address.",
            code="model_not_served",
            field="port",
        ) from None
    answer = found["choices"][0]["message"]["content"]
    return {"model": name, "question": question, "answer": answer, "usage": found.get("usage")}


def _checked(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if answer.status_code != 200 or not isinstance(found, dict):
        error = found.get("error") if isinstance(found, dict) else None
        said = error.get("message") if isinstance(error, dict) else answer.text[:200]
        raise InvalidRequestError(
            f"{answer.url} answered {answer.status_code}: {said}", code="refused", field="port"
        )
    return found
