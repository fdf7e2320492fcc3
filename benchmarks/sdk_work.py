"""Pieces of work through the official SDK, timed; ``python sdk_work.py URL BASE_MODEL`` with lines on stdin.

Each line names a piece of work and a round; the seconds it took come back as a line. Imports nothing of
this project, so that it runs in a peer's environment with the version of the SDK that the peer answers.
Called by ``benchmarks/server.py``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

RANK = 8
NUM_NEW_LENGTHS = 4


def main() -> None:
    """Do what the lines say."""
    url, base_model = sys.argv[1:]
    service = Service(url, base_model)
    for line in sys.stdin:
        work, number = line.split()
        started_s = time.perf_counter()
        WORKS[work](service, int(number))
        print(time.perf_counter() - started_s, flush=True)


class Service:
    """A server, seen through the SDK."""

    def __init__(self, url: str, base_model: str) -> None:
        import tinker

        self._tinker = tinker
        self._service = tinker.ServiceClient(base_url=url, api_key="tml-local")
        self._training = _now(
            self._service.create_lora_training_client(base_model=base_model, rank=RANK)
        )
        self._sampling = _now(self._training.save_weights_and_get_sampling_client(name="benchmark"))

    def sample(self, num_samples: int, number: int) -> None:
        """Answers of 128 tokens to one prompt of 128."""
        prompt = self._tinker.ModelInput.from_ints(_tokens(number, 128))
        params = self._tinker.SamplingParams(max_tokens=128, temperature=1.0, stop=[], seed=number)
        answer = self._sampling.sample(prompt, num_samples, params).result()
        lengths = {len(sequence.tokens) for sequence in answer.sequences}
        if lengths != {128} or len(answer.sequences) != num_samples:
            raise RuntimeError(f"{len(answer.sequences)} answers of {lengths} tokens.")

    def forward_backward(self, lengths: list[int], number: int) -> None:
        """A pass over random sequences."""
        data = []
        for i, length in enumerate(lengths):
            ids = _tokens(1000 * number + i, length + 1)
            inputs: Any = {"target_tokens": ids[1:], "weights": [1.0] * length}
            model_input = self._tinker.ModelInput.from_ints(ids[:-1])
            data.append(self._tinker.Datum(model_input=model_input, loss_fn_inputs=inputs))
        self._training.forward_backward(data, "cross_entropy").result()


def _new_lengths(service: Service, number: int) -> None:
    """Lengths that no round had before: some frameworks compile for each."""
    for i in range(NUM_NEW_LENGTHS):
        service.forward_backward([150 + 31 * i + 7 * number] * 2, number)


WORKS: dict[str, Callable[[Service, int], None]] = {
    "sample_1_x_128": lambda service, number: service.sample(1, number),
    "sample_32_x_128": lambda service, number: service.sample(32, number),
    "forward_backward_8_x_256": lambda service, number: service.forward_backward([256] * 8, number),
    "forward_backward_4_new_lengths": _new_lengths,
}


def _now(pending: Any) -> Any:
    """What newer versions of the SDK promise and older ones give at once."""
    return pending.result() if hasattr(pending, "result") else pending


def _tokens(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(1, 2048, length).tolist()


if __name__ == "__main__":
    main()
