"""Likeness of free text to a reference: F1 of shared words, for answers that nobody can check exactly.

Used for conversations (``dataset/sharegpt.py``), where the reference reply is one good reply among many. It
judges no truth: two opposite sentences may share most words, hence the low confidence.
"""

from __future__ import annotations

import re
from collections import Counter

from eztinker.errors import InvalidRequestError
from eztinker.grading.grade import Grade

MAX_TEXT_CHARS = 100_000
_CONFIDENCE = 0.3
# A run of letters or digits of a script that separates words, or one character of a script that does not.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]++"
)


def grade_overlap(generated_text: str, reference: str, *, correct_from: float = 0.5) -> Grade:
    """Score a text by the words it shares with a reference, as often as both have them.

    Score = 2·P·R / (P + R) with precision P = shared / words generated and recall R = shared / words of the
    reference (Rajpurkar et al., SQuAD, 2016, token F1). Upper and lower case are one; a Chinese or Japanese character is
    a word.

    Args:
        generated_text: model output; anything but a string scores 0.
        reference: the text to resemble.
        correct_from: score in (0, 1] from which ``is_correct`` holds.

    Raises:
        InvalidRequestError: ``correct_from`` is out of range.
    """
    if not 0 < correct_from <= 1:
        raise InvalidRequestError(
            f"correct_from must be above 0 and at most 1, got {correct_from!r}.",
            field="correct_from",
        )
    text = generated_text if isinstance(generated_text, str) else ""
    ours, theirs = _words(text), _words(reference)
    shared = (ours & theirs).total()
    score = 2 * shared / (ours.total() + theirs.total()) if shared else 0.0
    return Grade(
        score=score,
        is_correct=score >= correct_from,
        confidence=_CONFIDENCE if ours else 0.0,
        strategy="overlap" if ours else "no_answer",
        pred_answer=text.strip() or None,
        ground_truth=reference,
    )


def _words(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text[:MAX_TEXT_CHARS].lower()))
