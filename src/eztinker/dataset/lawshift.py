"""LawShift: cases, statutes and folders of changed law, as files hold them.

A case is ``{"fact", "relevant_articles": ["264-0-0"], "charge", "prison_time"}``. Statutes are ``{id: text}`` or a
list of ``{"id", "content"}``. A test folder has ``original.json``, ``poisoned.json``, ``articles_original.json`` and
``articles_poisoned.json``; what its change of law does follows from its name. Knows no prompt and no model.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from eztinker.dataset.base import check_max_samples, register_dataset
from eztinker.dataset.rows import Row, read_rows
from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.grading.grade import Grade
from eztinker.grading.legal import (
    ACQUITTAL,
    EXACT,
    NOT_GUILTY,
    LabelCode,
    Split,
    Verdict,
    grade_verdict,
    read_charges,
    read_prison_time,
)

_ELEMENTS = ("subject", "action", "object")
LABELS: dict[str, LabelCode] = {
    **{f"{e}_{how}": "V" for e in _ELEMENTS for how in ("explicit_extend", "implicit_expand", "reallocated_expand")},
    **{f"{e}_{how}": "NV" for e in _ELEMENTS for how in ("explicit_reduce", "implicit_reduce", "reallocated_reduce")},
    **dict.fromkeys(("objCon_implicit_reduce", "objCon_reallocated_reduce", "objCon_removal", "sbCon_removal"), "V"),
    **dict.fromkeys(("objCon_explicit_extend", "objCon_implicit_expand", "objCon_reallocated_expand"), "NV"),
    **dict.fromkeys(("objCon_addition", "sbCon_addition"), "NV"),
    "term_up": "TU",
    "term_down": "TD",
    "term_extremity_in": "XT",
    "term_extremity_out": "NX",
}  # fmt: skip
"""Name of a test folder -> what its change of law does."""
LABEL_FILE = "label.json"
_ID = re.compile(r"(\d+)(?:[-.](\d+))?(?:-(\d+))?")


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    Attributes:
        case_id: its own ``case_id``, else its place in the file, from 0.
        fact: what happened.
        relevant_articles: ids of statutes, as written.
        charge: as written; of several, joined by 、.
        prison_time: as written.
        verdict: the court's, read from both.
    """

    case_id: str
    fact: str
    relevant_articles: tuple[str, ...]
    charge: str
    prison_time: Any
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Articles:
    """Statutes by id; ``A-B-C``, ``A.B-C`` and ``A`` name the same paragraph when B and C are 0."""

    texts: Mapping[str, str]

    def text(self, article_id: str) -> str | None:
        """The paragraph; None when it is not here."""
        return self.texts.get(canonical_id(article_id))


@dataclass(frozen=True, slots=True)
class Folder:
    """A test folder.

    Attributes:
        label: what the change of law does.
        cases: by split.
        articles: by split.
    """

    name: str
    label: LabelCode
    cases: Mapping[Split, list[Case]]
    articles: Mapping[Split, Articles]


# Reading ------------------------------------------------------------------------------------------


def read_cases(path: str | Path, max_samples: int | None = None) -> list[Case]:
    """Cases of a JSON or JSONL file.

    Raises:
        NotFoundError: there is no such file.
        InvalidRequestError: a field is missing or wrong; the message has file, line and field.
    """
    check_max_samples(max_samples)
    rows = list(read_rows(need_file(path)))
    return [_case(row, str(index)) for index, row in enumerate(rows[:max_samples])]


def _case(row: Row, place: str) -> Case:
    charge: Any = row.data.get("charge")
    charge = "、".join(charge) if _is_texts(charge) else charge
    articles = row.data.get("relevant_articles")
    articles = [articles] if isinstance(articles, str) else articles
    _need(row, "fact", _is_text(row.data.get("fact")), "a non-empty text")
    _need(row, "relevant_articles", _is_texts(articles), "a list of article ids")
    _need(row, "charge", _is_text(charge), "a non-empty text")
    return Case(
        case_id=str(row.data.get("case_id", place)),
        fact=row.data["fact"],
        relevant_articles=tuple(articles or ()),
        charge=str(charge),
        prison_time=row.data.get("prison_time"),
        verdict=_court_verdict(row, str(charge)),
    )


