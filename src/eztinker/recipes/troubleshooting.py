"""What to do when a recipe fails or does not help: one piece of advice for each promised trouble.

Server not started, out of memory, math-verify unavailable, accuracy not rising, model not found. Pure texts and
one wrapper that ends a door with message, advice and exit code. Called by the doors and the recipes' reports.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass

from eztinker.errors import (
    CapacityError,
    EZTinkerError,
    JobFailedError,
    NotFoundError,
    ServerUnreachableError,
)
from eztinker.recipes.terminal import harmless, pick

INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Names:
    """What a door calls the settings that advice is about.

    Attributes:
        model: that name a model, as it would be typed.
        less: that make work smaller, as they would be typed.
        data: that name a file of data.
    """

    model: str = "--model nano, --model PATH"
    less: str = "--batch-size 1 --num-candidates 2 --max-new-tokens 128; --max-samples 25"
    data: str = "--data-path FILE.jsonl"


def names_of(fields: Collection[str], form: str = "{}={}") -> Names:
    """Names of the settings of a recipe.

    Args:
        fields: the recipe's keys.
        form: how a key and its value are typed.
    """

    def typed(*wanted: tuple[str, str]) -> str:
        return ", ".join(form.format(key, value) for key, value in wanted if key in fields)

    if "teacher" in fields:  # the finance pipeline has parts
        return Names(
            model=", ".join(f"{key}=nano" for key in FINANCE_MODELS),
            less="model.quantization=nf4, sft.per_device_train_batch_size=1, grpo.max_new_tokens=128",
            data="data.local_path=FILE.jsonl",
        )
    return Names(
        model=typed(
            ("model_name_or_path", "nano"), ("model_path", "nano"), ("teacher_model", "nano")
        ),
        less=typed(
            ("load_in_4bit", "true"),
            ("per_device_train_batch_size", "1"),
            ("max_completion_length", "128"),
            ("max_new_tokens", "128"),
            ("max_length", "512"),
        ),
        data=typed(
            ("data_path", "FILE.jsonl"),
            ("dataset_name", "FILE.jsonl"),
            ("training_data", "FILE.json"),
        ),
    )


FINANCE_MODELS = ("model.base_model", "teacher.model_name", "judge.model_name")


def advice_for(error: EZTinkerError, names: Names | None = None) -> str | None:
    """What the person should try; None when the error's own message says it already.

    Args:
        error: that ended the work.
        names: of the settings where it was started; None are the flags of the demos.
    """
    code = error.details.get("code", error.code)
    names = names or Names()
    if code == ServerUnreachableError.code:
        return pick(
            "In another terminal, and leave it running:\n    eztinker server",
            "请在另一个终端启动服务器并保持运行：\n    eztinker server\n"
            "其他地址的服务器用 --base-url 或 EZTINKER_BASE_URL 指定。",
        )
    if code == "out_of_memory":
        return pick(
            f"Ask for less at a time ({names.less}), or choose a smaller model ({names.model}).",
            f"请减小规模（{names.less}），也可以换更小的模型（{names.model}）。",
        )
    if isinstance(error, NotFoundError) and code == "dataset_not_found":
        return pick(
            f"Give the data with {names.data}, or try the whole path without any: eztinker demo",
            f"请用 {names.data} 指定数据，或先运行无需数据的演示：eztinker demo",
        )
    if code in ("model_not_found", "hub_unreachable") or (
        code == NotFoundError.code and "model" in error.message.lower()
    ):
        return pick(
            "Without a network, use the built-in model nano, or a folder that the server can read: "
            f"{names.model}.",
            f"没有网络时请使用内置模型 nano，或给出服务器可读的模型目录：{names.model}。",
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


def run_door(work: Callable[[], None], names: Names | None = None) -> int:
    """Run what a script does and turn every expected end into a message on stderr and an exit code.

    Args:
        work: what it does.
        names: as of ``advice_for``.

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
        advice = advice_for(error, names)
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
