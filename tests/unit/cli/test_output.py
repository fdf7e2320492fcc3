"""Printing: hostile text, languages, colours, encodings."""

import io
import string
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.cli import estimate, output, texts
from tests.unit.cli.conftest import Run


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_model_output_cannot_command_the_terminal(monkeypatch: pytest.MonkeyPatch):
    hostile = "a\x1b[2J\x07\x9b31m\u202eb\r\ttab\nline 你好"
    terminal, pipe = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    output.print_text(hostile)
    monkeypatch.setattr(sys, "stdout", pipe)
    output.print_text(hostile)
    assert terminal.getvalue() == "a\\x1b[2J\\x07\\x9b31m\\x202eb\\x0d\ttab\nline 你好\n"
    assert pipe.getvalue() == hostile + "\n"


@given(st.text())
def test_harmless_text_has_nothing_to_obey(text):
    shown = output.harmless(text)
    assert not any(ord(c) < 32 and c not in "\t\n" for c in shown)
    assert output.harmless(shown) == shown


@given(st.text(string.printable + "你好"))
def test_harmless_leaves_ordinary_text_alone(text):
    ordinary = "".join(c for c in text if c not in "\r\x0b\x0c")
    assert output.harmless(ordinary) == ordinary


def test_cells_are_text_and_not_markup(capsys: pytest.CaptureFixture[str]):
    output.print_table(("[red]A[/red]",), [("[bold]x[/bold]",)])
    assert "[bold]x[/bold]" in capsys.readouterr().out


def test_errors_are_red_only_where_colours_are_wanted(monkeypatch: pytest.MonkeyPatch):
    def shown() -> str:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        output.error_line("Error", "why")
        return terminal.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert shown() == "\x1b[31mError:\x1b[0m why\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert shown() == "Error: why\n"


def test_a_stream_without_chinese_gets_escapes(monkeypatch: pytest.MonkeyPatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    output.print_text("你")
    assert raw.getvalue() == b"\\u4f60\n"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C", "EZTINKER_LANG": "zh"}, "zh"),
        ({"LANG": "zh_TW", "EZTINKER_LANG": "en"}, "en"),
    ],
)
def test_language(variables, expected, monkeypatch: pytest.MonkeyPatch):
    for name in ("LANG", "LC_ALL", "LC_MESSAGES", "EZTINKER_LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert texts.language() == expected


def test_both_languages_have_the_same_places():
    def places(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for key, (english, chinese) in texts._TEXTS.items():
        assert english, key
        assert places(english) == places(chinese), key


def test_every_text_is_asked_for():
    folder = Path(texts.__file__).parent
    words = {"help_texts.py", "messages.py"}
    sources = "".join(p.read_text("utf-8") for p in folder.glob("*.py") if p.name not in words)
    quoted = sources.replace("'", '"')  # inside an f-string a key has the other quotes
    asked = {key for key in texts._TEXTS if f'"{key}"' in quoted}
    assert asked | {f"estimate {part}" for part in estimate._PARTS} == texts._TEXTS.keys()


def test_messages_in_chinese(run: Run, service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_LANG", "zh")
    assert run("sample", "x").stderr == "任务已提交：job_00000000\n"
    assert run("delete", "absent").stderr.startswith("错误: ")


@pytest.mark.parametrize(("size", "shown"), [(0, "0 B"), (999, "999 B"), (12_300_000, "12.3 MB")])
def test_sizes(size, shown):
    assert output.size_text(size) == shown
