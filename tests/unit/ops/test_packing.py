from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eztinker.ops.packing import pack

sequences = st.lists(
    st.lists(st.integers(0, 99), min_size=1, max_size=30).map(np.array), min_size=1, max_size=8
)


@given(sequences)
def test_every_sequence_is_where_the_packing_says(given_sequences):
    packing = pack(given_sequences)
    tokens, positions = packing.tokens_BT.ravel(), packing.positions_BT.ravel()
    for sequence, start, length in zip(
        given_sequences, packing.starts, packing.lengths, strict=True
    ):
        assert tokens[start : start + length].tolist() == sequence.tolist()
        assert positions[start : start + length].tolist() == list(range(length))
    for (row, first, length), sequence in zip(packing.places(), given_sequences, strict=True):
        assert packing.tokens_BT[row, first : first + length].tolist() == sequence.tolist()


@given(sequences)
def test_little_is_wasted(given_sequences):
    packing = pack(given_sequences)
    assert packing.tokens_BT.size <= 1.15 * sum(packing.lengths)
    assert packing.is_packed or packing.tokens_BT.shape[0] == len(given_sequences)
