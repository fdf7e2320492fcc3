"""Recording of decode steps as CUDA graphs.

As PyTorch asks for it: what is recorded has run on another stream before, memory of all recordings comes from
one pool of their own, and other threads (snapshots on their way to the disk) may go on using the device. Knows
nothing of what it records. Made by ``residents.py`` where the device is CUDA; called by ``decode_graph.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch


class CudaRecorder:
    """``decode_graph.Recorder`` on a CUDA device.

    Args:
        device: where everything recorded happens.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """A graph of what ``step`` launches, which is also run once.

        Raises:
            RuntimeError: ``step`` waits for the device, or memory ran out.
        """
        with torch.cuda.device(self._device):
            if self._stream is None:
                self._stream = torch.cuda.Stream()
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            main = torch.cuda.current_stream()
            self._stream.wait_stream(main)
            try:
                with torch.cuda.stream(self._stream):
                    step()
                    graph = self._captured(step)
            finally:
                main.wait_stream(self._stream)
        return graph.replay

    def forget(self) -> None:
        """The next recording begins a new pool; the old one goes with the last graph in it."""
        self._pool = None

    def _captured(self, step: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            step()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # of a capture that has already failed
                graph.capture_end()
            raise
        graph.capture_end()
        return graph
