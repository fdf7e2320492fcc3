"""Eight steps of every loss on nano give the numbers they have always given (``make golden``)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eztinker.types.losses import LOSSES
from tools.golden import FILE, trajectory

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))
RELATIVE_TOLERANCE = 2e-4
"""Other processors add in another order, and eight steps carry the difference on; a changed formula,
sign, scale or seed is thousands of times larger."""


def test_every_loss_has_a_trajectory() -> None:
    assert set(GOLDEN) == set(LOSSES)


@pytest.mark.parametrize("loss_fn", sorted(GOLDEN))
def test_trajectory_has_not_drifted(loss_fn: str) -> None:
    found = trajectory(loss_fn)
    for name, expected in GOLDEN[loss_fn].items():
        np.testing.assert_allclose(found[name], expected, rtol=RELATIVE_TOLERANCE, atol=1e-5)
