"""ShareGPT conversations: the two dialects of a row, and the rules that a conversation must keep.

Dialect ``from_value`` has turns ``{"from": "human", "value": …}``, dialect ``role_content`` turns
``{"role": "user", "content": …}``; the list stands under ``conversations`` or ``messages``. Pure; it knows no
files and no tokens. ``sharegpt.py`` is the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eztinker.errors import InvalidRequestError

_LISTS = ("conversations", "messages")
_KEYS = {"from_value": ("from", "value"), "role_content": ("role", "content")}
_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
}


@dataclass(frozen=True, slots=True)
class ShareGPTMessage:
    """One turn: ``role`` is system, user or assistant; ``content`` is not empty."""

    role: str
    content: str

    def as_dict(self) -> dict[str, str]:
        """``{"role", "content"}``, as chat templates take it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class ShareGPTConversation:
    """A conversation that keeps the rules.

    Attributes:
        id: of the row, or made from its file and place.
        messages: optional system turn, then user and assistant in turn, the assistant last.
        dialect: ``from_value`` or ``role_content``.
    """

    id: str
    messages: tuple[ShareGPTMessage, ...]
    dialect: str

    def as_messages(self) -> list[dict[str, str]]:
        """Turns as chat templates take them."""
        return [message.as_dict() for message in self.messages]

    def with_system(self, prompt: str | None) -> ShareGPTConversation:
        """The same with a system turn in front, unless it has one or ``prompt`` is None."""
        if prompt is None or self.messages[0].role == "system":
            return self
        system = ShareGPTMessage("system", prompt)
        return ShareGPTConversation(self.id, (system, *self.messages), self.dialect)


def dialect_of(data: Mapping[str, Any]) -> str | None:
    """Dialect of a row by its first turn; None when it is neither."""
    for name in _LISTS:
        turns = data.get(name)
        if isinstance(turns, list) and turns and isinstance(turns[0], Mapping):
            return next((d for d, keys in _KEYS.items() if keys[0] in turns[0]), None)
    return None


def read_conversation(data: Mapping[str, Any], default_id: str) -> ShareGPTConversation:
    """Read and check one row.

    Raises:
        InvalidRequestError: the first rule that is broken, with the number of the turn (from 0).
    """
    present = [name for name in _LISTS if name in data]
    if len(present) != 1 or not isinstance(data[present[0]], list):
        found = " and ".join(present) or f"the keys {', '.join(map(str, data)) or '(none)'}"
        raise InvalidRequestError(
            f"expected a list of turns under either 'conversations' or 'messages', found {found}"
        )
    dialect = dialect_of(data)
    if dialect is None:
        raise InvalidRequestError(
            "expected turns with from/value or role/content, found "
            f"{'none' if not data[present[0]] else repr(data[present[0]][0])[:80]}"
        )
    messages = tuple(_message(turn, dialect, i) for i, turn in enumerate(data[present[0]]))
    _check_order([message.role for message in messages])
    given = data.get("id")
    return ShareGPTConversation(default_id if given is None else str(given), messages, dialect)


def _message(turn: Any, dialect: str, index: int) -> ShareGPTMessage:
    role_key, text_key = _KEYS[dialect]
    if not isinstance(turn, Mapping) or role_key not in turn or text_key not in turn:
        raise InvalidRequestError(
            f"turn {index} must have {role_key!r} and {text_key!r} as the first turn has"
        )
    role, text = turn[role_key], turn[text_key]
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequestError(f"turn {index} has the role {role!r}; known: {', '.join(_ROLES)}")
    if not isinstance(text, str) or not text.strip():
        raise InvalidRequestError(f"turn {index} ({role}) is empty")
    return ShareGPTMessage(_ROLES[role], text)


def _check_order(roles: list[str]) -> None:
    offset = 1 if roles[0] == "system" else 0
    for index, role in enumerate(roles[offset:], start=offset):
        expected = "user" if (index - offset) % 2 == 0 else "assistant"
        if role != expected:
            raise InvalidRequestError(
                f"turn {index} is by the {role}, expected the {expected}: an optional system turn, then user and "
                "assistant in turn"
            )
    if roles[-1] != "assistant":
        raise InvalidRequestError("the last turn must be the assistant's")
