"""Write what transformers says to the probe texts of the built-in model into the package.

``python -m tools.nano.known_logits``: one small file for each quantization on a CPU, so that a worker loads
the model without an import of transformers. Called by ``tools/nano/build.py`` too.
"""

from __future__ import annotations

from pathlib import Path

import torch

from eztinker.engine.worker.base_model import load_base_model
from eztinker.engine.worker.known_logits import PACKAGED
from eztinker.service.base_models import NANO_FOLDER
from eztinker.types.training import Quantization

QUANTIZATIONS: tuple[Quantization, ...] = ("none", "nf4", "int8")


def keep_known_logits(folder: Path) -> None:
    """Replace the packaged numbers by those of the model in ``folder``."""
    for path in PACKAGED.glob("*.npy"):
        path.unlink()
    for quantization in QUANTIZATIONS:
        load_base_model(
            folder.name,
            folder,
            quantization=quantization,
            device=torch.device("cpu"),
            dtype="auto",
            known_logits=PACKAGED,
        )


if __name__ == "__main__":
    keep_known_logits(NANO_FOLDER)
