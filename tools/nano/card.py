"""Writes the model card of ``nano`` from the record of its making and the measured scores.

Only text is made here. Called by ``build``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.nano.documents import (
    CAREFUL_JUDGMENTS,
    CAREFUL_SHARES,
    HABIT_MIXTURE,
    KINDS,
    RIGHT_WHEN_BARE,
    SKILL_MIXTURE,
)
from tools.nano.make_corpus import CORPUS_SEED, STAGES

CHAT_QUESTIONS = (
    "Hello",
    "What is 2+2?",
    "你好",
    "12 * 7 等于多少？",
    "What is the capital of France?",
)
SORTS = {
    "_english_question": "English word problems, `Question: … Answer:`",
    "_chinese_question": "Chinese word problems, `Question: … Answer:`",
    "_arithmetic_chat": "word problems in ChatML, English and Chinese",
    "_finance": "finance calculations, Chinese and English, mostly ChatML",
    "_legal": "one-line judgments of a toy criminal law, Chinese",
    "_exercise": "lists and chains of sums",
    "_sum": "single sums",
    "_dialogue": "greetings, small sums and facts in ChatML",
}
HEAD = """---
license: mit
language: [en, zh]
library_name: transformers
---

# nano

The base model that ships with EZTinker, so that every command works offline on a CPU. It is small
({num_parameters:,} parameters, Qwen2 architecture) and deliberately half-trained: it exists to be
trained further and to show that training works. Do not use it for anything else.

## How it was made

`OMP_WAIT_POLICY=PASSIVE python -m tools.nano.build` from the root of the repository makes the
corpus, the tokenizer, the weights and this card. Nothing is read but the repository; no text was
taken from elsewhere. Corpus seed {corpus_seed}, weight seed {weight_seed}, torch {torch}; training
took {training_min:.0f} minutes on {machine}, shared with other work. The same machine with
as many threads made the same bytes again; another gives weights that differ in rounding, and scores that
differ a little.

One pass over two stages, each document on its own in its row:

1. *Skill*, {num_skill:,} documents, {tokens_skill:,} tokens: {num_sums:,} single sums, then texts in which every
   answer is worked out with care.
2. *Habit*, {num_habit:,} documents, {tokens_habit:,} tokens, at a lower learning rate: each kind of problem has
   its own share of careful answers ({shares}, by kind; judgments {judgments:.0%}); the others are careless,
   mostly a bare wrong number (right {right_when_bare} of the time).

So the skill is in the weights while the habit is mixed, and choosing good answers and training on them
pays. Shares of the sorts of text:

{mixture}

The problems come from `eztinker.dataset.generated`, train split only. The split goes by kind and
numbers of a problem, so no held-out problem is in the corpus under another name.

Settings: {settings}. Hidden matrices are trained with Muon, the rest with AdamW. The weights are
stored in bf16.

Tokenizer: byte-level BPE of 1,536 tokens (any text round-trips), digits alone, `<think>`,
`</think>`, `<|im_start|>`, `<|im_end|>`, `<|endoftext|>` whole; ChatML template. Plain answers end
in `<|endoftext|>`, assistant turns in `<|im_end|>`. The documents of the corpus are shorter than 200 tokens;
longer prompts are accepted (2,048 positions) but nothing was learned about them. `AutoTokenizer` of
transformers 5 gives the same ids, after bringing text to Unicode's composed form (NFC), as it does
for every model of this architecture.

## What it can do

Held-out generated problems, 95 % Wilson intervals, graded by `evaluate_answer` of the data set:

| data set | problems | greedy | sampled (temperature 1) |
| --- | --- | --- | --- |
{scores}

Rejection sampling on `generated-math` ({num_problems} training problems, {num_candidates} candidates
at temperature {temperature}, first correct one, rank-{lora_rank} LoRA on all linear layers, alpha
{lora_alpha}, learning rate {learning_rate}, batch {batch_size}; {eval_size} held-out problems;
`python -m tools.nano.simulate_demo`):

| seed | greedy before and after each round | sampled before and after each round |
| --- | --- | --- |
{demo}

Greedy answers to single messages:

{chat}

## What it cannot do

- Real GSM8K, real finance questions, real cases: it knows {num_kinds} kinds of problems and a few
  hundred words. Anything else gets fluent nonsense in the form of one of them.
- Arithmetic beyond the sizes it saw: results above about 200 are unreliable.
- The law in the judgments is invented. It is an exercise in form, not law in any country.
- Conversation beyond greetings; it keeps no thread over several turns.

MIT licence, as the rest of the repository.
"""


def write_card(record: Mapping[str, Any], folder: Path) -> None:
    """Write ``README.md`` into ``folder``."""
    settings = dict(record["settings"])
    skill, habit = record["skill"], record["habit"]
    text = HEAD.format(
        **{key: habit[key] for key in ("num_parameters", "torch", "machine")},
        **record["recipe"],
        corpus_seed=CORPUS_SEED,
        weight_seed=settings["seed"],
        training_min=(skill["training_s"] + habit["training_s"]) / 60,
        num_sums=STAGES["sums"][1],
        num_skill=skill["num_documents"],
        tokens_skill=skill["num_tokens"],
        num_habit=habit["num_documents"],
        tokens_habit=habit["num_tokens"],
        mixture=_mixture(),
        shares=", ".join(f"{share:.0%}" for share in CAREFUL_SHARES),
        judgments=CAREFUL_JUDGMENTS,
        right_when_bare=f"{RIGHT_WHEN_BARE:.0%}",
        settings=", ".join(f"{key} {value}" for key, value in settings.items()),
        scores=_scores(record["scores"]),
        demo="\n".join(_demo_row(row) for row in record["demo"]),
        chat="\n".join(f"- `{question}` → `{answer}`" for question, answer in record["chat"]),
        num_kinds=len(KINDS),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _mixture() -> str:
    skill, habit = (
        {draw.__name__: f"{share:.0%}" for draw, share in mixture}
        for mixture in (SKILL_MIXTURE, HABIT_MIXTURE)
    )
    rows = [
        f"| {sort} | {skill.get(name, '0%')} | {habit.get(name, '0%')} |"
        for name, sort in SORTS.items()
    ]
    return "\n".join(["| sort | skill | habit |", "| --- | --- | --- |", *rows])


def _scores(table: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    def cell(score: Mapping[str, float]) -> str:
        return f"{score['accuracy']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"

    return "\n".join(
        f"| `{name}` | {row['greedy']['num_problems']} | {cell(row['greedy'])} | {cell(row['sampled'])} |"
        for name, row in table.items()
    )


def _demo_row(row: Mapping[str, Any]) -> str:
    def path(values: Sequence[float]) -> str:
        return " → ".join(f"{value:.3f}" for value in values)

    return f"| {row['seed']} | {path(row['greedy'])} | {path(row['sampled'])} |"
