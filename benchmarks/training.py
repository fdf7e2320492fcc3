"""Training steps through server and client against TRL's trainers on the same weights, step by step in turns.

``python -m benchmarks.training [--json] [--out FILE] [--peer-python PYTHON] [--only NAME …]``. LoRA r=8 on all
linear layers, without dropout. Ours is measured from call to answer in the client, TRL from the
beginning to the end of its step, gradient checkpointing off. The peer's environment needs trl, peft and
datasets; where it lacks them the peer is left out and the reason is reported.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import machine, process_memory, process_times, shapes
from benchmarks.peer import Peer, obstacle
from benchmarks.running_server import running, until
from eztinker import EZTinkerClient

LENGTHS = [32 * (i + 1) for i in range(16)]
FEW_LENGTHS = [128, 256, 384, 512]
"""Of the large vocabulary, unless ``--all-sequences``: a step of all sixteen takes minutes."""
NUM_PROMPTS, NUM_SAMPLES, NUM_PROMPT_TOKENS, NUM_NEW = 8, 4, 128, 64
LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
SHORT_STEP_S = 4.0
Step = Callable[[], float]


def main() -> None:
    """Measure each piece of work in turns and report."""
    options = machine.parser(__doc__)
    options.add_argument("--peer-python", default=sys.executable, help="interpreter that has trl")
    options.add_argument("--only", nargs="+", choices=sorted(WORK), default=sorted(WORK))
    options.add_argument("--all-sequences", action="store_true", help="sixteen everywhere")
    options.add_argument("--rounds", type=int, default=3, help="turns of each; L gets one")
    options.add_argument("--threads", type=int, default=0, help="0: one per physical core")
    arguments = options.parse_args()
    num_threads = arguments.threads or _num_cores()
    os.environ["EZTINKER_NUM_THREADS"] = str(num_threads)
    reason = obstacle(arguments.peer_python, ("trl", "peft", "datasets"))
    figures: dict[str, Any] = {"threads": num_threads}
    for name in arguments.only:
        machine.note(f"{name} …")
        measure, shape, dtype, changes = WORK[name]
        if measure is _few_sft and arguments.all_sequences:
            measure = _sft
        rounds = 1 if shape == "L" else arguments.rounds
        with tempfile.TemporaryDirectory(prefix="eztinker-benchmark-") as temporary:
            folder = shapes.write(Path(temporary) / "model", shape, dtype, **changes)
            peer = None if reason else (arguments.peer_python, num_threads)
            figures[name] = measure(folder, dtype, peer, rounds)
        if reason:
            figures[name]["peer_left_out"] = reason
    machine.report("training", figures, arguments)


def _sft(
    folder: Path,
    dtype: torch.dtype,
    peer: tuple[str, int] | None,
    rounds: int,
    lengths: Sequence[int] = LENGTHS,
) -> dict[str, Any]:
    vocabulary = shapes.config("S").vocab_size
    sequences = [_tokens(i, length, vocabulary) for i, length in enumerate(lengths)]
    data = [{"input_ids": ids, "target_ids": ids} for ids in sequences]
    with contextlib.ExitStack() as stack:
        client, run_id, pid = stack.enter_context(_ours(folder))

        def step() -> float:
            started_s = time.perf_counter()
            client.forward_backward(run_id, data=data)
            client.optim_step(run_id)
            return time.perf_counter() - started_s

        theirs = _peer(stack, peer, "sft", folder, dtype, {"sequences": sequences})
        return {
            "num_sequences": len(sequences),
            "num_tokens": sum(lengths),
            **_in_turns(step, pid, theirs, rounds),
        }


def _grpo(
    folder: Path, dtype: torch.dtype, peer: tuple[str, int] | None, rounds: int
) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghij"))
    prompts = ["".join(rng.choice(letters, NUM_PROMPT_TOKENS)) for _ in range(NUM_PROMPTS)]
    with contextlib.ExitStack() as stack:
        client, run_id, pid = stack.enter_context(_ours(folder))
        tokenizer = client.get_tokenizer("benchmark")
        prompt_ids = [list(tokenizer.encode(prompt)) for prompt in prompts]

        def step() -> float:
            started_s = time.perf_counter()
            jobs = [
                client.submit_sample(
                    ids, NUM_NEW, top_k=0, run_id=run_id, num_samples=NUM_SAMPLES, stop=[]
                )
                for ids in prompt_ids
            ]
            groups = [client.wait_for_job(job.job_id)["result"]["sequences"] for job in jobs]
            data = [
                _datum(ids, answer, float(number))
                for ids, group in zip(prompt_ids, groups, strict=True)
                for number, answer in enumerate(group)
            ]
            client.forward_backward(run_id, data=data, loss_fn="importance_sampling")
            client.optim_step(run_id)
            return time.perf_counter() - started_s

        work = {"prompts": prompts, "num_samples": NUM_SAMPLES, "num_new": NUM_NEW}
        theirs = _peer(stack, peer, "grpo", folder, dtype, work)
        return {
            "num_prompts": NUM_PROMPTS,
            "num_samples": NUM_SAMPLES,
            "tokens": [NUM_PROMPT_TOKENS, NUM_NEW],
            **_in_turns(step, pid, theirs, rounds),
        }


_few_sft = functools.partial(_sft, lengths=FEW_LENGTHS)
WORK: dict[str, Any] = {
    "sft_S": (_sft, "S", torch.float32, {}),
    "sft_S_vocabulary_151936": (_few_sft, "S", torch.float32, {"vocab_size": 151_936}),
    "sft_L_bfloat16": (_few_sft, "L", torch.bfloat16, {}),
    "grpo_S": (_grpo, "S", torch.float32, {}),
}


def _in_turns(step: Step, pid: int, theirs: Peer | None, rounds: int) -> dict[str, Any]:
    """Medians of both, and how many times longer the peer takes; memory above the loaded model.

    While one side works the other is idle and the worker gives its freed memory back, which training
    without pauses never sees. So each turn begins with a step that does not count, where steps are short.
    """
    resident_bytes = process_memory.resident_bytes(pid)  # before a step leaves freed memory behind
    ours, peer = _Taken(), _Taken()
    first_s = step()
    is_short = first_s < SHORT_STEP_S
    if theirs is not None:
        theirs.step()
    for _ in range(rounds):
        if is_short:
            step()
        process_memory.reset_peak(pid)
        cpu_before_s = process_times.engine_cpu_s(pid)
        elapsed_s = step()
        cpu_s = process_times.engine_cpu_s(pid) - cpu_before_s
        ours.add(elapsed_s, cpu_s, process_memory.peak_bytes(pid) - resident_bytes)
        if theirs is not None:
            if is_short:
                theirs.step()
            done = theirs.step()
            above_bytes = done["peak_bytes"] - theirs.resident_bytes
            peer.add(done["seconds"], done["cpu_seconds"], above_bytes)
    figures: dict[str, Any] = {"ours": ours.summary()}
    if theirs is not None:
        figures["peer"] = peer.summary()
        figures["ratio"] = round(float(np.median(peer.wall_s) / np.median(ours.wall_s)), 2)
        figures["cpu_ratio"] = round(float(np.median(peer.cpu_s) / np.median(ours.cpu_s)), 2)
        figures["memory_share"] = round(max(ours.num_bytes) / max(1, *peer.num_bytes), 2)
    return figures


@dataclass(slots=True)
class _Taken:
    """What the steps of one side took."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    num_bytes: list[int] = field(default_factory=list)

    def add(self, wall_s: float, cpu_s: float, num_bytes: int) -> None:
        self.wall_s.append(wall_s)
        self.cpu_s.append(cpu_s)
        self.num_bytes.append(num_bytes)

    def summary(self) -> dict[str, Any]:
        return {
            "median_s": round(float(np.median(self.wall_s)), 4),
            "all_s": [round(value, 4) for value in self.wall_s],
            "median_cpu_s": round(float(np.median(self.cpu_s)), 3),
            "peak_above_loaded_mb": round(max(self.num_bytes) / 1e6, 1),
        }


