"""The model hub: a model from its local cache, or downloaded because the user named it.

Asks the hub once, for a bounded time, and not again for a while when it did not answer: on a machine without a
network a mistyped name is refused at once. Takes configuration, tokenizer and safetensors files only, never code
or pickles. Called by ``base_models.py``.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from pathlib import Path

from eztinker.errors import UnsupportedError
from eztinker.service.model_folder import find_folder, pickle_refused

log = logging.getLogger(__name__)

_ID = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}(/[\w.\-]{1,96})?\Z", re.ASCII)
_TEXT_SUFFIXES = (".json", ".txt", ".jinja", ".model")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


SILENCE_S = 60.0
"""How long a hub that did not answer is not asked again."""


def may_be_id(name: str) -> bool:
    """Whether ``name`` has the form of a hub id (``gpt2``, ``org/model``)."""
    return bool(_ID.match(name)) and ".." not in name and "--" not in name


class Hub:
    """The hub as one server sees it.

    Args:
        timeout_s: how long to wait for its first answer.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._silent_until_s = 0.0

    async def fetch(self, model_id: str, *, tried: list[str]) -> Path | None:
        """Folder of a model of the hub: from the cache, else downloaded.

        Args:
            model_id: an id for which ``may_be_id`` holds.
            tried: gets a line on each place that did not have it.

        Raises:
            UnsupportedError: the model exists, but not as safetensors, or needs consent.
        """
        folder = await asyncio.to_thread(_from_cache, model_id, tried)
        if folder is not None:
            return folder
        if _is_offline():
            tried.append("the hub was not asked (HF_HUB_OFFLINE is set)")
            return None
        silent_s = self._silent_until_s - time.monotonic()
        if silent_s > 0:
            tried.append(f"the hub did not answer a moment ago (asked again in {silent_s:.0f} s)")
            return None
        try:
            names = await self._ask(model_id, tried)
        except ConnectionError as silence:
            self._silent_until_s = time.monotonic() + SILENCE_S
            tried.append(str(silence))
            return None
        if names is None:
            return None
        return await asyncio.to_thread(_download, model_id, _wanted(model_id, names), tried)

    async def _ask(self, model_id: str, tried: list[str]) -> list[str] | None:
        timeout_s = self._timeout_s
        probe = asyncio.ensure_future(asyncio.to_thread(_file_names, model_id, timeout_s, tried))
        # The sockets have the same timeout, but resolving a name can hang longer than any of them.
        done, _ = await asyncio.wait({probe}, timeout=timeout_s + 0.5)
        if not done:
            probe.add_done_callback(lambda task: task.exception())
            raise ConnectionError(f"the hub did not answer within {timeout_s:g} s")
        return probe.result()


def warm_up() -> None:
    """Import what asking the hub needs: half a second that the first mistyped name would wait."""
    if not _is_offline():
        from huggingface_hub import HfApi  # noqa: F401


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _from_cache(model_id: str, tried: list[str]) -> Path | None:
    """The newest cached revision that is complete."""
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE) / f"models--{model_id.replace('/', '--')}"
    head = root / "refs" / "main"
    if not head.is_file():
        tried.append(f"not in the hub cache {constants.HF_HUB_CACHE}")
        return None
    notes: list[str] = []
    folder = find_folder(root / "snapshots" / head.read_text(encoding="utf-8").strip(), notes)
    if folder is None or not _has_all_shards(folder):
        tried.append("the hub cache holds only a part of it")
        return None
    return folder


def _has_all_shards(folder: Path) -> bool:
    """A cached model of several files is complete when every file of its index is there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return True
    names = set(re.findall(r'"([\w.\-]+\.safetensors)"', index.read_text(encoding="utf-8")))
    return all((folder / name).is_file() for name in names)


def _file_names(model_id: str, timeout_s: float, tried: list[str]) -> list[str] | None:
    """Files of the model at the hub; None when the hub does not have it.

    Raises:
        ConnectionError: the hub does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        info = HfApi().model_info(model_id, timeout=timeout_s)
    except GatedRepoError:
        raise UnsupportedError(
            f"base_model: {model_id} is gated. Accept its terms at the hub and set HF_TOKEN, or name a folder.",
            code="model_gated",
            field="base_model",
        ) from None
    except RepositoryNotFoundError:
        tried.append("the hub has no such model (or it is private)")
        return None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        tried.append(f"the hub answered with an error (HTTP {status})")
        return None
    except Exception as error:  # whatever the HTTP library raises without a network
        raise ConnectionError(f"the hub cannot be reached ({type(error).__name__})") from None
    return [sibling.rfilename for sibling in info.siblings or []]


def _wanted(model_id: str, names: list[str]) -> list[str]:
    """The files to download: from the top folder, no code, no pickles, each weight once."""
    top = [name for name in names if "/" not in name]
    weights = [name for name in top if name.endswith(".safetensors")]
    # Some models carry the same weights a second time under another name ("consolidated").
    weights = [name for name in weights if name.startswith("model")] or weights
    if not weights:
        if any(name.endswith(_PICKLE_SUFFIXES) for name in top):
            raise pickle_refused(model_id)
        raise UnsupportedError(
            f"base_model: {model_id} has no *.safetensors at the hub, so it is no model that can be served here.",
            code="no_weights",
            field="base_model",
        )
    return [*weights, *(name for name in top if name.endswith(_TEXT_SUFFIXES))]


def _download(model_id: str, names: list[str], tried: list[str]) -> Path | None:
    from huggingface_hub import snapshot_download

    log.info("Downloading %s from the model hub (%d files)", model_id, len(names))
    try:
        return Path(snapshot_download(model_id, allow_patterns=names))
    except Exception as error:  # network, disk and hub errors have no common root
        tried.append(f"its download failed ({type(error).__name__}: {str(error)[:200]})")
        return None
