"""The one checker of finance answers: does an output give the right number, option or statement?

What the gold answer is decides how it is compared: an option of the question by its letter or its text, an amount or a
range of amounts with its unit, anything else by its words. The form of an output is another matter
(``reasoning_form.py``). Never raises on model output. Called by filter, rewards and evaluation.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from eztinker.grading.amounts import (
    Amount,
    AskedUnit,
    amount_at,
    asked_unit,
    equal_amounts,
    read_amount,
    read_range,
    units_named,
)
from eztinker.grading.answers import MAX_TEXT_CHARS, extract_answer
from eztinker.grading.grade import Grade
from eztinker.grading.numbers import normalise
from eztinker.grading.options import grade_option

LEAST_RECALL = 0.6
"""Share of a statement's words that an answer must have."""
LEAST_PRECISION = 0.15
"""Share of an answer's words that must be the statement's, so that listing everything is no answer."""
MOST_CHARS_FOR_KEYWORD = 200
_OPTION = re.compile(r"^[ \t]*[(（]?([A-H])[)）]?[ \t]*[.．、:：)）][ \t]*(\S.*?)[ \t]*$", re.M)
_OPTION_INLINE = re.compile(r"(?:^|\s)([A-H])[.．、:：]\s*(\S.*?)(?=\s+[B-H][.．、:：]|\s*$)", re.S)
_LETTERS = re.compile(r"[A-H](?:[\s、,，和及与&]*[A-H])*", re.I)
_LED_BY_LETTERS = re.compile(
    r"(?:(?:正确)?(?:答案|选项)?(?:应该?|故|应)?选?(?:择|项)?[是为:：]?|(?:the\s)?(?:correct\s)?(?:answer|option)(?:\sis)?:?)"
    r"\s*[(（\[【]?(?P<letters>[A-H](?:[、,，和及]?\s?[A-H])*)(?:[)）\]】]|(?=[.．、:：,，。\s]|$))[.．、:：,，。]?\s*(?P<rest>.*)",
    re.S,
)
_WIDE_LETTERS = str.maketrans("ＡＢＣＤＥＦＧＨ", "ABCDEFGH")
_GOES_ON_OTHERWISE = re.compile(r"(?:or|或者?|/)\s*[(（]?[A-H](?![A-Za-z])", re.I)  # A or B
_AFTER_ARTICLE = re.compile(
    r"(?!(?:is|was|because|since|as|for|due|being|seems)\b)[a-z]"
)  # "A bond is" is no letter
_EDGE = "\"'“”‘’`*_ \t\r\n.。,，;；:：!！?？()（）[]【】《》<>"
_MARKS = re.compile(
    r"[\s\"'“”‘’`*_。，;；:：!！?？()（）\[\]【】《》<>、·]"
    r"|(?<![0-9])[.,]|[.,](?![0-9])|(?<=[0-9]),(?=[0-9]{3}(?![0-9]))|-(?![0-9])"  # 1.5 is not 15, -5 is not 5
)
_SEPARATORS = re.compile(r"[;；|\n]+")
_NEGATION = re.compile(r"不|未|无|非|没|勿|\bnot\b|\bno\b|\bnever\b|n't\b", re.I)
_NEGATED_BEFORE = re.compile(
    r"(?:[不未没非]|无法)(?:有|是|会|能|能够|可能|应|应该|再|必|一定|曾|属于|等于)?\s*$|(?:\bnot|\bno|\bnever|n't)\s+$",
    re.I,
)
_CJK = re.compile(r"[\u3400-\u9fff]+")
_LATIN = re.compile(r"[a-z0-9][a-z0-9.%'-]*")
_EMPTY_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "to",
        "in",
        "on",
        "and",
        "or",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "by",
        "for",
        "with",
        "as",
        "at",
        "it",
        "its",
        "this",
        "that",
        "which",
        "from",
    ]
)


