"""Flags of ``rejection_sft_demo.py`` and its ShareGPT twin, and the closing words of both.

Turns a command line into ``RejectionSFTConfig``; the work is in ``rejection_sft.py``. Called by the two doors.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from eztinker.dataset.gsm8k import GSM8KDataset
from eztinker.recipes.held_out import hold_out
from eztinker.recipes.rejection_config import RejectionSFTConfig
from eztinker.recipes.rejection_report import RejectionSFTReport
from eztinker.recipes.rejection_state import BUFFER_FILE, PLOT_FILE, RESULTS_FILE
from eztinker.recipes.scored_dataset import ScoredDataset, ScorerChoice, ScorerName
from eztinker.recipes.terminal import pick, print_out


def rejection_parser(description: str | None, model: str) -> argparse.ArgumentParser:
    """The flags that both doors have.

    Args:
        description: what ``--help`` says first.
        model: default of ``--model``.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default=model, help=f"base model; nano is built in (default {model})")
    add("--data-path", type=Path, metavar="PATH", help="data file, or folder with train and test")
    add("--max-samples", type=_count, default=100, metavar="N", help="training examples (100)")
    add("--num-candidates", type=_count, default=4, metavar="N", help="answers per example (4)")
    add("--epochs", type=_count, default=3, metavar="N", help="epochs (3)")
    add("--learning-rate", type=_positive, default=2e-4, metavar="LR", help="of AdamW (2e-4)")
    add("--temperature", type=_positive, default=0.8, metavar="T", help="of the candidates (0.8)")
    add("--eval-size", type=_count, default=100, metavar="N", help="held-out examples (100)")
    add("--batch-size", type=_count, default=8, metavar="N", help="answers per step (8)")
    add("--max-new-tokens", type=_count, default=256, metavar="N", help="per answer (256)")
    add("--checkpoint", action="store_true", help="save rejection_sft_epoch_<k> after each epoch")
    add(
        "--output-dir",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="buffer, results (data)",
    )
    add("--reset-buffer", action="store_true", help="start afresh instead of continuing")
    add("--base-url", metavar="URL", help="server (EZTINKER_BASE_URL, else http://localhost:8000)")
    add(
        "--scorer",
        choices=get_args(ScorerName),
        default="math-verify",
        help="who grades (math-verify)",
    )
    add("--reward-model", metavar="RUN@CHECKPOINT", help="for --scorer reward-model")
    add(
        "--judge-model",
        metavar="MODEL",
        help="for --scorer judge: a model's name or RUN@CHECKPOINT",
    )
    add("--seed", type=int, default=0, help="same seed, same candidates (0)")
    return parser


def config_from(flags: argparse.Namespace, **settings: Any) -> RejectionSFTConfig:
    """Settings from the flags; ``settings`` has what no flag says."""
    names = (
        "max_samples",
        "num_candidates",
        "epochs",
        "learning_rate",
        "temperature",
        "eval_size",
        "batch_size",
        "max_new_tokens",
        "checkpoint",
        "output_dir",
        "reset_buffer",
        "seed",
    )
    given = {name: getattr(flags, name) for name in names}
    return RejectionSFTConfig(base_model=flags.model, **given, **settings)


def scorer_choice(flags: argparse.Namespace) -> ScorerChoice:
    """Who grades candidates."""
    return ScorerChoice(flags.scorer, flags.reward_model, flags.judge_model)


def gsm8k_splits(flags: argparse.Namespace) -> tuple[Any, Any]:
    """Training and held-out examples of GSM8K; of a single file its last rows are held out."""
    path, verify = flags.data_path, scorer_choice(flags).uses_math_verify
    if path is not None and path.is_file():
        whole = GSM8KDataset(data_path=path, use_math_verify=verify)
        return hold_out(whole, flags.max_samples, flags.eval_size)
    return (
        GSM8KDataset("train", flags.max_samples, verify, path),
        GSM8KDataset("test", flags.eval_size, verify, path),
    )


def print_report(report: RejectionSFTReport, output_dir: Path, dataset: Any | None = None) -> None:
    """The closing words: figures, what a scorer counted, advice, where the files are."""
    print_out(report.table())
    if isinstance(dataset, ScoredDataset):
        counts = dataset.figures().items()
        print_out("".join(f"{name}: {count}  " for name, count in counts).strip())
    for text in report.advice():
        print_out(text)
    print_out(
        pick("Run on the server: ", "服务器上的训练运行：")
        + f"{report.run_id}   (eztinker sample PROMPT --run-id {report.run_id})"
    )
    files = ", ".join(str(output_dir / name) for name in (RESULTS_FILE, BUFFER_FILE, PLOT_FILE))
    print_out(pick("Files: ", "文件：") + files)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 up, got {text}")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value
