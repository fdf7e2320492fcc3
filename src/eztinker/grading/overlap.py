"""Likeness of free text to a reference: shared words, or words shared in order, for answers nobody can check exactly.

Used for conversations (``dataset/sharegpt.py``), where the reference reply is one good reply among many. It
judges no truth: two opposite sentences may share most words, hence the low confidence.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal, get_args

from eztinker.errors import InvalidRequestError
from eztinker.grading.grade import Grade

MAX_TEXT_CHARS = 100_000
MAX_ORDERED_WORDS = 2_000
Similarity = Literal["word_f1", "rouge_l"]
SIMILARITIES: tuple[str, ...] = get_args(Similarity)
_CONFIDENCE = 0.3
# A run of letters or digits of a script that separates words, or one character of a script that does not.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]++"
)


def grade_overlap(
    generated_text: str,
    reference: str,
    *,
    correct_from: float = 0.5,
    similarity: Similarity = "word_f1",
) -> Grade:
    """Score a text by the words it shares with a reference.

    ``word_f1``: 2·P·R / (P + R) with precision P = shared / words generated and recall R = shared / words of the
    reference, each word as often as both have it (Rajpurkar et al., SQuAD, 2016, token F1). ``rouge_l``: the same with
    the longest common subsequence for the shared words, so that order counts (Lin, 2004, ROUGE-L with β = 1; the first
    ``MAX_ORDERED_WORDS`` words). Upper and lower case are one; a Chinese or Japanese character is a word.

    Args:
        generated_text: model output; anything but a string scores 0.
        reference: the text to resemble.
        correct_from: score in (0, 1] from which ``is_correct`` holds.
        similarity: ``word_f1`` or ``rouge_l``.

    Raises:
        InvalidRequestError: ``correct_from`` is out of range, or an unknown similarity.
    """
    if not 0 < correct_from <= 1:
        raise InvalidRequestError(
            f"correct_from must be above 0 and at most 1, got {correct_from!r}.",
            field="correct_from",
        )
    if similarity not in SIMILARITIES:
        raise InvalidRequestError(
            f"similarity must be one of {', '.join(SIMILARITIES)}, got {similarity!r}.",
            field="similarity",
        )
    text = generated_text if isinstance(generated_text, str) else ""
    ours, theirs = _words(text), _words(reference)
    shared = (
        (Counter(ours) & Counter(theirs)).total()
        if similarity == "word_f1"
        else _in_order(ours[:MAX_ORDERED_WORDS], theirs[:MAX_ORDERED_WORDS])
    )
    score = 2 * shared / (len(ours) + len(theirs)) if shared else 0.0
    return Grade(
        score=score,
        is_correct=score >= correct_from,
        confidence=_CONFIDENCE if ours else 0.0,
        strategy="overlap" if ours else "no_answer",
        pred_answer=text.strip() or None,
        ground_truth=reference,
    )


def _words(text: str) -> list[str]:
    return _WORD.findall(text[:MAX_TEXT_CHARS].lower())


def _in_order(ours: list[str], theirs: list[str]) -> int:
    """Length of the longest common subsequence."""
    above = [0] * (len(theirs) + 1)
    for word in ours:
        row = [0]
        for at, other in enumerate(theirs):
            row.append(above[at] + 1 if word == other else max(above[at + 1], row[at]))
        above = row
    return above[-1]
