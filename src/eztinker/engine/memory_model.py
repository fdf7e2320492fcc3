"""How much memory a model, a run, a training pass and a generation will take: arithmetic, nothing else.

What can be counted is counted (weights, adapters, optimizer, gradient, key-value cache); what depends on an
allocator is a stated share of it, found by ``benchmarks/memory.py``, which also reports how far the sums are
from what was measured. Knows no files and no tensors. Called by the engine before it loads or plans
something, by the worker (``compute_dtype``) and by ``eztinker estimate``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eztinker.engine.model_shape import ModelShape
from eztinker.types.training import Quantization

DType = Literal["float32", "bfloat16"]

SMALL_MODEL_PARAMETERS = 300_000_000
"""Below it ``auto`` computes in float32 on a CPU."""
ENGINE_BYTES = 275_000_000
"""A worker process that has imported torch and transformers and holds no model (Linux, CPU build)."""
QUANTIZATION_BYTES = 50_000_000
"""What bitsandbytes adds to it."""

_BLOCK = 64
_NESTED_BLOCK = 256
_LOGITS_CHUNK = 4 * 1024 * 1024
_NUM_LANES = 2
"""Halves of a micro-batch that are computed side by side, each with a chunk of logits."""
_CACHE_GROWTH = 1.5
_KEPT_KEYS = 288
"""Probabilities of attention that a token and head leaves behind in float32, at most: half of the longest
sequence whose probabilities are kept, and half a block (``worker/packed_attention.py``)."""
_ALLOCATOR_SHARE = 0.04


UNBOUNDED = 2**62
"""Room where nobody can say how much memory there is."""

PACKED_TRAINING_SHARE = 0.125
"""Of the room for models, for two more copies of a model's weights, laid out for oneDNN both ways, and for those with a
third, transposed for single rows."""
PACKED_SHARE = 0.25
"""Of what is left of the room, for one copy, which serves sampling alone."""
CACHE_SHARE = 0.25
"""Of what is left of the room, for a model's key-value cache."""
LEAST_CACHE_TOKENS = 2048
"""Positions of a cache that idle models make room for, so that one answer of usual length has a place."""
_CACHE_SPARE = 2

_BUDGET_SHARE = {"cpu": 0.8, "cuda": 0.9}
_CUDA_CONTEXT_BYTES = 600_000_000


def room_for_models(memory_bytes: int, budget_gb: float, device_type: str) -> int:
    """What base models and runs may take together, with the work on them.

    Args:
        memory_bytes: of the machine or the device; 0 where it is unknown.
        budget_gb: the setting, in units of 10^9 bytes; 0 takes a share of the memory (0.8 on a CPU, 0.9 on a
            device).
        device_type: ``cpu`` or ``cuda``.
    """
    budget = budget_gb * 1e9 or memory_bytes * _BUDGET_SHARE.get(device_type, 0.9)
    if not budget:
        return UNBOUNDED
    return round(budget) - (ENGINE_BYTES if device_type == "cpu" else _CUDA_CONTEXT_BYTES)


def compute_dtype(dtype: str, device_type: str, num_parameters: int) -> DType:
    """The type a model computes in; ``auto`` is float32 for a small model on a CPU, else bfloat16.

    Args:
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        device_type: ``cpu`` or ``cuda``.
        num_parameters: of the model.
    """
    if dtype == "float32" or dtype == "bfloat16":
        return dtype
    return (
        "float32"
        if device_type == "cpu" and num_parameters < SMALL_MODEL_PARAMETERS
        else "bfloat16"
    )


def item_bytes(dtype: DType) -> int:
    """Bytes of one number."""
    return 4 if dtype == "float32" else 2


def weights_bytes(shape: ModelShape, quantization: Quantization, dtype: DType) -> int:
    """The frozen model in memory."""
    width = item_bytes(dtype)
    if quantization == "nf4":
        per_number = 0.5 + 1 / _BLOCK + 4 / (_BLOCK * _NESTED_BLOCK)
        linear = round(shape.num_linear * per_number)
    elif quantization == "int8":
        linear = shape.num_linear + 4 * shape.num_linear_outputs
    else:
        linear = shape.num_linear * width
    return linear + shape.num_other * width


