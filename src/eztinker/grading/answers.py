"""Answers inside model output: where the final answer stands, by the rules of this package.

Order: what stands outside ``<think>`` and inside ``<answer>``; the last ``####`` line; the last ``\\boxed{}``;
the last *the answer is* or 答案是; a text that is nothing but a number; the last numeral. Number words count
only where an answer is announced or stands alone. An echo of the question is taken out first.

Pure and linear in the text, of which only the end is read. It knows no ground truth: ``math.py`` compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from eztinker.grading.numbers import (
    Value,
    begins_with_value,
    leading_value,
    normalise,
    numeral_at,
    parse_value,
)

MAX_TEXT_CHARS = 20_000  # answers stand at the end
MAX_ANSWER_CHARS = 300
_MIN_ECHO_CHARS = 15
_MAX_MARKERS = 20
_MAX_NUMERALS = 50

_ANSWER_TAG = re.compile(r"<answer>", re.I)
_ANSWER_END = re.compile(r"</answer>", re.I)
_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,2}\{")
_BRACE = re.compile(r"[{}]")
_RUN_ON = re.compile(
    r"\n[ \t]{0,8}[*#]{0,4}[ \t]?(?:Question|Problem|Q|问题|题目)[ \t]?[*]{0,2}[ \t]?[:：]", re.I
)
_PROMPT = re.compile(r"[\s*#]{0,20}(?:Question|Problem|Q|问题|题目)[ \t]?[*]{0,2}[ \t]?[:：]", re.I)
_PROMPT_END = re.compile(
    r"(?:^|\n)[ \t]{0,8}[*#]{0,4}[ \t]?(?:Answer|A|Solution|答案|答|解)[ \t]?[*]{0,2}[ \t]?[:：]",
    re.I,
)
_PHRASE = re.compile(
    r"\banswer\b[*\s]{0,4}(?:to (?:the|this) (?:question|problem)\s{0,3})?"
    r"(?:(?:is|are|was|equals|would be|will be|must be|should be)(?![A-Za-z])[:=]?|[:：=])"
    r"|(?:答案|结果)(?:应该|应当|就|便)?(?:(?:是|为|等于)[:：]?|[:：=])|(?:^|\n)[ \t]{0,8}答[:：]",
    re.I,
)
_FILLER = re.compile(
    r"(?:[\s:：=*_~>]|\$(?![0-9.])|\b(?:approximately|about|around|roughly|exactly|equal to|equals|simply|just|thus|"
    r"therefore|hence|then|now|indeed|a total of|total of|at least|at most|that)\b|大约|约|等于|为|是|共|一共|总共)++",
    re.I,
)
_NEGATION = re.compile(r"(?:not\b|n't\b|no\b|不)", re.I)
_BETWEEN = re.compile(
    r"(?:(?:some|any)(?:where|thing)\s)?(?:between|from)\s.{1,40}\s(?:and|to)\s|(?:介于|在).{1,20}之间",
    re.I,
)
_HEADING = re.compile(r"[0-9]{1,2}[.)]\s{1,3}[A-Za-z\u4e00-\u9fff]")  # "#### 1. Count the eggs"
_SENTENCE_END = re.compile(r"\.(?=\s|$)|[。！？!?;；\n]")
_SENTENCE = re.compile(r"[^.?!。？！\n]++[.?!。？！]?+")
_NUMERAL = re.compile(r"(?<![0-9A-Za-z_.^])(?:[-+]?[$€£¥₹₩]?[-+]?\.?[0-9]|\\frac)")
_ENUMERATOR = re.compile(r"(?:^|\n)[ \t>*-]{0,8}$|(?:step|case|part|第)\s{0,3}[*#]{0,2}$", re.I)
_AFTER_ENUMERATOR = re.compile(r"[.)、:：](?:\s|$)|\s?[步个章]")
_OPERATION = re.compile(
    r"\s?(?:[+*/^]\s{0,3}[0-9(\\]|[-+/^=]\s{0,3}$)"
)  # a sum that goes on or is cut off
_PROSE = re.compile(
    r"(?<![\\A-Za-z])(?!(?:sqrt|sin|cos|tan|log|ln|exp|pi|mod|det|max|min|d[rtxyz])\b)[A-Za-z]{2,}|[\u4e00-\u9fff]"
)
_MATHS = re.compile(r"[0-9\\^_+*/=<>()\[\]{}]|^[A-Za-z]$")


@dataclass(frozen=True, slots=True)
class Answer:
    """One final answer.

    Attributes:
        text: as it stands in the output (stripped, at most ``MAX_ANSWER_CHARS``).
        value: the number it is; None for an expression.
        strategy: ``answer_tag``, ``hash_mark``, ``boxed``, ``phrase``, ``whole_text`` or ``last_number``.
        confidence: 0 to 1: how surely this is what the model meant as its answer.
    """

    text: str
    value: Value | None
    strategy: str
    confidence: float


# Something announced as the answer that is none (not 5; 5 or 6; a box that never closes): ends the search.
_REFUSED = Answer("", None, "refused", 0.0)


def extract_answer(generated_text: str, question: str = "") -> Answer | None:
    """The final answer of a model output, or None when it gives none. Never raises on any string."""
    text = _without_echo(generated_text[-MAX_TEXT_CHARS:], question)
    _, thought_ended, after = text.rpartition("</think>")
    spoken = after if thought_ended else text
    tags = list(_ANSWER_TAG.finditer(spoken))
    if tags:
        region = _ANSWER_END.split(spoken[tags[-1].end() :], maxsplit=1)[0]
        return _from_region(region, "answer_tag", 1.0)
    if not thought_ended and "<think>" in text:  # cut off while still reasoning
        return None
    rules = (_hash_mark, _boxed, _phrase, _whole, _last_number)
    found = next((answer for rule in rules if (answer := rule(spoken))), None)
    return None if found is _REFUSED else found


def is_expression(text: str) -> bool:
    """Whether a text looks like mathematics rather than prose: worth a symbolic comparison."""
    plain = normalise(text)
    return bool(_MATHS.search(plain)) and not _PROSE.search(plain)


def _without_echo(text: str, question: str) -> str:
    """The output without the prompt: the question, its sentences, and a following question run on."""
    for part in _echo_parts(question):
        text = text.replace(part, " ")
    prompt = _PROMPT.match(text)
    if prompt:
        answer = _PROMPT_END.search(text, prompt.end())
        text = text[answer.end() :] if answer else text[prompt.end() :]
    run_on = next((m for m in _RUN_ON.finditer(text) if text[: m.start()].strip()), None)
    return text[: run_on.start()] if run_on else text


def _echo_parts(question: str) -> Iterable[str]:
    question = question.strip()[:MAX_TEXT_CHARS]
    if len(question) >= _MIN_ECHO_CHARS:
        yield question
        for sentence in _SENTENCE.findall(question):
            if len(sentence.strip()) >= _MIN_ECHO_CHARS:
                yield sentence.strip()


def _from_region(region: str, strategy: str, confidence: float) -> Answer | None:
    """The answer in a place that was marked as one; prose around the number is tolerated."""
    region = region.strip()
    value = parse_value(region)
    if value is not None:
        return _answer(region, value, strategy, confidence)
    inner = _hash_mark(region) or _boxed(region) or _phrase(region)
    if inner is _REFUSED:
        return None
    if inner:
        return _answer(inner.text, inner.value, strategy, confidence)
    if is_expression(region[: MAX_ANSWER_CHARS + 1]) and len(region) <= MAX_ANSWER_CHARS:
        return _expression(region, strategy, confidence)
    found = _announced(region) or _last_number(region)
    if found is None or found is _REFUSED:
        return None
    return _answer(found.text, found.value, strategy, min(confidence, 0.8))


def _hash_mark(text: str) -> Answer | None:
    for part in reversed(text.split("####")[1:][-_MAX_MARKERS:]):
        line = part.lstrip("# \t*").partition("\n")[0]
        if not line.strip():  # a heading such as "#### Final answer:" may stand on its own line
            line = part.strip().partition("\n")[0]
        if _HEADING.match(line):
            continue
        found = _phrase(line) or _announced(line[:MAX_ANSWER_CHARS])
        if found:
            return (
                found if found is _REFUSED else _answer(found.text, found.value, "hash_mark", 1.0)
            )
    return None


def _boxed(text: str) -> Answer | None:
    boxes = list(_BOX.finditer(text))[-_MAX_MARKERS:]
    for match in reversed(boxes):
        content = _braced(text, match.end() - 1)
        if content:
            value = parse_value(content) or parse_value(content.rpartition("=")[2])
            if value is None:
                return _expression(content, "boxed", 1.0)
            return _answer(content, value, "boxed", 1.0)
    return _REFUSED if boxes else None


def _braced(text: str, start: int) -> str:
    """Content of the braces that open at a position; empty when they do not close within an answer's length."""
    depth = 0
    for match in _BRACE.finditer(text, start, start + 2 * MAX_ANSWER_CHARS):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return text[start + 1 : match.start()].strip()
    return ""


