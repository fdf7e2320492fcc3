"""A byte-level BPE tokenizer of 420 tokens, trained on the spot, in the folder layouts that models have."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

TEXTS = [
    "Question: How many eggs does she sell? She sells 16 - 3 - 4 = 9 eggs.\n#### 18",
    "The quick brown fox jumps over the lazy dog; it isn't 3.14 or 1,000.\n\n",
    "小明有五个苹果，又买了三个。答案是八。你好，世界！",
    "user assistant system def f(x):\n    return x + 1\n",
] * 5
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking %}{{ '<think>\n' }}{% endif %}{% endif %}"
)
MESSAGES = [
    {"role": "user", "content": "How many eggs?"},
    {"role": "assistant", "content": "16 eggs 你好"},
    {"role": "user", "content": "And then?"},
]


def train_backend(special: list[str] | None = None) -> Tokenizer:
    """The bare BPE model with the special tokens behind its vocabulary."""
    backend = Tokenizer(BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.add_special_tokens(SPECIAL if special is None else special)
    return backend


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def write_tiny_tokenizer(folder: Path, chat_template: object = CHATML, **config: object) -> Path:
    """A folder with tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    train_backend().save(str(folder / "tokenizer.json"))
    entries: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
    }
    if chat_template is not None:
        entries["chat_template"] = chat_template
    write_json(folder / "tokenizer_config.json", entries | config)
    return folder


def write_vocab_and_merges(folder: Path, tokenizer_class: str | None) -> Path:
    """A folder with vocab.json and merges.txt, the special tokens named in the small files only."""
    folder.mkdir(parents=True, exist_ok=True)
    backend = train_backend(special=[])
    backend.model.save(str(folder))
    size = backend.get_vocab_size()
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    decoder = {
        str(size + i): {"content": t, "special": True, **plain} for i, t in enumerate(SPECIAL)
    }
    config: dict[str, object] = {
        "added_tokens_decoder": decoder,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "add_prefix_space": False,
    }
    if tokenizer_class:
        config["tokenizer_class"] = tokenizer_class
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "generation_config.json", {"eos_token_id": [size + 2, size]})
    return folder
