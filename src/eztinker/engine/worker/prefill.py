"""Reading prompts, a chunk at a time, so that long ones do not hold up the rows that are being generated.

A ``Prefill`` is one prompt on its way into the cache; ``Reader`` chooses what the next chunk holds and
runs it, as two halves side by side where it can be divided (``lanes.py``). What is known from before
(``prefix_cache.py``) is not read again. Knows neither rows nor the drawing of tokens; called by ``sampler.py``.

Axes: T positions of a chunk or prompt, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.worker import lanes
from eztinker.engine.worker.adapter_rows import Segments
from eztinker.engine.worker.attention import (
    Layout,
    PackedLayout,
    PaddedLayout,
    PrefillLayout,
    PromptPart,
)
from eztinker.engine.worker.decoder_base import Decoder
from eztinker.engine.worker.kv_cache import PromptKV
from eztinker.engine.worker.prefix_cache import BLOCK, PrefixCache, joined
from eztinker.engine.worker.rows import Row, SampleRequest
from eztinker.ops.packing import Packing, pack
from eztinker.types.sampling import SampledSequence

_CHUNK_FLOP = 128e9
_MIN_CHUNK, _MAX_CHUNK = 64, 2048


@dataclass(slots=True, eq=False)
class Prefill:
    """One prompt on its way into the cache.

    Attributes:
        request: it belongs to.
        tokens_T: what is read; for a row that was put back, its generated tokens too.
        samples: numbers of those that start when it is read; none for a row that was put back.
        kv: its keys and values.
        row: the row that was put back, or None.
        num_done: tokens read so far.
        num_reused: tokens of those that were known.
        hidden: last hidden states [T, D] of its chunks where the prompt is scored; else only that of the
            last token read.
    """

    request: SampleRequest
    tokens_T: np.ndarray
    samples: list[int]
    kv: PromptKV
    row: Row | None = None
    num_done: int = 0
    num_reused: int = 0
    hidden: list[Tensor] = dataclass_field(default_factory=list)

    @property
    def num_left(self) -> int:
        """Tokens still to read."""
        return len(self.tokens_T) - self.num_done

    @property
    def is_scored(self) -> bool:
        """Whether the hidden states of all tokens are wanted."""
        return self.request.wants_scores and 0 in self.samples

    @property
    def num_rows(self) -> int:
        """Rows that start when it is read."""
        if self.request.max_tokens == 0:
            return 0
        return len(self.samples) if self.row is None else 1

    def end_without_tokens(self) -> None:
        """Answer a request that wants no token: its prompt has been read."""
        for sample in self.samples:
            self.request.sequences[sample] = SampledSequence([], [], "length")


class Reader:
    """Reads prompts with one base model.

    Args:
        decoder: of the model.
        prefixes: what is known of earlier prompts.

    Attributes:
        queue: prompts being read or about to be, in order.
        chunk_tokens: bound on the tokens of one pass.
    """

    def __init__(self, decoder: Decoder, prefixes: PrefixCache) -> None:
        self._decoder = decoder
        self._prefixes = prefixes
        self.queue: list[Prefill] = []
        self.chunk_tokens = chunk_tokens(decoder)

    def begin(self, request: SampleRequest, count: int) -> None:
        """Queue the prompt of a request for its next samples."""
        samples, request.unstarted = request.unstarted[:count], request.unstarted[count:]
        self._queue(request, request.operation.prompt_tokens, samples)

    def resume(self, row: Row) -> None:
        """Queue prompt and answer so far of a row that was put back."""
        # The last token is fed by the next decode step.
        prompt_T = row.request.operation.prompt_tokens
        text_T = np.concatenate([prompt_T, np.array(row.tokens[:-1], prompt_T.dtype)])
        self._queue(row.request, text_T, [], row)

    def _queue(
        self,
        request: SampleRequest,
        tokens_T: np.ndarray,
        samples: list[int],
        row: Row | None = None,
    ) -> None:
        """Queue a text; its known beginning is taken over."""
        decoder = self._decoder
        kv = PromptKV(decoder.num_layers, len(tokens_T), decoder.dtype, decoder.device)
        prefill = Prefill(request, tokens_T, samples, kv, row)
        if not prefill.is_scored:
            # The last token is read in any case: its hidden state gives the first new one.
            blocks = self._prefixes.find(request.adapter, tokens_T[:-1])
            if blocks:
                kv.begin_with(*joined(blocks))
                prefill.num_done = prefill.num_reused = BLOCK * len(blocks)
        self.queue.append(prefill)

    def shares_most(self, request: SampleRequest) -> bool:
        """Whether a prompt being read will spare this one at least half of its reading."""
        if not self._prefixes.is_on or request.wants_scores:
            return False
        tokens_T = request.operation.prompt_tokens
        return any(
            prefill.request.adapter is request.adapter
            and 2 * _num_common_blocks(prefill.tokens_T, tokens_T) * BLOCK >= len(tokens_T)
            for prefill in self.queue
        )

    def next_chunk(self) -> list[tuple[Prefill, int]]:
        """(prompt, number of its tokens) of the next pass, one adapter's prompts side by side."""
        chunk, room = [], self.chunk_tokens
        for prefill in self.queue:
            # A prompt is cut only where it opens the chunk: cutting costs attention its best form.
            if room < prefill.num_left and chunk:
                break
            chunk.append((prefill, min(room, prefill.num_left)))
            room -= chunk[-1][1]
            if room <= 0:
                break
        # One adapter's prompts stand together: each is applied once.
        first_place: dict[int, int] = {}
        for place, (prefill, _) in enumerate(chunk):
            first_place.setdefault(id(prefill.request.adapter), place)
        return sorted(chunk, key=lambda entry: first_place[id(entry[0].request.adapter)])

    def read(self, chunk: list[tuple[Prefill, int]]) -> list[Prefill]:
        """Run a pass over a chunk; the prompts that are through with it leave the queue."""
        for (prefill, num_tokens), hidden_TD in zip(chunk, self._hidden(chunk), strict=True):
            prefill.hidden = [*prefill.hidden, hidden_TD] if prefill.is_scored else [hidden_TD]
            prefill.num_done += num_tokens
        done = [prefill for prefill, _ in chunk if not prefill.num_left]
        self.queue = [prefill for prefill in self.queue if prefill.num_left]
        return done

    def _hidden(self, chunk: list[tuple[Prefill, int]]) -> list[Tensor]:
        """What the pass gives each prompt; in two halves side by side where the prompts fall into such."""
        if not self._decoder.can_run_beside_itself:
            return self._pass(chunk)
        places = lanes.divided([num_tokens for _, num_tokens in chunk])
        if len(places) == 1:
            return self._pass(chunk)
        halves = [[chunk[place] for place in half] for half in places]
        found = lanes.side_by_side([partial(self._pass, half) for half in halves])
        hidden_of = dict(zip(chain(*places), chain(*found), strict=True))
        return [hidden_of[place] for place in range(len(chunk))]

    def _pass(self, chunk: list[tuple[Prefill, int]]) -> list[Tensor]:
        """Last hidden states of each prompt's tokens, or of the last one where the others are not wanted."""
        packing = pack([p.tokens_T[p.num_done : p.num_done + n] for p, n in chunk])
        places = packing.places()
        parts = [
            PromptPart(*place, prefill.kv, prefill.num_done)
            for place, (prefill, _) in zip(places, chunk, strict=True)
        ]
        inner: Layout = PackedLayout(packing.lengths) if packing.is_packed else PaddedLayout()
        device = self._decoder.device
        positions_BT = packing.positions_BT
        for part in parts:
            positions_BT[part.row, part.start : part.start + part.length] += part.offset
        with self._decoder.without_gradients():  # each thread has to say so for itself
            hidden_BTD = self._decoder.hidden(
                torch.from_numpy(packing.tokens_BT).to(device),
                torch.from_numpy(positions_BT).to(device),
                PrefillLayout(inner, parts),
                _segments(chunk, packing),
            )
            hidden = []
            for part, (prefill, _) in zip(parts, chunk, strict=True):
                end = part.start + part.length
                start = part.start if prefill.is_scored else end - 1
                hidden.append(hidden_BTD[part.row, start:end])
            return hidden

    def halve_chunk(self) -> bool:
        """Read less at a time from now on; False if that would be too little."""
        if self.chunk_tokens <= _MIN_CHUNK:
            return False
        self.chunk_tokens = max(_MIN_CHUNK, self.chunk_tokens // 2)
        return True


def chunk_tokens(decoder: Decoder) -> int:
    """Tokens of a pass that takes some tenths of a second; a number of the model alone.

    On an accelerator a pass of the largest size is as short as that.
    """
    if decoder.device.type != "cpu":
        return _MAX_CHUNK
    wanted = int(_CHUNK_FLOP / (2 * decoder.num_parameters))
    return min(_MAX_CHUNK, max(_MIN_CHUNK, wanted))


def _num_common_blocks(a_T: np.ndarray, b_T: np.ndarray) -> int:
    num = min(len(a_T), len(b_T))
    differ = np.flatnonzero(a_T[:num] != b_T[:num])
    return int(differ[0] if len(differ) else num) // BLOCK


def _segments(chunk: list[tuple[Prefill, int]], packing: Packing) -> Segments:
    """Which flat positions use which adapter; padding goes with its prompt."""
    segments: Segments = []
    ends = [*packing.starts[1:], packing.tokens_BT.size]
    for (prefill, _), start, end in zip(chunk, packing.starts, ends, strict=True):
        adapter = prefill.request.adapter
        if segments and segments[-1][0] is adapter:
            segments[-1] = (adapter, segments[-1][1], end)
        else:
            segments.append((adapter, start, end))
    return segments