def grade_finance(text: str, gold_answer: str, question: str = "") -> Grade:
    """Grade an output.

    Args:
        text: model output, with or without ``<think>`` and ``<answer>`` tags; anything but a string is no answer.
        gold_answer: the right amount, option (letter or text) or statement. Several keywords, separated by ``;``, must
            all be there.
        question: with its options; says in which unit a bare number is.

    Returns:
        ``strategy`` is ``choice``, ``number``, ``range``, ``keywords``, ``no_answer`` or ``unparsable_ground_truth`` (a
        gold answer without any content; nothing equals it).
    """
    gold = gold_answer.strip() if isinstance(gold_answer, str) else ""
    spoken = answer_region(text) if isinstance(text, str) else None
    if not _squeezed(gold):
        return _grade(False, "unparsable_ground_truth", None, gold_answer, 0.0)
    if spoken is None or not spoken.strip():
        return _grade(False, "no_answer", None, gold, 0.0)
    options = read_options(question)
    right = _right_letters(gold, options)
    if right:
        return _grade_choice(spoken, right, options, gold, asked_unit(question))
    amount = read_amount(gold)
    ends = None if amount else read_range(gold)
    if amount is None and ends is None:
        return _grade_keywords(spoken, gold)
    asked = asked_unit(question)
    if amount is not None:
        given = _given_amount(spoken, question)
        is_right = given is not None and equal_amounts(given, amount, asked)
        is_right = is_right and not _units_differ(spoken, gold)
        return _grade(is_right, "number" if given else "no_answer", _shown(given), gold)
    both = read_range(spoken)
    is_right = both is not None and ends is not None and _equal_ranges(both, ends, asked)
    is_right = is_right and not _units_differ(spoken, gold)
    shown = None if both is None else f"{_shown(both[0])} - {_shown(both[1])}"
    return _grade(is_right, "range" if both else "no_answer", shown, gold)


def answer_region(text: str) -> str | None:
    """Where an output answers: in its last answer tag, else after its reasoning; None while it is still reasoning."""
    text = text[-MAX_TEXT_CHARS:]
    spoken = text.rpartition("</think>")[2]
    opened = spoken.rpartition("<answer>")
    if opened[1]:
        return opened[2].partition("</answer>")[0]
    return None if "<think>" in spoken else spoken


def read_options(question: str) -> dict[str, str]:
    """Letter -> text of a question's options; empty when it has none (at least A and B, in order)."""
    for pattern in (_OPTION, _OPTION_INLINE):
        found = {match[1]: match[2].strip() for match in pattern.finditer(question)}
        letters = "".join(found)
        if len(found) > 1 and letters == "ABCDEFGH"[: len(letters)]:
            return found
    return {}


def _grade(
    is_right: bool, strategy: str, given: str | None, gold: str, confidence: float = 1.0
) -> Grade:
    if strategy == "no_answer":
        confidence = 0.0
    return Grade(float(is_right), is_right, confidence, strategy, given, gold, math_verify="off")


# Options --------------------------------------------------------------------------------------------


def _right_letters(gold: str, options: Mapping[str, str]) -> frozenset[str]:
    """The letters of a gold answer; empty when it is not about the options."""
    if not options:
        return frozenset()
    same = [letter for letter, text in options.items() if _squeezed(text) == _squeezed(gold)]
    if len(same) == 1:
        return frozenset(same)
    letters = (
        frozenset(re.findall(r"[A-H]", gold)) if _LETTERS.fullmatch(gold) else frozenset[str]()
    )
    if letters and letters <= set(options):
        return letters
    amount = read_amount(gold)
    equal = [] if amount is None else _letters_of_amount(amount, options, AskedUnit())
    return frozenset(equal) if len(equal) == 1 else frozenset()


def _grade_choice(
    spoken: str, right: frozenset[str], options: Mapping[str, str], gold: str, asked: AskedUnit
) -> Grade:
    given = _given_letters(spoken.translate(_WIDE_LETTERS), options, asked)
    shown = "".join(sorted(given)) or None
    return _grade(given == right, "choice" if given else "no_answer", shown, gold)


def _given_letters(spoken: str, options: Mapping[str, str], asked: AskedUnit) -> frozenset[str]:
    """The options that an answer names: by text, by letter, by both if they agree, or by an equal amount."""
    plain = spoken.strip().strip(_EDGE[:10])
    same = [letter for letter, text in options.items() if _squeezed(text) == _squeezed(plain)]
    if len(same) == 1:
        return frozenset(same)
    led = _LED_BY_LETTERS.fullmatch(plain.upper() if len(plain) == 1 else plain)
    if led and not (
        led["letters"] == "A"
        and plain[led.end("letters") :][:1] == " "
        and _AFTER_ARTICLE.match(led["rest"])
    ):
        return _led_letters(led["letters"], led["rest"], options)
    amount = read_amount(plain)
    if amount is not None:
        equal = _letters_of_amount(amount, options, asked)
        return frozenset(equal) if len(equal) == 1 else frozenset()
    announced = grade_option(spoken, "A", options).pred_answer
    return frozenset(announced) if announced else _quoted(plain, options)


