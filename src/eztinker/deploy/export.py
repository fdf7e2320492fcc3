"""A checkpoint as a folder for others: a PEFT adapter or a merged model, compared with the server, with a card.

The folder is reloaded by transformers and PEFT, and the difference of its log-probabilities from the server's
stands in ``export.json``. Knows no server: the command gives the checkpoint's folder and the server's numbers.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from eztinker.deploy.folders import new_folder, read_json, write_json
from eztinker.deploy.merge import DType, copy_tokenizer, merge
from eztinker.deploy.model_card import card, vllm_command
from eztinker.deploy.reload import reloaded_logprobs
from eztinker.types.training import Quantization

Format = Literal["peft", "merged"]
REPORT = "export.json"
TOLERANCES: dict[str, float] = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest difference of log-probabilities that rounding weights to a type explains, with room; the server
itself may compute in less than float32, and then differ by as much."""
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What the server makes of one prompt.

    Attributes:
        text: of the prompt.
        tokens: its ids, at least two.
        logprobs: float32 of its tokens from the second on.
    """

    text: str
    tokens: list[int]
    logprobs: np.ndarray


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an export comes from.

    Attributes:
        name: of the exported model, for those who serve it.
        run_id, checkpoint, step: whose weights.
        base_model: as the server calls it.
        base_folder: where that lies here.
        quantization: of the base model that the run was trained on.
    """

    name: str
    run_id: str
    checkpoint: str
    step: int
    base_model: str
    base_folder: Path
    quantization: Quantization = "none"


def export(
    checkpoint: Path,
    target: Path,
    origin: Origin,
    kind: Format,
    served: Sequence[Served],
    dtype: DType | None = None,
) -> dict[str, Any]:
    """Write the folder; what ``export.json`` says.

    Args:
        checkpoint: folder of the checkpoint, with its adapter.
        target: must not exist.
        origin: where it comes from.
        kind: which kind of folder.
        served: the server's numbers, to compare with.
        dtype: of a merged model; None keeps the base model's. Adapters are float32.

    Raises:
        AlreadyExistsError: the target exists; nothing was written.
        UserError: as in ``merge``.
    """
    with new_folder(target) as draft:
        model = draft / "model"
        if kind == "merged":
            merged = merge(
                checkpoint,
                origin.base_folder,
                model,
                quantization=origin.quantization,
                dtype=dtype,
            )
            written = merged.dtype
        else:
            _copy_adapter(checkpoint, model, origin)
            written = "float32"
        report = _report(model, target, origin, kind, served, written)
        write_json(model / REPORT, report)
        (model / "README.md").write_text(card(report), encoding="utf-8")
        for path in model.iterdir():
            path.rename(draft / path.name)
        model.rmdir()
    return report


def _copy_adapter(checkpoint: Path, target: Path, origin: Origin) -> None:
    """The adapter with a base model that PEFT and vLLM find: an id of the hub, or a folder."""
    target.mkdir()
    for name in _ADAPTER_FILES:
        shutil.copyfile(checkpoint / name, target / name)
    copy_tokenizer(origin.base_folder, target)
    # An adapter beside config.json looks like a whole model.
    for name in ("config.json", "generation_config.json"):
        (target / name).unlink(missing_ok=True)
    config = read_json(target / "adapter_config.json")
    config["base_model_name_or_path"] = base_reference(origin)
    write_json(target / "adapter_config.json", config)


def base_reference(origin: Origin) -> str:
    """The base model as programs other than ours can find it."""
    is_hub_id = origin.base_model.count("/") == 1 and not Path(origin.base_model).is_dir()
    return origin.base_model if is_hub_id else str(origin.base_folder)


def _report(
    folder: Path,
    target: Path,
    origin: Origin,
    kind: Format,
    served: Sequence[Served],
    dtype: str,
) -> dict[str, Any]:
    found = reloaded_logprobs(
        folder,
        origin.base_folder,
        [prompt.tokens for prompt in served],
        quantization=origin.quantization,
    )
    differences = [
        np.abs(logprobs - prompt.logprobs) for logprobs, prompt in zip(found, served, strict=True)
    ]
    every = np.concatenate(differences)
    prompts = [
        {"prompt": p.text, "num_tokens": len(p.tokens), "max_difference": float(d.max())}
        for p, d in zip(served, differences, strict=True)
    ]
    return {
        "format": kind,
        "dtype": dtype,
        "name": origin.name,
        "run_id": origin.run_id,
        "checkpoint": origin.checkpoint,
        "step": origin.step,
        "base_model": base_reference(origin),
        "quantization": origin.quantization,
        "logprobs": {
            "max_difference": float(every.max()),
            "mean_difference": float(every.mean()),
            "tolerance": TOLERANCES[dtype],
            "within_tolerance": bool(every.max() <= TOLERANCES[dtype]),
            "prompts": prompts,
        },
        "vllm": vllm_command(
            kind, origin.name, base_reference(origin), target, _rank(folder), dtype
        ),
    }


def _rank(folder: Path) -> int:
    config = folder / "adapter_config.json"
    return int(read_json(config)["r"]) if config.is_file() else 0
