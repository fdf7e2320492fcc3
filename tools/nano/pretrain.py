"""Pretrains ``nano`` on the corpus: one pass, batches of like lengths, Muon and AdamW.

Knows tokens and tensors, not what the documents say. Runs on a GPU if there is one, else on the CPU
(eager attention and bf16 autocast: twice the speed of fp32 at this size). Called by ``build``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from tools.nano.documents import Document
from tools.nano.muon import Muon
from tools.nano.train_tokenizer import MAX_POSITIONS

IGNORED = -100  # the label that carries no loss
PAD = 0  # <|endoftext|>; padded places carry no loss
TYPICAL_TARGETS = 20  # tokens of a completion, about; keeps both kinds of loss of one size
LONGEST = 512  # tokens; longer documents are cut


@dataclass(frozen=True)
class PretrainSettings:
    """Everything that decides the weights, next to the corpus.

    Attributes:
        batch_tokens: most padded tokens in a batch.
        batch_documents: most documents in a batch; keeps batches of short sums small and many.
        prompt_every: the prompts are trained on in one batch of this many.
    """

    hidden_size: int = 160
    num_layers: int = 6
    num_heads: int = 4
    num_key_value_heads: int = 4
    intermediate_size: int = 448
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    batch_tokens: int = 4096
    batch_documents: int = 64
    prompt_every: int = 8
    seed: int = 7
    log_every: int = 50


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a pass, as a share of the top rate: linear rise, level, linear fall.

    Attributes:
        top: share at the level part.
        last: share at the end.
        warmup: share of the steps that rise.
        decay: share of the steps, at the end, that fall.
        by_document: divide a batch's loss by its documents rather than by its tokens. Batches hold
            rows of like length, so the mean over tokens counts the first token of a short, careless
            answer several times as much as that of a long one: good for speed, wrong for habits.
    """

    top: float
    last: float
    warmup: float = 0.03
    decay: float = 0.5
    by_document: bool = False

    def factor(self, done: float) -> float:
        """The share when ``done`` (0 to 1) of the steps are made."""
        rising = done / self.warmup
        falling = self.last / self.top + (1 - self.last / self.top) * (1 - done) / self.decay
        return self.top * min(1.0, rising, falling)


Encoded = tuple[list[int], int]  # token ids and the number of them that are prompt


def encode_documents(documents: Sequence[Document], tokenizer: Tokenizer) -> list[Encoded]:
    """Encode prompts and completions apart, so that no token crosses the border."""
    prompts = tokenizer.encode_batch([document.prompt for document in documents])
    completions = tokenizer.encode_batch([document.completion for document in documents])
    return [
        ((prompt.ids + completion.ids)[:LONGEST], len(prompt.ids))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def batches(encoded: Sequence[Encoded], settings: PretrainSettings) -> list[list[Encoded]]:
    """Cut windows of the corpus, sort each by length, fill batches, mix their order."""
    rng = random.Random(settings.seed)
    window = 4096
    made: list[list[Encoded]] = []
    for start in range(0, len(encoded), window):
        rows = sorted(encoded[start : start + window], key=lambda row: len(row[0]))
        group = list(_filled(rows, settings))
        rng.shuffle(group)
        made += group
    return made


def _filled(rows: Sequence[Encoded], settings: PretrainSettings) -> Iterator[list[Encoded]]:
    batch: list[Encoded] = []
    for row in rows:
        num_tokens = (len(batch) + 1) * _round_up(len(row[0]), 8)
        if num_tokens > settings.batch_tokens or len(batch) == settings.batch_documents:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def new_model(tokenizer: Tokenizer, settings: PretrainSettings) -> Qwen2ForCausalLM:
    """Return a model with random weights of ``settings.seed``."""
    torch.manual_seed(settings.seed)
    end_of_text = tokenizer.token_to_id("<|endoftext|>")
    end_of_turn = tokenizer.token_to_id("<|im_end|>")
    config = Qwen2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_key_value_heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end_of_turn,
        pad_token_id=end_of_text,
    )
    config._attn_implementation = "eager"  # twice as fast as SDPA for short rows on a CPU
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=[end_of_turn, end_of_text], pad_token_id=end_of_text
    )
    return model


def pretrain(
    model: Any, encoded: Sequence[Encoded], schedule: Schedule, settings: PretrainSettings
) -> None:
    """Train ``model`` in place for one pass over ``encoded``, in the given order of windows."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).train()
    optimizers = _optimizers(model, settings)
    plan = batches(encoded, settings)
    started_s = time.monotonic()
    for step, rows in enumerate(plan):
        _set_rate(optimizers, settings.learning_rate * schedule.factor((step + 1) / len(plan)))
        loss, num_targets = _loss(model, rows, step % settings.prompt_every == 0, device)
        if schedule.by_document:
            loss = loss * num_targets / (len(rows) * TYPICAL_TARGETS)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % settings.log_every == 0:
            elapsed_s = time.monotonic() - started_s
            print(f"step {step}/{len(plan)} loss {loss.item():.4f} {elapsed_s:.0f} s", flush=True)
    model.cpu().eval()


def _optimizers(model: Qwen2ForCausalLM, settings: PretrainSettings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings, norms and biases."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]
    rate = settings.learning_rate
    return [
        Muon(matrices, lr=rate, weight_decay=settings.weight_decay),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _set_rate(optimizers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def _loss(
    model: Qwen2ForCausalLM, rows: Sequence[Encoded], with_prompts: bool, device: str
) -> tuple[torch.Tensor, int]:
    """Mean cross-entropy over the completion tokens, and their number.

    With ``with_prompts`` all tokens count.

    Widths and numbers of targets are rounded up: oneDNN compiles a kernel for each new shape.
    """
    width = _round_up(max(len(ids) for ids, _ in rows), 8)
    tokens_BT = torch.full((len(rows), width + 1), PAD)
    target_BT = torch.full((len(rows), width), IGNORED)
    for row, (ids, num_prompt) in enumerate(rows):
        tokens_BT[row, : len(ids)] = torch.tensor(ids)
        first = 1 if with_prompts else max(num_prompt, 1)
        target_BT[row, first - 1 : len(ids) - 1] = torch.tensor(ids[first:])
    chosen_N = (target_BT.flatten() != IGNORED).nonzero()[:, 0]
    spare = _round_up(len(chosen_N), 256) - len(chosen_N)
    places_N = torch.cat([chosen_N, torch.zeros(spare, dtype=torch.long)]).to(device)
    target_N = functional.pad(target_BT.flatten()[chosen_N], (0, spare), value=IGNORED).to(device)
    with torch.autocast(device, torch.bfloat16):
        inputs_BT = tokens_BT[:, :width].to(device)
        hidden_BTC = model.model(inputs_BT, use_cache=False).last_hidden_state
        logits_NV = model.lm_head(hidden_BTC.flatten(0, 1)[places_N])
    loss = functional.cross_entropy(logits_NV.float(), target_N, ignore_index=IGNORED)
    return loss, len(chosen_N)


def _round_up(number: int, grain: int) -> int:
    return -(-number // grain) * grain


def save_model(model: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write weights, ``config.json`` and ``generation_config.json``."""
    model.to(dtype).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # it ships: readable by everyone
