"""Identifiers and names: what passes is a safe path component, whatever script it is written in."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eztinker.errors import InvalidRequestError
from eztinker.ids import (
    MAX_NAME_LENGTH,
    check_name,
    folder_name,
    new_idempotency_key,
    new_job_id,
    new_run_id,
)


def test_ids_have_the_documented_form() -> None:
    assert re.fullmatch(r"run_[0-9a-f]{8}", new_run_id())
    assert re.fullmatch(r"job_[0-9a-f]{8}", new_job_id())
    assert len({new_idempotency_key() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "x" * 128,
        "run-1.final_v2",
        "法律模型",
        "модель",
        "नमूना",  # vowel signs are marks, and part of the script's letters
        "ภาษาไทยที่ดี",
        "cafe\u0301",  # decomposed, as some file systems hand names out
        "_",
        "a..b",
        "-v",
    ],
)
def test_names_of_any_script_pass_unchanged(name: str) -> None:
    assert check_name(name, field="name") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".hidden",
        "..",
        "a/b",
        "a\\b",
        "a b",
        "a\n",
        "a\x00",
        "a:b",
        "x" * 129,
        "\ud800",
        "a\u202eb",
        "😀",
    ],
)
def test_other_names_are_refused_naming_the_field(name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_name(name, field="checkpoint")
    assert caught.value.code == "invalid_name"
    assert caught.value.field == "checkpoint"
    assert "checkpoint" in caught.value.message
    assert len(caught.value.message) < 2000


@settings(max_examples=150)
@given(st.text(max_size=140))
def test_what_passes_is_one_safe_component_of_a_path(name: str) -> None:
    try:
        check_name(name, field="name")
    except InvalidRequestError:
        return
    assert 1 <= len(name) <= MAX_NAME_LENGTH
    folder = folder_name(name)
    assert Path(folder).parts == (folder,)
    assert folder not in {os.curdir, os.pardir}
    # Room for the prefixes that the store puts before a name; a component has 255 bytes.
    assert len(folder.encode()) <= 240
    assert all(char in "._-" or unicodedata.category(char)[0] in "LMN" for char in name)


def test_a_long_name_of_wide_letters_gets_a_folder_of_its_own() -> None:
    names = ["法" * 128, "法" * 127 + "院", "法" * 81, "𠀀" * 128]
    folders = {folder_name(check_name(name, field="name")) for name in names}
    assert len(folders) == len(names)
    assert all(len(folder.encode()) <= 240 for folder in folders)
    assert folder_name("法" * 80) == "法" * 80
    for folder in folders:  # no name may claim another's folder
        with pytest.raises(InvalidRequestError):
            check_name(folder, field="name")
