from __future__ import annotations

import pytest
import torch

from eztinker.engine.worker.attention import DecodeLayout, SharedPrompt, Variant, masked
from eztinker.engine.worker.kv_cache import KVCache, PromptKV

GROUPS, PER_GROUP, SIZE, WIDTH = 2, 3, 16, 40
CPU = torch.device("cpu")


def prompt_kv(length):
    kv = PromptKV(1, length, torch.float32, CPU)
    kv.write(0, 0, torch.randn(GROUPS, length, SIZE), torch.randn(GROUPS, length, SIZE))
    return kv


def decode(own, shared=(), variant=None):
    """Outputs of a decode step whose rows hold ``own`` cached positions, and those of one row alone."""
    variant = variant or Variant()
    torch.manual_seed(0)
    cache = KVCache(1, torch.float32, CPU)
    cache.reserve(len(own), WIDTH)
    rows = [prompt_kv(max(1, length)) for length in own]
    for i, kv in enumerate(rows):
        cache.store_prompt(i, kv)
    q = torch.randn(len(own), GROUPS * PER_GROUP, 1, SIZE)
    k, v = torch.randn(2, len(own), GROUPS, 1, SIZE)
    layout = DecodeLayout(cache, torch.tensor(own), max(own) + 1, shared)
    expected = []
    for i, length in enumerate(own):
        before = [p.kv.layer(0) for p in shared if p.start <= i < p.end]
        kept = rows[i].layer(0)
        keys, values = (
            torch.cat([*(b[j] for b in before), kept[j][:, :length], new[i]], dim=1)[None]
            for j, new in enumerate((k, v))
        )
        if variant.sliding_window is not None:
            keys, values = (x[:, :, -variant.sliding_window :] for x in (keys, values))
        grouped = q[i].view(1, GROUPS, PER_GROUP, SIZE)
        everything = torch.ones(PER_GROUP, keys.shape[2], dtype=torch.bool)
        expected.append(
            masked(grouped, keys, values, everything, Variant(variant.scaling)).flatten()
        )
    return layout.attend(0, q, k, v, variant).flatten(1), torch.stack(expected)


@pytest.mark.parametrize("num_rows", [3, 20])
@pytest.mark.parametrize("variant", [Variant(), Variant(scaling=0.5), Variant(sliding_window=7)])
def test_a_row_sees_what_it_would_see_alone(num_rows, variant):
    equal, ragged = [11] * num_rows, [(5 * i) % 30 for i in range(num_rows)]
    for own in (equal, ragged):
        torch.testing.assert_close(*decode(own, variant=variant), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_rows", [6, 24])
@pytest.mark.parametrize("is_ragged", [False, True])
def test_shared_prompts_count_like_own_positions(num_rows, is_ragged):
    torch.manual_seed(1)
    third = num_rows // 3
    # The rows between the two prompts share none.
    shared = [
        SharedPrompt(0, third, prompt_kv(33)),
        SharedPrompt(2 * third, num_rows, prompt_kv(9)),
    ]
    own = [i % 4 if is_ragged else 2 for i in range(num_rows)]
    torch.testing.assert_close(*decode(own, shared), rtol=1e-5, atol=1e-5)
