"""An adapter added to its base model: an ordinary folder that transformers loads, without PEFT.

W' = W + scaling·B·A, computed in float32 and rounded once to the type of W; ``Conv1D`` holds W transposed. An
adapter on a vocabulary head that shares its weight with the embedding parts the two, because the embedding must
stay as it is. Called by the commands ``merge`` and ``export``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eztinker.deploy.folders import new_folder
from eztinker.engine.worker.peft_folder import LoRAModule, read_peft_folder
from eztinker.engine.worker.quantization import put_dequantized
from eztinker.errors import InvalidRequestError
from eztinker.rendering.tokenizer_folder import TOKENIZER_FILES
from eztinker.types.training import Quantization

DType = Literal["float32", "bfloat16", "float16"]
_OTHER_TOKENIZER_FILES = ("tokenizer.model", "chat_template.json")
"""Of no use to us, but transformers may read them."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did.

    Attributes:
        folder: the new model.
        num_modules: layers that changed.
        dtype: type of the weights.
        rounding: largest difference between a merged weight and its value before rounding.
        dequantization: largest difference between a weight of the base model and the one the adapter was
            added to; 0 unless the quantised weights were asked for.
    """

    folder: Path
    num_modules: int
    dtype: str
    rounding: float
    dequantization: float


@torch.no_grad()
def merge(
    adapter: Path,
    base_model: Path,
    target: Path,
    *,
    quantization: Quantization = "none",
    dtype: DType | None = None,
) -> Merged:
    """Write the base model with the adapter added to it.

    Args:
        adapter: folder of a PEFT adapter.
        base_model: folder of the model it belongs to.
        target: must not exist.
        quantization: add to the weights as this quantisation leaves them, against which the adapter was
            trained; ``none`` adds to those of the folder.
        dtype: of the merged model; None keeps the base model's.

    Raises:
        AlreadyExistsError: the target exists.
        NotFoundError, UnsupportedError, InvalidRequestError: the folders are not what they should be, or the
            adapter belongs to another architecture; nothing was written.
    """
    with new_folder(target) as draft:
        loaded = read_peft_folder(adapter)
        model = load_model(base_model)
        head = model.get_output_embeddings()
        heads = {name: module.weight for name, module in model.named_modules() if module is head}
        loaded.check_base_weights(heads)
        wanted = model.dtype if dtype is None else getattr(torch, dtype)
        dequantization = 0.0
        if quantization == "none":
            model = model.to(wanted)
        else:
            # The engine dequantises in its compute type; in a narrower one the numbers would be others.
            model = model.float()
            dequantization = _dequantize(model, quantization)
        rounding = max(add_module(model, module, wanted) for module in loaded.modules)
        model.to(wanted).save_pretrained(draft)
        copy_tokenizer(base_model, draft)
    written = str(wanted).removeprefix("torch.")
    return Merged(target, len(loaded.modules), written, rounding, dequantization)


def load_model(folder: Path) -> Any:
    """A model of transformers as its files have it.

    Raises:
        InvalidRequestError: the files cannot be read.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype="auto",
        ).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidRequestError(
            f"The base model cannot be read from {folder}: {first_line}", field="base_model"
        ) from None


def add_module(model: Any, module: LoRAModule, dtype: torch.dtype) -> float:
    """Add one layer's adapter to its weight; the largest difference that rounding it to ``dtype`` makes.

    Raises:
        InvalidRequestError: code ``other_architecture``.
    """
    layer = _layer(model, module)
    if layer is model.get_output_embeddings():
        _part_from_embedding(model, layer)
    weight: Tensor = layer.weight.data
    update = module.update.T if _is_transposed(layer) else module.update
    if update.shape != weight.shape:
        raise _other_architecture(
            model, f"{module.name} is {list(weight.shape)} there and {list(update.shape)} here"
        )
    exact = weight.float() + update
    weight.copy_(exact)
    return float((exact.to(dtype).float() - exact).abs().max())


def _layer(model: Any, module: LoRAModule) -> Any:
    try:
        layer = model.get_submodule(module.name)
    except AttributeError:
        raise _other_architecture(model, f"it has no layer {module.name}") from None
    if not isinstance(getattr(layer, "weight", None), Tensor) or isinstance(layer, nn.Embedding):
        raise _other_architecture(model, f"{module.name} is no linear layer")
    return layer


def _other_architecture(model: Any, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"The adapter does not belong to this {type(model).__name__}: {why}. Name its own base model.",
        code="other_architecture",
        field="base_model",
    )


def _is_transposed(layer: nn.Module) -> bool:
    return type(layer).__name__ == "Conv1D"


def _part_from_embedding(model: Any, head: Any) -> None:
    if head.weight is model.get_input_embeddings().weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False
        model.config.get_text_config().tie_word_embeddings = False


def _dequantize(model: Any, quantization: Literal["nf4", "int8"]) -> float:
    """Replace the weights by what their quantised twins hold; the largest difference."""
    before = {name: weight.clone() for name, weight in _matrices(model)}
    put_dequantized(model, quantization)
    return max(
        float((weight.float() - before[name].float()).abs().max())
        for name, weight in _matrices(model)
    )


def _matrices(model: Any) -> Iterator[tuple[str, Tensor]]:
    return ((name, p.data) for name, p in model.named_parameters() if p.ndim == 2)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy what makes the tokenizer and the chat template."""
    for name in (*TOKENIZER_FILES, *_OTHER_TOKENIZER_FILES):
        if (source / name).is_file() and not (target / name).exists():
            shutil.copyfile(source / name, target / name)