def copies_bytes(
    shape: ModelShape, quantization: Quantization, dtype: DType, num_copies: int
) -> int:
    """Copies of the weights that products like to have laid out in their own way; quantised ones have none.

    Args:
        num_copies: as ``num_copies`` tells; the third is of those groups of layers alone that have more outputs than inputs.
    """
    head = shape.vocab_size * shape.hidden
    linear = shape.num_linear if quantization == "none" else 0
    groups = (2 * shape.inner, (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_size)
    wide = sum(num_outputs for num_outputs in groups if num_outputs > shape.hidden)
    turned = min(linear, shape.num_layers * wide * shape.hidden)
    numbers = min(num_copies, 2) * (linear + head) + (turned + head) * (num_copies == 3)
    return numbers * item_bytes(dtype)


def num_copies(
    shape: ModelShape,
    quantization: Quantization,
    dtype: DType,
    *,
    device_type: str,
    room_bytes: int,
    left_bytes: int,
) -> Literal[0, 1, 2, 3]:
    """How many more copies of its weights a model may have.

    Two and three follow from the room alone, not from who else is there: with them training passes round differently, and
    a replay must round as the pass did.

    Args:
        device_type: only a CPU has such copies.
        room_bytes: for models and runs, as of ``room_for_models``.
        left_bytes: of it, beside everything resident and this model without copies.
    """
    one = copies_bytes(shape, quantization, dtype, 1)
    if device_type != "cpu":
        return 0
    if 3 * one <= PACKED_TRAINING_SHARE * room_bytes and dtype == "float32":
        return 3
    if 2 * one <= PACKED_TRAINING_SHARE * room_bytes:
        return 2
    return 1 if one <= PACKED_SHARE * left_bytes else 0


def cache_tokens(shape: ModelShape, dtype: DType, left_bytes: int) -> int:
    """Positions that the key-value cache of a model may hold: a share of what the budget leaves, spare room counted in.

    Where that is little, more than the share, up to ``LEAST_CACHE_TOKENS``.

    Args:
        left_bytes: of the room for models and runs, beside everything resident and this model with its copies.
    """
    per_token = _CACHE_SPARE * cache_bytes_per_token(shape, dtype)
    least = min(LEAST_CACHE_TOKENS, left_bytes // per_token)
    return max(1, least, int(CACHE_SHARE * left_bytes) // per_token)


def least_cache_bytes(shape: ModelShape, dtype: DType) -> int:
    """Memory of a cache of ``LEAST_CACHE_TOKENS``, spare room counted in."""
    return LEAST_CACHE_TOKENS * _CACHE_SPARE * cache_bytes_per_token(shape, dtype)


def loading_bytes(shape: ModelShape, quantization: Quantization, dtype: DType) -> int:
    """What reading takes beside the weights and is given back: copies of single layers.

    Pages of the files that are read do not count: the system takes them back when it needs them.
    """
    copies = 2 if quantization == "none" else 4
    return copies * shape.largest_linear * max(item_bytes(dtype), shape.stored_item_bytes)


def run_bytes(
    shape: ModelShape, rank: int, dtype: DType, *, num_parameters: int | None = None
) -> int:
    """A resident run: adapter and gradient in float32, two moments, and what a step makes anew of them.

    Args:
        num_parameters: trainable numbers where they are known; else an adapter on all linear layers.
    """
    number = rank * shape.lora_width if num_parameters is None else num_parameters
    held = 4 + 8 + 4 + (0 if dtype == "float32" else 2)
    stepping = 12
    laid_out = 4 * item_bytes(
        dtype
    )  # one matrix for the layers that share an input, zeros counted in
    return number * (held + stepping + laid_out)


def activation_bytes_per_token(
    shape: ModelShape, rank: int, dtype: DType, *, dropout: bool, checkpointing: bool = False
) -> int:
    """What a token of a micro-batch leaves behind until its backward pass.

    Args:
        dropout: masks of adapters are kept as well.
        checkpointing: only the input of each layer is kept.
    """
    heads = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_size
    attended = shape.num_heads * shape.head_size
    layer = 4 * shape.hidden + heads + 2 * attended + 3 * shape.inner + 7 * rank
    if dtype == "float32":
        layer += shape.num_heads * _KEPT_KEYS
    if dropout:
        layer += 5 * shape.hidden + attended + shape.inner
    kept = (
        layer * shape.num_layers if not checkpointing else layer + shape.hidden * shape.num_layers
    )
    # The head keeps the rows it was applied to, their mean, and their gradient.
    return (kept + 3 * shape.hidden) * item_bytes(dtype)


def training_bytes(
    shape: ModelShape,
    rank: int,
    dtype: DType,
    *,
    num_tokens: int,
    dropout: bool,
    checkpointing: bool = False,
) -> int:
    """A micro-batch of ``num_tokens`` from its forward pass to the end of its backward pass."""
    per_token = activation_bytes_per_token(
        shape, rank, dtype, dropout=dropout, checkpointing=checkpointing
    )
    rows = min(num_tokens, _NUM_LANES * max(16, _LOGITS_CHUNK // shape.vocab_size))
    # At its widest either chunks of the vocabulary head (float32, and once more) or one layer's gradients.
    logits = 3 * 4 * rows * shape.vocab_size
    gradients = 6 * (shape.inner + shape.hidden) * num_tokens * item_bytes(dtype)
    return round(num_tokens * per_token * (1 + _ALLOCATOR_SHARE)) + max(logits, gradients)


def cache_bytes_per_token(shape: ModelShape, dtype: DType) -> int:
    """One position of one row in the key-value cache."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_size * item_bytes(dtype)


def sampling_bytes(shape: ModelShape, dtype: DType, *, num_rows: int, num_tokens: int) -> int:
    """Generating ``num_rows`` sequences of ``num_tokens`` (prompt included) together."""
    cache = cache_bytes_per_token(shape, dtype) * num_rows * num_tokens * _CACHE_GROWTH
    return round(cache) + 4 * 4 * num_rows * shape.vocab_size


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a base model with one run takes, in bytes.

    Attributes:
        dtype: computed in.
        engine: the worker process itself.
        weights, loading: of the model; the second only while it is read.
        copies: of the weights, for faster products.
        run: adapter, gradient, moments.
        training: activations, logits and gradients of the largest micro-batch.
        sampling: cache and logits.
        micro_batch_tokens: tokens in that micro-batch.
    """

    num_parameters: int
    dtype: DType
    quantization: Quantization
    engine: int
    weights: int
    loading: int
    copies: int
    run: int
    training: int
    sampling: int
    micro_batch_tokens: int

    @property
    def resident(self) -> int:
        """Between two pieces of work."""
        return self.engine + self.weights + self.copies + self.run

    @property
    def peak(self) -> int:
        """The most at any moment: reading, or a micro-batch while sequences are being generated."""
        working = self.resident + self.training + self.sampling
        return max(self.engine + self.weights + self.copies + self.loading, working)


def estimate(
    shape: ModelShape,
    *,
    quantization: Quantization,
    dtype: DType,
    rank: int,
    batch: int,
    seq_len: int,
    dropout: bool = True,
    micro_batch_tokens: int = 4096,
    num_samples: int = 0,
    device_type: str = "cpu",
    room_bytes: int = 0,
) -> Estimate:
    """Predict the memory of training ``batch`` sequences of ``seq_len`` tokens, and of sampling.

    Args:
        rank: of an adapter on all linear layers.
        micro_batch_tokens: the engine's bound; a longer sequence is a micro-batch of its own.
        num_samples: sequences of ``seq_len`` tokens that are generated meanwhile.
        device_type: ``cpu`` or ``cuda``.
        room_bytes: for models and runs, nobody else being there; with 0 the model has no copies.
    """
    tokens = min(batch * seq_len, max(seq_len, micro_batch_tokens // seq_len * seq_len))
    quantized = quantization != "none"
    weights = weights_bytes(shape, quantization, dtype)
    copies = num_copies(
        shape,
        quantization,
        dtype,
        device_type=device_type,
        room_bytes=room_bytes,
        left_bytes=room_bytes - weights,
    )
    return Estimate(
        num_parameters=shape.num_parameters,
        dtype=dtype,
        quantization=quantization,
        engine=ENGINE_BYTES + (QUANTIZATION_BYTES if quantized else 0),
        weights=weights,
        loading=loading_bytes(shape, quantization, dtype),
        copies=copies_bytes(shape, quantization, dtype, copies),
        run=run_bytes(shape, rank, dtype),
        training=training_bytes(shape, rank, dtype, num_tokens=tokens, dropout=dropout),
        sampling=sampling_bytes(shape, dtype, num_rows=num_samples, num_tokens=seq_len)
        if num_samples
        else 0,
        micro_batch_tokens=tokens,
    )
