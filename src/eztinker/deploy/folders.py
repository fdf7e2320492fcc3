"""Folders of models on this machine: what one is, and how a new one appears whole or not at all.

Knows no tensors. Used by the rest of this package.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from eztinker.errors import AlreadyExistsError, InvalidRequestError, NotFoundError

Kind = Literal["adapter", "model"]


def kind_of_folder(folder: Path) -> Kind:
    """Whether a folder holds a PEFT adapter or a whole model.

    Raises:
        NotFoundError: neither.
    """
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return "model"
    raise NotFoundError(
        f"{folder} is neither a PEFT adapter (adapter_config.json) nor a model (config.json with "
        "*.safetensors).",
        code="folder_not_found",
    )


def check_free(target: Path) -> None:
    """Refuse a target that exists.

    Raises:
        AlreadyExistsError: code ``folder_exists``.
    """
    if target.exists():
        raise AlreadyExistsError(
            f"{target} exists. Name another folder, or remove it.",
            code="folder_exists",
            field="target",
        )


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to be filled, which gets its name when the block ends and goes when it raises.

    Raises:
        AlreadyExistsError: the name is taken.
    """
    check_free(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        yield draft
        check_free(target)
        # safetensors writes for the owner alone, and whoever serves the model may be another.
        for path in draft.glob("*.*"):
            path.chmod(0o644)
        draft.chmod(0o755)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file.

    Raises:
        InvalidRequestError: code ``damaged_file``.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"{path} cannot be read: {error}.", code="damaged_file") from None
    if not isinstance(content, dict):
        raise InvalidRequestError(f"{path} holds no object.", code="damaged_file")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object for people and programs."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
