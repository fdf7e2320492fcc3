"""Runs recipes of the official cookbook, unmodified and offline, against a server with ``nano``.

``make cookbook`` runs it. The recipes look models and data sets up by public names, relative to the
working directory first, so they are run from an overlay folder in which those names lead to our own
files. The cookbook lives in an environment of its own on top of this one: it asks for a newer
``tml-renderers`` than can be had everywhere, which is needed for the vendor's own models only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

from eztinker.client.embedded import EmbeddedServer
from eztinker.dataset.generated.sets import GeneratedMathDataset

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "cookbook"
NANO = ROOT / "src" / "eztinker" / "assets" / "nano"
MODEL = "Qwen/Qwen3-8B"
"""A public name with a chat format that nano has; the cookbook knows which renderer belongs to it."""

WITH_DEPENDENCIES = (
    *("aiohttp", "blobfile", "chz", "cloudpickle", "datasets", "pylatexenc", "pyrage"),
    *("termcolor", "tiktoken"),
)
WITHOUT_DEPENDENCIES = ("tinker-cookbook==0.6.1", "tml-renderers==0.2.1")

_LOGS = ("behavior_if_log_dir_exists=delete", "max_steps=2", f"model_name={MODEL}", "lora_rank=4")
_LOOP = ("max_steps=2", f"model_name={MODEL}", "lora_rank=4")
RECIPES: dict[str, tuple[str, ...]] = {
    "sl_loop": (*_LOOP, "batch_size=8", "max_length=256"),
    "rl_loop": (
        *(*_LOOP, "batch_size=4", "group_size=4", "max_tokens=32"),
        "loss_fn=importance_sampling",
    ),
    "chat_sl.train": (*_LOGS, "dataset=no_robots", "batch_size=8", "max_length=256"),
    "math_rl.train": (
        *(*_LOGS, "groups_per_batch=4", "group_size=4", "max_tokens=5"),
        "loss_fn=importance_sampling",
    ),
}
TIMEOUT_S = 300


def build_overlay(folder: Path) -> None:
    """Fill a folder with what the recipes look up by name."""
    model = folder / MODEL
    model.mkdir(parents=True, exist_ok=True)
    for file in NANO.iterdir():
        link = model / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(file)
    problems = GeneratedMathDataset(split="train", max_samples=200)
    pairs = [problems[index] for index in range(len(problems))]
    rows = [{"question": pair["question"], "answer": pair["answer"]} for pair in pairs]
    chats = [
        {
            "messages": [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["answer"]},
            ]
        }
        for row in rows
    ]
    _write_dataset(folder / "openai" / "gsm8k", "main", rows)
    _write_dataset(folder / "HuggingFaceH4" / "no_robots", "default", chats)


def _write_dataset(folder: Path, config: str, rows: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    files = [f"  - split: {split}\n    path: {split}.jsonl\n" for split in ("train", "test")]
    header = f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{''.join(files)}---\n"
    (folder / "README.md").write_text(header, encoding="utf-8")


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
    pip = [python, "-m", "pip", "install", "--quiet"]
    constraints = ["-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, *constraints, *WITH_DEPENDENCIES], check=True)
    subprocess.run([*pip, "--no-deps", *WITHOUT_DEPENDENCIES], check=True)
    done.touch()
    return python


def run_recipe(python: Path, name: str, overlay: Path, base_url: str) -> bool:
    """Run one recipe; its output goes into a log beside the overlay."""
    settings = list(RECIPES[name])
    if name.endswith(".train"):
        settings.append(f"log_path={BUILD / 'runs' / name}")
    environment = {
        **os.environ,
        "TINKER_BASE_URL": base_url,
        "TINKER_API_KEY": "tml-local",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(BUILD / "hf"),
        "TINKER_COOKBOOK_RUNS_DIR": str(BUILD / "runs"),
    }
    command = [python, "-m", f"tinker_cookbook.recipes.{name}", *settings]
    log = BUILD / f"{name}.log"
    start_s = time.monotonic()
    with log.open("wb") as output:
        ended = subprocess.run(
            command, cwd=overlay, env=environment, stdout=output, stderr=output, timeout=TIMEOUT_S,
            check=False,
        )  # fmt: skip
    word = "ok" if ended.returncode == 0 else f"FAILED, see {log.relative_to(ROOT)}"
    print(f"{name:16} {time.monotonic() - start_s:6.1f} s  {word}", flush=True)
    return ended.returncode == 0


def main() -> int:
    """Build what is missing, run the recipes, and say how each ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=list(RECIPES), help=", ".join(RECIPES))
    wanted = parser.parse_args().recipes
    overlay = BUILD / "overlay"
    build_overlay(overlay)
    python = build_environment(BUILD / "venv")
    server = EmbeddedServer(["nano"], settings={"aliases": {MODEL: "nano"}})
    try:
        results = [run_recipe(python, name, overlay, server.base_url) for name in wanted]
    finally:
        server.close()
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
