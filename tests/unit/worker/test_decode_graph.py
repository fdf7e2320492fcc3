"""Recorded decode steps give what launched ones give, whatever joins, leaves, grows or fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from eztinker.engine.worker import decode_graph, residents, sampler
from eztinker.engine.worker.decode_graph import Shape
from eztinker.engine.worker.decoder_base import Segments
from eztinker.types.operations import SampleResult
from tests.model_factory import write_model
from tests.pretended_cuda import Tape, Watch, pretended_cuda
from tests.worker_harness import Harness, datum, tokens

DATA = [datum(i, 5 + i) for i in range(3)]


class Failing(Tape):
    """A recorder that never succeeds."""

    def __init__(self, watch: Watch, error: RuntimeError) -> None:
        super().__init__(watch)
        self._error = error
        self.num_failed = 0

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        self.num_failed += 1
        raise self._error


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    families = ("qwen2", "qwen2_windowed")
    return {name: write_model(tmp_path_factory.mktemp(name), name) for name in families}


@pytest.fixture(scope="module", autouse=True)
def short_texts_and_whole_units():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_graph, "_WIDTH_MULTIPLE", 16)
        patch.setattr(sampler, "_UNIT_S", 60.0)  # what meets what must not depend on the time
        yield


def answers(folder, monkeypatch, watch, recorder: Tape | None, **settings) -> list[SampleResult]:
    """What a life of requests gives: mixed adapters, lengths and samples; weights that change; a cache that grows."""
    monkeypatch.setattr(residents, "CudaRecorder", lambda device: recorder)
    harness = Harness(folder, device="cuda", cuda_graphs=recorder is not None, **settings)
    for number, run_id in enumerate(("a", "b")):
        harness.open_run(run_id, seed=number)
        harness.forward_backward(DATA, run_id=run_id)
        harness.optim_step(run_id, learning_rate=0.05)
    ask = harness.sample_command
    found: list[SampleResult] = []
    commands = [
        ask(tokens(5, 11), run_id="a", num_samples=3, max_tokens=22, seed=1),
        ask(tokens(6, 30), run_id="b", num_samples=2, max_tokens=6, seed=1, top_k=5),
        ask(tokens(7, 20), run_id=None, max_tokens=14, temperature=0),
        ask(tokens(8, 4), run_id="a", max_tokens=18, seed=1, presence_penalty=0.5),
    ]
    found += harness.answers(*commands, cls=SampleResult).values()
    harness.forward_backward(DATA, run_id="a")
    harness.optim_step("a", learning_rate=0.05)
    found.append(harness.sample(tokens(5, 11), run_id="a", max_tokens=8))
    graphs = harness.worker._residents.samplers["m"]._graphs
    assert graphs is None or graphs.num_recordings == 0  # nothing is running
    return found


def same_up_to_rounding(found: list[SampleResult], expected: list[SampleResult]) -> None:
    for a, b in zip(found, expected, strict=True):
        for ours, theirs in zip(a.sequences, b.sequences, strict=True):
            assert ours.tokens == theirs.tokens
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=2e-5)


def numbers(found: list[SampleResult]) -> list[list[tuple[list[int], list[float]]]]:
    return [[(s.tokens, s.logprobs) for s in result.sequences] for result in found]


@pytest.fixture(scope="module")
def plain(folders) -> list[SampleResult]:
    """What launched steps give."""
    with pytest.MonkeyPatch.context() as patch, pretended_cuda() as watch:
        return answers(folders["qwen2"], patch, watch, None)


def test_recorded_steps_give_the_numbers_of_launched_ones(folders, monkeypatch, plain, caplog):
    with pretended_cuda() as watch:
        tape, failing = Tape(watch), Failing(watch, RuntimeError("not this operation"))
        recorded = answers(folders["qwen2"], monkeypatch, watch, tape)
        with caplog.at_level(logging.WARNING):
            launched = answers(folders["qwen2"], monkeypatch, watch, failing)
    same_up_to_rounding(recorded, plain)
    assert numbers(recorded) == numbers(launched)  # padded alike
    assert tape.num_recorded >= 5
    assert tape.num_replayed >= 12
    assert failing.num_failed == 1
    assert "not recorded any more: not this operation" in caplog.text


def test_memory_that_runs_out_while_recording_costs_no_request(folders, monkeypatch, plain):
    with pretended_cuda() as watch:
        failing = Failing(watch, torch.cuda.OutOfMemoryError("full"))
        same_up_to_rounding(answers(folders["qwen2"], monkeypatch, watch, failing), plain)
    assert failing.num_failed == 2  # tried again after nothing had been running


def test_sliding_windows_and_few_recordings(folders, monkeypatch):
    monkeypatch.setattr(decode_graph, "MOST_RECORDINGS", 1)
    folder = folders["qwen2_windowed"]
    with pretended_cuda() as watch:
        expected, tape = answers(folder, monkeypatch, watch, None), Tape(watch)
        same_up_to_rounding(answers(folder, monkeypatch, watch, tape), expected)
    assert tape.num_replayed >= tape.num_recorded >= 4


def test_a_cache_that_grew_is_read_where_it_is_now(folders, monkeypatch):
    """A long prompt comes and goes; then the first request's recorded shape is met again."""

    def answer(cuda_graphs: bool) -> SampleResult:
        harness = Harness(folders["qwen2"], device="cuda", cuda_graphs=cuda_graphs)
        ask = partial(harness.sample_command, run_id=None)
        first = ask(tokens(5, 3), max_tokens=40, seed=1)
        harness.worker.submit(first)
        harness.worker.submit(ask(tokens(7, 3), num_samples=3, max_tokens=4))
        for _ in range(3):  # reads the prompt, then some steps at a time
            harness.worker.step()
        long = ask(tokens(6, 90), max_tokens=3)
        return harness.answers(long, cls=SampleResult)[first.job_id]

    with pretended_cuda():
        same_up_to_rounding([answer(True)], [answer(False)])


@pytest.mark.parametrize("settings", [{"deterministic": True}, {"cuda_graphs": False}])
def test_settings_that_switch_recording_off(folders, monkeypatch, settings):
    with pretended_cuda() as watch:
        tape = Tape(watch)
        monkeypatch.setattr(residents, "CudaRecorder", lambda device: tape)
        harness = Harness(folders["qwen2"], device="cuda", **settings)
        harness.sample(tokens(5, 11), run_id=None, max_tokens=6)
    assert tape.num_recorded == 0


def test_rows_and_widths_are_rounded_up_as_far_as_the_bound_allows():
    segments: Segments = [(None, 0, 9)]
    assert Shape.of(9, 17, segments, 10_000) == Shape(16, 32, ((None, 0, 16),))
    assert Shape.of(9, 17, segments, 16 * 32 - 1) == Shape(9, 17, ((None, 0, 9),))
    assert Shape.of(3, 1025, segments, 10_000) == Shape(4, 1152, ((None, 0, 4),))
