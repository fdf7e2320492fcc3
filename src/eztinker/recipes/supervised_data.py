"""Data of supervised training: files and data sets as data with loss masks, and what is held out.

Reads records, tells the person what they are, tokenizes, splits. Called by recipes that train on given answers
(SFT, off-policy distillation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from eztinker.dataset.base import get_dataset
from eztinker.dataset.inspection import render_masked
from eztinker.dataset.records import Record, TextExample, examples_of_kind, read_records
from eztinker.dataset.supervision import LossOn, supervise
from eztinker.errors import InvalidRequestError
from eztinker.recipes.experiment.plan import length_facts
from eztinker.recipes.experiment.training_settings import TrainingConfig
from eztinker.recipes.held_out import split_records
from eztinker.recipes.terminal import Progress, pick

Datum = dict[str, list[Any]]


class SupervisedConfig(TrainingConfig):
    """Keys about the data of supervised training."""

    train_file: Path | None = Field(
        None, description="Data file; the format is told from its rows."
    )
    validation_file: Path | None = Field(None, description="Held-out data file.")
    dataset_name: str | None = Field(
        None, description="Data set by name (gsm8k, math, aqua, generated-math, …), not a file."
    )
    validation_split_percentage: float = Field(
        5.0, gt=0, lt=100, description="Share of train_file held out without a validation_file."
    )
    data_format: str | None = Field(None, description="Format of every row, instead of telling it.")
    strict_data: bool = Field(False, description="A bad row is an error instead of left out.")
    max_train_samples: int | None = Field(None, ge=1, description="Use the first rows only.")
    max_eval_samples: int | None = Field(None, ge=1, description="Of the held-out rows too.")
    max_length: int = Field(2048, ge=2, description="Most tokens of an example.")
    loss_on: LossOn = Field(
        "assistant", description="assistant (all its turns), last (its last turn) or all tokens."
    )

    def check_effect(self) -> None:
        """One source of data, and no key about the other."""
        super().check_effect()
        if (self.train_file is None) == (self.dataset_name is None):
            self.refuse("train_file", "Give either train_file=FILE or dataset_name=NAME.")
        is_file = self.train_file is not None
        for key in ("validation_file", "data_format", "strict_data"):
            self.needs(key, is_file, "with dataset_name")
        splits = is_file and self.validation_file is None
        self.needs("validation_split_percentage", splits, "unless train_file is split")


@dataclass(frozen=True)
class SupervisedData:
    """Data ready to train on.

    Attributes:
        train: data of ``forward_backward``.
        held_out: data that is never trained on.
        notes: what was found and left out, for people.
    """

    train: list[Datum]
    held_out: list[Datum]
    notes: list[str]

    def facts(self) -> dict[str, Any]:
        """Counts and lengths for a plan."""
        lengths = [len(datum["input_ids"]) for datum in self.train]
        trained = sum(sum(map(bool, datum["weights"])) for datum in self.train)
        return {
            "train_examples": len(self.train),
            "held_out_examples": len(self.held_out),
            **length_facts(lengths),
            "tokens_with_loss": trained,
        }

    def rendered(self, tokenizer: Any, indices: Sequence[int]) -> list[str]:
        """Some training examples as text with their loss mask."""
        return [render_masked(tokenizer, self.train[i]) for i in indices]


def read_supervised(config: SupervisedConfig, tokenizer: Any, progress: Progress) -> SupervisedData:
    """Read, tokenize and split the data that the settings name.

    Raises:
        NotFoundError: no such file or data set.
        InvalidRequestError: nothing can be used, or the rows are preference pairs.
    """
    train, held_out, notes = _records(config)
    for text in notes:
        progress.say(text)
    if not train or not held_out:
        raise InvalidRequestError(
            f"Expected examples to train on and to hold out, got {len(train)} and {len(held_out)}. Give more data, "
            "or another validation_split_percentage.",
            code="empty_dataset",
            field="train_file",
        )
    data = [
        [_datum(config, tokenizer, record) for record in progress.track(label, part, len(part))]
        for label, part in (
            (pick("tokenizing", "分词"), train),
            (pick("held out", "测试集"), held_out),
        )
    ]
    return SupervisedData(data[0], data[1], notes)


def _datum(config: SupervisedConfig, tokenizer: Any, record: Record) -> Datum:
    made = supervise(
        tokenizer, record.example, max_length=config.max_length, loss_on=config.loss_on
    )
    return made.as_dict()


def _records(config: SupervisedConfig) -> tuple[list[Record], list[Record], list[str]]:
    if config.dataset_name is not None:
        train = _of_dataset(config.dataset_name, "train", config.max_train_samples)
        held_out = _of_dataset(config.dataset_name, "test", config.max_eval_samples)
        note = f"{config.dataset_name}: {len(train)} train, {len(held_out)} test"
        return train, held_out, [note]
    assert config.train_file is not None
    read = _read_file(config.train_file, config)
    notes, records = [read.summary()], examples_of_kind(read.records, pairs=False)
    if config.validation_file is not None:
        other = _read_file(config.validation_file, config)
        notes.append(other.summary())
        held_out = examples_of_kind(other.records, pairs=False)
    else:
        records, held_out = split_records(
            records, config.validation_split_percentage / 100, config.seed
        )
    return records[: config.max_train_samples], held_out[: config.max_eval_samples], notes


def _read_file(path: Path, config: SupervisedConfig) -> Any:
    return read_records(path, format=config.data_format, strict=config.strict_data)


def _of_dataset(name: str, split_name: str, limit: int | None) -> list[Record]:
    """Questions with their worked answers."""
    dataset = get_dataset(name, split=split_name, max_samples=limit)
    records = []
    for index in range(len(dataset)):
        _, prompt, _ = dataset.get_example_question(index)
        answer = dataset[index].get("answer")
        if not isinstance(answer, str):
            raise InvalidRequestError(
                f"The data set {name!r} has no worked answers to train on.", field="dataset_name"
            )
        lead = "" if answer[:1].isspace() or prompt.endswith("\n") else " "
        records.append(Record(name, TextExample(prompt, lead + answer), f"{name}[{index}]"))
    return records
