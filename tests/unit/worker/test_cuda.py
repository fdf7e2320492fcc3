"""The engine on a pretended CUDA device: the numbers of a CPU, no mixed devices, no needless waiting.

What a GPU itself does is for ``benchmarks/gpu.sh`` to find out.
"""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest
import torch

from eztinker.types.commands import LoadBaseModel, OpenRun
from eztinker.types.operations import RunCreated, SampleResult
from eztinker.types.training import LoRAConfig
from tests.pretended_cuda import DEVICE, MixedDevicesError, Watch, pretended_cuda
from tests.worker_harness import Harness, datum, tokens

PROMPT = tokens(5, 11)
STEPS = 6
DATA = [datum(i, 5 + i, num_prompt=2) for i in range(4)]
POLICY = [
    datum(i, 9, logprobs=np.full(9, -2, np.float32), advantages=np.ones(9, np.float32))
    for i in range(3)
]
ASKED: dict[str, dict[str, Any]] = {
    "plain": {},
    "greedy": {"temperature": 0},
    "top_k": {"top_k": 5, "temperature": 0.7},
    "top_k_and_p": {"top_k": 20, "top_p": 0.8},
    "top_p": {"top_p": 0.8},
    "penalties": {"presence_penalty": 0.5, "frequency_penalty": 0.2},
    "likeliest": {"scoring": {"topk_sample_logprobs": 3}},
    "prompt_scores": {"scoring": {"prompt_logprobs": True, "topk_prompt_logprobs": 2}},
    "alternatives": {"scoring": {"num_prompt_alternatives": 3}},
}


class Waits:
    """What was waited for, by the name of the work; nothing on a CPU."""

    def __init__(self, watch: Watch | None = None) -> None:
        self._watch = watch
        self.of: dict[str, collections.Counter[str]] = {}

    def note(self, name: str) -> None:
        """All since the last call belongs to this."""
        self.of[name] = collections.Counter(self._watch.take() if self._watch else ())


def life(harness: Harness, waits: Waits) -> list[Any]:
    """Training, optimizer steps, evaluation and sampling of every kind; all their numbers."""
    found: list[Any] = []
    for number, run_id in enumerate(("a", "b")):
        harness.open_run(run_id, seed=number, lora_dropout=0.1 * number)
        waits.note("open")
        result = harness.forward_backward(DATA, run_id=run_id)
        waits.note("pass")
        policy = harness.forward_backward(POLICY, run_id=run_id, name="ppo")
        waits.note("policy")
        step = harness.optim_step(run_id, learning_rate=0.05, grad_clip_norm=0.5)
        waits.note("optim_step")
        found += [[result.loss, policy.loss, step.grad_norm], *map(list, result.logprobs)]
    commands = [
        harness.sample_command(PROMPT, run_id="a", num_samples=2, max_tokens=STEPS + 1),
        harness.sample_command(tokens(6, 20), run_id="b", max_tokens=STEPS + 1, temperature=0),
        harness.sample_command(tokens(7, 40), run_id=None, num_samples=5, max_tokens=STEPS + 1),
    ]
    results = list(harness.answers(*commands, cls=SampleResult).values())
    waits.note("mixed")
    for name, kwargs in ASKED.items():
        kwargs = {"num_samples": 2, "max_tokens": STEPS + 1, "run_id": "a", "seed": 9} | kwargs
        results.append(harness.sample(PROMPT, **kwargs))
        waits.note(name)
    for result in results:
        for s in result.sequences:
            found += [s.tokens, s.logprobs, *s.topk_ids, *s.topk_logprobs]
    return found


@pytest.fixture(scope="module")
def lives(qwen2_folder):
    expected = life(Harness(qwen2_folder, device="cpu"), Waits())
    with pretended_cuda() as watch:
        waits = Waits(watch)
        found = life(Harness(qwen2_folder, device="cuda"), waits)
    return expected, found, waits.of


