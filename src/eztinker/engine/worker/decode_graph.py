"""Decode steps that are recorded once and then replayed: on CUDA one launch instead of several hundred.

A GPU is through with a small step before the host has launched its operations one by one. A recording holds
them with the addresses that they read and write; so all that changes from step to step (tokens, positions,
places in the cache) is copied into tensors that stay, and a recording serves a *shape*: so many rows and so
many cached positions, both rounded up, and which rows use which adapter.

What is recorded follows from a rule, not from luck: a shape that is met twice in a row. Steps of a shape are the
same operations on the same padded tensors whether they are launched or replayed, so numbers do not depend on
it. All recordings go when the cache's buffers are replaced, when memory runs out and when nothing is being
generated; the least recently used one goes for one too many. Memory that runs out while recording ends
recording until nothing is generated, any other failure ends it for good; steps are launched as before.

Knows no requests and no drawing, nor how recording is done (``Recorder``; ``cuda_recorder.py`` is the one
there is). Called by ``sampler.py``.

Axes: R rows, padding included, V vocabulary.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.worker.attention import DecodeLayout
from eztinker.engine.worker.decoder_base import Decoder, Segments
from eztinker.engine.worker.devices import is_out_of_memory
from eztinker.engine.worker.kv_cache import KVCache
from eztinker.engine.worker.lora import AdapterWeights

logger = logging.getLogger(__name__)

MOST_RECORDINGS = 32
_ROW_MULTIPLE = 8
_WIDTH_MULTIPLE = 128
_WIDTH_PARTS = 8
"""Widths are rounded up by at most a part in so many, once that is more than ``_WIDTH_MULTIPLE``."""


class Recorder(Protocol):
    """Records what a function does on a device."""

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """What repeats ``step`` on the same tensors; whether ``step`` is also run here is open.

        Raises:
            RuntimeError: it cannot be recorded, or memory ran out; ``step`` may be called as before.
        """
        ...

    def forget(self) -> None:
        """Nobody holds a recording any more."""
        ...


@dataclass(frozen=True, slots=True)
class Shape:
    """What steps have in common that one recording serves.

    Attributes:
        num_rows: with padding.
        width: cached positions that are read.
        segments: (adapter or None, first row, end) covering the rows; padding goes with the last ones. Holds the
            adapters, whose tensors a recording reads.
    """

    num_rows: int
    width: int
    segments: tuple[tuple[AdapterWeights | None, int, int], ...]

    @classmethod
    def of(cls, num_rows: int, width: int, segments: Segments, max_tokens: int) -> Shape:
        """The shape of a step; as it is where the cache's bound leaves no room for padding."""
        rows, positions = _rounded_rows(num_rows), _rounded_width(width)
        if rows * positions > max_tokens:
            rows, positions = num_rows, width
        adapter, start, _ = segments[-1]
        return cls(rows, positions, (*segments[:-1], (adapter, start, rows)))


class DecodeGraphs:
    """Runs the decode steps of one base model.

    Args:
        decoder: of the model, one that ``can_be_recorded``.
        cache: of its running rows.
        recorder: records.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, recorder: Recorder) -> None:
        self._decoder, self._cache, self._recorder = decoder, cache, recorder
        self._recordings: OrderedDict[Shape, Callable[[], None]] = OrderedDict()
        self._last: Shape | None = None
        self._version = cache.version
        self._inputs: dict[int, Tensor] = {}
        self._logits_RV = torch.empty(0, decoder.vocab_size, device=decoder.device)
        self._is_paused = self._is_off = False

    @property
    def num_recordings(self) -> int:
        """Recordings that are held."""
        return len(self._recordings)

    def logits(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        places: Sequence[int],
        segments: Segments,
        max_tokens: int,
    ) -> Tensor:
        """Float32 logits [rows, V] of the rows' next tokens; the next call overwrites them.

        Args:
            tokens, positions, places: of each row the newest token, its position, and where in its row of the
                cache it goes.
            segments: cover the rows.
            max_tokens: bound on the cache, as far as what is needed allows.
        """
        num_rows = len(tokens)
        shape = Shape.of(num_rows, max(places) + 1, segments, max_tokens)
        self._cache.reserve(shape.num_rows, shape.width, max_tokens)
        if self._version != self._cache.version:
            self._drop()
            self._version = self._cache.version
        self._make_room(shape.num_rows)
        # Padding: the first token of a text, in rows that hold nothing.
        padded = np.zeros((3, shape.num_rows), np.int64)
        padded[:, :num_rows] = tokens, positions, places
        self._inputs[shape.num_rows].copy_(torch.from_numpy(padded))
        self._step_of(shape)()
        return self._logits_RV[:num_rows]

    def give_way(self) -> bool:
        """Memory ran out: hold and make no recordings until nothing is generated; False if there were none."""
        had_some = bool(self._recordings)
        self._drop()
        self._is_paused = True
        return had_some

    def release(self) -> None:
        """Nothing is being generated: give the memory back."""
        self._drop()
        self._inputs.clear()
        self._logits_RV = self._logits_RV.new_empty(0, self._decoder.vocab_size)
        self._is_paused = False

    def _step_of(self, shape: Shape) -> Callable[[], None]:
        """What runs a step of this shape, recorded or not."""
        known = self._recordings.get(shape)
        if known is not None:
            self._recordings.move_to_end(shape)
            return known
        step = partial(self._run, shape, self._inputs[shape.num_rows], self._logits_RV)
        is_met_again, self._last = shape == self._last, shape
        if not is_met_again or self._is_paused or self._is_off:
            return step
        try:
            recording = self._recorder.record(step)
        except RuntimeError as error:
            self._stop(error)
            return step
        self._recordings[shape] = recording
        if len(self._recordings) > MOST_RECORDINGS:
            self._recordings.popitem(last=False)
        return recording

    def _stop(self, error: RuntimeError) -> None:
        self.give_way()
        if not is_out_of_memory(error):
            self._is_off = True
            logger.warning("Decode steps are not recorded any more: %s", error)

    def _run(self, shape: Shape, inputs_3R: Tensor, logits_RV: Tensor) -> None:
        tokens_R, positions_R, places_R = inputs_3R.unbind()
        segments = list(shape.segments)
        layout = DecodeLayout(self._cache, places_R, shape.width)
        hidden = self._decoder.hidden(tokens_R[:, None], positions_R[:, None], layout, segments)
        logits_RV[: shape.num_rows] = self._decoder.logits(hidden[:, 0], segments)

    def _make_room(self, num_rows: int) -> None:
        """The tensors that stay; where the logits need a larger one, no recording writes to it."""
        if num_rows > len(self._logits_RV):
            self._drop()
            self._logits_RV = self._logits_RV.new_empty(num_rows, self._decoder.vocab_size)
        if num_rows not in self._inputs:
            inputs_3R = torch.zeros(3, num_rows, dtype=torch.int64, device=self._decoder.device)
            self._inputs[num_rows] = inputs_3R

    def _drop(self) -> None:
        self._recordings.clear()
        self._last = None
        self._recorder.forget()


def _rounded_rows(num_rows: int) -> int:
    """The next power of two, or multiple of eight."""
    if num_rows <= _ROW_MULTIPLE:
        return 1 << (num_rows - 1).bit_length()
    return -(-num_rows // _ROW_MULTIPLE) * _ROW_MULTIPLE


def _rounded_width(width: int) -> int:
    step = max(_WIDTH_MULTIPLE, (1 << (width.bit_length() - 1)) // _WIDTH_PARTS)
    return -(-width // step) * step
