"""Where figures of a training stage go beside its folder: a log for people, and Weights & Biases where it is.

Weights & Biases never stops a training: where it is not installed this is said and training goes on, and without a
login its run is kept on this machine. Called by the training stages.
"""

from __future__ import annotations

import importlib
import netrc
import os
from pathlib import Path
from typing import Any

from eztinker.recipes.finance.parts import WandbConfig
from eztinker.recipes.terminal import Progress, pick

WANDB_HOST = "api.wandb.ai"
_MODE, _KEY = "WANDB_MODE", "WANDB_API_KEY"


def tracking_settings(wandb: WandbConfig, progress: Progress) -> dict[str, Any]:
    """The keys of a training recipe's settings that say where its figures go."""
    return {"report_to": trackers_for(wandb, progress), "project": wandb.project}


def trackers_for(wandb: WandbConfig, progress: Progress) -> list[str]:
    """Names for ``report_to``; the person is told when Weights & Biases is left out or stays offline."""
    if not wandb.enabled:
        return ["log"]
    if not _is_usable():
        progress.say(
            pick(
                "wandb is not installed (or not whole): the log and metrics.jsonl hold every figure. To have it: pip install "
                "'eztinker[wandb]'; to hear no more of it: WANDB_CONFIG.enabled = False.",
                "未安装 wandb（或安装不完整）：日志和 metrics.jsonl 保存全部指标。安装：pip install 'eztinker[wandb]'；"
                "不再提示：WANDB_CONFIG.enabled = False。",
            )
        )
        return ["log"]
    if _MODE not in os.environ and not _is_logged_in():
        os.environ[_MODE] = "offline"
        progress.say(
            pick(
                "wandb: no login, so the run stays on this machine (wandb sync uploads it; wandb login first).",
                "wandb 未登录：运行只保存在本机（先 wandb login，再用 wandb sync 上传）。",
            )
        )
    return ["log", "wandb"]


def _is_usable() -> bool:
    """Whether wandb can be imported; an installation that lacks something of its own cannot."""
    try:
        importlib.import_module("wandb")
    except ImportError:
        return False
    return True


def _is_logged_in() -> bool:
    """Whether wandb would find a key without asking the person."""
    if os.environ.get(_KEY):
        return True
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        return netrc.netrc(path).authenticators(WANDB_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False
