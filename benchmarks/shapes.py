"""The two models of the benchmarks, random weights: S is small enough that overhead shows, L is a real size.

Written to a folder with config, weights and a tokenizer, as a user's model would be. Knows nothing of
what is measured. Called by the benchmarks beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

Shape = Literal["S", "L"]

_CONFIGS: dict[Shape, dict[str, Any]] = {
    "S": {
        "vocab_size": 2048,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    },
    "L": {  # Qwen2-0.5B
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
    },
}


def config(shape: Shape, **changes: Any) -> Qwen2Config:
    """The configuration of a shape; tied embeddings, no end token.

    Args:
        shape: S or L.
        changes: fields that differ, for example ``vocab_size``.
    """
    fields = {"tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": None}
    return Qwen2Config(**fields, **{**_CONFIGS[shape], **changes})


def write(folder: Path, shape: Shape, dtype: torch.dtype, **changes: Any) -> Path:
    """Write a random model of a shape into a folder; the folder.

    Args:
        folder: made if it does not exist.
        shape: S or L.
        dtype: of the stored weights.
        changes: as in ``config``.
    """
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = Qwen2ForCausalLM(config(shape, **changes))
    finally:
        torch.set_default_dtype(default)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of bytes only into a folder; ids beyond them have no text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
