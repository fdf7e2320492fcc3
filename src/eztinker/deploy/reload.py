"""A folder that left the house, read again by transformers and PEFT alone: what does it make of some prompts?

The numbers come from none of our own code, so that they can be compared with the server's. Called by
``export.py``.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from eztinker.deploy.folders import kind_of_folder
from eztinker.deploy.merge import load_model
from eztinker.engine.worker.quantization import put_dequantized
from eztinker.engine.worker.state import ADAPTER_WEIGHTS
from eztinker.errors import UnsupportedError
from eztinker.types.training import Quantization


@torch.no_grad()
def reloaded_logprobs(
    folder: Path,
    base_model: Path,
    prompts: Sequence[Sequence[int]],
    *,
    quantization: Quantization = "none",
) -> list[np.ndarray]:
    """Log-probabilities of each prompt's tokens from the second on, in float32.

    Args:
        folder: a PEFT adapter, or a whole model.
        base_model: the adapter's.
        prompts: token ids.
        quantization: of the base model that an adapter was trained on.

    Returns:
        float32 [T - 1] for each prompt.

    Raises:
        UnsupportedError: PEFT cannot read the adapter, or reads it onto other layers.
    """
    model = _read(folder, base_model, quantization)
    return [_of_prompt(model, prompt) for prompt in prompts]


def _read(folder: Path, base_model: Path, quantization: Quantization) -> Any:
    if kind_of_folder(folder) == "model":
        return load_model(folder).float()
    # PEFT loads bitsandbytes where it is installed, which says that it has no kernels from a hub.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from peft import PeftModel

    model = load_model(base_model).float()
    if quantization != "none":
        put_dequantized(model, quantization)
    with warnings.catch_warnings():
        # What PEFT has to say of the version of transformers is nothing that its user can mend.
        warnings.simplefilter("ignore")
        try:
            adapted = PeftModel.from_pretrained(model, folder).eval()
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise _unreadable(model, f"it says: {reason}") from error
    _check_read_as_written(adapted, folder)
    return adapted


def _check_read_as_written(adapted: Any, folder: Path) -> None:
    """PEFT takes names of layers for those of older models in some families, and then adapts other layers."""
    written = load_file(folder / ADAPTER_WEIGHTS)
    read = {
        name.replace(".default.", "."): parameter
        for name, parameter in adapted.named_parameters()
        if ".lora_" in name
    }
    for key in sorted(written.keys() | read.keys()):
        if not (key in written and key in read and torch.equal(written[key], read[key])):
            raise _unreadable(adapted.get_base_model(), f"it reads {key!r} otherwise than written")


def _unreadable(model: Any, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"PEFT {version('peft')} does not read this adapter of {type(model).__name__} as it stands in its file: "
        f"{reason}. Export a whole model instead (--format merged).",
        field="format",
    )


def _of_prompt(model: Any, prompt: Sequence[int]) -> np.ndarray:
    tokens_1T = torch.tensor([list(prompt)])
    logprobs_TV = model(tokens_1T).logits[0, :-1].float().log_softmax(-1)
    return logprobs_TV.gather(1, tokens_1T[0, 1:, None])[:, 0].numpy()
