"""Who judges: a base or merged model, a run of the server, one of its checkpoints, or an adapter folder.

Turns what stands behind ``--model_path`` into a policy. An adapter folder becomes a run of the server, once for
each content. Called by the evaluation.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.rl.candidates import Policy
from eztinker.rl.training_run import find_run

QUANTIZATIONS = ("nf4", "int8")
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def policy_of(client: Any, model_path: str, base_model: str | None) -> tuple[Policy, str]:
    """The policy, and the name of its base model.

    Args:
        client: of the server that answers.
        model_path: name or folder of a whole model, ``RUN_ID``, ``RUN_ID@CHECKPOINT``, or a PEFT folder.
        base_model: of a PEFT folder, with ``:nf4`` or ``:int8`` to have it quantised; None takes what its
            configuration names.

    Raises:
        InvalidRequestError: a base model was given for something that has one already.
    """
    if (Path(model_path) / ADAPTER_CONFIG).is_file():
        return _adapter(client, Path(model_path), base_model)
    if (Path(model_path) / "config.json").is_file():
        # The server may have been started in another folder.
        model_path = str(Path(model_path).resolve())
        _refuse_base(base_model, model_path, model_path)
        return Policy(base_model=model_path), model_path
    run_id, _, checkpoint = model_path.partition("@")
    base = _base_of_run(client, run_id)
    if base is None and not checkpoint:
        _refuse_base(base_model, model_path, model_path)
        return Policy(base_model=model_path), model_path
    if base is None:
        raise NotFoundError(
            f"The server has no run {run_id!r}.", code="run_not_found", field="model_path"
        )
    _refuse_base(base_model, base, model_path)
    return Policy(run_id=run_id, checkpoint=checkpoint or None), base


def context_length(client: Any, base_model: str) -> int | None:
    """Most tokens of a sequence of the model; None when the server does not say."""
    for entry in client.get_models():
        if entry["kind"] == "base_model" and entry["id"] == base_model:
            return entry.get("context_length")
    return None


def _base_of_run(client: Any, run_id: str) -> str | None:
    try:
        return find_run(client, run_id)["base_model"]
    except NotFoundError:
        return None


def _refuse_base(given: str | None, own: str, model_path: str) -> None:
    if given is not None and given != own:
        raise InvalidRequestError(
            f"base_model has no effect: {model_path} is no adapter folder, and its base is {own}. Leave it out.",
            code="ineffective_setting",
            field="base_model",
        )


def _adapter(client: Any, folder: Path, base_model: str | None) -> tuple[Policy, str]:
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    base = base_model or config.get("base_model_name_or_path")
    if not base:
        raise InvalidRequestError(
            f"{folder / ADAPTER_CONFIG} names no base model. Give --base_model.", field="base_model"
        )
    quantization = base.rpartition(":")[2]  # another run for each quantization of the base
    suffix = f"-{quantization}" if quantization in QUANTIZATIONS else ""
    run_id = f"adapter-{_digest(folder)[:16]}{suffix}"
    if _base_of_run(client, run_id) is None:
        client.import_adapter(folder, base_model=base, run_id=run_id)
    return Policy(run_id=run_id), base


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        path = folder / name
        if not path.is_file():
            raise NotFoundError(
                f"{folder} has no {name}.", code="file_not_found", field="model_path"
            )
        digest.update(path.read_bytes())
    return digest.hexdigest()