def _court_verdict(row: Row, charge: str) -> Verdict:
    if charge.strip() == NOT_GUILTY:
        return ACQUITTAL
    charges = read_charges(charge)
    _need(row, "charge", bool(charges), f"names of charges, or {NOT_GUILTY}")
    try:
        return Verdict(charges, read_prison_time(row.data.get("prison_time")))
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{row.where}: {error.message}", field=error.field) from None


def _need(row: Row, name: str, is_right: bool, expected: str) -> None:
    if not is_right:
        shown = repr(row.data[name])[:80] if name in row.data else "nothing"
        raise InvalidRequestError(
            f"{row.where}: {name}: expected {expected}, got {shown}.", field=name
        )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(item) for item in value)


def read_articles(path: str | Path) -> Articles:
    """Statutes of a JSON file, of either shape.

    Raises:
        NotFoundError: there is no such file.
        InvalidRequestError: it is neither ``{id: text}`` nor a list of ``{"id", "content"}``.
    """
    path = need_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        raise InvalidRequestError(
            f"{path} cannot be read as JSON: {error}.", field="articles"
        ) from None
    pairs = _pairs(content)
    if pairs is None:
        raise InvalidRequestError(
            f'{path}: expected {{"264-0-0": "text", …}} or [{{"id": "264-0-0", "content": "text"}}, …].',
            field="articles",
        )
    texts: dict[str, str] = {}
    for article_id, text in pairs:
        if texts.setdefault(canonical_id(article_id), text) != text:
            raise InvalidRequestError(
                f"{path}: the paragraph {article_id} ({canonical_id(article_id)}) is given twice with different texts.",
                field="articles",
            )
    return Articles(texts)


def _pairs(content: Any) -> list[tuple[str, str]] | None:
    if isinstance(content, list) and all(isinstance(entry, dict) for entry in content):
        pairs = [(str(entry.get("id", "")), entry.get("content")) for entry in content]
    elif isinstance(content, dict):
        pairs = list(content.items())
    else:
        return None
    is_right = all(article_id and isinstance(text, str) for article_id, text in pairs)
    return [(i, str(t)) for i, t in pairs] if is_right else None


def canonical_id(article_id: str) -> str:
    """``264``, ``264.0-0`` and ``264-0-0`` are one paragraph; other names stay as they are."""
    plain = unicodedata.normalize("NFKC", article_id).strip()
    match = _ID.fullmatch(plain)
    return "-".join(part or "0" for part in match.groups()) if match else plain


def find_folders(root: str | Path) -> list[Path]:
    """The test folders at or directly below a path, by name.

    Raises:
        NotFoundError: there is none.
    """
    root = Path(root)
    candidates = [root, *sorted(path for path in root.glob("*") if path.is_dir())]
    found = [path for path in candidates if (path / "original.json").is_file()]
    if not found:
        raise NotFoundError(
            f"No test folder at {root}: neither it nor a folder in it has original.json and poisoned.json.",
            code="dataset_not_found",
            field="test_dir",
        )
    return found


def read_folder(path: Path, max_samples: int | None = None) -> Folder:
    """A test folder with everything in it."""
    splits: tuple[Split, ...] = get_args(Split)
    return Folder(
        name=path.resolve().name,
        label=label_of(path.resolve()),
        cases={split: read_cases(path / f"{split}.json", max_samples) for split in splits},
        articles={split: read_articles(path / f"articles_{split}.json") for split in splits},
    )


