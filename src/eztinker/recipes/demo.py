"""The demo: rejection-sampling SFT from start to finish on this machine alone, accuracy before and after.

Chooses model, problems and settings that show the effect in a minute or two, finds or starts a server, and hands
over to ``rejection_sft.py``; it has no algorithm of its own. The held-out problems are of the test split, of
which nothing is trained on. Called by the command ``eztinker demo``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from eztinker.dataset.base import get_dataset
from eztinker.errors import UnsupportedError
from eztinker.recipes.experiment.connection import client_or_own_server
from eztinker.recipes.held_out import hold_out
from eztinker.recipes.rejection_config import RejectionSFTConfig
from eztinker.recipes.rejection_report import RejectionSFTReport
from eztinker.recipes.rejection_sft import run_rejection_sft
from eztinker.recipes.rejection_state import PLOT_FILE, RESULTS_FILE
from eztinker.recipes.terminal import Progress, TerminalProgress, pick

BUILT_IN_MODEL = "nano"
BUILT_IN_PROBLEMS = "generated-math"
NEXT_COMMAND = "eztinker demo --model Qwen/Qwen2-0.5B-Instruct --dataset gsm8k"

# The small model takes larger steps, without dropout: the recipe of tools/nano/simulate_demo.py.
_NANO = {"learning_rate": 2e-3, "temperature": 1.0, "lora_dropout": 0.0}
_OTHERS = {"learning_rate": 2e-4, "temperature": 0.8}
_GENERATED = "generated-"
_GENERATED_MAX_NEW_TOKENS = 100
_MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class DemoOptions:
    """What the demo can be told; every default is what ``eztinker demo`` takes.

    Attributes:
        model: base model.
        dataset: ``generated-math`` (the built-in problems), or another data set with a train and a test split.
        data_path: its folder, or one file, of which the last rows are held out; for data sets that are read.
        max_samples: training problems.
        num_candidates: answers sampled for each.
        epochs: rounds of selection and training.
        eval_size: held-out problems.
        seed: of problems, candidates and adapter.
        output_dir: folder of results, plot and, when the demo starts a server, its state in ``server/``.
        base_url: a server to use; None takes ``EZTINKER_BASE_URL``, else the default address, else starts one.
    """

    model: str = BUILT_IN_MODEL
    dataset: str = BUILT_IN_PROBLEMS
    data_path: str | Path | None = None
    max_samples: int = 200
    num_candidates: int = 4
    epochs: int = 2
    eval_size: int = 200
    seed: int = 0
    output_dir: str | Path = "demo-output"
    base_url: str | None = None


@dataclass(frozen=True)
class DemoReport:
    """Outcome of the demo, in JSON types; what ``eztinker demo --json`` prints.

    Attributes:
        accuracy_before: share of held-out problems answered rightly by greedy decoding, 0 to 1, before training.
        accuracy_before_ci95: Wilson 95 % interval of it, low and high.
        accuracy_after: the same after training.
        sampled_accuracy_before: one answer each at temperature 1, before training.
        sampled_accuracy_after: the same after training.
        eval_size: held-out problems.
        seconds: wall-clock time, start of a server included.
        plot: path of the PNG.
        results: path of the JSON file with all figures.
    """

    accuracy_before: float
    accuracy_before_ci95: list[float]
    accuracy_after: float
    accuracy_after_ci95: list[float]
    sampled_accuracy_before: float
    sampled_accuracy_before_ci95: list[float]
    sampled_accuracy_after: float
    sampled_accuracy_after_ci95: list[float]
    eval_size: int
    seconds: float
    seed: int
    plot: str
    results: str
    run_id: str
    model: str
    dataset: str
    num_trained: int
    advice: list[str]

    def summary(self) -> str:
        """The closing table and what to do next, for the terminal."""
        greedy = pick("greedy", "贪心解码")
        sampled = pick("sampled, temperature 1", "采样，温度 1")
        title = pick(
            f"Accuracy on {self.eval_size} held-out problems, 95 % interval",
            f"{self.eval_size} 道未训练题目上的准确率，95% 置信区间",
        )
        lines = [
            title,
            _line("", pick("before", "训练前"), pick("after", "训练后"), arrow="  "),
            _line(greedy, self._cell("accuracy_before"), self._cell("accuracy_after")),
            _line(
                sampled, self._cell("sampled_accuracy_before"), self._cell("sampled_accuracy_after")
            ),
            "",
            *self.advice,
            pick("Plot: ", "曲线图：") + self.plot,
            pick("Figures: ", "全部数据：") + self.results,
        ]
        if self.dataset == BUILT_IN_PROBLEMS:
            lines.append(
                pick(
                    "The same on GSM8K with Qwen2-0.5B (fetched from the hub when you name it): ",
                    "在 GSM8K 上用 Qwen2-0.5B 运行同样的流程（指定后才会从 hub 下载）：",
                )
                + NEXT_COMMAND
            )
        return "\n".join(lines)

    def _cell(self, name: str) -> str:
        low, high = getattr(self, f"{name}_ci95")
        return f"{getattr(self, name):.1%} ({low:.0%} - {high:.0%})"


def _line(label: str, before: str, after: str, *, arrow: str = "->") -> str:
    """A line of the closing table; Chinese characters are two columns wide."""
    cells = (label + " " * (22 - cell_len(label)), _right(before), arrow, _right(after))
    return "  ".join(cells)


def _right(text: str) -> str:
    return " " * (18 - cell_len(text)) + text


def run_demo(options: DemoOptions, progress: Progress | None = None) -> DemoReport:
    """Run the demo from nothing; a former run in ``output_dir`` is replaced.

    Args:
        options: what to run.
        progress: where notes and bars go; None shows them on stderr.

    Raises:
        ServerUnreachableError: a server that was named does not answer.
        NotFoundError: no such model or data set.
        UnsupportedError: a data set that this demo cannot split or grade.
    """
    started_s = time.monotonic()
    progress = progress or TerminalProgress()
    train, held_out = demo_datasets(options)
    config = demo_config(options)
    server_folder = Path(options.output_dir) / "server"
    with client_or_own_server(options.base_url, options.model, server_folder, progress) as client:
        progress.say(
            pick(
                f"Rejection-sampling SFT of {options.model} on {len(train)} problems, "
                f"{len(held_out)} held out, at {client.base_url}",
                f"用 {len(train)} 道题对 {options.model} 做拒绝采样微调，{len(held_out)} 道题用于测试，"
                f"服务器 {client.base_url}",
            )
        )
        figures = run_rejection_sft(config, client, train, held_out, progress)
    return _report(options, figures, time.monotonic() - started_s)


def demo_config(options: DemoOptions) -> RejectionSFTConfig:
    """The recipe's settings for these options."""
    shaped: dict[str, Any] = _NANO if options.model == BUILT_IN_MODEL else _OTHERS
    is_generated = options.dataset.startswith(_GENERATED)
    return RejectionSFTConfig(
        base_model=options.model,
        max_samples=options.max_samples,
        num_candidates=options.num_candidates,
        epochs=options.epochs,
        eval_size=options.eval_size,
        seed=options.seed,
        output_dir=options.output_dir,
        max_new_tokens=_GENERATED_MAX_NEW_TOKENS if is_generated else _MAX_NEW_TOKENS,
        reset_buffer=True,
        evaluate_sampled=True,
        **shaped,
    )


