"""A run's state as files, and back: PEFT's layout, the optimizer in its own safetensors file.

Everything is safetensors and JSON. A folder is written whole or the job fails; publishing it is the
server's part. A folder that does not fit the run is refused before anything changes. Knows no queue;
``jobs.py`` calls it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from eztinker import failpoints
from eztinker.engine.worker.base_model import BaseModel
from eztinker.engine.worker.lora import AdapterSpec, AdapterWeights, choose_sites
from eztinker.engine.worker.optimizer import AdamState
from eztinker.engine.worker.run_state import RunState
from eztinker.errors import DiskFullError, InvalidRequestError, StorageError, UnsupportedError
from eztinker.types.training import LoRAConfig

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
OPTIMIZER = "optimizer.safetensors"

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_UNSUPPORTED_PEFT = (
    "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias", "exclude_modules",
    "layers_to_transform", "layer_replication", "target_parameters",
)  # fmt: skip


def write_state(run: RunState, folder: Path, *, with_optimizer: bool) -> dict[str, str]:
    """Write a run into an existing folder; sha256 in hex of each file, which is on disk then.

    Raises:
        DiskFullError: no room.
        StorageError: the folder cannot be written.
    """
    contents: dict[str, bytes] = {
        ADAPTER_WEIGHTS: save(_on_cpu(run.weights.tensors), metadata={"format": "pt"}),
        ADAPTER_CONFIG: _adapter_config(run).encode(),
    }
    if with_optimizer:
        moments = {"exp_avg": run.adam.exp_avg_P, "exp_avg_sq": run.adam.exp_avg_sq_P}
        contents[OPTIMIZER] = save(_on_cpu(moments), metadata=_optimizer_metadata(run))
    try:
        hashes = {name: _write(folder / name, data) for name, data in contents.items()}
        for name in _TOKENIZER_FILES:
            if (run.base.folder / name).is_file():
                hashes[name] = _write(folder / name, (run.base.folder / name).read_bytes())
        _fsync(folder)
    except OSError as error:
        kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageError
        free = shutil.disk_usage(folder).free if folder.is_dir() else 0
        raise kind(
            f"The state of run {run.run_id!r} cannot be written to {folder}: {error.strerror} "
            f"({free} bytes free)."
        ) from error
    return hashes


def _write(path: Path, data: bytes) -> str:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        failpoints.reach("file.before")
        os.fsync(file.fileno())
        failpoints.reach("file.after")
    return hashlib.sha256(data).hexdigest()


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}


def _adapter_config(run: RunState) -> str:
    spec, config = run.weights.spec, run.weights.spec.config
    content = {
        "base_model_name_or_path": spec.base_model,
        "bias": "none",
        "fan_in_fan_out": any(site.is_transposed for site in spec.sites),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "peft_type": "LORA",
        "r": config.r,
        "target_modules": spec.target_names(run.base.decoder.sites),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": config.use_rslora,
    }
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _optimizer_metadata(run: RunState) -> dict[str, str]:
    return {
        "step": str(run.adam.num_steps),
        "seed": str(run.seed),
        "parameters": json.dumps(run.weights.spec.tensor_shapes),
    }


def read_into(run: RunState, folder: Path, *, with_optimizer: bool) -> RunState:
    """The run with a folder's weights (and moments); without optimizer, a fresh one. No gradient.

    Raises:
        InvalidRequestError: another rank, scaling, set of modules or base model.
        StorageError: a file is missing or damaged.
    """
    _check_config(run, _read_config(folder))
    flat_P = _flat_weights(run.weights.spec, folder)
    adam = AdamState.fresh(flat_P)
    if with_optimizer:
        adam = _read_optimizer(run, folder)
    device = run.base.decoder.device
    return run.with_weights(
        flat_P.to(device),
        AdamState(adam.exp_avg_P.to(device), adam.exp_avg_sq_P.to(device), adam.num_steps),
    )


def read_adapter(base: BaseModel, folder: Path) -> tuple[AdapterWeights, int]:
    """An adapter to sample from, made from a folder alone, and the optimizer steps behind it.

    Raises:
        UnsupportedError: a kind of PEFT adapter that is not a plain LoRA.
        InvalidRequestError: it does not fit the base model.
        StorageError: a file is missing or damaged.
    """
    content = _read_config(folder)
    targets = content.get("target_modules", "all-linear")
    config = LoRAConfig(
        r=int(content["r"]),
        lora_alpha=float(content["lora_alpha"]),
        lora_dropout=0.0,
        target_modules=targets if isinstance(targets, str) else tuple(targets),
        use_rslora=bool(content.get("use_rslora", False)),
    )
    decoder = base.decoder
    sites = tuple(choose_sites(config, decoder.sites))
    spec = AdapterSpec(base.name, config, sites, len(decoder.sites))
    flat_P = _flat_weights(spec, folder).to(decoder.device)
    return AdapterWeights(spec, flat_P, decoder.dtype), _recorded_step(folder)


def _recorded_step(folder: Path) -> int:
    """The step in the server's manifest or beside the moments; 0 for a foreign adapter."""
    manifest = folder / "eztinker.json"
    if manifest.is_file():
        return int(json.loads(manifest.read_text(encoding="utf-8")).get("step", 0))
    if (folder / OPTIMIZER).is_file():
        return int(_metadata(folder / OPTIMIZER).get("step", "0"))
    return 0


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
    if not isinstance(content, dict) or content.get("peft_type") != "LORA":
        raise UnsupportedError(f"{path} does not describe a LoRA adapter.")
    special = [name for name in _UNSUPPORTED_PEFT if content.get(name)]
    if content.get("bias", "none") != "none":
        special.append("bias")
    if special:
        raise UnsupportedError(
            f"{path} uses {', '.join(special)}, which is not implemented; only plain LoRA is."
        )
    return content


