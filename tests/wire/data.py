"""Small data for the tiny model, as the SDK's types."""

from __future__ import annotations

import os
from typing import Any

import numpy as np


def crowding() -> float:
    """How much longer things may take: 1, or processes that want to run for each core, if that is more."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def prompt(*tokens: int) -> Any:
    from tinker import ModelInput

    return ModelInput.from_ints(list(tokens))


def datum(num_tokens: int = 6, first: int = 10, **inputs: Any) -> Any:
    """A datum whose targets are its tokens plus one; ``inputs`` replace or add loss inputs."""
    from tinker import Datum, ModelInput

    tokens = [first + i for i in range(num_tokens)]
    given = {"target_tokens": [t + 1 for t in tokens], "weights": [1.0] * num_tokens, **inputs}
    given = {name: value for name, value in given.items() if value is not None}
    return Datum(model_input=ModelInput.from_ints(tokens), loss_fn_inputs=given)


def policy_datum(num_tokens: int = 6, **inputs: Any) -> Any:
    """A datum for the policy losses."""
    return datum(
        num_tokens,
        weights=None,
        logprobs=[-2.0] * num_tokens,
        advantages=[1.0, -0.5] * (num_tokens // 2),
        **inputs,
    )


def logprobs(result: Any, index: int = 0) -> np.ndarray:
    """Log-probabilities of one datum in a pass's result."""
    return result.loss_fn_outputs[index]["logprobs"].to_numpy()
