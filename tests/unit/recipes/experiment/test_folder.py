"""The experiment's folder: what it keeps, what it refuses, what a crash leaves whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from eztinker.errors import InvalidRequestError, UnsupportedError
from eztinker.recipes.experiment.folder import Experiment
from eztinker.recipes.experiment.trackers import open_trackers
from eztinker.recipes.experiment.training_settings import TrainingConfig


def test_settings_and_state_are_found_again(tmp_path: Path):
    config = TrainingConfig(lora_r=3)
    Experiment.open(tmp_path, "sft", config).save_state(run_id="run_1")
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["lora_r"] == 3
    again = Experiment.open(tmp_path, "sft", config)
    assert again.is_continued
    assert again.state["run_id"] == "run_1"


def test_another_experiment_is_refused_with_every_difference(tmp_path: Path):
    Experiment.open(tmp_path, "sft", TrainingConfig(lora_r=3))
    with pytest.raises(
        InvalidRequestError, match=r"lora_r was 3, now 4.*overwrite_output_dir=true"
    ):
        Experiment.open(tmp_path, "sft", TrainingConfig(lora_r=4))
    with pytest.raises(InvalidRequestError, match="its recipe is 'sft', not 'dpo'"):
        Experiment.open(tmp_path, "dpo", TrainingConfig(lora_r=3))
    Experiment.open(tmp_path, "sft", TrainingConfig(lora_r=3, save_steps=5))  # may change
    fresh = Experiment.open(tmp_path, "dpo", TrainingConfig(lora_r=4), overwrite=True)
    assert not fresh.is_continued


def test_overwriting_leaves_foreign_files(tmp_path: Path):
    first = Experiment.open(tmp_path, "sft", TrainingConfig())
    first.log("train", 1, loss=1.0)
    first.write_rollouts(1, [{"text": "x"}])
    (tmp_path / "notes.txt").write_text("mine")
    Experiment.open(tmp_path, "sft", TrainingConfig(), overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == [
        "config.yaml",
        "notes.txt",
        "state.json",
    ]
    assert list((tmp_path / "rollouts").iterdir()) == []


def test_measurements_survive_a_torn_line(tmp_path: Path):
    experiment = Experiment.open(tmp_path, "sft", TrainingConfig())
    experiment.log("train", 1, loss=2.0, grad_norm=float("nan"))
    experiment.log("eval", 1, loss=1.5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 2, "lo')
    again = Experiment.open(tmp_path, "sft", TrainingConfig())
    assert [line["loss"] for line in again.metrics()] == [2.0, 1.5]
    assert again.metrics("train")[0]["grad_norm"] is None
    assert again.has("eval", 1)
    assert not again.has("eval", 2)
    again.log("train", 2, loss=1.0)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 1, 2]


def test_checkpoints_are_listed_once_and_dropped(tmp_path: Path):
    experiment = Experiment.open(tmp_path, "sft", TrainingConfig())
    experiment.add_checkpoint("step-1", 1, "/a")
    experiment.add_checkpoint("step-2", 2, "/b")
    experiment.add_checkpoint("step-1", 1, "/c")
    assert [c["name"] for c in experiment.checkpoints()] == ["step-2", "step-1"]
    experiment.drop_checkpoint("step-2")
    assert experiment.checkpoints() == [{"name": "step-1", "step": 1, "path": "/c"}]


class Recorder:
    def __init__(self) -> None:
        self.lines: list[tuple[int, Mapping[str, float]]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.lines.append((step, values))

    def close(self) -> None:
        self.lines.append((-1, {}))


def test_trackers_get_numbers_at_the_chosen_interval(tmp_path: Path):
    experiment, recorder = Experiment.open(tmp_path, "sft", TrainingConfig()), Recorder()
    experiment.trackers, experiment.tracker_steps = [recorder], 2
    for step in (1, 2):
        experiment.log("train", step, loss=1.0, note="text", bad=float("inf"))
    experiment.log("eval", 1, loss=0.5)
    experiment.close()
    assert recorder.lines == [(2, {"train/loss": 1.0}), (1, {"eval/loss": 0.5}), (-1, {})]


def test_tensorboard_writes_an_event_file(tmp_path: Path):
    pytest.importorskip("tensorboard")
    (tracker,) = open_trackers(["tensorboard"], tmp_path, "name", "project", {})
    tracker.log(3, {"train/loss": 1.25})
    tracker.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    tensor = events.Tensors("train/loss")[0]
    assert tensor.step == 3
    assert tensor.tensor_proto.float_val[0] == pytest.approx(1.25)


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_tracker_that_is_not_installed_names_its_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import sys

    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with pytest.raises(UnsupportedError, match=rf"eztinker\[{name}\]"):
        open_trackers([name], tmp_path, "run", "project", {})


def test_wandb_continues_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The calls that wandb gets, for it cannot be installed everywhere."""
    import sys
    from types import SimpleNamespace

    calls = []
    run = SimpleNamespace(
        log=lambda values: calls.append(values), finish=lambda: calls.append("end")
    )

    def init(**arguments: object) -> object:
        calls.append(arguments)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    (tracker,) = open_trackers(["wandb"], tmp_path, "sft-run_1", "mine", {"lora_r": 1})
    tracker.log(2, {"train/loss": 1.0})
    tracker.close()
    arguments, line, end = calls
    assert (arguments["id"], arguments["resume"], arguments["project"]) == (
        "sft-run_1",
        "allow",
        "mine",
    )
    assert line == {"step": 2, "train/loss": 1.0}
    assert end == "end"


def test_the_log_lies_beside_the_folder_and_is_continued(tmp_path: Path):
    folder = tmp_path / "logs" / "sft_train"
    for step in (1, 2):
        experiment = Experiment.open(folder, "sft", TrainingConfig())
        experiment.trackers = open_trackers(["log"], folder, "name", "project", {"lora_r": 3})
        experiment.log("train", step, loss=0.5 / step)
        experiment.close()
    lines = (tmp_path / "logs" / "sft_train.log").read_text().splitlines()
    assert len(lines) == 4
    assert '"lora_r": 3' in lines[0]
    assert lines[1].endswith("step 1: train/loss=0.5")
    assert lines[3].endswith("step 2: train/loss=0.25")
