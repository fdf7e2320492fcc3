"""ShareGPT conversations: the two dialects of a row, and the rules that a conversation must keep.

Dialect ``from_value`` has turns ``{"from": "human", "value": …}``, dialect ``role_content`` turns
``{"role": "user", "content": …}``; the list stands under ``conversations`` or ``messages``. A call of a tool
(``function_call``, or ``tool_calls`` of OpenAI's messages) becomes an assistant turn that writes
``<tool_call>…</tool_call>``, as Qwen's template does; its result (``observation``, ``tool``) a turn of the tool;
and the list of tools a part of the system turn. Pure; it knows no files and no tokens. ``sharegpt.py`` and
``records.py`` are the callers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eztinker.errors import InvalidRequestError

_LISTS = ("conversations", "messages")
_KEYS = {"from_value": ("from", "value"), "role_content": ("role", "content")}
ROLES = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",
    "tool": "tool",
}
_CALLS = {"function_call"}
_NOT_TEXT = ("images", "image", "videos", "audios")
_SHARES = {"weight": 1, "train": True}
"""What a turn may say about its own loss, and what it must then say: every assistant's turn counts alike."""
_NEXT = {
    "start": ("user",),
    "user": ("assistant",),
    "call": ("tool",),
    "tool": ("assistant", "tool"),
    "assistant": ("user",),
}
"""Who may speak after whom; an assistant who called a tool waits for its result."""


@dataclass(frozen=True, slots=True)
class ShareGPTMessage:
    """One turn: ``role`` is system, user, assistant or tool; ``content`` is not empty."""

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
        messages: optional system turn, then user and assistant in turn, the assistant last; between them results
            of tools that the assistant called.
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
    turns = data[present[0]]
    seen = [name for name in _NOT_TEXT if data.get(name)]
    if seen:
        raise InvalidRequestError(f"the row has {seen[0]}, and only text is read")
    messages = [_message(turn, dialect, i) for i, turn in enumerate(turns)]
    _check_order(
        [_part(turn, dialect, message) for turn, message in zip(turns, messages, strict=True)]
    )
    messages = _with_system_of_row(messages, data)
    given = data.get("id")
    name = default_id if given is None else str(given)
    return ShareGPTConversation(name, tuple(messages), dialect)


def _message(turn: Any, dialect: str, index: int) -> ShareGPTMessage:
    role_key, text_key = _KEYS[dialect]
    has_calls = isinstance(turn, Mapping) and bool(turn.get("tool_calls"))
    if not isinstance(turn, Mapping) or role_key not in turn or not (has_calls or text_key in turn):
        raise InvalidRequestError(
            f"turn {index} must have {role_key!r} and {text_key!r} as the first turn has"
        )
    role, text = turn[role_key], turn.get(text_key)
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidRequestError(f"turn {index} has the role {role!r}; known: {', '.join(ROLES)}")
    for name, whole in _SHARES.items():
        if turn.get(name, whole) not in (whole, None):
            raise InvalidRequestError(
                f"turn {index} ({role}) has {name} {turn[name]!r}, which is not read: take the field out, or the turn"
            )
    calls = turn.get("tool_calls") or ()
    text = "\n".join(
        filter(None, [_plain_text(text, f"turn {index} ({role})"), *map(_call_text, calls)])
    )
    if not text.strip():
        raise InvalidRequestError(f"turn {index} ({role}) is empty")
    if role in _CALLS:
        text = f"<tool_call>\n{text.strip()}\n</tool_call>"
    return ShareGPTMessage(ROLES[role], text)


def _plain_text(content: Any, where: str) -> str:
    """Text of a content: itself, or its text parts joined; None is empty.

    Raises:
        InvalidRequestError: it is, or a part of it is, something else, such as an image.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise InvalidRequestError(f"{where} is no text but {content!r:.40}")
    texts: list[str] = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise InvalidRequestError(f"{where} has a part of type {kind}, and only text is read")
        texts.append(text)
    return "".join(texts)


def _call_text(call: Any) -> str:
    """One of OpenAI's ``tool_calls`` as the assistant would write it."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidRequestError(
            'tool_calls must hold {"function": {"name", "arguments"}} objects'
        )
    arguments = function.get("arguments", "{}")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise InvalidRequestError("tool_calls has arguments that are no JSON") from error
    written = json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{written}\n</tool_call>"


def _part(turn: Any, dialect: str, message: ShareGPTMessage) -> str:
    """Part of a turn in the order: its role, or ``call``."""
    is_call = turn[_KEYS[dialect][0]] in _CALLS or bool(turn.get("tool_calls"))
    return "call" if is_call and message.role == "assistant" else message.role


def _with_system_of_row(
    messages: list[ShareGPTMessage], data: Mapping[str, Any]
) -> list[ShareGPTMessage]:
    """The turns with what the row says beside them: ``system`` and ``tools``."""
    beside = data.get("system")
    texts = [beside] if isinstance(beside, str) and beside.strip() else []
    if messages[0].role == "system":
        if texts and texts[0].strip() != messages[0].content.strip():
            raise InvalidRequestError("the row has a system text beside its own system turn")
        texts, messages = [messages[0].content], messages[1:]
    tools = data.get("tools")
    if tools:
        written = tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False)
        if written.strip() not in ("", "[]"):
            texts.append(f"# Tools\n<tools>\n{written.strip()}\n</tools>")
    if not texts:
        return messages
    return [ShareGPTMessage("system", "\n\n".join(texts)), *messages]


def _check_order(parts: list[str]) -> None:
    before, offset = "start", 1 if parts[0] == "system" else 0
    for index, part in enumerate(parts[offset:], start=offset):
        role = "assistant" if part == "call" else part
        if role not in _NEXT[before]:
            expected = " or the ".join(_NEXT[before])
            raise InvalidRequestError(
                f"turn {index} is by the {role}, expected the {expected}: an optional system turn, then user and "
                "assistant in turn"
            )
        before = part
    if before != "assistant":
        raise InvalidRequestError("the last turn must be the assistant's")
