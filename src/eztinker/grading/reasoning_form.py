"""The form ``<think>…</think><answer>…</answer>``: whether a text has it, and its two parts.

Pure text; whether the reasoning is good or the answer right is judged elsewhere. Called by ``finance.py``, the filter
and the rewards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_FORM = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.S)


@dataclass(frozen=True, slots=True)
class ReasoningForm:
    """What the check found.

    Attributes:
        reason: ``complete``, or the first fault: ``missing_tag``, ``repeated_tag``, ``wrong_order``, ``text_outside``,
            ``empty_reasoning``, ``empty_answer``.
        reasoning: between the think tags, stripped; empty unless complete.
        answer: between the answer tags, stripped; empty unless complete.
    """

    reason: str
    reasoning: str = ""
    answer: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether each tag stands once, in order, with text inside and nothing outside."""
        return self.reason == "complete"


def read_form(text: str) -> ReasoningForm:
    """Check the form of a whole output; never raises on any string."""
    counts = [text.count(tag) for tag in TAGS]
    if 0 in counts:
        return ReasoningForm("missing_tag")
    if max(counts) > 1:
        return ReasoningForm("repeated_tag")
    places = [text.index(tag) for tag in TAGS]
    if places != sorted(places):
        return ReasoningForm("wrong_order")
    match = _FORM.fullmatch(text)
    if match is None:
        return ReasoningForm("text_outside")
    reasoning, answer = match[1].strip(), match[2].strip()
    if not reasoning:
        return ReasoningForm("empty_reasoning")
    return ReasoningForm("complete", reasoning, answer) if answer else ReasoningForm("empty_answer")
