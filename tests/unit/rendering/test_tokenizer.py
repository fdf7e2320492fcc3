"""Tokenizer against transformers on the same folders, and what it says when a folder is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from eztinker.errors import InvalidRequestError, NotFoundError, UnsupportedError
from eztinker.rendering.tokenizer import Tokenizer
from tests.unit.rendering.tiny_tokenizer import (
    MESSAGES,
    train_backend,
    write_json,
    write_tiny_tokenizer,
    write_vocab_and_merges,
)

SHARED = Path(__file__).parents[4] / "shared"
REAL_FOLDERS = [
    SHARED / "data/tokenizers/qwen2",
    SHARED / "data/tokenizers/minimind",
    SHARED / "models/stories260K",
]
TEXTS = [
    "",
    "Hello world 你好",
    "  two  blanks\tand tabs\r\n\r\n \n x",
    "I'LL don't we're 1234567 3.14 ①½",
    "cafe\u0301 e\u0301 ﬁ",  # decomposed: NFC or not makes a difference
    "👨‍👩‍👧 🇨🇳 \u200b\u2028",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|><s></s>",
    "\x00\x01 def f(x):\n    return x ** 2  # 注释",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_tokenizer(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


def reference(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def assert_same(folder: Path, texts: list[str]) -> None:
    ours, theirs = Tokenizer.from_folder(folder), reference(folder)
    for text in texts:
        for special in (True, False):
            ids = ours.encode(text, add_special_tokens=special)
            assert ids == theirs.encode(text, add_special_tokens=special), text
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(
                ids, skip_special_tokens=skip
            )
    assert ours.vocab_size == len(theirs)
    assert ours.bos_token_id == theirs.bos_token_id
    assert ours.pad_token_id == theirs.pad_token_id
    assert theirs.eos_token_id in ours.eos_token_ids
    assert ours.has_chat_template == bool(theirs.chat_template)
    if ours.has_chat_template:
        for prompt in (True, False):
            expected = theirs.apply_chat_template(
                MESSAGES, tokenize=False, add_generation_prompt=prompt
            )
            assert ours.render_chat(MESSAGES, prompt) == expected
            expected_ids = theirs.apply_chat_template(MESSAGES, add_generation_prompt=prompt)
            assert ours.encode_chat(MESSAGES, prompt) == list(expected_ids["input_ids"])


def test_same_as_transformers_on_tokenizer_json(folder: Path) -> None:
    assert_same(folder, TEXTS)


@pytest.mark.parametrize(
    "tokenizer_class", ["Qwen2Tokenizer", "GPT2Tokenizer", "GPT2TokenizerFast"]
)
def test_same_as_transformers_on_vocab_and_merges(tmp_path: Path, tokenizer_class: str) -> None:
    assert_same(write_vocab_and_merges(tmp_path / "m", tokenizer_class), TEXTS)


def test_the_families_split_differently(tmp_path: Path) -> None:
    qwen2 = Tokenizer.from_folder(write_vocab_and_merges(tmp_path / "q", "Qwen2Tokenizer"))
    gpt2 = Tokenizer.from_folder(write_vocab_and_merges(tmp_path / "g", "GPT2Tokenizer"))
    assert len(qwen2.encode("16")) == 2  # single digits
    assert qwen2.encode("e\u0301") == qwen2.encode("\u00e9")  # NFC
    assert gpt2.encode("e\u0301") != gpt2.encode("\u00e9")


@pytest.mark.parametrize(
    "flags", [{"add_bos_token": True}, {"add_eos_token": True}, {"add_bos_token": False}]
)
def test_same_as_transformers_with_start_and_end_tokens(tmp_path: Path, flags: dict) -> None:
    folder = write_vocab_and_merges(tmp_path / "m", "GPT2Tokenizer")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", config | {"bos_token": "<|im_start|>"} | flags)
    assert_same(folder, TEXTS)
    assert len(Tokenizer.from_folder(folder).encode("x")) == 1 + any(flags.values())


def test_the_post_processor_of_tokenizer_json_holds(tmp_path: Path) -> None:
    write_tiny_tokenizer(tmp_path, bos_token="<|im_start|>", add_bos_token=True)
    assert_same(tmp_path, TEXTS)
    backend = train_backend()
    start = backend.token_to_id("<|im_start|>")
    backend.post_processor = processors.TemplateProcessing(
        single="<|im_start|>:0 $A:0", special_tokens=[("<|im_start|>", start)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    assert_same(tmp_path, TEXTS)
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.encode("x") == [start, *tokenizer.encode("x", add_special_tokens=False)]


def test_added_tokens_of_the_small_files(tmp_path: Path) -> None:
    write_tiny_tokenizer(tmp_path)
    size = Tokenizer.from_folder(tmp_path).vocab_size
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    token = {"content": "<think>", "special": False, "lstrip": False, "rstrip": False}
    config["added_tokens_decoder"] = {
        str(size): token | {"normalized": False, "single_word": False}
    }
    write_json(tmp_path / "tokenizer_config.json", config)
    assert_same(tmp_path, ["a <think>b</think>"])
    ours = Tokenizer.from_folder(tmp_path)
    assert size in ours.encode("a <think>b")
    assert ours.decode([size], skip_special_tokens=True) == "<think>"


@pytest.mark.shared
@pytest.mark.parametrize("path", REAL_FOLDERS, ids=lambda p: p.name)
def test_same_as_transformers_on_real_tokenizers(path: Path) -> None:
    if not path.is_dir():
        pytest.skip(f"{path.name}: the shared data are not beside this checkout")
    gsm8k = SHARED / "data/gsm8k/test.jsonl"
    lines = gsm8k.read_text(encoding="utf-8").splitlines()[:150]
    assert_same(path, [*TEXTS, *(json.loads(line)["question"] for line in lines)])


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_decoding_gives_the_text_back(text: str) -> None:
    import unicodedata

    ids = _shared_tiny().encode(text, add_special_tokens=False)
    back = _shared_tiny().decode(ids, skip_special_tokens=False)
    assert back == unicodedata.normalize("NFC", text)


_cache: list[Tokenizer] = []


def _shared_tiny() -> Tokenizer:
    if not _cache:
        import tempfile

        with tempfile.TemporaryDirectory() as name:
            _cache.append(Tokenizer.from_folder(write_tiny_tokenizer(Path(name))))
    return _cache[0]


def test_end_tokens_come_from_generation_config_and_tokenizer(tmp_path: Path) -> None:
    write_tiny_tokenizer(tmp_path)
    end, start, text_end = (Tokenizer.from_folder(tmp_path).encode(t)[0] for t in ("<|im_end|>", "<|im_start|>", "<|endoftext|>"))  # fmt: skip
    assert Tokenizer.from_folder(tmp_path).eos_token_ids == (end,)
    write_json(tmp_path / "generation_config.json", {"eos_token_id": [text_end, end]})
    assert Tokenizer.from_folder(tmp_path).eos_token_ids == (text_end, end)
    write_json(tmp_path / "generation_config.json", {"eos_token_id": start})
    assert Tokenizer.from_folder(tmp_path).eos_token_ids == (start, end)


def test_model_config_is_asked_last(tmp_path: Path) -> None:
    train_backend().save(str(tmp_path / "tokenizer.json"))
    write_json(tmp_path / "config.json", {"eos_token_id": 5, "bos_token_id": 6, "pad_token_id": 7})
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert (tokenizer.eos_token_ids, tokenizer.bos_token_id, tokenizer.pad_token_id) == ((5,), 6, 7)
    write_json(tmp_path / "tokenizer_config.json", {"bos_token": None, "eos_token": "<|im_end|>"})
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.bos_token_id is None  # an explicit null is an answer
    assert tokenizer.eos_token_ids == tuple(tokenizer.encode("<|im_end|>"))


def test_the_template_file_outranks_the_config_entry(tmp_path: Path) -> None:
    write_tiny_tokenizer(tmp_path, chat_template="from config")
    assert Tokenizer.from_folder(tmp_path).render_chat(MESSAGES) == "from config"
    (tmp_path / "chat_template.jinja").write_text("from file")
    assert Tokenizer.from_folder(tmp_path).render_chat(MESSAGES) == "from file"


def test_named_templates(tmp_path: Path) -> None:
    templates = [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "{{ tools | length }} tools"},
    ]
    write_tiny_tokenizer(tmp_path, chat_template=templates)
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.render_chat(MESSAGES) == "plain"
    assert tokenizer.render_chat(MESSAGES, tools=[{"name": "f"}]) == "1 tools"


def test_without_a_template_the_refusal_says_so(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(write_tiny_tokenizer(tmp_path, chat_template=None))
    assert not tokenizer.has_chat_template
    with pytest.raises(UnsupportedError, match="no chat template") as caught:
        tokenizer.encode_chat(MESSAGES)
    assert caught.value.code == "no_chat_template"


def test_files_make_the_same_tokenizer_elsewhere(tmp_path: Path) -> None:
    source = write_vocab_and_merges(tmp_path / "a", "Qwen2Tokenizer")
    (source / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "b").mkdir()
    original = Tokenizer.from_folder(source)
    for path in original.files():
        shutil.copy(path, tmp_path / "b")
    assert not (tmp_path / "b" / "model.safetensors").exists()
    copy = Tokenizer.from_folder(tmp_path / "b")
    assert copy.encode(TEXTS[1]) == original.encode(TEXTS[1])
    assert copy.eos_token_ids == original.eos_token_ids


@pytest.mark.parametrize("text", ["\ud800", b"bytes", None, 3])
def test_text_that_cannot_be_encoded(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        tokenizer.encode(text)
    assert caught.value.field == "text"


def test_ids_beyond_the_vocabulary_have_no_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("eggs")
    assert tokenizer.decode([*ids, tokenizer.vocab_size + 3]) == "eggs"
    for wrong in ([-1], [2**40], ["a"]):
        with pytest.raises(InvalidRequestError, match="ids"):
            tokenizer.decode(wrong)  # type: ignore[arg-type]


def test_folders_that_are_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="No tokenizer folder"):
        Tokenizer.from_folder(tmp_path / "absent")
    with pytest.raises(NotFoundError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"sentencepiece")
    with pytest.raises(UnsupportedError, match="save_pretrained"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("tokenizer_class", [None, "RobertaTokenizer"])
def test_vocab_and_merges_of_an_unknown_family_are_not_guessed(
    tmp_path: Path, tokenizer_class: str | None
) -> None:
    folder = write_vocab_and_merges(tmp_path / "m", tokenizer_class)
    with pytest.raises(UnsupportedError, match="tokenizer_class"):
        Tokenizer.from_folder(folder)


def test_files_that_contradict_each_other(tmp_path: Path) -> None:
    folder = write_vocab_and_merges(tmp_path / "m", "Qwen2Tokenizer")
    write_json(folder / "added_tokens.json", {"<think>": 9999})
    with pytest.raises(InvalidRequestError, match="9999"):
        Tokenizer.from_folder(folder)
    write_json(folder / "tokenizer_config.json", [])
    with pytest.raises(InvalidRequestError, match="JSON object"):
        Tokenizer.from_folder(folder)


def test_the_server_does_not_pay_for_torch(folder: Path) -> None:
    code = (
        f"from eztinker.rendering.tokenizer import Tokenizer; Tokenizer.from_folder({str(folder)!r}); "
        "import sys; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_thinking_switch_reaches_the_template(tokenizer: Tokenizer) -> None:
    assert tokenizer.render_chat(MESSAGES, enable_thinking=True).endswith("assistant\n<think>\n")
