"""How a case becomes a prompt that fits the model: statutes found, facts shortened in the middle if they must be.

Knows the chat template through the tokenizer, and nothing of sampling or training. Called by the three stages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from eztinker.dataset.lawshift import Articles, Case
from eztinker.errors import InvalidRequestError, NotFoundError, UnsupportedError
from eztinker.recipes.experiment.settings import RecipeConfig
from eztinker.recipes.terminal import pick
from eztinker.rendering.judgment import judgment_request

OMISSION = "……（中间略）……"
LEAST_FACT_CHARS = 20
LEAST_ANSWER_TOKENS = 16


class AskingConfig(RecipeConfig):
    """Settings of whatever asks a model for judgments; the documented names."""

    model_path: str = Field(
        "Qwen/Qwen3-0.6B",
        min_length=1,
        description="Model, adapter folder, RUN_ID or RUN_ID@CHECKPOINT.",
    )
    base_model: str | None = Field(None, description="Of an adapter folder.")
    max_new_tokens: int = Field(2048, ge=1, description="Most tokens of an answer.")
    max_prompt_length: int = Field(
        1536, ge=64, description="Most tokens of a prompt; longer facts lose their middle."
    )
    strict: bool = Field(
        False, description="Stop at a case whose statutes are missing or do not fit."
    )
    seed: int = Field(42, ge=0, lt=2**31, description="Of the samples.")

    @property
    def model_name_or_path(self) -> str:
        """Of a server that is started for this."""
        return self.base_model or self.model_path


@dataclass(frozen=True, slots=True)
class Asked:
    """A case as a prompt.

    Attributes:
        prompt: text with the chat template applied and the assistant's turn opened.
        tokens: the same as token ids; more than there is room for when not ``fits``.
        missing: ids of statutes that were not found.
        is_shortened: whether the middle of the facts was left out.
        fits: whether there is room for it; if not, statutes and request alone are too long and it cannot be asked.
    """

    case: Case
    prompt: str
    tokens: list[int]
    missing: tuple[str, ...]
    is_shortened: bool
    fits: bool = True


class Asker:
    """Makes prompts for one model.

    Args:
        tokenizer: of the model; needs a chat template.
        max_prompt_tokens: room for a prompt.
        is_strict: a statute that is not found, or statutes that do not fit, are an error.

    Raises:
        UnsupportedError: the model has no chat template (``code="no_chat_template"``).
    """

    def __init__(self, tokenizer: Any, max_prompt_tokens: int, *, is_strict: bool = False) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise UnsupportedError(
                "The model has no chat template, and judgments are asked for through one. Choose an instruct or "
                "chat model.",
                code="no_chat_template",
                field="model_path",
            )
        self._tokenizer = tokenizer
        self._room = max_prompt_tokens
        self._is_strict = is_strict

    def ask(self, case: Case, articles: Articles, *, is_new_law: bool = False) -> Asked:
        """The prompt of a case.

        Raises:
            NotFoundError: strict, and a statute is missing (``code="article_not_found"``).
            InvalidRequestError: strict, and the statutes alone do not fit (``code="prompt_too_long"``).
        """
        found = [(i, articles.text(i)) for i in case.relevant_articles]
        missing = tuple(i for i, text in found if text is None)
        if missing and self._is_strict:
            raise NotFoundError(
                f"Case {case.case_id}: no statute {', '.join(missing)} among the articles. Give the file that has "
                "it, or leave out --strict to count such cases instead.",
                code="article_not_found",
                field="articles",
            )
        laws = [(i, text) for i, text in found if text is not None]

        def render(fact: str) -> tuple[str, list[int]]:
            request = judgment_request(fact, laws, is_new_law=is_new_law)
            prompt = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": request}], tokenize=False, add_generation_prompt=True
            )
            return prompt, self._tokenizer.encode(prompt, add_special_tokens=False)

        fact = self._fitting(case, render)
        prompt, tokens = render(fact)
        fits = len(tokens) <= self._room
        if not fits and self._is_strict:
            raise _too_long(f"Case {case.case_id}: statutes and request alone are", self._room)
        return Asked(case, prompt, list(tokens), missing, fact != case.fact, fits)

    def _fitting(self, case: Case, render: Any) -> str:
        """The longest form of the facts that fits, found by halving; the shortest form when none does."""
        if len(render(case.fact)[1]) <= self._room:
            return case.fact
        low, high = LEAST_FACT_CHARS, len(case.fact)
        if len(render(shortened(case.fact, low))[1]) > self._room:
            return shortened(case.fact, low)
        while high - low > 1:
            middle = (low + high) // 2
            fits = len(render(shortened(case.fact, middle))[1]) <= self._room
            low, high = (middle, high) if fits else (low, middle)
        return shortened(case.fact, low)


def longest_prompt(asked: Sequence[Asked], room: int) -> int:
    """Tokens of the longest prompt that can be asked.

    Raises:
        InvalidRequestError: there is no such prompt (``code="prompt_too_long"``).
    """
    lengths = [len(one.tokens) for one in asked if one.fits]
    if not lengths:
        raise _too_long(f"Statutes and request of each of {len(asked)} cases are", room)
    return max(lengths)


def _too_long(what: str, room: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"{what} longer than the {room} tokens there is room for. Raise max_prompt_length (max_length in "
        "training), or take such cases out.",
        code="prompt_too_long",
        field="max_prompt_length",
    )


def shortened(fact: str, num_chars: int) -> str:
    """Beginning and end of the facts, ``num_chars`` characters in all, with a mark between."""
    if num_chars >= len(fact):
        return fact
    head = (num_chars + 1) // 2
    return fact[:head] + OMISSION + fact[len(fact) - (num_chars - head) :]


def room_for_prompt(max_prompt_tokens: int, context: int | None) -> int:
    """Tokens that a prompt may have so that some are left for the answer."""
    return max_prompt_tokens if context is None else min(max_prompt_tokens, context - 64)


def answer_room(max_new_tokens: int, max_prompt_tokens: int, context: int | None) -> int:
    """Tokens that an answer may have beside the longest prompt.

    Raises:
        InvalidRequestError: hardly any are left.
    """
    room = max_new_tokens if context is None else min(max_new_tokens, context - max_prompt_tokens)
    if room < min(LEAST_ANSWER_TOKENS, max_new_tokens):
        raise InvalidRequestError(
            f"Prompts of {max_prompt_tokens} tokens leave {max(0, room)} of the model's context of {context} for the "
            "answer. Lower max_prompt_length.",
            code="prompt_too_long",
            field="max_prompt_length",
        )
    return room


def count_problems(asked: Iterable[Asked]) -> dict[str, int]:
    """How many cases lack a statute, of how many the facts were shortened, and how many could not be asked."""
    listed = list(asked)
    return {
        "cases_with_missing_articles": sum(bool(one.missing) for one in listed),
        "shortened_facts": sum(one.is_shortened and one.fits for one in listed),
        "cases_too_long": sum(not one.fits for one in listed),
    }


def told(problems: Mapping[str, int]) -> str:
    """The same for people."""
    return pick(
        "{cases_with_missing_articles} cases lack a statute; the facts of {shortened_facts} were shortened; "
        "{cases_too_long} were left out, their statutes alone being too long.",
        "{cases_with_missing_articles} 个案件缺少法条；{shortened_facts} 个案件的事实被缩短；"
        "{cases_too_long} 个案件因法条过长而略去。",
    ).format(**problems)


def distinct(texts: Iterable[str]) -> Iterator[str]:
    """Each text once, in the order of first appearance."""
    return iter(dict.fromkeys(texts))