def _phrase(text: str) -> Answer | None:
    for match in reversed(list(_PHRASE.finditer(text))[-_MAX_MARKERS:]):
        region = text[match.end() : match.end() + MAX_ANSWER_CHARS].lstrip(" \t\r\n:：*")
        sentence = _SENTENCE_END.split(region, maxsplit=1)[0]
        found = _announced(sentence)
        if found is _REFUSED:
            return found
        if found:
            return _answer(found.text, found.value, "phrase", 0.9)
        found = _last_number(sentence)
        if found:
            return _answer(found.text, found.value, "phrase", 0.7)
    return None


def _announced(region: str) -> Answer | None:
    """The answer at the start of a line or sentence that announces one; refused when it is denied or left open."""
    plain = normalise(region).strip()
    filler = _FILLER.match(plain)
    plain = plain[filler.end() :] if filler else plain
    if _NEGATION.match(plain) or _BETWEEN.match(plain):
        return _REFUSED
    value = parse_value(plain)
    if value is not None:
        return _answer(plain, value, "announced", 1.0)
    if "=" in plain:
        found = _announced(plain.rpartition("=")[2])
        if found and found.value:
            return found
    leading = leading_value(plain)
    if leading:
        return _answer(plain[: len(plain) - len(leading[1])], leading[0], "announced", 1.0)
    if is_expression(plain):
        return _expression(plain, "announced", 0.9)
    return _REFUSED if begins_with_value(plain) else None


