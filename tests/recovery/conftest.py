"""``--kills N``: how many kills the long form makes."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=6, help="kills in tests/recovery")


@pytest.fixture
def num_kills(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--kills")
