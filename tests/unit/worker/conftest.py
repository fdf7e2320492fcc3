from __future__ import annotations

import pytest

from tests.model_factory import write_model
from tests.worker_harness import Harness


@pytest.fixture(scope="session")
def qwen2_folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("qwen2"), "qwen2")


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("gpt2"), "gpt2")


@pytest.fixture
def harness(qwen2_folder):
    return Harness(qwen2_folder)
