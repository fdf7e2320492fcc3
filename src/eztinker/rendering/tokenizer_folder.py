"""The tokenizer files of a model folder: which there are, what they say, and the backend they make.

Reads a ``tokenizer.json``, or the ``vocab.json`` + ``merges.txt`` pair of GPT-2 and Qwen2, together with the
small JSON files beside them. It renders no chat and decides no ids of sequences: ``Tokenizer.from_folder``
is its only caller.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from eztinker.errors import InvalidRequestError, NotFoundError, UnsupportedError

# Everything that from_folder reads, in the order in which files() lists it.
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "config.json",
)
_SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")  # fmt: skip
_EXTRA_NAMES = ("additional_special_tokens", "extra_special_tokens")

# How Qwen2 splits text before byte-pair merging: contractions, letter runs with one leading sign, single
# digits, sign runs, line ends, blanks. A fact of the model family, needed to get the same ids.
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_FAMILY_OF_CLASS = {"Qwen2Tokenizer": "qwen2", "GPT2Tokenizer": "gpt2"}
_FAMILY_OF_MODEL_TYPE = {"qwen2": "qwen2", "qwen3": "qwen2", "gpt2": "gpt2"}


@dataclass(frozen=True)
class TokenizerFolder:
    """What the files of one folder say.

    Attributes:
        path: the folder.
        backend: the byte-pair (or other) model with its added tokens and post-processor.
        special_tokens: ``bos_token``, ``eos_token``, … -> text; a name is absent when the model has none.
        config: tokenizer_config.json with special_tokens_map.json underneath.
        generation_config: generation_config.json, or empty.
        model_config: config.json, or empty.
        chat_templates: name -> Jinja source; ``default`` is the usual one.
    """

    path: Path
    backend: Backend
    special_tokens: dict[str, str]
    config: dict[str, Any]
    generation_config: dict[str, Any]
    model_config: dict[str, Any]
    chat_templates: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> TokenizerFolder:
        """Read a folder; errors as in ``Tokenizer.from_folder``."""
        config = read_json(path / "special_tokens_map.json") | read_json(
            path / "tokenizer_config.json"
        )
        model_config = read_json(path / "config.json")
        backend = _read_backend(path, config, model_config)
        special_tokens = {
            name: text for name in _SPECIAL_NAMES if (text := _token_text(config.get(name)))
        }
        _add_tokens(backend, path, config)
        if not (path / "tokenizer.json").is_file():  # which has its own post-processor
            _set_post_processor(backend, config, special_tokens)
        backend.no_truncation()
        backend.no_padding()
        return cls(
            path=path,
            backend=backend,
            special_tokens=special_tokens,
            config=config,
            generation_config=read_json(path / "generation_config.json"),
            model_config=model_config,
            chat_templates=_read_chat_templates(path, config),
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when the file is not there."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{path} must hold a JSON object, got {type(value).__name__}.")
    return value


def _read_backend(
    path: Path, config: Mapping[str, Any], model_config: Mapping[str, Any]
) -> Backend:
    if (path / "tokenizer.json").is_file():
        try:
            return Backend.from_file(str(path / "tokenizer.json"))
        except Exception as error:  # the Rust library raises plain Exception
            raise InvalidRequestError(
                f"{path / 'tokenizer.json'} cannot be read: {error}."
            ) from error
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return _byte_level_bpe(path, config, _family(path, config, model_config))
    raise _no_tokenizer(path)


def _no_tokenizer(path: Path) -> NotFoundError | UnsupportedError:
    present = [name for name in _SENTENCEPIECE_FILES if (path / name).is_file()]
    if present:
        return UnsupportedError(
            f"{path} has only a SentencePiece vocabulary ({present[0]}), which is not read here. Convert it "
            "once, where transformers and sentencepiece are installed: "
            'python -c "from transformers import AutoTokenizer as T; '
            "T.from_pretrained('FOLDER').save_pretrained('FOLDER')\" writes the tokenizer.json that is needed."
        )
    return NotFoundError(
        f"No tokenizer in {path}: expected tokenizer.json, or vocab.json with merges.txt. "
        "Copy the tokenizer files of the model into the folder.",
        code="tokenizer_not_found",
    )


def _family(path: Path, config: Mapping[str, Any], model_config: Mapping[str, Any]) -> str:
    tokenizer_class = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    model_type = str(model_config.get("model_type") or "")
    family = _FAMILY_OF_CLASS.get(tokenizer_class)
    if not tokenizer_class:
        family = _FAMILY_OF_MODEL_TYPE.get(model_type)
    if family is None:
        raise UnsupportedError(
            f"{path} has vocab.json and merges.txt but no tokenizer.json, and the way to split text is known "
            f"here only for {', '.join(_FAMILY_OF_CLASS)}; the folder says tokenizer_class "
            f"{tokenizer_class or 'nothing'!r}, model_type {model_type or 'nothing'!r}. Add the tokenizer.json of "
            "the model, or name the right tokenizer_class in tokenizer_config.json."
        )
    return family


def _byte_level_bpe(path: Path, config: Mapping[str, Any], family: str) -> Backend:
    try:
        backend = Backend(BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt")))
    except Exception as error:  # the Rust library raises plain Exception
        raise InvalidRequestError(
            f"vocab.json and merges.txt in {path} cannot be read: {error}."
        ) from error
    add_prefix_space = bool(config.get("add_prefix_space"))
    if family == "qwen2":
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_QWEN2_SPLIT), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=False),
            ]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend


def _add_tokens(backend: Backend, path: Path, config: Mapping[str, Any]) -> None:
    """Add tokens that the JSON files name and the backend lacks, lowest id first, and hold them to their ids."""
    present = {token.content for token in backend.get_added_tokens_decoder().values()}
    numbered = {
        int(i): _added_token(t) for i, t in (config.get("added_tokens_decoder") or {}).items()
    }
    named = read_json(path / "added_tokens.json")
    known = {token.content for token in numbered.values()}
    numbered |= {i: _added_token(text) for text, i in named.items() if text not in known}
    for token_id, token in sorted(numbered.items()):
        if token.content not in present:
            backend.add_tokens([token])
        got = backend.token_to_id(token.content)
        if got != token_id:
            raise InvalidRequestError(
                f"The tokenizer files in {path} disagree: token {token.content!r} should have id {token_id}, "
                f"the vocabulary gives {got}. Copy the tokenizer files of the model again."
            )
    present |= {token.content for token in numbered.values()}
    backend.add_special_tokens(
        [t for t in _special_tokens(config) if t.content not in present or not t.special]
    )


def _special_tokens(config: Mapping[str, Any]) -> Iterator[AddedToken]:
    values = [config.get(name) for name in _SPECIAL_NAMES]
    for name in _EXTRA_NAMES:
        extra = config.get(name) or []
        values.extend(extra.values() if isinstance(extra, Mapping) else extra)
    for value in values:
        if _token_text(value):
            yield _added_token(value, special=True)


def _added_token(value: Any, special: bool = True) -> AddedToken:
    if isinstance(value, str):
        return AddedToken(value, special=special, normalized=False)
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    chosen = {flag: bool(value.get(flag, False)) for flag in flags}
    return AddedToken(value["content"], special=bool(value.get("special", special)), **chosen)


def _token_text(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) and text else None


def _set_post_processor(
    backend: Backend, config: Mapping[str, Any], special_tokens: Mapping[str, str]
) -> None:
    """Start and end token as ``add_bos_token`` and ``add_eos_token`` ask for them."""
    bos = special_tokens.get("bos_token") if config.get("add_bos_token") else None
    eos = special_tokens.get("eos_token") if config.get("add_eos_token") else None
    single = " ".join(part for part in (bos and f"{bos}:0", "$A:0", eos and f"{eos}:0") if part)
    backend.post_processor = processors.TemplateProcessing(
        single=single,
        pair=f"{single} $B:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in (bos, eos) if token],
    )


def _read_chat_templates(path: Path, config: Mapping[str, Any]) -> dict[str, str]:
    file = path / "chat_template.jinja"
    if file.is_file():
        return {"default": file.read_text(encoding="utf-8")}
    template = config.get("chat_template")
    if isinstance(template, str):
        return {"default": template}
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}
    return {}
