"""What to do when a recipe fails or does not help: one piece of advice for each promised trouble.

Server not started, out of memory, math-verify unavailable, accuracy not rising, model not found. Pure texts and
one wrapper that ends a door with message, advice and exit code. Called by the doors and the recipes' reports.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from eztinker.errors import (
    CapacityError,
    EZTinkerError,
    JobFailedError,
    NotFoundError,
    ServerUnreachableError,
)
from eztinker.recipes.terminal import harmless, pick

INTERRUPTED = 130


def advice_for(error: EZTinkerError) -> str | None:
    """What the person should try; None when the error's own message says it already."""
    code = error.details.get("code", error.code)
    if code == ServerUnreachableError.code:
        return pick(
            "In another terminal, and leave it running:\n    eztinker server",
            "请在另一个终端启动服务器并保持运行：\n    eztinker server\n"
            "其他地址的服务器用 --base-url 或 EZTINKER_BASE_URL 指定。",
        )
    if code == "out_of_memory":
        return pick(
            "Ask for less at a time: --batch-size 1 --num-candidates 2 --max-new-tokens 128, or --max-samples 25 "
            "for a shorter run; or choose a smaller --model.",
            "请减小规模：--batch-size 1 --num-candidates 2 --max-new-tokens 128，或用 --max-samples 25 缩短运行；"
            "也可以换更小的 --model。",
        )
    if isinstance(error, NotFoundError) and code == "dataset_not_found":
        return pick(
            "Give the data with --data-path FILE.jsonl, or try the whole path without any: eztinker demo",
            "请用 --data-path FILE.jsonl 指定数据，或先运行无需数据的演示：eztinker demo",
        )
    if code in ("model_not_found", "hub_unreachable") or (
        isinstance(error, NotFoundError) and "model" in error.message.lower()
    ):
        return pick(
            "Without a network, use the built-in model: --model nano; or name a folder that the server can read: "
            "--model PATH.",
            "没有网络时请使用内置模型：--model nano；或给出服务器可读的模型目录：--model PATH。",
        )
    return None


def math_verify_warning(num_unverified: int) -> str | None:
    """A warning when answers had to be judged without math-verify."""
    if not num_unverified:
        return None
    return pick(
        f"Warning: math-verify did not answer for {num_unverified} candidates; the built-in rules judged them "
        "alone. If this is not a rare timeout, reinstall it: pip install 'math-verify[antlr4_13_2]'",
        f"警告：math-verify 对 {num_unverified} 个候选没有给出结果，仅由内置规则判断。"
        "如果不是偶发超时，请重新安装：pip install 'math-verify[antlr4_13_2]'",
    )


def not_rising_advice(before: float, after: float, num_trained: int) -> str | None:
    """What to check when the test accuracy did not rise; None when it did.

    Args:
        before: accuracy before training, 0 to 1.
        after: accuracy after it.
        num_trained: answers that were trained on, over all epochs.
    """
    if after > before:
        return None
    if num_trained == 0:
        return pick(
            "No candidate was correct, so nothing was trained. Give selection more to select from: "
            "--num-candidates 8, --max-samples 500, a longer --max-new-tokens, or a stronger --model.",
            "没有任何正确的候选，因此没有训练。请增加可选择的内容：--num-candidates 8、--max-samples 500、"
            "更大的 --max-new-tokens，或更强的 --model。",
        )
    return pick(
        "The accuracy did not rise. Check: 1. the loss falls (see the plot); 2. the rank is above 0 (it is shown "
        "in the results); 3. a higher --learning-rate (3e-4 or 5e-4); 4. more data (--max-samples 500); "
        "5. more candidates (--num-candidates 8). With few test problems the interval is wide: --eval-size 500.",
        "准确率没有提升。请检查：1. 损失是否下降（见图）；2. LoRA 秩大于 0（见结果文件）；"
        "3. 提高学习率 --learning-rate（3e-4 或 5e-4）；4. 增加样本 --max-samples 500；"
        "5. 增加候选数 --num-candidates 8。测试题少时区间很宽：--eval-size 500。",
    )


def run_door(work: Callable[[], None]) -> int:
    """Run what a script does and turn every expected end into a message on stderr and an exit code.

    Returns:
        0, the error's exit code (``eztinker.errors``), or 130 after Ctrl-C.
    """
    try:
        work()
    except KeyboardInterrupt:
        _note(
            pick(
                "Interrupted. Run the same command again to continue.",
                "已中断。再次运行同一命令即可继续。",
            )
        )
        return INTERRUPTED
    except EZTinkerError as error:
        _note(f"Error: {error.message}")
        advice = advice_for(error)
        if advice:
            _note(advice)
        return exit_code_of(error)
    except TimeoutError as error:
        _note(f"Error: {error}")
        return 1
    return 0


def exit_code_of(error: EZTinkerError) -> int:
    """The error's own exit code; a job that died for want of room counts as want of room."""
    if isinstance(error, JobFailedError) and error.details.get("code") == "out_of_memory":
        return CapacityError.exit_code
    return error.exit_code


def _note(text: str) -> None:
    encoding = sys.stderr.encoding or "utf-8"
    sys.stderr.write(harmless(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")
