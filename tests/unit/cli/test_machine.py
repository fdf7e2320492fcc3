"""Commands that need no server: settings, doctor, data files, the server's flags, the demo's options."""

import json
from pathlib import Path

import pytest

from eztinker.recipes import demo as demo_recipe
from tests.unit.cli.conftest import Run
from tests.unit.client import fake_service
from tests.unit.client.fake_service import FakeService


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in an empty folder, without a user's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    return tmp_path


def test_config_show_and_check(run: Run, empty_folder: Path):
    assert json.loads(run("config", "show", "--json").stdout)["port"] == 8000
    (empty_folder / "eztinker.yaml").write_text("port: 8123\n")
    assert "port: 8123\n" in run("config", "show").stdout
    assert run("config", "check").code == 0
    (empty_folder / "other.yaml").write_text("prot: 8123\n")
    wrong = run("config", "check", "other.yaml")
    assert wrong.code == 2
    assert "Did you mean port?" in wrong.stderr
    assert run("config", "check", "absent.yaml").code == 2


def test_doctor_is_well_without_a_server(run: Run, service: FakeService):
    service.script = [fake_service.refused() for _ in range(99)]
    found = json.loads(run("doctor", "--json").stdout)
    levels = {finding["name"]: finding["level"] for finding in found["findings"]}
    assert found["ok"] is True
    assert levels["python"] == levels["torch"] == levels["nano"] == "ok"
    assert levels["server"] == "warning"


def test_doctor_fails_when_something_needed_is_missing(
    run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("eztinker.cli.doctor.importlib.util.find_spec", lambda name: None)
    sick = run("doctor")
    assert sick.code == 1
    assert "pip install torch" in sick.stdout


def test_data_inspect(run: Run, empty_folder: Path):
    rows = [
        {"question": "q", "answer": "a"},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
        {"conversations": [{"from": "human", "value": "x"}]},
    ]
    lines = "\n".join(json.dumps(row) for row in rows)
    (empty_folder / "rows.jsonl").write_text(lines)
    facts = json.loads(run("data", "inspect", "rows.jsonl", "--json").stdout)
    assert facts["num_rows"] == 3
    assert facts["formats"] == {"question_answer": 1, "messages": 1}
    assert facts["num_bad"] == 1
    assert facts["bad"][0].startswith("rows.jsonl:3: ")
    assert "⟦y<|im_end|>⟧" in facts["rendered"][1]["text"]
    shown = run("data", "inspect", "rows.jsonl")
    assert "rows.jsonl:3: " in shown.stderr
    assert "█" in shown.stdout
    assert run("data", "inspect", "absent.jsonl").code == 4
    (empty_folder / "none.jsonl").write_text('{"neither": "question nor answer"}\n')
    assert run("data", "inspect", "none.jsonl", "--json").code == 1


def test_server_flags_become_settings(run: Run, monkeypatch: pytest.MonkeyPatch):
    started = []

    def serve(config, *, exit_with_parent, ready_file, only_openai):
        started.append((config, exit_with_parent, ready_file, only_openai))
        return 0

    monkeypatch.setattr("eztinker.launch.serve", serve)
    flags = (
        "--host 127.0.0.1 --port 8080 --workers 4 --checkpoints-dir data/checkpoints --state-dir st"
    )
    more = "--model nano --model other --alias a=nano --alias b/c=/d=e --num-threads 1 --device cpu"
    assert run("server", *flags.split(), *more.split()).code == 0
    config, *others = started[0]
    assert (config.port, config.workers, config.num_threads) == (8080, 4, 1)
    assert config.checkpoints_path == Path("data/checkpoints")
    assert config.models == ("nano", "other")
    assert config.aliases == {"a": "nano", "b/c": "/d=e"}
    assert others == [False, None, False]
    run("server", "--exit-with-parent", "--ready-file", "r")
    assert started[1][0].port == 8000
    assert started[1][1:] == (True, Path("r"), False)


def test_flags_outrank_variables_and_files(
    run: Run, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    ports = []
    monkeypatch.setattr("eztinker.launch.serve", lambda config, **_: ports.append(config.port) or 0)
    (empty_folder / "eztinker.yaml").write_text("port: 1111\n")
    run("server")
    monkeypatch.setenv("EZTINKER_PORT", "2222")
    run("server")
    run("server", "--port", "3333")
    assert ports == [1111, 2222, 3333]


@pytest.mark.parametrize("alias", ["a", "=b", "a="])
def test_a_half_alias_is_refused(run: Run, alias: str):
    refused = run("server", "--alias", alias)
    assert refused.code == 2
    assert "NAME=NAME_OR_PATH" in refused.stderr


def test_demo_passes_its_options_on(run: Run, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def run_demo(options: demo_recipe.DemoOptions) -> demo_recipe.DemoReport:
        asked.append(options)
        return _report(options)

    monkeypatch.setattr(demo_recipe, "run_demo", run_demo)
    flags = "--model m --dataset gsm8k --data-path d --max-samples 5 --num-candidates 2 --epochs 1"
    shown = run(
        "demo", *flags.split(), *["--eval-size", "7", "--seed", "3", "--output-dir", "o", "--json"]
    )
    assert shown.code == 0
    options = asked[0]
    assert (options.model, options.dataset, options.data_path) == ("m", "gsm8k", Path("d"))
    assert (options.max_samples, options.num_candidates, options.epochs) == (5, 2, 1)
    assert (options.eval_size, options.seed, options.output_dir) == (7, 3, Path("o"))
    documented = """accuracy_before accuracy_after sampled_accuracy_before sampled_accuracy_after
    eval_size seconds seed plot run_id model"""
    assert set(documented.split()) <= set(json.loads(shown.stdout))
    run("demo")
    assert asked[1] == demo_recipe.DemoOptions()


def _report(options: demo_recipe.DemoOptions) -> demo_recipe.DemoReport:
    return demo_recipe.DemoReport(
        accuracy_before=0.3,
        accuracy_before_ci95=[0.2, 0.4],
        accuracy_after=0.6,
        accuracy_after_ci95=[0.5, 0.7],
        sampled_accuracy_before=0.2,
        sampled_accuracy_before_ci95=[0.1, 0.3],
        sampled_accuracy_after=0.5,
        sampled_accuracy_after_ci95=[0.4, 0.6],
        eval_size=options.eval_size,
        seconds=1.0,
        seed=options.seed,
        plot="p.png",
        results="r.json",
        run_id="run_1",
        model=options.model,
        dataset=options.dataset,
        num_trained=10,
        advice=[],
    )