def _whole(text: str) -> Answer | None:
    value = parse_value(text) if len(text) <= MAX_ANSWER_CHARS else None
    return value and _answer(text, value, "whole_text", 0.9)


def _last_number(text: str) -> Answer | None:
    """The last numeral (digits only: a number word in prose is no answer)."""
    plain = normalise(text)
    starts = [match.start() for match in _NUMERAL.finditer(plain)][-_MAX_NUMERALS:]
    last: Answer | None = None
    at = 0
    for start in starts:
        if start < at:  # inside the number before it, as in 3 1/2
            continue
        value, end = numeral_at(plain, start)
        if _is_enumerator(plain, start, end):
            continue
        at = end
        unusable = value is None or _OPERATION.match(plain, at)
        last = None if unusable else _answer(plain[start:at], value, "last_number", 0.5)
    return last


def _is_enumerator(text: str, start: int, end: int) -> bool:
    before = text[max(0, start - 12) : start]
    if start > 12:
        before = "…" + before  # so that ^ in the pattern means the start of the text
    return bool(_ENUMERATOR.search(before)) and bool(_AFTER_ENUMERATOR.match(text, end))


def _answer(text: str, value: Value | None, strategy: str, confidence: float) -> Answer:
    return Answer(text.strip()[:MAX_ANSWER_CHARS], value, strategy, confidence)


def _expression(text: str, strategy: str, confidence: float) -> Answer:
    return _answer(text.strip().rstrip(".。").strip("$ "), None, strategy, confidence)
