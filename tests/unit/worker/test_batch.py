from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eztinker.engine.worker.batch import Batch
from eztinker.engine.worker.kv_cache import KVCache, PromptKV
from eztinker.engine.worker.rows import Row, SampleRequest
from eztinker.types.operations import Sample
from eztinker.types.sampling import SamplingParams, WeightsRef


def request(adapter) -> SampleRequest:
    operation = Sample(WeightsRef("m"), np.zeros(1, np.int32), SamplingParams())
    return SampleRequest("job", operation, adapter, 0, frozenset(), 5)


ADAPTERS = [object(), object(), object(), None]
moves = st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 10**6)), max_size=40)


@settings(max_examples=80)
@given(moves)
def test_rows_of_an_adapter_stay_together_and_keep_their_cache(steps):
    cache = KVCache(1, torch.float32, torch.device("cpu"))
    batch = Batch(cache, 10)
    next_mark = 1.0
    marks: dict[int, float] = {}
    for insert, adapter, number in steps:
        if insert or not batch.rows:
            row = Row(request(ADAPTERS[adapter]), 0, 0)
            cache.reserve(len(batch.rows) + 1, 2)
            place = batch.insert(row)
            assert batch.rows[place] is row
            mark = torch.full((1, 1, 1), next_mark)
            prompt = PromptKV(1, 1, torch.float32, torch.device("cpu"))
            prompt.write(0, 0, mark, mark)
            cache.store_prompt(place, prompt)
            row.num_cached = 1
            marks[id(row)] = next_mark
            next_mark += 1
        else:
            batch.remove(number % len(batch.rows))
        assert [row.num_cached for row in batch.rows] == [1] * len(batch.rows)
        stored = cache._keys_RGSD[0][: len(batch.rows), 0, 0, 0].tolist()
        assert stored == [marks[id(row)] for row in batch.rows]
        segments = batch.segments()
        assert len(segments) == len({id(row.request.adapter) for row in batch.rows})
        covered = [i for _, start, end in segments for i in range(start, end)]
        assert covered == list(range(len(batch.rows)))