def _check_config(run: RunState, content: Mapping[str, Any]) -> None:
    spec, config = run.weights.spec, run.weights.spec.config
    expected = {
        "base_model_name_or_path": spec.base_model,
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "use_rslora": config.use_rslora,
    }
    for name, value in expected.items():
        if content.get(name) != value:
            raise InvalidRequestError(
                f"This state does not fit run {run.run_id!r}: {name} is {content.get(name)!r}, the run "
                f"has {value!r}. Create a run with the same settings first.",
                code="state_mismatch",
                field=name,
            )


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        # From bytes: read by name or as a file each tensor leaves its shape's numbers behind (safetensors 0.8).
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error


def _flat_weights(spec: AdapterSpec, folder: Path) -> Tensor:
    tensors = _load_tensors(folder / ADAPTER_WEIGHTS)
    shapes = dict(spec.tensor_shapes)
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if found != shapes:
        wrong = sorted(key for key in {*found, *shapes} if found.get(key) != shapes.get(key))
        raise InvalidRequestError(
            f"The adapter in {folder.name!r} does not fit: {wrong[0]} is {found.get(wrong[0], 'absent')}, "
            f"expected {shapes.get(wrong[0], 'no such tensor')} ({len(wrong)} of {len(shapes)} differ).",
            code="state_mismatch",
        )
    return torch.cat([tensors[key].flatten().float() for key in shapes])


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as content:
            return content.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error


def _read_optimizer(run: RunState, folder: Path) -> AdamState:
    path = folder / OPTIMIZER
    if not path.is_file():
        raise InvalidRequestError(
            f"{folder.name!r} holds no optimizer state. Load it with with_optimizer=false.",
            code="no_optimizer_state",
            field="with_optimizer",
        )
    metadata, moments = _metadata(path), _load_tensors(path)
    expected = [[key, list(shape)] for key, shape in run.weights.spec.tensor_shapes]
    if json.loads(metadata.get("parameters", "null")) != expected:
        raise InvalidRequestError(
            f"The optimizer state in {folder.name!r} belongs to other parameters.",
            code="state_mismatch",
        )
    return AdamState(moments["exp_avg"], moments["exp_avg_sq"], int(metadata["step"]))
