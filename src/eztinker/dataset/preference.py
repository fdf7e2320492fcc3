"""Preference pairs: one conversation, a reply that was chosen and one that was rejected.

Layouts that are read, texts or ``{"role", "content"}`` / ``{"from", "value"}`` turns alike::

    prompt, chosen, rejected                      TRL, UltraFeedback
    conversations (or messages), chosen, rejected LLaMA-Factory
    instruction, input, chosen, rejected          Alpaca-like
    question, chosen, rejected
    chosen, rejected                              two whole conversations, or hh-rlhf transcripts

A transcript is a text with ``\\n\\nHuman:`` and ``\\n\\nAssistant:`` marks. Pure; ``records.py`` reads the files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eztinker.dataset.conversation import ROLES
from eztinker.errors import InvalidRequestError

Messages = list[dict[str, str]]
_MARK = re.compile(r"\n\n(Human|Assistant):[ \t]?")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_PROMPTS = ("prompt", "conversations", "messages", "instruction", "question")


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """What both replies answer, and the replies.

    Attributes:
        prompt: turns before the reply, the last one not the assistant's; or a text that the reply continues.
        chosen: the better reply.
        rejected: the worse reply; differs from ``chosen``.
    """

    prompt: Messages | str
    chosen: str
    rejected: str


def is_preference(data: Mapping[str, Any]) -> bool:
    """Whether a row has both replies."""
    return "chosen" in data and "rejected" in data


def read_pair(data: Mapping[str, Any]) -> PreferencePair:
    """Read one row.

    Raises:
        InvalidRequestError: what is missing or contradicts itself.
    """
    prompt, chosen, rejected = _parts(data)
    if prompt[-1]["role"] == "assistant":
        raise InvalidRequestError("the prompt must not end with the assistant's turn")
    for name, reply in (("chosen", chosen), ("rejected", rejected)):
        if not reply.strip():
            raise InvalidRequestError(f"{name} is empty")
    if chosen.strip() == rejected.strip():
        raise InvalidRequestError("chosen and rejected are the same reply")
    return PreferencePair(prompt, chosen, rejected)


def _parts(data: Mapping[str, Any]) -> tuple[Messages, str, str]:
    name = next((name for name in _PROMPTS if data.get(name)), None)
    if name is None:
        return _from_two_conversations(data["chosen"], data["rejected"])
    prompt = _turns(data[name], name)
    extra = data.get("input")
    if name == "instruction" and isinstance(extra, str) and extra.strip():
        prompt[-1]["content"] += f"\n{extra}"
    system = data.get("system")
    if isinstance(system, str) and system.strip() and prompt[0]["role"] != "system":
        prompt.insert(0, {"role": "system", "content": system})
    return (
        prompt,
        _reply(data["chosen"], prompt, "chosen"),
        _reply(data["rejected"], prompt, "rejected"),
    )


def _turns(value: Any, name: str) -> Messages:
    """Turns of a prompt; a text is one user turn, or a transcript."""
    if isinstance(value, str):
        if _MARK.match("\n\n" + value.lstrip("\n")) and "Human:" in value:
            return _transcript(value, name)
        return [{"role": "user", "content": value}]
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or not value:
        raise InvalidRequestError(
            f"{name} must be a text or a list of turns, got {str(value)[:60]!r}"
        )
    return [_turn(turn, name, index) for index, turn in enumerate(value)]


def _turn(turn: Any, name: str, index: int) -> dict[str, str]:
    for role_key, text_key in (("role", "content"), ("from", "value")):
        if isinstance(turn, Mapping) and role_key in turn and text_key in turn:
            role, text = turn[role_key], turn[text_key]
            if role not in ROLES or not isinstance(text, str):
                raise InvalidRequestError(f"{name}[{index}] has the role {role!r} or no text")
            return {"role": ROLES[role], "content": text}
    raise InvalidRequestError(f"{name}[{index}] must be a turn with role/content or from/value")


def _reply(value: Any, prompt: Messages, name: str) -> str:
    """The reply alone: a text, one turn, or a conversation that repeats the prompt."""
    if isinstance(value, str):
        return value
    turns = _turns(value, name)
    if len(turns) > 1 and turns[: len(prompt)] != prompt:
        raise InvalidRequestError(f"{name} has several turns that do not begin with the prompt")
    if turns[-1]["role"] != "assistant" or len(turns) not in (1, len(prompt) + 1):
        raise InvalidRequestError(f"{name} must end with one assistant turn after the prompt")
    return turns[-1]["content"]


def _from_two_conversations(chosen: Any, rejected: Any) -> tuple[Messages, str, str]:
    if isinstance(chosen, str) and isinstance(rejected, str):
        both = _transcript(chosen, "chosen"), _transcript(rejected, "rejected")
    else:
        both = _turns(chosen, "chosen"), _turns(rejected, "rejected")
    for name, turns in zip(("chosen", "rejected"), both, strict=True):
        if len(turns) < 2 or turns[-1]["role"] != "assistant":
            raise InvalidRequestError(f"{name} must be a conversation that ends with the assistant")
    left, right = both
    if left[:-1] != right[:-1]:
        raise InvalidRequestError("chosen and rejected must agree up to the last reply")
    return left[:-1], left[-1]["content"], right[-1]["content"]


def _transcript(text: str, name: str) -> Messages:
    pieces = _MARK.split("\n\n" + text.lstrip("\n"))
    if len(pieces) < 3 or pieces[0].strip():
        raise InvalidRequestError(
            f"{name} must be turns, or a transcript with 'Human:' and 'Assistant:' marks after blank lines"
        )
    roles, texts = pieces[1::2], pieces[2::2]
    turns = [
        {"role": _SPEAKERS[role], "content": text.strip()}
        for role, text in zip(roles, texts, strict=True)
    ]
    for index, turn in enumerate(turns):
        if turn["role"] != ("user", "assistant")[index % 2]:
            raise InvalidRequestError(f"{name}: turn {index} is by the {turn['role']} out of turn")
        if not turn["content"] and index < len(turns) - 1:
            raise InvalidRequestError(f"{name}: turn {index} is empty")
    return turns
