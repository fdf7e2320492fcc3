"""The request for a reasoned answer to a finance question, as a user's message, Chinese or English.

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