def demo_datasets(options: DemoOptions) -> tuple[Any, Any]:
    """Training problems and held-out problems."""
    sizes = {"train": options.max_samples, "test": options.eval_size}
    if options.dataset == "sharegpt":
        raise UnsupportedError(
            "dataset: conversations have no test split and no right answer. Use rejection_sft_demo_sharegpt.py, "
            "which says how it scores them.",
            field="dataset",
        )
    given: dict[str, Any] = {}
    if options.dataset.startswith(_GENERATED):
        if options.data_path is not None:
            raise UnsupportedError(
                "data_path: generated problems read no file. Name the data set of the file "
                "too, for instance --dataset gsm8k.",
                field="data_path",
            )
        given["seed"] = options.seed
    elif options.data_path is not None and Path(options.data_path).is_file():
        # One file has no test split of its own; reading it as both would train on what is held out.
        whole = get_dataset(options.dataset, data_path=options.data_path)
        return hold_out(whole, options.max_samples, options.eval_size)
    elif options.data_path is not None:
        given["data_path"] = options.data_path
    train, test = (
        get_dataset(options.dataset, split=split, max_samples=size, **given)
        for split, size in sizes.items()
    )
    return train, test


def _report(options: DemoOptions, figures: RejectionSFTReport, seconds: float) -> DemoReport:
    before, after = figures.evaluations[0], figures.evaluations[-1]
    folder = Path(options.output_dir)
    return DemoReport(
        accuracy_before=before["accuracy"],
        accuracy_before_ci95=before["ci95"],
        accuracy_after=after["accuracy"],
        accuracy_after_ci95=after["ci95"],
        sampled_accuracy_before=before["sampled_accuracy"],
        sampled_accuracy_before_ci95=before["sampled_ci95"],
        sampled_accuracy_after=after["sampled_accuracy"],
        sampled_accuracy_after_ci95=after["sampled_ci95"],
        eval_size=before["num_examples"],
        seconds=round(seconds, 1),
        seed=options.seed,
        plot=str(folder / PLOT_FILE),
        results=str(folder / RESULTS_FILE),
        run_id=figures.run_id,
        model=options.model,
        dataset=options.dataset,
        num_trained=figures.num_trained,
        advice=figures.advice(),
    )
