"""TRL's trainers, one step for each line on stdin: the peer of ``benchmarks/training.py``.

``python trl_peer.py {sft,grpo} MODEL_FOLDER DTYPE``, with the interpreter of an environment that has trl,
peft and datasets; it needs nothing of this project. Answers each line with a JSON object on stdout:
``{"seconds", "cpu_seconds", "resident_bytes", "peak_bytes"}``; the first answer, before any step, says that it is ready.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset  # pyright: ignore[reportMissingImports]
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

RANK = 8
MAX_STEPS = 1000


def main() -> None:
    """Train until stdin ends."""
    kind, folder, dtype = sys.argv[1:4]
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print must not mix with the answers
    work = json.loads(sys.stdin.readline())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token_id = tokenizer.eos_token_id = 0
    tokenizer.pad_token = tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    make = {"sft": _sft, "grpo": _grpo}[kind]
    make(model, tokenizer, work, _Turns(answers)).train()


class _Turns(TrainerCallback):
    """Waits for a line before each step and answers after it."""

    def __init__(self, answers) -> None:
        self._answers = answers
        self._started_s = self._started_cpu_s = 0.0

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.wait()

    def wait(self) -> None:
        self._answer()
        if not sys.stdin.readline():
            os._exit(0)
        Path("/proc/self/clear_refs").write_text("5")
        self._started_s, self._started_cpu_s = time.perf_counter(), time.process_time()

    def _answer(self) -> None:
        fields = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
        )
        resident, peak = (1024 * int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM"))
        answer: dict[str, float] = {"resident_bytes": resident, "peak_bytes": peak}
        answer["seconds"] = time.perf_counter() - self._started_s if self._started_s else 0.0
        answer["cpu_seconds"] = time.process_time() - self._started_cpu_s
        self._answers.write(json.dumps(answer) + "\n")


def _lora() -> LoraConfig:
    return LoraConfig(r=RANK, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear")


COMMON = {
    "output_dir": "trl-peer",
    "use_cpu": True,
    "bf16": False,
    "fp16": False,
    "max_steps": MAX_STEPS,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "lr_scheduler_type": "constant",
    "learning_rate": 1e-4,
}


def _sft(model, tokenizer, work, turns):
    """Padded batches of all sequences; every token is a label, as in ours."""
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    sequences = work["sequences"]
    config = SFTConfig(
        **COMMON,
        per_device_train_batch_size=len(sequences),
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    data = Dataset.from_dict({"input_ids": sequences * 2, "labels": sequences * 2})
    return SFTTrainer(
        model=model,
        args=config,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=_lora(),
        callbacks=[turns],
    )


def _grpo(model, tokenizer, work, turns):
    """Answers of full length; the reward looks at the text only."""
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

    prompts = work["prompts"]
    config = GRPOConfig(
        **COMMON,
        per_device_train_batch_size=len(prompts) * work["num_samples"],
        num_generations=work["num_samples"],
        max_completion_length=work["num_new"],
        generation_kwargs={"min_new_tokens": work["num_new"], "eos_token_id": None},
        beta=0.0,
        temperature=1.0,
        top_k=0,
    )
    return _GRPOByTurns(turns)(
        GRPOTrainer,
        model=model,
        args=config,
        reward_funcs=lambda completions, **_: [float(len(c) % 7) for c in completions],
        train_dataset=Dataset.from_dict({"prompt": prompts * 4}),
        processing_class=tokenizer,
        peft_config=_lora(),
    )


class _GRPOByTurns:
    """A trainer whose turn begins before it generates, which it does ahead of ``on_step_begin``."""

    def __init__(self, turns: _Turns) -> None:
        self._turns = turns

    def __call__(self, trainer_class, **kwargs):
        turns = self._turns

        class ByTurns(trainer_class):
            def _prepare_inputs(self, inputs):
                turns.wait()
                return super()._prepare_inputs(inputs)

        return ByTurns(**kwargs)


if __name__ == "__main__":
    main()