@contextlib.contextmanager
def _ours(folder: Path) -> Iterator[tuple[EZTinkerClient, str, int]]:
    """A client with a run, and the worker's process id."""
    with (
        running(folder.parent, {"benchmark": folder}) as url,
        EZTinkerClient(url, timeout=3600) as client,
    ):
        until(lambda: client.health().get("engine") == "ready")
        run_id = client.create_run("benchmark", lora_config=LORA, seed=1)
        yield client, run_id, process_memory.worker_pid()


def _peer(
    stack: contextlib.ExitStack,
    peer: tuple[str, int] | None,
    kind: str,
    folder: Path,
    dtype: torch.dtype,
    work: dict[str, Any],
) -> Peer | None:
    if peer is None:
        return None
    python, num_threads = peer
    words = [kind, str(folder), str(dtype).removeprefix("torch.")]
    return stack.enter_context(Peer(python, "trl_peer.py", words, work, num_threads))


def _datum(prompt: list[int], answer: dict[str, Any], advantage: float) -> dict[str, Any]:
    tokens, num_prompt = answer["tokens"], len(prompt)
    zeros = [0.0] * num_prompt
    return {
        "input_ids": prompt + tokens,
        "target_ids": [-100] * num_prompt + tokens,
        "logprobs": zeros + answer["logprobs"],
        "advantages": zeros + [advantage - (NUM_SAMPLES - 1) / 2] * len(tokens),
    }


def _tokens(seed: int, length: int, vocabulary: int) -> list[int]:
    return np.random.default_rng(seed).integers(1, vocabulary, length).tolist()


def _num_cores() -> int:
    from eztinker.engine.worker.devices import num_physical_cores

    return num_physical_cores()


if __name__ == "__main__":
    main()
