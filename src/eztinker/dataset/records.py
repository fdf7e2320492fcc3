"""Training records: rows of any known format as conversations, texts or preference pairs.

The format of each row is told by its fields, so that files may be mixed::

    messages            messages or conversations of {"role", "content"} turns (OpenAI)
    sharegpt            conversations or messages of {"from", "value"} turns
    alpaca              instruction, output; input, system, history
    gsm8k               question, answer with "#### number"
    math                problem, solution with \\boxed{}
    aqua                question, options, rationale, correct
    finance             question, gold_answer; teacher_output is the answer where there is one
    question_answer     question, answer
    prompt_completion   prompt, completion or response
    text                text
    preference          chosen and rejected (see preference.py)

Rows that break the rules of their format are listed with file and line. It knows no tokens; ``supervision.py``
makes training data of what is read here. Called by the recipes and ``eztinker data inspect``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eztinker.dataset.conversation import dialect_of, read_conversation
from eztinker.dataset.preference import PreferencePair, is_preference, read_pair
from eztinker.dataset.rows import Row, read_rows
from eztinker.errors import InvalidRequestError, NotFoundError

Messages = list[dict[str, str]]
SHOWN_BAD = 5


@dataclass(frozen=True, slots=True)
class TextExample:
    """A text to continue and its continuation; an empty prompt trains the whole text."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class ChatExample:
    """A conversation in the words of chat templates; the last turn is the assistant's."""

    messages: Messages


Example = TextExample | ChatExample | PreferencePair


@dataclass(frozen=True, slots=True)
class Record:
    """One row that was understood: its format, its content, where it stands."""

    format: str
    example: Example
    where: str


@dataclass(frozen=True, slots=True)
class BadRecord:
    """One row that was not: file and line, and what is wrong with it."""

    where: str
    reason: str


@dataclass
class RecordFile:
    """What a file holds.

    Attributes:
        records: rows that were understood, in their order.
        bad: rows that were not.
        formats: format -> number of records.
    """

    path: Path
    records: list[Record] = field(default_factory=list)
    bad: list[BadRecord] = field(default_factory=list)

    @property
    def formats(self) -> dict[str, int]:
        """Records by format, most frequent first."""
        return dict(Counter(record.format for record in self.records).most_common())

    def summary(self) -> str:
        """One line for people: counts by format, and the first bad rows."""
        counted = ", ".join(f"{name} {count}" for name, count in self.formats.items()) or "none"
        text = f"{self.path}: {len(self.records)} records ({counted})"
        if self.bad:
            shown = "".join(f"\n  {bad.where}: {bad.reason}" for bad in self.bad[:SHOWN_BAD])
            more = f"\n  and {len(self.bad) - SHOWN_BAD} more" if len(self.bad) > SHOWN_BAD else ""
            text += f"; {len(self.bad)} left out:{shown}{more}"
        return text


