"""The chat template: turns a list of messages into the one text that a model was trained to read.

Renders the Jinja templates that Hugging Face models carry, in a sandbox that neither reaches Python
objects nor changes its arguments. It knows no token ids and no model: ``Tokenizer.render_chat`` calls it
with the template of a model folder and that model's special tokens.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from eztinker.errors import InvalidRequestError, UnsupportedError

# What a template may raise while it runs on arguments it did not expect.
_RENDER_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class _GenerationTag(jinja2.ext.Extension):
    """``{% generation %}…{% endgeneration %}`` marks what the assistant says; here it renders its body."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 reads a plain class attribute

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes < > & ' for HTML, which a model has never seen.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.datetime.now().astimezone().strftime(format)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


@lru_cache(maxsize=32)
def _compile(template: str) -> tuple[jinja2.Template, frozenset[str]]:
    """The template, and the names that it takes from its caller (``messages``, ``tools``, …)."""
    environment = _environment()
    try:
        names = jinja2.meta.find_undeclared_variables(environment.parse(template))
        return environment.from_string(template), frozenset(names)
    except jinja2.TemplateSyntaxError as error:
        raise InvalidRequestError(
            f"The chat template cannot be read: {error.message} (line {error.lineno}). "
            "Mend chat_template.jinja or the chat_template entry of tokenizer_config.json.",
            code="chat_template_error",
        ) from error


def render_template(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    special_tokens: Mapping[str, str] | None = None,
    **template_kwargs: Any,
) -> str:
    """Render messages with a chat template.

    Args:
        template: Jinja source.
        messages: see :func:`validate_messages`.
        add_generation_prompt: end with the header of an assistant turn, so that a model answers.
        special_tokens: ``bos_token``, ``eos_token``, … as text, which templates write out.
        template_kwargs: variables of the template, for instance ``tools`` or ``enable_thinking``.

    Raises:
        InvalidRequestError: messages of a wrong shape, a variable the template does not read, or an
            error that the template raised on these messages (``code="chat_template_error"``).
        UnsupportedError: a content part that is not text.
    """
    checked = validate_messages(messages)
    compiled, known = _compile(template)
    _refuse_unknown(template_kwargs, known)
    variables = {"tools": None, "documents": None, **(special_tokens or {}), **template_kwargs}
    try:
        return compiled.render(
            messages=checked, add_generation_prompt=add_generation_prompt, **variables
        )
    except _RENDER_ERRORS as error:
        raise InvalidRequestError(
            f"The chat template of this model refused the messages: {error}. "
            "Check the roles and their order against what the template expects.",
            code="chat_template_error",
            field="messages",
        ) from error


def _refuse_unknown(template_kwargs: Mapping[str, Any], known: frozenset[str]) -> None:
    for name, value in template_kwargs.items():
        if value is not None and name not in known:
            takes = ", ".join(sorted(known - {"messages", "add_generation_prompt"})) or "none"
            raise InvalidRequestError(
                f"The chat template of this model does not use {name!r}, so it would have no effect. "
                f"Variables it reads: {takes}. Leave {name!r} out.",
                field=name,
            )


def validate_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Check the shape of a conversation and join text parts; which roles may follow which is the template's affair.

    A message has a ``role`` (non-empty text) and a ``content``: text, or a list of ``{"type": "text",
    "text": …}`` parts, which are joined. ``content`` may be None or absent beside ``tool_calls``. Further
    keys (``name``, ``tool_calls``, ``reasoning_content``) are handed to the template.

    Raises:
        InvalidRequestError: with the index of the message in ``field``.
        UnsupportedError: an image, audio or other part that is not text.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InvalidRequestError(
            f"messages must be a list of {{role, content}} objects, got {type(messages).__name__}.",
            field="messages",
        )
    if not messages:
        raise InvalidRequestError(
            "messages is empty: give at least one message, for instance "
            '[{"role": "user", "content": "Hello"}].',
            field="messages",
        )
    return [_validate_message(message, index) for index, message in enumerate(messages)]


def _validate_message(message: Any, index: int) -> dict[str, Any]:
    where = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise InvalidRequestError(
            f"{where} must be an object with role and content, got {type(message).__name__}.",
            field=where,
        )
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise InvalidRequestError(
            f"{where}.role must be a non-empty text such as system, user or assistant, got {role!r}.",
            field=f"{where}.role",
        )
    checked = dict(message)
    checked["content"] = _content_text(message, where)
    return checked


def _content_text(message: Mapping[str, Any], where: str) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and message.get("tool_calls"):
        return ""  # templates concatenate it; None would fail in most of them
    if isinstance(content, list):
        return "".join(_part_text(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    raise InvalidRequestError(
        f"{where}.content must be text or a list of text parts, got "
        f"{'nothing' if content is None else type(content).__name__}.",
        field=f"{where}.content",
    )


def _part_text(part: Any, where: str) -> str:
    if isinstance(part, Mapping) and part.get("type", "text") == "text":
        text = part.get("text")
        if isinstance(text, str):
            return text
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind == "text":
        raise InvalidRequestError(
            f'{where} must be {{"type": "text", "text": "…"}}.', field=f"{where}.text"
        )
    raise UnsupportedError(
        f"{where} is of type {kind!r}; only text parts are implemented. Send text.", field=where
    )
