"""A LoRA adapter in PEFT's layout, from wherever it comes: its matrices, layer by layer.

Reads what PEFT writes for plain LoRA: ranks and alphas of single layers, rank-stabilised scaling, any list or
pattern of modules (which layers have an adapter is read from the tensors). Every other kind of adapter is refused
by the name of the setting. Knows no base model. Used to import an adapter (``adapter_import.py``) and to merge one
(``deploy/merge.py``); what the server itself saved is read by ``state.py``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from eztinker.engine.worker.state import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from eztinker.errors import InvalidRequestError, NotFoundError, UnsupportedError

_MAX_PATTERN_LENGTH = 256
_PATTERN = re.compile(rf"[\w.\\^$|-]{{1,{_MAX_PATTERN_LENGTH}}}")
_KEY = re.compile(r"base_model\.model\.(?P<name>.+)\.lora_(?P<part>[AB])\.weight\Z")
_BASE_KEY = re.compile(r"base_model\.model\.(?P<name>.+)\.base_layer\.weight\Z")
"""PEFT saves a vocabulary head beside its adapter, though it is the base model's."""
_OTHER_KINDS = {
    "use_dora": "DoRA",
    "use_qalora": "QA-LoRA",
    "modules_to_save": "modules trained in full",
    "lora_bias": "biases",
    "layer_replication": "repeated layers",
    "target_parameters": "adapters on parameters",
    "trainable_token_indices": "trained token embeddings",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
    "use_bdlora": "block-diagonal LoRA",
    "megatron_config": "Megatron",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}
_HARMLESS = {
    "use_rslora",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",
}
"""Settings named like those of another kind that are read here, or say only how the adapter began or was trained."""
_WAY_OUT = "Convert the adapter with PEFT, or merge it there into the model."
_PLAIN_STARTS = {True, False, None, "gaussian", "eva", "orthogonal"}
"""Ways to begin an adapter that leave the base model alone."""


@dataclass(frozen=True, slots=True, eq=False)
class LoRAModule:
    """The adapter of one layer: the layer's output grows by scaling·B·A·x.

    Attributes:
        name: path of the layer in the model.
        a: float32 [r, in].
        b: float32 [out, r].
        scaling: alpha / r, or alpha / sqrt(r).
    """

    name: str
    a: Tensor
    b: Tensor
    scaling: float

    @property
    def rank(self) -> int:
        """Of this layer."""
        return self.a.shape[0]

    @property
    def update(self) -> Tensor:
        """scaling·B·A, float32 [out, in]."""
        return self.scaling * (self.b @ self.a)


@dataclass(frozen=True, slots=True, eq=False)
class PeftFolder:
    """A plain LoRA adapter.

    Attributes:
        base_model: what ``adapter_config.json`` names; empty if it names none.
        dropout: on the adapter's input while training.
        modules: in the order of their names.
        base_weights: layers of the base model that were saved beside their adapters, by name.
    """

    base_model: str
    dropout: float
    modules: list[LoRAModule]
    base_weights: dict[str, Tensor]

    def check_base_weights(self, heads: Mapping[str, Tensor]) -> None:
        """Compare layers that were saved beside their adapters with those of the base model.

        Args:
            heads: the weight [V, D] of the base model's vocabulary head, by name.

        Raises:
            UnsupportedError: a layer was trained in full, or is another model's.
        """
        for name, saved in self.base_weights.items():
            held = heads.get(name)
            if held is None or not _same_numbers(saved, held):
                raise UnsupportedError(
                    f"{ADAPTER_WEIGHTS}: {name}.base_layer.weight is not the base model's: the layer was trained in full, "
                    "or the adapter belongs to another model. Only plain LoRA is implemented. Name the adapter's own "
                    "base model, or merge the adapter into it with PEFT.",
                    field="base_model",
                )


