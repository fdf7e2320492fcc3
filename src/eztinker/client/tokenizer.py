"""Tokenizer files from the server, made into a transformers tokenizer on this machine.

Keeps each set of files once in the user's cache, in a folder named by the hash of its content. Asks no
hub and runs no code that came with a model. Called by ``get_tokenizer`` of the two clients.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eztinker.errors import ServerError


def cache_folder() -> Path:
    """Where tokenizers are kept: below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "eztinker" / "tokenizers"


def load_tokenizer(files: Mapping[str, str]) -> Any:
    """A transformers tokenizer from its files.

    Args:
        files: file name -> text, as ``GET /v1/base_models/{name}/tokenizer`` answers.
    """
    folder = store_files(files, cache_folder())
    from transformers import AutoTokenizer  # slow to import, and only needed here

    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    # Recipes shorten what is too long and the server refuses it; transformers' warning would speak of neither.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def store_files(files: Mapping[str, str], root: Path) -> Path:
    """Write the files into their folder below ``root`` unless it exists; the folder.

    Raises:
        ServerError: a name is not a plain file name.
    """
    folder = root / _digest(files)
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=root, prefix="draft-"))
    try:
        for name, text in files.items():
            (draft / _plain_name(name)).write_text(text, encoding="utf-8", newline="")
        _appear(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _appear(draft: Path, folder: Path) -> None:
    """Give the draft its name, so that the folder is whole from the first moment."""
    try:
        draft.rename(folder)
    except OSError:
        # Another process had the same files ready first.
        if not folder.is_dir():
            raise


def _digest(files: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        for part in (name.encode(), files[name].encode()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:32]


def _plain_name(name: str) -> str:
    is_plain = name == Path(name).name and name.isprintable() and "\\" not in name
    if not name or not is_plain or name.startswith("."):
        raise ServerError(
            f"The server sent a tokenizer file named {name!r}, which is no plain name."
        )
    return name
