"""The package's top level: what it offers, and what importing it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import eztinker

DOCUMENTED = [
    "EZTinkerClient",
    "AsyncEZTinkerClient",
    "GSM8KDataset",
    "ShareGPTDataset",
    "create_training_run",
    "generate_candidates",
    "select_best_candidate_and_train",
    "populate_buffer",
    "load_buffer",
    "save_buffer",
    "wait_for_job",
    "LoRAConfig",
    "LossFunctionConfig",
    "OptimParams",
    "SamplingParams",
    "EvaluationBatch",
    "CreateTrainingRunRequest",
    "ShareGPTConversation",
    "ShareGPTMessage",
    "register_loss_function",
    "get_loss_function",
    "list_loss_functions",
    "EZTinkerError",
    "ServerUnreachableError",
    "JobFailedError",
    "__version__",
]


def type_checkers_names() -> set[str]:
    """Names that the ``TYPE_CHECKING`` block defines."""
    tree = ast.parse(Path(eztinker.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    names = {
        alias.asname or alias.name
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return names | {"__version__"}


def test_list_table_and_types_agree():
    assert set(eztinker.__all__) == type_checkers_names()
    assert set(eztinker.__all__) == set(eztinker._ORIGIN) | {"__version__"}
    assert dir(eztinker) == sorted(eztinker.__all__)


@pytest.mark.parametrize("name", eztinker.__all__)
def test_every_export_exists(name):
    assert getattr(eztinker, name) is not None


def test_documented_names_are_exported():
    assert set(DOCUMENTED) <= set(eztinker.__all__)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = eztinker.nonsense


def test_version_is_that_of_the_project():
    assert eztinker.__version__ == "0.1.0"


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_imports_next_to_nothing():
    code = (
        "import sys; before = set(sys.modules); import eztinker; print(*set(sys.modules) - before)"
    )
    loaded = set(run_python(code).split())
    assert len(loaded) < 60
    assert not loaded & {"asyncio", "httpx", "numpy", "pydantic", "rich", "torch", "typer", "yaml"}


def test_client_data_sets_and_help_do_without_torch():
    code = (
        "import sys, eztinker; eztinker.EZTinkerClient, eztinker.GSM8KDataset, eztinker.LoRAConfig;"
        "import eztinker.cli.main; print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    assert run_python(code) == "False False"
