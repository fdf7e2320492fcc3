"""The next token of every running row: one pass over all rows, or two halves side by side.

Two threads that share every operation of a step wait for each other at the end of each, and what is small does
not divide; halves of the rows meet once (``lanes.py``). Each half reads all weights, so that only rows beyond a
number pay for it. Whether there are halves follows from the number of rows, the model and the number of
threads alone. Knows no requests; called by ``sampler.py``.
"""

from __future__ import annotations

from functools import partial

import torch

from eztinker.engine.worker import lanes
from eztinker.engine.worker.attention import DecodeLayout
from eztinker.engine.worker.batch import Batch, Stretch
from eztinker.engine.worker.decoder_base import Decoder
from eztinker.engine.worker.drawing import Wishes, draw_next
from eztinker.engine.worker.kv_cache import KVCache

FEWEST_ROWS = 16
"""Of a batch in halves: with fewer, reading the weights twice costs more than the halves gain."""

Drawn = tuple[list[int], list[float]]
"""Token and log-probability of each row."""


def draw_step(decoder: Decoder, cache: KVCache, batch: Batch) -> Drawn:
    """Feed every row its last token and draw the next one.

    Args:
        cache: with room for one more position of every row of the batch.
    """
    in_halves = (
        decoder.decodes_beside_itself
        and len(batch.rows) >= FEWEST_ROWS
        and torch.get_num_threads() > 1
    )
    numbers_R = batch.uniforms(decoder.device)
    stretches = batch.stretches(2 if in_halves else 1, decoder.device)
    tasks = [
        partial(_draw_stretch, decoder, cache, batch, stretch, numbers_R[stretch.rows])
        for stretch in stretches
    ]
    drawn = lanes.side_by_side(tasks) if in_halves else [task() for task in tasks]
    tokens = [token for tokens, _ in drawn for token in tokens]
    return tokens, [logprob for _, logprobs in drawn for logprob in logprobs]


def _draw_stretch(
    decoder: Decoder, cache: KVCache, batch: Batch, stretch: Stretch, numbers_R: torch.Tensor
) -> Drawn:
    rows, device = batch.rows[stretch.rows], decoder.device
    with decoder.without_gradients():  # each thread has to say so for itself
        wishes = Wishes.of(rows, stretch.params, numbers_R)
        tokens_R1 = torch.tensor([[row.tokens[-1]] for row in rows], device=device)
        positions_R = torch.tensor([row.num_cached for row in rows], device=device)
        places = [row.num_in_row for row in rows]
        layout = DecodeLayout(
            cache,
            torch.tensor(places, device=device),
            max(places) + 1,
            stretch.shared,
            stretch.rows.start,
        )
        hidden = decoder.hidden(tokens_R1, positions_R[:, None], layout, stretch.segments)
        logits_RV = decoder.logits(hidden[:, 0], stretch.segments)
        return draw_next(rows, logits_RV, wishes)
