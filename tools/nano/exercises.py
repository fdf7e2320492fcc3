"""Bare arithmetic exercises: single sums, lists of sums to copy and work, chains of operations.

They come before and among the texts, because sums learned alone do not carry over to a worked
solution by themselves: a list or a chain asks for copying and calculating at once. Called by
``documents``.
"""

from __future__ import annotations

import random
import re

from eztinker.dataset.generated import arithmetic, finance

EQUATION = re.compile(r"\d[\d +*/-]* = \d+")
LARGEST_LINK = 150


def draw_equation(rng: random.Random) -> str:
    """One true equation, most often out of a solution of the train split."""
    if rng.random() < 0.25:
        return _any_equation(rng)
    if rng.random() < 0.8:
        problem = arithmetic.draw_arithmetic(rng, "train", arithmetic.TEMPLATES)
    else:
        problem = finance.draw_finance(rng, "train")
    return rng.choice(EQUATION.findall(problem.solution))


def _any_equation(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.3:
        a, b = rng.randint(2, 99), rng.randint(2, 90)
        return f"{a} + {b} = {a + b}"
    if kind < 0.65:
        a, b = rng.randint(2, 90), rng.randint(2, 99)
        return f"{a + b} - {a} = {b}"
    if kind < 0.85:
        a, b = rng.randint(2, 12), rng.randint(2, 15)
        a, b = rng.choice(((a, b), (b, a)))
        return f"{a} * {b} = {a * b}"
    a, b = rng.randint(2, 9), rng.randint(2, 20)
    return f"{a * b} / {a} = {b}"


def draw_list(rng: random.Random) -> tuple[str, str]:
    """Two to four sums, asked for first and worked in their order."""
    equations = [draw_equation(rng) for _ in range(rng.randint(2, 4))]
    asked = ", ".join(equation.split(" = ")[0] for equation in equations)
    return f"{asked}:", f" {'. '.join(equations)}."


def draw_chain(rng: random.Random) -> tuple[str, str]:
    """A number and two or three operations on it, worked one by one."""
    value = rng.randint(3, 60)
    asked, worked = [str(value)], []
    for _ in range(rng.randint(2, 3)):
        operation, result = _link(rng, value)
        asked.append(operation)
        worked.append(f"{value} {operation} = {result}")
        value = result
    return f"{', '.join(asked)}:", f" {'. '.join(worked)}."


def _link(rng: random.Random, value: int) -> tuple[str, int]:
    small, large = rng.randint(2, 9), rng.randint(2, 60)
    possible = []
    if value + large <= LARGEST_LINK:
        possible.append((f"+ {large}", value + large))
    if value > large:
        possible.append((f"- {large}", value - large))
    if value * small <= LARGEST_LINK:
        possible.append((f"* {small}", value * small))
    if value % small == 0:
        possible.append((f"/ {small}", value // small))
    return rng.choice(possible or [("+ 1", value + 1)])
