"""A folder with a base model: whether it is one, and what its ``config.json`` says.

Reads no weights. Called by ``base_models.py``, in a thread.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eztinker.errors import InvalidRequestError, UnsupportedError
from eztinker.types.records import BaseModelRecord

_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
)
_VOCAB_KEYS = ("vocab_size", "padded_vocab_size", "n_vocab")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_MAX_CONFIG_BYTES = 16 * 1024 * 1024


def find_folder(path: str | Path, tried: list[str]) -> Path | None:
    """The folder if it holds a base model; what was found instead is added to ``tried``.

    Raises:
        UnsupportedError: code ``pickle_refused``, a model whose weights are pickle files only.
    """
    try:
        folder = Path(path).expanduser().absolute()
        is_folder = folder.is_dir()
    except (OSError, ValueError, RuntimeError):
        # No path of this system: a NUL, a component that is too long, an unknown "~user".
        tried.append("no such folder")
        return None
    if not is_folder:
        tried.append(f"no folder {str(folder)[:200]}")
        return None
    if not (folder / "config.json").is_file():
        tried.append(f"folder {str(folder)[:200]} has no config.json")
        return None
    if not any(folder.glob("*.safetensors")):
        if any(next(folder.glob(pattern), None) for pattern in _PICKLES):
            raise pickle_refused(str(folder))
        tried.append(f"folder {str(folder)[:200]} has no *.safetensors")
        return None
    return folder


def pickle_refused(where: str) -> UnsupportedError:
    """Weights that only exist as pickles: reading them may run code."""
    return UnsupportedError(
        f"base_model: {where[:200]} holds its weights as pickle files (.bin, .pt) only; reading those can "
        "run code, so they are refused. Convert them to safetensors once (transformers' "
        "save_pretrained does it) and name that folder.",
        code="pickle_refused",
        field="base_model",
    )


def read_record(name: str, folder: Path) -> BaseModelRecord:
    """What ``config.json`` says about the model.

    Raises:
        InvalidRequestError: code ``model_config_unreadable``.
    """
    config = _read_config(folder)
    # Models of several modalities keep what belongs to text in a part of its own.
    text = config.get("text_config")
    parts = [config, text] if isinstance(text, dict) else [config]
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    return BaseModelRecord(
        name=name,
        folder=str(folder),
        architecture=str(architecture or config.get("model_type") or "unknown"),
        context_length=_number(parts, _CONTEXT_KEYS, folder, "context length"),
        vocab_size=_number(parts, _VOCAB_KEYS, folder, "vocabulary size"),
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(_MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(folder, f"cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise _unreadable(folder, "is no JSON object")
    return config


def _number(parts: list[dict[str, Any]], keys: tuple[str, ...], folder: Path, what: str) -> int:
    for part in parts:
        for key in keys:
            value = part.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    raise _unreadable(folder, f"names no {what} (looked for {', '.join(keys)})")


def _unreadable(folder: Path, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"base_model: config.json in {str(folder)[:200]} {why}. Copy the model's own config.json into the folder.",
        code="model_config_unreadable",
        field="base_model",
    )
