"""Rendering of chat templates: what they may use, what they may not, and how mistakes are told."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.errors import InvalidRequestError, UnsupportedError
from eztinker.rendering.chat import render_template, validate_messages
from tests.unit.rendering.tiny_tokenizer import CHATML, MESSAGES

USER = [{"role": "user", "content": "hi"}]


def test_tojson_writes_for_models_not_for_html() -> None:
    text = render_template("{{ messages | tojson }}", [{"role": "user", "content": "<b> & 你'"}])
    assert text == '[{"role": "user", "content": "<b> & 你\'"}]'
    indented = render_template("{{ tools | tojson(indent=2) }}", USER, tools=[{"a": 1}])
    assert indented == json.dumps([{"a": 1}], indent=2)


def test_loop_controls_generation_blocks_and_the_date() -> None:
    template = (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}{{ strftime_now('%Y') | length }}"
    )
    assert render_template(template, MESSAGES) == "How many eggs?16 eggs 你好4"


def test_blocks_leave_no_blanks() -> None:
    assert render_template("{% if true %}\n  a\n  {% endif %}\nb", USER) == "  a\nb"


def test_special_tokens_are_written_by_the_template() -> None:
    template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    assert render_template(template, USER, special_tokens={"bos_token": "<s>"}) == "<s>hi"


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages.append(1) }}",  # arguments stay as they are
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages[0].content.__init__.__globals__ }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 / 0 }}",
        "{% include 'x' %}",
        "{{ undefined_thing.attribute }}",
        "{{ range(10 ** 9) }}",
    ],
)
def test_errors_of_a_template_are_the_callers(template: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        render_template(template, USER)
    assert caught.value.code == "chat_template_error"
    assert USER == [{"role": "user", "content": "hi"}]


def test_the_reason_of_the_template_is_told() -> None:
    with pytest.raises(InvalidRequestError, match="roles must alternate"):
        render_template("{{ raise_exception('roles must alternate') }}", USER)
    with pytest.raises(InvalidRequestError, match="line 2"):
        render_template("\n{% for %}", USER)


def test_a_variable_without_effect_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="enable_thinking") as caught:
        render_template(CHATML, USER, tools=[{"name": "f"}])
    assert caught.value.field == "tools"
    assert render_template(CHATML, USER, tools=None) == render_template(CHATML, USER)


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "messages"),
        ("hi", "messages"),
        ({"role": "user"}, "messages"),
        (["hi"], "messages[0]"),
        ([{"content": "hi"}], "messages[0].role"),
        ([{"role": "", "content": "hi"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([*USER, {"role": "user", "content": 3}], "messages[1].content"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
    ],
)
def test_malformed_messages_are_refused_by_place(messages: list, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        validate_messages(messages)
    assert caught.value.field == field


def test_text_parts_are_joined_and_images_refused() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert validate_messages([{"role": "user", "content": parts}])[0]["content"] == "ab"
    with pytest.raises(UnsupportedError, match="image_url"):
        validate_messages([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}])


def test_a_tool_call_needs_no_content() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    checked = validate_messages([message])[0]
    assert checked["content"] == ""
    assert checked["tool_calls"] == message["tool_calls"]


@given(st.text())
def test_content_is_never_read_as_a_template(content: str) -> None:
    text = "{{ 1 + 1 }}{% raw %}" + content
    assert render_template("{{ messages[0].content }}", [{"role": "user", "content": text}]) == text
