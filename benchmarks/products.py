"""Single operations of a decode step on one thread: products of few rows by layout, and attention by form.

``python -m benchmarks.products [--json] [--out FILE] [--rounds N]``. Every way has copies of its own that no
core's cache holds, as a step finds its weights and its cache; ways take turns, figures are medians of CPU time
in microseconds. Products: the weight as it is, transposed, and laid out for oneDNN, on the shapes of
``benchmarks/shapes.py``. Attention: one new token of 8 and of 32 rows at the heads of S, as the fused kernel
and as two batched products.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from benchmarks import machine, shapes
from eztinker.engine.worker.allocator import keep_freed_memory
from eztinker.ops.packed_linear import pack, packed_linear

NUM_ROWS = (1, 2, 4, 8, 32, 256)
WIDTHS = (136, 200)
COPIES_BYTES = 12e6
"""Of one way: all of them together are more than the last cache holds."""
Way = Callable[[int], object]


def main() -> None:
    """Measure and report."""
    options = machine.parser(__doc__)
    options.add_argument("--rounds", type=int, default=9)
    arguments = options.parse_args()
    keep_freed_memory()  # as a worker process does
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"threads": 1, "unit": "CPU microseconds"}
    dtypes: dict[shapes.Shape, torch.dtype] = {"S": torch.float32, "L": torch.bfloat16}
    with torch.inference_mode():
        for shape, dtype in dtypes.items():
            for name, (num_inputs, num_outputs) in _weights(shape).items():
                machine.note(f"{shape} {name} …")
                title = f"{shape}_{name}_{num_inputs}_to_{num_outputs}"
                figures[title] = _products(num_inputs, num_outputs, dtype, arguments.rounds)
        for rows in (8, 32):
            for width in WIDTHS:
                figures[f"attention_{rows}_rows_{width}_positions"] = _attention(
                    rows, width, arguments.rounds
                )
    machine.report("products", figures, arguments)


def _weights(shape: shapes.Shape) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of a layer's projections as they are laid together."""
    config: Any = shapes.config(shape)
    hidden, inner = config.hidden_size, config.intermediate_size
    size = hidden // config.num_attention_heads
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    return {
        "qkv": (hidden, heads * size),
        "out": (hidden, hidden),
        "gate_up": (hidden, 2 * inner),
        "down": (inner, hidden),
    }


def _products(
    num_inputs: int, num_outputs: int, dtype: torch.dtype, rounds: int
) -> dict[str, dict[str, float]]:
    num = _num_copies(num_inputs * num_outputs * dtype.itemsize)
    plain = [torch.randn(num_outputs, num_inputs).to(dtype) for _ in range(num)]
    packed = [pack(weight) for weight in plain]
    turned = [weight.t().contiguous() for weight in plain]
    figures = {}
    for rows in NUM_ROWS:
        x = torch.randn(rows, num_inputs).to(dtype)
        ways: dict[str, Way] = {
            "plain": lambda i, x=x: linear(x, plain[i]),
            "turned": lambda i, x=x: x @ turned[i],
            "packed": lambda i, x=x: packed_linear(x, packed[i], None),
        }
        figures[f"{rows}_rows"] = _in_turns(ways, num, rounds)
    return figures


def _attention(rows: int, width: int, rounds: int) -> dict[str, float]:
    config: Any = shapes.config("S")
    groups, size = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    shape = (rows, groups, 2 * width, size)  # a cache with room, as the running one
    num = _num_copies(4 * rows * groups * width * size)
    keys, values = ([torch.randn(shape) for _ in range(num)] for _ in range(2))
    q = torch.randn(rows, groups, config.num_attention_heads // groups, size)

    def with_cache(attend: Callable[..., object], *rest: object) -> Way:
        return lambda i: attend(q, keys[i][:, :, :width], values[i][:, :, :width], *rest)

    ways = {
        "fused": with_cache(scaled_dot_product_attention),
        "products": with_cache(_as_products),
    }
    return _in_turns(ways, num, rounds)


def _as_products(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(2, 3))
    return torch.matmul(torch.softmax(scores, -1), v)


def _num_copies(num_bytes: int) -> int:
    return max(2, int(COPIES_BYTES / num_bytes))


def _in_turns(ways: Mapping[str, Way], num: int, rounds: int) -> dict[str, float]:
    """Median CPU microseconds of one operation of each."""
    taken_s: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started_s = time.process_time()
            for i in range(num):
                way(i)
            if number:  # the first round warms up
                taken_s[name].append((time.process_time() - started_s) / num)
    return {name: round(1e6 * float(np.median(s)), 1) for name, s in taken_s.items()}


if __name__ == "__main__":
    main()