def same(found: list[Any], expected: list[Any]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=2e-5, nan_ok=True)


def test_the_engine_gives_the_numbers_of_a_cpu(lives):
    same(lives[1], lives[0])


@pytest.mark.parametrize("name", ["mixed", *(name for name in ASKED if name != "top_p")])
def test_a_decode_step_waits_once_for_what_it_drew(lives, name):
    repeated = {place: times for place, times in lives[2][name].items() if times >= STEPS}
    assert repeated == {"_to_copy at drawing._on_host": STEPS + 1}  # the first token too


def test_only_top_p_without_top_k_asks_the_device_how_many_candidates_it_takes(lives):
    places = {place.split()[-1] for place, times in lives[2]["top_p"].items() if times >= STEPS}
    assert places == {"drawing._on_host", "sampling._nucleus_bound"}


@pytest.mark.parametrize(("name", "most"), [("pass", 5), ("policy", 7), ("optim_step", 2)])
def test_training_waits_a_few_times_for_each_micro_batch(lives, name, most):
    assert 1 <= lives[2][name].total() <= most


def test_models_of_transformers_give_the_numbers_of_a_cpu(gpt2_folder):
    def some(harness: Harness) -> list[Any]:
        harness.open_run()
        loss = harness.forward_backward(DATA).loss
        harness.optim_step(learning_rate=0.05)
        answers = harness.sample(PROMPT, num_samples=2, max_tokens=4).sequences
        return [[loss], *(s.tokens for s in answers), *(s.logprobs for s in answers)]

    expected = some(Harness(gpt2_folder, device="cpu"))
    with pretended_cuda():
        same(some(Harness(gpt2_folder, device="cuda")), expected)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantised_models_give_the_numbers_of_a_cpu_and_wait_no_more_than_others(
    qwen2_folder, kind
):
    """bitsandbytes makes weights full for each product, of every pass and of every decode step."""
    pytest.importorskip("bitsandbytes", reason="needs the extra qlora")

    def some(device: str, watch: Watch | None = None) -> tuple[list[Any], list[str]]:
        harness = Harness(qwen2_folder, device=device)
        harness.do(LoadBaseModel("m", str(qwen2_folder), kind))
        lora = LoRAConfig(r=4, lora_dropout=0.0)
        harness.answer(OpenRun("job_o", "q", "m", lora, 7, quantization=kind), RunCreated)
        loss = harness.forward_backward(DATA, run_id="q").loss
        harness.optim_step("q", learning_rate=0.05)
        if watch:
            watch.take()
        answer = harness.sample(PROMPT, run_id="q", max_tokens=STEPS + 1, stop_token_ids=())
        waits = collections.Counter(watch.take() if watch else ())
        repeated = [place for place, times in waits.items() if times >= STEPS]
        return [
            [loss],
            *(part for s in answer.sequences for part in (s.tokens, s.logprobs)),
        ], repeated

    expected, _ = some("cpu")
    with pretended_cuda() as watch:
        found, repeated = some("cuda", watch)
    same(found, expected)
    assert repeated == ["_to_copy at drawing._on_host"]


def test_the_pretended_device_finds_what_it_is_for():
    with pretended_cuda() as watch:
        there = torch.tensor([[1.0, 2.0]], device=DEVICE)
        with pytest.raises(MixedDevicesError):
            there.add(torch.ones(1, 2))
        assert watch.take() == []  # nothing was on its way
        product = there @ there.t()
        index = torch.tensor([0], device=DEVICE)
        assert [w.split()[0] for w in watch.take()] == ["_to_copy"]
        assert float(product[index]) == 5.0
        assert product[product > 6].shape == (0,)
        assert [w.split()[0] for w in watch.take()] == ["_local_scalar_dense", "index"]
        with pytest.raises(RuntimeError, match="cannot be recorded"):
            watch.record(lambda: print(product.item()))