def label_of(folder: Path) -> LabelCode:
    """What a folder's change of law does: by ``label.json`` beside it, else by the known names.

    Raises:
        InvalidRequestError: the folder has another name (``code="unknown_label"``).
    """
    table: dict[str, LabelCode] = {**LABELS, **_label_table(folder.parent / LABEL_FILE)}
    if folder.name not in table:
        raise InvalidRequestError(
            f"{folder.name}: no LawShift folder of this name is known, so it is unknown what its change of law "
            f"does. Rename it to one of {', '.join(sorted(LABELS))}, or add it to {folder.parent / LABEL_FILE} "
            'as {"name": …, "label": "V" | "NV" | "TU" | "TD" | "XT" | "NX"}.',
            code="unknown_label",
            field="test_dir",
        )
    return table[folder.name]


def _label_table(path: Path) -> dict[str, LabelCode]:
    if not path.is_file():
        return {}
    table: dict[str, LabelCode] = {}
    for row in read_rows(path):
        is_right = row.data.get("label") in get_args(LabelCode)
        _need(row, "label", is_right, f"one of {', '.join(get_args(LabelCode))}")
        _need(row, "name", _is_text(row.data.get("name")), "a folder's name")
        table[row.data["name"]] = row.data["label"]
    return table


def need_file(path: str | Path) -> Path:
    """The path of a file that must be there.

    Raises:
        NotFoundError: it is not.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(
            f"There is no file {path}.", code="dataset_not_found", field="data_path"
        )
    return path


# As a data set ------------------------------------------------------------------------------------


@register_dataset("lawshift")
class LawShiftDataset:
    """Cases with statutes, for ``get_dataset("lawshift", data_path=…, articles=…)``.

    Args:
        data_path: file of cases.
        articles: file of statutes; default ``articles_<name of the data file>.json`` beside it.
        split: which law the statutes are, ``original`` (also ``train``, ``test``) or ``poisoned``.
        max_samples: the first so many cases.
    """

    def __init__(
        self,
        data_path: str | Path,
        articles: str | Path | None = None,
        split: str = "original",
        max_samples: int | None = None,
    ) -> None:
        data_path = Path(data_path)
        self.is_new_law = split == "poisoned"
        self.cases: Sequence[Case] = read_cases(data_path, max_samples)
        self.articles = read_articles(
            articles or data_path.with_name(f"articles_{data_path.stem}.json")
        )

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Case ``index`` as the file has it."""
        case = self.cases[index]
        return {
            "fact": case.fact,
            "relevant_articles": list(case.relevant_articles),
            "charge": case.charge,
            "prison_time": case.prison_time,
        }

    def get_example_question(self, index: int) -> tuple[str, str, str]:
        """The request as a user's message, no prompt (the chat template makes it), and the court's verdict."""
        from eztinker.rendering.judgment import judgment_request

        case = self.cases[index]
        laws = [(i, self.articles.text(i)) for i in case.relevant_articles]
        known = [(i, text) for i, text in laws if text is not None]
        request = judgment_request(case.fact, known, is_new_law=self.is_new_law)
        return request, "", verdict_text(case.verdict)

    def evaluate_answer(
        self, generated_text: str, ground_truth: str, question: str = ""
    ) -> dict[str, Any]:
        """Right are charge and term together; see ``eztinker.grading.legal``."""
        del question  # a request holds no verdict that could be taken for an answer
        charge, _, term = ground_truth.partition("|")
        is_guilty = bool(term.strip())
        truth = Verdict(read_charges(charge), read_prison_time(term)) if is_guilty else ACQUITTAL
        grade = grade_verdict(generated_text, truth, EXACT)
        found = None if grade.verdict is None else verdict_text(grade.verdict)
        score = float(grade.is_correct)
        strategy = "no_answer" if found is None else grade.reason
        confidence = 0.0 if found is None else 1.0
        return Grade(
            score, grade.is_correct, confidence, strategy, found, ground_truth, "off"
        ).as_dict()


def verdict_text(verdict: Verdict) -> str:
    """A verdict in the required form."""
    if not verdict.is_guilty:
        return NOT_GUILTY
    return f"{'、'.join(f'{name}罪' for name in sorted(verdict.charges))} | {verdict.term}"