def read_records(
    path: str | Path, *, format: str | None = None, strict: bool = False
) -> RecordFile:
    """Read a data file.

    Args:
        path: JSON lines, a JSON array (both also ``.gz``), or parquet.
        format: what every row must be; None tells it from each row.
        strict: a bad row is an error instead of being listed.

    Raises:
        NotFoundError: no such file (``code="dataset_not_found"``).
        InvalidRequestError: a file that cannot be read, a bad row when strict (with file and line), no row that
            can be used (``code="empty_dataset"``), an unknown format.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(
            f"No data file at {path}. Give a JSON, JSONL or parquet file.",
            code="dataset_not_found",
            field="train_file",
        )
    if format is not None and format not in FORMATS:
        raise InvalidRequestError(
            f"Unknown data format {format!r}. Known: {', '.join(FORMATS)}.", field="data_format"
        )
    found = RecordFile(path)

    def on_bad(line: int, reason: str) -> None:
        found.bad.append(BadRecord(f"{path}:{line}", reason))

    for row in read_rows(path, None if strict else on_bad):
        try:
            found.records.append(read_record(row, format))
        except InvalidRequestError as error:
            if strict:
                raise InvalidRequestError(
                    f"{row.where}: {error.message}", field="train_file"
                ) from error
            found.bad.append(BadRecord(row.where, error.message))
    if not found.records:
        first = f" The first: {found.bad[0].where}: {found.bad[0].reason}" if found.bad else ""
        raise InvalidRequestError(
            f"{path} has no record that can be used ({len(found.bad)} bad rows).{first}",
            code="empty_dataset",
            field="train_file",
        )
    return found


def format_of(data: Mapping[str, Any]) -> str | None:
    """Format of a row by its fields; None when it is none that is known."""
    return next((name for name, (is_it, _) in FORMATS.items() if is_it(data)), None)


def read_record(row: Row, format: str | None = None) -> Record:
    """One row as a record.

    Raises:
        InvalidRequestError: no known format, or a rule of its format is broken.
    """
    name = format or format_of(row.data)
    if name is None:
        fields = ", ".join(map(str, row.data)) or "(none)"
        raise InvalidRequestError(
            f"no known format has these fields: {fields}. Known: {', '.join(FORMATS)}"
        )
    return Record(name, FORMATS[name][1](row.data), row.where)


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda data: all(name in data for name in names)


def _text(data: Mapping[str, Any], name: str, *, may_be_empty: bool = False) -> str:
    value = data.get(name)
    if value is None and may_be_empty:
        return ""
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        raise InvalidRequestError(
            f"{name} must be a text that is not empty, got {str(value)[:60]!r}"
        )
    return value


def _conversation(data: Mapping[str, Any]) -> ChatExample:
    return ChatExample(read_conversation(data, "").as_messages())


def _alpaca(data: Mapping[str, Any]) -> ChatExample:
    system, extra = (
        _text(data, "system", may_be_empty=True),
        _text(data, "input", may_be_empty=True),
    )
    messages = [{"role": "system", "content": system}] if system.strip() else []
    for turn in data.get("history") or []:
        if not (isinstance(turn, (list, tuple)) and len(turn) == 2):
            raise InvalidRequestError("history must hold [instruction, output] pairs")
        messages += _exchange(str(turn[0]), str(turn[1]))
    asked = _text(data, "instruction")
    question = f"{asked}\n{extra}" if extra.strip() else asked
    return ChatExample(messages + _exchange(question, _text(data, "output")))


def _exchange(question: str, answer: str) -> Messages:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def question_prompt(question: str) -> str:
    """The text that a base model continues with an answer, as the data sets of this package write it."""
    return f"Question: {question}\nAnswer:"


def _question_answer(data: Mapping[str, Any]) -> TextExample:
    answer = _text(data, "answer")
    return TextExample(question_prompt(_text(data, "question")), _led(answer))


def _finance(data: Mapping[str, Any]) -> TextExample:
    name = "teacher_output" if data.get("teacher_output") else "gold_answer"
    return TextExample(question_prompt(_text(data, "question")), _led(_text(data, name)))


def _math(data: Mapping[str, Any]) -> TextExample:
    return TextExample(question_prompt(_text(data, "problem")), _led(_text(data, "solution")))


def _aqua(data: Mapping[str, Any]) -> TextExample:
    from eztinker.dataset.aqua import aqua_question, check_aqua

    check_aqua(data)
    answer = f"{str(data['rationale']).strip()}\n#### {data['correct']}"
    return TextExample(question_prompt(aqua_question(data)), _led(answer))


def _prompt_completion(data: Mapping[str, Any]) -> Example:
    name = "completion" if "completion" in data else "response"
    prompt, completion = data["prompt"], data[name]
    if isinstance(prompt, list) or isinstance(completion, list):
        turns = [*(prompt if isinstance(prompt, list) else _user(prompt))]
        turns += completion if isinstance(completion, list) else _assistant(completion)
        return _conversation({"messages": turns})
    return TextExample(_text(data, "prompt"), _text(data, name))


def _user(text: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def _assistant(text: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


def _plain(data: Mapping[str, Any]) -> TextExample:
    return TextExample("", _text(data, "text"))


def _led(answer: str) -> str:
    """An answer as it follows ``Answer:``, with a space between."""
    return answer if answer[:1].isspace() else f" {answer}"


def _is_gsm8k(data: Mapping[str, Any]) -> bool:
    return _has("question", "answer")(data) and "####" in str(data["answer"])


def _is_completion(data: Mapping[str, Any]) -> bool:
    return "prompt" in data and ("completion" in data or "response" in data)


FORMATS: dict[
    str, tuple[Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any]], Example]]
] = {
    "preference": (is_preference, read_pair),
    "sharegpt": (lambda data: dialect_of(data) == "from_value", _conversation),
    "messages": (
        lambda data: "messages" in data or "conversations" in data,
        _conversation,
    ),
    "alpaca": (_has("instruction", "output"), _alpaca),
    "aqua": (_has("question", "options", "correct"), _aqua),
    "math": (_has("problem", "solution"), _math),
    "gsm8k": (_is_gsm8k, _question_answer),
    "finance": (_has("question", "gold_answer"), _finance),
    "question_answer": (_has("question", "answer"), _question_answer),
    "prompt_completion": (_is_completion, _prompt_completion),
    "text": (_has("text"), _plain),
}
"""Format -> (whether a row is of it, how it is read); the first that fits is taken."""


def examples_of_kind(records: Iterable[Record], *, pairs: bool) -> list[Record]:
    """The records, after a check that all are preference pairs, or none is.

    Raises:
        InvalidRequestError: a record of the other sort (``code="wrong_format"``).
    """
    kept = list(records)
    for record in kept:
        if isinstance(record.example, PreferencePair) is not pairs:
            wanted = "preference pairs (chosen, rejected)" if pairs else "texts or conversations"
            way = "the recipes dpo and reward_model" if not pairs else "the recipe sft"
            raise InvalidRequestError(
                f"{record.where}: expected {wanted}, got {record.format}. Such rows are for {way}.",
                code="wrong_format",
                field="train_file",
            )
    return kept
