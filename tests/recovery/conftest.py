"""How long the long forms are: ``--kills N``, ``--kill-seed N``, ``--cuts N``, ``--terms N``, ``--failpoints N`` (0: all of them)."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=6, help="kills in tests/recovery")
    parser.addoption("--kill-seed", type=int, default=0, help="another draw of the instants")
    parser.addoption("--failpoints", type=int, default=3, help="places to die at; 0 walks all")
    parser.addoption("--terms", type=int, default=1, help="orderly stops under load")
    parser.addoption("--cuts", type=int, default=0, help="power cuts; 0 makes none")


@pytest.fixture
def num_kills(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--kills")


@pytest.fixture
def num_failpoints(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--failpoints")


@pytest.fixture
def num_cuts(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--cuts")


@pytest.fixture
def num_terms(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--terms")
