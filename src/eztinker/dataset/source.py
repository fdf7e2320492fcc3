"""Where the files of a data set are: given path, data folder, hub cache, hub, in this order.

It finds files and reads none (``rows.py`` does). Being offline is a normal state: the hub is asked only after
a probe of at most three seconds, and when nothing answers, one error names all that was tried.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from eztinker.dataset.rows import SUFFIXES, check_can_read
from eztinker.errors import NotFoundError

logger = logging.getLogger(__name__)

DATA_DIR_VARIABLE = "EZTINKER_DATA_DIR"
PROBE_TIMEOUT_S = 3.0
_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
_TRUE = ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A data set on the Hugging Face hub: ``repo_id`` (``owner/name``) and its configuration (a folder)."""

    repo_id: str
    config: str


@dataclass(frozen=True, slots=True)
class Source:
    """Files of one split.

    Attributes:
        paths: one file, or the parts of a split in order.
        origin: ``data_path``, ``data_dir``, ``hub_cache`` or ``hub``.
    """

    paths: list[Path]
    origin: str


@dataclass
class _Search:
    """One search: what is wanted and what was tried so far."""

    name: str
    split: str
    tried: list[str] = field(default_factory=list)

    def not_found(self, advice: str) -> NotFoundError:
        lines = "".join(f"\n  - {line}" for line in self.tried)
        return NotFoundError(
            f"No data for {self.name!r}, split {self.split!r}. Tried:{lines}\n{advice}",
            code="dataset_not_found",
            details={"dataset": self.name, "split": self.split, "tried": self.tried},
        )


def find_source(
    name: str,
    split: str,
    *,
    data_path: str | Path | None = None,
    hub: HubDataset | None = None,
    is_cache_only: bool = False,
) -> Source:
    """Find the files of a split.

    Args:
        name: folder name below ``EZTINKER_DATA_DIR``.
        split: ``train``, ``test``, …
        data_path: a file, taken as it is for every split, or a folder with ``<split>.jsonl`` (or ``.json``,
            ``.parquet``). When given, nothing else is tried.
        hub: where the hub has it; None for sets that are not there.
        is_cache_only: look into the hub's cache, but do not ask the hub.

    Raises:
        NotFoundError: ``code="dataset_not_found"``; the message and ``details["tried"]`` name every place.
        UnsupportedError: found, but only as parquet, and pyarrow is missing (``code="missing_extra"``).
    """
    search = _Search(name, split)
    if data_path is not None:
        return _given_path(search, Path(data_path))
    source = _data_dir(search)
    if source is None and hub is not None:
        source = _hub_cache(search, hub)
        if source is None and not is_cache_only:
            source = _hub(search, hub)
    if source is None:
        raise search.not_found(
            f"Give data_path=FILE.jsonl, or a folder with {split}.jsonl, or set {DATA_DIR_VARIABLE} to a folder "
            f"that has {name}/{split}.jsonl."
        )
    for path in source.paths:
        check_can_read(path)
    logger.info("%s, split %s: %s", name, split, ", ".join(str(path) for path in source.paths))
    return source


def _given_path(search: _Search, path: Path) -> Source:
    if path.is_file():
        return Source([path], "data_path")
    found = _split_file(path, search.split)
    if found is None:
        state = f"has no {search.split}.jsonl" if path.is_dir() else "does not exist"
        search.tried.append(f"data_path {path}: {state}")
        raise search.not_found(
            f"data_path must be a JSONL file or a folder with {search.split}.jsonl."
        )
    return Source([found], "data_path")


