"""A service without tensors: its model answers sums and gets better with every optimizer step.

``FakeClient`` has the methods that rl and recipes use. Skill is the share of questions answered rightly; which
ones is decided by hashes, so everything is reproducible. ``CharTokenizer`` has one token per character.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

from eztinker.errors import JobFailedError

END = 0


class CharTokenizer:
    """Token = code point; 0 ends an answer."""

    bos_token = None
    eos_token_id = END

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(
        self, ids: Any, skip_special_tokens: bool, clean_up_tokenization_spaces: bool
    ) -> str:
        assert not clean_up_tokenization_spaces
        return "".join(chr(token) for token in ids if token != END or not skip_special_tokens)

    def apply_chat_template(
        self, messages: Any, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert not tokenize
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"


class SumDataset:
    """Row i asks for i + i; an answer is right when it ends in ``#### sum``."""

    def __init__(self, size: int, start: int = 0) -> None:
        self.rows = range(start, start + size)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"question": self.get_example_question(index)[0]}

    def get_example_question(self, index: int) -> tuple[str, str, str]:
        row = self.rows[index]
        question = f"What is {row} + {row}?"
        return question, f"Question: {question}\nAnswer:", str(2 * row)

    def evaluate_answer(self, text: str, truth: str, question: str = "") -> dict[str, Any]:
        is_correct = text.endswith(f"#### {truth}")
        confidence = 0.9 if "####" in text else 0.1
        return {"score": float(is_correct), "is_correct": is_correct, "confidence": confidence}


@dataclass
class FakeRun:
    base_model: str
    lora: dict[str, Any]
    step: int = 0
    pending: int = 0
    trained: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: dict[str, int] = field(default_factory=dict)
    log: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def skill(self) -> float:
        return min(0.95, 0.3 + 0.1 * self.step)


@dataclass
class Handle:
    job_id: str
    value: Any
    is_cancelled: bool = False

    def result(self, timeout: float | None = None) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeClient:
    """The methods of ``EZTinkerClient`` that algorithms use; every operation takes effect when submitted."""

    base_url = "http://fake"

    def __init__(self) -> None:
        self.runs: dict[str, FakeRun] = {}
        self.handles: dict[str, Handle] = {}
        self.samples: list[dict[str, Any]] = []
        self.num_tokenizers = 0
        self.fail_after_steps: int | None = None

    def health(self) -> dict[str, Any]:
        return {"status": "ok"}

    def create_run(
        self, base_model: str, *, lora_rank: int, lora_alpha: float, lora_config: Any, **rest: Any
    ) -> str:
        run_id = rest.get("run_id") or f"run_{len(self.runs):08x}"
        lora = {"r": lora_rank, "lora_alpha": lora_alpha, **lora_config}
        self.runs[run_id] = FakeRun(base_model, lora)
        return run_id

    def get_runs(self) -> list[dict[str, Any]]:
        return [
            {"run_id": k, "base_model": r.base_model, "step": r.step, "lora_config": r.lora}
            for k, r in self.runs.items()
        ]

    def get_jobs(self, run_id: str, status: str | None = None) -> list[dict[str, Any]]:
        return []  # nothing is ever left in the queue

    def get_log(self, run_id: str, after: int | None, limit: int) -> list[dict[str, Any]]:
        entries = [
            {"seq": i, "kind": kind, "status": "completed", "result": result}
            for i, (kind, result) in enumerate(self.runs[run_id].log)
        ]
        return [entry for entry in entries if after is None or entry["seq"] > after][:limit]

    def get_tokenizer(self, base_model: str | None = None) -> CharTokenizer:
        self.num_tokenizers += 1
        return CharTokenizer()

    def _handle(self, value: Any) -> Handle:
        handle = Handle(f"job_{len(self.handles):08x}", value)
        self.handles[handle.job_id] = handle
        return handle

    def wait_for_job(self, job_id: str, timeout: float, polling_interval: float) -> dict[str, Any]:
        return {"job_id": job_id, "status": "completed", "result": self.handles[job_id].result()}

    def submit_sample(self, prompt: list[int], *, run_id: str, **params: Any) -> Handle:
        self.samples.append({"prompt": prompt, "run_id": run_id, **params})
        text = "".join(map(chr, prompt))
        number = int(text.split(" is ")[1].split(" ")[0])
        sequences = [
            self._answer(number, self.runs[run_id], params, i) for i in range(params["num_samples"])
        ]
        return self._handle({"sequences": sequences})

    def _answer(self, number: int, run: FakeRun, params: dict[str, Any], i: int) -> dict[str, Any]:
        luck = 0.0 if params["temperature"] == 0 else _share(f"{params['seed']}/{i}") - 0.5
        is_right = _share(f"difficulty {number}") + 0.4 * luck < run.skill
        text = f" so #### {2 * number if is_right else 'no'}"
        return {"text": text, "tokens": [*map(ord, text), END], "stop_reason": "stop"}

    def sample(self, prompt: str, **params: Any) -> str:
        return prompt + " 4"

    def submit_forward_backward(self, run_id: str, data: list[dict[str, Any]]) -> Handle:
        run = self.runs[run_id]
        if self.fail_after_steps is not None and run.step >= self.fail_after_steps:
            error = JobFailedError("no memory", job_id="job_x", details={"code": "out_of_memory"})
            return self._handle(error)
        run.trained += data
        run.pending += len(data)
        run.log.append(("forward_backward", {"loss": 1.0 / (1 + run.step)}))
        return self._handle({"loss": 1.0 / (1 + run.step), "batches": len(data)})

    def submit_optim_step(self, run_id: str, **params: Any) -> Handle:
        run = self.runs[run_id]
        if run.pending:
            run.step, run.pending = run.step + 1, 0
            run.log.append(("optim_step", {"step": run.step}))
        return self._handle({"step": run.step, "status": "optimizer_step_completed"})

    def forward_backward(self, run_id: str, *, data: list[dict[str, Any]]) -> dict[str, Any]:
        return self.submit_forward_backward(run_id, data).result()

    def optim_step(self, run_id: str, **params: Any) -> dict[str, Any]:
        return self.submit_optim_step(run_id, **params).result()

    def save_checkpoint(self, run_id: str, name: str, *, overwrite: bool) -> None:
        assert overwrite
        self.runs[run_id].checkpoints[name] = self.runs[run_id].step

    def get_checkpoints(self, run_id: str) -> list[dict[str, Any]]:
        return [{"name": name} for name in self.runs[run_id].checkpoints]

    def load_checkpoint(self, run_id: str, name: str) -> dict[str, Any]:
        run = self.runs[run_id]
        run.step, run.pending = run.checkpoints[name], 0
        return {"step": run.step}


def _share(key: str) -> float:
    return (zlib.crc32(key.encode()) % 1000) / 1000
