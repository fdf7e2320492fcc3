"""The reference pages are what the program says of itself today."""

from __future__ import annotations

import pytest

from tools.docs import DOCS, PAGES


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_is_fresh(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZTINKER_LANG", "en")
    page = PAGES[name]().rstrip() + "\n"
    assert (DOCS / name).read_text(encoding="utf-8") == page, "run `make docs`"
