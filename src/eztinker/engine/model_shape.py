"""The size of a base model, read from ``config.json`` and the headers of its safetensors files.

Reads no weights and imports no torch, so that it answers in milliseconds for a model of any size. Called by
``memory_model.py``, the engine (does it fit?), the worker (which type?) and ``eztinker estimate``.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eztinker.errors import InvalidRequestError

_ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
}
_ITEM_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1}
_MAX_HEADER_BYTES = 100_000_000
_HEAD_NAMES = ("lm_head", "embed_out")
_EMBEDDING_NAMES = ("embed", "wte", "wpe")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What memory depends on.

    Attributes:
        num_linear: numbers in linear layers without the vocabulary head: what is quantised.
        num_other: all other numbers; a head that shares the embedding counts once.
        largest_linear: numbers of the largest linear layer.
        lora_width: sum of inputs and outputs over those layers; times the rank, an adapter's numbers.
        num_linear_outputs: sum of their outputs.
        stored_item_bytes: of the widest type in the files.
        hidden, inner, num_layers, num_heads, num_kv_heads, head_size, vocab_size: as usual.
    """

    num_linear: int
    num_other: int
    largest_linear: int
    lora_width: int
    num_linear_outputs: int
    stored_item_bytes: int
    hidden: int
    inner: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int

    @property
    def num_parameters(self) -> int:
        """Numbers in the model."""
        return self.num_linear + self.num_other


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in a folder.

    Raises:
        InvalidRequestError: code ``model_unreadable``, a file is damaged, cut short or missing.
    """
    config = _config(folder)
    tensors: dict[str, tuple[str, list[int]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= _header(path)
    if not tensors:
        raise _unreadable(folder, "holds no *.safetensors")
    linear = {n: shape for n, (_, shape) in tensors.items() if _is_linear(n, shape)}
    num_all = sum(math.prod(shape) for n, (_, shape) in tensors.items() if _counts(n, config))
    num_linear = sum(map(math.prod, linear.values()))
    return ModelShape(
        num_linear=num_linear,
        num_other=num_all - num_linear,
        largest_linear=max(map(math.prod, linear.values()), default=0),
        lora_width=sum(map(sum, linear.values())),
        num_linear_outputs=sum(shape[0] for shape in linear.values()),
        stored_item_bytes=max(_ITEM_BYTES.get(kind, 4) for kind, _ in tensors.values()),
        **_sizes(config, folder),
    )


def _counts(name: str, config: dict[str, Any]) -> bool:
    """Whether the model really holds a tensor of the files: not the mask buffers of GPT-2, not a tied head."""
    if name.endswith((".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")):
        return False
    is_head = any(f"{head}." in name for head in _HEAD_NAMES)
    return not (is_head and config.get("tie_word_embeddings", False))


def _is_linear(name: str, shape: list[int]) -> bool:
    if len(shape) != 2 or not name.endswith(".weight"):
        return False
    parts = name.split(".")
    is_embedding = any(part.startswith(_EMBEDDING_NAMES) for part in parts)
    return not is_embedding and not any(part in _HEAD_NAMES for part in parts)


def _sizes(config: dict[str, Any], folder: Path) -> dict[str, int]:
    hidden = _first(config, ("hidden_size", "n_embd", "d_model"), folder)
    num_heads = _first(config, ("num_attention_heads", "n_head", "num_heads"), folder)
    inner = config.get("intermediate_size") or config.get("n_inner") or 4 * hidden
    return {
        "hidden": hidden,
        "inner": int(inner),
        "num_layers": _first(config, ("num_hidden_layers", "n_layer", "num_layers"), folder),
        "num_heads": num_heads,
        "num_kv_heads": int(config.get("num_key_value_heads") or num_heads),
        "head_size": int(config.get("head_dim") or hidden // num_heads),
        "vocab_size": _first(config, ("vocab_size", "n_vocab"), folder),
    }


def _first(config: dict[str, Any], names: Iterable[str], folder: Path) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and value > 0:
            return value
    raise _unreadable(folder, f"has a config.json without {' or '.join(names)}")


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(folder, f"has no readable config.json ({error})") from None
    if not isinstance(config, dict):
        raise _unreadable(folder, "has a config.json that is no JSON object")
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def _header(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Type and shape of each tensor of a file, whose length is checked."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, _MAX_HEADER_BYTES)))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        size_bytes = path.stat().st_size
        tensors = {name: (str(e["dtype"]), list(e["shape"])) for name, e in header.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
        raise _unreadable(path.parent, f"holds a damaged file, {path.name} ({error})") from None
    if size_bytes < 8 + length + end:
        why = f"holds {path.name} with {size_bytes} of {8 + length + end} bytes: it was cut short"
        raise _unreadable(path.parent, why)
    return tensors


def _unreadable(folder: Path, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"base_model: {str(folder)[:200]} {why}. Copy the model's files there again.",
        code="model_unreadable",
        field="base_model",
    )
