"""Questions as prompts of a model, and whole outputs back: templates that open the think block, prompts that are too long."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from eztinker.errors import UnsupportedError
from eztinker.grading.reasoning_form import read_form
from eztinker.recipes.experiment.policy import policy_of
from eztinker.recipes.finance.answering import ServiceAnswerer
from eztinker.recipes.finance.asking import ask
from eztinker.recipes.finance.judging import JudgeRequest, ModelJudge
from eztinker.recipes.finance.models import base_model
from eztinker.recipes.finance.parts import EvaluationConfig, JudgeConfig, TeacherConfig
from eztinker.recipes.finance.teacher import ModelTeacher, TeacherRequest
from eztinker.rendering.finance import FORM, REMINDER, finance_request, judgement_request


class Characters:
    """A tokenizer with one token a character, whose template may open the think block."""

    bos_token = None
    eos_token_id = 0

    def __init__(self, opening: str = "", chat_template: str | None = "x") -> None:
        self.opening, self.chat_template = opening, chat_template

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        return f"U:{messages[0]['content']}\nA:{self.opening}"

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(one) for one in text]

    def decode(self, tokens: list[int], **_: Any) -> str:
        return "".join(chr(token) for token in tokens)


@dataclass
class Client:
    """Answers every prompt with the same text; remembers what it was asked."""

    tokenizer: Characters
    answer: str
    context: int = 4096
    asked: list[dict[str, Any]] = field(default_factory=list)
    imported: list[dict[str, Any]] = field(default_factory=list)

    def get_tokenizer(self, _: str) -> Characters:
        return self.tokenizer

    def get_models(self) -> list[dict[str, Any]]:
        return [{"kind": "base_model", "id": "m", "context_length": self.context}]

    def sample(self, *_: Any, **__: Any) -> list[str]:
        return [""]

    def submit_sample(self, prompt: list[int], **options: Any) -> Any:
        self.asked.append({"prompt": self.tokenizer.decode(prompt), **options})
        return type("Handle", (), {"job_id": len(self.asked)})()

    def wait_for_job(self, *_: Any, **__: Any) -> dict[str, Any]:
        tokens = [*self.tokenizer.encode(self.answer), 0]
        one = {"text": self.answer, "tokens": tokens, "stop_reason": "stop"}
        return {"result": {"sequences": [one]}}

    def get_runs(self, **_: Any) -> list[dict[str, Any]]:
        return []

    def import_adapter(self, folder: Path, base_model: str, run_id: str) -> None:
        self.imported.append({"base": base_model, "run_id": run_id})


def test_the_request_names_the_form_in_the_questions_language() -> None:
    assert FORM["zh"] in finance_request("利润是多少？")
    assert FORM["en"] in finance_request("What is the profit?")
    assert REMINDER["zh"] not in finance_request("利润是多少？")
    assert finance_request("利润是多少？", is_reminder=True).endswith(REMINDER["zh"])
    asked = judgement_request("利润{x}？", "{2}", "<think>{y}</think>")
    assert all(text in asked for text in ("利润{x}？", "{2}", "<think>{y}</think>", '{"clarity"'))


def test_a_template_that_opens_the_think_block_gives_whole_outputs() -> None:
    rest = "二加二得四，写成数字。</think>\n<answer>4</answer>"
    for opening, answer in (("<think>\n", rest), ("", "<think>" + rest)):
        client = Client(Characters(opening), answer)
        teacher = ModelTeacher(client, TeacherConfig(model_name="m", quantization="none"), 1)
        (found,) = teacher.answers([TeacherRequest(7, "2+2等于几？", 1)])
        assert found.index == 7
        assert read_form(found.text).is_complete
        assert client.asked[0]["prompt"].endswith(opening)


def test_a_second_attempt_reminds_and_draws_anew() -> None:
    client = Client(Characters(), "4")
    teacher = ModelTeacher(client, TeacherConfig(model_name="m", quantization="nf4"), 1)
    list(
        teacher.answers([TeacherRequest(3, "2+2等于几？", 1), TeacherRequest(5, "1+1等于几？", 1)])
    )
    list(teacher.answers([TeacherRequest(5, "1+1等于几？", 1)]))
    list(teacher.answers([TeacherRequest(5, "1+1等于几？", 2)]))
    first, five, again, second = client.asked
    assert first["base_model"] == "m:nf4"
    assert five == again  # a resumed question gets the answer that it would have got
    assert REMINDER["zh"] in second["prompt"]
    assert second["seed"] != five["seed"]


def test_what_does_not_fit_is_said_and_never_asked() -> None:
    client = Client(Characters(), "x", context=300)
    question, long = "2+2等于几？", "长" * 400
    teacher = ModelTeacher(client, TeacherConfig(model_name="m", quantization="none"), 1)
    answers = {one.index: one for one in teacher.answers([TeacherRequest(0, long, 1), TeacherRequest(1, question, 1)])}  # fmt: skip
    assert answers[0].refusal == "prompt_too_long"
    assert (answers[1].refusal, answers[1].text) == ("", "x")
    judge = ModelJudge(client, JudgeConfig(model_name="m", quantization="none"))
    (verdict,) = judge.verdicts([JudgeRequest(4, long, "4", "x")])
    assert (verdict.index, verdict.marks, verdict.text) == (4, None, "prompt_too_long")
    answerer = ServiceAnswerer(client, base_model(client, "m", "none"), EvaluationConfig(), 250)
    outputs = dict(answerer.outputs({2: long, 9: question}))
    assert outputs[2][0].reason == "prompt_too_long"
    assert (outputs[9][0].text, outputs[9][0].reason) == ("x", "stop")
    assert client.asked[-1]["max_new_tokens"] == 125  # half of the length, whatever else is asked


def test_a_judge_is_asked_greedily_and_its_marks_are_read() -> None:
    text = '{"clarity": 8, "accuracy": 9, "completeness": 7, "concision": 6, "reason": "好"}'
    client = Client(Characters(), text)
    judge = ModelJudge(client, JudgeConfig(model_name="m", quantization="none"))
    (verdict,) = judge.verdicts([JudgeRequest(4, "2+2等于几？", "4", "<answer>4</answer>")])
    assert (verdict.index, verdict.score, verdict.reason) == (4, 7.5, "好")
    assert client.asked[0]["temperature"] == 0.0


def test_a_model_without_a_chat_template_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="chat template") as caught:
        ask(Characters(chat_template=None), "利润？")
    assert caught.value.code == "no_chat_template"


def test_an_adapter_is_another_run_for_each_quantization_of_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "m"}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    client = Client(Characters(), "x")
    for base in (None, "m:nf4", "m:int8"):
        policy_of(client, str(tmp_path), base)
    runs = [one["run_id"] for one in client.imported]
    assert [one["base"] for one in client.imported] == ["m", "m:nf4", "m:int8"]
    assert runs == [runs[0], f"{runs[0]}-nf4", f"{runs[0]}-int8"]