def read_peft_folder(folder: Path) -> PeftFolder:
    """Read an adapter.

    Raises:
        NotFoundError: no such folder, or a file of the two is missing.
        UnsupportedError: not plain LoRA; names the setting or the tensor.
        InvalidRequestError: a file is damaged, or the two contradict each other.
    """
    config = _read_config(folder)
    tensors = _read_tensors(folder / ADAPTER_WEIGHTS)
    return PeftFolder(
        base_model=str(config.get("base_model_name_or_path") or ""),
        dropout=_number(config.get("lora_dropout") or 0.0, "lora_dropout"),
        modules=_modules(config, {k: t for k, t in tensors.items() if not _BASE_KEY.match(k)}),
        base_weights={m["name"]: t for k, t in tensors.items() if (m := _BASE_KEY.match(k))},
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise NotFoundError(
            f"{folder} has no {ADAPTER_CONFIG}. Expected the folder of a PEFT adapter.",
            code="adapter_not_found",
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from None
    if not isinstance(config, dict):
        raise _damaged(path, "it holds no object")
    _refuse_other_kinds(config)
    return config


def _refuse_other_kinds(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise UnsupportedError(
            f"{ADAPTER_CONFIG}: peft_type is {str(config.get('peft_type'))[:64]!r}; only LORA is implemented. "
            f"{_WAY_OUT}",
            field="peft_type",
        )
    found = {name: what for name, what in _OTHER_KINDS.items() if config.get(name)}
    for name in sorted(set(config) - _HARMLESS - set(_OTHER_KINDS)):
        # PEFT's other kinds are switched on by such settings, and there will be more of them.
        if config[name] and (name.startswith("use_") or name.endswith("_config")):
            found[name[:64]] = "what that stands for"
    if config.get("bias", "none") != "none":
        found["bias"] = "biases"
    start = config.get("init_lora_weights", True)
    if not isinstance(start, bool | str | None) or start not in _PLAIN_STARTS:
        found["init_lora_weights"] = f"{str(start)[:64]!r}, which changes the base model"
    for name, what in found.items():
        raise UnsupportedError(
            f"{ADAPTER_CONFIG}: {name}: only plain LoRA is implemented, not {what}. {_WAY_OUT}",
            field=name,
        )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        pickled = path.with_name("adapter_model.bin")
        hint = f" {pickled.name} is a pickle, which can run code: save it as safetensors."
        raise NotFoundError(
            f"{path.parent} has no {path.name}.{hint if pickled.is_file() else ''}",
            code="adapter_not_found",
        )
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, why: object) -> InvalidRequestError:
    return InvalidRequestError(
        f"{path.name} cannot be read: {why}. Copy it again from where it came.", code="damaged_file"
    )


def _modules(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[LoRAModule]:
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if match is None or tensor.ndim != 2:
            raise UnsupportedError(
                f"{ADAPTER_WEIGHTS}: {key} of shape {list(tensor.shape)} is no matrix of a LoRA adapter on a "
                "linear layer; only those are implemented. Leave the layer out of target_modules; layers of the "
                "base model are not saved with save_embedding_layers=False."
            )
        if not tensor.is_floating_point():
            raise UnsupportedError(
                f"{ADAPTER_WEIGHTS}: {key} is of type {tensor.dtype}; expected floating-point numbers. Save the "
                "adapter in float32, float16 or bfloat16."
            )
        pairs.setdefault(match["name"], {})[match["part"]] = tensor.float()
    if not pairs:
        raise InvalidRequestError(f"{ADAPTER_WEIGHTS} holds no tensors.", code="damaged_file")
    return [_module(name, pairs[name], config) for name in sorted(pairs)]


def _module(name: str, pair: Mapping[str, Tensor], config: Mapping[str, Any]) -> LoRAModule:
    if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1]:
        raise InvalidRequestError(
            f"{ADAPTER_WEIGHTS}: lora_A and lora_B of {name} do not belong together: one is missing, or their "
            "ranks differ. Save the adapter again, or copy it again from where it came.",
            code="damaged_file",
        )
    rank = pair["A"].shape[0]
    wanted = _of_layer(config, "rank_pattern", name, config.get("r"))
    if wanted != rank:
        raise InvalidRequestError(
            f"{name} has rank {rank} in {ADAPTER_WEIGHTS} and {repr(wanted)[:64]} by {ADAPTER_CONFIG}. Copy both "
            "files from one adapter.",
            code="damaged_file",
        )
    if not all(bool(torch.isfinite(matrix).all()) for matrix in pair.values()):
        raise InvalidRequestError(
            f"{ADAPTER_WEIGHTS}: {name} holds numbers that are not finite. Take an earlier checkpoint of its "
            "training.",
            code="damaged_file",
        )
    alpha = _number(
        _of_layer(config, "alpha_pattern", name, config.get("lora_alpha", 8)), "lora_alpha"
    )
    scaling = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return LoRAModule(name, pair["A"], pair["B"], scaling)


def _of_layer(config: Mapping[str, Any], setting: str, name: str, default: Any) -> Any:
    """A layer's own value: the first pattern that is its name or a suffix of it, as PEFT has it."""
    patterns = config.get(setting) or {}
    if not isinstance(patterns, dict):
        raise _damaged(Path(ADAPTER_CONFIG), f"{setting} holds no object")
    for pattern, value in patterns.items():
        _refuse_repetition(setting, pattern)
        try:
            is_meant = re.match(rf"(.*\.)?({pattern})\Z", name)
        except re.error as error:
            raise _damaged(Path(ADAPTER_CONFIG), f"{setting}: {pattern!r}: {error}") from None
        if is_meant:
            return value
    return default


def _refuse_repetition(setting: str, pattern: str) -> None:
    """A stranger's expression can take longer than the universe; without repetition it cannot."""
    if _PATTERN.fullmatch(pattern) is None:
        raise UnsupportedError(
            f"{ADAPTER_CONFIG}: {setting}: {pattern[:64]!r} is more than the names of layers (letters, digits, "
            f"dots, backslashes, | and at most {_MAX_PATTERN_LENGTH} characters); only those are implemented. "
            "Write each layer's name.",
            field=setting,
        )


def _same_numbers(a: Tensor, b: Tensor) -> bool:
    """Whether two weights are equal in the narrower of their types."""
    dtype = a.dtype if a.element_size() <= b.element_size() else b.dtype
    return a.shape == b.shape and torch.equal(a.to(dtype), b.to("cpu", dtype))


def _number(value: Any, setting: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidRequestError(
            f"{ADAPTER_CONFIG}: {setting} is {value!r}; expected a finite number.",
            code="damaged_file",
            field=setting,
        )
    return float(value)
