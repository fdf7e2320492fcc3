"""Rejection-sampling SFT of ``nano`` in plain torch and peft: does selection pay, on every seed?

The same loop as ``eztinker demo`` without the service: sample candidates, keep the first correct one
of each problem, train a rank-1 adapter on it, measure. It is how the corpus and the recipe were
tuned. Run: ``python -m tools.nano.simulate_demo FOLDER --seeds 0 1 2``.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from torch.nn import functional

from eztinker.dataset.generated import GeneratedDataset, GeneratedMathDataset
from tools.nano.evaluate import MAX_NEW_TOKENS, correct, load
from tools.nano.generation import complete

IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """The demo's settings."""

    num_problems: int = 200
    num_candidates: int = 4
    num_rounds: int = 2
    temperature: float = 1.0
    learning_rate: float = 2e-3
    batch_size: int = 8
    lora_rank: int = 1
    lora_alpha: int = 2
    eval_size: int = 200


def simulate(folder: Path, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Run the loop once; accuracies are listed before the first and after each round."""
    started_s = time.monotonic()
    torch.manual_seed(seed)
    base, tokenizer = load(folder)
    model = get_peft_model(base, _adapter(recipe))
    train = GeneratedMathDataset("train", recipe.num_problems, seed)
    test = GeneratedMathDataset("test", recipe.eval_size, seed)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=recipe.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=0.0,
    )
    greedy, sampled = [_share(model, tokenizer, test, 0.0, seed)], []
    sampled.append(_share(model, tokenizer, test, 1.0, seed))
    num_trained = []
    for number in range(recipe.num_rounds):
        best = first_correct(model, tokenizer, train, recipe, 100 * seed + number)
        random.Random(100 * seed + number).shuffle(best)
        for start in range(0, len(best), recipe.batch_size):
            rows = best[start : start + recipe.batch_size]
            _train_step(model, tokenizer, optimizer, rows)
        num_trained.append(len(best))
        greedy.append(_share(model, tokenizer, test, 0.0, seed))
        sampled.append(_share(model, tokenizer, test, 1.0, seed))
    seconds = round(time.monotonic() - started_s, 1)
    return {
        "seed": seed,
        "greedy": greedy,
        "sampled": sampled,
        "num_trained": num_trained,
        "seconds": seconds,
    }


def _adapter(recipe: Recipe) -> LoraConfig:
    return LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
    )


def _share(
    model: Any, tokenizer: Tokenizer, rows: GeneratedDataset, temperature: float, seed: int
) -> float:
    return sum(correct(model, tokenizer, rows, temperature, seed)) / len(rows)


def first_correct(
    model: Any, tokenizer: Tokenizer, rows: GeneratedDataset, recipe: Recipe, seed: int
) -> list[tuple[str, str]]:
    """Prompt and first correct candidate of each problem that has one."""
    examples = [rows.get_example_question(index) for index in range(len(rows))]
    asked = [example for example in examples for _ in range(recipe.num_candidates)]
    texts = complete(
        model,
        tokenizer,
        [prompt for _, prompt, _ in asked],
        temperature=recipe.temperature,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=seed,
    )
    best: dict[str, str] = {}
    for text, (question, prompt, truth) in zip(texts, asked, strict=True):
        if prompt not in best and rows.evaluate_answer(text, truth, question)["is_correct"]:
            best[prompt] = text
    return list(best.items())


def _train_step(
    model: Any,
    tokenizer: Tokenizer,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[tuple[str, str]],
) -> None:
    encoded = [
        (tokenizer.encode(prompt).ids, tokenizer.encode(text + "<|endoftext|>").ids)
        for prompt, text in rows
    ]
    width = max(len(prompt) + len(answer) for prompt, answer in encoded)
    tokens_BT = torch.zeros((len(rows), width), dtype=torch.long)
    target_BT = torch.full((len(rows), width), IGNORED)
    for row, (prompt, answer) in enumerate(encoded):
        length = len(prompt) + len(answer)
        tokens_BT[row, :length] = torch.tensor(prompt + answer)
        target_BT[row, len(prompt) : length] = torch.tensor(answer)
    logits_BTV = model(input_ids=tokens_BT).logits
    functional.cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1), target_BT[:, 1:].flatten(), ignore_index=IGNORED
    ).backward()
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    """Print one line a seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    for name, default in vars(Recipe()).items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=type(default), default=default)
    arguments = vars(parser.parse_args())
    folder, seeds = arguments.pop("folder"), arguments.pop("seeds")
    for seed in seeds:
        print(simulate(folder, Recipe(**arguments), seed), flush=True)


if __name__ == "__main__":
    main()
