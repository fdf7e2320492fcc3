"""Decode steps run by torch's interpreter: the bits that Python's operations give."""

from __future__ import annotations

import pytest
import torch

from eztinker.engine.worker.decoder import LeanDecoder
from eztinker.ops.interpreted import interpreted
from eztinker.types.operations import SampleResult
from eztinker.types.sampling import SampledSequence
from tests.model_factory import write_model
from tests.worker_harness import Harness, datum, tokens


@pytest.mark.parametrize(
    ("family", "dtype"),
    [("llama_biased", "float32"), ("qwen2", "bfloat16"), ("qwen3", "float32")],
)
def test_the_interpreter_gives_the_same_bits(family, dtype, tmp_path, monkeypatch):
    harness = Harness(write_model(tmp_path / "m", family), dtype=dtype)
    for run, rank in (("a", 3), ("b", 5), ("c", 5)):
        harness.open_run(run, seed=rank, r=rank)
        harness.forward_backward([datum(rank, 12)], run_id=run)
        harness.optim_step(run, learning_rate=0.05)

    def answers() -> list[list[SampledSequence]]:
        shared = harness.sample_command(tokens(1, 40), "a", num_samples=5, max_tokens=9, seed=1)
        others = [
            harness.sample_command(tokens(2 + i, 7 + i), run, max_tokens=9, seed=2)
            for i, run in enumerate((None, "a", "b", "c"))
        ]
        found = harness.answers(shared, *others, cls=SampleResult)
        return [found[job_id].sequences for job_id in sorted(found)]

    decoder = harness.worker._residents.base_models["m"].decoder
    assert isinstance(decoder, LeanDecoder)
    layers = decoder._decode_layers
    assert layers is not None
    steps, real = [], type(layers).__call__
    monkeypatch.setattr(
        type(layers), "__call__", lambda *args: (steps.append(len(args[1])), real(*args))[1]
    )
    answers()  # what follows finds the same prompts in memory
    interpreted_ones = answers()
    assert steps.count(9) >= 8, "all rows run together"
    decoder._decode_layers = None
    num_steps = len(steps)
    assert answers() == interpreted_ones
    assert len(steps) == num_steps


def test_without_its_support_python_runs_the_function(monkeypatch):
    monkeypatch.setattr("eztinker.ops.interpreted.IS_SUPPORTED", False)
    assert interpreted(torch.exp) is torch.exp
