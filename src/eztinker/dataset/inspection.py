"""What a data file holds: counts, lengths, bad rows, and how its first rows look to a model.

Figures and texts only; ``cli/data.py`` prints them. With a tokenizer, lengths are tokens of the model's template and
rows show their loss mask; without one, lengths are characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eztinker.dataset.preference import PreferencePair
from eztinker.dataset.records import ChatExample, Example, RecordFile, TextExample, read_records
from eztinker.dataset.supervision import reply_example, supervise
from eztinker.errors import EZTinkerError, InvalidRequestError
from eztinker.rendering.supervised import SupervisedExample

NUM_BINS = 8
MAX_SHOWN_BAD = 20
_WHOLE = 1_000_000


def inspect_file(
    path: str | Path, tokenizer: Any = None, *, num_rows: int = 2, max_length: int | None = None
) -> dict[str, Any]:
    """Look at a whole data file.

    Args:
        path: the file.
        tokenizer: of the model that would be trained; None counts characters and renders nothing.
        num_rows: rows to render.
        max_length: of a training example, to say how many rows would be shortened; None does not say.

    Returns:
        ``file``, ``num_rows``, ``num_records``, ``formats``, ``num_bad``, ``bad`` (the first ones, with file and
        line), ``roles`` (turns by role), ``length_unit``, ``lengths`` (shortest, median, longest, total),
        ``histogram`` (``from``, ``to``, ``count``), ``num_shortened`` and ``rendered``.

    Raises:
        NotFoundError: no such file.
        InvalidRequestError: a file that cannot be read at all.
    """
    try:
        found = read_records(path)
    except InvalidRequestError as error:
        if error.code != "empty_dataset":
            raise
        return {"file": str(path), "num_records": 0, "formats": {}, "problem": error.message}
    lengths, problems = _lengths(found, tokenizer)
    bad = [f"{one.where}: {one.reason}" for one in found.bad] + problems
    facts: dict[str, Any] = {
        "file": str(path),
        "num_rows": len(found.records) + len(found.bad),
        "num_records": len(found.records),
        "formats": found.formats,
        "roles": _roles(found),
        "num_bad": len(bad),
        "bad": bad[:MAX_SHOWN_BAD],
        "length_unit": "characters" if tokenizer is None else "tokens",
    }
    if lengths:
        facts["lengths"] = _summary(lengths)
        facts["histogram"] = histogram(lengths)
    if max_length is not None and tokenizer is not None:
        facts["num_shortened"] = sum(length > max_length for length in lengths)
    if tokenizer is not None:
        facts["rendered"] = [
            {"where": r.where, "format": r.format, "text": _rendered(tokenizer, r.example)}
            for r in found.records[:num_rows]
        ]
    return facts


def _lengths(found: RecordFile, tokenizer: Any) -> tuple[list[int], list[str]]:
    """Length of every record that a template takes, and what was wrong with the others."""
    lengths, problems = [], []
    for record in found.records:
        try:
            lengths.append(_length(record.example, tokenizer))
        except EZTinkerError as error:  # a template may refuse what the rules allow
            problems.append(f"{record.where}: {error.message}")
    return lengths, problems


def _length(example: Example, tokenizer: Any) -> int:
    if tokenizer is None:
        return len(_characters(example))
    if isinstance(example, PreferencePair):
        return max(len(side.input_ids) for side in _sides(tokenizer, example))
    return len(supervise(tokenizer, example, max_length=_WHOLE).input_ids)


def _characters(example: Example) -> str:
    if isinstance(example, TextExample):
        return example.prompt + example.completion
    messages = example.messages if isinstance(example, ChatExample) else example.prompt
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    text = "".join(message["content"] for message in messages)
    if isinstance(example, PreferencePair):
        return text + max(example.chosen, example.rejected, key=len)
    return text


def _sides(tokenizer: Any, pair: PreferencePair) -> list[SupervisedExample]:
    return [
        reply_example(tokenizer, pair.prompt, reply, max_length=_WHOLE)
        for reply in (pair.chosen, pair.rejected)
    ]


def _rendered(tokenizer: Any, example: Example) -> str:
    try:
        if isinstance(example, PreferencePair):
            chosen, rejected = (
                render_masked(tokenizer, s.as_dict()) for s in _sides(tokenizer, example)
            )
            return f"chosen:\n{chosen}\nrejected:\n{rejected}"
        made = supervise(tokenizer, example, max_length=_WHOLE)
        return render_masked(tokenizer, made.as_dict())
    except EZTinkerError as error:
        return f"({error.message})"


def render_masked(tokenizer: Any, datum: Mapping[str, Sequence[Any]]) -> str:
    """A datum as text with ``⟦…⟧`` around every stretch of tokens that carries loss."""
    ids = datum["input_ids"]
    weights = datum.get("weights") or [1.0] * len(ids)
    text, start = "", 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or bool(weights[end]) != bool(weights[start]):
            piece = tokenizer.decode(list(ids[start:end]), skip_special_tokens=False)
            text += f"⟦{piece}⟧" if weights[start] else piece
            start = end
    return text


def _roles(found: RecordFile) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in found.records:
        if isinstance(record.example, ChatExample):
            for message in record.example.messages:
                counts[message["role"]] = counts.get(message["role"], 0) + 1
    return counts


def _summary(lengths: Sequence[int]) -> dict[str, int]:
    ordered = sorted(lengths)
    return {
        "shortest": ordered[0],
        "median": ordered[len(ordered) // 2],
        "longest": ordered[-1],
        "total": sum(ordered),
    }


def histogram(lengths: Sequence[int], num_bins: int = NUM_BINS) -> list[dict[str, int]]:
    """Counts in bins of equal width from the shortest to the longest; ``to`` is inside its bin."""
    low, high = min(lengths), max(lengths)
    width = max(1, -(-(high - low + 1) // num_bins))
    counts = [0] * (-(-(high - low + 1) // width))
    for length in lengths:
        counts[(length - low) // width] += 1
    return [
        {"from": low + i * width, "to": min(high, low + (i + 1) * width - 1), "count": count}
        for i, count in enumerate(counts)
    ]
