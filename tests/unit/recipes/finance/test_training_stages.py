"""Where a training stage stands, what it asks for, and when its adapter takes the old one's place."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from eztinker.dataset.finance import RLRow, SFTRow
from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.recipes.finance import adapter_folder, grpo, sft, tracking
from eztinker.recipes.finance.config import FinanceConfig
from eztinker.recipes.finance.judging import JudgeRequest, Verdict
from eztinker.recipes.finance.parts import WandbConfig
from eztinker.recipes.terminal import SilentProgress
from eztinker.rendering.finance import finance_request
from eztinker.rl.candidates import Example

ROW = {"id": "a", "prompt": "1 + 1?", "type": "financial_calculation"}


def write_rows(root: Path) -> None:
    (root / "dataprocessed").mkdir()
    rows = {"sft": ROW | {"response": "2"}, "rl": ROW | {"gold_answer": "2"}}
    for name, row in rows.items():
        (root / "dataprocessed" / f"{name}.jsonl").write_text(json.dumps(row) + "\n")


@pytest.mark.parametrize("name", ["4_train_sft", "5_train_grpo"])
def test_a_training_script_without_rows_starts_no_server(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EZTINKER_LANG", "en")
    script = Path(__file__).parents[4] / "scripts" / f"{name}.py"
    door = runpy.run_path(str(script))["DOOR"]
    assert door.main(["--root", str(tmp_path)]) == 4
    assert "Run stage 3" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_stage_names_the_stage_that_is_missing(tmp_path: Path) -> None:
    config = FinanceConfig(root=tmp_path)
    for stage in (sft, grpo):
        with pytest.raises(NotFoundError, match="stage 3"):
            stage.run(config, None, SilentProgress())
    write_rows(tmp_path)
    with pytest.raises(NotFoundError, match=r"Run stage 4 first: python scripts/4_train_sft\.py"):
        grpo.run(config, None, SilentProgress())


def test_half_done_finished_and_afresh(tmp_path: Path) -> None:
    folder, target = tmp_path / "logs", tmp_path / "adapter"
    assert adapter_folder.begin(folder, target, overwrite=False) is False  # nothing yet
    (folder / "state.json").write_text("{}")
    target.mkdir()  # of an earlier training; this one is half done and goes on
    assert adapter_folder.begin(folder, target, overwrite=False) is False
    adapter_folder.finish(folder, {"steps": 3})
    with pytest.raises(InvalidRequestError, match="--overwrite") as refused:
        adapter_folder.begin(folder, target, overwrite=False)
    assert refused.value.code == "output_exists"
    assert adapter_folder.finished_figures(folder) == {"steps": 3}
    assert adapter_folder.begin(folder, target, overwrite=True) is True
    assert target.exists()  # until the new one is whole
    # Killed now: the next call continues, although the old adapter is still there.
    assert adapter_folder.begin(folder, target, overwrite=False) is False


def test_an_adapter_of_other_inputs_is_stale_and_a_half_done_one_begins_afresh(
    tmp_path: Path,
) -> None:
    folder, target, rows = tmp_path / "logs", tmp_path / "adapter", tmp_path / "sft.jsonl"
    rows.write_text("first")
    assert adapter_folder.begin(folder, target, [rows], overwrite=False) is False
    (folder / "state.json").write_text("{}")
    rows.write_text("second")  # while it is half done
    assert adapter_folder.begin(folder, target, [rows], overwrite=False) is True
    assert not (folder / "state.json").exists()
    target.mkdir()
    adapter_folder.finish(folder, {"steps": 3})
    rows.write_text("third")
    with pytest.raises(InvalidRequestError, match=r"another sft\.jsonl") as refused:
        adapter_folder.begin(folder, target, [rows], overwrite=False)
    assert refused.value.code == "output_stale"
    (folder / "state.json").write_text("{}")
    assert adapter_folder.begin(folder, target, [rows], overwrite=True) is True
    # Killed here: nothing of the older training is left to be continued, and the old adapter is not taken for done.
    assert not (folder / "state.json").exists()
    assert adapter_folder.begin(folder, target, [rows], overwrite=False) is False


class Server:
    """Hands out one checkpoint, or breaks in the middle of it."""

    is_broken = False

    def download_checkpoint(self, run_id: str, name: str, folder: Path) -> Path:
        folder.mkdir()
        (folder / "adapter_config.json").write_text(f"{run_id}@{name}")
        if self.is_broken:
            raise ConnectionError
        return folder


def test_an_adapter_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target, server = tmp_path / "adapter", Server()
    adapter_folder.bring_home(server, "one@final", target)
    server.is_broken = True
    with pytest.raises(ConnectionError):
        adapter_folder.bring_home(server, "two@final", target)
    assert (target / "adapter_config.json").read_text() == "one@final"
    server.is_broken = False
    adapter_folder.bring_home(server, "two@final", target)
    assert (target / "adapter_config.json").read_text() == "two@final"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_training_and_reward_ask_in_the_same_words(tmp_path: Path) -> None:
    path = tmp_path / "conversations.jsonl"
    sft.write_conversations(path, [SFTRow("a", "利润？", "<think>…", "concept_qa")])
    (line,) = path.read_text(encoding="utf-8").splitlines()
    asked, answered = json.loads(line)["messages"]
    assert asked == {"role": "user", "content": finance_request("利润？")}
    assert answered == {"role": "assistant", "content": "<think>…"}

    class Tokenizer:
        chat_template = "…"

        def apply_chat_template(self, messages: list[dict[str, str]], **_: object) -> str:
            return f"[{messages[0]['content']}]<think>\n"

    questions = grpo.questions_of([RLRow("a", "利润？", "2", "concept_qa")], Tokenizer())
    (example,) = questions.examples
    assert example.prompt == f"[{finance_request('利润？')}]<think>\n"
    scorer = grpo.scorer_of(FinanceConfig(), None)
    # The template opened the think block, so the answer begins inside it.
    (grade,) = scorer.score([(example, "一加一</think><answer>2</answer>")])
    assert grade["format_reward"] == grade["rule_reward"] == 1.0


def test_wandb_never_stops_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    off, on = WandbConfig(enabled=False), WandbConfig()
    assert tracking.trackers_for(off, SilentProgress()) == ["log"]
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    assert tracking.trackers_for(on, SilentProgress()) == ["log"]
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))
    assert tracking.trackers_for(on, SilentProgress()) == ["log", "wandb"]
    assert tracking.os.environ["WANDB_MODE"] == "offline"
    monkeypatch.delenv("WANDB_MODE")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    assert tracking.trackers_for(on, SilentProgress()) == ["log", "wandb"]
    assert "WANDB_MODE" not in tracking.os.environ


class StrictJudge:
    """Marks of 5, and no verdict on the second answer."""

    identity = "strict"

    def verdicts(self, requests: Sequence[JudgeRequest]) -> Iterator[Verdict]:
        assert [request.gold_answer for request in requests] == ["2", "2"]
        yield Verdict(1, None)
        yield Verdict(0, dict.fromkeys(("clarity", "accuracy"), 5.0))


def test_the_judges_marks_are_shares_of_the_largest() -> None:
    scorer = grpo.scorer_of(FinanceConfig(), StrictJudge())
    example = Example(0, "1 + 1?", "prompt", "2")
    text = "<think>1 + 1 = 2</think><answer>2</answer>"
    judged, failed = scorer.score([(example, text), (example, text)])
    assert judged["judge_reward"] == 0.5
    assert judged["score"] == pytest.approx(0.3 + 0.7 * (0.5 * 1 + 0.5 * 0.5))
    assert failed["judge_reward"] is None
    assert failed["score"] == pytest.approx(1.0)
    assert scorer.figures_of([judged, failed])["num_failed_verdicts"] == 1
