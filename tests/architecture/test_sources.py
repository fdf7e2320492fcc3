"""Rules for every source file that no linter knows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from eztinker.config import CLIENT_VARIABLES, ENV_PREFIX, ServerConfig
from eztinker.errors import EZTinkerError

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "eztinker").rglob("*.py"))
PROGRAMS = [
    path for name in ("tools", "benchmarks", "examples") for path in ROOT.glob(f"{name}/**/*.py")
]
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "base_utils"}


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_a_module_says_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, f"{label(path)} has no docstring"
    first = docstring.split("\n\n")[0].replace("\n", " ").strip()
    assert len(first.split()) >= 3
    assert first[-1] in ".:;?!", f"the docstring of {label(path)} does not begin with a sentence"


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_a_file_is_one_noun(path: Path) -> None:
    assert path.stem not in VAGUE


def test_the_rules_apply_to_something() -> None:
    assert len(SOURCES) > 50


# Errors -------------------------------------------------------------------------------------------


def error_classes(cls: type[EZTinkerError] = EZTinkerError) -> list[type[EZTinkerError]]:
    below = [found for child in cls.__subclasses__() for found in error_classes(child)]
    return [found for found in (cls, *below) if found.__module__ == "eztinker.errors"]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [cls.__dict__.get("code") for cls in error_classes()]
    assert None not in codes, "a class inherits its code"
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z][a-z_]*", str(code)) for code in codes)


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    import eztinker.errors

    drawn: dict[str, str] = {}
    branch: list[str] = []
    for line in (eztinker.errors.__doc__ or "").splitlines():
        found = re.match(r"^ {4}((?:[│ ] {3})*)(?:[├└]── )?(\w+Error)\b", line)
        if found:
            depth = len(found[1]) // 4 + ("──" in line)
            branch[depth:] = [found[2]]
            drawn[found[2]] = branch[depth - 1] if depth else "Exception"
    assert drawn == {cls.__name__: cls.__bases__[0].__name__ for cls in error_classes()}


def test_exit_codes_in_the_tree_are_those_of_the_classes() -> None:
    import eztinker.errors

    stated = dict(re.findall(r"(\w+Error)\b.*\(exit code (\d)\)", eztinker.errors.__doc__ or ""))
    found = {cls.__name__: cls.exit_code for cls in error_classes()}
    assert len(stated) >= 8
    assert {name: found[name] for name in stated} == {
        name: int(code) for name, code in stated.items()
    }


# Settings -----------------------------------------------------------------------------------------


def test_every_variable_in_the_source_is_a_known_one() -> None:
    """A name with our prefix in a string is a setting of the server or a variable of the client."""
    known = {ENV_PREFIX + name.upper() for name in ServerConfig.model_fields} | CLIENT_VARIABLES
    unknown = {
        (label(path), name)
        for path in (*SOURCES, *PROGRAMS)
        for name in re.findall(r"\bEZTINKER_[A-Z][A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8"))
        if name not in known
    }
    assert unknown == set()


def test_no_variable_of_the_client_is_a_setting_of_the_server() -> None:
    settings = {ENV_PREFIX + name.upper() for name in ServerConfig.model_fields}
    assert not settings & CLIENT_VARIABLES


# What never happens -------------------------------------------------------------------------------

RUNS_CODE = {
    "pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "marshal",
    "shelve",
    "joblib",
    "jsonpickle",
}


@pytest.mark.parametrize("path", [*SOURCES, *PROGRAMS], ids=label)
def test_nothing_is_read_that_could_run_code(path: Path) -> None:
    """Neither pickles nor code arrive here, from the wire or from a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.partition(".")[0] for alias in node.names}
            names.add((getattr(node, "module", None) or "").partition(".")[0])
            assert not names & RUNS_CODE, f"{label(path)}:{node.lineno}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "compile", "torch.load"}, (
                f"{label(path)}:{node.lineno}: {called}"
            )
        if isinstance(node, ast.keyword) and node.arg in {"trust_remote_code", "allow_pickle"}:
            assert ast.unparse(node.value) == "False", f"{label(path)}:{node.lineno}"


def test_only_the_gate_sees_the_service_of_all() -> None:
    """Routes get the service as whoever asks sees it (``request.state.service``)."""
    for path in (ROOT / "src" / "eztinker" / "api").rglob("*.py"):
        if path.name not in {"gate.py", "server.py"}:
            assert "app.state.service" not in path.read_text(encoding="utf-8"), label(path)
