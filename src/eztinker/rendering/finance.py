"""The requests for a reasoned answer to a finance question and for its judgement, Chinese or English.

One wording for teacher, training, evaluation and service, so that a model is asked as it was trained. Knows no data
set and no tokenizer. Called by the finance recipe.
"""

from __future__ import annotations

import re

FORM = {
    "zh": "请先在<think>和</think>之间写出推理过程，再在<answer>和</answer>之间只写最终答案。",
    "en": "First reason between <think> and </think>, then write only the final answer between <answer> and </answer>.",
}
REMINDER = {
    "zh": "注意：上一次回答没有遵守格式。只输出<think>推理过程</think><answer>最终答案</answer>，不要有其他内容。",
    "en": "Note: the last answer did not keep to the form. Write nothing but "
    "<think>reasoning</think><answer>final answer</answer>.",
}
MARKS = ("clarity", "accuracy", "completeness", "concision")
"""What a judge marks, each from 0 to ``LARGEST_MARK``."""
LARGEST_MARK = 10.0
_JUDGEMENT = {
    "zh": (
        "你是严格的金融阅卷人。请阅读问题、标准答案和学生的解答，从四个方面打分，每项0到10分：\n"
        "clarity 推理是否清晰；accuracy 专业内容与答案是否正确；completeness 步骤是否完整；concision 是否简洁。\n\n"
        "问题：\n{question}\n\n标准答案：\n{gold_answer}\n\n学生的解答：\n{output}\n\n"
        '只输出一个JSON对象：{{"clarity": 分数, "accuracy": 分数, "completeness": 分数, "concision": 分数, "reason": "一句话理由"}}'
    ),
    "en": (
        "You are a strict grader of finance answers. Read the question, the reference answer and the student's solution, "
        "and give four marks from 0 to 10:\nclarity of the reasoning; accuracy of content and answer; completeness of the "
        "steps; concision.\n\nQuestion:\n{question}\n\nReference answer:\n{gold_answer}\n\nStudent's solution:\n{output}\n\n"
        'Write nothing but one JSON object: {{"clarity": mark, "accuracy": mark, "completeness": mark, "concision": mark, '
        '"reason": "one sentence"}}'
    ),
}
_CHINESE = re.compile(r"[\u3400-\u9fff]")


def language_of(text: str) -> str:
    """``zh`` for a text with Chinese characters, else ``en``."""
    return "zh" if _CHINESE.search(text) else "en"


def finance_request(question: str, *, is_reminder: bool = False) -> str:
    """The message.

    Args:
        question: with its options, if it has any.
        is_reminder: an earlier answer lacked the form, and the message says so.
    """
    language = language_of(question)
    parts = [question.strip(), "", FORM[language]]
    return "\n".join([*parts, REMINDER[language]] if is_reminder else parts)


def judgement_request(question: str, gold_answer: str, output: str) -> str:
    """The message that asks a judge for four marks and a reason as one JSON object."""
    form = _JUDGEMENT[language_of(question)]
    return form.format(question=question.strip(), gold_answer=gold_answer, output=output.strip())
