"""What the Tinker client has no field for, taken from ``user_metadata`` keys that begin with ``eztinker.``.

An unknown key of ours is refused; all other keys are the caller's own. Pure; called by
``routes/tinker/models.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from eztinker.errors import InvalidRequestError
from eztinker.models import tinker as wire
from eztinker.models.api import near_name
from eztinker.types.training import LoRAConfig, Quantization

PREFIX = "eztinker."
DEFAULT_ALPHA = 32.0
"""The protocol has no field for alpha; the vendor's adapters use 32 at every rank."""


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """How to make a run's adapter."""

    lora: LoRAConfig
    quantization: Quantization


def _number(value: Any) -> float:
    return float(value)


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}[str(value).lower()]


def _modules(value: Any) -> str | tuple[str, ...]:
    names = value if isinstance(value, list) else str(value).split(",")
    cleaned = tuple(str(name).strip() for name in names)
    return "all-linear" if cleaned == ("all-linear",) else cleaned


def _text(value: Any) -> str:
    return str(value)


_READERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "lora_alpha": ("a number", _number),
    "lora_dropout": ("a number", _number),
    "target_modules": ("all-linear, or module names with commas between them", _modules),
    "use_rslora": ("true or false", _switch),
    "quantization": ("none, nf4 or int8", _text),
}


def adapter_settings(config: wire.LoraConfig, metadata: dict[str, Any]) -> AdapterSettings:
    """The adapter that ``create_model`` asks for.

    Raises:
        InvalidRequestError: an unknown key of ours, or a value that does not fit.
    """
    read = _read_ours(metadata)
    lora = LoRAConfig(
        r=config.rank,
        lora_alpha=read.get("lora_alpha", DEFAULT_ALPHA),
        lora_dropout=read.get("lora_dropout", 0.0),
        target_modules=read.get("target_modules", "all-linear"),
        use_rslora=read.get("use_rslora", False),
        train_attn=config.train_attn,
        train_mlp=config.train_mlp,
        train_unembed=config.train_unembed,
        seed=config.seed,
    )
    return AdapterSettings(lora, read.get("quantization", "none"))


def quantization_of(metadata: dict[str, Any], otherwise: Quantization) -> Quantization:
    """How to hold the base model under an adapter that comes from a checkpoint.

    Args:
        metadata: the caller's.
        otherwise: the checkpoint's own, where the caller says nothing.

    Raises:
        InvalidRequestError: an unknown key of ours, or one that the checkpoint decides.
    """
    read = _read_ours(metadata)
    other = next((name for name in read if name != "quantization"), None)
    if other is not None:
        raise InvalidRequestError(
            f"user_metadata.{PREFIX}{other}: the adapter's settings come from the checkpoint. Leave it out.",
            field=f"user_metadata.{PREFIX}{other}",
        )
    return read.get("quantization", otherwise)


def _read_ours(metadata: dict[str, Any]) -> dict[str, Any]:
    said = {key.removeprefix(PREFIX): metadata[key] for key in metadata if key.startswith(PREFIX)}
    return {name: _read(name, value) for name, value in said.items()}


def _read(name: str, value: Any) -> Any:
    field = f"user_metadata.{PREFIX}{name[:64]}"
    if name not in _READERS:
        near = near_name(name, list(_READERS))
        hint = f" Did you mean {PREFIX}{near}?" if near else ""
        raise InvalidRequestError(
            f"{field}: unknown setting.{hint} Known: {', '.join(PREFIX + known for known in _READERS)}.",
            code="unknown_field",
            field=field,
        )
    expected, reader = _READERS[name]
    try:
        return reader(value)
    except (TypeError, ValueError, KeyError):
        raise InvalidRequestError(
            f"{field}: expected {expected}, got {str(value)[:100]!r}.", field=field
        ) from None


def as_strings(metadata: dict[str, Any]) -> dict[str, str]:
    """Metadata as it is stored and given back: values that are no text become JSON."""
    return {
        key: value if isinstance(value, str) else orjson.dumps(value).decode()
        for key, value in metadata.items()
    }