def _led_letters(letters: str, rest: str, options: Mapping[str, str]) -> frozenset[str]:
    """Letters with what follows them: the text of another option contradicts them."""
    named = frozenset(re.findall(r"[A-H]", letters))
    if not named <= set(options) or _GOES_ON_OTHERWISE.match(rest):
        return frozenset()
    others = [
        one for one in options if one not in named and _squeezed(options[one]) == _squeezed(rest)
    ]
    agrees = any(_squeezed(options[one]) == _squeezed(rest) for one in named)
    return frozenset() if others and not agrees else named


def _letters_of_amount(amount: Amount, options: Mapping[str, str], asked: AskedUnit) -> list[str]:
    read = {letter: read_amount(text) for letter, text in options.items()}
    return [
        letter for letter, option in read.items() if option and equal_amounts(amount, option, asked)
    ]


def _quoted(plain: str, options: Mapping[str, str]) -> frozenset[str]:
    """The one option whose text stands in the answer, not counting options within a longer one that does."""
    squeezed = _squeezed(plain)
    held = {one: _squeezed(text) for one, text in options.items() if _squeezed(text) in squeezed}
    longest = [
        one for one, text in held.items() if not any(text != o and text in o for o in held.values())
    ]
    if len(longest) != 1:
        return frozenset()
    at = plain.find(options[longest[0]])
    is_denied = at > 0 and _NEGATED_BEFORE.search(plain[:at])
    return frozenset() if is_denied else frozenset(longest)


# Amounts --------------------------------------------------------------------------------------------


def _given_amount(spoken: str, question: str) -> Amount | None:
    """The amount in an answer, with the unit that stands behind it."""
    whole = read_amount(spoken)
    if whole is not None:
        return whole
    found = extract_answer(spoken, question)
    if found is None or found.value is None:
        return None
    plain, shown = normalise(spoken), normalise(found.text)
    at = plain.rfind(shown)
    if at > 0 and _NEGATED_BEFORE.search(plain[:at]):
        return None
    behind = amount_at(plain, at) if at >= 0 else None
    return behind[0] if behind else read_amount(found.text)


def _units_differ(spoken: str, gold: str) -> bool:
    """5个月 is not 5年, 5欧元 not 5美元; where one of them names no such unit, nothing differs."""
    given, wanted = units_named(spoken), units_named(gold)
    return bool(given and wanted) and not given & wanted


def _equal_ranges(
    given: tuple[Amount, Amount], gold: tuple[Amount, Amount], asked: AskedUnit
) -> bool:
    return all(equal_amounts(one, other, asked) for one, other in zip(given, gold, strict=True))


def _shown(amount: Amount | None) -> str | None:
    if amount is None:
        return None
    number = float(amount.number)
    text = f"{number:.12g}"
    return text + (
        "%" if amount.is_percent else "" if amount.scale in (None, 1) else f" x {amount.scale}"
    )


# Statements -----------------------------------------------------------------------------------------


def _grade_keywords(spoken: str, gold: str) -> Grade:
    parts = [part for part in _SEPARATORS.split(gold) if _squeezed(part)]
    is_right = all(_says(spoken, part) for part in parts)
    return _grade(is_right, "keywords", spoken.strip()[:300], gold, 0.5)


def _says(spoken: str, statement: str) -> bool:
    """Whether an answer makes a statement: in its very words, undenied, or in most of its words with the same sense."""
    if _squeezed(statement) in _squeezed(spoken) and len(
        spoken
    ) <= MOST_CHARS_FOR_KEYWORD + 4 * len(statement):
        at = spoken.find(statement.strip())
        return not (at > 0 and _NEGATED_BEFORE.search(spoken[:at]))
    ours, theirs = _words(spoken), _words(statement)
    if len(theirs) < 3:  # a term is there or it is not
        return False
    shared = len(ours & theirs)
    is_turned = bool(_NEGATION.search(statement)) != bool(_NEGATION.search(spoken))
    enough = shared >= LEAST_RECALL * len(theirs) and shared >= LEAST_PRECISION * len(ours)
    return enough and not is_turned


def _words(text: str) -> set[str]:
    """Pairs of neighbouring Chinese characters, and Latin words and numbers that carry meaning."""
    plain = unicodedata.normalize("NFKC", text).lower()
    pairs = {run[i : i + 2] for run in _CJK.findall(plain) for i in range(max(1, len(run) - 1))}
    return pairs | {word.strip(".-'") for word in _LATIN.findall(plain)} - _EMPTY_WORDS


def _squeezed(text: str) -> str:
    return _MARKS.sub("", unicodedata.normalize("NFKC", text).lower())
