"""Hostile text and languages."""

import pytest

from eztinker.recipes.terminal import (
    SilentProgress,
    TerminalProgress,
    harmless,
    pick,
    print_out,
)


def test_nothing_in_a_text_is_obeyed():
    assert harmless("a\x1b[31mb\u202ec\td\n") == "a\\x1b[31mb\\x202ec\td\n"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_US", "EZTINKER_LANG": "zh"}, "zh"),
    ],
)
def test_language_of_the_person(monkeypatch, variables, expected):
    for name in ("EZTINKER_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert pick("en", "zh") == expected


def test_progress_goes_to_stderr_and_results_to_stdout(capsys):
    progress = TerminalProgress()
    progress.say("[red]working[/red] \x1b[2J")
    assert list(progress.track("label", iter("abc"), 3)) == ["a", "b", "c"]
    assert list(progress.track("nothing", iter(""), 0)) == []
    print_out("result")
    captured = capsys.readouterr()
    assert captured.out == "result\n"
    assert "[red]working[/red]" in captured.err
    assert "\x1b[2J" not in captured.err
    assert list(SilentProgress().track("label", iter("ab"), 2)) == ["a", "b"]
