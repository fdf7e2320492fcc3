"""Runs recipes of the official cookbook, unmodified and offline, against a server with ``nano``.

``make cookbook`` runs them all, two steps each; CI runs the two loops. The cookbook lives in an
environment of its own on top of this one: it asks for a newer ``tml-renderers`` than can be had
everywhere, which is needed for the vendor's own models only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from dataclasses import dataclass
from pathlib import Path

from eztinker.client.embedded import EmbeddedServer
from tools.cookbook_overlay import CONVERSATIONS, MODEL, build_overlay

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "cookbook"
RUNS = BUILD / "runs"

WITH_DEPENDENCIES = (
    *("aiohttp", "blobfile", "chz", "cloudpickle", "datasets", "pylatexenc", "pyrage"),
    *("termcolor", "tiktoken"),
)
WITHOUT_DEPENDENCIES = ("tinker-cookbook==0.6.1", "tml-renderers==0.2.1")
TIMEOUT_S = 600


@dataclass(frozen=True)
class Recipe:
    """A module of the cookbook with the settings of a short run.

    Attributes:
        log_path: it takes the folder of its logs as a setting.
    """

    module: str
    settings: tuple[str, ...]
    log_path: bool = False


def _with_logs(module: str, *settings: str) -> Recipe:
    logs = ("behavior_if_log_dir_exists=delete", "max_steps=2", f"model_name={MODEL}")
    return Recipe(module, (*logs, *settings), log_path=True)


_LOOP = ("max_steps=2", f"model_name={MODEL}", "lora_rank=4")
_RL_LOOP = (*_LOOP, "batch_size=4", "group_size=4", "max_tokens=32")
_MATH = ("lora_rank=4", "groups_per_batch=4", "group_size=4", "loss_fn=importance_sampling")
_DISTILL = ("lora_rank=4", "group_size=2", "max_tokens=16", "eval_every=0", "save_every=0")

RECIPES: dict[str, Recipe] = {
    "sl_loop": Recipe("sl_loop", (*_LOOP, "batch_size=8", "max_length=256")),
    "rl_loop": Recipe("rl_loop", (*_RL_LOOP, "loss_fn=importance_sampling")),
    "rl_loop gspo": Recipe("rl_loop", (*_RL_LOOP, "loss_fn=gspo")),
    "sl_basic": Recipe(
        "sl_basic", _LOOP, log_path=True
    ),
    # The recipe's own builder, with smaller numbers than its 128 groups of 16.
    "rl_basic": Recipe(
        "rl_basic",
        (
            *_LOOP, "max_tokens=16", "dataset_builder=Gsm8kDatasetBuilder",
            "dataset_builder.batch_size=4", "dataset_builder.group_size=4",
            "dataset_builder.renderer_name=qwen3",
            f"dataset_builder.model_name_for_tokenizer={MODEL}",
        ),
        log_path=True,
    ),
    "chat_sl": _with_logs(
        "chat_sl.train", "lora_rank=4", "dataset=no_robots", "batch_size=8", "max_length=256"
    ),
    "chat_sl jsonl": _with_logs(
        "chat_sl.train", "lora_rank=4", f"dataset={CONVERSATIONS}", "batch_size=8", "max_length=256"
    ),
    "math_rl arithmetic": _with_logs("math_rl.train", *_MATH, "env=arithmetic", "max_tokens=5"),
    "math_rl gsm8k": _with_logs("math_rl.train", *_MATH, "env=gsm8k", "max_tokens=16"),
    "dpo": _with_logs("preference.dpo.train", "batch_size=4", "max_length=256"),
    "shorter": _with_logs(
        "preference.shorter.train", "renderer_name=qwen3", "batch_size=4", "group_size=4",
        "max_tokens=16", "eval_every=0",
    ),
    "distillation": _with_logs(
        "distillation.on_policy_distillation", *_DISTILL, f"teacher_model={MODEL}",
        "dataset=deepmath", "groups_per_batch=4",
    ),
    "distillation multi": _with_logs(
        "distillation.on_policy_multi_teacher", *_DISTILL, f"deepmath_teacher_model={MODEL}",
        f"tulu3_teacher_model={MODEL}", "deepmath_groups_per_batch=2", "tulu3_groups_per_batch=2",
    ),
    "rlhf": Recipe(
        "preference.rlhf.rlhf_pipeline",
        (
            "max_steps=2", f"base_model={MODEL}", "short_name=nano", "lora_rank=4", "batch_size=8",
            "max_length=256", "rl_max_tokens=8", "rl_group_size=2", "eval_every=100",
        ),
    ),
}  # fmt: skip
CLI_LISTS = (("model", "list"), ("run", "list"), ("checkpoint", "list"))


def build_environment(folder: Path) -> Path:
    """An environment with the cookbook on top of this one; its interpreter."""
    python = folder / "bin" / "python"
    done = folder / "installed"
    if done.exists():
        return python
    venv.create(folder, with_pip=True, clear=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    below = folder / "lib" / version / "site-packages" / "below.pth"
    below.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    constraints = ["-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, *constraints, *WITH_DEPENDENCIES], check=True)
    subprocess.run([*pip, "--no-deps", *WITHOUT_DEPENDENCIES], check=True)
    done.touch()
    return python


def run_recipe(name: str, python: Path, overlay: Path, base_url: str) -> bool:
    """Run one recipe; its output goes into a log beside the overlay."""
    recipe = RECIPES[name]
    settings = list(recipe.settings)
    if recipe.log_path:
        folder = RUNS / name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        settings.append(f"log_path={folder}")
    command = [python, "-m", f"tinker_cookbook.recipes.{recipe.module}", *settings]
    return _run(name, command, overlay, base_url)


def _run(name: str, command: list, overlay: Path, base_url: str) -> bool:
    environment = {
        **os.environ,
        "TINKER_BASE_URL": base_url,
        "TINKER_API_KEY": "tml-local",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(BUILD / "hf"),
        "TINKER_COOKBOOK_RUNS_DIR": str(RUNS),
    }
    log = BUILD / f"{name.replace(' ', '-')}.log"
    start_s = time.monotonic()
    with log.open("wb") as output:
        try:
            code = subprocess.run(
                command, cwd=overlay, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, timeout=TIMEOUT_S, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            code = -1
    word = "ok" if code == 0 else f"FAILED, see {log.relative_to(ROOT)}"
    print(f"{name:24} {time.monotonic() - start_s:6.1f} s  {word}", flush=True)
    return code == 0


def main() -> int:
    """Build what is missing, run the recipes, and say how each ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", help=f"default: all of {', '.join(RECIPES)}")
    wanted = parser.parse_args().recipes
    overlay = BUILD / "overlay"
    build_overlay(overlay)
    shutil.rmtree(RUNS, ignore_errors=True)
    python = build_environment(BUILD / "venv")
    server = EmbeddedServer(["nano"], settings={"aliases": {MODEL: "nano"}})
    try:
        url = server.base_url
        results = [run_recipe(name, python, overlay, url) for name in wanted or RECIPES]
        for words in () if wanted else CLI_LISTS:
            command = [python, "-m", "tinker.cli", *words]
            results.append(_run(f"tinker {' '.join(words)}", command, overlay, url))
    finally:
        server.close()
    print(f"{sum(results)} of {len(results)} ran to their end")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