def _split_file(folder: Path, split: str) -> Path | None:
    candidates = (folder / f"{split}{suffix}" for suffix in SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _data_dir(search: _Search) -> Source | None:
    search.tried.append("data_path: not given")
    root = os.environ.get(DATA_DIR_VARIABLE)
    if not root:
        search.tried.append(f"{DATA_DIR_VARIABLE}: not set")
        return None
    folder = Path(root).expanduser() / search.name
    found = _split_file(folder, search.split)
    if found is None:
        search.tried.append(f"{DATA_DIR_VARIABLE}: no {search.split}.jsonl in {folder}")
        return None
    return Source([found], "data_dir")


def hub_cache_dir() -> Path:
    """Folder of the hub cache, as huggingface_hub places it."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME")
    if home is None:
        home = str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    return Path(home).expanduser() / "hub"


def _hub_cache(search: _Search, hub: HubDataset) -> Source | None:
    repo = hub_cache_dir() / f"datasets--{hub.repo_id.replace('/', '--')}"
    for snapshot in _snapshots(repo):
        names = [
            path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()
        ]
        wanted = files_of_split(names, hub.config, search.split)
        if wanted:
            return Source([snapshot / name for name in wanted], "hub_cache")
    state = "no file of this split" if repo.is_dir() else "not there"
    search.tried.append(f"hub cache {repo}: {state}")
    return None


def _snapshots(repo: Path) -> list[Path]:
    """Snapshots of a cached repository: the one that ``main`` points to, then the newest."""
    if not (repo / "snapshots").is_dir():
        return []
    ref = repo / "refs" / "main"
    main = ref.read_text(encoding="utf-8").strip() if ref.is_file() else ""
    folders = [path for path in (repo / "snapshots").iterdir() if path.is_dir()]
    return sorted(folders, key=lambda path: (path.name != main, -path.stat().st_mtime))


def files_of_split(names: list[str], config: str, split: str) -> list[str]:
    """Names of the files that hold one split of one configuration, JSON lines before parquet, parts in order.

    A split is one file (``main/train.jsonl``, ``train.jsonl``) or parts ``train-00000-of-00002.parquet``; an
    incomplete set of parts counts as nothing.
    """
    for suffix in SUFFIXES:
        for folder in (f"{config}/", "", "data/"):
            if f"{folder}{split}{suffix}" in names:
                return [f"{folder}{split}{suffix}"]
            parts = sorted(
                n for n in names if n.startswith(f"{folder}{split}-") and n.endswith(suffix)
            )
            if parts and parts[0].endswith(f"-of-{len(parts):05}{suffix}"):
                return parts
    return []


def _hub(search: _Search, hub: HubDataset) -> Source | None:
    offline = offline_variable()
    if offline:
        search.tried.append(f"hub {hub.repo_id}: not asked, {offline} is set")
        return None
    from huggingface_hub import constants

    if not hub_answers(constants.ENDPOINT):
        search.tried.append(
            f"hub {hub.repo_id}: no answer from {constants.ENDPOINT} within {PROBE_TIMEOUT_S:g} s (offline?)"
        )
        return None
    return _download(search, hub)


def offline_variable() -> str | None:
    """The variable that forbids asking anything outside this machine, if one is set."""
    return next((n for n in _OFFLINE_VARIABLES if os.environ.get(n, "").upper() in _TRUE), None)


def hub_answers(endpoint: str, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Whether the hub answers at all, known after at most ``timeout_s`` seconds.

    The request runs in a thread of its own because resolving a name can block for longer than any timeout of
    the HTTP library.
    """
    import httpx

    answered = threading.Event()
    ended = threading.Event()

    def probe() -> None:
        try:
            if httpx.head(endpoint, timeout=timeout_s).status_code < 500:
                answered.set()
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            logger.debug("probe of %s: %s", endpoint, error)
        finally:
            ended.set()

    threading.Thread(target=probe, name="hub-probe", daemon=True).start()
    ended.wait(timeout_s)
    return answered.is_set()


def _download(search: _Search, hub: HubDataset) -> Source | None:
    import httpx
    from huggingface_hub import HfApi, hf_hub_download

    cache = hub_cache_dir()
    try:
        names = HfApi().list_repo_files(hub.repo_id, repo_type="dataset")
        wanted = files_of_split(names, hub.config, search.split)
        for name in wanted:
            check_can_read(Path(name))  # before the download, not after it
        logger.info("fetching %s of %s from the hub", ", ".join(wanted), hub.repo_id)
        paths = [
            Path(hf_hub_download(hub.repo_id, name, repo_type="dataset", cache_dir=cache))
            for name in wanted
        ]
    except (httpx.HTTPError, OSError, ValueError) as error:  # hub errors derive from these
        reason = str(error).strip().partition("\n")[0]
        search.tried.append(f"hub {hub.repo_id}: {type(error).__name__}: {reason}")
        return None
    if not paths:
        search.tried.append(f"hub {hub.repo_id}: no file of split {search.split!r}")
        return None
    return Source(paths, "hub")
