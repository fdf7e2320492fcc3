"""Bodies as bytes: what is there twice is refused, and nothing else is taken for that."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from eztinker.api.bodies import parse
from eztinker.errors import InvalidRequestError


class Anything(BaseModel):
    """Takes every object."""

    model_config = {"extra": "allow"}


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ('{"a": 1, "a": 2}', "a"),
        ('{"a" : 1, "a" : 1}', "a"),
        ('{"a":1,"\\u0061":2}', "a"),
        ('{"b": [{"c": 1}, {"x": {"d": 1, "e": 2, "d": 3}}]}', "d"),
        ('{"b": [1, {"c": 1, "c": 2}]}', "c"),
        ('{"text": "a \\":", "f": [], "f": {}}', "f"),
    ],
)
def test_a_field_that_is_there_twice(body: str, name: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"{name}: given twice") as caught:
        parse(body.encode(), Anything)
    assert (caught.value.code, caught.value.field) == ("duplicate_field", name)


NAMES = st.text(alphabet='ab":\\ ,{}', max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.sampled_from([None, 1]))
def test_what_is_there_once_is_read(content: dict[str, Any], indent: int | None) -> None:
    content = {f"x{name}": value for name, value in content.items()}
    assert parse(json.dumps(content, indent=indent).encode(), Anything).model_extra == content


@pytest.mark.parametrize("value", ['"' + 'a\\":' * 1000 + '"', "[" * 900 + '{"b" :1}' + "]" * 900])
def test_a_second_look_takes_what_the_first_one_took(value: str) -> None:
    """Deep nesting is the first parser's affair."""
    read = parse(f'{{"a" : {value}}}'.encode(), Anything)
    assert read.model_extra == {"a": json.loads(value)}


@pytest.mark.parametrize("value", ["9" * 6000, "1e400000"])
def test_a_number_without_end_is_refused_at_the_first_look(value: str) -> None:
    with pytest.raises(InvalidRequestError, match="not strict JSON") as caught:
        parse(f'{{"a" : {value}}}'.encode(), Anything)
    assert caught.value.code == "invalid_json"
