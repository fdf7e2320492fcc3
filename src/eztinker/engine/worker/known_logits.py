"""What transformers once said to a few texts, so that later loads of a base model need not ask it again.

A model that our own decoder runs is compared with transformers when it is loaded. The numbers are kept in
small files, one for each model, type and quantization; a server writes them below its state, and those of
the built-in model come with the package. A file that is missing or unreadable costs an import of
transformers, nothing else. Knows no decoder. Called by ``base_model.py`` and ``tools/nano``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.base_identity import fingerprint

NUM_COLUMNS = 64
"""Of the vocabulary, spread over it: a mistake shows in all of them."""
PACKAGED = Path(__file__).parents[2] / "assets" / "known_logits"


@dataclass(frozen=True, slots=True)
class KnownLogits:
    """The place of one model's numbers.

    Attributes:
        name: of the file: what the numbers depend on.
        written, packaged: folders; nothing is written where the first is None.
    """

    name: str
    written: Path | None
    packaged: Path = PACKAGED

    @classmethod
    def of(cls, folder: Path, *conditions: str, written: Path | None) -> KnownLogits:
        """Those of the model in ``folder`` under ``conditions`` (type, quantization, kind of device).

        Raises:
            OSError: a file of the model cannot be read.
        """
        text = "\n".join((fingerprint(folder), *conditions))
        return cls(hashlib.sha256(text.encode()).hexdigest()[:32] + ".npy", written)

    def read(self) -> Tensor | None:
        """Logits [T, columns] of all texts; None if nobody has kept them."""
        for folder in (self.packaged, self.written):
            if folder is None:
                continue
            try:
                found = np.load(folder / self.name, allow_pickle=False)
            except (OSError, ValueError, EOFError):
                continue
            if found.ndim == 2 and found.dtype == np.float32 and np.isfinite(found).all():
                return torch.from_numpy(found)
        return None

    def keep(self, logits: Sequence[Tensor]) -> None:
        """Write the numbers of logits [T, V], one of each text."""
        if self.written is None:
            return
        whole_TV = torch.cat(list(logits)).float().cpu()
        self.written.mkdir(parents=True, exist_ok=True)
        temporary = self.written / f".{os.getpid()}.{self.name}"
        np.save(temporary, whole_TV[:, columns(whole_TV.shape[1])].numpy())
        temporary.replace(self.written / self.name)


def columns(vocab_size: int) -> Tensor:
    """The kept ids, int64, ascending."""
    return torch.linspace(0, vocab_size - 1, min(NUM_COLUMNS, vocab_size)).long()
