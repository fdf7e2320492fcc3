"""Files of a data set on ModelScope, fetched once into a cache of our own.

``MODELSCOPE_DOMAIN`` names another server, ``MODELSCOPE_CACHE`` another folder, as for ModelScope's own library. Being
offline is a normal state: the server is asked only after a probe. Called by ``finance_sources.py``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from eztinker.dataset.source import PROBE_TIMEOUT_S, hub_answers, offline_variable

DEFAULT_DOMAIN = "modelscope.cn"
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class ModelScopeDataset:
    """A data set on ModelScope: ``repo_id`` (``owner/name``) and the folder of its files."""

    repo_id: str
    folder: str


def fetch_file(dataset: ModelScopeDataset, name: str, tried: list[str]) -> Path | None:
    """The file on this machine; None when it cannot be had, with the reason in ``tried``."""
    target = _cache_dir() / dataset.repo_id.replace("/", "--") / dataset.folder / name
    if target.is_file():
        return target
    variable = offline_variable()
    if variable:
        tried.append(f"ModelScope {dataset.repo_id}: not asked, {variable} is set")
        return None
    endpoint = _endpoint()
    if not hub_answers(endpoint):
        tried.append(
            f"ModelScope {dataset.repo_id}: no answer from {endpoint} within {PROBE_TIMEOUT_S:g} s (offline?)"
        )
        return None
    return _download(endpoint, dataset, name, target, tried)


def _endpoint() -> str:
    domain = os.environ.get("MODELSCOPE_DOMAIN") or DEFAULT_DOMAIN
    return domain if "://" in domain else f"https://{domain}"


def _cache_dir() -> Path:
    given = os.environ.get("MODELSCOPE_CACHE")
    root = Path(given) if given else Path("~/.cache/modelscope")
    return root.expanduser() / "eztinker-datasets"


def _download(
    endpoint: str, dataset: ModelScopeDataset, name: str, target: Path, tried: list[str]
) -> Path | None:
    import httpx

    url = f"{endpoint}/api/v1/datasets/{dataset.repo_id}/repo"
    params = {"Revision": "master", "FilePath": f"{dataset.folder}/{name}"}
    draft = target.with_name(f".{name}.draft")
    draft.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            httpx.stream(
                "GET", url, params=params, timeout=TIMEOUT_S, follow_redirects=True
            ) as answer,
            draft.open("wb") as file,
        ):
            answer.raise_for_status()
            for part in answer.iter_bytes():
                file.write(part)
    except (httpx.HTTPError, OSError) as error:
        draft.unlink(missing_ok=True)
        tried.append(f"ModelScope {dataset.repo_id}: {type(error).__name__}: {error}")
        return None
    draft.replace(target)
    return target
