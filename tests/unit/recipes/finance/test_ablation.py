"""Arms of the ablation: what they change, what they are made from, and what no arm is trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eztinker.dataset.finance import DistilledRow, RLRow, SFTRow, as_jsonl, read_records
from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.recipes.finance import ablation, arms
from eztinker.recipes.finance.config import FinanceConfig
from eztinker.recipes.terminal import SilentProgress

KIND = "financial_calculation"
WORKED = "<think>1 + {0} = {1}，所以答案是{1}。这样就算完了，没有别的。</think><answer>{1}</answer>"


@pytest.fixture
def config(tmp_path: Path) -> FinanceConfig:
    """What stages 2 to 5 leave: eight distilled rows, of which one is held out and one is wrong."""
    questions = [f"1加{i}是多少？" for i in range(8)]
    answers = [WORKED.format(i, i + 1 if i != 7 else 99) for i in range(8)]
    rows = [DistilledRow(f"q{i}", q, str(i + 1), KIND, a) for i, (q, a) in enumerate(zip(questions, answers, strict=True))]  # fmt: skip
    data = tmp_path / "dataprocessed"
    data.mkdir()
    (data / "distilled.jsonl").write_text(as_jsonl(rows), encoding="utf-8")
    held_out = RLRow("q3", questions[3], "4", KIND)
    (data / "test.jsonl").write_text(as_jsonl([held_out]), encoding="utf-8")
    (data / "rl.jsonl").write_text(
        as_jsonl([RLRow("q0", questions[0], "1", KIND)]), encoding="utf-8"
    )
    for name in ("sft_lora", "grpo_lora"):
        (tmp_path / "ckpts" / name).mkdir(parents=True)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (tmp_path / "ckpts" / name / file).write_text(name, encoding="utf-8")
    return FinanceConfig(root=tmp_path)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, FinanceConfig]]:
    """The stages that ran, which train nothing."""
    ran: list[tuple[str, FinanceConfig]] = []
    monkeypatch.setattr(arms.sft, "run", lambda own, *_: ran.append(("sft", own)))
    monkeypatch.setattr(arms.grpo, "run", lambda own, *_, **__: ran.append(("grpo", own)))
    return ran


def arm_of(name: str) -> arms.Arm:
    (arm,) = arms.chosen_arms(name)
    return arm


def test_arms_by_name() -> None:
    assert [arm.name for arm in arms.chosen_arms("sft_grpo, base")] == ["base", "sft_grpo"]
    assert len(arms.chosen_arms(None)) == 6
    with pytest.raises(InvalidRequestError, match="no_kl"):
        arms.chosen_arms("nokl")


def test_each_trained_arm_changes_one_thing(config: FinanceConfig) -> None:
    without_kl = arms.config_of(config, arm_of("no_kl"))
    assert without_kl.grpo.kl_coef == 0
    assert without_kl.root == config.root / "ckpts" / "ablation" / "no_kl"
    swapped = arms.config_of(config, arm_of("swapped_weights")).grpo
    assert (swapped.format_reward_weight, swapped.accuracy_reward_weight) == (0.7, 0.3)
    assert swapped.kl_coef == config.grpo.kl_coef
    assert arms.config_of(config, arm_of("sft")) is config


def test_the_unjudged_arm_trains_on_what_the_rules_left_and_on_no_test_question(
    config: FinanceConfig, trained: list[tuple[str, FinanceConfig]]
) -> None:
    arms.train_arm(config, arm_of("no_judge_filter"), None, SilentProgress(), None)
    assert [stage for stage, _ in trained] == ["sft", "grpo"]
    paths = trained[0][1].paths
    made = read_records(paths.sft_rows, SFTRow, made_by="")
    assert [row.id for row in made] == [
        "q0",
        "q1",
        "q2",
        "q4",
        "q5",
        "q6",
    ]  # q3 is held out, q7 wrong
    assert [row.id for row in read_records(paths.rl_rows, RLRow, made_by="")] == [
        row.id for row in made
    ]


def test_an_arm_begins_afresh_only_when_its_inputs_changed(
    config: FinanceConfig, trained: list[tuple[str, FinanceConfig]]
) -> None:
    arm = arm_of("no_kl")
    arms.train_arm(config, arm, None, SilentProgress(), None)
    own = trained[0][1]
    assert (own.paths.sft_lora / "adapter_config.json").read_text() == "sft_lora"
    mark = own.root / "mark"
    mark.touch()
    arms.train_arm(config, arm, None, SilentProgress(), None)
    assert mark.exists()  # an interrupted arm goes on
    (config.paths.sft_lora / "adapter_model.safetensors").write_text("trained again")
    arms.train_arm(config, arm, None, SilentProgress(), None)
    assert not mark.exists()
    assert [stage for stage, _ in trained] == ["grpo"] * 3


def test_the_arm_without_a_judge_needs_one_to_leave_out(config: FinanceConfig) -> None:
    assert not ablation.was_judged(config)
    config.paths.filter_stats.write_text(json.dumps({"settings": {"judge": "nano"}}))
    assert ablation.was_judged(config)


def test_report_table_and_plot(config: FinanceConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Said(SilentProgress):
        def say(self, text: str) -> None:
            said.append(text)

    def evaluate(c: Any, client: Any, progress: Any, arm: str, model: Any, *, judge: Any) -> Any:
        share = {"base": 0.0, "sft": 0.4, "sft_grpo": 0.6}[arm]
        both = dict.fromkeys(ablation.SHARES, share)
        return {**both, **{f"{key}_ci95": [max(0, share - 0.1), share + 0.1] for key in both}}

    monkeypatch.setattr(ablation, "evaluate_model", evaluate)
    monkeypatch.setattr(ablation, "arm_model", lambda *_: None)
    wanted = "base,sft,sft_grpo,no_judge_filter"
    report = ablation.run(config, None, Said(), arms=wanted)
    again = ablation.run(config, None, Said(), arms=wanted)
    assert report["report"] != again["report"]  # earlier results stay
    held = json.loads(Path(report["report"]).read_text(encoding="utf-8"))
    assert list(held["arms"]) == ["base", "sft", "sft_grpo"]
    assert held["left_out"] == ["no_judge_filter"]
    assert "no_judge_filter" in said[0]
    assert "| sft_grpo | 60.0% [50.0, 70.0] |" in Path(report["table"]).read_text()
    assert Path(report["plot"]).read_bytes().startswith(b"\x89PNG")


def test_a_missing_adapter_is_said_before_anything_is_evaluated(config: FinanceConfig) -> None:
    (config.paths.grpo_lora / "adapter_config.json").unlink()
    with pytest.raises(NotFoundError, match="Run stage 5 first"):
        ablation.run(config, None, SilentProgress(), arms="base,sft_grpo")
    assert not config.paths.reports.exists()
