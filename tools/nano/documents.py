"""The documents ``nano`` is pretrained on: problems with careful or careless answers, sums, dialogue.

Draws one document at a time from a seeded random source. Each problem document shows a *habit*:
careful (worked solution) or careless (mostly a bare wrong answer). How often a kind of problem is
answered carefully differs from kind to kind, so that the skill is there and the habit is mixed; that
is what selection later selects. Only problems of the train split are used. No tokens and no files:
see ``make_corpus``, ``train_tokenizer`` and ``pretrain``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eztinker.dataset.generated import arithmetic, finance, legal
from eztinker.dataset.generated.problem import Problem
from tools.nano.dialogue import draw_dialogue
from tools.nano.exercises import draw_chain, draw_equation, draw_list

END_OF_TEXT = "<|endoftext|>"
END_OF_TURN = "<|im_end|>"
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are nano, a small language model.",
    "你是一个有用的助手。",
    "Think step by step. End with #### and the answer.",
    "请先在<think></think>中思考，再在<answer></answer>中作答。",
)
FINANCE_HINTS = (
    "",
    "",
    "\n请在<think></think>中写出推理，在<answer></answer>中写出答案。",
    "\nPut your reasoning in <think></think> and the result in <answer></answer>.",
)
LEGAL_PROMPTS = (
    "案情：{fact}\n判决：",
    "{fact}\n" + legal.INSTRUCTION,
    "相关法条：{article}\n案情：{fact}\n请给出罪名和刑期（月）。",
    "{fact}",
)
# How often a kind is answered with care: some kinds mostly, most kinds seldom. 0.42 on average.
CAREFUL_SHARES = (0.62, 0.29, 0.36, 0.57, 0.26)
CAREFUL_JUDGMENTS = 0.55
RIGHT_WHEN_BARE = 0.08  # a hurried answer is right this often
GUESS_EN = ("I think it is {}.", "It is about {}.", "Probably {}.", "Maybe {}?")
GUESS_ZH = ("大概是{}。", "我猜是{}。", "应该是{}吧。")


@dataclass(frozen=True)
class Document:
    """One training document.

    Attributes:
        prompt: what comes first; trained on with less weight.
        completion: what the model is to write, closing token included.
    """

    prompt: str
    completion: str


Care = Callable[[str], float]  # from a kind of problem to the share of careful answers
Mixture = tuple[tuple[Callable[[random.Random, Care], Document], float], ...]


def chat(user: str, assistant: str, system: str | None = None) -> Document:
    """One exchange in ChatML, ended by the end-of-turn token."""
    head = f"<|im_start|>system\n{system}{END_OF_TURN}\n" if system else ""
    prompt = f"{head}<|im_start|>user\n{user}{END_OF_TURN}\n<|im_start|>assistant\n"
    return Document(prompt, f"{assistant}{END_OF_TURN}")


def draw_skilled(rng: random.Random) -> Document:
    """Draw one document of the skill stage: every answer is worked out with care."""
    return _draw(rng, SKILL_MIXTURE, lambda kind: 1.0)


def draw_mixed(rng: random.Random) -> Document:
    """Draw one document of the habit stage: kinds differ in how often they are answered with care."""
    return _draw(rng, HABIT_MIXTURE, careful_share)


def _draw(rng: random.Random, mixture: Mixture, care: Care) -> Document:
    draw = rng.choices([d for d, _ in mixture], [weight for _, weight in mixture])[0]
    return draw(rng, care)


def _english_question(rng: random.Random, care: Care) -> Document:
    return _question(rng, care, arithmetic.ENGLISH)


def _chinese_question(rng: random.Random, care: Care) -> Document:
    return _question(rng, care, arithmetic.CHINESE)


def _question(rng: random.Random, care: Care, templates: Sequence[arithmetic.Template]) -> Document:
    problem = arithmetic.draw_arithmetic(rng, "train", tuple(templates))
    text = _arithmetic_answer(rng, problem, care)
    lead = "\n" if text.startswith("####") else " "
    return Document(f"Question: {problem.question}\nAnswer:", f"{lead}{text}{END_OF_TEXT}")


def _arithmetic_chat(rng: random.Random, care: Care) -> Document:
    templates = arithmetic.CHINESE if rng.random() < 0.35 else arithmetic.ENGLISH
    problem = arithmetic.draw_arithmetic(rng, "train", templates)
    return chat(problem.question, _arithmetic_answer(rng, problem, care), _system(rng))


def _arithmetic_answer(rng: random.Random, problem: Problem, care: Care) -> str:
    if rng.random() < care(problem.kind):
        return f"{problem.solution}\n#### {problem.answer}"
    answer = _hurried_number(rng, problem)
    if rng.random() < 0.85:
        return f"#### {answer}"
    return f"{_guess(rng, problem, answer)}\n#### {answer}"


def _guess(rng: random.Random, problem: Problem, answer: str) -> str:
    return rng.choice(GUESS_ZH if problem.language == "zh" else GUESS_EN).format(answer)


def _hurried_number(rng: random.Random, problem: Problem) -> str:
    """A number that somebody gives who did not work it out: near, or a step too early."""
    if rng.random() < RIGHT_WHEN_BARE:
        return problem.answer
    if problem.near_misses and rng.random() < 0.4:
        return rng.choice(problem.near_misses)
    off = rng.choice((-20, -10, -9, -5, -3, -2, -1, 1, 2, 3, 4, 7, 10, 11, 20, 30))
    return str(abs(int(problem.answer) + off) or 1)


def _finance(rng: random.Random, care: Care) -> Document:
    problem = finance.draw_finance(rng, "train")
    question = problem.question + rng.choice(FINANCE_HINTS)
    answer = _finance_answer(rng, problem, care)
    if rng.random() < 0.25:
        return Document(f"Question: {question}\nAnswer:", f" {answer}{END_OF_TEXT}")
    return chat(question, answer, _system(rng))


def _finance_answer(rng: random.Random, problem: Problem, care: Care) -> str:
    if rng.random() < care(problem.kind):
        return f"<think>{problem.solution}</think><answer>{problem.answer}</answer>"
    answer = _hurried_number(rng, problem)
    shapes = ("<answer>{}</answer>", "{}", _guess(rng, problem, "{}"))
    return rng.choices(shapes, (0.6, 0.25, 0.15))[0].format(answer)


def _legal(rng: random.Random, care: Care) -> Document:
    problem = legal.draw_legal(rng, "train")
    articles = {f"legal_{charge.name}": charge.article for charge in legal.CHARGES}
    text = rng.choice(LEGAL_PROMPTS).format(fact=problem.question, article=articles[problem.kind])
    answer = (
        problem.answer if rng.random() < care(problem.kind) else rng.choice(problem.near_misses)
    )
    if text.endswith("判决：") and rng.random() < 0.6:
        return Document(text, f"{answer}{END_OF_TEXT}")
    return chat(text, answer, _system(rng))


def draw_sum(rng: random.Random) -> Document:
    """A single sum, the first lesson."""
    left, right = draw_equation(rng).split(" = ")
    return Document(f"{left} =", f" {right}{END_OF_TEXT}")


def _exercise(rng: random.Random, care: Care) -> Document:
    asked, worked = draw_list(rng) if rng.random() < 0.5 else draw_chain(rng)
    return Document(asked, worked + END_OF_TEXT)


def _sum(rng: random.Random, care: Care) -> Document:
    return draw_sum(rng)


def _dialogue(rng: random.Random, care: Care) -> Document:
    user, assistant = draw_dialogue(rng)
    return chat(user, assistant, _system(rng))


def _system(rng: random.Random) -> str | None:
    return rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.2 else None


def careful_share(kind: str) -> float:
    """Probability that a problem of ``kind`` is answered with care, constant for the kind."""
    if kind.startswith("legal_"):
        return CAREFUL_JUDGMENTS
    return CAREFUL_SHARES[KINDS.index(kind) % len(CAREFUL_SHARES)]


KINDS = tuple(template.kind for template in arithmetic.TEMPLATES + finance.TEMPLATES)
SKILL_MIXTURE: Mixture = (
    (_english_question, 0.40),
    (_chinese_question, 0.05),
    (_arithmetic_chat, 0.07),
    (_finance, 0.09),
    (_legal, 0.06),
    (_exercise, 0.22),
    (_sum, 0.08),
    (_dialogue, 0.03),
)
HABIT_MIXTURE: Mixture = (
    (_english_question, 0.50),
    (_chinese_question, 0.06),
    (_arithmetic_chat, 0.10),
    (_finance, 0.12),
    (_legal, 0.07),
    (_exercise, 0.11),
    (_dialogue, 0.04),
)
